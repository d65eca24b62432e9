//! Reading files that somebody else made: regular ones only, and no more than such a file can be.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::ModelError;

/// No config and no index is longer: another file was named by mistake, or is meant to fill the memory.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// Opens a regular file and tells its length. Anything else would block, never end, or be no file at all.
pub(crate) fn open(path: &Path, what: &'static str) -> Result<(File, u64), ModelError> {
    let read = || ModelError::read(what, path);
    let metadata = fs::metadata(path).map_err(|error| read()(say_where_a_link_points(path, error)))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "a pipe or a device" };
        let problem = format!("it is {found}, expected a file");
        return Err(read()(io::Error::new(ErrorKind::InvalidInput, problem)));
    }
    Ok((File::open(path).map_err(read())?, metadata.len()))
}

/// Reads a file of text.
pub(crate) fn read_text(path: &Path, what: &'static str) -> Result<String, ModelError> {
    let (file, length) = open(path, what)?;
    let too_long = || {
        let problem = format!("it is longer than {} MiB, which no such file is", TEXT_BYTES_MAX >> 20);
        ModelError::read(what, path)(io::Error::new(ErrorKind::FileTooLarge, problem))
    };
    if length > TEXT_BYTES_MAX {
        return Err(too_long());
    }
    let mut text = String::new();
    let read = file.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text);
    match read.map_err(ModelError::read(what, path))? as u64 > TEXT_BYTES_MAX {
        true => Err(too_long()),
        false => Ok(text),
    }
}

/// A link into a cache whose file is gone looks like a file that was never there.
fn say_where_a_link_points(path: &Path, error: io::Error) -> io::Error {
    match fs::read_link(path) {
        Ok(target) if error.kind() == ErrorKind::NotFound => {
            let problem = format!("it is a link to {}, which does not exist", target.display());
            io::Error::new(ErrorKind::NotFound, problem)
        }
        _ => error,
    }
}
