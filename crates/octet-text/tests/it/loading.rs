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
    let map = json!({"eos_token": "<|end|>", "pad_token": "hello"});
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
fn flags_for_special_tokens_around_a_text_are_named_where_the_post_processor_contradicts() {
    let load = |config: serde_json::Value| folder().with_json("tokenizer_config.json", &config).load();
    let with_flag = |flag: bool| load(json!({"bos_token": "<|begin|>", "add_bos_token": flag}));
    assert_eq!(with_flag(true).notices(), [""; 0]);
    let contradicted = with_flag(false);
    assert!(contradicted.notices()[0].contains("add_bos_token"), "{:?}", contradicted.notices());
    assert_eq!(contradicted.encode("hello", true).unwrap().len(), 2);
    let cleaned = load(json!({"clean_up_tokenization_spaces": true}));
    assert!(cleaned.notices()[0].contains("clean_up_tokenization_spaces"), "{:?}", cleaned.notices());
}

#[test]
fn a_default_template_is_found_where_it_may_be() {
    let plain = json!({"chat_template": "plain"});
    let further = folder().with_json("tokenizer_config.json", &plain);
    let further = further.with("additional_chat_templates/tool_use.jinja", "more").load();
    assert_eq!((further.chat_template(), further.tool_chat_template()), (Some("plain"), Some("more")));
    let of_processor = folder().with_json("chat_template.json", &json!({"chat_template": "images"}));
    assert_eq!(of_processor.load().chat_template(), Some("images"));
    let both = of_processor.with("chat_template.jinja", "\u{feff}file").load();
    assert_eq!(both.chat_template(), Some("file"));
    assert!(both.notices()[0].contains("chat_template.json is not used"), "{:?}", both.notices());
    let single = folder().with_json("tokenizer_config.json", &json!({"chat_template": {"rag": "r"}})).load();
    assert_eq!(single.chat_template(), Some("r"));
    let several = json!({"chat_template": {"rag": "r", "tool_use": "t"}});
    let several = folder().with_json("tokenizer_config.json", &several).load();
    assert_eq!((several.chat_template(), several.named_chat_template("rag")), (None, Some("r")));
    assert_eq!(several.chat_template_names().collect::<Vec<_>>(), ["rag", "tool_use"]);
    let wrong = folder().with_json("tokenizer_config.json", &json!({"chat_template": 3}));
    assert!(error(&wrong).to_string().contains("chat_template must be"), "{}", error(&wrong));
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
    let wrong_id = folder()
        .with_json("tokenizer_config.json", &json!({"added_tokens_decoder": {"x": {"content": "y"}}}));
    assert!(error(&wrong_id).to_string().contains("the key \"x\""), "{}", error(&wrong_id));
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
fn a_vocabulary_beyond_the_embedding_is_named() {
    let tokenizer = folder().load();
    assert_eq!(tokenizer.vocabulary_size(), 267);
    assert_eq!((tokenizer.excess_over(267), tokenizer.excess_over(320)), (None, None));
    let sentence = tokenizer.excess_over(266).unwrap();
    assert!(sentence.contains("267") && sentence.contains("266 (\"<note é>\")"), "{sentence}");
}

#[test]
fn a_role_whose_token_is_lacking_is_no_reason_to_refuse() {
    let config = json!({"bos_token": {"content": "<|begin|>"}, "eos_token": "</s>", "pad_token": false, "unk_token": null});
    let folder = folder().with_json("tokenizer_config.json", &config);
    let with_room = Tokenizer::load_for(folder.path(), 300).unwrap();
    assert_eq!(with_room.eos(), Some(&SpecialToken { id: 267, text: "</s>".to_owned() }));
    assert_eq!(with_room.encode("</s>", false).unwrap(), [267]);
    let without = Tokenizer::load_for(folder.path(), 267).unwrap();
    assert_eq!((without.eos(), without.vocabulary_size()), (None, 267));
    assert_eq!(without.encode("</s>", false).unwrap().len(), 4);
    assert_eq!(without.bos().map(|token| token.id), without.token_id("<|begin|>"));
    let notices = without.notices().join("\n");
    assert!(notices.contains("eos_token is \"</s>\"") && notices.contains("pad_token is false"), "{notices}");
}

#[test]
fn an_absurd_token_id_is_refused() {
    let mut definition = byte_fallback();
    definition["model"]["vocab"]["hello"] = json!(4_000_000_000u32);
    let refused = error(&Folder::new().with_json("tokenizer.json", &definition));
    assert!(matches!(refused, TextError::TokenIdTooLarge { id: 4_000_000_000, .. }), "{refused}");
}
