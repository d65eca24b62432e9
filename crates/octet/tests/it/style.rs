//! Rules of style that no linter knows. Clippy and rustfmt hold the others.

use std::path::{Path, PathBuf};

use crate::house;

/// Lines that a file may have unless it says why it has more.
const LONGEST_FILE: usize = 800;

/// How a file says why it is longer: this, and then the reason.
const REASON_FOR_LENGTH: &str = "// long: ";

/// Crates that may contain `unsafe`.
const UNSAFE_CRATES: [&str; 3] = ["octet-cpu", "octet-gpu", "octet-hipsim"];

/// Crates below the seam: they alone know instruction sets.
const BELOW_THE_SEAM: [&str; 3] = ["octet-cpu", "octet-gpu", "octet-hipsim"];

/// How far above an `unsafe` block its reason may begin.
const SAFETY_WITHIN_LINES: usize = 10;

/// Sources of all crates.
fn sources() -> Vec<(PathBuf, String)> {
    house::texts_below(&house::root().join("crates"), "rs")
}

/// Name of the crate that a file belongs to.
fn crate_of(path: &Path) -> String {
    let below = path.strip_prefix(house::root().join("crates")).expect("a source lies below crates/");
    below.iter().next().expect("a source lies in a crate").to_string_lossy().into_owned()
}

/// A line of code without its comment. Good enough for words that do not occur in strings.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// `path:line: what` for each line in which `is_fault` finds one.
fn faults_in(sources: &[(PathBuf, String)], is_fault: impl Fn(&Path, &str) -> Option<String>) -> Vec<String> {
    let root = house::root();
    let mut faults = Vec::new();
    for (path, text) in sources {
        for (index, line) in text.lines().enumerate() {
            if let Some(what) = is_fault(path, line) {
                let path = path.strip_prefix(&root).unwrap_or(path);
                faults.push(format!("{}:{}: {what}", path.display(), index + 1));
            }
        }
    }
    faults
}

#[track_caller]
fn expect_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Whether a word stands in a line, not as a part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    line.match_indices(word).any(|(start, _)| {
        let bytes = line.as_bytes();
        let before = start.checked_sub(1).and_then(|before| bytes.get(before));
        !is_part(before) && !is_part(bytes.get(start + word.len()))
    })
}

#[test]
fn files_are_short_or_say_why_not() {
    let mut files = sources();
    files.extend(house::texts_below(&house::root().join("tools"), "py"));
    let too_long = |text: &str| text.lines().count() > LONGEST_FILE;
    let says_why = |text: &str| text.lines().any(|line| line.len() > 20 && line.contains(REASON_FOR_LENGTH));
    let faults: Vec<String> = files
        .iter()
        .filter(|(_, text)| too_long(text) && !says_why(text))
        .map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()))
        .collect();
    expect_none(&faults);
}

/// Whether the lines above line `index` give the reason for an `unsafe` there. The search ends at the end of the
/// block before.
fn has_reason(lines: &[&str], index: usize) -> bool {
    let first = index.saturating_sub(SAFETY_WITHIN_LINES);
    let above = lines[first..index].iter().rev();
    lines[index].contains("SAFETY:")
        || above.take_while(|line| line.trim() != "}").any(|line| line.contains("SAFETY:"))
}

/// Numbers, from 1, of lines with an `unsafe` block or implementation without a reason.
fn unsafe_without_reason(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let needs = |line: &str| ["unsafe {", "unsafe impl"].iter().any(|form| code(line).contains(form));
    let without = (0..lines.len()).filter(|&index| needs(lines[index]) && !has_reason(&lines, index));
    without.map(|index| index + 1).collect()
}

#[test]
fn unsafe_stands_only_where_it_may_and_says_why() {
    let sources = sources();
    let house_rule = Path::new(file!()).file_name();
    let outside = faults_in(&sources, |path, line| {
        let allowed = UNSAFE_CRATES.contains(&crate_of(path).as_str()) || path.file_name() == house_rule;
        (!allowed && has_word(code(line), "unsafe") && !line.contains("without unsafe"))
            .then(|| format!("unsafe outside of {UNSAFE_CRATES:?}"))
    });
    expect_none(&outside);
    let mut unreasoned = Vec::new();
    for (path, text) in sources.iter().filter(|(path, _)| UNSAFE_CRATES.contains(&crate_of(path).as_str())) {
        let lines = unsafe_without_reason(text);
        unreasoned
            .extend(lines.iter().map(|line| format!("{}:{line}: unsafe without SAFETY", path.display())));
    }
    expect_none(&unreasoned);
}

#[test]
fn nothing_is_left_to_do() {
    // In halves, so that this file does not name them.
    let words =
        [("TO", "DO"), ("FIX", "ME"), ("X", "XX"), ("todo", "!"), ("unimplemented", "!"), ("#[ign", "ore")];
    let words = words.map(|(left, right)| format!("{left}{right}"));
    let faults = faults_in(&sources(), |_, line| {
        words.iter().find(|word| line.contains(*word)).map(|word| format!("{word} left behind"))
    });
    expect_none(&faults);
}

