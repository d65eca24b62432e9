//! `--load-format dummy`: weights without a checkpoint, for measuring.

use half::{bf16, f16};
use octet_backend::DataType;

/// Standard deviation of the weights, as transformers initialises them.
const DEVIATION: f32 = 0.02;
/// Elements of the pattern; a prime, so that rows of any width start at ever different places.
const PATTERN: usize = 1_048_573;

/// Random weights from N(0, 0.02), the same in every run with the same seed.
///
/// One million of them are drawn once; each tensor is copied out of that pattern from a place that depends on its name
/// and row, so that gigabytes are made at the speed of memory.
#[derive(Debug)]
pub(crate) struct Dummy {
    data_type: DataType,
    seed: u64,
    pattern: Vec<u8>,
}

impl Dummy {
    /// A generator of weights in one element type. Codes are meant with the scale [`Dummy::SCALE`].
    pub(crate) fn new(data_type: DataType, seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let mut pattern = Vec::with_capacity(PATTERN * data_type.bytes());
        for _ in 0..PATTERN {
            let weight = random.normal() * DEVIATION;
            match data_type {
                DataType::F32 => pattern.extend(weight.to_le_bytes()),
                DataType::F16 => pattern.extend(f16::from_f32(weight).to_le_bytes()),
                DataType::BF16 => pattern.extend(bf16::from_f32(weight).to_le_bytes()),
                DataType::F8(format) => pattern.push(format.encode_saturating(weight / Self::SCALE)),
                DataType::I8 => pattern.push(((weight / Self::SCALE).round() as i8).cast_unsigned()),
            }
        }
        Self { data_type, seed, pattern }
    }

    /// The scale that goes with codes: five deviations stand at half of E4M3's range. The few that are beyond the range of
    /// integers are cut to it.
    pub(crate) const SCALE: f32 = 5.0 * DEVIATION / 224.0;

    /// Fills a tensor of the generator's type.
    pub(crate) fn fill(&self, name: &str, columns: usize, target: &mut [u8]) {
        let row_bytes = columns * self.data_type.bytes();
        let mut random = SplitMix(hash(name) ^ self.seed);
        for row in target.chunks_mut(row_bytes.max(1)) {
            let mut start = (random.next() % PATTERN as u64) as usize * self.data_type.bytes();
            let mut written = 0;
            while written < row.len() {
                let length = (row.len() - written).min(self.pattern.len() - start);
                row[written..written + length].copy_from_slice(&self.pattern[start..start + length]);
                written += length;
                start = 0;
            }
        }
    }
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Steele, Lea and Flood's generator: small, and good enough for weights that mean nothing.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// In (0, 1].
    fn uniform(&mut self) -> f32 {
        ((self.next() >> 40) + 1) as f32 / (1u64 << 24) as f32
    }

    /// Box and Muller's transform.
    fn normal(&mut self) -> f32 {
        let (radius, angle) = (self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (2.0 * std::f32::consts::PI * angle).cos()
    }
}

#[cfg(test)]
mod tests {
    use octet_float8::Float8Format;

    use super::*;
    use crate::quantization::FLOAT8;

    #[test]
    fn weights_have_the_right_spread_and_are_the_same_each_time() {
        let dummy = Dummy::new(DataType::F32, 0);
        let mut bytes = vec![0; 4 * 300 * 50];
        dummy.fill("model.layers.0.mlp.up_proj.weight", 300, &mut bytes);
        let mut again = vec![0; bytes.len()];
        dummy.fill("model.layers.0.mlp.up_proj.weight", 300, &mut again);
        assert_eq!(bytes, again);
        dummy.fill("model.layers.1.mlp.up_proj.weight", 300, &mut again);
        assert_ne!(bytes, again);
        Dummy::new(DataType::F32, 1).fill("model.layers.0.mlp.up_proj.weight", 300, &mut again);
        assert_ne!(bytes, again, "another seed");
        let weights: Vec<f32> =
            bytes.chunks_exact(4).map(|it| f32::from_le_bytes(it.try_into().unwrap())).collect();
        let mean = weights.iter().sum::<f32>() / weights.len() as f32;
        let deviation = (weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32).sqrt();
        assert!(mean.abs() < 0.001 && (deviation - DEVIATION).abs() < 0.001, "{mean} {deviation}");
    }

    #[test]
    fn float8_weights_have_the_same_spread_after_scaling() {
        let dummy = Dummy::new(FLOAT8, 0);
        let mut codes = vec![0; 10_000];
        dummy.fill("w", 100, &mut codes);
        let squares = codes.iter().map(|&code| Float8Format::E4M3.decode(code).powi(2)).sum::<f32>();
        let deviation = (squares / codes.len() as f32).sqrt() * Dummy::SCALE;
        assert!((deviation - DEVIATION).abs() < 0.001, "{deviation}");
    }
}
