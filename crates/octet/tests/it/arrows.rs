//! The arrows between crates are those of ARCHITECTURE.md's table: no other exists, and none there is idle.

use std::collections::{BTreeMap, BTreeSet};

use crate::house;

/// What may depend on what: a crate's row of the table.
#[derive(Debug, PartialEq)]
struct Row {
    /// Whether the row says "dev only": the crate may serve tests alone.
    dev_only: bool,
    /// The crates that it may depend on; `None` is "all".
    allowed: Option<BTreeSet<String>>,
}

impl Row {
    fn allows(&self, dependency: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(dependency))
    }
}

/// Reads the rows of the table whose first cell is a crate's name in backticks.
fn table(architecture: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in architecture.lines().filter(|line| line.starts_with("| `octet")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "a row of the table has three cells: {line}");
        let name = house::quoted(cells[0]).next().expect("the first cell has backticks").to_owned();
        let names = house::quoted(cells[2]).map(str::to_owned).collect();
        let row =
            Row { dev_only: cells[1].contains("dev only"), allowed: (cells[2] != "all").then_some(names) };
        assert!(rows.insert(name, row).is_none(), "two rows for one crate: {line}");
    }
    rows
}

/// The crates of ours that a manifest depends on, apart from dev-dependencies: what tests use is no arrow.
fn dependencies(manifest: &toml::Table, ours: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(manifest, ours, &mut found);
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        for target in targets.values().filter_map(toml::Value::as_table) {
            collect(target, ours, &mut found);
        }
    }
    found
}

fn collect(section: &toml::Table, ours: &BTreeSet<String>, found: &mut BTreeSet<String>) {
    for kind in ["dependencies", "build-dependencies"] {
        let Some(entries) = section.get(kind).and_then(toml::Value::as_table) else { continue };
        for (key, value) in entries {
            // A dependency may be renamed: `backend = { package = "octet-backend" }`.
            let package = value.get("package").and_then(toml::Value::as_str).unwrap_or(key);
            if ours.contains(package) {
                found.insert(package.to_owned());
            }
        }
    }
}

/// Each way in which manifests and table disagree.
fn faults(rows: &BTreeMap<String, Row>, manifests: &BTreeMap<String, toml::Table>) -> Vec<String> {
    let ours: BTreeSet<String> = manifests.keys().cloned().collect();
    let mut faults: Vec<String> = rows
        .keys()
        .filter(|name| !ours.contains(*name))
        .map(|name| format!("the table has a row for {name}, which is no crate"))
        .collect();
    for (name, manifest) in manifests {
        let Some(row) = rows.get(name) else {
            faults.push(format!("{name} is missing in the table"));
            continue;
        };
        let dependencies = dependencies(manifest, &ours);
        for idle in row.allowed.iter().flatten().filter(|name| !dependencies.contains(*name)) {
            faults.push(format!("the row of {name} allows {idle}, on which it does not depend"));
        }
        for dependency in dependencies {
            if !row.allows(&dependency) {
                faults.push(format!("{name} depends on {dependency}, which its row does not allow"));
            }
            if rows.get(&dependency).is_some_and(|row| row.dev_only) {
                faults.push(format!("{name} depends on {dependency}, which is for tests only"));
            }
        }
    }
    faults
}

fn manifest_of(folder: &std::path::Path) -> toml::Table {
    let path = folder.join("Cargo.toml");
    house::read(&path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_arrow_is_in_the_table() {
    let rows = table(&house::read(&house::root().join("ARCHITECTURE.md")));
    let manifests: BTreeMap<String, toml::Table> =
        house::crate_folders().iter().map(|folder| (house::name_of(folder), manifest_of(folder))).collect();
    assert!(manifests.len() > 5 && manifests.contains_key("octet"), "{:?}", manifests.keys());
    let faults = faults(&rows, &manifests);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn folders_are_named_as_their_crates() {
    for folder in house::crate_folders() {
        let manifest = manifest_of(&folder);
        assert_eq!(manifest["package"]["name"].as_str(), Some(house::name_of(&folder).as_str()));
    }
}

#[test]
fn a_wrong_arrow_would_be_found() {
    let rows = table(
        "| crate | what | may depend on |\n|---|---|---|\n| `octet-a` | first | |\n| `octet-b` | second | `octet-a` |\n\
         | `octet-c` | dev only: third | `octet-a`, `octet-b` |\n| `octet` | program | all |\n",
    );
    let manifests = |b: &str| -> BTreeMap<String, toml::Table> {
        let sources =
            [("octet-a", ""), ("octet-b", b), ("octet", "[dependencies]\noctet-b = { workspace = true }")];
        sources.map(|(name, source)| (name.to_owned(), source.parse().unwrap())).into()
    };
    let row_without_crate = "the table has a row for octet-c, which is no crate".to_owned();
    let right =
        manifests("[dependencies]\nocteta = { package = \"octet-a\" }\n[dev-dependencies]\noctet = {}");
    assert_eq!(faults(&rows, &right), std::slice::from_ref(&row_without_crate));
    let idle = "the row of octet-b allows octet-a, on which it does not depend".to_owned();
    let wrong = manifests("[target.'cfg(unix)'.build-dependencies]\nprogram = { package = \"octet\" }");
    let arrow = "octet-b depends on octet, which its row does not allow".to_owned();
    assert_eq!(faults(&rows, &wrong), [row_without_crate, idle, arrow]);
    let mut unlisted = manifests("[dependencies]\nocteta = { package = \"octet-a\" }");
    unlisted.insert("octet-d".to_owned(), toml::Table::new());
    let uses_both = "[dependencies]\noctet-a = {}\noctet-b = {}";
    unlisted.insert("octet-c".to_owned(), uses_both.parse().unwrap());
    unlisted.insert("octet".to_owned(), "[dependencies]\noctet-c = {}".parse().unwrap());
    let expected = ["octet depends on octet-c, which is for tests only", "octet-d is missing in the table"]
        .map(str::to_owned);
    assert_eq!(faults(&rows, &unlisted), expected);
}
