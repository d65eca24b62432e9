//! The command line: what was typed. One file for each group of flags; `crate::settings` makes of it what is meant.

mod config_file;
mod engine;
mod foreign;
mod http;
mod reader;
mod sizes;

pub(crate) mod bench;
pub(crate) mod serve;
pub(crate) mod terminal;
pub(crate) mod tuning;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use engine::{Device, EngineArgs, Quantization, SchedulingPolicy};
pub(crate) use sizes::{parse_bytes, parse_count, parse_seconds};

/// Serves large language models from one native program.
#[derive(Debug, Parser)]
#[command(name = "octet", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands, one file each.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model over OpenAI's HTTP API.
    Serve(Box<serve::ServeArgs>),
    /// Find the fastest kernels for a model's matrix products, ahead of time.
    Tune(Box<tuning::TuneArgs>),
    /// Measure a model on this machine.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// List the devices of this machine, and what was looked for where.
    Devices,
    /// Run every operation on a device against the reference, and print errors and times.
    Selftest(SelftestArgs),
    /// Complete prompts at the terminal.
    Complete(Box<terminal::CompleteCommand>),
    /// Chat at the terminal.
    Chat(Box<terminal::ChatCommand>),
}

/// `octet selftest`.
#[derive(Args, Debug)]
pub(crate) struct SelftestArgs {
    /// Which device.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) device: Device,
}

impl Cli {
    /// Reads the command line; ends the process with a message where it is wrong. Beside it, what to tell the user about
    /// flags that were taken and change nothing.
    pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> (Self, Vec<String>) {
        Self::try_read(arguments.into_iter().collect()).unwrap_or_else(|error| error.exit())
    }

    fn try_read(line: Vec<OsString>) -> Result<(Self, Vec<String>), clap::Error> {
        let read = reader::read(definition(), line)?;
        let matches = definition().try_get_matches_from(read.arguments)?;
        match misplaced_flag(&matches) {
            Some(error) => Err(error),
            None => Ok((Self::from_arg_matches(&matches)?, read.notices)),
        }
    }
}

/// All flags. At the terminal `-q` is `--quick`, as in vLLM's `chat` and `complete`; elsewhere it is `--quantization`.
/// Of a flag that is given twice the last counts.
fn definition() -> clap::Command {
    let without_short =
        |command: clap::Command| command.mut_arg("quantization", |argument| argument.short(None));
    let with_config = |command: clap::Command| {
        let help = "YAML file with flags, one a line such as `port: 8000`; what is typed wins over it";
        command.arg(clap::Arg::new("config").long("config").value_name("FILE.yaml").help(help))
    };
    Cli::command()
        .args_override_self(true)
        .mut_subcommand("complete", without_short)
        .mut_subcommand("chat", without_short)
        .mut_subcommands(move |command| {
            if command.has_subcommands() {
                command.mut_subcommands(with_config)
            } else {
                with_config(command)
            }
        })
}

/// At the terminal, a model in this process (`--model`) and a server have flags of their own; those of the other would
/// be ignored, so they are refused. Not so a key from the environment, which is for whatever needs one.
fn misplaced_flag(matches: &ArgMatches) -> Option<clap::Error> {
    let (name, matches) = matches.subcommand().filter(|(name, _)| matches!(*name, "complete" | "chat"))?;
    let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let (kind, message) = if matches.contains_id("model") {
        let message = is_typed("api_key").then(|| "--api-key is for a server; --model needs none".to_owned());
        (ErrorKind::ArgumentConflict, message?)
    } else {
        let engine = EngineArgs::augment_args(clap::Command::new("engine"));
        let flag = engine.get_arguments().find(|flag| is_typed(flag.get_id().as_str()))?.get_long()?;
        let message = format!(
            "--{flag} is about a model that runs in this process: name it with --model, or give the flag to the server"
        );
        (ErrorKind::MissingRequiredArgument, message)
    };
    Some(definition().find_subcommand_mut(name)?.error(kind, message))
}

#[cfg(test)]
mod compatibility;
#[cfg(test)]
mod corpus;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn the_help_begins_with_what_octet_does() {
        let help = definition().render_long_help().to_string();
        assert!(help.starts_with("Serves large language models"), "{help}");
    }

    #[test]
    fn a_flag_takes_one_value_and_leaves_the_model_alone() {
        let serve = |typed: &[&str]| -> Result<serve::ServeArgs, clap::Error> {
            let matches = definition().try_get_matches_from([&["octet", "serve"], typed].concat())?;
            match Cli::from_arg_matches(&matches)?.command {
                Command::Serve(arguments) => Ok(*arguments),
                other => panic!("{other:?}"),
            }
        };
        let named = serve(&["--served-model-name", "foo", "/models/x"]).unwrap();
        assert_eq!(
            (named.model.as_deref(), named.served_model_name),
            (Some("/models/x"), vec!["foo".to_owned()])
        );
        let keyed = serve(&["--api-key", "k", "/models/x", "--api-key", "l"]).unwrap();
        assert_eq!(
            (keyed.model.as_deref(), keyed.api_key),
            (Some("/models/x"), ["k", "l"].map(str::to_owned).to_vec())
        );
        let error = serve(&["/models/x", "--served-model-name", "a", "b"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownArgument, "{error}");
        // No flag beside a model may take words without end.
        for command in
            definition().get_subcommands().filter(|command| command.get_positionals().next().is_some())
        {
            for flag in command.get_arguments().filter(|argument| !argument.is_positional()) {
                let most = flag.get_num_args().map_or(1, |range| range.max_values());
                assert!(most <= 1, "{}: {:?} takes {most} values", command.get_name(), flag.get_long());
            }
        }
    }

    #[test]
    fn flags_of_a_model_and_of_a_server_do_not_mix_at_the_terminal() {
        let check = |typed: &[&str]| {
            let matches = definition().get_matches_from([&["octet"], typed].concat());
            misplaced_flag(&matches).map(|error| error.to_string())
        };
        assert_eq!(check(&["chat", "--max-tokens", "3"]), None);
        assert_eq!(check(&["chat", "--model", "octet-mini", "--threads", "1"]), None);
        assert_eq!(check(&["serve", "--threads", "1"]), None);
        let message = check(&["chat", "--model", "octet-mini", "--api-key", "k"]).unwrap();
        assert!(message.contains("--api-key is for a server"), "{message}");
        for command in ["chat", "complete"] {
            let message = check(&[command, "--kv-cache-dtype", "fp8"]).unwrap();
            assert!(message.contains("--kv-cache-dtype is about a model"), "{message}");
        }
    }
}
