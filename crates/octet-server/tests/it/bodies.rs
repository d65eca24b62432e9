//! Bodies as clients of vLLM write them, held against what vLLM's own protocol classes make of them.

use serde_json::{Map, Value, json};

use crate::server::{Options, TestServer};

/// An endpoint, a field, its value as JSON text, whether vLLM takes it, and what it reads.
type Row = (String, String, String, bool, Value);

/// Rows of `tools/golden/bodies.py`.
fn rows() -> Vec<Row> {
    serde_json::from_str(include_str!("../golden/bodies.json")).unwrap()
}

/// What vLLM takes and this server refuses, because the answer would not be the one that was asked for.
fn is_refused_here(field: &str, value: &str) -> bool {
    match field {
        "use_beam_search" | "suffix" => true,
        // vLLM makes infinities of them.
        "repetition_penalty" => ["5e-324", "1e-45", "1e-39", "1e308"].contains(&value),
        // Not without `--scheduling-policy priority`.
        "priority" => true,
        // More than the shortest of our answers.
        "truncate_prompt_tokens" | "min_tokens" | "max_tokens" | "max_completion_tokens" => {
            ["0", "false", r#""1_0""#].contains(&value)
        }
        _ => false,
    }
}

/// What vLLM refuses and this server takes: null stands for a field that was left out, wherever it stands, and a
/// number may be text in the two fields that vLLM looks at too early.
fn is_taken_here(field: &str, value: &str) -> bool {
    value == "null"
        || ["logprobs", "top_logprobs", "user"].contains(&field)
        // The tokenizer does not look at these of a completion.
        || (field == "parallel_tool_calls")
}

#[test]
fn bodies_are_taken_as_vllm_takes_them() {
    let server = TestServer::with(Options::default());
    for (path, field, value, taken, _) in rows() {
        let start = if path == "/v1/completions" {
            r#""prompt": "a", "max_tokens": 1"#
        } else {
            r#""messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 1"#
        };
        // A field that stands twice is one of the things that are taken: the last counts.
        let body = format!("{{{start}, {}: {value}}}", json!(field));
        let answer = server.client().post(&path, body.as_bytes());
        let expected = match taken {
            true if is_refused_here(&field, &value) => continue,
            false if is_taken_here(&field, &value) => continue,
            true => 200,
            false => 400,
        };
        assert_eq!(answer.status, expected, "{path} {body}: {}", answer.body);
    }
}

#[test]
fn numbers_mean_what_they_mean_to_vllm() {
    let server = TestServer::start();
    let mut read = Map::new();
    for (path, field, value, taken, expected) in rows() {
        let is_read =
            ["min_p", "presence_penalty", "frequency_penalty", "top_k", "seed"].contains(&field.as_str());
        if !taken || !is_read || expected.is_null() || path != "/v1/completions" {
            continue;
        }
        let body = format!(r#"{{"prompt": "a", "max_tokens": 1, "{field}": {value}}}"#);
        assert_eq!(server.client().post(&path, body.as_bytes()).status, 200, "{body}");
        let sampling = server.admitted.lock().unwrap().pop().unwrap().0;
        let found = match field.as_str() {
            "min_p" => json!(sampling.min_p),
            "presence_penalty" => json!(sampling.presence_penalty),
            "frequency_penalty" => json!(sampling.frequency_penalty),
            "top_k" => json!(f64::from(sampling.top_k)),
            _ => json!(sampling.seed as f64),
        };
        let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
        assert!((found - expected).abs() < 1e-30, "{body}: {found}");
        read.insert(field, json!(true));
    }
    assert_eq!(read.len(), 5, "{read:?}");
}

#[test]
fn envelopes_of_a_body() {
    let server = TestServer::start();
    let text = |body: &[u8]| {
        let answer = server.client().post("/v1/completions", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let plain = text(br#"{"prompt": "a", "max_tokens": 3, "temperature": 0}"#);
    let marked = text("\u{feff}{\"prompt\": \"a\", \"max_tokens\": 3, \"temperature\": 0}".as_bytes());
    let twice =
        text(br#"{"prompt": "b", "max_tokens": 9, "temperature": 0, "prompt": "a", "max_tokens": "3"}"#);
    assert_eq!((marked, twice), (plain.clone(), plain));
    for kind in ["application/json;charset=UTF-8", "application/json;"] {
        let answer =
            server.client().request("POST", "/v1/completions", &[("content-type", kind)], Some(b"{}"));
        assert!(answer.message().contains("prompt is missing"), "{}", answer.body);
    }
}
