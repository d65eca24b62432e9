//! The small endpoints, keys, CORS and metrics.

use serde_json::json;

use crate::server::{BOS, MAX_MODEL_LEN, Options, TestServer};

#[test]
fn models() {
    let server = TestServer::start();
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["scripted", "house/other-name"]);
    let card = &list["data"][0];
    assert_eq!((&card["root"], &card["max_model_len"]), (&json!("/models/scripted"), &json!(MAX_MODEL_LEN)));
    assert_eq!(card["permission"][0]["object"], "model_permission");
    assert_eq!(server.get("/v1/models/house/other-name").json()["id"], "house/other-name");
    assert_eq!(server.get("/v1/models/unknown").status, 404);
}

#[test]
fn tokenize_and_detokenize() {
    let server = TestServer::start();
    let tokens = server.post("/tokenize", &json!({ "prompt": "Hé", "return_token_strs": true })).json();
    let expected = json!({
        "count": 4, "max_model_len": MAX_MODEL_LEN, "tokens": [BOS, 72, 0xC3, 0xA9],
        "token_strs": ["<s>", "H", "Ã", "©"]
    });
    assert_eq!(tokens, expected);
    let bare = server.post("/tokenize", &json!({ "prompt": "H", "add_special_tokens": false })).json();
    assert_eq!((&bare["tokens"], &bare["token_strs"]), (&json!([72]), &serde_json::Value::Null));
    let chat = json!({ "messages": [{ "role": "user", "content": "H" }], "add_generation_prompt": false });
    assert_eq!(server.post("/tokenize", &chat).json()["count"], 1 + "[user]H".len());
    let text = server.post("/detokenize", &json!({ "tokens": [BOS, 72, 0xC3, 0xA9] })).json();
    assert_eq!(text, json!({ "prompt": "<s>Hé" }));
    for body in [json!({ "tokens": [-1] }), json!({ "tokens": [9999] }), json!({})] {
        assert_eq!(server.post("/detokenize", &body).status, 400, "{body}");
    }
    for body in [json!({}), json!({ "prompt": "a", "messages": [] })] {
        assert_eq!(server.post("/tokenize", &body).status, 400, "{body}");
    }
}

