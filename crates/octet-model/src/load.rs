//! The life of loading: a source becomes a folder, a config, a plan, and weights on a device.

use std::fmt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use octet_backend::{Backend, DataType, KvCacheSpec, KvScale};
use octet_float8::Float8Format;

use crate::checkpoint::{Checkpoint, Contents, data_type, first_of, hub};
use crate::config::{ConfigOverrides, ModelConfig, RopeScaling};
use crate::decoder::Decoder;
use crate::kv_scales::KvScales;
use crate::memory::{DoesNotFit, MaxModelLen};
use crate::options::{LoadFormat, LoadOptions};
use crate::quantization::{OnlineQuantization, QuantizationConfig};
use crate::runner::{Runner, RunnerLimits};
use crate::source::ModelSource;
use crate::weights::{Packed, PlanOptions, Source, WeightForm, WeightPlan, pack};
use crate::{ModelError, files, shapes};

/// Why dynamic scaling does not stretch, and what does.
const DYNAMIC_LIMIT: &str = "a longer one would have to rotate its cached keys anew; --hf-overrides with a rope_scaling of type yarn or linear goes further";

/// What is going on while a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A file comes from the Hub.
    Download {
        /// Its name.
        file: &'a str,
        /// What has arrived of it.
        loaded_bytes: usize,
        /// All of it.
        total_bytes: usize,
    },
    /// A linear was packed.
    Weights {
        /// Its name.
        tensor: &'a str,
        /// What is read of the checkpoint.
        loaded_bytes: usize,
        /// What will be read.
        total_bytes: usize,
    },
}

/// What a user should know although the model runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// An FP8 KV cache without scales in the checkpoint.
    KvScalesMissing {
        /// Layers without.
        layers: usize,
    },
    /// The checkpoint has scales for an E4M3 cache, but the cache is E5M2.
    KvScalesNotUsed,
    /// Tensors in the checkpoint that the model has no use for.
    UnusedTensors {
        /// How many.
        count: usize,
        /// The first few names.
        first: String,
    },
    /// A `float32` checkpoint is run in 16 bits.
    RoundedToBFloat16,
    /// The head is tied by the config, but the checkpoint has another one, which is used.
    HeadDiffers,
    /// Dynamic scaling ends at the length of training.
    DynamicRope {
        /// That length.
        tokens: usize,
    },
    /// Keys of the config that nobody reads.
    IgnoredKeys {
        /// The config's file.
        file: String,
        /// All of them.
        keys: String,
    },
    /// Files beside the weights that look like weights, by name.
    FilesNotRead(String),
    /// The index names files that are not there, by name; all weights in one file are.
    IndexOfAbsentFiles(String),
    /// The index lists tensors that no file holds.
    IndexedAndAbsent {
        /// How many.
        count: usize,
        /// The first few names.
        first: String,
    },
    /// The index names the wrong file for tensors.
    IndexedElsewhere {
        /// How many.
        count: usize,
        /// The first few names.
        first: String,
    },
    /// Tensors are named as those of a decoder without a head.
    NamesWithoutModel,
    /// `--load-format` names another reader of the same files.
    OtherReader(&'static str),
    /// The Hub could not be asked for something newer than what the cache has; the text says why.
    NotAsked(String),
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KvScalesMissing { layers } => write!(
                formatter,
                "the checkpoint has no scales for the FP8 KV cache of {layers} layers: 1.0 is used, which may cost accuracy"
            ),
            Self::KvScalesNotUsed => formatter.write_str(
                "the checkpoint's scales for the KV cache are for E4M3 and do not apply to fp8_e5m2; --kv-cache-dtype fp8 uses them",
            ),
            Self::UnusedTensors { count, first } => write!(
                formatter,
                "{count} tensors of the checkpoint are of no use to this architecture: {first}"
            ),
            Self::RoundedToBFloat16 => formatter
                .write_str("the checkpoint is in float32 and is run in bfloat16; --dtype float32 keeps it"),
            Self::HeadDiffers => formatter.write_str(
                "the config ties the head to the embedding, but the checkpoint's lm_head.weight differs and is used; tie_word_embeddings should be false",
            ),
            Self::DynamicRope { tokens } => write!(
                formatter,
                "with dynamic rotary scaling sequences end at the {tokens} tokens of training: {DYNAMIC_LIMIT}"
            ),
            Self::IgnoredKeys { file, keys } => write!(formatter, "{file}: keys that are not known are ignored: {keys}"),
            Self::FilesNotRead(names) => {
                write!(formatter, "beside the checkpoint lies what is not read: {names}")
            }
            Self::IndexOfAbsentFiles(names) => write!(
                formatter,
                "the index names files that are not there: {names}; model.safetensors is read in their place"
            ),
            Self::IndexedAndAbsent { count, first } => {
                write!(formatter, "the index lists {count} tensors that no file holds, and none is needed: {first}")
            }
            Self::IndexedElsewhere { count, first } => write!(
                formatter,
                "the index names the wrong file for {count} tensors, which are read from where they are: {first}"
            ),
            Self::NamesWithoutModel => formatter.write_str(
                "the checkpoint's tensors are named as those of a decoder without a head; they are read as if model. stood before",
            ),
            Self::OtherReader(name) => write!(
                formatter,
                "--load-format {name} is another way to read the same weights; they are read from the safetensors files in Octet's own"
            ),
            Self::NotAsked(problem) => write!(
                formatter,
                "the model in the cache is used, the Hub could not be asked for a newer one ({problem}); HF_HUB_OFFLINE=1 does not ask"
            ),
        }
    }
}

