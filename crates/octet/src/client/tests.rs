//! The clients against a server that gives prepared answers over a real socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use clap::Parser;
use serde_json::{Value, json};

#[derive(Parser)]
struct Chat {
    #[command(flatten)]
    chat: chat::ChatArgs,
}

#[derive(Parser)]
struct Complete {
    #[command(flatten)]
    complete: complete::CompleteArgs,
}

/// Answers one connection after another; gives the requests' heads and bodies.
fn server(answers: Vec<(&'static str, String)>) -> (String, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            sender.send(request(&mut stream)).unwrap();
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body.as_bytes()).unwrap();
        }
    });
    (url, requests)
}

fn request(stream: &mut TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "a whole head");
    }
    let length = head.to_ascii_lowercase().lines().find_map(|line| {
        line.strip_prefix("content-length: ").map(|length| length.parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn models() -> (&'static str, String) {
    ("200 OK", json!({ "data": [{ "id": "first" }, { "id": "second" }] }).to_string())
}

fn events(events: &[Value]) -> (&'static str, String) {
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    ("200 OK", body + "data: [DONE]\n\n")
}

fn chat_answer(text: &[&str]) -> (&'static str, String) {
    let mut all = vec![json!({ "choices": [{ "delta": { "role": "assistant", "content": "" } }] })];
    all.extend(text.iter().map(|text| json!({ "choices": [{ "delta": { "content": text } }] })));
    all.push(json!({ "choices": [], "usage": { "prompt_tokens": 5, "completion_tokens": 2 } }));
    events(&all)
}

/// Runs a client with what is typed; gives what it wrote and what it noted.
fn run(typed: &str, client: impl FnOnce(&mut Terminal<'_>) -> Result<()>) -> (Result<()>, String, String) {
    let (mut output, mut notes) = (Vec::new(), Vec::new());
    let mut input = typed.as_bytes();
    let result = client(&mut Terminal { input: &mut input, output: &mut output, notes: &mut notes });
    (result, String::from_utf8(output).unwrap(), String::from_utf8(notes).unwrap())
}

#[test]
fn a_conversation_remembers_what_was_said() {
    let (url, requests) = server(vec![models(), chat_answer(&["Hel", "lo"]), chat_answer(&["Bye"])]);
    let typed = ["octet", "--url", &url, "--system-prompt", "Be brief", "--max-tokens", "9", "--stats"];
    let arguments = Chat::parse_from(typed).chat;
    let connection = Connection::open(&arguments.client).unwrap();
    let (result, output, notes) =
        run("Hi\n\nGo\n", |terminal| chat::converse(&arguments, &connection, terminal));
    result.unwrap();
    assert_eq!(output, "Hello\nBye\n");
    assert!(notes.contains("5 prompt tokens, 2 tokens; first after"), "{notes}");
    let requests: Vec<(String, String)> = requests.iter().collect();
    assert!(requests[0].0.starts_with("GET /v1/models HTTP/1.1"), "{}", requests[0].0);
    assert!(requests[1].0.starts_with("POST /v1/chat/completions HTTP/1.1"), "{}", requests[1].0);
    let last: Value = serde_json::from_str(&requests[2].1).unwrap();
    assert_eq!((&last["model"], &last["max_tokens"]), (&json!("first"), &json!(9)));
    let messages = json!([
        { "role": "system", "content": "Be brief" }, { "role": "user", "content": "Hi" },
        { "role": "assistant", "content": "Hello" }, { "role": "user", "content": "Go" }
    ]);
    assert_eq!(last["messages"], messages);
}

fn too_long() -> (&'static str, String) {
    let message = "This model's maximum context length is 64 tokens. However, your prompt has 70 tokens.";
    ("400 Bad Request", json!({ "error": { "message": message, "code": 400 } }).to_string())
}

/// What was said in a request to chat, `role: content` each.
fn said((_, body): &(String, String)) -> Vec<String> {
    let body: Value = serde_json::from_str(body).unwrap();
    let line = |message: &Value| {
        format!("{}: {}", message["role"].as_str().unwrap(), message["content"].as_str().unwrap())
    };
    body["messages"].as_array().unwrap().iter().map(line).collect()
}

#[test]
fn a_conversation_that_outgrows_the_context_forgets_its_older_half() {
    let answers = [models(), chat_answer(&["A"]), chat_answer(&["B"]), chat_answer(&["C"]), too_long()];
    let (url, requests) = server(answers.into_iter().chain([chat_answer(&["D"])]).collect());
    let arguments = Chat::parse_from(["octet", "--url", &url, "--system-prompt", "S"]).chat;
    let connection = Connection::open(&arguments.client).unwrap();
    let (result, output, notes) =
        run("a\nb\nc\nd\n", |terminal| chat::converse(&arguments, &connection, terminal));
    result.unwrap();
    assert_eq!(output, "A\nB\nC\nD\n");
    assert!(notes.contains("its older half is forgotten"), "{notes}");
    let requests: Vec<(String, String)> = requests.iter().collect();
    assert_eq!(said(&requests[4]).len(), 1 + 6 + 1);
    assert_eq!(said(&requests[5]), ["system: S", "user: c", "assistant: C", "user: d"]);
}

#[test]
fn a_full_context_is_said_and_makes_room() {
    let full = json!({ "data": [{ "id": "first", "max_model_len": 7 }] }).to_string();
    // The prepared answers count 5 and 2 tokens.
    let (url, requests) = server(vec![("200 OK", full), chat_answer(&["A"]), chat_answer(&["B"])]);
    let arguments = Chat::parse_from(["octet", "--url", &url]).chat;
    let connection = Connection::open(&arguments.client).unwrap();
    let (result, _, notes) = run("a\nb\n", |terminal| chat::converse(&arguments, &connection, terminal));
    result.unwrap();
    assert!(notes.contains("the model's context is full"), "{notes}");
    let requests: Vec<(String, String)> = requests.iter().collect();
    assert_eq!(said(&requests[2]), ["user: b"]);
}

#[test]
fn a_message_that_is_refused_does_not_end_the_conversation() {
    let busy = json!({ "error": { "message": "the queue is full" } }).to_string();
    let answers = vec![models(), too_long(), ("503 Service Unavailable", busy), chat_answer(&["A"])];
    let (url, requests) = server(answers);
    let arguments = Chat::parse_from(["octet", "--url", &url]).chat;
    let connection = Connection::open(&arguments.client).unwrap();
    let (result, output, notes) =
        run("long\nb\nc\n", |terminal| chat::converse(&arguments, &connection, terminal));
    result.unwrap();
    assert_eq!(output, "A\n");
    assert!(notes.contains("maximum context length") && notes.contains("the queue is full"), "{notes}");
    assert_eq!(said(&requests.iter().last().unwrap()), ["user: c"]);
}

#[test]
fn a_quick_completion_prints_its_text_alone() {
    let text = |text: &str| json!({ "choices": [{ "text": text }] });
    let (url, requests) = server(vec![events(&[text("one "), text("two")])]);
    let typed = ["octet", "--url", &url, "--model-name", "mine", "--api-key", "secret", "-q", "zero "];
    let arguments = Complete::parse_from(typed).complete;
    let connection = Connection::open(&arguments.client).unwrap();
    let (result, output, notes) = run("", |terminal| complete::complete(&arguments, &connection, terminal));
    result.unwrap();
    assert_eq!((output.as_str(), notes.as_str()), ("one two\n", ""));
    let (head, body) = requests.recv().unwrap();
    assert!(head.to_ascii_lowercase().contains("authorization: bearer secret"), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["model"], &body["prompt"]), (&json!("mine"), &json!("zero ")));
    assert!(body.get("max_tokens").is_none());
}

/// The error of a quick completion that the server answers so.
fn failure(answer: (&'static str, String)) -> String {
    let (url, _requests) = server(vec![answer]);
    let arguments = Complete::parse_from(["octet", "--url", &url, "--model-name", "m", "-q", "x"]).complete;
    let connection = Connection::open(&arguments.client).unwrap();
    let (result, ..) = run("", |terminal| complete::complete(&arguments, &connection, terminal));
    format!("{:#}", result.unwrap_err())
}

#[test]
fn refusals_show_the_servers_words() {
    let error = json!({ "error": { "message": "prompt must not be empty", "code": 400 } }).to_string();
    let message = failure(("400 Bad Request", error));
    assert!(message.ends_with("answered 400 Bad Request: prompt must not be empty"), "{message}");
    let message = failure(("401 Unauthorized", r#"{"error":"Unauthorized"}"#.to_owned()));
    assert!(message.ends_with("answered 401 Unauthorized: Unauthorized"), "{message}");
    let message = failure(events(&[json!({ "error": { "message": "no numbers" } })]));
    assert_eq!(message, "the server gave up: no numbers");
    let message = failure(("200 OK", "data: {\"choices\": []}\n\n".to_owned()));
    assert_eq!(message, "the answer broke off: the server closed the connection");
}

#[test]
fn without_a_server_the_remedy_is_named() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/v1");
    let arguments = Complete::parse_from(["octet", "--url", &url, "-q", "x"]).complete;
    let message = match Connection::open(&arguments.client) {
        Ok(_) => panic!("nobody listens there"),
        Err(error) => format!("{error:#}"),
    };
    assert!(message.contains("is the server running? Start one with `octet serve`"), "{message}");
}
