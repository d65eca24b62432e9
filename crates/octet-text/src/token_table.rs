//! What each token stands for, taken apart once at load so that decoding one token is a look-up.
//!
//! A tokenizer's decoder is a chain of stages over the list of all tokens. The stages that look at one token at a time
//! are run here, over the whole vocabulary at once. What remains are the stages that look across tokens, and of those
//! there are few: bytes that join to characters ([`Join`]), and blanks that are cut off at the start of the text.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::{Decoder, Tokenizer};

use crate::TextError;

/// Token ids from here on are taken for damage: no vocabulary is a tenth as large, and tables are as long as ids are high.
const TOKEN_ID_LIMIT: u32 = 1 << 24;

/// How the pieces of tokens become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// Pieces are text.
    Text,
    /// Pieces are bytes, and all of them together are read as UTF-8 (byte-level BPE).
    Bytes,
    /// Pieces are text, but for tokens of single bytes. A run of these is read as UTF-8 as a whole: if it is valid, it is
    /// text, otherwise every byte of it becomes U+FFFD (`SentencePiece` with byte fallback).
    ByteRuns,
}

/// What kind of piece an id has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The tokenizer does not know the id.
    Unknown,
    /// Text, or bytes with [`Join::Bytes`].
    Piece,
    /// A single byte, with [`Join::ByteRuns`].
    Byte,
}

/// The pieces of all tokens.
#[derive(Debug)]
pub(crate) struct TokenTable {
    /// All pieces, one after another.
    pieces: Vec<u8>,
    /// Where each piece ends, by id.
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    is_special: Vec<bool>,
    plan: Plan,
    /// Spelling of tokens, kept only if a piece is another one at the very start.
    spellings: Option<Vec<String>>,
}

/// A decoder, sorted by what its stages look at.
#[derive(Debug)]
struct Plan {
    /// Stages over single tokens.
    stages: Vec<DecoderWrapper>,
    /// Stages over the text of a run of bytes.
    run_stages: Vec<DecoderWrapper>,
    join: Join,
    /// Blanks to cut off at the start of the text, and how many at most.
    strip: Option<(char, usize)>,
    /// Without a decoder, tokens are separated by spaces.
    is_spaced: bool,
    /// Whether a piece is another one at the very start.
    start_differs: bool,
}

impl Plan {
    fn of(decoder: Option<&DecoderWrapper>) -> Result<Self, TextError> {
        let mut plan = Self {
            stages: Vec::new(),
            run_stages: Vec::new(),
            join: Join::Text,
            strip: None,
            is_spaced: decoder.is_none(),
            start_differs: decoder.is_none(),
        };
        let mut is_fused = false;
        let mut stages: Vec<&DecoderWrapper> = decoder.into_iter().collect();
        while let Some(stage) = stages.pop() {
            if let DecoderWrapper::Sequence(sequence) = stage {
                stages.extend(sequence.get_decoders().iter().rev());
            } else {
                plan.add(stage, &mut is_fused)?;
            }
        }
        Ok(plan)
    }

    fn add(&mut self, stage: &DecoderWrapper, is_fused: &mut bool) -> Result<(), TextError> {
        match stage {
            DecoderWrapper::Fuse(_) => *is_fused = true,
            DecoderWrapper::Strip(strip) if *is_fused && strip.stop == 0 && self.strip.is_none() => {
                self.strip = Some((strip.content, strip.start));
            }
            DecoderWrapper::ByteLevel(_) if !*is_fused && self.join == Join::Text => {
                self.join = Join::Bytes;
                // Its result is one string.
                *is_fused = true;
            }
            DecoderWrapper::ByteFallback(_)
                if !*is_fused && self.join == Join::Text && !self.start_differs =>
            {
                self.join = Join::ByteRuns;
            }
            DecoderWrapper::Metaspace(_) | DecoderWrapper::WordPiece(_)
                if !*is_fused && self.join == Join::Text =>
            {
                self.start_differs = true;
                self.stages.push(stage.clone());
            }
            DecoderWrapper::Replace(_) | DecoderWrapper::Strip(_) if !*is_fused => {
                self.stages.push(stage.clone());
                if self.join == Join::ByteRuns {
                    self.run_stages.push(stage.clone());
                }
            }
            unsupported => {
                let found =
                    serde_json::to_string(unsupported).unwrap_or_else(|_| "an unknown stage".to_owned());
                return Err(TextError::UnsupportedDecoder { found });
            }
        }
        Ok(())
    }
}

/// Runs stages that turn each token into one other.
fn run(stages: &[DecoderWrapper], mut tokens: Vec<String>) -> Result<Vec<String>, TextError> {
    let count = tokens.len();
    for stage in stages {
        tokens =
            stage.decode_chain(tokens).map_err(|error| TextError::Decode { message: error.to_string() })?;
    }
    if tokens.len() == count {
        Ok(tokens)
    } else {
        Err(TextError::Decode { message: format!("{count} tokens became {} pieces", tokens.len()) })
    }
}

/// One more than the highest character that stands for a byte.
const BYTE_CHARACTERS: usize = 0x144;

