//! A sequence's text as its tokens come.

use std::sync::Arc;

use crate::detokenizer::Detokenizer;
use crate::{StopMatcher, StopStrings, TextError, Tokenizer};

/// How a sequence's text is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Strings that end the text.
    pub stop: StopStrings,
    /// Whether the text ends with the stop string, or before it.
    pub include_stop_str_in_output: bool,
}

/// What a token added to the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextDelta {
    /// Text that can be shown now. It may be empty, and it may be that of earlier tokens.
    pub text: String,
    /// The stop string that ended the text; from then on every delta says so and has no text.
    pub stopped_by: Option<String>,
}

/// Joins detokeniser and stop strings, for one sequence.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    /// Text of the newest token; kept for its memory.
    fresh: String,
    /// So many tokens are still to come before stop strings count.
    tokens_before_stop: usize,
}

impl TextStream {
    /// A stream whose text continues that of `prompt`; the prompt's own text is not part of it.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, options: StreamOptions, prompt: &[u32]) -> Self {
        let detokenizer = Detokenizer::after(tokenizer.table(), options.skip_special_tokens, prompt);
        let matcher = StopMatcher::new(options.stop, options.include_stop_str_in_output);
        Self { tokenizer, detokenizer, matcher, fresh: String::new(), tokens_before_stop: 0 }
    }

    /// Stop strings count only in text after the first `min_tokens` tokens.
    #[must_use]
    pub fn with_min_tokens(mut self, min_tokens: usize) -> Self {
        self.tokens_before_stop = min_tokens;
        self
    }

    /// Takes the next token. Ids that the tokenizer does not know (a model's padded rows) have no text.
    ///
    /// A token that ends a sequence by its id has no place in the text: do not push it.
    ///
    /// # Errors
    /// None at present: the table made at load covers every token. The signature leaves room for decoders that can fail.
    pub fn push(&mut self, token: u32) -> Result<TextDelta, TextError> {
        let mut text = String::new();
        if self.matcher.found().is_none() {
            self.fresh.clear();
            self.detokenizer.push(self.tokenizer.table(), token, &mut self.fresh);
            self.show(&mut text);
        }
        Ok(TextDelta { text, stopped_by: self.matcher.found().map(str::to_owned) })
    }

    /// The text that was held back, after the last token. Half a character comes out as U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        if self.matcher.found().is_none() {
            self.fresh.clear();
            self.detokenizer.finish(self.tokenizer.table(), &mut self.fresh);
            self.show(&mut text);
        }
        if self.matcher.found().is_none() {
            self.matcher.release(&mut text);
        }
        text
    }

    /// The stop string that ended the text.
    #[must_use]
    pub fn stopped_by(&self) -> Option<&str> {
        self.matcher.found()
    }

    fn show(&mut self, text: &mut String) {
        if self.tokens_before_stop > 0 {
            self.tokens_before_stop -= 1;
            text.push_str(&self.fresh);
        } else {
            self.matcher.push(&self.fresh, text);
        }
    }
}
