//! The life of the server: listen, serve, and end in order, by a signal or by a fault of the engine.

use std::sync::Arc;
use std::time::Duration;

use octet_engine::{EngineExit, EngineHandle, EngineThread};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::config::ServerConfig;
use crate::connection::{Connections, Phase};
use crate::error::ServerError;
use crate::intake::PREPARING_THREADS;
use crate::listen::{BoundSocket, ListenAddress};
use crate::model::Model;
use crate::routes::router;
use crate::state::App;

/// Threads that serve connections. They parse and frame; the engine has its own, and needs the cores more.
const CONNECTION_THREADS: usize = 2;

/// How long `/health` says that the engine died before the process ends.
const FAULT_LINGER: Duration = Duration::from_secs(2);

/// What the engine gets beyond the time of requests in flight: it ends them between two steps. Then the server does.
const GRACE: Duration = Duration::from_secs(1);

/// What is left to connections after the last request has ended, to send what was generated.
const FLUSH_TIME: Duration = Duration::from_secs(4);

/// The same after a second signal.
const HURRIED_FLUSH_TIME: Duration = Duration::from_millis(500);

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
    on_ready: impl FnOnce(&ListenAddress),
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
    on_ready: impl FnOnce(&ListenAddress),
) -> Result<(), ServerError> {
    let Service { config, model, engine, engine_thread } = service;
    let (shutdown_timeout, limits) = (config.shutdown_timeout, config.connections);
    let app = Arc::new(App::new(config, model, engine.clone()));
    let router = router(Arc::clone(&app))?;
    let mut signals = Signals::install()?;
    let mut engine_end = watch(engine_thread)?;
    let address = socket.local_address()?;
    let (connections, last) = Connections::new(router, limits, app.phase.clone());
    tokio::spawn(connections.accept(socket.listen()?));
    on_ready(&address);
    let cause = tokio::select! {
        name = signals.next() => Cause::Signal(name),
        exit = &mut engine_end => Cause::Engine(exit.unwrap_or_else(|_| {
            EngineExit::Died("its thread cannot be watched".to_owned())
        })),
    };
    let mut stop = Stop { app, engine, last };
    match cause {
        Cause::Signal(name) => {
            stop.announce(name, shutdown_timeout);
            tokio::select! {
                () = stop.in_order(shutdown_timeout) => {}
                name = signals.next() => {
                    tracing::info!("{name} again: requests in flight are given up");
                    stop.at_once().await;
                }
            }
            Ok(())
        }
        Cause::Engine(EngineExit::Stopped) => {
            stop.in_order(Duration::ZERO).await;
            Ok(())
        }
        Cause::Engine(EngineExit::Died(message)) => {
            tracing::error!(%message, "the engine died; the server stops");
            sleep(FAULT_LINGER).await;
            stop.in_order(Duration::ZERO).await;
            Err(ServerError::EngineFault { message })
        }
    }
}

/// The way to the end.
struct Stop {
    app: Arc<App>,
    engine: EngineHandle,
    /// Ends with the last connection.
    last: mpsc::Receiver<()>,
}

impl Stop {
    fn announce(&self, signal: &str, time: Duration) {
        let stats = self.engine.stats();
        let in_flight = stats.running + stats.waiting;
        let seconds = time.as_secs_f64();
        tracing::info!("{signal}: stopping; {in_flight} sequences in flight have {seconds} s to end");
    }

    /// Accepts no more, lets requests in flight go on for `time`, then ends them with errors, and waits for connections
    /// until all is sent that is read.
    async fn in_order(&mut self, time: Duration) {
        self.app.enter(Phase::Draining);
        self.engine.shutdown(time);
        if timeout(time.saturating_add(GRACE), self.last.recv()).await.is_err() {
            self.end(FLUSH_TIME).await;
        }
    }

    /// The same for those who cannot wait.
    async fn at_once(&mut self) {
        self.engine.shutdown(Duration::ZERO);
        self.end(HURRIED_FLUSH_TIME).await;
    }

    /// Ends what is in flight, and closes what is left after `patience`.
    async fn end(&mut self, patience: Duration) {
        self.app.enter(Phase::Ending);
        // Connections whose clients do not read have had their time.
        let _ = timeout(patience, self.last.recv()).await;
        self.app.enter(Phase::Closed);
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
