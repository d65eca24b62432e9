//! `octet complete` and `octet chat`: the clients of `client/`, against a running server or, with `--model`, against one
//! in this process. There is one path from the terminal to the model, whichever it is.

use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::cli::serve::ServeArgs;
use crate::cli::terminal::{ChatCommand, CompleteCommand, InProcess};
use crate::{client, serve};

/// Completes prompts.
///
/// # Errors
/// No server, no model, or the terminal is gone.
pub(crate) fn complete(mut command: CompleteCommand) -> Result<()> {
    if let Some(url) = start_here(command.here)? {
        command.complete.client.url = url;
        command.complete.client.api_key = None;
    }
    client::complete::run(&command.complete)
}

/// Chats.
///
/// # Errors
/// As [`complete`].
pub(crate) fn chat(mut command: ChatCommand) -> Result<()> {
    if let Some(url) = start_here(command.here)? {
        command.chat.client.url = url;
        command.chat.client.api_key = None;
    }
    client::chat::run(&command.chat)
}

/// Serves the model named by `--model` on a free port of the loopback interface; returns the API's URL.
fn start_here(here: InProcess) -> Result<Option<String>> {
    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        serve: ServeArgs,
    }
    let Some(model) = here.model else {
        return Ok(None);
    };
    let fixed = ["octet", "--host", "127.0.0.1", "--port", "0", "--disable-access-log"];
    let mut arguments = Defaults::parse_from(fixed).serve;
    arguments.model = Some(model);
    arguments.engine = here.engine;
    // The key of another server must not lock us out of our own.
    let (service, socket) = serve::prepare(&arguments, Vec::new())?;
    let (ready, address) = mpsc::channel();
    let server = move || {
        let ended = octet_server::run(service, socket, move |address| {
            // Nobody waits only if the main thread is gone, and with it the process.
            let _ = ready.send(address.clone());
        });
        // A signal or a fault: the client, which may wait for a line, cannot go on without its server.
        match ended {
            Ok(()) => std::process::exit(130),
            Err(error) => {
                crate::report::failure(&error.into());
                std::process::exit(1)
            }
        }
    };
    thread::Builder::new()
        .name("octet-server".to_owned())
        .spawn(server)
        .context("no thread for the model's server")?;
    match address.recv() {
        Ok(address) => Ok(Some(format!("{address}/v1"))),
        Err(_) => bail!("the model's server ended before it was ready"),
    }
}
