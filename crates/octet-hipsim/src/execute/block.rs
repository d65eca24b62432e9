//! One block: its waves in an order that the seed chooses, and their lanes likewise.
//!
//! Between two rendezvous the lanes of a wave run one after the other, and waves run ahead of each other: whoever relies
//! on an order that no barrier makes reads poison or the wrong value with some seed. A collective and a barrier need
//! every lane; a wave that comes to one without some of its lanes is a fault, as nothing says what a GPU would do.

use super::lane::{Entry, Fiber, Lane, Stop, Wait};
use super::trap::{self, Watch};
use super::{Fault, Launch};
use crate::memory::POISON;
use crate::module::ThreadImage;
use crate::status::HipError;

/// A wave goes on through at most this many collectives before another gets its turn.
const TURN: u64 = 16;

/// A small generator: its only duty is that orders differ.
#[derive(Clone, Copy, Debug)]
struct Shuffle(u64);

impl Shuffle {
    fn below(&mut self, bound: usize) -> usize {
        // The step of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = (bits ^ (bits >> 31)) >> 16;
        usize::try_from(bits % bound as u64).unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum WaveState {
    Runnable,
    AtBarrier { site: u32 },
    Ended,
}

/// What a thread needs to execute blocks, kept from one to the next.
pub(super) struct Crew {
    watch: &'static Watch,
    fibers: Vec<Fiber>,
    waits: Vec<Wait>,
    operands: Vec<*mut libc::c_void>,
}

/// A block in execution.
struct Block<'crew> {
    launch: &'crew Launch,
    crew: &'crew mut Crew,
    image: ThreadImage,
    index: u64,
    wave_lanes: usize,
    shuffle: Shuffle,
}

impl Crew {
    /// The crew of this thread.
    pub(super) fn new() -> Self {
        Self { watch: trap::prepare(), fibers: Vec::new(), waits: Vec::new(), operands: Vec::new() }
    }