/// The byte of each character in the vocabulary of a byte-level BPE: printable characters of Latin-1 stand for
/// themselves, all other bytes in turn for U+0100 and what follows (GPT-2's `bytes_to_unicode`).
fn byte_level_characters() -> [Option<u8>; BYTE_CHARACTERS] {
    let mut bytes = [None; BYTE_CHARACTERS];
    let mut others = 0x100..;
    for byte in 0..=u8::MAX {
        let character = match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => usize::from(byte),
            _ => others.next().expect("the range has no end"),
        };
        bytes[character] = Some(byte);
    }
    bytes
}

/// The byte of a token such as `<0x0A>`.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

impl TokenTable {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let plan = Plan::of(tokenizer.get_decoder())?;
        let vocabulary = tokenizer.get_vocab(true);
        let highest = vocabulary.values().max().copied();
        if let Some(id) = highest.filter(|&id| id >= TOKEN_ID_LIMIT) {
            return Err(TextError::TokenIdTooLarge { id, limit: TOKEN_ID_LIMIT });
        }
        let length = highest.map_or(0, |id| id as usize + 1);
        let mut spellings: Vec<Option<String>> = vec![None; length];
        let mut is_special = vec![false; length];
        for (text, id) in vocabulary {
            spellings[id as usize] = Some(text);
        }
        let added = tokenizer.get_added_vocabulary();
        for (&id, token) in added.get_added_tokens_decoder() {
            // Of two spellings with one id, decoding takes the added token's.
            spellings[id as usize] = Some(token.content.clone());
            is_special[id as usize] = added.is_special_token(&token.content);
        }
        let (ends, kinds) = (Vec::with_capacity(length), Vec::with_capacity(length));
        let mut table = Self { pieces: Vec::new(), ends, kinds, is_special, spellings: None, plan };
        table.fill(&spellings)?;
        if table.plan.start_differs {
            table.spellings = Some(spellings.into_iter().map(Option::unwrap_or_default).collect());
        }
        Ok(table)
    }

    fn fill(&mut self, spellings: &[Option<String>]) -> Result<(), TextError> {
        let originals = spellings.iter().map(|text| text.as_deref().unwrap_or_default());
        let staged = if self.plan.stages.is_empty() {
            None
        } else {
            // A token before all others, so that none of them is the first.
            let tokens = std::iter::once("").chain(originals.clone()).map(str::to_owned).collect();
            Some(run(&self.plan.stages, tokens)?)
        };
        let texts: Vec<&str> = match &staged {
            None => originals.collect(),
            Some(staged) => staged.iter().skip(1).map(String::as_str).collect(),
        };
        let characters = byte_level_characters();
        for (spelling, text) in spellings.iter().zip(texts) {
            let kind = match (spelling, self.plan.join) {
                (None, _) => Kind::Unknown,
                (Some(_), Join::Text) => {
                    if self.plan.is_spaced {
                        self.pieces.push(b' ');
                    }
                    self.pieces.extend(text.bytes());
                    Kind::Piece
                }
                (Some(_), Join::Bytes) => {
                    let byte = |character| characters.get(character as usize).copied().flatten();
                    if text.chars().all(|character| byte(character).is_some()) {
                        self.pieces.extend(text.chars().filter_map(byte));
                    } else {
                        // An added token may have characters that stand for no byte: it is then taken literally.
                        self.pieces.extend(text.bytes());
                    }
                    Kind::Piece
                }
                (Some(_), Join::ByteRuns) => {
                    let byte = byte_of(text);
                    self.pieces.extend(byte.as_ref().map_or(text.as_bytes(), std::slice::from_ref));
                    if byte.is_some() { Kind::Byte } else { Kind::Piece }
                }
            };
            self.kinds.push(kind);
            self.ends.push(self.pieces.len());
        }
        Ok(())
    }

    /// Highest id plus one.
    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(crate) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unknown)
    }

    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.is_special.get(id as usize).copied().unwrap_or(false)
    }

    pub(crate) fn join(&self) -> Join {
        self.plan.join
    }

    pub(crate) fn strip(&self) -> Option<(char, usize)> {
        self.plan.strip
    }

    /// The piece of a token that is not the first.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let index = id as usize;
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.pieces[start..end]
    }

    /// The piece of a known token at the very start, where that is another one.
    pub(crate) fn piece_at_start(&self, id: u32) -> Option<String> {
        let spelling = self.spellings.as_ref()?.get(id as usize)?;
        // The vocabulary went through these stages at load: one token of it cannot fail.
        run(&self.plan.stages, vec![spelling.clone()]).ok()?.pop()
    }

    /// The text of a valid run of bytes, after the stages that follow.
    pub(crate) fn finish_run(&self, text: &str, out: &mut String) {
        if self.plan.run_stages.is_empty() {
            out.push_str(text);
            return;
        }
        let pieces = run(&self.plan.run_stages, vec![text.to_owned()]).unwrap_or_default();
        out.extend(pieces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_characters_are_gpt2s() {
        let characters = byte_level_characters();
        assert_eq!(characters.iter().flatten().count(), 256);
        for (character, byte) in [('A', b'A'), ('Ġ', b' '), ('Ċ', b'\n'), ('Ń', 0xAD), ('ÿ', 0xFF), ('Ā', 0)]
        {
            assert_eq!(characters[character as usize], Some(byte), "{character}");
        }
    }

    #[test]
    fn byte_tokens_are_recognised() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xfe>"), Some(254));
        for text in ["<0xA>", "<0xAG>", "0x0A", "<0x0A", "<0xé>"] {
            assert_eq!(byte_of(text), None, "{text}");
        }
    }
}
