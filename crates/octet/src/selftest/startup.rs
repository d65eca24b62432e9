//! The self-test at start: known values through the same operations as the model, on its device, in its types. A device
//! that gets one wrong does not serve.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use octet_backend::{
    AttentionSpec, Backend, BackendError, Batch, DataType, DeviceInfo, KvCacheSpec, KvScale, LinearPart,
    LinearSpec, LinearUse, RopeSpec, RotaryAndCache, SampleRow, ScaleShape, TensorRole, TensorSpec,
    WeightView,
};
use octet_float8::Float8Format;
use octet_model::{LoadedModel, WeightForm};
use octet_reference::ReferenceBackend;

use super::{begin_rows, encoded, numbers, relative_error};

/// Rows of the products: each range of them has its kernel.
const ROWS: [usize; 3] = [1, 20, 70];
/// Output features: no multiple of a tile.
const FEATURES: usize = 72;
/// Rows of the product that shows codes.
const CODE_ROWS: usize = 64;
const CODE_FEATURES: usize = 256;
const BLOCK_SIZE: usize = 16;
const BLOCKS: usize = 16;
/// Sequences of one token, whose values come back as they were stored.
const SINGLES: usize = 8;
/// Tokens of the prompt that attends to itself: they cross a block.
const PROMPT: usize = 35;
/// What 16-bit activations may cost, relative to the largest result; and what inputs in FP8 may.
const ALLOWED: f32 = 1.0 / 64.0;
const ALLOWED_OF_FLOAT8: f32 = 1.0 / 16.0;

/// What a model uses of its device.
#[derive(Clone, Debug)]
pub(crate) struct InUse {
    /// How its linears are kept.
    pub(crate) forms: Vec<WeightForm>,
    /// Element type of its KV cache.
    pub(crate) kv_type: DataType,
    pub(crate) head_dim: usize,
    pub(crate) query_heads: usize,
    pub(crate) kv_heads: usize,
}

impl InUse {
    /// Of a loaded model.
    pub(crate) fn of<B: Backend>(model: &LoadedModel<B>) -> Self {
        let config = model.config();
        Self {
            forms: model.weight_forms().to_vec(),
            kv_type: model.kv_type(),
            head_dim: config.head_dim,
            // As many as one KV head of the model's has, and two of them.
            query_heads: config.query_heads / config.kv_heads * config.kv_heads.min(2),
            kv_heads: config.kv_heads.min(2),
        }
    }
}

/// What was tested, for the report.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Passed {
    /// Types of weights.
    weights: Vec<DataType>,
    kv_type: DataType,
    time: Duration,
}

impl std::fmt::Display for Passed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let weights: Vec<String> = self.weights.iter().map(ToString::to_string).collect();
        write!(
            formatter,
            "self-test: weights in {}, KV cache in {}: right ({:.0} ms)",
            weights.join(" and "),
            self.kv_type,
            self.time.as_secs_f64() * 1e3
        )
    }
}

/// Why a test did not pass.
enum Fault {
    /// A result is wrong: which.
    Wrong(String),
    /// The device failed.
    Device(BackendError),
}

impl From<BackendError> for Fault {
    fn from(error: BackendError) -> Self {
        Self::Device(error)
    }
}

/// Tests a device in what a model uses of it.
///
/// # Errors
/// A result is wrong, or the device failed.
pub(crate) fn check<B: Backend>(device: &mut B, used: &InUse) -> Result<Passed> {
    let begun = Instant::now();
    match run(device, used) {
        Ok(()) => {}
        Err(Fault::Device(error)) => return Err(error).context("the self-test could not run"),
        Err(Fault::Wrong(what)) => {
            let DeviceInfo { kind, name, architecture, .. } = device.info();
            bail!(
                "the self-test of {name} ({architecture}) failed: {what}; it must not serve (`octet selftest --device {kind}` \
                 shows more)"
            );
        }
    }
    let mut weights: Vec<DataType> = Vec::new();
    for form in &used.forms {
        if !weights.contains(&form.format.element) {
            weights.push(form.format.element);
        }
    }
    Ok(Passed { weights, kv_type: used.kv_type, time: begun.elapsed() })
}

