//! What the names of files say about a folder in which no model was found.

use std::collections::BTreeSet;
use std::path::Path;

use super::first_of;
use crate::ModelError;

/// No more names of a folder are looked at.
const NAMES_MAX: usize = 10_000;

/// The names of the files in a folder or a repository. Names of folders end with a slash.
#[derive(Debug)]
pub(crate) struct Contents {
    names: BTreeSet<String>,
}

impl Contents {
    /// Of a folder on disk.
    pub(crate) fn of_folder(folder: &Path) -> Result<Self, ModelError> {
        let entries = std::fs::read_dir(folder).map_err(ModelError::read("the folder", folder))?;
        let mut names = BTreeSet::new();
        for entry in entries.take(NAMES_MAX) {
            let entry = entry.map_err(ModelError::read("the folder", folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.path().is_dir();
            if is_folder && entry.path().join("config.json").is_file() {
                names.insert(format!("{name}/config.json"));
            }
            names.insert(if is_folder { format!("{name}/") } else { name });
        }
        Ok(Self { names })
    }

    /// Of a list.
    pub(crate) fn of_names<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        Self { names: names.into_iter().cloned().collect() }
    }

    /// Whether there is a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Safetensors files of the folder itself, in the order of their names.
    pub(crate) fn safetensors(&self) -> impl Iterator<Item = &str> {
        let own = self.names.iter().map(String::as_str).filter(|name| !name.contains('/'));
        own.filter(|name| name.ends_with(".safetensors"))
    }

    /// What there is instead of a model that can be loaded, and what to do; `otherwise` if the names do not tell.
    pub(crate) fn advice(&self, otherwise: &str) -> String {
        if self.names.is_empty() {
            return format!("it is empty; {otherwise}");
        }
        match self.kind() {
            Some(kind) => kind,
            None => format!("it holds {}; {otherwise}", first_of(self.shown())),
        }
    }

    fn shown(&self) -> Vec<String> {
        self.names.iter().filter(|name| !name.ends_with("/config.json")).cloned().collect()
    }

    /// The first name that ends so, in lower case.
    fn ending(&self, endings: &[&str]) -> Option<&str> {
        let ends = |name: &&String| endings.iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        self.names.iter().find(ends).map(String::as_str)
    }

    fn kind(&self) -> Option<String> {
        if self.has("snapshots/") && (self.has("blobs/") || self.has("refs/")) {
            return Some(
                "it is a model's folder in the Hub's cache: give the model's id, or one of the folders in snapshots/"
                    .to_owned(),
            );
        }
        if let Some(name) = self.ending(&[".gguf"]) {
            return Some(format!(
                "it holds a GGUF file ({name}), which is not read: use the safetensors checkpoint that it was made of"
            ));
        }
        if let Some(name) = self.ending(&["adapter_config.json", "adapter_model.safetensors"]) {
            return Some(format!(
                "it holds an adapter ({name}), not a model: merge it into its base model (PEFT's merge_and_unload) and save that"
            ));
        }
        if self.has("model_index.json") {
            return Some(
                "it holds a pipeline of diffusers (model_index.json), not a language model".to_owned(),
            );
        }
        let has_consolidated = self.safetensors().any(|name| name.starts_with("consolidated"));
        let pickle = self.ending(&[".bin", ".pt", ".pth", ".ckpt"]);
        let has_own_config = self.has("params.json") && !self.has("config.json");
        if has_consolidated || (has_own_config && pickle.is_none()) {
            return Some("it is in Mistral's own format; use the files in Hugging Face's format".to_owned());
        }
        if let Some(name) = pickle {
            return Some(format!(
                "it has weights in torch's pickle format ({name}), which can run code when opened: convert them to safetensors"
            ));
        }
        if let Some(name) = self.ending(&[".onnx", "onnx/", ".h5", ".msgpack", ".tflite", ".mlpackage/"]) {
            return Some(format!(
                "it holds the model for another runtime ({name}): use its safetensors checkpoint"
            ));
        }
        let nested = self.ending(&["/config.json"])?;
        let inner = nested.trim_end_matches("/config.json");
        Some(format!("its folder {inner} has a config.json: name that one"))
    }
}
