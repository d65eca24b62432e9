//! Numbers that look random and are the same on every run.

use octet_backend::DataType;
use octet_reference::round_to;

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Between -1 and 1.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Bell-shaped, mean 0, variance 1, within ±3.
    pub(crate) fn bell(&mut self) -> f32 {
        self.uniform() + self.uniform() + self.uniform()
    }

    pub(crate) fn bells(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.bell()).collect()
    }

    /// Bell-shaped values that `data_type` holds exactly.
    pub(crate) fn bells_in(&mut self, data_type: DataType, count: usize) -> Vec<f32> {
        (0..count).map(|_| round_to(data_type, self.bell())).collect()
    }

    /// The numbers from `first` to `last` in a random order.
    pub(crate) fn shuffled(&mut self, first: u32, last: u32) -> Vec<u32> {
        let mut numbers: Vec<u32> = (first..=last).collect();
        for end in (1..numbers.len()).rev() {
            numbers.swap(end, (self.bits() % (end as u64 + 1)) as usize);
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_promised_moments() {
        let values = Random::new(1).bells(10_000);
        let mean = values.iter().sum::<f32>() / 10_000.0;
        let variance = values.iter().map(|value| value * value).sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let mut numbers = Random::new(2).shuffled(3, 9);
        assert_ne!(numbers, (3..=9).collect::<Vec<u32>>());
        numbers.sort_unstable();
        assert_eq!(numbers, (3..=9).collect::<Vec<u32>>());
    }
}
