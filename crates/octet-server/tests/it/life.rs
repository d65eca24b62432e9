//! How requests and servers end.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use octet_server::ServerError;
use serde_json::{Value, json};

use crate::client::{Answer, read_head};
use crate::server::{Options, TestServer, wait_for};

const PATH: &str = "/v1/completions";

/// A server whose steps take long enough to come in between.
fn slow() -> Options {
    Options { step_time: Duration::from_millis(5), ..Options::default() }
}

fn long() -> Value {
    json!({ "prompt": "Hi", "temperature": 0, "max_tokens": 500, "ignore_eos": true })
}

#[test]
fn a_client_that_leaves_in_mid_stream_frees_its_sequences() {
    let mut options = slow();
    options.server.load_tracking = true;
    let server = TestServer::with(options);
    let mut body = long();
    body["stream"] = json!(true);
    body["n"] = json!(3);
    body["temperature"] = json!(1);
    let headers = [("content-type", "application/json")];
    let mut reader = server.client().send("POST", PATH, &headers, Some(body.to_string().as_bytes()));
    assert_eq!(read_head(&mut reader).0, 200);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    wait_for("three running sequences", || server.engine.stats().running == 3);
    assert_eq!(server.get("/load").json()["server_load"], 1);
    drop(reader);
    server.wait_until_idle();
    assert!(server.engine.stats().generation_tokens < 3 * 500);
    let text = server.get("/metrics").body;
    let aborted = text.lines().any(|line| {
        line.starts_with("vllm:request_success_total{") && line.ends_with(r#"finished_reason="abort"} 3"#)
    });
    assert!(aborted, "{text}");
}

#[test]
fn a_client_that_leaves_while_it_waits_frees_its_sequence() {
    let server = TestServer::with(slow());
    let headers = [("content-type", "application/json")];
    let reader = server.client().send("POST", PATH, &headers, Some(long().to_string().as_bytes()));
    wait_for("a running sequence", || server.engine.stats().running == 1);
    drop(reader);
    server.wait_until_idle();
    assert!(server.engine.stats().generation_tokens < 500);
}

#[test]
fn a_full_queue_answers_503_and_loses_nothing() {
    let mut options = slow();
    options.engine.max_queued = 2;
    let server = TestServer::with(options);
    let headers = [("content-type", "application/json")];
    let body = long().to_string();
    let mut running: Vec<_> =
        (0..2).map(|_| server.client().send("POST", PATH, &headers, Some(body.as_bytes()))).collect();
    wait_for("two running sequences", || server.engine.stats().running == 2);
    let refused = server.post(PATH, &long());
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.message().contains("2 requests are already running or waiting"));
    // Of a request for several sequences none stays behind when the last finds no room.
    drop(running.pop());
    wait_for("one running sequence", || server.engine.stats().running == 1);
    let mut two = long();
    two["prompt"] = json!(["a", "b"]);
    assert_eq!(server.post(PATH, &two).status, 503);
    wait_for("one running sequence again", || {
        let stats = server.engine.stats();
        (stats.running, stats.waiting) == (1, 0)
    });
    let mut answer = String::new();
    running.pop().unwrap().read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn many_clients_at_once_leave_nothing_behind() {
    const CLIENTS: usize = 16;
    const ROUNDS: usize = 8;
    let mut options = Options::default();
    options.server.load_tracking = true;
    let server = TestServer::with(options);
    let ask = &|client: usize, round: usize| {
        let tokens = 1 + (client * 7 + round * 31) % 90;
        let mut body =
            json!({ "prompt": format!("client {client}"), "temperature": 0, "max_tokens": tokens });
        match (client + round) % 4 {
            0 => {
                let usage = server.post(PATH, &body).json()["usage"]["completion_tokens"].clone();
                assert_eq!(usage, tokens);
            }
            1 => {
                body["stream"] = json!(true);
                let chunks = server.post(PATH, &body).chunks();
                assert_eq!(chunks.len(), tokens);
                assert_eq!(chunks[tokens - 1]["choices"][0]["finish_reason"], "length");
            }
            2 => {
                body["temperature"] = json!(-1);
                assert_eq!(server.post(PATH, &body).status, 400);
            }
            _ => {
                body["stream"] = json!(true);
                let headers = [("content-type", "application/json")];
                drop(server.client().send("POST", PATH, &headers, Some(body.to_string().as_bytes())));
            }
        }
    };
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || (0..ROUNDS).for_each(|round| ask(client, round)));
        }
    });
    server.wait_until_idle();
    wait_for("no request in progress", || server.get("/load").json()["server_load"] == 0);
}

#[test]
fn the_fault_of_one_request_is_its_own() {
    let server = TestServer::start();
    let faulty = json!({ "prompt": "one fault", "max_tokens": 4 });
    let answer = server.post(PATH, &faulty);
    assert_eq!(answer.status, 500);
    assert_eq!(answer.json()["error"]["type"], "InternalServerError");
    assert!(answer.message().contains("this row has no numbers"), "{}", answer.body);
    let mut streamed = faulty;
    streamed["stream"] = json!(true);
    let chunks = server.post(PATH, &streamed).chunks();
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0]["error"]["code"], 500);
    assert_eq!(server.post(PATH, &json!({ "prompt": "Hi", "max_tokens": 1 })).status, 200);
    server.wait_until_idle();
}

