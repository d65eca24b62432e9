//! What bounds a template: a program from elsewhere, which may nest or run without end.

use std::thread;

use crate::TextError;

/// What rendering may cost: an instruction is 1, and so are 64 bytes of text. All of it is 128 MiB of text at most, or a
/// third of a second, as measured with templates that do not end; a thousand messages of 2,000 bytes fit. The template
/// engine charges nothing for a list that is added to a list, so such lists are not bounded.
pub(super) const FUEL: u64 = 2_000_000;

/// The longest source that is compiled; published templates have a tenth of it.
const LONGEST_SOURCE_BYTES: usize = 256 << 10;

/// Most words and signs of one tag: the parser calls itself for each operator. Published templates have tags of a hundred.
const MOST_TAG_TOKENS: usize = 2000;

/// Parsing, and freeing lists that lie in lists, call themselves once for each level; source and fuel bound the levels, and
/// this is room for all of them. Pages that are not touched cost nothing.
const STACK_BYTES: usize = 256 << 20;

/// Refuses what no template looks like.
pub(super) fn check_source(source: &str) -> Result<(), TextError> {
    if source.len() > LONGEST_SOURCE_BYTES {
        return Err(TextError::TemplateTooLong { bytes: source.len(), limit: LONGEST_SOURCE_BYTES });
    }
    let mut rest = source;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let (tokens, end) = tag_tokens(&rest[start + 2..]);
        if tokens > MOST_TAG_TOKENS {
            let line = source[..source.len() - rest.len() + start].lines().count().max(1);
            let message = format!("a tag of {tokens} words and signs; at most {MOST_TAG_TOKENS} are taken");
            return Err(TextError::TemplateSyntax { line, message });
        }
        rest = &rest[start + 2 + end..];
    }
    Ok(())
}

/// Words and signs up to the end of a tag, a string being one of them, and where that end is.
fn tag_tokens(tag: &str) -> (usize, usize) {
    let bytes = tag.as_bytes();
    let (mut tokens, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'%' | b'}' if bytes.get(at + 1) == Some(&b'}') => return (tokens, at + 2),
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            byte if is_word(byte) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
            }
            byte => {
                at += 1;
                if byte.is_ascii_whitespace() {
                    continue;
                }
            }
        }
        tokens += 1;
    }
    (tokens, tag.len())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Runs work on a thread whose stack has room for the deepest that the limits allow.
pub(super) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, TextError> {
    let failed = |message: &str| TextError::TemplateFailed { message: message.to_owned() };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("template".to_owned()).stack_size(STACK_BYTES);
        let running = thread
            .spawn_scoped(scope, work)
            .map_err(|error| failed(&format!("no thread can be started for it: {error}")))?;
        running.join().map_err(|_| failed("the template engine panicked"))
    })
}
