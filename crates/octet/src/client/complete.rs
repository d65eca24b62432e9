//! `octet complete`: text goes on at the terminal.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{ClientArgs, Connection, Terminal, on_terminal, stream};

/// Let a model continue a text.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompleteArgs {
    /// The server.
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// Send one prompt, print its continuation, and end.
    #[arg(short, long, value_name = "PROMPT")]
    pub(crate) quick: Option<String>,
}

/// Continues texts on this process's terminal, with the server that the arguments name.
///
/// # Errors
/// The server cannot be reached or refuses a prompt.
pub(crate) fn run(arguments: &CompleteArgs) -> Result<()> {
    let connection = Connection::open(&arguments.client)?;
    on_terminal(|terminal| complete(arguments, &connection, terminal))
}

/// Prompts in, continuations out, until the input ends. Each prompt stands for itself.
pub(super) fn complete(
    arguments: &CompleteArgs,
    connection: &Connection,
    terminal: &mut Terminal<'_>,
) -> Result<()> {
    if let Some(prompt) = &arguments.quick {
        return answer(arguments, connection, prompt, terminal);
    }
    writeln!(terminal.notes, "{} continues what you write; an empty input (Ctrl-D) ends.", connection.model)?;
    while let Some(prompt) = terminal.ask("> ")? {
        answer(arguments, connection, &prompt, terminal)?;
    }
    Ok(())
}

fn answer(
    arguments: &CompleteArgs,
    connection: &Connection,
    prompt: &str,
    terminal: &mut Terminal<'_>,
) -> Result<()> {
    let mut body = json!({
        "model": connection.model, "prompt": prompt, "stream": true,
        "stream_options": { "include_usage": true }
    });
    if let Some(max_tokens) = arguments.client.max_tokens {
        body["max_tokens"] = json!(max_tokens);
    }
    let begun = Instant::now();
    let mut reader = connection.post("/completions", &body)?;
    let stats = stream::read(&mut reader, begun, |text| terminal.show(text))?;
    terminal.end(&stats, arguments.client.stats)
}
