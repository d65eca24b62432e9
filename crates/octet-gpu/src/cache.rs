//! Compiled kernels on disk, so that only the first start compiles.
//!
//! An entry's name is the hash of all that it was made from: source, options with the architecture, compiler. It begins
//! with a hash of its code, so that a damaged one is noticed; and it appears under its name only when it is whole, so
//! that two processes can share the folder. A cache that cannot be read or written costs time and nothing else.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// What every entry begins with; the number changes with the layout.
const MAGIC: &[u8; 8] = b"octetkc1";
const HASH_BYTES: usize = 32;

/// A folder of compiled kernels, or none.
#[derive(Clone, Debug)]
pub(crate) struct CodeCache {
    folder: Option<PathBuf>,
}

impl CodeCache {
    /// A cache in `folder`; nothing is kept if that is none.
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_path_buf) }
    }

    /// The name of what is made from these parts.
    pub(crate) fn key(parts: &[&str]) -> String {
        let mut hash = Sha256::new();
        for part in parts {
            // The length first, so that parts cannot run into each other.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut name = String::new();
        for byte in hash.finalize() {
            // Writing to a string cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }

    /// An entry's code, if there is a whole one.
    pub(crate) fn read(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.path(key)?;
        let entry = fs::read(&path).ok()?;
        let code = checked(&entry);
        if code.is_none() {
            tracing::warn!(path = %path.display(), "a compiled kernel is damaged and is made anew");
        }
        code.map(<[u8]>::to_vec)
    }

    /// Keeps an entry. A failure is not an error: the next start compiles again.
    pub(crate) fn write(&self, key: &str, code: &[u8]) {
        let Some(path) = self.path(key) else { return };
        if let Err(error) = write_whole(&path, code) {
            tracing::warn!(path = %path.display(), %error, "a compiled kernel cannot be kept");
        }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{key}.kernel")))
    }
}

fn checked(entry: &[u8]) -> Option<&[u8]> {
    let (hash, code) = entry.strip_prefix(MAGIC)?.split_at_checked(HASH_BYTES)?;
    (Sha256::digest(code)[..] == *hash).then_some(code)
}

/// Writes beside the final name and renames: readers see nothing or all of it.
fn write_whole(path: &Path, code: &[u8]) -> std::io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let draft = path.with_extension(format!("{}-{number}.draft", process::id()));
    let mut file = fs::File::create(&draft)?;
    let written = file
        .write_all(MAGIC)
        .and_then(|()| file.write_all(&Sha256::digest(code)))
        .and_then(|()| file.write_all(code))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // The draft is nobody's.
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::new(Some(&folder.path().join("made/when/needed")));
        let key = CodeCache::key(&["source", "options"]);
        assert_eq!(cache.read(&key), None);
        cache.write(&key, b"code");
        assert_eq!(cache.read(&key).as_deref(), Some(&b"code"[..]));
        assert_eq!(cache.read(&CodeCache::key(&["sourceo", "ptions"])), None);
        let names: Vec<_> = fs::read_dir(folder.path().join("made/when/needed")).unwrap().collect();
        assert_eq!(names.len(), 1, "no draft is left: {names:?}");
    }

    #[test]
    fn every_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::new(Some(folder.path()));
        let key = CodeCache::key(&["source"]);
        cache.write(&key, b"some code");
        let path = cache.path(&key).unwrap();
        let whole = fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.read(&key), None, "byte {position}");
            fs::write(&path, &whole[..position]).unwrap();
            assert_eq!(cache.read(&key), None, "cut after {position}");
        }
        cache.write(&key, b"some code");
        assert!(cache.read(&key).is_some());
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let cache = CodeCache::new(None);
        cache.write("key", b"code");
        assert_eq!(cache.read("key"), None);
        // A folder that cannot be created is not an error either.
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = CodeCache::new(Some(&file.path().join("below a file")));
        cache.write("key", b"code");
        assert_eq!(cache.read("key"), None);
    }

    #[test]
    fn many_writers_leave_a_whole_entry() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::new(Some(folder.path()));
        let code = vec![7u8; 100_000];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        cache.write("key", &code);
                        if let Some(read) = cache.read("key") {
                            assert_eq!(read, code);
                        }
                    }
                });
            }
        });
        assert_eq!(cache.read("key"), Some(code));
    }
}
