//! What this machine can do at best, measured: the floor under the time of every step.
//!
//! A decode step cannot be faster than reading its weights, a prefill not faster than its multiplications. Benchmarks
//! print what fraction of that they reach, which says more than a time does.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use octet_backend::BackendError;

use crate::isa::{Isa, Level};
use crate::memory::{AlignedBuffer, device_memory, last_cache_bytes};
use crate::simd::tiles::{
    TILE_BYTES, TILE_COLUMNS, TILE_FLOATS, TILE_ROWS, TileDot, TileKernel, TileOperands,
};
use crate::simd::{Kernel, LANES, PairDot, PairKernel, Portable, Simd};
use crate::threads::Pool;

/// Bytes that are read, at the least and at the most.
const READ_BYTES: std::ops::RangeInclusive<usize> = 512 << 20..=4 << 30;

/// How often the last caches must fit into what is read. Caches do not drop the oldest line first: of twice their size they
/// still serve a part, and the memory seems quicker than it is.
const LAST_CACHES: usize = 7;

/// How long each of the two measurements goes on.
const PATIENCE: Duration = Duration::from_millis(400);

/// Streams that a worker reads at once, and how far ahead it asks for each: the quickest of what was tried.
const STREAMS: usize = 8;
const AHEAD_BYTES: usize = 1024;

/// The best that all workers together reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    /// Bytes read from memory in a second.
    pub read_bytes_per_second: f64,
    /// Floating-point operations in a second, two for each multiply-add, on the instruction set and in the arithmetic
    /// that 16-bit weights are multiplied in.
    pub operations_per_second: f64,
}

impl Roofline {
    /// Measures for about a second. The best of several passes counts, because what disturbs only slows down.
    ///
    /// # Errors
    /// No memory for what is read: several times the last caches.
    pub fn measure(pool: &Pool, isa: Isa) -> Result<Self, BackendError> {
        Ok(Self {
            read_bytes_per_second: read_rate(pool, isa)?,
            operations_per_second: operation_rate(pool, isa),
        })
    }

    /// Seconds below which work that reads `bytes` and does `operations` cannot be done.
    #[must_use]
    pub fn seconds(&self, bytes: f64, operations: f64) -> f64 {
        (bytes / self.read_bytes_per_second).max(operations / self.operations_per_second)
    }
}

/// Calls `pass` until patience ends and returns the shortest time of one call, in seconds.
fn shortest(mut pass: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    loop {
        let start = Instant::now();
        pass();
        best = best.min(start.elapsed().as_secs_f64());
        if begin.elapsed() > PATIENCE {
            return best;
        }
    }
}

fn read_rate(pool: &Pool, isa: Isa) -> Result<f64, BackendError> {
    let enough = last_cache_bytes().saturating_mul(LAST_CACHES).min(device_memory().free_bytes / 4);
    let bytes = enough.clamp(*READ_BYTES.start(), *READ_BYTES.end());
    let floats = bytes / size_of::<f32>() / pool.workers() / (STREAMS * LANES) * (STREAMS * LANES);
    let mut buffer = AlignedBuffer::<f32>::zeroed(floats * pool.workers())?;
    // Untouched pages would all be the same page of zeros, and each worker's part should be near it.
    let shares: Vec<_> = buffer.chunks_mut(floats).map(Mutex::new).collect();
    pool.run(&|worker| {
        shares[worker].lock().unwrap_or_else(PoisonError::into_inner).fill(1.0);
    });
    drop(shares);
    // All of it in each pass: a step reads gigabytes, and what a shared memory gives for a millisecond it does not
    // give for a step.
    let seconds = shortest(|| {
        pool.run(&|worker| {
            black_box(isa.run(Read(&buffer[worker * floats..(worker + 1) * floats])));
        });
    });
    Ok((floats * size_of::<f32>() * pool.workers()) as f64 / seconds)
}

/// Sums values, reading several places at once.
struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let stream = self.0.len() / STREAMS;
        let mut sums = [simd.splat(0.0); STREAMS];
        for position in (0..stream).step_by(LANES) {
            for (index, sum) in sums.iter_mut().enumerate() {
                let values = self.0.as_ptr().wrapping_add(index * stream + position);
                simd.prefetch(values.cast::<u8>().wrapping_add(AHEAD_BYTES));
                // SAFETY: `position` and the fifteen after it are inside a stream, whose length is a multiple of 16.
                *sum = simd.add(*sum, unsafe { simd.load(values) });
            }
        }
        let sum = sums.into_iter().fold(simd.splat(0.0), |total, sum| simd.add(total, sum));
        simd.reduce_add(sum)
    }
}

