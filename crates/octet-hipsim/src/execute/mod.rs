//! Executing a launch: blocks spread over threads, threads of a block as fibers, waves that wait for their lanes.

mod block;
mod lane;
mod pool;
mod trap;

use std::sync::Arc;

use crate::module::Function;
use crate::status::HipError;

pub(crate) use lane::{Lane, hand_over};
pub(crate) use pool::run;

/// Blocks of a grid or threads of a block, in three directions.
pub(crate) type Extent = [u32; 3];

/// A kernel with its configuration and a copy of its parameters.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) function: Arc<Function>,
    pub(crate) grid: Extent,
    pub(crate) block: Extent,
    /// The parameter struct, aligned to 16 bytes as words.
    pub(crate) parameters: Arc<[u128]>,
}

impl Launch {
    /// Number of blocks.
    fn blocks(&self) -> u64 {
        self.grid.iter().map(|count| u64::from(*count)).product()
    }

    /// Number of threads of a block.
    fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// The block with a running number, x fastest.
    fn block_at(&self, index: u64) -> Extent {
        let [x, y, _] = self.grid.map(u64::from);
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        [narrow(index % x), narrow(index / x % y), narrow(index / x / y)]
    }
}

/// Why a block did not end as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) error: HipError,
    /// What happened, and which thread of which block it was.
    pub(crate) message: String,
}
