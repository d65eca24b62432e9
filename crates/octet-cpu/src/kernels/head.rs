//! What becomes of the head's products: a factor, and a smooth bound.

use super::norm::{load, store};
use super::rows::SharedRows;
use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd, math};
use crate::threads::Pool;

/// Logits that a worker takes at a time.
const CHUNK: usize = 4096;

/// `cap * tanh(scale * logit / cap)`, or without the cap.
#[derive(Clone, Copy)]
pub(crate) struct FinishLogits {
    pub(crate) scale: f32,
    pub(crate) cap: Option<f32>,
}

/// Finishes logits in place.
pub(crate) fn finish_logits(pool: &Pool, isa: Isa, how: FinishLogits, logits: &mut [f32]) {
    let count = logits.len();
    let logits = SharedRows::new(logits, count);
    super::for_rows(pool, count.div_ceil(CHUNK), CHUNK, &|chunk| {
        let columns = chunk * CHUNK..(chunk * CHUNK + CHUNK).min(count);
        // SAFETY: chunks do not overlap, and each is given to one worker.
        isa.run(Chunk { how, logits: unsafe { logits.part(0, columns) } });
    });
}

struct Chunk<'a> {
    how: FinishLogits,
    logits: &'a mut [f32],
}

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(self.how.scale);
        for lanes in self.logits.chunks_mut(LANES) {
            let (place, count) = (lanes.as_mut_ptr(), lanes.len());
            // SAFETY: the lanes are there.
            unsafe {
                let mut value = simd.multiply(load(simd, place, count), scale);
                if let Some(cap) = self.how.cap {
                    value = math::cap(simd, value, cap);
                }
                store(simd, place, value, count);
            }
        }
    }
}
