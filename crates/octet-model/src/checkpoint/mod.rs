//! Where weights come from: a folder of safetensors files, or a generator of random ones.

mod bytes;
mod dummy;
mod file;
pub(crate) mod hub;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use octet_backend::DataType;
use octet_float8::Float8Format;
use safetensors::Dtype;
use serde_json::Value;

pub(crate) use bytes::Bytes;
pub(crate) use dummy::Dummy;

use crate::ModelError;
use file::CheckpointFile;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
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
}

impl Checkpoint {
    /// Opens a folder: `model.safetensors.index.json` and its shards, or `model.safetensors`, or else every
    /// `*.safetensors` file.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        let index = folder.join(INDEX);
        let listed = if index.exists() { Some(read_index(&index)?) } else { None };
        let paths = match &listed {
            Some(listed) => listed.keys().map(|name| folder.join(name)).collect(),
            None => loose_files(folder)?,
        };
        let mut checkpoint = Self { files: Vec::new(), tensors: HashMap::new() };
        for path in paths {
            checkpoint.add_file(path)?;
        }
        if let Some(listed) = listed {
            checkpoint.check_index(&index, &listed)?;
        }
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), ModelError> {
        let (file, tensors) = CheckpointFile::open(path)?;
        let index = self.files.len();
        self.files.push(file);
        let mut twice = Vec::new();
        for (name, mut tensor) in tensors {
            tensor.file = index;
            if let Some(other) = self.tensors.insert(name.clone(), tensor) {
                twice.push(format!("{name} (also in {})", self.files[other.file].path.display()));
            }
        }
        if twice.is_empty() {
            return Ok(());
        }
        let problem = format!("holds {} tensors a second time: {}", twice.len(), first_of(twice));
        Err(ModelError::Damaged { path: self.files[index].path.clone(), problem })
    }

    fn check_index(&self, index: &Path, listed: &BTreeMap<String, Vec<String>>) -> Result<(), ModelError> {
        let mut absent = Vec::new();
        for (position, names) in listed.values().enumerate() {
            let is_absent = |name: &&String| self.tensors.get(*name).is_none_or(|it| it.file != position);
            absent.extend(names.iter().filter(is_absent).cloned());
        }
        if absent.is_empty() {
            return Ok(());
        }
        let problem =
            format!("names {} tensors that its files do not hold: {}", absent.len(), first_of(absent));
        Err(ModelError::Damaged { path: index.to_owned(), problem })
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

/// The files that an index names, each with its tensors.
fn read_index(path: &Path) -> Result<BTreeMap<String, Vec<String>>, ModelError> {
    let text = std::fs::read_to_string(path).map_err(ModelError::read("the index", path))?;
    let json = |source| ModelError::Json { path: path.to_owned(), source };
    let value: Value = serde_json::from_str(&text).map_err(json)?;
    let damaged = |problem: &str| ModelError::Damaged { path: path.to_owned(), problem: problem.to_owned() };
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| damaged("has no weight_map of tensor names to file names"))?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|file| !file.contains(['/', '\\']));
        let file = file.ok_or_else(|| damaged("has an entry in weight_map that is not a plain file name"))?;
        files.entry(file.to_owned()).or_default().push(tensor.clone());
    }
    if files.is_empty() {
        return Err(damaged("has an empty weight_map"));
    }
    Ok(files)
}

/// Files of a folder without an index.
fn loose_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let mut paths = Vec::new();
    let mut has_pickles = false;
    for entry in std::fs::read_dir(folder).map_err(ModelError::read("the folder", folder))? {
        let path = entry.map_err(ModelError::read("the folder", folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        has_pickles |= name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
        // Mistral's own format names its tensors differently; it stands beside the same weights under usual names.
        if name.ends_with(".safetensors") && !name.starts_with("consolidated") {
            paths.push(path);
        }
    }
    paths.sort();
    if !paths.is_empty() {
        return Ok(paths);
    }
    let hint = if has_pickles {
        "it has weights in torch's pickle format, which can run code when opened: convert them to safetensors"
    } else {
        "give a folder that holds a checkpoint, or --load-format dummy for random weights"
    };
    Err(ModelError::Missing { folder: folder.to_owned(), wanted: "model.safetensors", hint })
}
