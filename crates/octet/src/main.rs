//! The program: one file for each subcommand. It picks the backend and wires the crates below it.
//!
//! - `cli/` is what was typed; `settings.rs` makes of it what is meant, once. `environment.rs` knows the variables.
//! - `start.rs` brings a model up: backend, weights, memory plan, engine; `report.rs` says what it found.
//! - `device.rs` picks the device and lists them; `selftest/` tries one, at length or in what a model uses of it;
//!   `roofline.rs` measures what it can do at best.
//! - `serve.rs`, `bench/`, `tune.rs` and `terminal.rs` (with `client/`) are the subcommands; `tuning/` is what they do
//!   about the kernels of matrix products.

mod bench;
mod cli;
mod client;
mod device;
mod environment;
mod logging;
mod output;
mod report;
mod roofline;
mod selftest;
mod serve;
mod settings;
mod shipped;
mod start;
mod terminal;
mod tune;
mod tuning;

use std::process::ExitCode;

use cli::{Cli, Command};

/// The status of a process that could not do what it was asked to, or died of a fault.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    let (cli, notices) = Cli::read(std::env::args_os());
    for notice in notices {
        report::line(format_args!("note: {notice}"));
    }
    let outcome = match cli.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::Devices => device::list(),
        Command::Selftest(arguments) => selftest::run(arguments.device),
        Command::Bench(cli::bench::BenchCommand::Latency(arguments)) => bench::latency(&arguments),
        Command::Bench(cli::bench::BenchCommand::Serve(arguments)) => bench::serve::run(&arguments),
        Command::Bench(cli::bench::BenchCommand::Throughput(arguments)) => bench::throughput::run(&arguments),
        Command::Complete(arguments) => terminal::complete(*arguments),
        Command::Chat(arguments) => terminal::chat(*arguments),
    };
    match outcome {
        Ok(()) => {
            logging::finish();
            ExitCode::SUCCESS
        }
        Err(error) => {
            report::failure(&error);
            logging::finish();
            if octet_gpu::device_was_lost() {
                octet_gpu::end_process(FAILURE);
            }
            ExitCode::from(FAILURE)
        }
    }
}
