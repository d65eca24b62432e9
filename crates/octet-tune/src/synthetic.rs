//! A device with synthetic weights, for problems that no loaded model has.

use std::time::Duration;

use octet_backend::{
    BackendError, DataType, GemmDevice, GemmProblem, GemmRun, InputScale, LinearPart, LinearSpec, LinearUse,
    TensorRole, TensorSpec, TunableBackend, Validator, WeightView,
};

/// Weights that take turns are no more than this many.
const MOST_WEIGHTS: usize = 64;

/// Scale of synthetic weights, so that sums of products stay near 1.
const SCALE: f32 = 1.0 / 64.0;

/// A backend that makes up the operands of whatever problem it is asked for.
pub struct SyntheticWeights<B: TunableBackend> {
    backend: B,
    /// Bytes of weights that take turns.
    rotating_bytes: usize,
    operands: Option<Operands<B>>,
}

/// Operands of the current problem.
struct Operands<B: TunableBackend> {
    problem: GemmProblem,
    weights: Vec<B::Linear>,
    input: B::Tensor,
    output: B::Tensor,
}

impl<B: TunableBackend> SyntheticWeights<B> {
    /// Makes weights of `rotating_bytes` together for each problem, and of one at least. More than the last cache
    /// holds makes every run find them in memory, as a model's step does.
    #[must_use]
    pub fn new(backend: B, rotating_bytes: usize) -> Self {
        Self { backend, rotating_bytes, operands: None }
    }

    /// The device.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    fn load(&mut self, problem: &GemmProblem, seed: u64) -> Result<B::Linear, BackendError> {
        let (parts, usage) = if problem.is_gated { (2, LinearUse::Gated) } else { (1, LinearUse::Multiply) };
        let (rows, columns) = (problem.rows / parts, problem.columns);
        let bytes = weight_bytes(problem.weight, rows * columns, seed);
        let scales = vec![SCALE; problem.scales.count(rows, columns).unwrap_or(0)];
        let scale = problem.scales.of(&scales);
        let weight =
            WeightView { bytes: &bytes, data_type: problem.weight, rows, columns, row_stride: columns };
        let spec = LinearSpec {
            data_type: problem.weight,
            usage,
            bias: problem.has_bias.then(|| vec![0.5; problem.rows]),
            input_scale: problem.activation.is_float8().then_some(InputScale::Dynamic),
        };
        self.backend.load_linear(spec, &vec![LinearPart { weight, scale }; parts])
    }
}

/// The next number of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut number = *state;
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Numbers from -1 to 1 of a type, little-endian; for eight bits, any that are finite in all four formats.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "bits of random numbers are taken"
)]
fn weight_bytes(data_type: DataType, elements: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(elements * data_type.bytes() + 8);
    while bytes.len() < elements * data_type.bytes() {
        let bits = next_random(&mut state);
        match data_type {
            DataType::F32 => bytes.extend(((bits as i32) as f32 / 2_147_483_648.0).to_le_bytes()),
            // Sign, an exponent below that of 1, and the mantissa: four at once.
            DataType::BF16 => {
                bytes.extend(((bits & 0x807F_807F_807F_807F) | 0x3F00_3F00_3F00_3F00).to_le_bytes())
            }
            DataType::F16 => {
                bytes.extend(((bits & 0x83FF_83FF_83FF_83FF) | 0x3800_3800_3800_3800).to_le_bytes())
            }
            DataType::I8 => bytes.extend(bits.to_le_bytes()),
            DataType::F8(_) => {
                // 0x80 is no number in FNUZ, and exponents of ones are none elsewhere.
                bytes.extend(((bits & 0xBFBF_BFBF_BFBF_BFBF) | 0x0101_0101_0101_0101).to_le_bytes());
            }
        }
    }
    bytes.truncate(elements * data_type.bytes());
    bytes
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "bits of random numbers are taken"
)]
fn inputs(elements: usize) -> Vec<f32> {
    let mut state = 1;
    (0..elements).map(|_| (next_random(&mut state) as i32) as f32 / 2_147_483_648.0).collect()
}

