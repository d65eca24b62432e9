//! Faults seeded into the kernels: each must be noticed. A test that passes with a barrier removed tests nothing.
//!
//! Each fault runs in a process of its own, because a simulated device that met one is as unusable as a real one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use octet_backend::{
    AttentionSpec, Backend, Batch, DataType, KvCacheSpec, KvScale, LinearPart, LinearSpec, LinearUse, Norm,
    RmsNorm, RopeSpec, RotaryAndCache, TensorRole, TensorSpec, WeightScale, WeightView,
};
use octet_gpu::{ActivationType, GpuOptions};
use octet_reference::ReferenceBackend;

use crate::decoder;
use crate::simulator::{backend, kernel_cache};

/// What is run on faulty kernels.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// Decoders and what they do in large.
    Decoder,
    /// Sampling.
    Sampling,
    /// Products of FP8 by FP8.
    Float8,
    Everything,
}

/// A change of one place of one file, and the device on which it shows.
struct Fault {
    part: Part,
    what: &'static str,
    device: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn fault(
    what: &'static str,
    device: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
) -> Fault {
    Fault { part: Part::Decoder, what, device, file, from, to }
}

/// A fault of sampling.
const fn sampling(what: &'static str, from: &'static str, to: &'static str) -> Fault {
    Fault { part: Part::Sampling, what, device: "gfx942", file: "sample.cu", from, to }
}

/// A fault of products of FP8.
const fn float8(what: &'static str, file: &'static str, from: &'static str, to: &'static str) -> Fault {
    Fault { part: Part::Float8, what, device: "gfx942", file, from, to }
}

const FAULTS: [Fault; 30] = [
    Fault {
        part: Part::Everything,
        what: "nothing",
        device: "gfx942",
        file: "device.h",
        from: "// ---- Numbers.",
        to: "// ---- Numbers",
    },
    fault(
        "no barrier in sums of a block",
        "gfx942",
        "device.h",
        "    block_sync();\n    float sum",
        "    float sum",
    ),
    fault(
        "waves of 32 in sums",
        "gfx942",
        "device.h",
        "mask = WAVE / 2; mask > 0; mask /= 2) value +=",
        "mask = 16; mask > 0; mask /= 2) value +=",
    ),
    fault(
        "no barrier before sums of waves",
        "gfx942",
        "linear.cu",
        "    block_sync();\n    u32 feature",
        "    u32 feature",
    ),
    fault("four waves along k", "gfx1100", "linear.cu", "k += WAVES * 64", "k += 4 * 64"),
    fault(
        "no barrier after a tile is stored",
        "gfx942",
        "linear.cu",
        "        block_sync();\n        // The next",
        "        // The next",
    ),
    fault(
        "no barrier before a tile is replaced",
        "gfx942",
        "linear.cu",
        "        block_sync();\n    }\n#pragma",
        "    }\n#pragma",
    ),
    fault(
        "the last tile of k is lost",
        "gfx1100",
        "linear.cu",
        "k + TILE_K < p.k ? k + TILE_K : k",
        "k + 2 * TILE_K < p.k ? k + TILE_K : k",
    ),
    fault(
        "rows of results swapped",
        "gfx942",
        "matrix.h",
        "lane_index() / 16 * 4 + i",
        "lane_index() / 16 * 4 + (i ^ 1)",
    ),
    fault(
        "scores are read too early",
        "gfx942",
        "attention.cu",
        "        wave_sync();\n        weigh_keys",
        "        weigh_keys",
    ),
    fault("a token does not see itself", "gfx942", "attention.cu", "key <= position &&", "key < position &&"),
    fault(
        "one key too many",
        "gfx942",
        "attention.cu",
        "&& key + 2 * pair + 1 < end",
        "&& key + 2 * pair + 1 <= end",
    ),
    fault("two lanes a query", "gfx942", "attention.cu", "#define PARTS (WAVE / 16)", "#define PARTS 2"),
    fault(
        "earlier sums do not shrink",
        "gfx942",
        "attention.cu",
        "sums[t].value[i] *= shrink[acc_column(i)];",
        ";",
    ),
    fault(
        "waves merge at once",
        "gfx942",
        "attention.cu",
        "        block_sync();\n    }\n    store_result",
        "    }\n    store_result",
    ),
    fault(
        "halves of a head are stored too early",
        "gfx942",
        "rotary.cu",
        "    wave_sync();\n    if (wanted",
        "    if (wanted",
    ),
    sampling("sums are read too early", "= values[i];\n    }\n    block_sync();", "= values[i];\n    }"),
    sampling(
        "the next sums come too early",
        "    // The next sums go to the same place.\n    block_sync();",
        "",
    ),
    sampling(
        "the largest is read too early",
        "shared.sums[0][wave_index()] = value;\n    block_sync();",
        "shared.sums[0][wave_index()] = value;",
    ),
    sampling("the list is emptied too late", "shared.listed = 0;\n    block_sync();", "shared.listed = 0;"),
    sampling(
        "chunks are read too early",
        "shared.chunks[chunk] = sum;\n    }\n    block_sync();",
        "shared.chunks[chunk] = sum;\n    }",
    ),
    sampling(
        "waves of 32 in sums of weights",
        "mask = WAVE / 2; mask > 0; mask /= 2) value +=",
        "mask = 16; mask > 0; mask /= 2) value +=",
    ),
    sampling("the draw is one short", "rest + 1, top", "rest, top"),
    sampling("ties are all kept", "if (needed >= sums[1])", "if (needed >= 0)"),
    sampling("top-p of everything", "order >= kept.order ? weigh(order) : 0", "weigh(order)"),
    float8(
        "no barrier in a block's largest",
        "device.h",
        "    block_sync();\n#pragma unroll\n    for (u32 wave = 0; wave < WAVES; wave++) value = larger",
        "#pragma unroll\n    for (u32 wave = 0; wave < WAVES; wave++) value = larger",
    ),
    float8("a norm's scratch is used twice", "quantize.cu", "row, scratch[1]", "row, scratch[0]"),
    float8("the scales of rows are lost", "linear.cu", "value *= p.input_scales[row];", ";"),
    float8("no clamp before the conversion", "quantize.cu", "smaller(scaled, LIMIT)", "scaled"),
    float8(
        "halves of an operand swapped",
        "matrix.h",
        "b.piece[i].pair[2 * k], b.piece[i].pair[2 * k + 1]",
        "b.piece[i].pair[2 * k + 1], b.piece[i].pair[2 * k]",
    ),
];

/// Names the fault to the child process.
const VARIABLE: &str = "OCTET_TEST_FAULT";
/// Folder of its kernels.
const FOLDER_VARIABLE: &str = "OCTET_TEST_FOLDER";

#[test]
fn every_fault_has_one_place() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    for fault in &FAULTS {
        let text = fs::read_to_string(kernels.join(fault.file)).unwrap();
        assert_eq!(text.matches(fault.from).count(), 1, "{} is in one place of {}", fault.what, fault.file);
    }
}