fn run<B: Backend>(device: &mut B, used: &InUse) -> Result<(), Fault> {
    for &form in &used.forms {
        if let DataType::F8(format) = form.format.element {
            codes(device, form, format)?;
        }
        ROWS.into_iter().try_for_each(|rows| product(device, form, rows))?;
    }
    cache(device, used)?;
    sampling(device)
}

/// Scales of a weight `[features, columns]`: powers of two, so that they round nothing.
fn scales_of(form: WeightForm, features: usize, columns: usize) -> Vec<f32> {
    let power = |index: usize| [0.5, 1.0, 0.25][index % 3];
    let count = form.format.scale.count(features, columns).unwrap_or(0);
    (0..count).map(power).collect()
}

/// Columns of a weight: enough for two blocks of scales.
fn columns_of(form: WeightForm) -> usize {
    match form.format.scale {
        ScaleShape::Block { columns, .. } => 2 * columns,
        ScaleShape::None | ScaleShape::Tensor | ScaleShape::Channel => CODE_ROWS,
    }
}

/// `rows` of `input` times a weight, `[rows, features]`.
fn multiply<B: Backend>(
    device: &mut B,
    form: WeightForm,
    (stored, features): (&[u8], usize),
    (input, rows): (&[f32], usize),
) -> Result<Vec<f32>, BackendError> {
    let columns = columns_of(form);
    let scales = scales_of(form, features, columns);
    let view = WeightView {
        bytes: stored,
        data_type: form.format.element,
        rows: features,
        columns,
        row_stride: columns,
    };
    let part = LinearPart { weight: view, scale: form.format.scale.of(&scales) };
    let spec = LinearSpec {
        data_type: form.format.element,
        usage: LinearUse::Multiply,
        bias: None,
        input_scale: form.input_scale,
    };
    let weight = device.load_linear(spec, &[part])?;
    let mut tensor = |columns| device.allocate(TensorSpec { role: TensorRole::Activation, rows, columns });
    let (mut operand, mut output) = (tensor(columns)?, tensor(features)?);
    device.write_tensor(&mut operand, input)?;
    begin_rows(device, rows)?;
    device.linear(&weight, &operand, &mut output)?;
    device.read_tensor(&output, rows)
}

/// Blocks for `tokens` tokens, from `first` on.
fn block_table(first: usize, tokens: usize) -> Vec<u32> {
    (first..first + tokens.div_ceil(BLOCK_SIZE)).map(|block| block as u32 + 1).collect()
}

/// Whether a value is the expected one, but for the rounding of 16 bits.
fn is_same(found: f32, expected: f32) -> bool {
    (found - expected).abs() <= expected.abs() / 256.0
}

/// Every FP8 code of a weight, seen through rows of the unit matrix.
fn codes<B: Backend>(device: &mut B, form: WeightForm, format: Float8Format) -> Result<(), Fault> {
    let finite: Vec<u8> = (0..=u8::MAX).filter(|&code| format.decode(code).is_finite()).collect();
    let columns = columns_of(form);
    // Each row of the unit matrix meets every code.
    let code = |feature: usize, column: usize| finite[(feature + column) % finite.len()];
    let stored: Vec<u8> = (0..CODE_FEATURES * columns).map(|at| code(at / columns, at % columns)).collect();
    let column_of = |row: usize| row * (columns / CODE_ROWS);
    let mut input = vec![0.0; CODE_ROWS * columns];
    (0..CODE_ROWS).for_each(|row| input[row * columns + column_of(row)] = 1.0);
    let found = multiply(device, form, (&stored, CODE_FEATURES), (&input, CODE_ROWS))?;
    let scales = scales_of(form, CODE_FEATURES, columns);
    for (at, found) in found.into_iter().enumerate() {
        let (row, feature) = (at / CODE_FEATURES, at % CODE_FEATURES);
        let column = column_of(row);
        let code = code(feature, column);
        let expected = format.decode(code) * form.format.scale.of(&scales).at(columns, feature, column);
        if !is_same(found, expected) {
            let name = form.format.element;
            return Err(Fault::Wrong(format!(
                "code {code:#04x} of a weight in {name} is {found} where {expected} was expected"
            )));
        }
    }
    Ok(())
}

