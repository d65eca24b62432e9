//! Requests that cannot be served get an error of their own, and the server goes on. A soak of many that can.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, MAX_MODEL_LEN};
use crate::program::Server;

/// A request that works, changed by `changes`.
fn completion(changes: &Value) -> Value {
    let mut body =
        json!({"model": "tiny", "prompt": "ab", "max_tokens": 4, "temperature": 0, "ignore_eos": true});
    for (key, value) in changes.as_object().expect("changes are an object") {
        body[key] = value.clone();
    }
    body
}

fn tiny_server() -> Server {
    let folder = Checkpoint::llama().write();
    // The weights are mapped or read by the time that the server listens; the folder may go.
    Server::start(folder.path(), &["--served-model-name", "tiny"])
}

/// The text of a completion that must succeed.
#[track_caller]
fn text_of((status, body): (u16, Value)) -> String {
    assert_eq!(status, 200, "{body}");
    body["choices"][0]["text"].as_str().expect("a completion has text").to_owned()
}

#[test]
fn bad_requests_are_their_own_fault() {
    let server = tiny_server();
    let before = text_of(server.post("/v1/completions", &completion(&json!({}))));
    for (changes, status, word) in [
        (json!({"temperature": -1}), 400, "temperature"),
        (json!({"top_p": 0}), 400, "top_p"),
        (json!({"top_p": 1.5}), 400, "top_p"),
        (json!({"min_p": 2}), 400, "min_p"),
        (json!({"top_k": -7}), 400, "top_k"),
        (json!({"presence_penalty": 3}), 400, "presence_penalty"),
        (json!({"repetition_penalty": 0}), 400, "repetition_penalty"),
        (json!({"n": 0}), 400, "n"),
        (json!({"max_tokens": -1}), 400, "max_tokens"),
        (json!({"max_tokens": "many"}), 400, "max_tokens"),
        (json!({"prompt": {"a": 1}}), 400, "prompt"),
        (json!({"prompt": [999_999]}), 400, "999999"),
        (json!({"prompt": "x".repeat(MAX_MODEL_LEN + 1)}), 400, "maximum context length is 256"),
        (json!({"prompt": "x".repeat(1_000_000)}), 400, "maximum context length is 256"),
        (json!({"logit_bias": {"999999": 1}}), 400, "logit_bias"),
        (json!({"model": "another"}), 404, "another"),
    ] {
        let (found, body) = server.post("/v1/completions", &completion(&changes));
        assert_eq!(found, status, "{changes}: {body}");
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(word), "{word} is missing in {body}");
    }
    for body in [&b"{\"prompt\": \"\xFF\xFE\"}"[..], b"{", b"", b"[]", b"null", b"\0\0\0\0"] {
        let (status, text) = server.request("POST", "/v1/completions", body);
        assert_eq!(status, 400, "{body:?}: {text}");
        assert!(serde_json::from_str::<Value>(&text).unwrap()["error"].is_object(), "{text}");
    }
    assert_eq!(server.request("GET", "/v1/nothing", b"").0, 404);
    assert_eq!(server.request("GET", "/v1/completions", b"").0, 405);
    assert_eq!(text_of(server.post("/v1/completions", &completion(&json!({})))), before);
    server.wait_until_idle();
}

#[test]
fn a_client_that_leaves_gives_its_room_back() {
    let server = tiny_server();
    let long = completion(&json!({"max_tokens": 200, "stream": true, "n": 4, "temperature": 1}));
    let mut stream = server.send("POST", "/v1/completions", long.to_string().as_bytes());
    let mut beginning = [0; 64];
    stream.read_exact(&mut beginning).unwrap();
    drop(stream);
    server.wait_until_idle();
    assert!(beginning.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&beginning));
    assert_eq!(server.request("GET", "/health", b"").0, 200);
}

#[test]
fn a_stop_is_clean() {
    let server = tiny_server();
    text_of(server.post("/v1/completions", &completion(&json!({}))));
    let (status, said) = server.stop();
    assert!(status.success(), "{status}: {said:?}");
}

/// Requests of the soak.
const REQUESTS: usize = 3_000;

/// Connections at a time.
const CLIENTS: usize = 12;

/// Many clients at once, some of which leave, some of which ask for nonsense: every text is the one that the same
/// prompt gets alone, whatever shared its steps, and at the end nothing is held.
#[test]
fn a_soak_leaves_nothing_behind() {
    let folder = Checkpoint::llama().write();
    // Room for 24 blocks of 16 tokens: fewer than eight sequences need, so that some must give way.
    let options = [
        &["--served-model-name", "tiny", "--max-num-seqs", "8"][..],
        &["--kv-cache-memory-bytes", "96K", "--max-model-len", "192"],
    ]
    .concat();
    let server = Server::start(folder.path(), &options);
    let bodies: Vec<Value> = (0..10).map(soak_request).collect();
    let alone: Vec<String> =
        bodies.iter().map(|body| text_of(server.post("/v1/completions", body))).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS {
                        break;
                    }
                    soak_step(&server, number, &bodies, &alone);
                }
            });
        }
    });
    server.wait_until_idle();
    // The soak was one of what it is meant for.
    for name in ["vllm:num_preemptions_total", "vllm:prefix_cache_hits_total"] {
        assert!(server.metric(name) > 0.0, "{name} is 0");
    }
    let (status, said) = server.stop();
    assert!(status.success(), "{status}: {said:?}");
}

/// Prompts of many lengths that share two beginnings, so that the prefix cache takes part.
fn soak_request(number: usize) -> Value {
    let beginning = ["once upon a time there was a ", "in a hole in the ground "][number % 2];
    let prompt = beginning.repeat(1 + number % 5) + &"abcdefghij"[number..];
    completion(&json!({"prompt": prompt, "max_tokens": 3 + 7 * (number % 4)}))
}

fn soak_step(server: &Server, number: usize, bodies: &[Value], alone: &[String]) {
    let body = &bodies[number % bodies.len()];
    match number % 13 {
        5 => {
            let (status, _) = server.post("/v1/completions", &completion(&json!({"top_p": 7})));
            assert_eq!(status, 400);
        }
        8 => {
            // Leaves without reading a byte.
            let long = completion(&json!({"max_tokens": 100, "stream": true}));
            drop(server.send("POST", "/v1/completions", long.to_string().as_bytes()));
        }
        _ => {
            assert_eq!(text_of(server.post("/v1/completions", body)), alone[number % bodies.len()], "{body}")
        }
    }
}
