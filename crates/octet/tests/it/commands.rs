//! The subcommands as a user types them, and promises about the process.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, Folder};
use crate::program::{Server, copy_of_program, end_of, program, run, serve_shipped};

#[test]
fn a_prompt_is_completed_in_process_and_by_a_server() {
    let folder = Checkpoint::llama().write();
    let model = folder.path().to_str().expect("a path of the test is text");
    let mut here =
        program(&["complete", "--model", model, "--threads", "1", "--kv-cache-memory-bytes", "4M"]);
    // A key for servers elsewhere must not be in the way.
    here.env("OPENAI_API_KEY", "key").args(["-q", "ab", "--max-tokens", "5"]);
    let here = end_of(&mut here);
    assert!(here.status.success() && !here.stdout.is_empty(), "{}", here.stderr);
    let server = Server::start(folder.path(), &[]);
    let url = format!("{}/v1", server.url());
    let there = run(&["complete", "--url", &url, "-q", "ab", "--max-tokens", "5"]);
    assert!(there.status.success() && !there.stdout.is_empty(), "{}", there.stderr);
    drop(server);
    let nowhere = run(&["complete", "--url", &url, "-q", "ab"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(nowhere.stderr.contains(&url), "{}", nowhere.stderr);
}

#[test]
fn latency_is_measured_and_written() {
    let folder = Checkpoint::llama().write();
    let model = folder.path().to_str().expect("a path of the test is text");
    let results = folder.path().join("results.json");
    let results = results.to_str().expect("a path of the test is text");
    let ended = run(&[
        "bench",
        "latency",
        "--model",
        model,
        "--threads",
        "1",
        "--kv-cache-memory-bytes",
        "4M",
        "--input-len",
        "16",
        "--output-len",
        "8",
        "--batch-size",
        "2",
        "--num-iters-warmup",
        "1",
        "--num-iters",
        "3",
        "--output-json",
        results,
    ]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stdout.contains("Avg latency: "), "{}", ended.stdout);
    let written: Value = serde_json::from_str(&fs::read_to_string(results).unwrap()).unwrap();
    assert_eq!(written["latencies"].as_array().map(Vec::len), Some(3), "{written}");
    assert!(written["avg_latency"].as_f64().is_some_and(|seconds| seconds > 0.0), "{written}");
    assert!(written["percentiles"]["99"].is_number(), "{written}");
}

#[test]
fn a_copied_program_finds_the_model_inside() {
    let folder = Folder::new();
    let program = copy_of_program(folder.path());
    let server = serve_shipped(&program, folder.path());
    let (status, models) = server.request("GET", "/v1/models", b"");
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!((status, models["data"][0]["id"].as_str()), (200, Some("octet-mini")), "{models}");
    let body =
        json!({"model": "octet-mini", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0});
    let (status, answer) = server.post("/v1/completions", &body);
    let text = answer["choices"][0]["text"].as_str().unwrap_or_default();
    assert!(status == 200 && text.chars().any(char::is_alphabetic), "{answer}");
}

/// Words as people see them: runs of letters.
fn words_of(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_alphabetic()).filter(|word| word.len() > 2).collect()
}

#[test]
fn bad_words_do_not_come() {
    let folder = Folder::new();
    let server = serve_shipped(Path::new(env!("CARGO_BIN_EXE_octet")), folder.path());
    let story = |bad_words: &BTreeSet<&str>| {
        let body = json!({ "model": "octet-mini", "prompt": "Once upon a time", "max_tokens": 100, "temperature": 0,
                           "bad_words": bad_words });
        let (status, answer) = server.post("/v1/completions", &body);
        let text = answer["choices"][0]["text"].as_str().unwrap_or_default().to_owned();
        assert!(status == 200 && !text.is_empty(), "{answer}");
        text
    };
    let first = story(&BTreeSet::new());
    let words = words_of(&first);
    assert!(words.len() > 10, "{first}");
    let second = story(&words);
    let came: Vec<_> = words.intersection(&words_of(&second)).copied().collect();
    assert!(came.is_empty(), "{came:?} came in {second}");
}

#[test]
#[cfg(target_os = "linux")]
fn an_idle_server_costs_nothing() {
    let folder = Checkpoint::llama().write();
    let server = Server::start(folder.path(), &["--threads", "2"]);
    let body = json!({"model": folder.path(), "prompt": "ab", "max_tokens": 20, "temperature": 0});
    assert_eq!(server.post("/v1/completions", &body).0, 200);
    server.wait_until_idle();
    // Workers spin for a moment after a step before they park.
    thread::sleep(Duration::from_millis(300));
    let before = server.processor_seconds();
    thread::sleep(Duration::from_secs(1));
    let used = server.processor_seconds() - before;
    assert!(used <= 0.02, "an idle server used {used} s of a second");
}