#[test]
fn a_dead_engine_shows_in_health_and_ends_the_server() {
    let server = TestServer::start();
    let answer = server.post(PATH, &json!({ "prompt": "device fault", "max_tokens": 4 }));
    assert_eq!(answer.status, 500);
    wait_for("the engine's end", || !server.engine.is_alive());
    assert_eq!(server.get("/health").status, 503);
    assert_eq!(server.post(PATH, &json!({ "prompt": "Hi" })).status, 500);
    let error = server.join().unwrap_err();
    assert!(
        matches!(&error, ServerError::EngineFault { message } if message.contains("the device is gone")),
        "{error}"
    );
}

#[test]
fn a_step_without_end_is_503_for_those_inside_and_those_who_come() {
    let server = TestServer::with(slow());
    let headers = [("content-type", "application/json")];
    let body = long().to_string();
    let mut other = server.client().send("POST", PATH, &headers, Some(body.as_bytes()));
    wait_for("a running sequence", || server.engine.stats().running == 1);
    let answer = server.post(PATH, &json!({ "prompt": "endless kernel", "max_tokens": 4 }));
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.json()["error"]["type"], "ServiceUnavailableError");
    assert!(answer.message().contains("did not finish its work in time"), "{}", answer.body);
    assert_eq!(read_head(&mut other).0, 503);
    wait_for("the engine's end", || !server.engine.is_alive());
    assert_eq!(server.get("/health").status, 503);
    assert_eq!(server.post(PATH, &json!({ "prompt": "Hi" })).status, 503);
    let error = server.join().unwrap_err();
    assert!(
        matches!(&error, ServerError::EngineFault { message } if message.contains("a kernel does not end")),
        "{error}"
    );
}

/// A server in a process of its own: signals go to a whole process. Run by the tests below, which set the variable;
/// in a plain test run there is nothing to do.
#[test]
fn child_server() {
    let Ok(timeout) = std::env::var("OCTET_TEST_SHUTDOWN_MS") else {
        return;
    };
    let mut options = slow();
    options.server.shutdown_timeout = Duration::from_millis(timeout.parse().unwrap());
    let server = TestServer::with(options);
    println!("\nlistening {}", server.address);
    server.join().unwrap();
    println!("\nended in order");
}

/// Starts the child, sends a long request, then `signals` times SIGTERM. Gives the answer and how long the end took.
/// Beside it stand a connection that is idle, one in the middle of a head, and one in the middle of a body.
fn terminate(shutdown_ms: u64, changes: &Value, signals: usize) -> (Answer, Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "life::child_server", "--nocapture", "--test-threads", "1"])
        .env("OCTET_TEST_SHUTDOWN_MS", shutdown_ms.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().strip_prefix("listening ").map(str::to_owned)).unwrap();
    let client = crate::client::Client { address: address.parse().unwrap() };
    let mut body = long();
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let half_sent = [
        "",
        "GET /hea",
        "POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n\
        Content-Length: 1000\r\n\r\n{",
    ];
    let _half_sent: Vec<TcpStream> = half_sent
        .iter()
        .map(|text| {
            let mut connection = TcpStream::connect(client.address).unwrap();
            connection.write_all(text.as_bytes()).unwrap();
            connection
        })
        .collect();
    let request = std::thread::spawn(move || client.post(PATH, body.to_string().as_bytes()));
    wait_for("a running sequence", || {
        client
            .request("GET", "/metrics", &[], None)
            .body
            .contains("vllm:num_requests_running{model_name=\"scripted\",engine=\"0\"} 1")
    });
    let start = Instant::now();
    for _ in 0..signals {
        let killed =
            Command::new("sh").args(["-c", "kill -TERM $0", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        // Signals of one kind that come at once are one.
        std::thread::sleep(Duration::from_millis(50));
    }
    let answer = request.join().unwrap();
    assert!(child.wait().unwrap().success(), "exit status 0");
    assert!(lines.any(|line| line.unwrap() == "ended in order"));
    (answer, start.elapsed())
}

#[test]
fn sigterm_lets_requests_in_flight_end() {
    let (answer, elapsed) = terminate(20_000, &json!({ "max_tokens": 200 }), 1);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = answer.json();
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 200);
    // Neither an idle connection nor a request that is half here delays the end.
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}

#[test]
fn sigterm_without_patience_ends_them_at_once() {
    let (answer, elapsed) = terminate(0, &json!({}), 1);
    expect_unavailable(&answer);
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}

#[test]
fn a_second_sigterm_ends_them_at_once() {
    let (answer, elapsed) = terminate(20_000, &json!({}), 2);
    expect_unavailable(&answer);
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}

/// What is cut is no answer: the client may ask another server.
#[track_caller]
fn expect_unavailable(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.json()["error"]["type"], "ServiceUnavailableError");
    assert_eq!(answer.message(), "the server is shutting down");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("connection"), Some("close"));
}

#[test]
fn sigterm_ends_a_stream_with_an_error() {
    let (answer, _) = terminate(0, &json!({ "stream": true }), 1);
    let chunks = answer.chunks();
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(last["error"]["code"], 503, "{last}");
    assert!(before.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
}
