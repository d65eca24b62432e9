//! One client must not hurt another: what requests may cost, and who is served while somebody asks for much.

use std::cell::RefCell;
use std::io::Write;
use std::time::Duration;

use serde_json::json;

use crate::client::Answer;
use crate::server::{Options, TestServer};

const COMPLETIONS: &str = "/v1/completions";

fn with_memory(bytes: usize) -> TestServer {
    let mut options = Options::default();
    options.server.limits.request_memory_bytes = bytes;
    TestServer::with(options)
}

fn kind(answer: &Answer) -> (u16, String) {
    (answer.status, answer.message())
}

#[test]
fn a_million_parts_are_refused_before_they_are_parsed() {
    let server = with_memory(64 << 20);
    let body =
        format!(r#"{{"messages": [{{"role": "user", "content": [{}""]}}]}}"#, r#""","#.repeat(1_000_000));
    let (status, message) = kind(&server.client().post("/v1/chat/completions", body.as_bytes()));
    assert_eq!(status, 413, "{message}");
    assert!(message.contains("--request-memory-bytes"), "{message}");
    let body = json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 1 });
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
}

#[test]
fn what_is_promised_costs_nothing_and_what_is_held_is_counted() {
    let server = with_memory(16 << 20);
    let client = server.client();
    // A quarter of the memory is one client's, and these bodies never end: they hold what has come of them.
    let length = (4_000_000).to_string();
    let headers = [("content-type", "application/json"), ("content-length", length.as_str())];
    let promised: Vec<_> = (0..20).map(|_| client.send("POST", COMPLETIONS, &headers, None)).collect();
    assert_eq!(server.post(COMPLETIONS, &json!({ "prompt": "a", "max_tokens": 1 })).status, 200);
    let held = RefCell::new(Vec::new());
    let body = json!({ "prompt": "a".repeat(1_000_000), "max_tokens": 1 });
    crate::server::wait_for("a full share", || {
        // If the probe came before all of them was read, it is one of these that was refused, so they come anew.
        let mut pair: Vec<_> = (0..2).map(|_| client.send("POST", COMPLETIONS, &headers, None)).collect();
        let are_sent = pair.iter_mut().all(|one| one.get_mut().write_all(&vec![b' '; 1_900_000]).is_ok());
        held.replace(pair);
        are_sent && server.post(COMPLETIONS, &body).status == 503
    });
    drop(held);
    // It would take too much to prepare, but there is memory again to see that.
    crate::server::wait_for("the memory back", || server.post(COMPLETIONS, &body).status == 413);
    drop(promised);
}

#[test]
fn what_an_answer_would_keep_is_counted_beforehand() {
    let server = with_memory(16 << 20);
    let body = json!({ "prompt": "a".repeat(500), "max_tokens": 1, "n": 8, "prompt_logprobs": 20 });
    let (status, message) = kind(&server.post(COMPLETIONS, &body));
    assert_eq!(status, 413, "{message}");
    assert!(message.contains("fewer prompt_logprobs"), "{message}");
    let body = json!({ "prompt": "a".repeat(100), "max_tokens": 1, "prompt_logprobs": 20 });
    assert_eq!(server.post(COMPLETIONS, &body).status, 200);
}

#[test]
fn stop_strings_are_shared_by_all_sequences() {
    let server = TestServer::start();
    let long = json!({ "prompt": "a", "max_tokens": 1, "n": 400, "stop": ["x".repeat(500_000)] });
    assert_eq!(server.post(COMPLETIONS, &long).status, 400);
    let many = json!({ "prompt": "a", "max_tokens": 1, "n": 400, "stop": ["x".repeat(60_000)] });
    assert_eq!(server.post(COMPLETIONS, &many).status, 200);
}

#[test]
fn one_request_takes_at_most_a_part_of_the_queue() {
    let options = Options { step_time: Duration::from_millis(20), ..Options::default() };
    let server = TestServer::with(options);
    let many = |n: usize| json!({ "prompt": "a", "max_tokens": 500, "n": n, "stream": true }).to_string();
    let headers = [("content-type", "application/json")];
    let client = server.client();
    let first = client.send("POST", COMPLETIONS, &headers, Some(many(512).as_bytes()));
    crate::server::wait_for("half of the places", || {
        let stats = server.engine.stats();
        stats.running + stats.waiting == 512
    });
    // Half of what is free, then half of the rest; there is always a place for one more.
    assert_eq!(kind(&client.post(COMPLETIONS, many(257).as_bytes())).0, 503);
    let second = client.send("POST", COMPLETIONS, &headers, Some(many(256).as_bytes()));
    crate::server::wait_for("three quarters", || {
        let stats = server.engine.stats();
        stats.running + stats.waiting == 768
    });
    assert_eq!(kind(&client.post(COMPLETIONS, many(512).as_bytes())).0, 503);
    let third = client.send("POST", COMPLETIONS, &headers, Some(many(1).as_bytes()));
    crate::server::wait_for("one more", || {
        let stats = server.engine.stats();
        stats.running + stats.waiting == 769
    });
    drop((first, second, third));
    server.wait_until_idle();
}

#[test]
fn a_long_text_is_refused_or_cut_before_it_is_tokenised() {
    let server = TestServer::start();
    let text = "x".repeat(2_000_000) + "end";
    for (path, field) in [("/tokenize", "prompt"), (COMPLETIONS, "prompt")] {
        let answer = server.post(path, &json!({ field: text }));
        assert_eq!(
            (answer.status, answer.json()["error"]["param"].clone()),
            (400, json!("input_text")),
            "{path}"
        );
    }
    let body =
        json!({ "prompt": text, "truncate_prompt_tokens": 4, "max_tokens": 1, "add_special_tokens": false });
    assert_eq!(server.post(COMPLETIONS, &body).status, 200);
    let prompt = server.admitted.lock().unwrap().pop().unwrap().1;
    assert_eq!(prompt, b"xend".map(u32::from));
    // The beginning of sequence, which the template writes, stays.
    let body = json!({ "messages": [{ "role": "user", "content": text }], "truncate_prompt_tokens": 15, "max_tokens": 1 });
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
    let prompt = server.admitted.lock().unwrap().pop().unwrap().1;
    assert_eq!(prompt[0], crate::server::BOS);
    assert_eq!(prompt[1..], b"end[assistant]".map(u32::from));
    let ids = vec![65; 100_000];
    assert_eq!(server.post(COMPLETIONS, &json!({ "prompt": ids })).json()["error"]["param"], "input_tokens");
}

#[test]
fn strangers_that_hung_up_hold_no_keyed_request_up() {
    let mut options = Options::default();
    options.server.api_keys.0 = vec!["key".to_owned()];
    let server = TestServer::with(options);
    // Each is as long as the model takes; all of them together would take a while.
    let ids: Vec<u32> = vec![65; 400_000];
    let body = json!({ "tokens": ids }).to_string();
    let headers = [("content-type", "application/json")];
    for _ in 0..40 {
        drop(server.client().send("POST", "/detokenize", &headers, Some(body.as_bytes())));
    }
    let begun = std::time::Instant::now();
    let keyed = [("content-type", "application/json"), ("authorization", "Bearer key")];
    let request = json!({ "prompt": "a", "max_tokens": 1 }).to_string();
    let answer = server.client().request("POST", COMPLETIONS, &keyed, Some(request.as_bytes()));
    assert_eq!(answer.status, 200);
    // Far more than one body takes, far less than forty.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