fn operation_rate(pool: &Pool, isa: Isa) -> f64 {
    let operations = match isa.level() {
        Level::Portable => operations::<Portable>(1),
        #[cfg(test)]
        Level::PortablePairs => operations::<Portable>(2),
        #[cfg(test)]
        Level::PortableTiles => TILE_OPERATIONS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => operations::<crate::simd::Avx2>(1),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => operations::<crate::simd::Avx512>(1),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16(_) => operations::<crate::simd::Avx512Bf16>(2),
        #[cfg(target_arch = "x86_64")]
        Level::Amx(_) => TILE_OPERATIONS,
    };
    let seconds = shortest(|| {
        pool.run(&|_worker| {
            black_box(match isa.level() {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512Bf16(simd) => simd.run_pairs(MultiplyPairs),
                #[cfg(target_arch = "x86_64")]
                Level::Amx(simd) => simd.run_tiles(TILE_ROWS, MultiplyTiles),
                #[cfg(test)]
                Level::PortablePairs => Portable.run_pairs(MultiplyPairs),
                #[cfg(test)]
                Level::PortableTiles => Portable.run_tiles(TILE_ROWS, MultiplyTiles),
                _ => isa.run(MultiplyAdd),
            });
        });
    });
    operations * pool.workers() as f64 / seconds
}

/// Repetitions of the loop that only multiplies.
const REPETITIONS: usize = 100_000;
/// Sums for each panel that a set multiplies at once.
const SUMS: usize = 6;

/// Operations of one call of the loop, where each lane multiplies `pairs` numbers at once.
fn operations<S: Simd>(pairs: usize) -> f64 {
    (REPETITIONS * SUMS * S::MANY_ROWS_PANELS * LANES * pairs * 2) as f64
}

/// Multiply-adds without end in as many independent sums as the kernels have.
struct MultiplyAdd;

impl Kernel for MultiplyAdd {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let factor = simd.splat(black_box(0.999));
        let mut sums = [[simd.splat(black_box(1.0)); SUMS]; 2];
        for _ in 0..REPETITIONS {
            for panel in sums.iter_mut().take(S::MANY_ROWS_PANELS) {
                for sum in panel {
                    *sum = simd.multiply_add(*sum, factor, factor);
                }
            }
        }
        total(simd, &sums)
    }
}

/// As [`MultiplyAdd`], with dot products of pairs.
struct MultiplyPairs;

impl PairKernel for MultiplyPairs {
    type Output = f32;

    #[inline(always)]
    fn run_pairs<S: PairDot>(self, simd: S) -> f32 {
        let factor = simd.splat_bits(black_box(0x3F00_3F00));
        let mut sums = [[simd.splat(black_box(1.0)); SUMS]; 2];
        for _ in 0..REPETITIONS {
            for panel in sums.iter_mut().take(S::MANY_ROWS_PANELS) {
                for sum in panel {
                    *sum = simd.dot_bf16_pairs(*sum, factor, factor);
                }
            }
        }
        total(simd, &sums)
    }
}

/// Tiles of columns of one product of tiles: inputs and weights fit the first cache together.
const TILE_STEPS: usize = 8;
/// Products of tiles.
const TILE_REPETITIONS: usize = 4000;
/// Operations of one call of [`MultiplyTiles`]: four sums of sixteen by sixteen.
const TILE_OPERATIONS: f64 =
    (TILE_REPETITIONS * TILE_STEPS * 4 * TILE_ROWS * LANES * TILE_COLUMNS * 2) as f64;

/// Products of tiles from the first cache, two tiles of rows times two panels.
#[cfg(any(test, target_arch = "x86_64"))]
struct MultiplyTiles;

#[cfg(any(test, target_arch = "x86_64"))]
impl TileKernel for MultiplyTiles {
    type Output = f32;

    #[inline(always)]
    fn run_tiles<S: TileDot>(self, simd: S) -> f32 {
        let factors = vec![0x3C00_3C00_u32; 4 * TILE_STEPS * TILE_FLOATS];
        let mut sums = vec![0.0; 4 * TILE_FLOATS];
        let panel_stride = TILE_STEPS * TILE_BYTES;
        let operands = TileOperands {
            inputs: factors.as_ptr().cast(),
            input_stride: panel_stride,
            weights: factors[2 * TILE_STEPS * TILE_FLOATS..].as_ptr().cast(),
            panel_stride,
            steps: TILE_STEPS,
            sums: sums.as_mut_ptr(),
            sum_stride: 2 * TILE_FLOATS,
            resume: true,
            ahead_bytes: 0,
        };
        for _ in 0..TILE_REPETITIONS {
            // SAFETY: two tiles of rows and two panels of `TILE_STEPS` tiles each, and four tiles of sums.
            unsafe { simd.multiply_two::<2>(&operands) };
        }
        sums[0]
    }
}

#[inline(always)]
fn total<S: Simd>(simd: S, sums: &[[S::F32; SUMS]; 2]) -> f32 {
    let mut total = simd.splat(0.0);
    for sum in sums.iter().flatten() {
        total = simd.add(total, *sum);
    }
    simd.reduce_add(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_reading_and_multiplying_counts() {
        let floor = Roofline { read_bytes_per_second: 10.0, operations_per_second: 100.0 };
        assert_eq!(floor.seconds(20.0, 100.0), 2.0);
        assert_eq!(floor.seconds(20.0, 500.0), 5.0);
    }
}
