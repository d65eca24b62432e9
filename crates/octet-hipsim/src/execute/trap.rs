//! Traps of the processor inside of a kernel become faults of the kernel.
//!
//! A kernel that reads behind its memory makes the processor raise SIGSEGV. The handler ends the fiber instead of the
//! process, with what happened as its result. Signals from elsewhere go on to whoever handled them before.

use std::cell::Cell;
use std::sync::OnceLock;

use corosensei::trap::CoroutineTrapHandler;

/// What the processor complained about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trap {
    pub(crate) signal: i32,
    /// The address that could not be reached, for SIGSEGV and SIGBUS.
    pub(crate) address: usize,
}

/// The fiber that runs in a thread, while one does. Whoever resumes fibers sets it.
pub(crate) type Watch = Cell<Option<CoroutineTrapHandler<Option<Trap>>>>;

thread_local! {
    /// This thread's watch, found once for many fibers.
    static WATCH: Cell<Option<&'static Watch>> = const { Cell::new(None) };
    /// Whether this thread has a stack for its handler: a fiber's own may be what overflowed.
    static HAS_STACK: Cell<bool> = const { Cell::new(false) };
}

const SIGNALS: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];

/// Bytes of a handler's stack.
const HANDLER_STACK_BYTES: usize = 64 << 10;

static PREVIOUS: OnceLock<[libc::sigaction; 4]> = OnceLock::new();

/// Prepares this thread, and the process once. Returns the thread's watch.
pub(crate) fn prepare() -> &'static Watch {
    if !HAS_STACK.replace(true) {
        let stack = Box::leak(vec![0_u8; HANDLER_STACK_BYTES].into_boxed_slice());
        let stack =
            libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: HANDLER_STACK_BYTES };
        // SAFETY: the stack is leaked, so it outlives the thread. Threads that execute blocks are few and never end.
        unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    }
    PREVIOUS.get_or_init(install);
    let watch = WATCH.get().unwrap_or_else(|| Box::leak(Box::default()));
    WATCH.set(Some(watch));
    watch
}

fn install() -> [libc::sigaction; 4] {
    SIGNALS.map(|signal| {
        // SAFETY: both structs are plain data, for which zeros are valid; the handler has the form that SA_SIGINFO
        // asks for and does only what is allowed in a handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut previous: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, &raw mut previous);
            previous
        }
    })
}

extern "C" fn on_signal(signal: i32, information: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes valid pointers for a handler with SA_SIGINFO.
    let (address, context) = unsafe { ((*information).si_addr() as usize, &mut *context.cast()) };
    let caught =
        WATCH.get().and_then(Cell::get).filter(|handler| handler.stack_ptr_in_bounds(stack_pointer(context)));
    let Some(handler) = caught else {
        forward(signal);
        return;
    };
    let trap = Trap { signal, address };
    // SAFETY: the stack pointer lies in the fiber that runs. The fiber's frames are a kernel's, without anything to
    // drop, and the registers are set as asked below.
    let registers = unsafe { handler.setup_trap_handler(move || Some(trap)) };
    set_registers(context, registers);
}

/// Lets whoever handled the signal before handle it: the instruction is executed again, and traps again.
fn forward(signal: i32) {
    let index = SIGNALS.iter().position(|known| *known == signal);
    let previous = index.and_then(|index| PREVIOUS.get().map(|all| all[index]));
    // SAFETY: the action is the one that was installed before, or the default, for which zeros stand.
    unsafe {
        let action = previous.unwrap_or(std::mem::zeroed());
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

#[cfg(target_arch = "x86_64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    usize::try_from(context.uc_mcontext.gregs[libc::REG_RSP as usize]).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
fn set_registers(context: &mut libc::ucontext_t, registers: corosensei::trap::TrapHandlerRegs) {
    let values = [
        (libc::REG_RIP, registers.rip),
        (libc::REG_RSP, registers.rsp),
        (libc::REG_RBP, registers.rbp),
        (libc::REG_RDI, registers.rdi),
        (libc::REG_RSI, registers.rsi),
    ];
    for (register, value) in values {
        context.uc_mcontext.gregs[register as usize] = value.cast_signed();
    }
}

#[cfg(target_arch = "aarch64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    usize::try_from(context.uc_mcontext.sp).unwrap_or(0)
}

#[cfg(target_arch = "aarch64")]
fn set_registers(context: &mut libc::ucontext_t, registers: corosensei::trap::TrapHandlerRegs) {
    context.uc_mcontext.pc = registers.pc;
    context.uc_mcontext.sp = registers.sp;
    context.uc_mcontext.regs[29] = registers.x29;
    context.uc_mcontext.regs[30] = registers.lr;
    context.uc_mcontext.regs[0] = registers.x0;
    context.uc_mcontext.regs[1] = registers.x1;
}

/// The trap in words.
pub(crate) fn describe(trap: Trap) -> String {
    match trap.signal {
        libc::SIGSEGV | libc::SIGBUS => {
            format!("it reached for memory at {:#x}, which is not its own", trap.address)
        }
        libc::SIGFPE => "it divided an integer by zero, whose result is undefined".to_owned(),
        libc::SIGILL => "it indexed an array outside of its bounds, or came where it must not".to_owned(),
        other => format!("the processor raised signal {other}"),
    }
}