/// A source, looked up: config and files, but no weights yet. Cheap; the program also uses it to see what a model is
/// before it chooses a device.
#[derive(Debug)]
pub struct ResolvedModel {
    /// The folder, unless the model is a shape.
    pub folder: Option<PathBuf>,
    /// The config.
    pub config: ModelConfig,
    /// Weights are made up.
    is_dummy: bool,
    /// Name of the config's file, for errors.
    file: String,
    /// What a user should know about where it was found.
    warnings: Vec<Warning>,
}

impl ResolvedModel {
    /// Finds the model's files, from the Hub if they are to come from there, and reads its configs.
    ///
    /// # Errors
    /// Everything that can be wrong with a folder, the Hub, or a config.
    pub fn new(
        source: &ModelSource,
        load_format: LoadFormat,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, ModelError> {
        Self::with_overrides(source, load_format, &ConfigOverrides::default(), progress)
    }

    /// As [`ResolvedModel::new`], with values that replace those of `config.json`.
    ///
    /// # Errors
    /// As [`ResolvedModel::new`].
    pub fn with_overrides(
        source: &ModelSource,
        load_format: LoadFormat,
        overrides: &ConfigOverrides,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, ModelError> {
        let mut warnings = Vec::new();
        if let LoadFormat::OtherReader(name) = load_format {
            warnings.push(Warning::OtherReader(name));
        }
        let folder = match source {
            ModelSource::Shape(name) => {
                let (config, file) = (shapes::config(name, overrides)?, name.clone());
                if load_format != LoadFormat::Dummy {
                    let remedy = "name the folder or the Hub's id of a model".to_owned();
                    return Err(ModelError::NoWeights { file, remedy });
                }
                return Ok(Self::without_weights(config, file));
            }
            ModelSource::Config(path) => return Self::of_config(path, load_format, overrides),
            ModelSource::Folder(folder) => folder.clone(),
            ModelSource::Hub(model) => {
                let fetched = hub::fetch(model, load_format == LoadFormat::Dummy, progress)?;
                warnings.extend(fetched.not_asked.map(Warning::NotAsked));
                fetched.folder
            }
        };
        Self::of_folder(folder, load_format, overrides, warnings)
    }

    fn of_folder(
        folder: PathBuf,
        load_format: LoadFormat,
        overrides: &ConfigOverrides,
        warnings: Vec<Warning>,
    ) -> Result<Self, ModelError> {
        let path = config_path(&folder)?;
        let mut config = ModelConfig::read_with(&path, overrides)?;
        config.tokenizer_limit = tokenizer_limit(&folder);
        Ok(Self {
            config,
            folder: Some(folder),
            is_dummy: load_format == LoadFormat::Dummy,
            file: path.display().to_string(),
            warnings,
        })
    }

    /// A config's file. With random weights, `config.json` may stand for its folder, which also has the tokenizer.
    fn of_config(
        path: &Path,
        load_format: LoadFormat,
        overrides: &ConfigOverrides,
    ) -> Result<Self, ModelError> {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if load_format == LoadFormat::Dummy && path.ends_with("config.json") {
            return Self::of_folder(folder.to_owned(), load_format, overrides, Vec::new());
        }
        let file = path.display().to_string();
        if load_format != LoadFormat::Dummy {
            let remedy = format!("name the folder of a checkpoint, as in {}", folder.display());
            return Err(ModelError::NoWeights { file, remedy });
        }
        Ok(Self::without_weights(ModelConfig::read_with(path, overrides)?, file))
    }

    /// A config alone: its weights are made up.
    fn without_weights(config: ModelConfig, file: String) -> Self {
        Self { folder: None, config, is_dummy: true, file, warnings: Vec::new() }
    }
}

/// `model_max_length` of the tokenizer, which writes 10^30 for none. Whoever loads the tokenizer says what is wrong with
/// its file.
fn tokenizer_limit(folder: &Path) -> Option<usize> {
    let text = files::read_text(&folder.join("tokenizer_config.json"), "the tokenizer's config").ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let limit = config.get("model_max_length")?.as_f64()?;
    (1.0..f64::from(i32::MAX)).contains(&limit).then_some(limit as usize)
}

fn config_path(folder: &Path) -> Result<PathBuf, ModelError> {
    const NAME: &str = "config.json";
    let path = folder.join(NAME);
    // A link that leads nowhere is there too, and is said to be one when it is read.
    if path.exists() || path.is_symlink() {
        return Ok(path);
    }
    let hint = Contents::of_folder(folder)?
        .advice("a model's folder holds config.json, safetensors files and a tokenizer");
    Err(ModelError::Missing { folder: folder.to_owned(), wanted: NAME, hint })
}

/// A model with its weights on a device, not yet given a workspace and a KV cache.
pub struct LoadedModel<B: Backend> {
    backend: B,
    model: ResolvedModel,
    weights: Packed<B>,
    weight_type: DataType,
    kv_type: DataType,
    kv_scales: Vec<KvScale>,
    max_model_len: MaxModelLen,
    quantization: Option<&'static str>,
    warnings: Vec<Warning>,
}

impl<B: Backend> LoadedModel<B> {
    /// Loads a model onto a device.
    ///
    /// # Errors
    /// Everything that can be wrong with a source, a config or a checkpoint, and what the device refuses.
    pub fn load(
        backend: B,
        source: &ModelSource,
        options: &LoadOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, ModelError> {
        let model = ResolvedModel::new(source, options.load_format, progress)?;
        Self::load_resolved(backend, model, options, progress)
    }

    /// As [`LoadedModel::load`] for a source that was looked up before.
    ///
    /// # Errors
    /// As [`LoadedModel::load`].
    pub fn load_resolved(
        mut backend: B,
        mut model: ResolvedModel,
        options: &LoadOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, ModelError> {
        check_length(&model.config, options.max_model_len)?;
        let quantization = QuantizationConfig::find(&model.config, &model.file, model.folder.as_deref())?;
        let online = online(quantization.as_ref(), options.quantization)?;
        let checkpoint = match &model.folder {
            Some(folder) if !model.is_dummy => Some(Checkpoint::open(folder)?),
            _ => None,
        };
        let mut warnings = config_warnings(&model);
        warnings.extend(checkpoint.iter().flat_map(Checkpoint::warnings).cloned());
        if has_other_head(&model.config, checkpoint.as_ref())? {
            model.config.tied_embeddings = false;
            warnings.push(Warning::HeadDiffers);
        }
        let stored = stored_type(&model.config, checkpoint.as_ref());
        let weight_type = options.weight_type.resolve(stored);
        if stored == DataType::F32 && weight_type == DataType::BF16 {
            warnings.push(Warning::RoundedToBFloat16);
        }
        let wants_float8 = quantization.as_ref().is_some_and(QuantizationConfig::wants_float8_cache);
        let kv_type = options.kv_cache_type.resolve(weight_type, wants_float8, backend.kv_cache_types())?;
        let plan_options = PlanOptions {
            data_type: weight_type,
            quantization: quantization.as_ref(),
            online,
            quantize_head: options.quantize_head,
        };
        let plan = WeightPlan::new(&model.config, plan_options, checkpoint.as_ref())?;
        if !plan.unused.is_empty() {
            let count = plan.unused.len();
            warnings.push(Warning::UnusedTensors { count, first: first_of(plan.unused.clone()) });
        }
        let kv_scales = kv_scales(&model.config, kv_type, checkpoint.as_ref(), &mut warnings)?;
        let (needed_bytes, free_bytes) = (plan.device_bytes(), backend.memory().free_bytes);
        if needed_bytes > free_bytes {
            return Err(ModelError::DoesNotFit(DoesNotFit::Weights { needed_bytes, free_bytes }));
        }
        let source = Source::new(checkpoint.as_ref(), plan.linears(), options.seed);
        let weights = pack(&mut backend, &plan, &source, progress)?;
        Ok(Self {
            backend,
            model,
            weights,
            weight_type,
            kv_type,
            kv_scales,
            max_model_len: options.max_model_len,
            quantization: quantization
                .as_ref()
                .map(QuantizationConfig::method)
                .or(online.map(OnlineQuantization::name)),
            warnings,
        })
    }

    /// The model's config.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// The model's folder, for the tokenizer; none for a shape.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.model.folder.as_deref()
    }

    /// The device.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The device, to test it.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// How the weights of products are kept on the device, each way once.
    #[must_use]
    pub fn weight_forms(&self) -> &[WeightForm] {
        &self.weights.forms
    }

    /// Element type of weights that are not quantized.
    #[must_use]
    pub fn weight_type(&self) -> DataType {
        self.weight_type
    }

    /// How weights are quantized: the checkpoint's own method, as `config.json` names it, or the one of the load.
    #[must_use]
    pub fn quantization(&self) -> Option<&'static str> {
        self.quantization
    }

    /// Element type of the KV cache.
    #[must_use]
    pub fn kv_type(&self) -> DataType {
        self.kv_type
    }

    /// The longest sequence, as it was asked for.
    #[must_use]
    pub fn max_model_len(&self) -> MaxModelLen {
        self.max_model_len
    }

    /// Bytes of all weights on the device.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes
    }

    /// What a user should know.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Allocates workspace and KV cache: the model is then ready to run. Limits usually come from
    /// [`LoadedModel::plan_memory`].
    ///
    /// # Errors
    /// What the device refuses.
    pub fn into_runner(self, limits: RunnerLimits) -> Result<Runner<B>, ModelError> {
        let config = self.model.config;
        let cache = KvCacheSpec {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            block_size: limits.block_size,
            blocks: limits.num_blocks,
            data_type: self.kv_type,
            scales: self.kv_scales,
        };
        let decoder = Decoder::new(&config, self.weight_type, self.weights.model);
        // On a thread of its own, because a device may bind the thread that calls it to a CPU.
        thread::scope(|scope| {
            let runner = scope.spawn(|| Runner::new(self.backend, &config, decoder, limits, &cache));
            runner.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

/// Holds `--max-model-len` against the config.
fn check_length(config: &ModelConfig, length: MaxModelLen) -> Result<(), ModelError> {
    let MaxModelLen::Tokens(asked) = length else { return Ok(()) };
    let limit = config.longest_sequence();
    let is_dynamic = config.rope.scaling == RopeScaling::Dynamic;
    let allowed = config.model_max_length.filter(|_| !is_dynamic).unwrap_or(limit);
    if asked <= limit.max(allowed) {
        return Ok(());
    }
    let reason = match config.tokenizer_limit {
        _ if is_dynamic => format!("dynamic rotary scaling: {DYNAMIC_LIMIT}"),
        Some(tokens) if tokens < config.rope.longest_sequence(None) => format!(
            "model_max_length {tokens} in tokenizer_config.json; --hf-overrides '{{\"model_max_length\": {asked}}}' allows more"
        ),
        _ => format!(
            "max_position_embeddings {}; a rope_scaling stretches it, --hf-overrides '{{\"model_max_length\": {asked}}}' does not heed it",
            config.rope.max_positions
        ),
    };
    Err(ModelError::TooLong { asked, limit, reason })
}

/// What a user should know of where the model was found, and of its config.
fn config_warnings(model: &ResolvedModel) -> Vec<Warning> {
    let mut warnings = model.warnings.clone();
    if model.config.rope.scaling == RopeScaling::Dynamic {
        warnings.push(Warning::DynamicRope { tokens: model.config.longest_sequence() });
    }
    if !model.config.ignored_keys.is_empty() {
        let keys = model.config.ignored_keys.join(", ");
        warnings.push(Warning::IgnoredKeys { file: model.file.clone(), keys });
    }
    warnings
}

/// Whether the checkpoint has a head of its own although the config ties it. As transformers, which then does not tie.
fn has_other_head(config: &ModelConfig, checkpoint: Option<&Checkpoint>) -> Result<bool, ModelError> {
    let Some(checkpoint) = checkpoint.filter(|_| config.tied_embeddings) else { return Ok(false) };
    let tensor = |name| checkpoint.tensor(name);
    match (tensor("lm_head.weight"), tensor("model.embed_tokens.weight")) {
        (Some(head), Some(embedding)) => Ok(!checkpoint.are_equal(head, embedding)?),
        _ => Ok(false),
    }
}

/// A checkpoint's own quantization wins; asking for the same again is no contradiction, anything else is.
fn online(
    own: Option<&QuantizationConfig>,
    asked: Option<OnlineQuantization>,
) -> Result<Option<OnlineQuantization>, ModelError> {
    match (own, asked) {
        (None, asked) => Ok(asked),
        (Some(_), None) => Ok(None),
        (Some(QuantizationConfig::Fp8(_)), Some(OnlineQuantization::Tensor)) => Ok(None),
        (Some(own), Some(asked)) => {
            Err(ModelError::AlreadyQuantized { method: own.method().to_owned(), asked: asked.to_string() })
        }
    }
}

/// What the config names, else what the embedding is stored in.
fn stored_type(config: &ModelConfig, checkpoint: Option<&Checkpoint>) -> DataType {
    let embedding = checkpoint.and_then(|checkpoint| checkpoint.tensor("model.embed_tokens.weight"));
    let of_embedding = embedding.and_then(|tensor| data_type(tensor.element));
    config.stored_type.or(of_embedding).unwrap_or(DataType::BF16)
}

/// Scales of the KV cache: those of the checkpoint for E4M3, doubled for FNUZ; 1.0 for everything else.
fn kv_scales(
    config: &ModelConfig,
    kv_type: DataType,
    checkpoint: Option<&Checkpoint>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<KvScale>, ModelError> {
    let DataType::F8(format) = kv_type else {
        return Ok(vec![KvScale::ONE; config.layers]);
    };
    let mut names = checkpoint.iter().flat_map(|it| it.names()).filter(|name| KvScales::wants(name));
    if matches!(format, Float8Format::E5M2 | Float8Format::E5M2Fnuz) {
        warnings.extend(names.next().map(|_| Warning::KvScalesNotUsed));
        return Ok(vec![KvScale::ONE; config.layers]);
    }
    let mut found = KvScales::default();
    if let Some(checkpoint) = checkpoint {
        for name in names {
            let tensor = checkpoint.tensor(name).expect("the name is one of the checkpoint's own");
            found.insert(name, &checkpoint.read_numbers(name, tensor)?);
        }
    }
    let resolved = found.resolve(config.layers, format.is_fnuz());
    if resolved.layers_without > 0 {
        warnings.push(Warning::KvScalesMissing { layers: resolved.layers_without });
    }
    Ok(resolved.scales)
}
