//! Flags of `octet complete` and `octet chat`.

use clap::Args;

use super::EngineArgs;
use crate::client::chat::ChatArgs;
use crate::client::complete::CompleteArgs;

/// A model to run in this process instead of asking a server.
#[derive(Args, Debug)]
pub(crate) struct InProcess {
    /// Run this model here, instead of asking a server: a folder, a Hub id, or `octet-mini`.
    #[arg(long, conflicts_with_all = ["url", "model_name"])]
    pub(crate) model: Option<String>,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Complete prompts at the terminal.
#[derive(Args, Debug)]
pub(crate) struct CompleteCommand {
    #[command(flatten)]
    pub(crate) complete: CompleteArgs,
    #[command(flatten)]
    pub(crate) here: InProcess,
}

/// Chat at the terminal.
#[derive(Args, Debug)]
pub(crate) struct ChatCommand {
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    #[command(flatten)]
    pub(crate) here: InProcess,
}
