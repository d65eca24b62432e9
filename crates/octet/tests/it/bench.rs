//! `octet bench serve` and `octet bench throughput` as a user types them, against servers that are well, ill, or gone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, Folder};
use crate::house;
use crate::program::{Server, copy_of_program, end_of, program, run, serve_shipped};

/// The results that a benchmark wrote.
fn results(path: &Path) -> Value {
    serde_json::from_str(&house::read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails with the names of fields that are missing or not as wanted.
#[track_caller]
fn expect_fields(json: &Value, names: &[&str], is_right: fn(&Value) -> bool) {
    let wrong: Vec<&&str> = names.iter().filter(|name| !is_right(&json[**name])).collect();
    assert!(wrong.is_empty(), "{wrong:?} are missing or wrong in {json:#}");
}

/// All that vLLM's `bench serve` writes of a run with these metrics.
#[track_caller]
fn expect_complete(json: &Value) {
    let strings = ["date", "endpoint_type", "backend", "model_id", "tokenizer_id", "request_rate"];
    expect_fields(json, &strings, Value::is_string);
    let numbers = [
        "num_prompts",
        "burstiness",
        "max_concurrency",
        "duration",
        "completed",
        "failed",
        "total_input_tokens",
        "total_output_tokens",
        "request_throughput",
        "request_goodput",
        "output_throughput",
        "total_token_throughput",
        "max_output_tokens_per_s",
        "max_concurrent_requests",
        "rtfx",
    ];
    expect_fields(json, &numbers, Value::is_number);
    for metric in ["ttft", "tpot", "itl", "e2el"] {
        let names = ["mean", "median", "std", "p50", "p99"].map(|name| format!("{name}_{metric}_ms"));
        expect_fields(json, &names.each_ref().map(String::as_str), |value| {
            value.as_f64().is_some_and(|milliseconds| milliseconds >= 0.0)
        });
    }
    let lists = [
        "input_lens",
        "output_lens",
        "ttfts",
        "itls",
        "latencies",
        "start_times",
        "generated_texts",
        "errors",
    ];
    expect_fields(json, &lists, Value::is_array);
}

#[test]
fn the_built_in_model_is_measured_by_ids_and_by_chats() {
    let folder = Folder::new();
    let program = copy_of_program(folder.path());
    let server = serve_shipped(&program, folder.path());
    let (url, path) = (server.url(), folder.path().join("deep/results.json"));
    let tokenizer = house::root().join("models/octet-mini");
    let common = [
        &["bench", "serve", "--base-url", &url, "--tokenizer", tokenizer.to_str().unwrap()][..],
        &[
            "--num-prompts",
            "6",
            "--random_input_len",
            "30",
            "--random-output-len=5",
            "--max-concurrency",
            "3",
        ],
        &["--num-warmups", "2", "--ready-check-timeout-sec", "30", "--goodput", "ttft:100000", "e2el:100000"],
        &[
            "--percentile-metrics",
            "ttft,tpot,itl,e2el",
            "--metric-percentiles",
            "50,99",
            "--temperature",
            "0",
        ],
        &["--save-result", "--save-detailed", "--result-dir", path.parent().unwrap().to_str().unwrap()],
        &["--result-filename", "results.json", "--metadata", "kind=test", "tp=1"],
    ]
    .concat();
    for backend in ["openai", "openai-chat"] {
        let ended = run(&[&common[..], &["--backend", backend]].concat());
        assert!(ended.status.success(), "{backend}: {}", ended.stderr);
        assert!(ended.stdout.contains(" Serving Benchmark Result "), "{}", ended.stdout);
        let json = results(&path);
        expect_complete(&json);
        assert_eq!(
            (&json["completed"], &json["failed"]),
            (&json!(6), &json!(0)),
            "{backend}: {}",
            ended.stderr
        );
        assert_eq!((&json["kind"], &json["request_rate"]), (&json!("test"), &json!("inf")));
        assert_eq!(json["output_lens"], json!([5, 5, 5, 5, 5, 5]), "{backend}");
        assert_eq!(json["request_goodput"], json["request_throughput"], "{backend}");
        let input_lens = json["input_lens"].as_array().unwrap();
        // Ids are exact; a chat's template adds to each message.
        let is_right =
            |length: &Value| (backend == "openai") == (*length == json!(30)) && length.as_u64() >= Some(30);
        assert!(input_lens.iter().all(is_right), "{backend}: {input_lens:?}");
        assert_eq!(json["octet"]["requests_counted_by_chunks"], 0, "{backend}");
    }
}

#[test]
fn prompts_of_text_are_exact_and_results_are_appended() {
    let folder = Checkpoint::llama().write();
    let server = Server::start(folder.path(), &[]);
    let directory = folder.path().join("results");
    let url = server.url();
    let flags = [
        &[
            "bench",
            "serve",
            "--base-url",
            &url,
            "--prompt-form",
            "text",
            "--append-result",
            "--save-detailed",
        ][..],
        &[
            "--dataset-name",
            "prefix_repetition",
            "--prefix-repetition-num-prefixes",
            "2",
            "--num-prompts",
            "4",
        ],
        &["--prefix-repetition-prefix-len", "40", "--prefix-repetition-suffix-len", "9", "--output-len", "3"],
        &["--ignore-eos", "--result-filename", "all.jsonl", "--request-rate", "200", "--burstiness", "2"],
        &["--result-dir", directory.to_str().unwrap()],
    ]
    .concat();
    for _ in 0..2 {
        let ended = run(&flags);
        assert!(ended.status.success(), "{}", ended.stderr);
        assert!(ended.stdout.contains("Request rate configured (RPS):           200.00"), "{}", ended.stdout);
    }
    let text = house::read(&directory.join("all.jsonl"));
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!(lines.len(), 2);
    for json in lines {
        assert_eq!(json["input_lens"], json!([49, 49, 49, 49]), "{json:#}");
        assert_eq!(json["total_output_tokens"], 12, "{json:#}");
    }
}

/// What an ill server answers to the `number`th request for a completion.
fn ill_answer(number: usize) -> String {
    if number % 2 == 1 {
        let body = json!({ "error": { "message": "out of luck" } }).to_string();
        let head =
            "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close";
        return format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
    let chunks =
        ["{\"choices\":[{\"text\":\"a\"}]}", "{\"choices\":[{\"text\":\"b\",\"finish_reason\":\"length\"}]}"];
    let events: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n: ping\n\n{events}data: [DONE]\n\n")
}

fn answer_illy(mut stream: TcpStream, requests: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    if head.starts_with("GET /v1/models") {
        let models = json!({ "data": [{ "id": "ill", "meta": { "n_vocab": 1000 } }] }).to_string();
        let length = models.len();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{models}"
        );
    }
    stream.write_all(ill_answer(requests.fetch_add(1, Ordering::SeqCst)).as_bytes())
}

/// Starts a server of which every second answer is an error, and which reports no usage; returns its URL.
fn ill_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let requests = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let requests = Arc::clone(&requests);
            // A client that goes away is its own affair.
            thread::spawn(move || answer_illy(stream, &requests));
        }
    });
    url
}

