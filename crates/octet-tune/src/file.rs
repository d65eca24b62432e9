//! Files that several processes append to: whole lines, under a lock, and never more than was meant.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::line::HALF_WRITTEN;

/// No results file is larger; another file may have been named by mistake.
const MOST_BYTES: u64 = 64 << 20;

/// How often a lock is tried for, and how long apart: whoever holds it needs a moment only, unless it is stopped.
const LOCK_TRIES: usize = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Reads a whole file; none if it does not exist.
///
/// # Errors
/// It cannot be read, is no file, or is far too large.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(metadata) => check(&metadata)?,
    }
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    // A reader that cannot have the lock reads what is there: at worst it finds a line without end.
    let locked = file.try_lock_shared().is_ok();
    let mut bytes = Vec::new();
    let outcome = Read::by_ref(&mut file).take(MOST_BYTES).read_to_end(&mut bytes);
    if locked {
        let _ = file.unlock();
    }
    outcome.map(|_| Some(bytes))
}

fn check(metadata: &std::fs::Metadata) -> io::Result<()> {
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no file"));
    }
    if metadata.len() > MOST_BYTES {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is too large for such a file"));
    }
    Ok(())
}

/// Appends what `addition` makes of the file's contents, if anything, in one write. A file that ends in the middle of
/// a line gets that line's end first, marked so that nobody takes it for a whole one. A write that fails half-way is
/// undone.
///
/// # Errors
/// The file cannot be opened, locked or written.
pub(crate) fn append(path: &Path, addition: impl FnOnce(&[u8]) -> Option<String>) -> io::Result<()> {
    if let Ok(metadata) = path.metadata() {
        check(&metadata)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    lock(&file)?;
    let outcome = append_locked(&mut file, addition);
    // Closing the file would free the lock too.
    let _ = file.unlock();
    outcome
}

fn append_locked(file: &mut File, addition: impl FnOnce(&[u8]) -> Option<String>) -> io::Result<()> {
    let mut existing = Vec::new();
    file.read_to_end(&mut existing)?;
    let Some(mut addition) = addition(&existing) else { return Ok(()) };
    if existing.last().is_some_and(|&byte| byte != b'\n') {
        addition.insert_str(0, &format!(",{HALF_WRITTEN}\n"));
    }
    // Some file systems tell only then that there was no room.
    let written = file.write_all(addition.as_bytes()).and_then(|()| file.sync_data());
    if written.is_err() {
        // Nothing more can be done if this fails too; the line without end is then found and skipped.
        let _ = file.set_len(existing.len() as u64);
    }
    written
}

/// Waits for the file, but not for ever. A file system without locks goes without.
fn lock(file: &File) -> io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, "another process keeps it locked"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_line_without_end_is_closed_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "whole\nhal").unwrap();
        append(&path, |existing| {
            assert_eq!(existing, b"whole\nhal");
            Some("next\n".to_owned())
        })
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("whole\nhal,{HALF_WRITTEN}\nnext\n"));
        append(&path, |_| None).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().iter().filter(|&&byte| byte == b'\n').count(), 3);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("no file"));
        assert!(append(folder.path(), |_| panic!("nothing to read")).is_err());
        assert!(read(&folder.path().join("missing")).unwrap().is_none());
        let huge = folder.path().join("huge");
        File::create(&huge).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(read(&huge).unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn a_locked_file_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let other = File::create(&path).unwrap();
        other.lock().unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| append(&path, |_| Some("line\n".to_owned())));
            thread::sleep(5 * LOCK_PAUSE);
            assert_eq!(fs::read_to_string(&path).unwrap(), "", "the lock is held elsewhere");
            other.unlock().unwrap();
            writer.join().unwrap().unwrap();
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "line\n");
    }
}
