//! `POST /v1/chat/completions`: as it travels (`types`), checked (`validate`, `conversation`), planned (`convert`),
//! answered (`response`).

mod conversation;
mod convert;
mod response;
mod types;
mod validate;

pub(crate) use conversation::Conversation;
pub(crate) use convert::ChatShape;
pub(crate) use types::ConversationFields;
