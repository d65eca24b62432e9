//! Tokenizer folders: what they say, and what is wrong with some.

use octet_text::{SpecialToken, TextError, Tokenizer};
use serde_json::json;

use crate::support::{Folder, byte_fallback, byte_level, with_decoder};

fn folder() -> Folder {
    Folder::new().with_json("tokenizer.json", &byte_level())
}

fn error(folder: &Folder) -> TextError {
    Tokenizer::load(folder.path()).unwrap_err()
}

#[test]
fn text_becomes_ids_and_back() {
    let tokenizer = folder().load();
    let begin = tokenizer.token_id("<|begin|>").unwrap();
    let ids = tokenizer.encode("hello hello<|end|>é", true).unwrap();
    assert_eq!(ids[0], begin);
    assert_eq!(tokenizer.encode("hello hello<|end|>é", false).unwrap(), ids[1..]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hello helloé");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<|begin|>hello hello<|end|>é");
    assert_eq!(tokenizer.token_text(ids[2]).as_deref(), Some("Ġhello"));
    assert_eq!(tokenizer.token_bytes(ids[2]), b" hello");
    assert_eq!(tokenizer.token_bytes(0xE9), [0xE9]);
    assert!(tokenizer.is_special(begin) && !tokenizer.is_special(ids[1]));
    assert_eq!(tokenizer.token_bytes(1_000_000), b"");
    let fallback = Folder::new().with_json("tokenizer.json", &byte_fallback()).load();
    assert_eq!(fallback.token_bytes(fallback.token_id("▁hello").unwrap()), b" hello");
    assert_eq!(fallback.token_bytes(3 + 0xE9), [0xE9]);
}

#[test]
fn special_tokens_are_read_in_all_spellings() {
    let config = json!({"bos_token": {"content": "<|begin|>", "special": true}, "eos_token": null});
    let map = json!({"eos_token": "<|end|>", "bos_token": "hello"});
    let tokenizer = folder()
        .with_json("tokenizer_config.json", &config)
        .with_json("special_tokens_map.json", &map)
        .load();
    let special = |text: &str| SpecialToken { id: tokenizer.token_id(text).unwrap(), text: text.to_owned() };
    assert_eq!(tokenizer.bos(), Some(&special("<|begin|>")));
    assert_eq!(tokenizer.eos(), Some(&special("<|end|>")));
    let bare = folder().load();
    assert_eq!((bare.bos(), bare.eos(), bare.chat_template()), (None, None, None));
}

#[test]
fn llama_classes_frame_text_by_their_flags() {
    let load = |config: serde_json::Value| {
        let folder = Folder::new().with_json("tokenizer.json", &byte_fallback());
        folder.with_json("tokenizer_config.json", &config).load()
    };
    let framed = |config| load(config).encode("hello", true).unwrap();
    let hello = load(json!({})).token_id("▁hello").unwrap();
    let tokens = |class: &str, flags: serde_json::Value| {
        let mut config = json!({"tokenizer_class": class, "bos_token": "<s>", "eos_token": "</s>"});
        config.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        config
    };
    assert_eq!(framed(tokens("LlamaTokenizerFast", json!({}))), [1, hello]);
    assert_eq!(
        framed(tokens("LlamaTokenizer", json!({"add_bos_token": false, "add_eos_token": true}))),
        [hello, 2]
    );
    assert_eq!(framed(tokens("PreTrainedTokenizerFast", json!({"add_bos_token": true}))), [hello]);
}

#[test]
fn chat_templates_are_found_where_they_may_be() {
    let one = folder().with_json("tokenizer_config.json", &json!({"chat_template": "one"}));
    assert_eq!(one.load().chat_template(), Some("one"));
    let named = json!({"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]});
    let several = folder().with_json("tokenizer_config.json", &named);
    assert_eq!(several.load().chat_template(), Some("plain"));
    assert_eq!(several.load().named_chat_template("tool_use"), Some("tools"));
    // Files of their own win.
    let several =
        several.with("chat_template.jinja", "file").with("additional_chat_templates/tool_use.jinja", "more");
    assert_eq!(several.load().chat_template(), Some("file"));
    assert_eq!(several.load().named_chat_template("tool_use"), Some("more"));
    assert_eq!(several.load().named_chat_template("rag"), None);
}

#[test]
fn missing_files_are_named_with_a_remedy() {
    let empty = Folder::new();
    let message = error(&empty).to_string();
    assert!(
        message.contains("no tokenizer.json") && message.contains(empty.path().to_str().unwrap()),
        "{message}"
    );
    let unconverted = Folder::new().with("tokenizer.model", "");
    assert!(error(&unconverted).to_string().contains("convert"), "{}", error(&unconverted));
    let nowhere = Tokenizer::load(&empty.path().join("nowhere")).unwrap_err().to_string();
    assert!(nowhere.contains("no such folder"), "{nowhere}");
}

#[test]
fn damaged_files_are_named() {
    let damaged = Folder::new().with("tokenizer.json", "{\"version\": ");
    assert!(matches!(error(&damaged), TextError::Invalid { path, .. } if path.ends_with("tokenizer.json")));
    // Cut off within the decoder, and a table of characters that is none: the library panics at both.
    let whole = byte_level().to_string();
    let cut = &whole[..whole.find("\"decoder\"").unwrap() + 20];
    let mut no_table = byte_level();
    no_table["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": 1});
    for damaged in [cut, &no_table.to_string()] {
        let damaged = Folder::new().with("tokenizer.json", damaged);
        assert!(
            matches!(error(&damaged), TextError::Invalid { path, .. } if path.ends_with("tokenizer.json"))
        );
    }
    let damaged = folder().with("tokenizer_config.json", "{\"bos_token\": 7}");
    assert!(
        matches!(error(&damaged), TextError::Invalid { path, .. } if path.ends_with("tokenizer_config.json"))
    );
    let foreign = folder().with_json("tokenizer_config.json", &json!({"eos_token": "<eos>"}));
    let message = error(&foreign).to_string();
    assert!(message.contains("eos_token") && message.contains("<eos>"), "{message}");
    let directory = Folder::new().with("tokenizer.json/x", "");
    assert!(matches!(error(&directory), TextError::Read { .. }));
}

#[test]
fn decoders_that_cannot_stream_are_refused() {
    let decoders = [
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "Sequence", "decoders": [{"type": "Fuse"},
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]}),
    ];
    for decoder in decoders {
        let folder = Folder::new().with_json("tokenizer.json", &with_decoder(&decoder));
        let refused = error(&folder);
        assert!(matches!(refused, TextError::UnsupportedDecoder { .. }), "{refused}");
        assert!(!refused.is_request_error());
    }
}

#[test]
fn a_vocabulary_beyond_the_embedding_is_refused() {
    let tokenizer = folder().load();
    assert_eq!(tokenizer.vocabulary_size(), 267);
    assert!(tokenizer.check_vocabulary(267).is_ok() && tokenizer.check_vocabulary(320).is_ok());
    let message = tokenizer.check_vocabulary(266).unwrap_err().to_string();
    assert!(message.contains("267") && message.contains("266"), "{message}");
}

#[test]
fn an_absurd_token_id_is_refused() {
    let mut definition = byte_fallback();
    definition["model"]["vocab"]["hello"] = json!(4_000_000_000u32);
    let refused = error(&Folder::new().with_json("tokenizer.json", &definition));
    assert!(matches!(refused, TextError::TokenIdTooLarge { id: 4_000_000_000, .. }), "{refused}");
}
