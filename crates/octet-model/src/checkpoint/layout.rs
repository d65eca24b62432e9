//! Which of a folder's files hold its weights.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::contents::Contents;
use super::first_of;
use crate::{ModelError, Warning, files};

/// The index of a sharded checkpoint.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The only file of one that is not.
pub(crate) const SINGLE: &str = "model.safetensors";

/// What an index says.
#[derive(Debug)]
pub(crate) struct Index {
    /// File names, each with the tensors that it should hold.
    pub(crate) files: BTreeMap<String, Vec<String>>,
}

/// The files of a checkpoint.
#[derive(Debug)]
pub(super) struct Layout {
    /// In the order of their names.
    pub(super) files: Vec<PathBuf>,
    /// Which file should hold which tensor, if an index says so.
    pub(super) listed: HashMap<String, String>,
    /// What is not read, and why.
    pub(super) warnings: Vec<Warning>,
}

impl Layout {
    /// By the index if there is one, else `model.safetensors`, else all safetensors files together.
    pub(super) fn find(folder: &Path) -> Result<Self, ModelError> {
        let contents = Contents::of_folder(folder)?;
        if contents.has(INDEX) {
            return Self::indexed(folder, &contents);
        }
        if contents.has(SINGLE) {
            return Ok(Self::of(folder, &contents, vec![SINGLE.to_owned()]));
        }
        let names: Vec<String> =
            contents.safetensors().filter(|name| is_usual(name)).map(str::to_owned).collect();
        if names.is_empty() {
            let hint = contents
                .advice("give a folder that holds a checkpoint, or --load-format dummy for random weights");
            return Err(ModelError::Missing { folder: folder.to_owned(), wanted: SINGLE, hint });
        }
        if let Some(problem) = absent_shards(&names) {
            return Err(ModelError::Damaged { path: folder.to_owned(), problem });
        }
        Ok(Self::of(folder, &contents, names))
    }

    fn of(folder: &Path, contents: &Contents, names: Vec<String>) -> Self {
        let mut left: Vec<String> = contents
            .safetensors()
            .filter(|name| !names.iter().any(|it| it == name))
            .map(str::to_owned)
            .collect();
        if contents.has("original/") {
            left.push("original/".to_owned());
        }
        let warnings = if left.is_empty() { Vec::new() } else { vec![Warning::FilesNotRead(first_of(left))] };
        let files = names.into_iter().map(|name| folder.join(name)).collect();
        Self { files, listed: HashMap::new(), warnings }
    }

    fn indexed(folder: &Path, contents: &Contents) -> Result<Self, ModelError> {
        let path = folder.join(INDEX);
        let index = read_index(&path)?;
        let is_absent = |name: &&String| !contents.has(name) && !folder.join(name).exists();
        let absent: Vec<String> = index.files.keys().filter(is_absent).cloned().collect();
        if !absent.is_empty() && contents.has(SINGLE) {
            // The shards were merged, and their index was left; transformers too prefers the one file.
            let mut layout = Self::of(folder, contents, vec![SINGLE.to_owned()]);
            layout.warnings.push(Warning::IndexOfAbsentFiles(first_of(absent)));
            return Ok(layout);
        }
        if !absent.is_empty() {
            let (count, all) = (absent.len(), index.files.len());
            let problem = format!(
                "names {all} files, of which {count} are not there: {}; the checkpoint is not complete",
                first_of(absent)
            );
            return Err(ModelError::Damaged { path, problem });
        }
        let mut layout = Self::of(folder, contents, index.files.keys().cloned().collect());
        for (file, tensors) in index.files {
            layout.listed.extend(tensors.into_iter().map(|tensor| (tensor, file.clone())));
        }
        Ok(layout)
    }
}

/// Whether a safetensors file may hold a model's weights under the usual names. Mistral's own format names its tensors
/// differently and stands beside the same weights under usual names; an adapter is no model.
pub(super) fn is_usual(name: &str) -> bool {
    !name.starts_with("consolidated") && !name.starts_with("adapter_")
}

/// Of names like `model-00001-of-00003.safetensors`, those that are lacking.
fn absent_shards(names: &[String]) -> Option<String> {
    let parts = |name: &str| -> Option<(String, usize, usize)> {
        let (rest, total) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        Some((format!("{stem} of {total}"), number.parse().ok()?, total.parse().ok()?))
    };
    let mut sets: BTreeMap<String, (Vec<usize>, usize)> = BTreeMap::new();
    for (stem, number, total) in names.iter().filter_map(|name| parts(name)) {
        sets.entry(stem).or_insert((Vec::new(), total)).0.push(number);
    }
    let (found, total) = sets.into_values().find(|(found, total)| found.len() < *total)?;
    Some(format!("has {} of {total} shards and no index; the checkpoint is not complete", found.len()))
}

/// Reads an index.
pub(crate) fn read_index(path: &Path) -> Result<Index, ModelError> {
    let text = files::read_text(path, "the index")?;
    let json = |source| ModelError::Json { path: path.to_owned(), source };
    let value: Value = serde_json::from_str(&text).map_err(json)?;
    let damaged = |problem: &str| ModelError::Damaged { path: path.to_owned(), problem: problem.to_owned() };
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| damaged("has no weight_map of tensor names to file names"))?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|file| is_plain_name(file));
        let file = file.ok_or_else(|| damaged("has an entry in weight_map that is not a plain file name"))?;
        files.entry(file.to_owned()).or_default().push(tensor.clone());
    }
    if files.is_empty() {
        return Err(damaged("has an empty weight_map"));
    }
    Ok(Index { files })
}

/// Whether a name from outside names a file of its folder and nothing else.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let is_safe = |letter: char| !letter.is_control() && !matches!(letter, '/' | '\\');
    !name.is_empty() && name.len() <= 255 && !matches!(name, "." | "..") && name.chars().all(is_safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_counted_by_their_names() {
        let names = |list: &[&str]| -> Vec<String> { list.iter().map(|&name| name.to_owned()).collect() };
        assert_eq!(absent_shards(&names(&["a.safetensors", "b-of-c.safetensors"])), None);
        let whole = names(&["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]);
        assert_eq!(absent_shards(&whole), None);
        assert!(absent_shards(&whole[..1]).unwrap().contains("has 1 of 2 shards"));
    }
}
