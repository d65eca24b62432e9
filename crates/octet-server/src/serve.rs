//! The life of the server: listen, serve, and end in order, by a signal or by a fault of the engine.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use octet_engine::{EngineExit, EngineHandle, EngineThread};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::intake::PREPARING_THREADS;
use crate::listen::BoundSocket;
use crate::model::Model;
use crate::routes::router;
use crate::state::App;

/// Threads that serve connections. They parse and frame; the engine has its own, and needs the cores more.
const CONNECTION_THREADS: usize = 2;

/// How long `/health` says that the engine died before the process ends.
const FAULT_LINGER: Duration = Duration::from_secs(2);

/// What is left to connections after the last sequence has ended, to send what was generated.
const FLUSH_TIME: Duration = Duration::from_secs(5);

/// What [`serve`] puts together.
pub struct Service {
    /// Choices of who runs it.
    pub config: ServerConfig,
    /// What is served.
    pub model: Model,
    /// Where requests go.
    pub engine: EngineHandle,
    /// The engine's thread: its end is the server's.
    pub engine_thread: EngineThread,
}

/// Serves until a signal or a fault, on a runtime of its own. `on_ready` is called once connections are accepted.
///
/// # Errors
/// See [`serve`]; also when the operating system gives no threads.
pub fn run(
    service: Service,
    socket: BoundSocket,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONNECTION_THREADS)
        .max_blocking_threads(PREPARING_THREADS)
        .thread_name("octet-http")
        .enable_all()
        .build()
        .map_err(ServerError::Setup)?;
    let result = runtime.block_on(serve(service, socket, on_ready));
    // Connections whose clients do not read must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Serves until SIGTERM or SIGINT, then stops accepting, lets requests in flight go on for the configured time, and
/// returns `Ok`. A second signal ends them at once.
///
/// # Errors
/// The address was taken in the meantime, accepting failed, the configuration cannot be carried by HTTP, or the
/// engine died: then requests get errors, and `/health` says 503 for a moment before this returns.
pub async fn serve(
    service: Service,
    socket: BoundSocket,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<(), ServerError> {
    let Service { config, model, engine, engine_thread } = service;
    let shutdown_timeout = config.shutdown_timeout;
    let app = Arc::new(App::new(config, model, engine.clone()));
    let router = router(Arc::clone(&app))?;
    let mut signals = Signals::install()?;
    let mut engine_end = watch(engine_thread)?;
    let address = socket.local_address()?;
    // Frames of a stream are small and must leave at once.
    let listener = socket.listen()?.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection could not be set to send small packets at once");
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        // An error means that `stop` was dropped: the end as well.
        let _ = stopped.await;
    });
    let mut server = pin!(server.into_future());
    on_ready(address);
    let cause = tokio::select! {
        result = &mut server => return result.map_err(ServerError::Accept),
        name = signals.next() => Cause::Signal(name),
        exit = &mut engine_end => Cause::Engine(exit.unwrap_or_else(|_| {
            EngineExit::Died("its thread cannot be watched".to_owned())
        })),
    };
    match cause {
        Cause::Signal(name) => {
            app.stop();
            let stats = engine.stats();
            let in_flight = stats.running + stats.waiting;
            let seconds = shutdown_timeout.as_secs_f64();
            tracing::info!("{name}: stopping; {in_flight} sequences in flight have {seconds} s to end");
            engine.shutdown(shutdown_timeout);
            // Whoever listens for the end may be gone already; then the server has ended, which is what is wanted.
            let _ = stop.send(());
            let patience = shutdown_timeout + FLUSH_TIME;
            tokio::select! {
                _ = timeout(patience, &mut server) => {},
                name = signals.next() => {
                    tracing::info!("{name} again: requests in flight are given up");
                    engine.shutdown(Duration::ZERO);
                    let _ = timeout(FLUSH_TIME, &mut server).await;
                },
            }
            Ok(())
        }
        Cause::Engine(EngineExit::Stopped) => {
            app.stop();
            let _ = stop.send(());
            let _ = timeout(FLUSH_TIME, &mut server).await;
            Ok(())
        }
        Cause::Engine(EngineExit::Died(message)) => {
            tracing::error!(%message, "the engine died; the server stops");
            let _ = timeout(FAULT_LINGER, &mut server).await;
            let _ = stop.send(());
            let _ = timeout(FLUSH_TIME, &mut server).await;
            Err(ServerError::EngineFault { message })
        }
    }
}

enum Cause {
    Signal(&'static str),
    Engine(EngineExit),
}

/// Tells when the engine's thread ends. A thread of its own waits for it: it may never end, and the runtime would wait
/// for a blocking task of its own.
fn watch(engine_thread: EngineThread) -> Result<oneshot::Receiver<EngineExit>, ServerError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("octet-watch".to_owned())
        .spawn(move || {
            // Nobody may be listening any more: then the end is known.
            let _ = sender.send(engine_thread.join());
        })
        .map_err(ServerError::Setup)?;
    Ok(receiver)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> Result<Self, ServerError> {
        let install = |kind| signal(kind).map_err(ServerError::Setup);
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