/// A product of numbers, against the reference.
fn product<B: Backend>(device: &mut B, form: WeightForm, rows: usize) -> Result<(), Fault> {
    let columns = columns_of(form);
    let values = numbers(11, FEATURES * columns).into_iter();
    let stored: Vec<u8> = values.flat_map(|value| encoded(form.format.element, value)).collect();
    let input = numbers(12, rows * columns);
    let wide = WeightForm { input_scale: None, ..form };
    let expected = multiply(&mut ReferenceBackend::new(), wide, (&stored, FEATURES), (&input, rows))?;
    let found = multiply(device, form, (&stored, FEATURES), (&input, rows))?;
    let error = relative_error(&found, &expected);
    let allowed = if form.input_scale.is_some() { ALLOWED_OF_FLOAT8 } else { ALLOWED };
    if error < allowed {
        return Ok(());
    }
    let name = form.format.element;
    Err(Fault::Wrong(format!("a product of {rows} rows by a weight in {name} is off by {error:.2e}")))
}

/// The largest of known logits, if the device samples.
fn sampling<B: Backend>(device: &mut B) -> Result<(), Fault> {
    // Above a power of two, so that neither the last lane nor the last block is full.
    let (rows, columns) = (2, 1030);
    let mut logits = device.allocate(TensorSpec { role: TensorRole::Logits, rows, columns })?;
    let mut values = numbers(41, rows * columns);
    // Among numbers from -1 to 1; of two that are equal the first counts.
    let largest = [columns - 1, 517];
    for (row, &column) in largest.iter().enumerate() {
        values[row * columns + column] = 1.5;
    }
    values[columns + 900] = 1.5;
    device.write_tensor(&mut logits, &values)?;
    begin_rows(device, rows)?;
    let greedy = |row| SampleRow { row, temperature: 0.0, top_k: 0, top_p: 1.0, fraction: 0.0 };
    let mut tokens = [0; 2];
    if !device.sample(&mut logits, &[greedy(0), greedy(1)], &mut tokens)? {
        return Ok(());
    }
    match tokens.into_iter().zip(largest).find(|&(token, expected)| token as usize != expected) {
        None => Ok(()),
        Some((token, expected)) => Err(Fault::Wrong(format!(
            "the largest of known logits is token {expected}, and {token} was sampled"
        ))),
    }
}

/// The cache and everything around it, as one device computes it.
struct Attention<'a, B: Backend> {
    device: &'a mut B,
    spec: AttentionSpec,
    cache: B::KvCache,
    rope: B::Rope,
    qkv: B::Tensor,
    output: B::Tensor,
}

/// Columns of queries, keys and values together.
fn qkv_width(used: &InUse) -> usize {
    (used.query_heads + 2 * used.kv_heads) * used.head_dim
}

/// Scales that round nothing.
fn kv_scale(kv_type: DataType) -> KvScale {
    if kv_type.is_float8() { KvScale { key: 0.5, value: 0.25 } } else { KvScale::ONE }
}

impl<'a, B: Backend> Attention<'a, B> {
    fn new(device: &'a mut B, used: &InUse) -> Result<Self, BackendError> {
        let InUse { kv_type, head_dim, query_heads, kv_heads, .. } = *used;
        let cache = device.allocate_kv_cache(&KvCacheSpec {
            layers: 1,
            kv_heads,
            head_dim,
            block_size: BLOCK_SIZE,
            blocks: BLOCKS,
            data_type: kv_type,
            scales: vec![kv_scale(kv_type)],
        })?;
        // No angle: then what is stored depends on the device's rounding alone.
        let rope = RopeSpec { inverse_frequencies: vec![0.0; head_dim / 2], magnitude: 1.0 };
        let rope = device.load_rope(&rope, PROMPT)?;
        let mut tensor =
            |columns| device.allocate(TensorSpec { role: TensorRole::Activation, rows: PROMPT, columns });
        let (qkv, output) = (tensor(qkv_width(used))?, tensor(query_heads * head_dim)?);
        let spec = AttentionSpec {
            layer: 0,
            query_heads,
            scale: (head_dim as f32).sqrt().recip(),
            score_cap: None,
            sliding_window: None,
        };
        Ok(Self { device, spec, cache, rope, qkv, output })
    }

