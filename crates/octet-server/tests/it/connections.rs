//! Connections: what a client may do to its own, and that it cannot take those of others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use octet_engine::EngineConfig;
use octet_server::{ConnectionLimits, ListenAddress};
use serde_json::{Value, json};

use crate::client::read_head;
use crate::executor::{Admitted, Scripted};
use crate::server::{MAX_MODEL_LEN, Options, TestServer, launch, wait_for};

const PATH: &str = "/v1/completions";

/// A server with small limits, whose steps take 5 ms.
fn limited(change: impl FnOnce(&mut ConnectionLimits)) -> Options {
    let mut options = Options { step_time: Duration::from_millis(5), ..Options::default() };
    change(&mut options.server.connections);
    options
}

fn long() -> Value {
    json!({ "prompt": "Hi", "temperature": 0, "max_tokens": 500, "ignore_eos": true })
}

fn connect(server: &TestServer) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn post(body: &Value, version: &str) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {PATH} HTTP/{version}\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n\
         {body}"
    )
}

/// Sends bytes on a connection of its own and reads until the server closes it.
fn exchange(server: &TestServer, bytes: &[u8]) -> String {
    let mut stream = connect(server);
    // The server may answer and close before it has read all.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn idle_connections_make_room() {
    let server = TestServer::with(limited(|limits| limits.max_connections = 4));
    let idle: Vec<TcpStream> = (0..12).map(|_| connect(&server)).collect();
    assert_eq!(server.get("/health").status, 200);
    // The first to come was the first to go.
    let mut byte = [0];
    assert_eq!((&idle[0]).read(&mut byte).unwrap(), 0);
}

#[test]
fn where_all_are_busy_the_newcomer_is_told() {
    let server = TestServer::with(limited(|limits| limits.max_connections = 2));
    let headers = [("content-type", "application/json")];
    let body = long().to_string();
    let busy: Vec<_> =
        (0..2).map(|_| server.client().send("POST", PATH, &headers, Some(body.as_bytes()))).collect();
    wait_for("two running sequences", || server.engine.stats().running == 2);
    let refused = server.get("/health");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.message().contains("no room for another connection"));
    drop(busy);
    wait_for("room", || server.get("/health").status == 200);
}

