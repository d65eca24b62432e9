//! Flags of vLLM's that cannot be honoured here: known, so that the answer is the reason and not "unknown flag".

use std::convert::Infallible;

/// A parser that refuses whatever is given, with the reason.
pub(super) fn refuse(
    reason: &'static str,
) -> impl Fn(&str) -> Result<Infallible, String> + Clone + Send + Sync + 'static {
    move |_| Err(reason.to_owned())
}
