//! Files of results. Whether one can be written is known before the work, and afterwards it is whole or as it was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Where results are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutputFile {
    path: PathBuf,
}

impl OutputFile {
    /// Tries whether the file can be written, and leaves it as it is.
    ///
    /// # Errors
    /// It cannot: a folder that is not there or read-only, no file.
    pub(crate) fn claim(path: PathBuf) -> io::Result<Self> {
        match fs::metadata(&path) {
            // Opening a pipe would wait for its reader.
            Ok(metadata) if metadata.file_type().is_fifo() => {}
            Ok(_) => drop(OpenOptions::new().append(true).open(&path)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let draft = draft_of(&path)?;
                File::create(&draft)?;
                fs::remove_file(draft)?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self { path })
    }

    /// The file's name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a text in place of what the file holds.
    ///
    /// # Errors
    /// It could not be written; the file is as it was.
    pub(crate) fn replace(&self, text: &str) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|metadata| !metadata.is_file()) {
            return OpenOptions::new().write(true).open(&self.path)?.write_all(text.as_bytes());
        }
        // A link stays one: what it names is replaced.
        let target = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let draft = draft_of(&target)?;
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        let moved = written.and_then(|()| fs::rename(&draft, &target));
        if moved.is_err() {
            // Best effort: the error that matters is the one being returned.
            let _ = fs::remove_file(&draft);
        }
        moved
    }

    /// Adds a text as a further line.
    ///
    /// # Errors
    /// It could not be written; the file is as it was.
    pub(crate) fn append(&self, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        let length = file.metadata()?.len();
        let break_before = if length > 0 { "\n" } else { "" };
        let written =
            file.write_all(format!("{break_before}{text}").as_bytes()).and_then(|()| file.sync_all());
        if written.is_err() {
            // As above.
            let _ = file.set_len(length);
        }
        written
    }
}

/// A neighbour, which a rename makes the file in one step.
fn draft_of(path: &Path) -> io::Result<PathBuf> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "it is no file's name"))?;
    let name = format!(".{}.draft-{}", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_added_to_by_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("results.json");
        let output = OutputFile::claim(path.clone()).expect("it can be written");
        assert!(!path.exists(), "a claim leaves nothing");
        let text = || fs::read_to_string(&path).expect("it was written");
        output.replace("one").expect("it can be written");
        output.append("two").expect("it can be written");
        assert_eq!(text(), "one\ntwo");
        output.replace("three").expect("it can be written");
        assert_eq!(text(), "three");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "no draft is left");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        OutputFile::claim(link.clone()).expect("it can be written").replace("four").expect("likewise");
        assert!(link.is_symlink() && text() == "four");
    }

    #[test]
    fn what_cannot_be_written_is_known_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "as it was").expect("it can be written");
        for wrong in
            [folder.path().to_owned(), file.join("below"), folder.path().join("missing/results.json")]
        {
            assert!(OutputFile::claim(wrong.clone()).is_err(), "{}", wrong.display());
        }
        let full = OutputFile::claim(PathBuf::from("/dev/full")).expect("it opens");
        assert!(full.replace("text").is_err(), "a full disk is noticed");
        assert_eq!(fs::read_to_string(file).expect("it is there"), "as it was");
    }
}