impl<B: TunableBackend> GemmDevice for SyntheticWeights<B> {
    fn validators(&self) -> Vec<Validator> {
        self.backend.gemm_validators()
    }

    fn pytorch_validators(&self) -> Vec<Validator> {
        self.backend.pytorch_validators()
    }

    fn solutions(&self, problem: &GemmProblem) -> Vec<String> {
        self.backend.gemm_solutions(problem)
    }

    fn begin(&mut self, problem: &GemmProblem) -> Result<(), BackendError> {
        let same = |there: &Operands<B>| there.problem.with_tokens(1) == problem.with_tokens(1);
        let weights = match self.operands.take().filter(same) {
            Some(operands) => operands.weights,
            None => {
                let count = (self.rotating_bytes / problem.weight_bytes().max(1) + 1).min(MOST_WEIGHTS);
                (0..count).map(|index| self.load(problem, index as u64)).collect::<Result<_, _>>()?
            }
        };
        let rows = problem.bucket.tokens();
        let mut tensor = |role, columns| self.backend.allocate(TensorSpec { role, rows, columns });
        // What is wider than activations is a residual or logits, which have one element type.
        let role =
            if problem.output == problem.activation { TensorRole::Activation } else { TensorRole::Residual };
        let mut input = tensor(TensorRole::Activation, problem.columns)?;
        let output = tensor(role, problem.output_columns())?;
        self.backend.write_tensor(&mut input, &inputs(rows * problem.columns))?;
        self.operands = Some(Operands { problem: *problem, weights, input, output });
        Ok(())
    }

    fn run(&mut self, problem: &GemmProblem, solution: &str, turn: usize) -> Result<Duration, BackendError> {
        let Some(operands) = &mut self.operands else {
            return Err(BackendError::Device("a product was run before its operands were made".to_owned()));
        };
        let weight = &operands.weights[turn % operands.weights.len()];
        let (input, output) = (&operands.input, &mut operands.output);
        self.backend.time_gemm(GemmRun { weight, solution, rows: problem.bucket.tokens(), input, output })
    }

    fn output(&mut self, problem: &GemmProblem) -> Result<Vec<f32>, BackendError> {
        let Some(operands) = &self.operands else { return Ok(Vec::new()) };
        self.backend.read_tensor(&operands.output, problem.bucket.tokens())
    }

    fn choose(&mut self, problem: &GemmProblem, solution: &str) -> bool {
        self.backend.choose_gemm(problem, solution)
    }

    fn floor_seconds(&mut self, problem: &GemmProblem) -> Option<f64> {
        self.backend.gemm_floor_seconds(problem, problem.bucket.tokens())
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn synthetic_weights_are_finite_and_not_zero() {
        let bf16s = weight_bytes(DataType::BF16, 1001, 3);
        assert_eq!(bf16s.len(), 2002);
        for pair in bf16s.chunks_exact(2) {
            let value = bf16::from_le_bytes([pair[0], pair[1]]).to_f32().abs();
            assert!((0.4..1.01).contains(&value), "{value}");
        }
        for pair in weight_bytes(DataType::F16, 100, 3).chunks_exact(2) {
            let value = f16::from_le_bytes([pair[0], pair[1]]).to_f32().abs();
            assert!((0.4..1.01).contains(&value), "{value}");
        }
        let float8 = weight_bytes(DataType::F8(octet_float8_format()), 1000, 3);
        assert!(float8.iter().all(|byte| byte & 0x7C != 0x7C && byte & 0x7F != 0x7F && byte & 0x7F != 0));
    }

    fn octet_float8_format() -> octet_float8::Float8Format {
        octet_float8::Float8Format::E4M3
    }
}