#[test]
fn health_version_load_and_the_front_page() {
    let server = TestServer::start();
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/ping").status, 200);
    assert_eq!(server.client().request("POST", "/ping", &[], Some(b"")).status, 200);
    assert_eq!(server.get("/version").json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(server.get("/load").json()["server_load"], 0);
    assert!(server.get("/").body.contains("/v1/chat/completions"));
    assert_eq!(server.get("/nothing").status, 404);
    let wrong = server.get("/v1/completions");
    assert_eq!((wrong.status, wrong.json()["error"]["code"].as_u64()), (405, Some(405)));
}

#[test]
fn keys_guard_the_api_and_nothing_else() {
    let mut options = Options::default();
    options.server.api_keys.0 = vec!["first".to_owned(), "second".to_owned()];
    let server = TestServer::with(options);
    let get =
        |key: &str| server.client().request("GET", "/v1/models", &[("authorization", key)], None).status;
    assert_eq!((get("Bearer first"), get("Bearer second"), get("Bearer third")), (200, 200, 401));
    let refused = server.get("/v1/models");
    assert_eq!((refused.status, refused.body.as_str()), (401, r#"{"error":"Unauthorized"}"#));
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/metrics").status, 200);
    assert_eq!(server.post("/tokenize", &json!({ "prompt": "a" })).status, 200);
    let preflight = [("origin", "https://a.example"), ("access-control-request-method", "POST")];
    assert_eq!(server.client().request("OPTIONS", "/v1/completions", &preflight, None).status, 200);
}

#[test]
fn pages_of_other_origins() {
    let mut options = Options::default();
    options.server.cors.allowed_origins = vec!["https://a.example".to_owned()];
    options.server.cors.allow_credentials = true;
    let server = TestServer::with(options);
    let allowed = |origin: &str| {
        let answer = server.client().request("GET", "/health", &[("origin", origin)], None);
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(allowed("https://a.example").as_deref(), Some("https://a.example"));
    assert_eq!(allowed("https://b.example"), None);
}

/// The value of a metric, labels as they are printed.
fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
}

#[test]
fn metrics_count_exactly() {
    let mut options = Options::default();
    options.server.cache_config = vec![("cache_dtype".to_owned(), "auto".to_owned())];
    let server = TestServer::with(options);
    for _ in 0..10 {
        let body = json!({ "prompt": "Hi", "max_tokens": 5, "temperature": 0 });
        assert_eq!(server.post("/v1/completions", &body).status, 200);
    }
    let ended = json!({ "prompt": "Hi!", "max_tokens": 50, "temperature": 0 });
    assert_eq!(server.post("/v1/completions", &ended).status, 200);
    server.wait_until_idle();
    let text = server.get("/metrics").body;
    let labels = r#"model_name="scripted",engine="0""#;
    let value = |name: &str, more: &str| metric(&text, &format!("{name}{{{labels}{more}}}"));
    assert_eq!(value("vllm:num_requests_running", ""), 0.0);
    assert_eq!(value("vllm:num_requests_waiting", ""), 0.0);
    assert_eq!(value("vllm:prompt_tokens_total", ""), 34.0);
    assert_eq!(value("vllm:generation_tokens_total", ""), 56.0);
    assert_eq!(value("vllm:request_success_total", r#",finished_reason="length""#), 10.0);
    assert_eq!(value("vllm:request_success_total", r#",finished_reason="stop""#), 1.0);
    assert_eq!(value("vllm:request_success_total", r#",finished_reason="abort""#), 0.0);
    let histograms = [
        ("vllm:time_to_first_token_seconds", 11.0),
        ("vllm:inter_token_latency_seconds", 45.0),
        ("vllm:time_per_output_token_seconds", 45.0),
        ("vllm:request_time_per_output_token_seconds", 11.0),
        ("vllm:e2e_request_latency_seconds", 11.0),
        ("vllm:request_queue_time_seconds", 11.0),
        ("vllm:request_inference_time_seconds", 11.0),
        ("vllm:request_prefill_time_seconds", 11.0),
        ("vllm:request_decode_time_seconds", 11.0),
        ("vllm:request_prompt_tokens", 11.0),
        ("vllm:request_generation_tokens", 11.0),
        ("vllm:request_params_n", 11.0),
        ("vllm:request_params_max_tokens", 11.0),
        ("vllm:request_prefill_kv_computed_tokens", 11.0),
    ];
    for (name, count) in histograms {
        assert_eq!(value(&format!("{name}_count"), ""), count, "{name}");
    }
    assert_eq!(value("vllm:request_prompt_tokens_sum", ""), 34.0);
    assert!(value("vllm:iteration_tokens_total_count", "") >= 50.0);
    let config = text.lines().find(|line| line.starts_with("vllm:cache_config_info{")).unwrap();
    for label in [r#"cache_dtype="auto""#, r#"block_size="16""#, r#"num_gpu_blocks="256""#] {
        assert!(config.contains(label), "{config}");
    }
    assert!(config.ends_with("} 1"), "{config}");
    let http = r#"http_requests_total{handler="/v1/completions",method="POST",status="2xx"}"#;
    assert_eq!(metric(&text, http), 11.0);
}

#[test]
fn metrics_come_in_both_formats() {
    let server = TestServer::start();
    let plain = server.get("/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(plain.body.contains("# TYPE vllm:num_preemptions_total counter\n"), "{}", plain.body);
    assert!(!plain.body.contains("# EOF"));
    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let open = server.client().request("GET", "/metrics", &accept, None);
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(open.body.contains("# TYPE vllm:num_preemptions counter\n"));
    assert!(open.body.ends_with("# EOF\n"));
}