#[test]
fn every_seeded_fault_is_noticed() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let next = AtomicUsize::new(0);
    let unnoticed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((index, fault)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    FAULTS.get(index).map(|fault| (index, fault))
                } {
                    let is_noticed = !passes(index, fault);
                    if is_noticed == (index == 0) {
                        unnoticed.lock().unwrap().push(fault.what);
                    }
                }
            });
        }
    });
    let unnoticed = unnoticed.into_inner().unwrap();
    assert!(unnoticed.is_empty(), "wrongly judged: {unnoticed:?}");
}

/// Runs [`one_fault`] on kernels with a fault, in a child process.
fn passes(index: usize, fault: &Fault) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let text = fs::read_to_string(kernels.join(fault.file)).unwrap();
    fs::write(folder.path().join(fault.file), text.replace(fault.from, fault.to)).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::one_fault"])
        .env(VARIABLE, index.to_string())
        .env(FOLDER_VARIABLE, folder.path())
        .env("OCTET_TEST_CACHE", kernel_cache())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(!said.contains("was not compiled"), "{} is no C++: {said}", fault.what);
    child.status.success()
}

/// Does nothing unless a fault is named: the child's part.
#[test]
fn one_fault() {
    let Some(index) = std::env::var(VARIABLE).ok().and_then(|index| index.parse::<usize>().ok()) else {
        return;
    };
    let options = GpuOptions {
        activations: ActivationType::F32,
        kernel_sources: std::env::var_os(FOLDER_VARIABLE).map(Into::into),
        ..GpuOptions::default()
    };
    let Fault { part, device, .. } = FAULTS[index];
    if matches!(part, Part::Decoder | Part::Everything) {
        many_rows(device, &options);
        wide_rows(device, &options);
        long_context(device, &options);
        decoder::check_exactly(device, &options);
    }
    if matches!(part, Part::Sampling | Part::Everything) {
        octet_conformance::sample_vocabulary(&mut backend(device, &options), 1500);
    }
    if matches!(part, Part::Float8 | Part::Everything) {
        let options = GpuOptions { activations: ActivationType::BF16, ..options };
        octet_conformance::float8_inputs(&mut backend(device, &options));
    }
}

