//! `octet chat`: a conversation at the terminal.
//!
//! A conversation outgrows the model's context sooner or later. Then its older half is forgotten, which is said, and it
//! goes on. A message that the server refuses for another reason is taken back, and the next one is asked for.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::stream::AnswerStats;
use super::{ClientArgs, Connection, Refusal, Terminal, on_terminal, stream};

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
    let mut chat = Chat::new(arguments, connection);
    if let Some(message) = &arguments.quick {
        chat.say("user", message);
        return chat.answer(terminal).map(|_| ());
    }
    writeln!(terminal.notes, "{} is listening; an empty input (Ctrl-D) ends.", connection.model)?;
    while let Some(message) = terminal.ask("> ")? {
        chat.say("user", &message);
        chat.answer_or_forget(terminal)?;
    }
    Ok(())
}

/// What was said, and who answers.
struct Chat<'a> {
    arguments: &'a ChatArgs,
    connection: &'a Connection,
    /// The system prompt, if there is one; then users and assistants in turn.
    messages: Vec<Value>,
}

impl<'a> Chat<'a> {
    fn new(arguments: &'a ChatArgs, connection: &'a Connection) -> Self {
        let mut chat = Self { arguments, connection, messages: Vec::new() };
        if let Some(prompt) = &arguments.system_prompt {
            chat.say("system", prompt);
        }
        chat
    }

    fn say(&mut self, role: &str, text: &str) {
        self.messages.push(json!({ "role": role, "content": text }));
    }

    /// Lets the model answer the last message, for a shorter conversation if need be.
    fn answer_or_forget(&mut self, terminal: &mut Terminal<'_>) -> Result<()> {
        loop {
            let refusal = match self.answer(terminal) {
                Ok((text, stats)) => {
                    self.say("assistant", &text);
                    return self.keep_room(&stats, terminal);
                }
                Err(error) => error.downcast::<Refusal>()?,
            };
            if !refusal.is_about_length() || !self.forget(terminal)? {
                writeln!(terminal.notes, "{refusal}\nYour message was not answered; try another.")?;
                self.messages.pop();
                return Ok(());
            }
        }
    }

    /// An answer that ended where the context does leaves no room for another.
    fn keep_room(&mut self, stats: &AnswerStats, terminal: &mut Terminal<'_>) -> Result<()> {
        if self.connection.max_model_len.is_some_and(|longest| stats.total_tokens() >= longest) {
            writeln!(terminal.notes, "The answer breaks off here: the model's context is full.")?;
            self.forget(terminal)?;
        }
        Ok(())
    }

    /// Drops the older half of the questions and answers, the last message excepted; says whether there were any.
    fn forget(&mut self, terminal: &mut Terminal<'_>) -> Result<bool> {
        let first = usize::from(self.arguments.system_prompt.is_some());
        // Whole turns of a question and its answer, so that users and assistants go on in turn.
        let turns = (self.messages.len() - first) / 2;
        if turns == 0 {
            return Ok(false);
        }
        self.messages.drain(first..first + 2 * turns.div_ceil(2));
        writeln!(
            terminal.notes,
            "The conversation is longer than the model's context: its older half is forgotten."
        )?;
        Ok(true)
    }

    fn answer(&self, terminal: &mut Terminal<'_>) -> Result<(String, AnswerStats)> {
        let mut body = json!({
            "model": self.connection.model, "messages": self.messages, "stream": true,
            "stream_options": { "include_usage": true }
        });
        let client = &self.arguments.client;
        if let Some(max_tokens) = client.max_tokens {
            body["max_tokens"] = json!(max_tokens);
        }
        let begun = Instant::now();
        let mut reader = self.connection.post("/chat/completions", &body)?;
        let mut whole = String::new();
        let stats = stream::read(&mut reader, begun, |text| {
            whole.push_str(text);
            terminal.show(text)
        })?;
        terminal.end(&stats, client.stats)?;
        Ok((whole, stats))
    }
}
