//! One safetensors file: its header, checked, and its bytes, read on demand.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::{StoredTensor, first_of};
use crate::{ModelError, files};

/// Bytes of the header's length, at the start of the file.
const LENGTH_BYTES: u64 = 8;
/// The largest header that the format allows.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// What Git leaves in place of a large file that was not fetched.
const LFS_POINTER: &[u8] = b"version ";

/// The remarks in a header, beside one entry for each tensor.
const REMARKS: &str = "__metadata__";

/// The header as JSON. Read entry by entry, so that a name that stands there twice is seen and nothing is held twice.
struct Header {
    tensors: HashMap<String, TensorInfo>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with an entry for each tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = HashMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == REMARKS {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match tensors.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(map.next_value()?);
                }
                Entry::Occupied(entry) => {
                    return Err(A::Error::custom(format!("{} stands there twice", entry.key())));
                }
            }
        }
        Ok(Header { tensors })
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    /// Where it lies.
    pub(crate) path: PathBuf,
    file: File,
}

impl CheckpointFile {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, Vec<(String, StoredTensor)>), ModelError> {
        let (mut file, length) = files::open(&path, "the checkpoint's file")?;
        let damaged = |problem: String| ModelError::Damaged { path: path.clone(), problem };

        let mut start = [0; LENGTH_BYTES as usize];
        if length < LENGTH_BYTES {
            return Err(damaged(format!("has {length} bytes, too few for a safetensors header")));
        }
        file.read_exact(&mut start).map_err(ModelError::read("the checkpoint's file", &path))?;
        if start == LFS_POINTER {
            return Err(damaged(
                "is a pointer of Git LFS, not the file itself: run `git lfs pull`".to_owned(),
            ));
        }
        let header_bytes = u64::from_le_bytes(start);
        if header_bytes > HEADER_BYTES_MAX || LENGTH_BYTES + header_bytes > length {
            return Err(damaged(format!(
                "states a header of {header_bytes} bytes in a file of {length}: it is cut short or no safetensors file"
            )));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(ModelError::read("the checkpoint's file", &path))?;
        let header: Header = serde_json::from_slice(&header)
            .map_err(|error| damaged(format!("has a header that is not valid: {error}")))?;
        let tensors = check_extents(header.tensors, LENGTH_BYTES + header_bytes, length).map_err(damaged)?;
        Ok((Self { path, file }, tensors))
    }

    /// Whether this is its name in its folder.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.path.file_name().is_some_and(|it| it == name)
    }

    /// Reads from `offset` until `target` is full.
    pub(crate) fn read(&self, offset: u64, target: &mut [u8]) -> Result<(), ModelError> {
        let wanted = target.len();
        self.file.read_exact_at(target, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => ModelError::Damaged {
                path: self.path.clone(),
                problem: format!(
                    "ended while {wanted} bytes at {offset} were read: it was changed meanwhile"
                ),
            },
            _ => ModelError::read("the checkpoint's file", &self.path)(error),
        })
    }
}

/// Holds what the header says of each tensor against its shape, the other tensors and the file's length.
fn check_extents(
    tensors: HashMap<String, TensorInfo>,
    data_start: u64,
    file_bytes: u64,
) -> Result<Vec<(String, StoredTensor)>, String> {
    let data_bytes = file_bytes - data_start;
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    // By name where offsets agree, so that a header is told about in the same words each time.
    tensors.sort_by(|(one, left), (other, right)| (left.data_offsets, one).cmp(&(right.data_offsets, other)));
    let (mut next, mut beyond) = (0, Vec::new());
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let (start, end) = info.data_offsets;
        let elements = info.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let bits = elements.and_then(|elements| elements.checked_mul(info.dtype.bitsize()));
        let whole = bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8);
        let Some(bytes) = whole.filter(|&bytes| end.checked_sub(start) == Some(bytes)) else {
            return Err(format!(
                "has a header that lies: {name} of shape {:?} in {:?} cannot lie at bytes {start}..{end}",
                info.shape, info.dtype
            ));
        };
        if start != next {
            return Err(format!(
                "has a header that lies: {name} starts at byte {start}, the one before it ends at {next}"
            ));
        }
        next = end;
        if end as u64 > data_bytes {
            beyond.push(name.clone());
        }
        let (element, shape) = (info.dtype, info.shape);
        let tensor = StoredTensor { element, shape, file: 0, offset: data_start + start as u64, bytes };
        stored.push((name, tensor));
    }
    if !beyond.is_empty() {
        return Err(format!(
            "is cut short: {data_bytes} bytes of {next} are there; incomplete: {}",
            first_of(beyond)
        ));
    }
    if next as u64 != data_bytes {
        return Err(format!("has {} bytes that its header does not speak of", data_bytes - next as u64));
    }
    Ok(stored)
}
