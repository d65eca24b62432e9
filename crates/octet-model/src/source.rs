//! What a user means by the word that names a model.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ModelError;
use crate::checkpoint::hub::HubModel;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder with `config.json` and safetensors files.
    Folder(PathBuf),
    /// A model of the Hub; what is in the local cache is not fetched again.
    Hub(HubModel),
    /// A `config.json` by whatever name, without weights: they are random.
    Config(PathBuf),
    /// A shape that ships with the program, see [`crate::shapes`]; its weights are random.
    Shape(String),
}

impl ModelSource {
    /// What a user means by one word: a folder or file if there is one, else a shape's name, else an id of the Hub.
    ///
    /// # Errors
    /// None of the four, and paths, addresses and ids with a revision, which are not looked for on the Hub.
    pub fn of_word(word: &str) -> Result<Self, ModelError> {
        let path = Path::new(word);
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if fs::symlink_metadata(path).is_ok() {
            let is_config = path.is_file() && path.extension().is_some_and(|extension| extension == "json");
            return if is_config { Ok(Self::Config(path.to_owned())) } else { Err(no_folder(word, path)) };
        }
        if crate::shapes::text(word).is_some() {
            return Ok(Self::Shape(word.to_owned()));
        }
        if is_id(word) {
            return Ok(Self::Hub(HubModel { id: word.to_owned(), revision: None, cache: None }));
        }
        Err(unknown(word, advice(word)))
    }
}

/// Whether a word is an id of the Hub, by its rules.
fn is_id(word: &str) -> bool {
    let is_part = |part: &str| {
        let is_letter = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.');
        (1..=96).contains(&part.len())
            && part.chars().all(is_letter)
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
    };
    let mut parts = word.split('/');
    let (Some(owner), Some(name), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    is_part(owner)
        && is_part(name)
        && !["--", ".."].iter().any(|it| word.contains(it))
        && !word.ends_with(".git")
}

fn unknown(word: &str, expected: String) -> ModelError {
    ModelError::UnknownModel { found: word.to_owned(), expected }
}

/// A path that exists and is no folder.
fn no_folder(word: &str, path: &Path) -> ModelError {
    let folder = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => ".".to_owned(),
        Some(parent) => parent.display().to_string(),
        None => "/".to_owned(),
    };
    let is_a = |extension: &str| path.extension().is_some_and(|it| it.eq_ignore_ascii_case(extension));
    unknown(
        word,
        match fs::metadata(path) {
            Err(error) => format!("a folder that exists; this is a link that leads nowhere ({error})"),
            Ok(metadata) if !metadata.is_file() => "a folder; this is a pipe or a device".to_owned(),
            Ok(_) if is_a("gguf") => {
                "a folder of safetensors files; GGUF is not read: use the checkpoint that the file was made of"
                    .to_owned()
            }
            Ok(_) => format!("a folder; this is a file, so name the folder that holds it: {folder}"),
        },
    )
}

/// What to type instead of a word that is neither a folder nor an id.
fn advice(word: &str) -> String {
    let address = ["https://", "http://"].iter().find_map(|scheme| word.strip_prefix(scheme)).unwrap_or(word);
    let on_the_hub = ["huggingface.co/", "hf.co/", "www.huggingface.co/"];
    if let Some(rest) = on_the_hub.iter().find_map(|host| address.strip_prefix(host)) {
        let parts: Vec<&str> = rest.split(['/', '?', '#']).collect();
        if let [owner, name, rest @ ..] = &parts[..] {
            let id = format!("{owner}/{name}");
            return match rest {
                ["tree" | "blob" | "resolve", revision, ..] if !revision.is_empty() => {
                    format!("the id instead of the address: {id} --revision {revision}")
                }
                _ => format!("the id instead of the address: {id}"),
            };
        }
    }
    if let Some((scheme, _)) = word.split_once("://") {
        return format!("a folder or an id of the Hub; models are not read from {scheme}:// addresses");
    }
    if let Some((id, revision)) = word.split_once(['@', ':']).filter(|(id, _)| is_id(id)) {
        return format!("the id with its branch, tag or commit as a flag: {id} --revision {revision}");
    }
    if let Some(rest) = word.strip_prefix("~/") {
        let home = std::env::home_dir().unwrap_or_else(|| "/".into());
        return format!(
            "a folder that exists; the shell did not replace ~ here, write {}",
            home.join(rest).display()
        );
    }
    let is_path = word.starts_with(['/', '.', '~']) || word.ends_with('/') || word.matches('/').count() > 1;
    if is_path {
        let existing = Path::new(word).ancestors().skip(1).find(|it| it.is_dir());
        return match existing {
            Some(parent) => format!("a folder that exists; of this path, {} does", parent.display()),
            None => "a folder that exists; nothing of this path does".to_owned(),
        };
    }
    format!(
        "a folder that exists, an id of the Hub such as Qwen/Qwen3-0.6B, one of {}",
        crate::shapes::names().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_folder_a_shape_or_an_id() {
        assert_eq!(ModelSource::of_word(".").unwrap(), ModelSource::Folder(".".into()));
        assert_eq!(ModelSource::of_word("qwen3-0.6b").unwrap(), ModelSource::Shape("qwen3-0.6b".to_owned()));
        let id = HubModel { id: "Qwen/Qwen3-0.6B".to_owned(), revision: None, cache: None };
        assert_eq!(ModelSource::of_word("Qwen/Qwen3-0.6B").unwrap(), ModelSource::Hub(id));
        for wrong in ["no-such-folder", "./a/b/c", "../model", "a/b c", "a/..", "a/b--c", "a/b.git", "-a/b"] {
            assert!(ModelSource::of_word(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_model_is_told_what_to_type_instead() {
        let says = |word: &str, part: &str| {
            let error = ModelSource::of_word(word).unwrap_err().to_string();
            assert!(error.contains(part), "{word}: {error}");
        };
        says("Qwen/Qwen3-0.6B@main", "Qwen/Qwen3-0.6B --revision main");
        says("https://huggingface.co/Qwen/Qwen3-0.6B", "the id instead of the address: Qwen/Qwen3-0.6B");
        says("https://huggingface.co/a/b/tree/v2", "a/b --revision v2");
        says("hf.co/a/b", "the id instead of the address: a/b");
        says("s3://bucket/model", "not read from s3:// addresses");
        says("~/models/x", "the shell did not replace ~");
        for path in ["/no/such", "./x", "/tmp/no-such-model"] {
            says(path, "names no model; give a folder that exists; of this path,");
        }
        says("a/b/", "a folder that exists; nothing of this path does");
        let folder = tempfile::tempdir().unwrap();
        for (name, part) in
            [("x.gguf", "GGUF is not read"), ("x.safetensors", "name the folder that holds it: ")]
        {
            let file = folder.path().join(name);
            std::fs::write(&file, "x").unwrap();
            says(file.to_str().unwrap(), part);
        }
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        says(link.to_str().unwrap(), "leads nowhere");
    }
}
