//! Text from tokens, one token at a time.

use crate::token_table::{Join, Kind, TokenTable};

/// The state of one sequence's text between two tokens.
#[derive(Clone, Debug)]
pub(crate) struct Detokenizer {
    skip_special_tokens: bool,
    /// No token was seen yet.
    is_start: bool,
    /// How many blanks may still be cut off at the start of the text.
    strip_left: usize,
    /// Bytes that are not text yet: the beginning of a character, or a run of byte tokens.
    pending: Vec<u8>,
    /// How many of `pending` are the prompt's.
    pending_of_prompt: usize,
}

impl Detokenizer {
    /// State after a prompt. What follows is the continuation of the prompt's text: a word keeps its leading space, and
    /// a character that the prompt left half comes out whole.
    pub(crate) fn after(table: &TokenTable, skip_special_tokens: bool, prompt: &[u32]) -> Self {
        let mut detokenizer = Self {
            skip_special_tokens,
            is_start: true,
            strip_left: table.strip().map_or(0, |(_, count)| count),
            pending: Vec::new(),
            pending_of_prompt: 0,
        };
        let mut ignored = String::new();
        for &token in prompt {
            detokenizer.push(table, token, &mut ignored);
            ignored.clear();
        }
        detokenizer.pending_of_prompt = detokenizer.pending.len();
        detokenizer
    }

    /// Appends to `out` what has become text by this token.
    pub(crate) fn push(&mut self, table: &TokenTable, token: u32, out: &mut String) {
        let kind = table.kind(token);
        if kind == Kind::Unknown || (self.skip_special_tokens && table.is_special(token)) {
            return;
        }
        let is_start = std::mem::replace(&mut self.is_start, false);
        let from = out.len();
        match (kind, table.join()) {
            (Kind::Byte, _) => self.pending.extend_from_slice(table.bytes(token)),
            (_, Join::Bytes) => {
                self.pending.extend_from_slice(table.bytes(token));
                self.take_characters(out);
            }
            (_, Join::Text | Join::ByteRuns) => {
                self.end_run(table, out);
                match is_start.then(|| table.piece_at_start(token)).flatten() {
                    Some(piece) => out.push_str(&piece),
                    // Valid UTF-8, because it was a string: nothing is lost.
                    None => out.push_str(&String::from_utf8_lossy(table.bytes(token))),
                }
            }
        }
        self.strip(table, out, from);
    }

    /// Appends to `out` what is left: there will be no more tokens.
    pub(crate) fn finish(&mut self, table: &TokenTable, out: &mut String) {
        let from = out.len();
        if table.join() == Join::Bytes {
            if !self.pending.is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
                self.pending.clear();
            }
        } else {
            self.end_run(table, out);
        }
        self.strip(table, out, from);
    }

    /// Moves whole characters from `pending` to `out`, and U+FFFD for what can become none.
    fn take_characters(&mut self, out: &mut String) {
        let mut rest: &[u8] = &self.pending;
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(std::str::from_utf8(valid).expect("the error says how far it is valid"));
                    rest = after;
                    let Some(broken) = error.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[broken..];
                }
            }
        }
        let taken = self.pending.len() - rest.len();
        self.pending.drain(..taken);
    }

    /// Ends a run of byte tokens. Of a run that began in the prompt, only what the prompt did not show is appended.
    fn end_run(&mut self, table: &TokenTable, out: &mut String) {
        if self.pending.is_empty() {
            return;
        }
        let of_prompt = std::mem::take(&mut self.pending_of_prompt);
        if let Ok(text) = std::str::from_utf8(&self.pending) {
            table.finish_run(&text[text.floor_char_boundary(of_prompt)..], out);
        } else {
            let broken = self.pending.len() - of_prompt;
            out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, broken));
        }
        self.pending.clear();
    }

    /// Cuts off blanks at the start of the text, of which `out[from..]` is the newest part.
    fn strip(&mut self, table: &TokenTable, out: &mut String, from: usize) {
        let Some((blank, _)) = table.strip() else { return };
        while self.strip_left > 0 {
            match out[from..].chars().next() {
                None => break,
                Some(character) if character == blank => {
                    out.remove(from);
                    self.strip_left -= 1;
                }
                Some(_) => self.strip_left = 0,
            }
        }
    }
}