/// A linear of more rows than the decoder's prompts have, whose result is known: row r times column c of ones is k.
fn many_rows(device: &str, options: &GpuOptions) {
    const K: usize = 160;
    const FEATURES: usize = 72;
    let mut backend = backend(device, options);
    let weights: Vec<u8> =
        (0..FEATURES * K).flat_map(|at| ((at / K) as f32 + (at % K % 4) as f32).to_le_bytes()).collect();
    let view =
        WeightView { bytes: &weights, data_type: DataType::F32, rows: FEATURES, columns: K, row_stride: K };
    let part = LinearPart { weight: view, scale: WeightScale::None };
    let spec =
        LinearSpec { data_type: DataType::BF16, usage: LinearUse::Multiply, bias: None, input_scale: None };
    let weight = backend.load_linear(spec, &[part]).unwrap();
    for rows in [40, 90] {
        let mut tensor =
            |columns| backend.allocate(TensorSpec { role: TensorRole::Activation, rows, columns }).unwrap();
        let (mut input, mut output) = (tensor(K), tensor(FEATURES));
        let values: Vec<f32> = (0..rows * K).map(|at| (at / K % 8) as f32 + (at % K / 32) as f32).collect();
        backend.write_tensor(&mut input, &values).unwrap();
        let mut batch = Batch::default();
        batch.push_sequence(&vec![0; rows], 0, &[1; 8]);
        backend.begin_step(&batch).unwrap();
        backend.linear(&weight, &input, &mut output).unwrap();
        let found = backend.read_tensor(&output, rows).unwrap();
        for (at, found) in found.into_iter().enumerate() {
            let (row, feature) = (at / FEATURES, at % FEATURES);
            let products = (0..K).map(|k| (row % 8 + k / 32) as f32 * (feature + k % 4) as f32);
            assert_eq!(found, products.sum::<f32>(), "{rows} rows: row {row}, feature {feature}");
        }
    }
}

/// The largest difference from the reference, relative to the largest value.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let worst = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    worst.fold(0.0f32, |worst, next| if next.is_nan() { f32::INFINITY } else { worst.max(next) }) / largest
}

/// A norm of more columns than a wave has lanes, and a product of few rows over more of k than all waves take at once.
fn wide_rows(device: &str, options: &GpuOptions) {
    let found = norm_and_product(&mut backend(device, options));
    let expected = norm_and_product(&mut ReferenceBackend::new());
    let error = relative_error(&found, &expected);
    assert!(error < 1e-4, "wide rows are off by {error}");
}

