//! config.json and generation_config.json of a checkpoint, as text alone.

use std::path::Path;

use octet_model::{GenerationConfig, GenerationKeys, ModelConfig};
use serde_json::Map;

use crate::folder::Folder;

thread_local! {
    static FOLDER: Folder = Folder::new();
}

pub(crate) fn run(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).ok();
    let config = text.and_then(|text| ModelConfig::parse(text, Path::new("config.json")).ok());
    if let Some(config) = &config {
        // What start-up asks next.
        drop((config.rope.spec(), config.longest_sequence()));
    }
    let generation = FOLDER.with(|folder| {
        folder.write("generation_config.json", bytes);
        let path = folder.path().join("generation_config.json");
        GenerationConfig::read(Some(&path), GenerationKeys::All, &Map::new())
    });
    config.is_some() || generation.is_ok()
}
