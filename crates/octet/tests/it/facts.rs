//! Facts that stand in two files, as a server heeds them.

use std::fs;

use serde_json::json;

use crate::checkpoint::{Checkpoint, VOCABULARY};
use crate::program::Server;

/// Why a sequence ends in which only this token can be drawn.
fn finish_reason(server: &Server, token: usize) -> String {
    let body = json!({ "prompt": "ab", "max_tokens": 3, "temperature": 0, "logit_bias": { token.to_string(): 100 } });
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    answer["choices"][0]["finish_reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn generation_config_says_what_ends_a_sequence() {
    let mut checkpoint = Checkpoint::llama();
    checkpoint.config["eos_token_id"] = json!(33);
    let folder = checkpoint.write();
    let server = Server::start(folder.path(), &[]);
    assert_eq!([33, 1].map(|id| finish_reason(&server, id)), ["stop", "length"]);
    drop(server);

    let file = json!({ "eos_token_id": [1, VOCABULARY], "top_k": -1, "temperature": 0.5, "no_repeat_ngram_size": 3 });
    fs::write(folder.path().join("generation_config.json"), file.to_string()).unwrap();
    for options in [&[][..], &["--generation-config", "vllm"]] {
        let server = Server::start(folder.path(), options);
        assert_eq!([33, 1].map(|id| finish_reason(&server, id)), ["length", "stop"], "{options:?}");
        let said = &server.said_at_start;
        assert!(said.contains("eos_token_id 272 is none of the 272 ids"), "{said}");
        let names_what_is_ignored = said.contains("not obeyed, as in vLLM: no_repeat_ngram_size");
        assert_eq!(names_what_is_ignored, options.is_empty(), "{said}");
    }
}

#[test]
fn overrides_of_the_config_are_named_at_start() {
    let folder = Checkpoint::llama().write();
    let whole = &["--hf-overrides", r#"{"eos_token_id": 7, "zeal": {"degree": 1}}"#][..];
    let dotted = &["--hf-overrides.eos_token_id", "7", "--hf-overrides.zeal.degree", "1"];
    for options in [whole, dotted] {
        let server = Server::start(folder.path(), options);
        assert_eq!(finish_reason(&server, 7), "stop");
        let said = &server.said_at_start;
        let named = r#"--hf-overrides: eos_token_id 7, zeal {"degree":1}"#;
        for text in [named, "keys that are not known are ignored: zeal"] {
            assert!(said.contains(text), "{said}");
        }
    }
}