#[test]
fn a_slow_head_and_an_idle_connection_are_closed() {
    let server = TestServer::with(limited(|limits| {
        limits.head = Duration::from_millis(100);
        limits.keep_alive = Duration::from_millis(300);
    }));
    let answer = exchange(&server, b"GET /health HTTP/1.1\r\nHost: test\r\nX-Slow: ");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(exchange(&server, b""), "");
    let answer = exchange(&server, b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_slow_body_is_408() {
    let server = TestServer::with(limited(|limits| limits.body = Duration::from_millis(100)));
    let whole = post(&long(), "1.1");
    let answer = exchange(&server, &whole.as_bytes()[..whole.len() - 10]);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("came too slowly"), "{answer}");
}

#[test]
fn a_client_that_sends_no_more_gets_its_answer() {
    let server = TestServer::with(limited(|_| {}));
    let mut body = long();
    for (stream, tokens) in [(false, 150), (true, 150), (false, 1)] {
        body["stream"] = json!(stream);
        body["max_tokens"] = json!(tokens);
        let mut connection = connect(&server);
        connection.write_all(post(&body, "1.1").as_bytes()).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut reader = BufReader::new(connection);
        let mut status = read_head(&mut reader).0;
        if status == 100 {
            status = read_head(&mut reader).0;
        }
        assert_eq!(status, 200, "stream: {stream}");
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.contains(r#""finish_reason":"length""#), "{rest}");
    }
}

#[test]
fn a_client_that_hangs_up_is_noticed_whatever_it_has_sent() {
    let server = TestServer::with(limited(|_| {}));
    let behind = "GET /health HTTP/1.1\r\nHost: test\r\n\r\n".repeat(2000);
    for (version, behind) in [("1.1", ""), ("1.1", behind.as_str()), ("1.0", "")] {
        let before = server.engine.stats().generation_tokens;
        let mut connection = connect(&server);
        connection.write_all(post(&long(), version).as_bytes()).unwrap();
        connection.write_all(behind.as_bytes()).unwrap();
        wait_for("a running sequence", || server.engine.stats().running == 1);
        drop(connection);
        server.wait_until_idle();
        assert!(server.engine.stats().generation_tokens < before + 500, "HTTP/{version}, {}", behind.len());
    }
}

#[test]
fn a_stream_that_nobody_reads_is_closed_in_time() {
    let mut options = limited(|limits| limits.write = Duration::from_millis(300));
    options.step_time = Duration::ZERO;
    options.engine = EngineConfig::new(1025, 16, MAX_MODEL_LEN);
    let server = TestServer::with(options);
    let mut body = long();
    (body["stream"], body["n"], body["logprobs"], body["temperature"]) =
        (json!(true), json!(24), json!(20), json!(1));
    let mut connection = connect(&server);
    // Room for little, so that what is not read soon waits with the server.
    rustix::net::sockopt::set_socket_recv_buffer_size(&connection, 4096).unwrap();
    connection.write_all(post(&body, "1.1").as_bytes()).unwrap();
    server.wait_until_idle();
    wait_for("a closed connection", || {
        let text = server.get("/metrics").body;
        text.lines().any(|line| line.contains(r#"finished_reason="abort"}"#) && !line.ends_with(" 0"))
    });
}

#[test]
fn a_silent_stream_shows_that_it_lives() {
    let mut options = limited(|limits| limits.heartbeat = Duration::from_millis(20));
    options.step_time = Duration::from_millis(200);
    let server = TestServer::with(options);
    let mut body = long();
    (body["stream"], body["max_tokens"]) = (json!(true), json!(2));
    let answer = server.post(PATH, &body);
    let events: Vec<&str> = answer.body.trim_end().split("\n\n").collect();
    assert_eq!(events[0], ": keep-alive", "{}", answer.body);
    let data: Vec<&&str> = events.iter().filter(|event| **event != ": keep-alive").collect();
    assert!(data.iter().all(|event| event.starts_with("data: ")), "{}", answer.body);
    assert_eq!(*data[data.len() - 1], "data: [DONE]");
}

#[test]
fn absurd_heads_are_refused() {
    let server = TestServer::start();
    let fields = "X-Field: 1\r\n".repeat(300);
    let long_field = format!("X-Long: {}\r\n", "x".repeat(1 << 20));
    for (head, status) in [
        (format!("GET /health HTTP/1.1\r\nHost: test\r\n{fields}\r\n"), 431),
        (format!("GET /health HTTP/1.1\r\nHost: test\r\n{long_field}\r\n"), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(70_000)), 414),
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET /health HTTP/1.1\r\nHost: test\r\nContent-Length: x\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}\u{2}".to_owned() + &"\0".repeat(600), 400),
    ] {
        let answer = exchange(&server, head.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{}: {answer}",
            &head[..20.min(head.len())]
        );
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn the_forms_of_http_1() {
    let server = TestServer::start();
    let body = json!({ "prompt": "Hi", "max_tokens": 2, "temperature": 0 });
    let answer = exchange(&server, post(&body, "1.0").as_bytes());
    assert!(
        answer.starts_with("HTTP/1.0 200 ") && answer.contains(r#""finish_reason":"length""#),
        "{answer}"
    );
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let answer = exchange(&server, post(&streamed, "1.0").as_bytes());
    assert!(answer.ends_with("data: [DONE]\n\n") && !answer.contains("chunked"), "{answer}");
    // Two at once, in order.
    let two = "GET /version HTTP/1.1\r\nHost: test\r\n\r\nGET /ping HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    let answer = exchange(&server, two.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    let answer = exchange(&server, b"HEAD /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    let text = body.to_string();
    let chunked = format!(
        "POST {PATH} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        &text[..5],
        text.len() - 5,
        &text[5..]
    );
    assert!(exchange(&server, chunked.as_bytes()).starts_with("HTTP/1.1 200 "));
    // Whoever asks first is told to go on.
    let mut connection = connect(&server);
    let whole = post(&body, "1.1").replacen("Host: test", "Host: test\r\nExpect: 100-continue", 1);
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    connection.write_all(format!("{head}\r\n\r\n").as_bytes()).unwrap();
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    assert_eq!(read_head(&mut reader).0, 100);
    connection.write_all(body.as_bytes()).unwrap();
    assert_eq!(read_head(&mut reader).0, 200);
}

#[test]
fn what_clients_make_up_does_not_grow_the_metrics() {
    let server = TestServer::start();
    let many = |name: &str| {
        (0..200)
            .map(|number| format!("{name}{number} /health HTTP/1.1\r\nHost: test\r\n\r\n"))
            .collect::<String>()
            + &(0..200)
                .map(|number| format!("GET /{name}{number} HTTP/1.1\r\nHost: test\r\n\r\n"))
                .collect::<String>()
            + "GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    };
    let lines = || server.get("/metrics").body.lines().count();
    // A scrape is a request too: its own labels come with the first.
    lines();
    let answer = exchange(&server, many("FIRST").as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 405 ").count(), 200);
    let before = lines();
    exchange(&server, many("SECOND").as_bytes());
    assert_eq!(lines(), before);
    let text = server.get("/metrics").body;
    assert!(
        !text.contains("FIRST") && text.contains(r#"handler="/health",method="other",status="4xx"} 400"#),
        "{text}"
    );
}

#[test]
fn a_root_path_is_optional_and_opens_no_hole() {
    let mut options = Options::default();
    options.server.root_path = "/llm/".to_owned();
    options.server.api_keys = octet_server::ApiKeyList(vec!["k".to_owned()]);
    let server = TestServer::with(options);
    for prefix in ["", "/llm"] {
        assert_eq!(server.get(&format!("{prefix}/health")).status, 200);
        assert_eq!(server.get(&format!("{prefix}/v1/models")).status, 401);
        let with_key = [("authorization", "Bearer k")];
        let answer = server.client().request("GET", &format!("{prefix}/v1/models"), &with_key, None);
        assert_eq!(answer.status, 200);
        assert_eq!(server.get(&format!("{prefix}/nothing")).status, 404);
    }
}

#[test]
fn a_server_at_a_path() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("s{}", std::process::id()));
    let mut options = Options::default();
    options.server.unix_socket = Some(path.clone());
    let (ready, is_ready) = mpsc::channel();
    let executor = Scripted::new(Duration::ZERO, Admitted::default());
    let running = launch(options, executor, move |address| ready.send(address.clone()).unwrap());
    let address = is_ready.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(address, ListenAddress::Unix(path.clone()));
    let mut connection = UnixStream::connect(&path).unwrap();
    connection.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    running.engine.shutdown(Duration::ZERO);
    running.thread.join().unwrap().unwrap();
    assert!(!path.exists(), "the socket's file is removed");
}
