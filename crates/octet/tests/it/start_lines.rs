//! Start lines and variables as users bring them: what is taken, what is said about it, and what is refused.

use std::fs;

use serde_json::json;

use crate::checkpoint::{Checkpoint, Folder};
use crate::program::{Server, end_of, program, refusal, run};

#[track_caller]
fn expect_said(said: &str, words: &[&str]) {
    let missing: Vec<&&str> = words.iter().filter(|word| !said.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing in:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn empty_values_mean_unset_unless_that_would_open_something() {
    for flag in ["--api-key", "--allowed-origins", "--model"] {
        let ended = run(&["serve", flag, ""]);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        expect_said(&ended.stderr, &[flag, "must not be empty"]);
    }
    let ended = run(&["serve", ""]);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    expect_said(&ended.stderr, &["MODEL is empty"]);
    let folder = Checkpoint::llama().write();
    let options = ["--served-model-name", "", "--host", "", "--host", "127.0.0.1"];
    let server = Server::start_with(folder.path(), &options, &[("VLLM_API_KEY", "")]);
    expect_said(&server.said_at_start, &["--served-model-name is empty", "--host is empty"]);
    assert_eq!(server.request("GET", "/v1/models", b"").0, 200);
}

#[test]
fn flags_and_variables_that_change_nothing_are_named() {
    let folder = Checkpoint::llama().write();
    let options = [
        "--tensor-parallel-size",
        "1",
        "--trust-remote-code",
        "-O3",
        "--host",
        "0.0.0.0",
        "--host",
        "127.0.0.1",
    ];
    let variables = [
        ("VLLM_ATTENTION_BACKEND", "ROCM_FLASH"),
        ("VLLM_NO_SUCH_KEY", "hidden"),
        ("VLLM_API_KEY", "hidden"),
    ];
    let server = Server::start_with(folder.path(), &options, &variables);
    expect_said(
        &server.said_at_start,
        &[
            "note: --tensor-parallel-size 1 changes nothing",
            "note: --trust-remote-code changes nothing",
            "note: -O changes nothing",
            "note: VLLM_ATTENTION_BACKEND changes nothing",
            "without effect: VLLM_NO_SUCH_KEY",
        ],
    );
    assert!(!server.said_at_start.contains("hidden"), "{}", server.said_at_start);
    assert_eq!(server.request("GET", "/v1/models", b"").0, 401);
}

#[test]
fn flags_of_a_file() {
    let folder = Checkpoint::llama().write();
    let config = folder.path().join("octet.yaml");
    let text = "served-model-name: [one, two]\nmax_logprobs: 3\nenable-prefix-caching: false\ntrust-remote-code: true\n";
    fs::write(&config, text).unwrap();
    let path = config.to_str().unwrap();
    let server = Server::start(folder.path(), &["--config", path, "--max-logprobs", "2"]);
    expect_said(&server.said_at_start, &["octet.yaml, line 4: --trust-remote-code changes nothing"]);
    let (_, models) = server.request("GET", "/v1/models", b"");
    assert!(models.contains("\"one\"") && models.contains("\"two\""), "{models}");
    let body = json!({"model": "one", "prompt": "ab", "max_tokens": 1, "logprobs": 3});
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 400, "what is typed wins: {answer}");
    drop(server);
    fs::write(&config, "port: 0\nflux-capacitor: 1\n").unwrap();
    let ended = run(&["serve", "--config", path]);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    expect_said(&ended.stderr, &["line 2", "--flux-capacitor is no flag"]);
}

#[test]
fn a_quantization_that_the_checkpoint_does_not_have() {
    let folder = Checkpoint::llama().write();
    let said = refusal(folder.path(), &["--quantization", "compressed-tensors"]);
    expect_said(&said, &["--quantization compressed-tensors", "this one is not"]);
}

#[test]
fn cpus_for_several_ranks() {
    let folder = Checkpoint::llama().write();
    let model = folder.path().to_str().unwrap();
    let mut command = program(&["serve", model, "--port", "0"]);
    let ended = end_of(command.env("VLLM_CPU_OMP_THREADS_BIND", "0|1"));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    expect_said(&ended.stderr, &["VLLM_CPU_OMP_THREADS_BIND", "2 ranks", "0,1"]);
}

#[test]
fn what_needs_no_weights_is_checked_before_them() {
    // The folder has no model, so whoever looks for one first says something else.
    let empty = Folder::new();
    for (options, word) in [
        (&["--gpu-memory-utilization", "90"][..], "is 0.9 meant?"),
        (&["--block-size", "17"], "multiple of 16"),
        (&["--max-num-seqs", "64", "--max-num-batched-tokens", "32"], "every sequence needs a token"),
        (&["--chat-template", "/nowhere.jinja"], "/nowhere.jinja could not be read"),
        (&["--override-generation-config", "{\"heat\": 1}"], "heat"),
        (&["--tokenizer", "/nowhere"], "/nowhere is no folder"),
    ] {
        expect_said(&refusal(empty.path(), options), &[word]);
    }
}

#[test]
fn a_template_is_chosen_by_its_name() {
    let folder = Checkpoint::llama().write();
    let template = |name: &str, text: &str| json!({"name": name, "template": text});
    let templates =
        [template("default", "{{ messages[0].content }}"), template("long", "----{{ messages[0].content }}")];
    let config = json!({"eos_token": "<|end|>", "chat_template": templates});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let prompt_tokens = |options: &[&str]| {
        let server = Server::start(folder.path(), &[&["--served-model-name", "tiny"][..], options].concat());
        let body = json!({"model": "tiny", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 1});
        let (status, answer) = server.post("/v1/chat/completions", &body);
        assert_eq!(status, 200, "{answer}");
        answer["usage"]["prompt_tokens"].as_u64()
    };
    assert_eq!(prompt_tokens(&[]), Some(2));
    assert_eq!(prompt_tokens(&["--chat-template", "long"]), Some(6));
    expect_said(&refusal(folder.path(), &["--chat-template", "short"]), &["short", "long"]);
}

#[test]
fn vllms_variable_sets_the_level_of_the_log() {
    let folder = Checkpoint::llama().write();
    let server = Server::start_with(folder.path(), &[], &[("VLLM_LOGGING_LEVEL", "ERROR")]);
    assert_eq!(server.request("GET", "/v1/models", b"").0, 200);
    let (status, said) = server.stop();
    assert!(status.success() && !said.iter().any(|line| line.contains("GET /v1/models")), "{said:?}");
}
