//! Where log lines go: standard error, `OCTET_LOG` choosing how many (`warn`, `info`, `debug`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. Called once, by the subcommands that run for long.
pub(crate) fn start() {
    let filter =
        EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).with_env_var("OCTET_LOG");
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr)
        .compact()
        .init();
}