    /// Executes the block with a running number. `seed` chooses the orders.
    pub(super) fn run(&mut self, launch: &Launch, index: u64, seed: u64) -> Result<(), Fault> {
        let image = launch.function.module.image_of_this_thread();
        let wave_lanes = launch.function.module.profile.wave as usize;
        let shuffle = Shuffle(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ index);
        let mut block = Block { launch, crew: self, image, index, wave_lanes, shuffle };
        let result = block.run();
        if result.is_err() {
            self.fibers.iter_mut().for_each(Fiber::abandon);
        }
        result
    }
}

impl Block<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        // SAFETY: the range is this thread's copy of the module's LDS variables, and none of its blocks runs.
        unsafe { std::ptr::write_bytes(self.image.lds, POISON, self.image.lds_bytes) };
        self.start()?;
        let threads = self.launch.threads() as usize;
        let mut waves = vec![WaveState::Runnable; threads.div_ceil(self.wave_lanes)];
        loop {
            while let Some(wave) = self.choose(&waves) {
                waves[wave] = self.advance(wave)?;
            }
            if waves.iter().all(|state| *state == WaveState::Ended) {
                return Ok(());
            }
            self.pass_barrier(&mut waves)?;
        }
    }

    fn start(&mut self) -> Result<(), Fault> {
        let threads = self.launch.threads() as usize;
        let lack = |error: std::io::Error| Fault {
            error: HipError::OutOfMemory,
            message: format!("no stack for a lane: {error}"),
        };
        while self.crew.fibers.len() < threads {
            let number = self.crew.fibers.len();
            self.crew.fibers.push(Fiber::new(number).map_err(lack)?);
        }
        let entry = Entry {
            function: self.launch.function.entry,
            parameters: self.launch.parameters.as_ptr().cast(),
        };
        let [width, height, _] = self.launch.block;
        for (number, fiber) in (0_u32..).zip(&mut self.crew.fibers[..threads]) {
            let thread = [number % width, number / width % height, number / width / height];
            let mut lane = Lane::new(thread, number % self.launch.function.module.profile.wave);
            lane.block = self.launch.block_at(self.index);
            lane.block_threads = self.launch.block;
            lane.grid_blocks = self.launch.grid;
            fiber.start(lane, entry);
        }
        Ok(())
    }

    /// A wave that can go on, if there is one.
    fn choose(&mut self, waves: &[WaveState]) -> Option<usize> {
        let start = self.shuffle.below(waves.len());
        let order = (start..waves.len()).chain(0..start);
        order.into_iter().find(|wave| waves[*wave] == WaveState::Runnable)
    }

    /// Lets a wave go on for its turn.
    fn advance(&mut self, wave: usize) -> Result<WaveState, Fault> {
        let first = wave * self.wave_lanes;
        let lanes = self.wave_lanes.min(self.launch.threads() as usize - first);
        let turn = 1 + self.shuffle.below(usize::try_from(TURN).unwrap_or(1));
        for _ in 0..turn {
            self.resume(first, lanes)?;
            match self.agree(first)? {
                Wait::Ended => return Ok(WaveState::Ended),
                Wait::Barrier { site } => return Ok(WaveState::AtBarrier { site }),
                Wait::Collective { apply, .. } if lanes == self.wave_lanes => self.collect(apply),
                Wait::Collective { .. } => {
                    let message = format!("the wave has {lanes} threads, but its instruction needs all");
                    return Err(self.fault(first, HipError::LaunchFailure, &message));
                }
            }
        }
        Ok(WaveState::Runnable)
    }

    /// Runs each lane of a wave to where it waits.
    fn resume(&mut self, first: usize, lanes: usize) -> Result<(), Fault> {
        let start = self.shuffle.below(lanes);
        let backwards = self.shuffle.below(2) == 1;
        self.crew.waits.clear();
        self.crew.waits.resize(lanes, Wait::Ended);
        for step in 0..lanes {
            let step = if backwards { lanes - 1 - step } else { step };
            let lane = (start + step) % lanes;
            match self.crew.fibers[first + lane].resume(self.image.slot, self.crew.watch) {
                Ok(wait) => self.crew.waits[lane] = wait,
                Err(Stop::Said(message)) => {
                    return Err(self.fault(first + lane, HipError::LaunchFailure, &message));
                }
                Err(Stop::Trapped(found)) => {
                    let memory = [libc::SIGSEGV, libc::SIGBUS].contains(&found.signal);
                    let error = if memory { HipError::IllegalAddress } else { HipError::LaunchFailure };
                    return Err(self.fault(first + lane, error, &trap::describe(found)));
                }
            }
        }
        Ok(())
    }

    /// What the lanes of the wave that was resumed wait for, if they agree.
    fn agree(&self, first: usize) -> Result<Wait, Fault> {
        let place = |wait: Wait| match wait {
            Wait::Collective { site, .. } => (1, site),
            Wait::Barrier { site } => (2, site),
            Wait::Ended => (3, 0),
        };
        let one = self.crew.waits[0];
        let Some(other) = self.crew.waits.iter().position(|wait| place(*wait) != place(one)) else {
            return Ok(one);
        };
        let message = format!(
            "its wave diverged: lane 0 {}, lane {other} {}; all lanes must come to the same place",
            describe(one),
            describe(self.crew.waits[other])
        );
        Err(self.fault(first + other, HipError::LaunchFailure, &message))
    }

    fn collect(&mut self, apply: super::lane::Apply) {
        let operands = self.crew.waits.iter().map(|wait| match *wait {
            Wait::Collective { operands, .. } => operands,
            Wait::Barrier { .. } | Wait::Ended => std::ptr::null_mut(),
        });
        self.crew.operands.clear();
        self.crew.operands.extend(operands);
        // SAFETY: every lane of the wave waits at the same place, so that all operands have the type that the function
        // expects; they lie on the stacks of fibers that are suspended.
        unsafe { apply(self.crew.operands.as_ptr()) };
    }

    /// Lets all waves go on behind a barrier, if all came to the same one.
    fn pass_barrier(&self, waves: &mut [WaveState]) -> Result<(), Fault> {
        let one = waves[0];
        if let Some(other) = waves.iter().position(|state| *state != one) {
            let place = |state: WaveState| match state {
                WaveState::AtBarrier { site } => format!("waits at the barrier of line {}", line(site)),
                WaveState::Runnable | WaveState::Ended => "has ended".to_owned(),
            };
            let message = format!(
                "waves do not meet at a barrier: wave 0 {}, wave {other} {}",
                place(one),
                place(waves[other])
            );
            return Err(self.fault(other * self.wave_lanes, HipError::LaunchFailure, &message));
        }
        waves.fill(WaveState::Runnable);
        Ok(())
    }

    fn fault(&self, thread: usize, error: HipError, message: &str) -> Fault {
        let block = self.launch.block_at(self.index);
        let kernel = &self.launch.function.name;
        let message = format!("kernel {kernel}, block {block:?}, thread {thread}: {message}");
        Fault { error, message }
    }
}

/// The line of a place in the kernel's source.
fn line(site: u32) -> u32 {
    site & 0xffff
}

fn describe(wait: Wait) -> String {
    match wait {
        Wait::Collective { site, .. } => format!("is at the wave's instruction of line {}", line(site)),
        Wait::Barrier { site } => format!("is at the barrier of line {}", line(site)),
        Wait::Ended => "has ended".to_owned(),
    }
}
