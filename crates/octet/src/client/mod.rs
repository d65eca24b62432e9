//! The terminal side: `octet chat` and `octet complete` talk to a running server over OpenAI's API, as any client does.

pub(crate) mod chat;
pub(crate) mod complete;
mod connection;
pub(crate) mod http;
pub(crate) mod sse;
mod stream;

use std::io::{BufRead, Write};

use anyhow::Result;
use clap::Args;

pub(crate) use connection::Connection;
pub(crate) use http::Refusal;
use stream::AnswerStats;

/// Which server to talk to, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientArgs {
    /// The API's base URL.
    #[arg(long, default_value = "http://localhost:8000/v1")]
    pub(crate) url: String,

    /// The model to ask; by default the first that the server lists.
    #[arg(long)]
    pub(crate) model_name: Option<String>,

    /// Key for the server, if it wants one.
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,

    /// Most tokens of an answer; by default the server decides.
    #[arg(long)]
    pub(crate) max_tokens: Option<u32>,

    /// After each answer, print its tokens and times to standard error.
    #[arg(long)]
    pub(crate) stats: bool,
}

/// Where lines come from and answers go to: the terminal, or a test.
pub(crate) struct Terminal<'a> {
    pub(crate) input: &'a mut dyn BufRead,
    pub(crate) output: &'a mut dyn Write,
    /// Prompts and statistics: whatever is not an answer.
    pub(crate) notes: &'a mut dyn Write,
}

impl Terminal<'_> {
    /// Asks for a line; `None` at the end of the input. Empty lines are asked again.
    fn ask(&mut self, prompt: &str) -> Result<Option<String>> {
        loop {
            write!(self.notes, "{prompt}")?;
            self.notes.flush()?;
            let mut line = String::new();
            if self.input.read_line(&mut line)? == 0 {
                writeln!(self.notes)?;
                return Ok(None);
            }
            let text = line.trim_end_matches(['\n', '\r']);
            if !text.trim().is_empty() {
                return Ok(Some(text.to_owned()));
            }
        }
    }

    /// Shows a piece of an answer at once.
    fn show(&mut self, text: &str) -> Result<()> {
        self.output.write_all(text.as_bytes())?;
        self.output.flush()?;
        Ok(())
    }

    /// Ends an answer.
    fn end(&mut self, stats: &AnswerStats, with_stats: bool) -> Result<()> {
        self.show("\n")?;
        if with_stats {
            writeln!(self.notes, "{stats}")?;
        }
        Ok(())
    }
}

/// Runs a client on the process's own terminal.
pub(crate) fn on_terminal(run: impl FnOnce(&mut Terminal<'_>) -> Result<()>) -> Result<()> {
    let mut terminal = Terminal {
        input: &mut std::io::stdin().lock(),
        output: &mut std::io::stdout().lock(),
        notes: &mut std::io::stderr().lock(),
    };
    run(&mut terminal)
}

#[cfg(test)]
mod tests;