#[test]
fn half_of_the_requests_fail() {
    let folder = Folder::new();
    let url = ill_server();
    let directory = folder.path().to_str().unwrap();
    let ended = run(&[
        &["bench", "serve", "--base-url", &url, "--num-prompts", "8", "--random-input-len", "5"][..],
        &["--save-result", "--save-detailed", "--result-dir", directory, "--result-filename", "r.json"],
    ]
    .concat());
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("500 Internal Server Error: out of luck"), "{}", ended.stderr);
    assert!(ended.stdout.contains("Failed requests:                         4"), "{}", ended.stdout);
    assert!(ended.stdout.contains("counted by chunks"), "{}", ended.stdout);
    let json = results(&folder.path().join("r.json"));
    assert_eq!((&json["completed"], &json["failed"]), (&json!(4), &json!(4)));
    // What no usage says is counted: prompts as they were sent, outputs by chunks.
    assert_eq!((&json["total_input_tokens"], &json["total_output_tokens"]), (&json!(20), &json!(8)));
    let errors = json["errors"].as_array().unwrap();
    let failed =
        errors.iter().filter(|error| error.as_str().is_some_and(|error| error.contains("out of luck")));
    assert_eq!(failed.count(), 4, "{errors:?}");
}

#[test]
fn a_server_that_is_not_there() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let ended = run(&["bench", "serve", "--port", &port, "--num-prompts", "3"]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&port) && ended.stderr.contains("--base-url"), "{}", ended.stderr);
    let ended = run(&["bench", "serve", "--port", &port, "--num-prompts", "3", "--model", "any"]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.ends_with("octet: error: all 3 requests failed\n"), "{}", ended.stderr);
    assert!(ended.stdout.contains("Failed requests:                         3"), "{}", ended.stdout);
}

