//! Where weights come from: a folder of safetensors files, or a generator of random ones.

mod bytes;
mod contents;
mod dummy;
mod file;
pub(crate) mod hub;
mod layout;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use octet_backend::DataType;
use octet_float8::Float8Format;
use safetensors::Dtype;

pub(crate) use bytes::Bytes;
pub(crate) use contents::Contents;
pub(crate) use dummy::Dummy;

use crate::{ModelError, Warning};
use file::CheckpointFile;
use layout::Layout;

/// How many names an error lists.
const NAMES_SHOWN: usize = 5;

/// A tensor as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredTensor {
    /// Element type.
    pub(crate) element: Dtype,
    /// Shape.
    pub(crate) shape: Vec<usize>,
    /// Index of the file.
    file: usize,
    /// Where its bytes start in the file.
    offset: u64,
    /// How many there are.
    pub(crate) bytes: usize,
}

/// A folder of safetensors files, opened: every header is read and checked against its file's length, no weight is.
///
/// Bytes are read into buffers, not mapped: a file that shrinks while it is read is then an error and not a fault,
/// packed weights and their source are never resident together, and large sequential reads are what disks and
/// network file systems do best.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    files: Vec<CheckpointFile>,
    tensors: HashMap<String, StoredTensor>,
    /// What a user should know about the files.
    warnings: Vec<Warning>,
}

