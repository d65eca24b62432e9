//! A folder that a target writes its input to, again and again.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// Removed when the thread that uses it ends.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Replaces a file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        // A new file each time: a mapping of the old one must not change below its reader.
        let path = self.path().join(name);
        if path.exists() {
            fs::remove_file(&path).expect("a file in a folder of ours can be removed");
        }
        fs::write(path, bytes).expect("a temporary file can be written");
    }
}
