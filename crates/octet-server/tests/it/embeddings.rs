//! `/v1/embeddings`. The executor's vectors tell the prompt: its length, the sum of its ids, how many rows counted, and 4.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use octet_engine::Pooling;
use octet_server::EmbeddingModel;
use serde_json::{Value, json};

use crate::server::{BOS, MAX_MODEL_LEN, Options, TestServer};

const PATH: &str = "/v1/embeddings";

/// A server whose vectors are as they come.
fn plain(pooling: Pooling, matryoshka: Option<Vec<usize>>) -> TestServer {
    let embedding = EmbeddingModel { size: 4, pooling, normalize: false, matryoshka };
    TestServer::with(Options { embedding, ..Options::default() })
}

fn vectors(server: &TestServer, body: &Value) -> Vec<Vec<f64>> {
    let answer = server.post(PATH, body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    let data = answer.json()["data"].as_array().unwrap().clone();
    let numbers = |entry: &Value| {
        entry["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    data.iter().map(numbers).collect()
}

#[test]
fn an_answer_has_openais_form_and_length_one() {
    let server = TestServer::start();
    let answer = server.post(PATH, &json!({ "model": "scripted", "input": "Hi", "user": "me" }));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = answer.json();
    assert!(body["id"].as_str().unwrap().starts_with("embd-"));
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("scripted")));
    let usage = json!({
        "prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0, "prompt_tokens_details": null
    });
    assert_eq!(body["usage"], usage);
    let entry = &body["data"][0];
    assert_eq!((&entry["index"], &entry["object"]), (&json!(0), &json!("embedding")));
    let numbers: Vec<f64> =
        entry["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect();
    let length: f64 = numbers.iter().map(|number| number * number).sum();
    assert!((length - 1.0).abs() < 1e-6 && numbers.len() == 4, "{numbers:?}");
    let plain = json!({ "input": "Hi", "use_activation": false });
    let sum = f64::from(BOS) + f64::from(b'H') + f64::from(b'i');
    assert_eq!(vectors(&server, &plain), [[3.0, sum, 1.0, 4.0]]);
}

#[test]
fn inputs_come_in_four_forms_and_vectors_in_their_order() {
    let server = plain(Pooling::Mean, None);
    let text = |text: &str| {
        let tokens = text.len() as f64 + 1.0;
        let sum: f64 = text.bytes().map(f64::from).sum();
        vec![tokens, sum + f64::from(BOS), tokens, 4.0]
    };
    assert_eq!(vectors(&server, &json!({ "input": "ab" })), [text("ab")]);
    let many: Vec<String> = (0..40).map(|index| "x".repeat(1 + index * 7 % 40)).collect();
    let expected: Vec<Vec<f64>> = many.iter().map(|input| text(input)).collect();
    assert_eq!(vectors(&server, &json!({ "input": many })), expected);
    assert_eq!(vectors(&server, &json!({ "input": [5, 6, 7] })), [[3.0, 18.0, 3.0, 4.0]]);
    let two = json!({ "input": [[5], [6, 7]] });
    assert_eq!(vectors(&server, &two), [[1.0, 5.0, 1.0, 4.0], [2.0, 13.0, 2.0, 4.0]]);
    let usage = server.post(PATH, &two).json()["usage"]["total_tokens"].clone();
    assert_eq!(usage, 3);
}

#[test]
fn base64_holds_the_same_numbers() {
    let server = TestServer::start();
    let numbers = vectors(&server, &json!({ "input": "Hello", "encoding_format": "float" }));
    let answer = server.post(PATH, &json!({ "input": "Hello", "encoding_format": "base64" })).json();
    let bytes = STANDARD.decode(answer["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let (words, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    let found: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let numbers: Vec<f32> = numbers[0].iter().map(|number| *number as f32).collect();
    assert_eq!(found, numbers);
}

#[test]
fn vectors_are_cut_where_the_model_allows_it() {
    let server = plain(Pooling::Last, Some(vec![2, 3]));
    let body = json!({ "input": [3, 5], "dimensions": 2 });
    assert_eq!(vectors(&server, &body), [[2.0, 8.0]]);
    let short = vectors(&server, &json!({ "input": [3, 5], "dimensions": 2, "use_activation": true }));
    assert!((short[0][0].hypot(short[0][1]) - 1.0).abs() < 1e-6);
    let answer = server.post(PATH, &json!({ "input": "Hi", "dimensions": 4 }));
    assert_eq!((answer.status, answer.message().as_str()), (400, "dimensions is 4, expected one of [2, 3]"));
}

#[test]
fn an_input_may_fill_the_context_and_longer_ones_are_cut_if_asked() {
    let server = plain(Pooling::First, None);
    let full = vec![7; MAX_MODEL_LEN];
    assert_eq!(vectors(&server, &json!({ "input": full }))[0][0], MAX_MODEL_LEN as f64);
    let longer = vec![7; MAX_MODEL_LEN + 1];
    let answer = server.post(PATH, &json!({ "input": longer }));
    assert_eq!(answer.status, 400);
    assert!(answer.message().starts_with("This model's maximum context length is"), "{}", answer.message());
    let cut = json!({ "input": longer, "truncate_prompt_tokens": -1 });
    assert_eq!(vectors(&server, &cut)[0][0], MAX_MODEL_LEN as f64);
    let cut = json!({ "input": [1, 2, 3, 4], "truncate_prompt_tokens": 3, "truncation_side": "right" });
    assert_eq!(vectors(&server, &cut), [[3.0, 6.0, 1.0, 4.0]]);
}

#[test]
fn bad_input_is_named() {
    let server = TestServer::start();
    let table = [
        (json!({}), "input", "input is missing"),
        (json!({ "input": "" }), "input", "must not be empty"),
        (json!({ "input": [[]] }), "input", "must not be empty"),
        (json!({ "input": [100_000] }), "input", "input has the token id 100000"),
        (json!({ "input": vec!["x"; 513] }), "input", "send them in several"),
        (json!({ "input": "Hi", "encoding_format": "bytes" }), "encoding_format", "expected \"float\""),
        (json!({ "input": "Hi", "dimensions": 2 }), "dimensions", "is_matryoshka"),
        (json!({ "input": "Hi", "normalize": true }), "normalize", "use_activation"),
        (json!({ "input": "Hi", "embed_dtype": "float16" }), "embed_dtype", "float32"),
        (json!({ "input": "Hi", "endianness": "big" }), "endianness", "little-endian"),
        (json!({ "input": "Hi", "padding": "max_length" }), "padding", "never padded"),
        (json!({ "messages": [] }), "messages", "send the text as input"),
        (json!({ "input": "Hi", "priority": 3 }), "priority", "priority must be 0"),
        (
            json!({ "input": "Hi", "truncate_prompt_tokens": 100_000 }),
            "truncate_prompt_tokens",
            "greater than",
        ),
        (json!({ "input": "Hi", "model": "other" }), "model", "does not exist"),
    ];
    for (body, param, message) in table {
        let answer = server.post(PATH, &body);
        assert!((400..405).contains(&answer.status), "{body}: {}", answer.status);
        assert_eq!(answer.json()["error"]["param"], param, "{body}: {}", answer.body);
        assert!(answer.message().contains(message), "{body}: {}", answer.message());
    }
    assert_eq!(server.post(PATH, &json!({ "input": "Hi" })).status, 200);
}

#[test]
fn vectors_count_in_the_metrics_and_share_the_engine_with_tokens() {
    let server = plain(Pooling::Last, None);
    let body = json!({ "prompt": "Hi", "max_tokens": 30 });
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    assert_eq!(vectors(&server, &json!({ "input": ["one", "two"] })).len(), 2);
    server.wait_until_idle();
    let text = server.get("/metrics").body;
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or(start).to_owned();
    let stopped =
        line("vllm:request_success_total{model_name=\"scripted\",engine=\"0\",finished_reason=\"stop\"}");
    assert!(stopped.ends_with(" 2"), "{stopped}\n{text}");
}