    fn run(&mut self, batch: &Batch, qkv: &[f32]) -> Result<Vec<f32>, BackendError> {
        let Self { device, spec, cache, rope, qkv: tensor, output } = self;
        device.write_tensor(tensor, qkv)?;
        device.begin_step(batch)?;
        let (query_norm, key_norm, epsilon) = (None, None, 0.0);
        let operands = RotaryAndCache { qkv: tensor, query_norm, key_norm, epsilon, rope, cache };
        device.rotary_and_cache(*spec, operands)?;
        device.attention(*spec, tensor, cache, output)?;
        device.read_tensor(output, batch.rows())
    }
}

/// What is put into the cache as values: in FP8, every code and what lies between two; else numbers of 16 bits.
fn stored_values(kv_type: DataType, count: usize) -> Vec<f32> {
    let DataType::F8(format) = kv_type else { return numbers(21, count) };
    let scale = kv_scale(kv_type).value;
    let mut known: Vec<f32> = (0..=u8::MAX).map(|code| format.decode(code)).collect();
    known.retain(|value| value.is_finite());
    known.sort_by(f32::total_cmp);
    let between: Vec<f32> = known.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    let beyond = [2.0 * format.max(), -2.0 * format.max()];
    let all: Vec<f32> = known.into_iter().chain(between).chain(beyond).map(|value| value * scale).collect();
    (0..count).map(|at| all[at % all.len()]).collect()
}

/// The value as the cache gives it back.
fn restored(kv_type: DataType, value: f32) -> f32 {
    let DataType::F8(format) = kv_type else { return value };
    let scale = kv_scale(kv_type).value;
    format.decode(format.encode_saturating(value / scale)) * scale
}

/// What is stored comes back; what attends finds it.
fn cache<B: Backend>(device: &mut B, used: &InUse) -> Result<(), Fault> {
    let mut tested = Attention::new(device, used)?;
    singles(&mut tested, used)?;
    let mut reference = ReferenceBackend::new();
    let mut reference = Attention::new(&mut reference, used)?;
    for (computed, rows) in [(0, PROMPT - 1), (PROMPT - 1, 1)] {
        let mut batch = Batch::default();
        batch.push_sequence(&vec![0; rows], computed, &block_table(SINGLES, PROMPT));
        let qkv = numbers(31 + computed as u64, rows * qkv_width(used));
        let (found, expected) = (tested.run(&batch, &qkv)?, reference.run(&batch, &qkv)?);
        let error = relative_error(&found, &expected);
        if error.is_nan() || error >= ALLOWED {
            let kv_type = used.kv_type;
            return Err(Fault::Wrong(format!(
                "attention of {rows} rows after {computed} over a cache in {kv_type} is off by {error:.2e}"
            )));
        }
    }
    Ok(())
}

/// Sequences of one token: each attends to its own value alone, and gets it as it was stored.
fn singles<B: Backend>(tested: &mut Attention<'_, B>, used: &InUse) -> Result<(), Fault> {
    let InUse { kv_type, head_dim, query_heads, kv_heads, .. } = *used;
    let mut batch = Batch::default();
    for index in 0..SINGLES {
        batch.push_sequence(&[0], 0, &block_table(index, 1));
    }
    let (width, values_width) = (qkv_width(used), kv_heads * head_dim);
    let values = stored_values(kv_type, SINGLES * values_width);
    let mut qkv = numbers(22, SINGLES * width);
    for (row, values) in values.chunks(values_width).enumerate() {
        qkv[(row + 1) * width - values_width..(row + 1) * width].copy_from_slice(values);
    }
    let found = tested.run(&batch, &qkv)?;
    for (at, found) in found.into_iter().enumerate() {
        let (row, column) = (at / (query_heads * head_dim), at % (query_heads * head_dim));
        let kv_head = column / head_dim / (query_heads / kv_heads);
        let value = values[row * values_width + kv_head * head_dim + column % head_dim];
        let expected = restored(kv_type, value);
        if !is_same(found, expected) {
            return Err(Fault::Wrong(format!(
                "{value} in a KV cache in {kv_type} comes back as {found} where {expected} was expected"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
