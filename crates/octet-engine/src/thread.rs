//! The thread that owns an engine: commands between steps, steps while there is work, sleep otherwise.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::error::{ConfigError, SubmitError};
use crate::executor::{Executor, ExecutorError};
use crate::handle::EngineHandle;
use crate::mailbox::{Command, Mailbox, Wake};
use crate::request::{Event, Request, RequestFault};

/// How long there must be nothing to do before the executor may turn to work of its own: the next request of a
/// conversation or a benchmark should not meet the first slice of it.
const IDLE_AFTER: Duration = Duration::from_millis(250);

/// How an engine's thread ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineExit {
    /// It was asked to, and every request had its end.
    Stopped,
    /// The device failed or the engine broke; every request got [`RequestFault::EngineStopped`], or
    /// [`RequestFault::DeviceStalled`]. The text says why.
    Died(String),
}

/// The thread of an engine. Dropping it lets the thread go on.
#[derive(Debug)]
pub struct EngineThread {
    join: JoinHandle<EngineExit>,
}

impl EngineThread {
    /// Waits for the end: after [`EngineHandle::shutdown`], after the last handle was dropped, or after a fault.
    #[must_use]
    pub fn join(self) -> EngineExit {
        self.join.join().unwrap_or_else(|panic| EngineExit::Died(panic_message(panic.as_ref())))
    }

    /// Whether the thread has ended, so that [`EngineThread::join`] would not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.join.is_finished()
    }
}

/// Starts an engine on a thread of its own.
///
/// # Errors
/// The configuration cannot work, or the operating system gives no thread.
pub fn spawn<E: Executor + 'static>(
    config: EngineConfig,
    executor: E,
) -> Result<(EngineHandle, EngineThread), ConfigError> {
    let engine = Engine::new(config.clone(), executor)?;
    let mailbox = Arc::new(Mailbox::new(engine.stats()));
    let handle = EngineHandle::new(Arc::clone(&mailbox), config);
    let join = Builder::new()
        .name("octet-engine".into())
        .spawn(move || run(engine, &mailbox))
        .map_err(ConfigError::Thread)?;
    Ok((handle, EngineThread { join }))
}

/// The thread's body. A panic anywhere inside is an engine fault: requests get their end, then the thread does.
fn run<E: Executor>(mut engine: Engine<E>, mailbox: &Mailbox) -> EngineExit {
    let mut commands = Vec::new();
    let result = catch_unwind(AssertUnwindSafe(|| serve(&mut engine, mailbox, &mut commands)));
    let (exit, fault) = match result {
        Ok(Ok(())) => (EngineExit::Stopped, RequestFault::EngineStopped),
        Ok(Err(error)) => (EngineExit::Died(error.to_string()), RequestFault::of(&error)),
        Err(panic) => (EngineExit::Died(panic_message(panic.as_ref())), RequestFault::EngineStopped),
    };
    let refusal = match fault {
        RequestFault::DeviceStalled => SubmitError::Stalled,
        _ => SubmitError::Stopped,
    };
    // First refuse new requests, then end the old ones: nobody can slip in between and wait for ever.
    commands.extend(mailbox.close(&engine.stats(), refusal));
    engine.fail_all(&fault);
    for command in commands {
        if let Command::Submit(request) = command {
            end_unserved(request, fault.clone());
        }
    }
    exit
}

/// Steps and commands until the end. `commands` holds what was taken and not yet carried out.
fn serve<E: Executor>(
    engine: &mut Engine<E>,
    mailbox: &Mailbox,
    commands: &mut Vec<Command>,
) -> Result<(), ExecutorError> {
    let start = Instant::now();
    let clock = || start.elapsed();
    let mut patience = Some(IDLE_AFTER);
    loop {
        match mailbox.take(&engine.stats(), commands, patience) {
            Wake::Idle => {
                let has_more = engine.idle()?;
                patience = has_more.then_some(Duration::ZERO);
            }
            Wake::End => return Ok(()),
            Wake::DeadlinePassed => engine.abort_all(),
            Wake::Work => {
                // From the back, so that a panic leaves the rest to be ended; reversed first, to keep their order.
                commands.reverse();
                while let Some(command) = commands.pop() {
                    carry_out(engine, command, clock());
                }
            }
        }
        if engine.has_work() {
            engine.step(&clock)?;
            patience = Some(IDLE_AFTER);
        }
    }
}

fn carry_out<E: Executor>(engine: &mut Engine<E>, command: Command, now: Duration) {
    match command {
        Command::Submit(request) => {
            if let Err(refused) = engine.submit(request, now) {
                end_unserved(refused.request, RequestFault::Output(refused.reason.to_string()));
            }
        }
        Command::Abort(id) => engine.abort(id),
        // Nobody waits for the answer if the asker is gone.
        Command::ResetPrefixCache(reply) => drop(reply.send(engine.reset_prefix_cache())),
    }
}

fn end_unserved(mut request: Request, fault: RequestFault) {
    // Whether anybody listens makes no difference at the end.
    let _ = request.sink.deliver(Event::Failed(fault));
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("the engine's thread panicked: {}", text.unwrap_or("no message"))
}
