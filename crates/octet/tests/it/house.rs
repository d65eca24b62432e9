//! The repository as the tests of its rules see it.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing of ours.
const NOT_OURS: [&str; 4] = ["target", ".git", "__pycache__", "node_modules"];

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).expect("a crate lies in crates/ of the workspace").to_path_buf()
}

/// Text of a file, with its path in the message if it cannot be read.
pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Folders of all crates, sorted.
pub(crate) fn crate_folders() -> Vec<PathBuf> {
    entries(&root().join("crates")).into_iter().filter(|path| path.join("Cargo.toml").exists()).collect()
}

/// Name of a crate's folder, which is the crate's name.
pub(crate) fn name_of(folder: &Path) -> String {
    folder.file_name().expect("a folder below crates/").to_string_lossy().into_owned()
}

/// All files below a folder, sorted, without what builds leave behind.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in entries(folder) {
        if !path.is_dir() {
            files.push(path);
        } else if !NOT_OURS.contains(&name_of(&path).as_str()) {
            files.extend(files_below(&path));
        }
    }
    files
}

/// Files below a folder with this extension, and their text.
pub(crate) fn texts_below(folder: &Path, extension: &str) -> Vec<(PathBuf, String)> {
    let with_extension = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
    files_below(folder)
        .into_iter()
        .filter(with_extension)
        .map(|path| {
            let text = read(&path);
            (path, text)
        })
        .collect()
}

/// What stands between backticks in a line.
pub(crate) fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.expect("a readable entry").path()).collect();
    paths.sort();
    paths
}
