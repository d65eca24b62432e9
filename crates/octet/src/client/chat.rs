//! `octet chat`: a conversation at the terminal.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::{ClientArgs, Connection, Terminal, on_terminal, stream};

/// Talk to a model.
#[derive(Clone, Debug, Args)]
pub(crate) struct ChatArgs {
    /// The server.
    #[command(flatten)]
    pub(crate) client: ClientArgs,

    /// What the model is told first.
    #[arg(long)]
    pub(crate) system_prompt: Option<String>,

    /// Send one message, print the answer, and end.
    #[arg(short, long, value_name = "MESSAGE")]
    pub(crate) quick: Option<String>,
}

/// Runs the conversation on this process's terminal, with the server that the arguments name.
///
/// # Errors
/// The server cannot be reached or refuses a message.
pub(crate) fn run(arguments: &ChatArgs) -> Result<()> {
    let connection = Connection::open(&arguments.client)?;
    on_terminal(|terminal| converse(arguments, &connection, terminal))
}

/// Messages in, answers out, until the input ends.
pub(super) fn converse(
    arguments: &ChatArgs,
    connection: &Connection,
    terminal: &mut Terminal<'_>,
) -> Result<()> {
    let mut messages = Vec::new();
    if let Some(prompt) = &arguments.system_prompt {
        messages.push(json!({ "role": "system", "content": prompt }));
    }
    if let Some(message) = &arguments.quick {
        messages.push(json!({ "role": "user", "content": message }));
        answer(arguments, connection, &messages, terminal)?;
        return Ok(());
    }
    writeln!(terminal.notes, "{} is listening; an empty input (Ctrl-D) ends.", connection.model)?;
    while let Some(message) = terminal.ask("> ")? {
        messages.push(json!({ "role": "user", "content": message }));
        let text = answer(arguments, connection, &messages, terminal)?;
        messages.push(json!({ "role": "assistant", "content": text }));
    }
    Ok(())
}

fn answer(
    arguments: &ChatArgs,
    connection: &Connection,
    messages: &[Value],
    terminal: &mut Terminal<'_>,
) -> Result<String> {
    let mut body = json!({
        "model": connection.model, "messages": messages, "stream": true,
        "stream_options": { "include_usage": true }
    });
    if let Some(max_tokens) = arguments.client.max_tokens {
        body["max_tokens"] = json!(max_tokens);
    }
    let begun = Instant::now();
    let mut reader = connection.post("/chat/completions", &body)?;
    let mut whole = String::new();
    let stats = stream::read(&mut reader, begun, |text| {
        whole.push_str(text);
        terminal.show(text)
    })?;
    terminal.end(&stats, arguments.client.stats)?;
    Ok(whole)
}
