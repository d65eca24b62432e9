//! Which instruction set the kernels run on: asked of the processor once, at start.

use crate::CpuError;
use crate::simd::tiles::{TileDot, TileKernel};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Amx, Avx2, Avx512, Avx512Bf16};
use crate::simd::{Kernel, PairDot, PairKernel, Portable, Simd};

/// The environment variable that may choose a lesser instruction set: `portable`, `avx2`, `avx512`,
/// `avx512bf16` or `amx`.
pub const ISA_VARIABLE: &str = "OCTET_CPU_ISA";

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Level);

/// The sets, each with the proof that the processor has it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    /// No special instructions.
    Portable,
    /// [`Level::Portable`] with the arithmetic of [`Level::Avx512Bf16`]: its twin in tests.
    #[cfg(test)]
    PortablePairs,
    /// [`Level::Portable`] with the arithmetic of [`Level::Amx`]: its twin in tests.
    #[cfg(test)]
    PortableTiles,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// 512-bit vectors with dot products of bfloat16 pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    /// The same with matrix tiles of bfloat16.
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
}

impl Isa {
    /// All sets that this processor has, the best last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let vector = [
            Avx2::detect().map(Level::Avx2),
            Avx512::detect().map(Level::Avx512),
            Avx512Bf16::detect().map(Level::Avx512Bf16),
            Amx::detect().map(Level::Amx),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let vector: [Option<Level>; 0] = [];
        std::iter::once(Level::Portable).chain(vector.into_iter().flatten()).map(Self).collect()
    }

    /// The set named, or the best one if none is.
    ///
    /// # Errors
    /// A name that means nothing, or a set that this processor lacks.
    pub fn choose(name: Option<&str>) -> Result<Self, CpuError> {
        let available = Self::available();
        let found = match name {
            None => available.last(),
            Some(name) => available.iter().find(|isa| isa.name() == name),
        };
        found.copied().ok_or_else(|| CpuError::InstructionSet {
            asked: name.unwrap_or_default().to_owned(),
            available: available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
        })
    }

    /// The set that [`ISA_VARIABLE`] names, or the best one if it is not set.
    ///
    /// # Errors
    /// As [`Isa::choose`].
    pub fn from_environment() -> Result<Self, CpuError> {
        let name = std::env::var_os(ISA_VARIABLE);
        Self::choose(name.as_ref().map(|name| name.to_string_lossy()).as_deref())
    }

    /// Its name, as in [`ISA_VARIABLE`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(test)]
            Level::PortablePairs => "portable-pairs",
            #[cfg(test)]
            Level::PortableTiles => "portable-tiles",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(_) => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Level::Amx(_) => "amx",
        }
    }

    /// Which set it is.
    pub(crate) fn level(self) -> Level {
        self.0
    }

    /// The twin of AVX-512 with BF16.
    #[cfg(test)]
    pub(crate) fn portable_pairs() -> Self {
        Self(Level::PortablePairs)
    }

    /// The twin of AMX.
    #[cfg(test)]
    pub(crate) fn portable_tiles() -> Self {
        Self(Level::PortableTiles)
    }

    /// Runs a kernel, compiled for this set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Level::Portable => Portable.run(kernel),
            #[cfg(test)]
            Level::PortablePairs | Level::PortableTiles => Portable.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16(simd) => simd.without_pairs().run(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Amx(simd) => simd.vectors().without_pairs().run(kernel),
        }
    }

    /// Whether it has matrix tiles.
    pub(crate) fn has_tiles(self) -> bool {
        match self.0 {
            #[cfg(test)]
            Level::PortableTiles => true,
            #[cfg(target_arch = "x86_64")]
            Level::Amx(_) => true,
            _ => false,
        }
    }

    /// Runs a kernel of tiles with `rows` rows, sixteen at most.
    ///
    /// # Panics
    /// Unless [`Isa::has_tiles`].
    pub(crate) fn run_tiles<K: TileKernel>(self, rows: usize, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(test)]
            Level::PortableTiles => Portable.run_tiles(rows, kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Amx(simd) => simd.run_tiles(rows, kernel),
            _ => unreachable!("{} has no matrix tiles", self.name()),
        }
    }

    /// Runs a kernel on the vectors that stand beside tiles.
    ///
    /// # Panics
    /// Unless [`Isa::has_tiles`].
    pub(crate) fn run_beside_tiles<K: PairKernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(test)]
            Level::PortableTiles => Portable.run_pairs(kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Amx(simd) => simd.vectors().run_pairs(kernel),
            _ => unreachable!("{} has no matrix tiles", self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_can_be_chosen_by_name() {
        for isa in Isa::available() {
            assert_eq!(Isa::choose(Some(isa.name())).unwrap().name(), isa.name());
        }
        assert_eq!(Isa::choose(None).unwrap().name(), Isa::available().last().unwrap().name());
    }

    #[test]
    fn a_set_that_is_missing_is_an_error_that_lists_the_others() {
        let error = Isa::choose(Some("avx1024")).unwrap_err().to_string();
        assert!(error.contains("avx1024") && error.contains("portable"), "{error}");
    }
}
