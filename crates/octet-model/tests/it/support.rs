//! Golden cases, checkpoints written for a test, and a runner driven by hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use octet_backend::{Backend, Batch};
use octet_cpu::{CpuBackend, CpuOptions, Isa, PoolOptions, ThreadBinding};
use octet_engine::{Executor, OutputRow, RowOutcome, Slot, StepOutput, StepPlan, Task};
use octet_model::{LoadOptions, LoadedModel, ModelError, ModelSource, Runner, RunnerLimits, WeightType};
use octet_reference::ReferenceBackend;
use octet_sample::SamplingParams;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub(crate) const BLOCK_SIZE: usize = 16;
/// No golden case is longer.
pub(crate) const MAX_MODEL_LEN: usize = 128;

/// What transformers computed for a checkpoint.
pub(crate) struct Golden {
    pub(crate) folder: PathBuf,
    pub(crate) prompt: Vec<u32>,
    /// `[prompt tokens, vocabulary]`.
    pub(crate) logits: Vec<f32>,
    pub(crate) greedy: Vec<u32>,
    pub(crate) margins: Vec<f32>,
    /// Final hidden states, `[prompt tokens, hidden]`, of the cases that have them.
    pub(crate) hidden: Option<Vec<f32>>,
}

impl Golden {
    pub(crate) fn read(case: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> {
            let tensor = tensors.tensor(name).unwrap();
            tensor.data().chunks_exact(4).map(|word| word.try_into().unwrap()).collect()
        };
        let numbers = |name| words(name).into_iter().map(f32::from_le_bytes).collect();
        let ids = |name| words(name).into_iter().map(u32::from_le_bytes).collect();
        Self {
            prompt: ids("prompt_ids"),
            logits: numbers("logits"),
            greedy: ids("greedy_ids"),
            margins: numbers("greedy_margins"),
            hidden: tensors.tensor("hidden").is_ok().then(|| numbers("hidden")),
            folder,
        }
    }
}

/// A checkpoint in memory, to be changed and written.
#[derive(Clone)]
pub(crate) struct Draft {
    /// The case that it was made of.
    pub(crate) case: String,
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) element: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { element: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub(crate) fn e4m3(shape: &[usize], codes: Vec<u8>) -> Self {
        Self { element: Dtype::F8_E4M3, shape: shape.to_vec(), bytes: codes }
    }

    pub(crate) fn numbers(&self) -> Vec<f32> {
        let halves = self.bytes.chunks_exact(2).map(|it| [it[0], it[1]]);
        match self.element {
            Dtype::F32 => {
                self.bytes.chunks_exact(4).map(|it| f32::from_le_bytes(it.try_into().unwrap())).collect()
            }
            Dtype::F16 => halves.map(|it| f16::from_le_bytes(it).to_f32()).collect(),
            Dtype::BF16 => halves.map(|it| bf16::from_le_bytes(it).to_f32()).collect(),
            other => panic!("{other:?} has no numbers here"),
        }
    }
}

