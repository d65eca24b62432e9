//! A lane: one thread of a kernel, which is a fiber.

use corosensei::stack::{DefaultStack, Stack, StackPointer};
use corosensei::trap::CoroutineTrapHandler;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::trap::{Trap, Watch};

/// Bytes of a fiber's stack. A kernel's arrays in registers lie there.
const STACK_BYTES: usize = 256 << 10;

/// Stacks begin so far apart from each other within a page or few: all at the top of theirs would lie in the same sets of
/// the processor's cache, and a block's fibers would push each other out.
const STACK_STEP_BYTES: usize = 320;
const STACK_STEPS: usize = 48;

/// A stack that begins a little below the top of its memory.
struct LaneStack {
    memory: DefaultStack,
    base: StackPointer,
}

impl LaneStack {
    fn new(number: usize) -> std::io::Result<Self> {
        let memory = DefaultStack::new(STACK_BYTES)?;
        let base = memory.base().get() - number % STACK_STEPS * STACK_STEP_BYTES;
        let base = StackPointer::new(base).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, base })
    }
}

// SAFETY: the base lies inside of memory that is a stack with a guard page, and far above its end. It is aligned, as
// memory's own is and the steps are.
unsafe impl Stack for LaneStack {
    fn base(&self) -> StackPointer {
        self.base
    }

    fn limit(&self) -> StackPointer {
        self.memory.limit()
    }
}

/// The numbers by which a lane says what it waits for; those of `hipsim_wait` in `device/lane.h`.
const COLLECTIVE: u32 = 1;
const BARRIER: u32 = 2;

/// Computes a collective for a whole wave from its lanes' operands.
pub(crate) type Apply = unsafe extern "C" fn(*const *mut libc::c_void);

/// What kernels and simulator share of a lane. The layout is that of `hipsim_lane` in `device/lane.h`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Lane {
    pub(crate) thread: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) block_threads: [u32; 3],
    pub(crate) grid_blocks: [u32; 3],
    pub(crate) lane: u32,
    kind: u32,
    site: u32,
    apply: Option<Apply>,
    operands: *mut libc::c_void,
    message: *const libc::c_char,
    yielder: *const Yielder<(), ()>,
}

impl Lane {
    pub(crate) fn new(thread: [u32; 3], lane: u32) -> Self {
        Self {
            thread,
            block: [0; 3],
            block_threads: [0; 3],
            grid_blocks: [0; 3],
            lane,
            kind: 0,
            site: 0,
            apply: None,
            operands: std::ptr::null_mut(),
            message: std::ptr::null(),
            yielder: std::ptr::null(),
        }
    }
}

/// Called by a kernel: gives control back to the simulator until the lane is resumed.
pub(crate) unsafe extern "C" fn hand_over(lane: *mut Lane) {
    // SAFETY: the kernel passes the lane that the simulator set for the running fiber, and the fiber's yielder lives as
    // long as the fiber runs.
    unsafe { (*(*lane).yielder).suspend(()) }
}

/// What a lane waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    Collective { site: u32, apply: Apply, operands: *mut libc::c_void },
    Barrier { site: u32 },
    Ended,
}

/// Why a lane cannot go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The kernel or its environment says so.
    Said(String),
    /// The processor trapped.
    Trapped(Trap),
}

/// A started lane. It returns a trap that ended it.
struct Started {
    coroutine: Coroutine<(), (), Option<Trap>, LaneStack>,
    handler: CoroutineTrapHandler<Option<Trap>>,
}

/// The fiber of a lane.
pub(crate) struct Fiber {
    lane: Box<Lane>,
    started: Option<Started>,
    /// The stack between two kernels.
    stack: Option<LaneStack>,
}

/// What a fiber executes: the kernel's entry and its parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) function: unsafe extern "C" fn(*const libc::c_void),
    pub(crate) parameters: *const libc::c_void,
}

impl Fiber {
    /// The fiber with a running number in its block, without a kernel.
    pub(crate) fn new(number: usize) -> std::io::Result<Self> {
        let stack = Some(LaneStack::new(number)?);
        Ok(Self { lane: Box::new(Lane::new([0; 3], 0)), started: None, stack })
    }

    /// Makes the fiber ready to execute a lane from its start. It must have ended or been abandoned.
    pub(crate) fn start(&mut self, lane: Lane, entry: Entry) {
        *self.lane = lane;
        self.abandon();
        let Some(stack) = self.stack.take() else { return };
        let shared: *mut Lane = &raw mut *self.lane;
        let coroutine = Coroutine::with_stack(stack, move |yielder, ()| {
            // SAFETY: the lane is boxed and lives longer than its coroutine; nobody else touches it while the fiber
            // runs. The entry is a kernel of a module that the launch keeps loaded, with parameters that it owns.
            unsafe {
                (*shared).yielder = yielder;
                (entry.function)(entry.parameters);
            }
            None
        });
        let handler = coroutine.trap_handler();
        self.started = Some(Started { coroutine, handler });
    }

    /// Runs the lane until it waits, ends or cannot go on. `slot` is where the module looks for the running lane.
    pub(crate) fn resume(&mut self, slot: *mut *mut Lane, watch: &Watch) -> Result<Wait, Stop> {
        let Some(Started { coroutine, handler }) = self.started.as_mut() else { return Ok(Wait::Ended) };
        // SAFETY: the slot is this thread's variable of the loaded module.
        unsafe { *slot = &raw mut *self.lane };
        watch.set(Some(*handler));
        let result = coroutine.resume(());
        watch.set(None);
        match result {
            CoroutineResult::Return(end) => {
                self.stack = self.started.take().map(|started| started.coroutine.into_stack());
                end.map_or(Ok(Wait::Ended), |trap| Err(Stop::Trapped(trap)))
            }
            CoroutineResult::Yield(()) => self.waits_for(),
        }
    }

    fn waits_for(&self) -> Result<Wait, Stop> {
        let Lane { kind, site, apply, operands, message, .. } = *self.lane;
        match (kind, apply) {
            (COLLECTIVE, Some(apply)) => Ok(Wait::Collective { site, apply, operands }),
            (BARRIER, _) => Ok(Wait::Barrier { site }),
            _ if message.is_null() => Err(Stop::Said("it stopped for no reason that it gave".to_owned())),
            _ => {
                // SAFETY: a message is a string literal of the module, which is loaded.
                let message = unsafe { std::ffi::CStr::from_ptr(message) };
                Err(Stop::Said(message.to_string_lossy().into_owned()))
            }
        }
    }

    /// Throws the rest of an unfinished kernel away.
    pub(crate) fn abandon(&mut self) {
        if let Some(Started { mut coroutine, .. }) = self.started.take() {
            // SAFETY: frames of kernels hold nothing that must be dropped: they are C++ without destructors, and the
            // closure below them owns plain values.
            unsafe { coroutine.force_reset() };
            self.stack = Some(coroutine.into_stack());
        }
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        self.abandon();
    }
}
