//! Where random prompts come from: ids that the model knows, or text that has exactly as many tokens as wanted.

use anyhow::{Result, bail};
use octet_text::Tokenizer;

use super::super::random::Random;
use super::{Prompt, Sample};
use crate::cli::bench::PromptForm;

/// Tokens that are looked for to make text of: enough that no two prompts share a beginning.
const WORDS: usize = 4096;

/// Draws that find them.
const DRAWS: usize = 50_000;

/// The fewest tokens that make prompts which differ.
const FEWEST_WORDS: usize = 16;

/// How often a text is mended until its length is right.
const ROUNDS: usize = 32;

/// Draws ids, and makes prompts of them in the form that is sent.
pub(crate) struct PromptSource<'a> {
    tokenizer: Option<&'a Tokenizer>,
    form: PromptForm,
    /// Ids are below it.
    id_limit: u32,
    /// For text: tokens that, one after another, are again those tokens when the text is read.
    words: Vec<u32>,
    /// Tokens that a server adds to a text.
    framing: usize,
}

impl<'a> PromptSource<'a> {
    /// Ids are below `id_limit` and, if there is a tokenizer, known to it and not special.
    ///
    /// # Errors
    /// Text without a tokenizer, or with one that has no tokens to make it of.
    pub(crate) fn new(tokenizer: Option<&'a Tokenizer>, form: PromptForm, id_limit: usize) -> Result<Self> {
        let known = tokenizer.map_or(usize::MAX, Tokenizer::vocabulary_size);
        let id_limit = u32::try_from(id_limit.min(known)).unwrap_or(u32::MAX);
        let mut source = Self { tokenizer, form, id_limit, words: Vec::new(), framing: 0 };
        if form == PromptForm::Text {
            let Some(tokenizer) = tokenizer else {
                bail!("prompts of text need a tokenizer: name its folder with --tokenizer");
            };
            source.words = words(tokenizer, id_limit)?;
            source.framing = tokenizer.encode("", true)?.len();
        }
        Ok(source)
    }

    /// Of conversations, which bring their own text.
    ///
    /// # Errors
    /// No tokenizer to count their tokens.
    pub(crate) fn of_text(tokenizer: Option<&'a Tokenizer>, form: PromptForm) -> Result<Self> {
        if tokenizer.is_none() {
            bail!("conversations need a tokenizer to count their tokens: name its folder with --tokenizer");
        }
        Ok(Self { tokenizer, form, id_limit: 0, words: Vec::new(), framing: 0 })
    }

    /// How prompts are sent.
    pub(super) const fn form(&self) -> PromptForm {
        self.form
    }

    /// Token ids of a text as a server would read it.
    pub(super) fn encode(&self, text: &str, is_prompt: bool) -> Result<Vec<u32>> {
        match self.tokenizer {
            Some(tokenizer) => Ok(tokenizer.encode(text, is_prompt)?),
            None => bail!("conversations need a tokenizer to count their tokens"),
        }
    }

    /// `length` ids.
    pub(super) fn ids(&self, random: &mut Random, length: usize) -> Vec<u32> {
        (0..length).map(|_| self.id(random)).collect()
    }

    /// A request of `prompt_len` tokens that begins with `prefix`.
    pub(super) fn sample(
        &self,
        prefix: &[u32],
        prompt_len: usize,
        output_len: usize,
        random: &mut Random,
    ) -> Result<Sample> {
        let mut ids = prefix.to_vec();
        let prompt = match (self.form, self.tokenizer) {
            (PromptForm::Text, Some(tokenizer)) => {
                Prompt::Text(self.text(tokenizer, ids, prompt_len, random)?)
            }
            _ => {
                ids.extend(self.ids(random, prompt_len.saturating_sub(prefix.len())));
                Prompt::Tokens(ids)
            }
        };
        Ok(Sample { prompt, prompt_len, output_len })
    }

    fn id(&self, random: &mut Random) -> u32 {
        if self.form == PromptForm::Text {
            return self.words[random.below(self.words.len())];
        }
        // A vocabulary of nothing but special tokens is none; a limited search ends in any case.
        let mut ids = (0..100).map(|_| random.id_below(self.id_limit));
        let is_plain = |id: &u32| self.tokenizer.is_none_or(|tokenizer| !tokenizer.is_special(*id));
        ids.find(is_plain).unwrap_or(0)
    }

    /// Text that begins with `ids` and has, framed by the server, exactly `prompt_len` tokens.
    fn text(
        &self,
        tokenizer: &Tokenizer,
        mut ids: Vec<u32>,
        prompt_len: usize,
        random: &mut Random,
    ) -> Result<String> {
        let Some(wanted) = prompt_len.checked_sub(self.framing).filter(|wanted| *wanted > 0) else {
            bail!("a text of {prompt_len} tokens cannot be: the tokenizer itself adds {}", self.framing);
        };
        for _ in 0..ROUNDS {
            ids.truncate(wanted);
            let missing = wanted - ids.len();
            ids.extend(self.ids(random, missing));
            let text = tokenizer.decode(&ids, false)?;
            if tokenizer.encode(&text, true)?.len() == prompt_len {
                return Ok(text);
            }
            ids = tokenizer.encode(&text, false)?;
        }
        bail!(
            "no text of exactly {prompt_len} tokens could be made with this tokenizer; send ids with --prompt-form tokens"
        )
    }
}

/// Tokens that are a word after a space, or else any that stay themselves when their text is read: a tokenizer that
/// splits at spaces reads a row of such words as it was written.
fn words(tokenizer: &Tokenizer, id_limit: u32) -> Result<Vec<u32>> {
    let mut random = Random::new(0);
    let (mut words, mut others) = (Vec::new(), Vec::new());
    let mut seen = vec![false; id_limit as usize];
    let draws = if id_limit as usize <= DRAWS { id_limit as usize } else { DRAWS };
    for draw in 0..draws {
        let id = if draws < DRAWS { draw as u32 } else { random.id_below(id_limit) };
        if std::mem::replace(&mut seen[id as usize], true) || tokenizer.is_special(id) {
            continue;
        }
        let text = tokenizer.decode(&[id], false)?;
        if text.is_empty() || text.contains('\u{FFFD}') || tokenizer.encode(&text, false)? != [id] {
            continue;
        }
        let bytes = tokenizer.token_bytes(id);
        let is_word = bytes.len() > 3 && bytes[0] == b' ' && bytes[1..].iter().all(u8::is_ascii_alphabetic);
        if is_word { &mut words } else { &mut others }.push(id);
        if words.len() == WORDS {
            break;
        }
    }
    let found = if words.len() >= FEWEST_WORDS { words } else { others };
    if found.len() < FEWEST_WORDS {
        bail!("this tokenizer has too few tokens to make text of; send ids with --prompt-form tokens");
    }
    Ok(found)
}