impl Checkpoint {
    /// Opens a folder: the files of its index, or `model.safetensors`, or else every `*.safetensors` file.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        let Layout { files, listed, warnings } = Layout::find(folder)?;
        let mut checkpoint = Self { files: Vec::new(), tensors: HashMap::new(), warnings };
        for path in files {
            checkpoint.add_file(path, &listed)?;
        }
        checkpoint.compare(&listed);
        checkpoint.complete_names();
        Ok(checkpoint)
    }

    /// Takes a file's tensors. Of two with the same name, the one counts that lies where the index says.
    fn add_file(&mut self, path: PathBuf, listed: &HashMap<String, String>) -> Result<(), ModelError> {
        let (file, tensors) = CheckpointFile::open(path)?;
        let index = self.files.len();
        self.files.push(file);
        let mut twice = Vec::new();
        for (name, mut tensor) in tensors {
            tensor.file = index;
            let Some(other) = self.tensors.get(&name) else {
                self.tensors.insert(name, tensor);
                continue;
            };
            let listed = listed.get(&name);
            if listed.is_some_and(|file| self.files[index].is_called(file)) {
                self.tensors.insert(name, tensor);
            } else if listed.is_none_or(|file| !self.files[other.file].is_called(file)) {
                twice.push(format!("{name} (also in {})", self.files[other.file].path.display()));
            }
        }
        if twice.is_empty() {
            return Ok(());
        }
        let problem = format!("holds {} tensors a second time: {}", twice.len(), first_of(twice));
        Err(ModelError::Damaged { path: self.files[index].path.clone(), problem })
    }

    /// Notes where the index is wrong. Nothing depends on it: what the files hold counts, and what the model needs and
    /// does not find is refused later.
    fn compare(&mut self, listed: &HashMap<String, String>) {
        let (mut absent, mut elsewhere) = (Vec::new(), Vec::new());
        for (name, file) in listed {
            match self.tensors.get(name) {
                None => absent.push(name.clone()),
                Some(tensor) if !self.files[tensor.file].is_called(file) => elsewhere.push(name.clone()),
                Some(_) => {}
            }
        }
        if !absent.is_empty() {
            self.warnings.push(Warning::IndexedAndAbsent { count: absent.len(), first: first_of(absent) });
        }
        if !elsewhere.is_empty() {
            let count = elsewhere.len();
            self.warnings.push(Warning::IndexedElsewhere { count, first: first_of(elsewhere) });
        }
    }

    /// A decoder that was saved without its head names its tensors without `model.`; transformers loads it too.
    fn complete_names(&mut self) {
        let is_bare = self.tensors.contains_key("embed_tokens.weight")
            && !self.tensors.keys().any(|name| name.starts_with("model."));
        if !is_bare {
            return;
        }
        let complete = |(name, tensor): (String, StoredTensor)| {
            let is_decoder =
                ["embed_tokens.", "layers.", "norm."].iter().any(|start| name.starts_with(start));
            (if is_decoder { format!("model.{name}") } else { name }, tensor)
        };
        self.tensors = std::mem::take(&mut self.tensors).into_iter().map(complete).collect();
        self.warnings.push(Warning::NamesWithoutModel);
    }

    /// What a user should know about the files.
    pub(crate) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The names of files beside it that look like weights.
    pub(crate) fn files_not_read(&self) -> Option<&str> {
        self.warnings.iter().find_map(|warning| match warning {
            Warning::FilesNotRead(names) => Some(names.as_str()),
            _ => None,
        })
    }

    /// A tensor by name.
    pub(crate) fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Reads a tensor's bytes into `target`, which must have its length.
    pub(crate) fn read(&self, tensor: &StoredTensor, target: &mut [u8]) -> Result<(), ModelError> {
        self.files[tensor.file].read(tensor.offset, target)
    }

    /// Whether two tensors hold the same bytes in the same type and shape, read piece by piece up to the first
    /// difference.
    pub(crate) fn are_equal(&self, left: &StoredTensor, right: &StoredTensor) -> Result<bool, ModelError> {
        const PIECE: usize = 1 << 22;
        if (left.element, &left.shape) != (right.element, &right.shape) {
            return Ok(false);
        }
        let (mut left_piece, mut right_piece) =
            (vec![0; PIECE.min(left.bytes)], vec![0; PIECE.min(left.bytes)]);
        let mut done = 0;
        while done < left.bytes {
            let length = PIECE.min(left.bytes - done);
            let (left_piece, right_piece) = (&mut left_piece[..length], &mut right_piece[..length]);
            self.files[left.file].read(left.offset + done as u64, left_piece)?;
            self.files[right.file].read(right.offset + done as u64, right_piece)?;
            if left_piece != right_piece {
                return Ok(false);
            }
            done += length;
        }
        Ok(true)
    }

    /// Reads a small floating-point tensor as `f32`.
    pub(crate) fn read_numbers(&self, name: &str, tensor: &StoredTensor) -> Result<Vec<f32>, ModelError> {
        let mut bytes = Bytes::new(tensor.bytes);
        self.read(tensor, bytes.as_mut_slice())?;
        if tensor.element == Dtype::F8_E8M0 {
            // A bare exponent: 2^(code - 127).
            return Ok(bytes.as_slice().iter().map(|&code| f32::powi(2.0, i32::from(code) - 127)).collect());
        }
        match data_type(tensor.element) {
            Some(data_type) if !data_type.is_float8() => Ok(bytes.to_numbers(data_type)),
            _ => Err(ModelError::ElementType {
                tensor: name.to_owned(),
                found: format!("{:?}", tensor.element),
                expected: "F32, BF16 or F16".to_owned(),
            }),
        }
    }
}

/// The seam's name of a stored element type, if weights can have it.
pub(crate) fn data_type(element: Dtype) -> Option<DataType> {
    match element {
        Dtype::F32 => Some(DataType::F32),
        Dtype::F16 => Some(DataType::F16),
        Dtype::BF16 => Some(DataType::BF16),
        Dtype::F8_E4M3 => Some(DataType::F8(Float8Format::E4M3)),
        Dtype::F8_E5M2 => Some(DataType::F8(Float8Format::E5M2)),
        Dtype::F8_E4M3FNUZ => Some(DataType::F8(Float8Format::E4M3Fnuz)),
        Dtype::F8_E5M2FNUZ => Some(DataType::F8(Float8Format::E5M2Fnuz)),
        Dtype::I8 => Some(DataType::I8),
        _ => None,
    }
}

/// The first few of many names, sorted.
pub(crate) fn first_of(mut names: Vec<String>) -> String {
    names.sort();
    let more = names.len().saturating_sub(NAMES_SHOWN);
    names.truncate(NAMES_SHOWN);
    if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
}