#[test]
fn every_crate_says_what_it_is() {
    for folder in house::crate_folders() {
        let library = folder.join("src/lib.rs");
        let path = if library.exists() { library } else { folder.join("src/main.rs") };
        let text = house::read(&path);
        let described = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(described >= 3, "{} begins with {described} lines of documentation, not 3", path.display());
        assert!(described <= 60, "{} begins with {described} lines: a page is enough", path.display());
    }
}

#[test]
fn instruction_sets_and_features_stay_below_the_seam() {
    let forbidden =
        ["cfg(feature", "std::arch", "core::arch", "target_arch", "target_feature", "is_x86_feature"];
    let house_rule = Path::new(file!()).file_name();
    let faults = faults_in(&sources(), |path, line| {
        if BELOW_THE_SEAM.contains(&crate_of(path).as_str()) || path.file_name() == house_rule {
            return None;
        }
        forbidden.iter().find(|word| code(line).contains(*word)).map(|word| format!("{word} above the seam"))
    });
    expect_none(&faults);
}

#[test]
fn a_crate_has_one_integration_binary() {
    for folder in
        house::crate_folders().iter().map(|folder| folder.join("tests")).filter(|tests| tests.exists())
    {
        let loose =
            house::texts_below(&folder, "rs").into_iter().filter(|(path, _)| path.parent() == Some(&folder));
        let loose: Vec<PathBuf> = loose.map(|(path, _)| path).collect();
        assert!(loose.is_empty(), "tests belong into {}/it/: {loose:?}", folder.display());
    }
}

/// Cargo runs tests by package: the report of what was not run is the last of what it prints.
#[test]
fn the_report_of_what_was_not_run_comes_last() {
    let folders = house::crate_folders();
    let last = folders.last().expect("there are crates");
    assert_eq!(house::name_of(last), "octet-unrun", "a crate whose name sorts last would bury its report");
    let with_doctests = folders.iter().filter(|folder| {
        folder.join("src/lib.rs").exists()
            && !house::read(&folder.join("Cargo.toml")).contains("[lib]\ndoctest = false\n")
    });
    let with_doctests: Vec<&PathBuf> = with_doctests.collect();
    assert!(with_doctests.is_empty(), "tests of documentation would follow the report: {with_doctests:?}");
    // So that none is written in vain.
    let faults = faults_in(&sources(), |_, line| {
        let fence = line.trim_start().strip_prefix("//")?.trim_start_matches(['/', '!']).trim();
        ["```", "```rust", "```no_run", "```should_panic"].contains(&fence).then(|| {
            "an example in documentation is not run here: make it a test, or mark it as text".to_owned()
        })
    });
    expect_none(&faults);
}

/// Whether text in backticks names a file or folder of the repository, and not a type, a flag or an address.
fn is_path(quoted: &str) -> bool {
    let plain = quoted.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let has_extension = [".rs", ".toml", ".md", ".py"].iter().any(|extension| quoted.ends_with(extension));
    plain && !quoted.starts_with('/') && (quoted.contains('/') || has_extension)
}

#[test]
fn the_map_names_files_that_exist() {
    let root = house::root();
    let files = house::files_below(&root);
    let exists = |name: &str| {
        // A bare name may stand for a file anywhere: `scheduler.rs`.
        root.join(name).exists() || (!name.contains('/') && files.iter().any(|file| file.ends_with(name)))
    };
    for map in ["ARCHITECTURE.md", "docs/extending.md"] {
        let text = house::read(&root.join(map));
        let named: Vec<&str> = text
            .lines()
            .flat_map(house::quoted)
            .filter(|quoted| is_path(quoted) && !quoted.contains("NAME"))
            .collect();
        assert!(named.contains(&"crates/octet-backend/src/backend.rs"), "{map} names the seam: {named:?}");
        let missing: Vec<&str> = named.into_iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "{map} names what does not exist: {missing:?}");
    }
}

#[test]
fn the_checks_find_what_they_are_for() {
    assert_eq!(unsafe_without_reason("// SAFETY: it is in range.\nlet x = unsafe { *p };\n"), [0; 0]);
    assert_eq!(unsafe_without_reason("fn a() {\n    // SAFETY: yes.\n}\nlet x = unsafe { *p };\n"), [4]);
    assert_eq!(unsafe_without_reason("unsafe impl Send for X {}\n// unsafe { in a comment }\n"), [1]);
    assert!(has_word("let x = unsafe { y };", "unsafe") && !has_word("deny(unsafe_code)", "unsafe"));
    assert!(is_path("crates/octet/src/main.rs") && is_path("scheduler.rs") && is_path("docs/"));
    assert!(!is_path("/v1/models") && !is_path("Runner<B>") && !is_path("cargo test"));
}