#[test]
fn throughput_is_measured_and_written() {
    let folder = Checkpoint::llama().write();
    let path = folder.path().join("results.json");
    let ended = run(&[
        &["bench", "throughput", "--model", folder.path().to_str().unwrap(), "--threads", "1"][..],
        &["--kv-cache-memory-bytes", "4M", "--backend", "vllm", "--dataset-name", "random"],
        &[
            "--input-len",
            "20",
            "--output-len",
            "6",
            "--prefix-len",
            "32",
            "--num-prompts",
            "10",
            "--n",
            "2",
            "--max-num-seqs",
            "4",
        ],
        &["--num-warmups", "2", "--output-json", path.to_str().unwrap()],
    ]
    .concat());
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("Throughput: "), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("Total num prompt tokens:  520\nTotal num output tokens:  120\n"),
        "{}",
        ended.stdout
    );
    let json = results(&path);
    assert_eq!((&json["num_requests"], &json["total_num_tokens"]), (&json!(10), &json!(640)));
    expect_fields(&json, &["elapsed_time", "requests_per_second", "tokens_per_second"], Value::is_number);
    assert_eq!(json["model_id"], json!(folder.path()));
    // The prefix that all share is found again.
    assert!(json["octet"]["cached_prompt_tokens"].as_u64().is_some_and(|tokens| tokens >= 32), "{json:#}");
}

#[test]
fn flags_that_cannot_be_honoured_say_why() {
    for (flags, words) in [
        (&["serve", "--lora-modules", "a", "b"][..], "one model is measured at a time"),
        (&["serve", "--profile"], "such as perf"),
        (&["serve", "--dataset-name", "sonnet"], "random, sharegpt and prefix_repetition"),
        (&["serve", "--percentile-metrics", "speed"], "ttft, tpot"),
        (&["serve", "--backend", "openai-chat", "--model", "m"], "need a tokenizer"),
        (&["serve", "--model", "m", "--endpoint", "/v1/embeddings"], "/v1/completions"),
        (&["serve", "--ramp-up-strategy", "linear"], "--ramp-up-start-rps"),
        (&["serve", "--request-rate", "0"], "above 0"),
        (&["throughput", "--async-engine"], "octet bench serve"),
        (&["throughput", "--backend", "hf"], "vllm"),
    ] {
        let ended = run(&[&["bench"], flags].concat());
        assert!(!ended.status.success(), "{flags:?} was taken");
        assert!(ended.stderr.contains(words), "{flags:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{flags:?}: {}", ended.stderr);
    }
}

/// An hour of load must not end with a file that could never be written.
#[test]
fn results_that_could_not_be_written_are_refused_first() {
    let folder = Checkpoint::llama().write();
    let model = folder.path().to_str().unwrap();
    let nowhere = folder.path().join("config.json/results.json");
    let nowhere = nowhere.to_str().unwrap();
    let below = folder.path().join("missing/results.json");
    for flags in [
        &["latency", "--model", model, "--output-json", nowhere][..],
        &["latency", "--model", model, "--output-json", model],
        &["throughput", "--model", model, "--output-json", below.to_str().unwrap()],
        &["serve", "--port", "9", "--save-result", "--result-dir", nowhere],
        &[
            "serve",
            "--port",
            "9",
            "--append-result",
            "--result-dir",
            model,
            "--result-filename",
            "no/such/file",
        ],
    ] {
        let ended = run(&[&["bench"], flags].concat());
        assert!(!ended.status.success(), "{flags:?}");
        let said = &ended.stderr;
        assert!(
            ["cannot be written", "could not be made"].iter().any(|it| said.contains(it)),
            "{flags:?}: {said}"
        );
        assert!(!said.contains("loaded in"), "{flags:?}: it was known too late: {said}");
    }
    let full = ["bench", "latency", "--model", model, "--threads", "1", "--kv-cache-memory-bytes", "4M"];
    let short = ["--input-len", "4", "--output-len", "2", "--num-iters", "1", "--num-iters-warmup", "0"];
    let ended = run(&[&full[..], &short, &["--output-json", "/dev/full"]].concat());
    assert!(!ended.status.success() && ended.stderr.contains("/dev/full"), "{}", ended.stderr);
    let mut command = program(&["devices"]);
    command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let ended = end_of(&mut command);
    assert!(!ended.status.success() && ended.stderr.contains("standard output"), "{}", ended.stderr);
}