impl Draft {
    /// A golden case's checkpoint, every tensor as f32.
    pub(crate) fn of(case: &str) -> Self {
        let folder = Golden::read(case).folder;
        let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let stored = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = BTreeMap::new();
        for (name, view) in stored.iter() {
            let tensor =
                Tensor { element: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
            tensors.insert(name.to_owned(), Tensor::f32(&tensor.shape, &tensor.numbers()));
        }
        Self { case: case.to_owned(), config, tensors }
    }

    /// Names of the decoder layers' linears, without `.weight`.
    pub(crate) fn linears(&self) -> Vec<String> {
        let names = self.tensors.keys().filter_map(|name| name.strip_suffix("_proj.weight"));
        names.map(|name| format!("{name}_proj")).collect()
    }

    /// Writes it as one file into a new folder.
    pub(crate) fn write(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        write_tensors(&folder.path().join("model.safetensors"), &self.tensors);
        folder
    }

    /// Loads it onto the reference backend in f32.
    pub(crate) fn load(&self) -> Result<LoadedModel<ReferenceBackend>, ModelError> {
        self.load_with(EXACT)
    }

    /// Loads it onto the reference backend.
    pub(crate) fn load_with(
        &self,
        options: LoadOptions,
    ) -> Result<LoadedModel<ReferenceBackend>, ModelError> {
        let folder = self.write();
        load(folder.path(), options)
    }

    /// Loads it onto the CPU backend.
    pub(crate) fn load_on_cpu(&self, options: LoadOptions) -> Result<LoadedModel<CpuBackend>, ModelError> {
        self.load_on(cpu(), options)
    }

    /// Loads it onto a backend.
    pub(crate) fn load_on<B: Backend>(
        &self,
        backend: B,
        options: LoadOptions,
    ) -> Result<LoadedModel<B>, ModelError> {
        let folder = self.write();
        load_on(backend, folder.path(), options)
    }

    /// The error that loading gives.
    pub(crate) fn error(&self) -> String {
        self.load_with(EXACT).err().expect("loading should fail").to_string()
    }
}

/// Two workers wherever the system puts them: tests run side by side.
pub(crate) fn cpu() -> CpuBackend {
    cpu_with(Isa::from_environment().unwrap())
}

/// The CPU backend on one instruction set.
pub(crate) fn cpu_with(isa: Isa) -> CpuBackend {
    let threads = PoolOptions { workers: Some(2), binding: ThreadBinding::Unbound, reserved_cores: 0 };
    CpuBackend::new(&CpuOptions { threads, isa: Some(isa.name().to_owned()) }).unwrap()
}

pub(crate) fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let views = tensors.iter().map(|(name, tensor)| {
        (name.clone(), TensorView::new(tensor.element, tensor.shape.clone(), &tensor.bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// In f32 all the way.
pub(crate) const EXACT: LoadOptions = LoadOptions {
    weight_type: WeightType::Float32,
    quantization: None,
    quantize_head: false,
    load_format: octet_model::LoadFormat::Safetensors,
    kv_cache_type: octet_model::KvCacheChoice::Auto,
    max_model_len: octet_model::MaxModelLen::Model,
    seed: 0,
};

pub(crate) fn load(folder: &Path, options: LoadOptions) -> Result<LoadedModel<ReferenceBackend>, ModelError> {
    load_on(ReferenceBackend::new(), folder, options)
}

pub(crate) fn load_on<B: Backend>(
    backend: B,
    folder: &Path,
    options: LoadOptions,
) -> Result<LoadedModel<B>, ModelError> {
    LoadedModel::load(backend, &ModelSource::Folder(folder.to_owned()), &options, &mut |_| {})
}

pub(crate) fn limits(max_model_len: usize) -> RunnerLimits {
    RunnerLimits {
        max_batched_tokens: 64,
        max_sequences: 4,
        max_model_len,
        block_size: BLOCK_SIZE,
        num_blocks: 40,
    }
}

/// Logits of every token of a prompt, `[tokens, vocabulary]`, computed in pieces of at most `chunk` tokens.
pub(crate) fn logits<B: Backend>(runner: &mut Runner<B>, prompt: &[u32], chunk: usize) -> Vec<f32> {
    continue_logits(runner, prompt, (0, chunk), &block_table(prompt.len(), 1))
}

/// As [`logits`] for the tokens from `computed` on, whose keys and values before it are in the blocks already.
pub(crate) fn continue_logits<B: Backend>(
    runner: &mut Runner<B>,
    prompt: &[u32],
    (mut computed, chunk): (usize, usize),
    blocks: &[u32],
) -> Vec<f32> {
    let mut all = Vec::new();
    while computed < prompt.len() {
        let end = prompt.len().min(computed + chunk);
        let mut batch = Batch::default();
        batch.push_sequence(&prompt[computed..end], computed, &blocks[..end.div_ceil(BLOCK_SIZE)]);
        batch.output_rows = (0..u32::try_from(end - computed).unwrap()).collect();
        all.extend(runner.logits(&batch).unwrap());
        computed = end;
    }
    all
}

/// Blocks for `tokens` tokens, from `first` on.
pub(crate) fn block_table(tokens: usize, first: u32) -> Vec<u32> {
    (first..first + u32::try_from(tokens.div_ceil(BLOCK_SIZE)).unwrap()).collect()
}

pub(crate) fn greedy_params() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..SamplingParams::default() }
}

pub(crate) fn generating(sampling: SamplingParams) -> Task {
    Task::Generate { sampling: sampling.into(), max_tokens: 1 }
}

/// Greedy decoding through the executor, as the engine drives it.
pub(crate) fn generate<B: Backend>(runner: &mut Runner<B>, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let slot = Slot(0);
    runner.admit(slot, &generating(greedy_params()), prompt);
    let blocks = block_table(prompt.len() + tokens, 1);
    let mut known = prompt.to_vec();
    let (mut plan, mut output) = (StepPlan::default(), StepOutput::default());
    let mut computed = 0;
    while known.len() < prompt.len() + tokens {
        plan.batch.clear();
        let cover = known.len().div_ceil(BLOCK_SIZE);
        plan.batch.push_sequence(&known[computed..], computed, &blocks[..cover]);
        plan.batch.output_rows.push(u32::try_from(known.len() - computed - 1).unwrap());
        plan.outputs = vec![OutputRow::Sample(slot)];
        runner.execute(&plan, &mut output).unwrap();
        computed = known.len();
        match &output.rows[..] {
            [RowOutcome::Token(sampled)] => known.push(sampled.token),
            other => panic!("{other:?}"),
        }
    }
    runner.release(slot);
    known.split_off(prompt.len())
}

/// The largest difference.
pub(crate) fn distance(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

/// The root of the mean square.
pub(crate) fn spread(values: &[f32]) -> f32 {
    (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt()
}

/// All of these must be in an error.
#[track_caller]
pub(crate) fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

/// What loading a folder fails with.
pub(crate) fn error_of(folder: &Path) -> String {
    load(folder, EXACT).err().expect("loading should fail").to_string()
}
