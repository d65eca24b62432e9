//! Connections of the whole program: within few file descriptors, and what of them is in the log.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

use crate::checkpoint::Checkpoint;
use crate::program::Server;

fn completion(changes: &Value) -> Vec<u8> {
    let mut body =
        json!({"model": "tiny", "prompt": "ab", "max_tokens": 3, "temperature": 0, "ignore_eos": true});
    for (field, value) in changes.as_object().expect("changes are an object") {
        body[field] = value.clone();
    }
    body.to_string().into_bytes()
}

#[test]
fn idle_sockets_do_not_take_the_last_descriptor() {
    let folder = Checkpoint::llama().write();
    let server = Server::launch_unheard(folder.path(), &["--served-model-name", "tiny"], |command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\" 2>&-"]);
        shell.arg(command.get_program()).args(command.get_args());
        *command = shell;
    });
    let idle: Vec<TcpStream> = (0..250).map(|_| server.connect()).collect();
    assert_eq!(server.request("GET", "/health", b"").0, 200);
    let (status, answer) = server.request("POST", "/v1/completions", &completion(&json!({})));
    assert_eq!(status, 200, "{answer}");
    drop(idle);
    assert!(server.stop().0.success());
}

#[test]
fn the_log_says_how_requests_came_and_went() {
    let folder = Checkpoint::llama().write();
    let quiet = "--disable-access-log-for-endpoints=/health,/metrics";
    let server = Server::start(
        folder.path(),
        &["--served-model-name", "tiny", "--enable-log-requests", "--root-path", "/llm", quiet],
    );
    let is_of = |word: &'static str| move |line: &str| line.contains(word);
    assert_eq!(server.request("GET", "/health", b"").0, 200);
    assert_eq!(server.request("GET", "/llm/version", b"").0, 200);
    let line = server.line(|line| line.contains("GET /"));
    assert!(line.contains("GET /version 200 "), "{line}");
    server.request("POST", "/v1/completions", &completion(&json!({"stream": true, "seed": 7})));
    let line = server.line(is_of("request cmpl-"));
    assert!(line.contains("2 prompt tokens, max_tokens 3, n 1,") && line.contains("seed 7,"), "{line}");
    let line = server.line(is_of("POST /v1/completions 200 "));
    assert!(line.ends_with(", 3 tokens"), "{line}");
    let long = completion(&json!({"stream": true, "max_tokens": 200, "n": 4, "temperature": 1}));
    let mut stream = server.send("POST", "/v1/completions", &long);
    stream.read_exact(&mut [0; 64]).unwrap();
    drop(stream);
    let line = server.line(is_of("POST /v1/completions 499 "));
    assert!(line.ends_with(": the client hung up") && line.contains(" token"), "{line}");
    assert!(server.stop().0.success());
}
