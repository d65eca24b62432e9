//! docs/compatibility.md says what the program does: its tables are those of the code.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::definition;
use super::foreign::{Answer, ForeignFlag, GROUPS, Takes};
use crate::environment::{Effect, VARIABLES};

/// Set, the tables are written instead of compared.
const WRITE: &str = "OCTET_WRITE_DOCS";

/// Names that share what is said about them, in one row each.
fn rows<'a>(entries: impl Iterator<Item = (String, &'static str, &'a str)>) -> String {
    let mut rows: Vec<(&str, &str, Vec<String>)> = Vec::new();
    for (name, kind, said) in entries {
        match rows.iter_mut().find(|(other, words, _)| *other == kind && *words == said) {
            Some((_, _, names)) => names.push(name),
            None => rows.push((kind, said, vec![name])),
        }
    }
    rows.iter().fold(String::new(), |mut text, (kind, said, names)| {
        writeln!(text, "| {} | {kind} | {said} |", names.join(", ")).expect("a string grows");
        text
    })
}

fn foreign_flags() -> String {
    let entry = |flag: &ForeignFlag| {
        let mut names: Vec<String> = [format!("--{}", flag.name)].into();
        names.extend(flag.others.iter().map(ToString::to_string));
        let value = match flag.answer {
            Answer::Only(values, _) => format!(" {}", values.join("\\|")),
            _ => String::new(),
        };
        let name = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ");
        let (kind, said) = match flag.answer {
            Answer::Ignored(reason) => ("noticed", reason),
            Answer::Only(_, remedy) => ("noticed with this value, else refused", remedy),
            Answer::Refused(remedy) if flag.takes == Takes::Nothing => {
                ("refused; `--no-` is noticed", remedy)
            }
            Answer::Refused(remedy) => ("refused", remedy),
        };
        (format!("{name}{value}"), kind, said)
    };
    let head = "| flag | what happens | why, or what to do |\n|---|---|---|\n";
    format!("{head}{}", rows(GROUPS.iter().flat_map(|(_, flags)| *flags).map(entry)))
}

fn variables() -> String {
    let entry = |(name, effect): &(&'static str, Effect)| {
        let (kind, said) = match *effect {
            Effect::Obeyed(how) => ("obeyed", how),
            Effect::Nothing(reason) => ("noticed", reason),
            Effect::Silent(reason) => ("no effect, and no notice", reason),
        };
        (format!("`{name}`"), kind, said)
    };
    format!("| variable | what happens | how, or why |\n|---|---|---|\n{}", rows(VARIABLES.iter().map(entry)))
}

/// Flags of `octet serve` by their headings in its help.
fn own_flags() -> String {
    let definition = definition();
    let serve = definition.find_subcommand("serve").expect("it is defined");
    let mut headings: Vec<(&str, Vec<String>)> = Vec::new();
    for flag in serve.get_arguments().filter(|flag| !flag.is_hide_set()) {
        let Some(long) = flag.get_long() else { continue };
        let heading = flag.get_help_heading().unwrap_or("General");
        let name = format!("`--{long}`");
        match headings.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, names)) => names.push(name),
            None => headings.push((heading, vec![name])),
        }
    }
    let head = "| about | obeyed |\n|---|---|\n".to_owned();
    headings.iter().fold(head, |mut text, (heading, names)| {
        writeln!(text, "| {heading} | {} |", names.join(", ")).expect("a string grows");
        text
    })
}

/// The page with these tables between their marks.
fn with_tables(page: &str) -> String {
    let mut page = page.to_owned();
    for (name, table) in
        [("own flags", own_flags()), ("foreign flags", foreign_flags()), ("variables", variables())]
    {
        let open = format!("<!-- table of the code: {name} -->\n");
        let start = page.find(&open).unwrap_or_else(|| panic!("the page has no {open}")) + open.len();
        let end =
            start + page[start..].find("<!-- end -->").expect("a table of the code ends with <!-- end -->");
        page.replace_range(start..end, &table);
    }
    page
}

#[test]
fn the_page_says_what_the_program_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    let page = fs::read_to_string(&path).expect("docs/compatibility.md");
    let right = with_tables(&page);
    if env::var_os(WRITE).is_some() {
        return fs::write(&path, right).expect("the page can be written");
    }
    let differs = right.lines().zip(page.lines()).find(|(right, found)| right != found);
    assert!(
        page == right,
        "docs/compatibility.md is not what the code says, first at\n{}\n`{WRITE}=1 cargo test -p octet the_page_says` writes it",
        differs.map_or_else(String::new, |(right, found)| format!("  {found}\n  which should be\n  {right}"))
    );
}

#[test]
fn no_flag_of_ours_is_among_the_foreign_ones() {
    let definition = definition();
    let serve = definition.find_subcommand("serve").expect("it is defined");
    let names: Vec<&str> = GROUPS.iter().flat_map(|(_, flags)| *flags).map(|flag| flag.name).collect();
    let both: Vec<&&str> = names
        .iter()
        .filter(|name| serve.get_arguments().any(|flag| flag.get_long() == Some(**name)))
        .collect();
    assert!(both.is_empty(), "obeyed and among the flags that are not: {both:?}");
    for (index, (group, flags)) in GROUPS.iter().enumerate() {
        for (place, flag) in flags.iter().enumerate() {
            let later = &flags[place + 1..];
            assert!(
                later.iter().all(|other| other.name != flag.name),
                "{index} {group:?}: {} twice",
                flag.name
            );
        }
    }
}
