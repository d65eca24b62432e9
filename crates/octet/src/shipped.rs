//! The model inside the program: what `octet serve` serves when no other is named.
//!
//! The files are part of the executable, so that a copied binary still serves. The loader reads folders, so they are
//! laid out once in the user's cache folder and found there ever after.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The name under which it is served.
pub(crate) const NAME: &str = "octet-mini";

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../models/octet-mini/", $name)))),*]
    };
}

const FILES: &[(&str, &[u8])] = files![
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The folder that holds the model, written if need be.
///
/// # Errors
/// Neither the cache folder nor the temporary one can be written.
pub(crate) fn folder() -> Result<PathBuf> {
    let name = format!("{NAME}-{}", env!("CARGO_PKG_VERSION"));
    let mut failures = Vec::new();
    for parent in parents() {
        let folder = parent.join(&name);
        match lay_out(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) => failures.push(format!("{}: {error}", folder.display())),
        }
    }
    anyhow::bail!(
        "no MODEL was named, and the model inside the program could not be written to disk ({}); free some space, or set XDG_CACHE_HOME to a \
         folder that can be written",
        failures.join("; ")
    )
}

fn parents() -> impl Iterator<Item = PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("octet")).into_iter().chain([std::env::temp_dir().join("octet")])
}

fn is_laid_out(folder: &Path) -> bool {
    FILES.iter().all(|(name, content)| fs::read(folder.join(name)).is_ok_and(|found| found == *content))
}

/// Writes into a neighbouring folder and renames it, so that no other process ever sees half a model.
fn lay_out(folder: &Path) -> io::Result<()> {
    if is_laid_out(folder) {
        return Ok(());
    }
    let draft = folder.with_extension(format!("draft-{}", std::process::id()));
    fs::create_dir_all(&draft)?;
    let written = FILES.iter().try_for_each(|(name, content)| fs::write(draft.join(name), content));
    let moved = written.and_then(|()| {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::rename(&draft, folder)
    });
    if moved.is_err() {
        // Best effort: the error that matters is the one being returned.
        let _ = fs::remove_dir_all(&draft);
        // Another process may have been faster.
        return if is_laid_out(folder) { Ok(()) } else { moved };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_is_mended() {
        let parent = std::env::temp_dir().join(format!("octet-shipped-{}", std::process::id()));
        let folder = parent.join("model");
        lay_out(&folder).expect("a temporary folder can be written");
        fs::write(folder.join("config.json"), "{").expect("likewise");
        lay_out(&folder).expect("likewise");
        assert!(is_laid_out(&folder));
        fs::remove_dir_all(parent).expect("likewise");
    }
}