fn norm_and_product<B: Backend>(backend: &mut B) -> Vec<f32> {
    const ROWS: usize = 3;
    const K: usize = 1100;
    const FEATURES: usize = 20;
    let number = |at: usize| ((at * 37 + at / 7) % 23) as f32 / 8.0 - 1.0;
    let mut tensor = |role, columns| backend.allocate(TensorSpec { role, rows: ROWS, columns }).unwrap();
    let mut input = tensor(TensorRole::Residual, K);
    let mut normed = tensor(TensorRole::Activation, K);
    let mut output = tensor(TensorRole::Activation, FEATURES);
    backend.write_tensor(&mut input, &(0..ROWS * K).map(number).collect::<Vec<f32>>()).unwrap();
    let weight = backend.load_vector(&(0..K).map(number).collect::<Vec<f32>>()).unwrap();
    let bytes: Vec<u8> = (0..FEATURES * K).flat_map(|at| number(at + 5).to_le_bytes()).collect();
    let view =
        WeightView { bytes: &bytes, data_type: DataType::F32, rows: FEATURES, columns: K, row_stride: K };
    let part = LinearPart { weight: view, scale: WeightScale::None };
    let spec =
        LinearSpec { data_type: DataType::F32, usage: LinearUse::Multiply, bias: None, input_scale: None };
    let linear = backend.load_linear(spec, &[part]).unwrap();
    let mut batch = Batch::default();
    batch.push_sequence(&[0; ROWS], 0, &[1]);
    backend.begin_step(&batch).unwrap();
    let operands =
        RmsNorm { input: &input, norm: Norm { weight: &weight, epsilon: 1e-5 }, output: &mut normed };
    backend.rms_norm(operands).unwrap();
    backend.linear(&linear, &normed, &mut output).unwrap();
    let mut found = backend.read_tensor(&normed, ROWS).unwrap();
    found.extend(backend.read_tensor(&output, ROWS).unwrap());
    found
}

/// A context that gives every wave several turns, with scores that grow: earlier sums must shrink.
fn long_context(device: &str, options: &GpuOptions) {
    let found = attend_far(&mut backend(device, options));
    let expected = attend_far(&mut ReferenceBackend::new());
    let error = relative_error(&found, &expected);
    // Queries and probabilities are bf16.
    assert!(error < 0.02, "a long context is off by {error}");
}

fn attend_far<B: Backend>(backend: &mut B) -> Vec<f32> {
    const TOKENS: usize = 400;
    const HEAD_DIM: usize = 16;
    const COLUMNS: usize = 3 * HEAD_DIM;
    let spec = AttentionSpec { layer: 0, query_heads: 1, scale: 0.25, score_cap: None, sliding_window: None };
    let mut cache = backend
        .allocate_kv_cache(&KvCacheSpec {
            layers: 1,
            kv_heads: 1,
            head_dim: HEAD_DIM,
            block_size: 16,
            blocks: 26,
            data_type: DataType::F32,
            scales: vec![KvScale::ONE],
        })
        .unwrap();
    let rope = RopeSpec { inverse_frequencies: vec![0.0; HEAD_DIM / 2], magnitude: 1.0 };
    let rope = backend.load_rope(&rope, TOKENS).unwrap();
    let mut tensor = |columns| {
        backend.allocate(TensorSpec { role: TensorRole::Activation, rows: TOKENS, columns }).unwrap()
    };
    let (mut qkv, mut output) = (tensor(COLUMNS), tensor(HEAD_DIM));
    let element = |at: usize| {
        let (token, column) = (at / COLUMNS, at % COLUMNS);
        match column / HEAD_DIM {
            0 => 1.0,
            // Scores from 0 to about 8.
            1 => token as f32 / 200.0,
            _ => ((token * 7 + column) % 13) as f32,
        }
    };
    backend.write_tensor(&mut qkv, &(0..TOKENS * COLUMNS).map(element).collect::<Vec<f32>>()).unwrap();
    let mut batch = Batch::default();
    batch.push_sequence(&[0; TOKENS], 0, &(1..26).rev().collect::<Vec<u32>>());
    backend.begin_step(&batch).unwrap();
    let (query_norm, key_norm, epsilon) = (None, None, 0.0);
    let operands =
        RotaryAndCache { qkv: &mut qkv, query_norm, key_norm, epsilon, rope: &rope, cache: &mut cache };
    backend.rotary_and_cache(spec, operands).unwrap();
    backend.attention(spec, &qkv, &cache, &mut output).unwrap();
    backend.read_tensor(&output, TOKENS).unwrap()
}
