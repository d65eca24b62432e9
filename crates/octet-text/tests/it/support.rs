//! Small tokenizers of each kind, written to folders.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use octet_text::Tokenizer;
use serde_json::{Value, json};

/// A folder of its own, removed at the end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("octet-text-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn with(self, name: &str, content: &str) -> Self {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    pub(crate) fn with_json(self, name: &str, content: &Value) -> Self {
        self.with(name, &content.to_string())
    }

    pub(crate) fn load(&self) -> Arc<Tokenizer> {
        Arc::new(Tokenizer::load(&self.0).unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that is left behind harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false})
}

fn numbered(tokens: &[String]) -> Value {
    tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), Value::from(id)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Printable Latin-1 stands for itself, other bytes for U+0100 and what follows.
fn byte_level_alphabet() -> Vec<String> {
    let mut others = '\u{100}'..;
    (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte).to_string(),
            _ => others.next().unwrap().to_string(),
        })
        .collect()
}

/// Llama 3, Qwen, `GPT-2`: byte-level BPE. Ids 0 to 255 are the bytes.
pub(crate) fn byte_level() -> Value {
    let mut tokens = byte_level_alphabet();
    // Pieces of words, half an emoji (F0 9F 99), and a space with the beginning of a character.
    let merges = [
        ["h", "e"],
        ["l", "l"],
        ["he", "ll"],
        ["hell", "o"],
        ["Ġ", "hello"],
        ["ð", "Ł"],
        ["ðŁ", "Ļ"],
        ["Ġ", "ã"],
    ];
    tokens.extend(merges.iter().map(|pair| pair.concat()));
    let first = tokens.len();
    json!({
        "version": "1.0",
        "added_tokens": [added(first, "<|begin|>", true), added(first + 1, "<|end|>", true), added(first + 2, "<note é>", false)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [first], "tokens": ["<|begin|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": numbered(&tokens), "merges": merges}
    })
}

fn sentence_piece_tokens() -> Vec<String> {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(
        ["▁", "h", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello", "日", "▁▁"].map(str::to_owned),
    );
    tokens
}

/// Llama 2, Mistral: BPE over characters, bytes for the rest. Ids 3 to 258 are the bytes.
pub(crate) fn byte_fallback() -> Value {
    let tokens = sentence_piece_tokens();
    json!({
        "version": "1.0",
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": numbered(&tokens),
            "merges": [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["▁", "hello"], ["▁", "▁"]]}
    })
}

/// The same vocabulary with another decoder.
pub(crate) fn with_decoder(decoder: &Value) -> Value {
    let mut tokenizer = byte_fallback();
    tokenizer["decoder"] = decoder.clone();
    tokenizer
}

/// All kinds, by name.
pub(crate) fn all_kinds() -> Vec<(&'static str, Value)> {
    let gemma = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]});
    let replaced_last = json!({"type": "Sequence", "decoders": [
        {"type": "ByteFallback"}, {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"}]});
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let word_piece = json!({"type": "WordPiece", "prefix": "h", "cleanup": true});
    vec![
        ("byte level", byte_level()),
        ("byte fallback", byte_fallback()),
        ("byte fallback, no strip", with_decoder(&gemma)),
        ("byte fallback before replace", with_decoder(&replaced_last)),
        ("metaspace", with_decoder(&metaspace)),
        ("word piece", with_decoder(&word_piece)),
        ("no decoder", with_decoder(&Value::Null)),
    ]
}

/// A generator of tests' choices (Knuth's linear congruential one, upper bits).
#[derive(Debug)]
pub(crate) struct Choices(u64);

impl Choices {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}
