//! Every folder in `tests/golden/tokenizers` as `transformers` loads it (`tools/golden/tokenizer_files.py`).

use std::collections::BTreeMap;
use std::path::Path;

use octet_text::{SpecialToken, Tokenizer};
use serde_json::{Value, json};

use crate::support::Folder;

fn check(name: &str, golden: &Value) {
    let mut folder = Folder::new();
    for (file, content) in golden["files"].as_object().unwrap() {
        folder = match content.as_str() {
            Some(text) => folder.with(file, text),
            None => folder.with_json(file, content),
        };
    }
    let tokenizer = folder.load();
    let expected = &golden["expected"];
    let texts: Vec<&str> =
        golden["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let mut ids = Vec::new();
    for is_framed in [true, false] {
        ids.extend(texts.iter().map(|text| tokenizer.encode(text, is_framed).unwrap()));
    }
    assert_eq!(json!(ids), expected["ids"], "{name}: ids");
    let mut decoded = Vec::new();
    for skips in [true, false] {
        decoded.extend(ids.iter().map(|ids| tokenizer.decode(ids, skips).unwrap()));
    }
    assert_eq!(json!(decoded), expected["decoded"], "{name}: texts");
    let special: Vec<u32> =
        (0..tokenizer.vocabulary_size() as u32).filter(|id| tokenizer.is_special(*id)).collect();
    assert_eq!(json!(special), expected["special"], "{name}: special tokens");
    let role = |token: Option<&SpecialToken>| {
        token.map_or(json!([null, null]), |token| json!([token.text, token.id]))
    };
    assert_eq!(role(tokenizer.bos()), expected["bos"], "{name}: bos");
    assert_eq!(role(tokenizer.eos()), expected["eos"], "{name}: eos");
    check_templates(name, &tokenizer, &expected["templates"]);
}

fn check_templates(name: &str, tokenizer: &Tokenizer, expected: &Value) {
    let template = |name: &str| tokenizer.named_chat_template(name).map(str::to_owned);
    let found: BTreeMap<&str, Option<String>> =
        tokenizer.chat_template_names().map(|name| (name, template(name))).collect();
    assert_eq!(json!(found), *expected, "{name}: templates");
}

#[test]
fn folders_load_as_in_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 30, "goldens are lacking in {}", folder.display());
    for path in paths {
        let golden = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        check(&path.file_stem().unwrap().to_string_lossy(), &golden);
    }
}
