//! The cache's layout, which is `huggingface_hub`'s, so that both share files:
//! `models--OWNER--NAME/` with `refs/REVISION` (a commit), `snapshots/COMMIT/FILE` (links) and `blobs/ETAG`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::names::is_commit;
use crate::checkpoint::layout::{INDEX, SINGLE, is_usual, read_index};

/// How long another process may hold a blob's lock without the blob growing.
const STANDSTILL: Duration = Duration::from_secs(60);
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// A model's part of the cache.
#[derive(Debug)]
pub(super) struct ModelCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl ModelCache {
    /// Of a model with a checked id.
    pub(super) fn new(cache: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The folder of a revision's files, if the cache knows the revision: by a ref, or because it is a commit.
    pub(super) fn cached(&self, revision: &str) -> Option<PathBuf> {
        let path = self.folder.join("refs").join(revision);
        let commit = if path.is_file() { fs::read_to_string(path).ok()? } else { revision.to_owned() };
        let snapshot = is_commit(commit.trim()).then(|| self.snapshot(commit.trim()));
        snapshot.filter(|folder| folder.is_dir())
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where a blob is.
    pub(super) fn blob(&self, name: &str) -> PathBuf {
        self.folder.join("blobs").join(name)
    }

    /// Notes which commit a branch or tag is.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> io::Result<()> {
        let path = self.folder.join("refs").join(revision);
        if revision == commit || fs::read_to_string(&path).is_ok_and(|known| known.trim() == commit) {
            return Ok(());
        }
        let draft = path.with_extension(format!("draft-{}", std::process::id()));
        fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        File::create(&draft).and_then(|mut file| file.write_all(commit.as_bytes()))?;
        fs::rename(&draft, &path)
    }

    /// A blob that is to be fetched, locked against other processes; what they fetched of it is kept.
    pub(super) fn begin(&self, name: &str) -> io::Result<Draft> {
        fs::create_dir_all(self.folder.join("blobs"))?;
        fs::create_dir_all(&self.locks)?;
        let path = self.blob(&format!("{name}.incomplete"));
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.locks.join(format!("{name}.lock")))?;
        wait_for(&lock, &path)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        Ok(Draft { _lock: lock, path, file })
    }

    /// Gives a blob its name in a commit.
    pub(super) fn link(&self, blob: &str, commit: &str, name: &str) -> io::Result<()> {
        let link = self.snapshot(commit).join(name);
        fs::create_dir_all(link.parent().unwrap_or(&link))?;
        let blobs = ["../../blobs/", blob].concat();
        let target = "../".repeat(name.matches('/').count()) + &blobs;
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match symlink(target, &link) {
            // A file system without links.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) =>
            {
                fs::copy(self.blob(blob), &link).map(|_| ())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && link.is_file() => Ok(()),
            outcome => outcome,
        }
    }
}

/// A blob that is being fetched. The lock is free when it is dropped.
#[derive(Debug)]
pub(super) struct Draft {
    _lock: File,
    path: PathBuf,
    /// What has arrived.
    pub(super) file: File,
}

impl Draft {
    /// Where it is while it is not whole.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the whole blob its name.
    pub(super) fn finish(self, blob: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, blob)
    }
}

/// Waits for a lock as long as whoever holds it makes progress. A file system without locks goes without.
fn wait_for(lock: &File, growing: &Path) -> io::Result<()> {
    let length = || fs::metadata(growing).map_or(0, |metadata| metadata.len());
    let (mut known, mut since) = (length(), Instant::now());
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
        }
        let now = length();
        if now != known {
            (known, since) = (now, Instant::now());
        } else if since.elapsed() > STANDSTILL {
            let problem = "another process keeps it locked and fetches nothing";
            return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
        }
    }
}

/// Files that a snapshot lacks to be a model: its config and, unless they are made up, its weights.
pub(super) fn lacking(snapshot: &Path, config_only: bool) -> Vec<String> {
    let mut lacking = Vec::new();
    let mut need = |name: &str| {
        if !snapshot.join(name).exists() {
            lacking.push(name.to_owned());
        }
    };
    need("config.json");
    if config_only {
        return lacking;
    }
    if snapshot.join(INDEX).exists() {
        match read_index(&snapshot.join(INDEX)) {
            Ok(index) => index.files.keys().for_each(|name| need(name)),
            Err(_) => lacking.push(INDEX.to_owned()),
        }
    } else if !has_loose_weights(snapshot) {
        need(SINGLE);
    }
    lacking
}

fn has_loose_weights(snapshot: &Path) -> bool {
    let entries = fs::read_dir(snapshot).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().exists()).map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .any(|name| name.ends_with(".safetensors") && is_usual(&name))
}

/// Whether a snapshot has a tokenizer.
pub(super) fn has_tokenizer(snapshot: &Path) -> bool {
    ["tokenizer.json", "tokenizer.model", "vocab.json"].iter().any(|name| snapshot.join(name).exists())
}
