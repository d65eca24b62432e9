//! What can be wrong with a model before it runs.

use std::io;
use std::path::{Path, PathBuf};

use octet_backend::{BackendError, DataType};

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or folder could not be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Read {
        /// What was to be read: a config, a checkpoint's file, a folder.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file that must be there is not.
    #[error("{} has no {wanted}; {hint}", folder.display())]
    Missing {
        /// The folder that was searched.
        folder: PathBuf,
        /// The file name or names that would do.
        wanted: &'static str,
        /// What was found instead, and what to do.
        hint: String,
    },
    /// Weights were to be read for a model that is a config alone.
    #[error("{file} is a config without weights; {remedy}, or take random weights with --load-format dummy")]
    NoWeights {
        /// The config's file, or the name of the shape.
        file: String,
        /// What to name instead.
        remedy: String,
    },
    /// A word that names no model.
    #[error("{found} names no model; give {expected}")]
    UnknownModel {
        /// The word.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A file is not JSON.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and what was wrong.
        source: serde_json::Error,
    },
    /// A field of a config file is missing, has the wrong type or a value that makes no sense.
    #[error("{file}: {key} is {found}, expected {expected}")]
    Field {
        /// The file, or the name of the shape.
        file: String,
        /// The key, with the path to it.
        key: String,
        /// What stands there, as JSON, or `missing`.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The model is of a kind that this program does not run.
    #[error("{what} {found} is not supported; supported: {supported}")]
    Unsupported {
        /// Architecture, rope type, quantization method.
        what: &'static str,
        /// What was found.
        found: String,
        /// What would do.
        supported: String,
    },
    /// A checkpoint's file is cut short, or says of itself what is not so.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Tensors that the config implies are not in the checkpoint.
    #[error("the checkpoint lacks {count} tensors that its config implies: {first}{instead}")]
    MissingTensors {
        /// How many.
        count: usize,
        /// The first few names.
        first: String,
        /// What lies there instead, and what that means.
        instead: String,
    },
    /// The checkpoint holds tensors that change what its layers compute, but not in this architecture.
    #[error(
        "the checkpoint holds {count} tensors that {architecture} does not use, in layers that it computes: {first}; results would be wrong, the checkpoint is of another architecture than its config says"
    )]
    UnreadTensors {
        /// How many.
        count: usize,
        /// As the config names it.
        architecture: String,
        /// The first few names.
        first: String,
    },
    /// A tensor's shape disagrees with the config.
    #[error("tensor {tensor} has shape {found:?}, the config implies {expected:?}")]
    Shape {
        /// Name in the checkpoint.
        tensor: String,
        /// As stored.
        found: Vec<usize>,
        /// As implied.
        expected: Vec<usize>,
    },
    /// A tensor is stored in an element type that does not fit its place.
    #[error("tensor {tensor} is stored as {found}, expected {expected}")]
    ElementType {
        /// Name in the checkpoint.
        tensor: String,
        /// As stored.
        found: String,
        /// What would do.
        expected: String,
    },
    /// The parts of a fused linear are not quantized alike.
    #[error(
        "{layer}: {first} is {first_scheme} but {second} is {second_scheme}; parts that are multiplied as one must be quantized alike"
    )]
    MixedScheme {
        /// Name of the fused linear.
        layer: String,
        /// One part.
        first: String,
        /// Its scheme.
        first_scheme: String,
        /// Another part.
        second: String,
        /// Its scheme.
        second_scheme: String,
    },
    /// A scale that is not a positive finite number.
    #[error("scale {tensor} is {value} at {index}; a scale is a positive finite number")]
    Scale {
        /// Name in the checkpoint.
        tensor: String,
        /// Position of the first such scale.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A weight holds NaN or an infinity.
    #[error("tensor {tensor} holds NaN or infinity at row {row}, column {column}: the checkpoint is damaged")]
    NotFinite {
        /// Name in the checkpoint.
        tensor: String,
        /// Row of the first such element.
        row: usize,
        /// Column of the first such element.
        column: usize,
    },
    /// `--quantization` contradicts what the checkpoint says of itself.
    #[error(
        "the checkpoint is quantized already ({method}); --quantization {asked} cannot be applied on top of it, leave it out"
    )]
    AlreadyQuantized {
        /// The checkpoint's own method.
        method: String,
        /// What was asked for.
        asked: String,
    },
    /// The KV cache cannot have this element type here.
    #[error("a KV cache in {asked} is not supported by this device; supported: {supported}")]
    KvCacheType {
        /// What was asked for, or what the model implies.
        asked: DataType,
        /// The device's own types.
        supported: String,
    },
    /// `--max-model-len` is longer than the model was made for.
    #[error("max_model_len {asked} is above the {limit} tokens that the model's config allows ({reason})")]
    TooLong {
        /// What was asked for.
        asked: usize,
        /// What the config allows.
        limit: usize,
        /// What sets the limit, and what would raise it.
        reason: String,
    },
    /// A sequence of the longest allowed length does not fit beside the weights.
    #[error("{0}")]
    DoesNotFit(crate::memory::DoesNotFit),
    /// A model of the Hub could not be had.
    #[error("cannot get {repository} from the Hub: {problem}")]
    Hub {
        /// The id.
        repository: String,
        /// What went wrong and what to do.
        problem: String,
    },
    /// The device refused.
    #[error("{place}: {source}")]
    Backend {
        /// The tensor or the stage that it concerns.
        place: String,
        /// The device's answer.
        source: BackendError,
    },
}

impl ModelError {
    /// Turns an I/O error into one that says what was read where.
    pub(crate) fn read(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { what, path, source }
    }

    /// Adds to a device's error what it concerns.
    pub(crate) fn backend(place: impl Into<String>) -> impl FnOnce(BackendError) -> Self {
        let place = place.into();
        move |source| Self::Backend { place, source }
    }
}
