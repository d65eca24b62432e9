//! `/v1/chat/completions`.

use serde_json::{Value, json};

use crate::executor::TEXT;
use crate::server::{BOS, MAX_MODEL_LEN, Options, TestServer};

const PATH: &str = "/v1/chat/completions";

fn hello() -> Value {
    json!({ "model": "house/other-name", "temperature": 0, "max_tokens": 7,
            "messages": [{ "role": "user", "content": "Hi" }] })
}

fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("an object") };
    body.as_object_mut().unwrap().extend(more);
    body
}

/// The prompt that the engine got last.
fn prompt(server: &TestServer) -> String {
    let admitted = server.admitted.lock().unwrap();
    let (_, tokens) = admitted.last().unwrap();
    tokens.iter().map(|token| if *token == BOS { '^' } else { char::from_u32(*token).unwrap() }).collect()
}

#[test]
fn an_answer_has_openais_form() {
    let server = TestServer::start();
    let body = server.post(PATH, &hello()).json();
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "scripted");
    let choice = json!({
        "index": 0,
        "message": { "role": "assistant", "content": &TEXT[..7], "refusal": null, "annotations": null,
                     "audio": null, "function_call": null, "reasoning": null },
        "logprobs": null, "finish_reason": "length", "stop_reason": null, "token_ids": null
    });
    assert_eq!(body["choices"], json!([choice]));
    assert_eq!(body["usage"]["completion_tokens"], 7);
    assert_eq!(prompt(&server), "^[user]Hi[assistant]");
}

#[test]
fn a_stream_begins_with_the_role_and_ends_with_the_reason() {
    let server = TestServer::start();
    let body = with(hello(), json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let chunks = server.post(PATH, &body).chunks();
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(7)));
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(*deltas[0], json!({ "role": "assistant", "content": "" }));
    assert!(deltas[1..].iter().all(|delta| delta.get("role").is_none()));
    let text: String = deltas.iter().map(|delta| delta["content"].as_str().unwrap()).collect();
    assert_eq!(text, TEXT[..7]);
    assert_eq!(chunks[chunks.len() - 1]["choices"][0]["finish_reason"], "length");
}

#[test]
fn each_of_n_streams_has_its_role() {
    let server = TestServer::start();
    let body = with(hello(), json!({ "stream": true, "n": 3, "temperature": 1, "seed": 0, "max_tokens": 4 }));
    let chunks = server.post(PATH, &body).chunks();
    for index in 0..3 {
        let mine: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0])
            .filter(|choice| choice["index"] == index)
            .map(|choice| &choice["delta"])
            .collect();
        assert_eq!(mine.iter().filter(|delta| delta.get("role").is_some()).count(), 1);
        let text: String = mine.iter().map(|delta| delta["content"].as_str().unwrap()).collect();
        assert_eq!(text, TEXT[index..index + 4]);
    }
}

#[test]
fn logprobs_carry_bytes() {
    let server = TestServer::start();
    let body = with(hello(), json!({ "logprobs": true, "top_logprobs": 1, "max_tokens": 12 }));
    let logprobs = server.post(PATH, &body).json()["choices"][0]["logprobs"].clone();
    let content = logprobs["content"].as_array().unwrap();
    assert_eq!(content.len(), 12);
    let first = json!({ "token": "O", "logprob": -0.25, "bytes": [79],
                        "top_logprobs": [{ "token": "O", "logprob": -0.25, "bytes": [79] }] });
    assert_eq!(content[0], first);
    // The first byte of an é is no character, and still itself.
    assert_eq!((&content[11]["token"], &content[11]["bytes"]), (&json!("\u{fffd}"), &json!([0xC3])));
    let body = with(hello(), json!({ "logprobs": true, "stream": true }));
    let chunks = server.post(PATH, &body).chunks();
    assert_eq!(chunks[1]["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[test]
fn an_answer_may_fill_the_context() {
    let server = TestServer::start();
    let mut body = hello();
    body.as_object_mut().unwrap().remove("max_tokens");
    let usage = server.post(PATH, &body).json()["usage"].clone();
    assert_eq!(usage["total_tokens"], MAX_MODEL_LEN);
    let body = with(hello(), json!({ "max_completion_tokens": 3 }));
    assert_eq!(server.post(PATH, &body).json()["usage"]["completion_tokens"], 3);
}

#[test]
fn messages_are_rendered_with_what_the_request_adds() {
    let server = TestServer::start();
    let parts = json!([{ "role": "system", "content": "S" },
                       { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }]);
    let body = with(hello(), json!({ "messages": parts, "chat_template_kwargs": { "shout": "!!" } }));
    assert_eq!(server.post(PATH, &body).status, 200);
    assert_eq!(prompt(&server), "^[system]S[user]a\nb[assistant]!!");
    let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
    let body = with(hello(), json!({ "tools": tools, "tool_choice": "none" }));
    assert_eq!(server.post(PATH, &body).status, 200);
}

#[test]
fn a_final_message_is_continued_and_echoed() {
    let server = TestServer::start();
    let messages = json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Well, " }]);
    let body = with(hello(), json!({ "messages": messages, "continue_final_message": true, "echo": true }));
    let message = server.post(PATH, &body).json()["choices"][0]["message"].clone();
    assert_eq!(message["content"], format!("Well, {}", &TEXT[..7]));
    assert_eq!(prompt(&server), "^[user]Hi[assistant]Well, ");
    let chunks = server.post(PATH, &with(body, json!({ "stream": true }))).chunks();
    assert_eq!(chunks[1]["choices"][0]["delta"], json!({ "content": "Well, " }));
}

#[test]
fn a_request_brings_its_own_template_only_where_that_is_allowed() {
    let body = with(hello(), json!({ "chat_template": "{{ messages[0]['content'] }}?" }));
    let strict = TestServer::start();
    let answer = strict.post(PATH, &body);
    assert_eq!(answer.status, 400);
    assert!(answer.message().contains("--trust-request-chat-template"), "{}", answer.body);
    let mut options = Options::default();
    options.server.trust_request_chat_template = true;
    let server = TestServer::with(options);
    assert_eq!(server.post(PATH, &body).status, 200);
    assert_eq!(prompt(&server), "Hi?");
    let answer = server.post(PATH, &with(body, json!({ "chat_template": "{% if %}" })));
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[test]
fn without_a_template_the_remedy_is_named() {
    let server = TestServer::with(Options { with_template: false, ..Options::default() });
    let answer = server.post(PATH, &hello());
    assert_eq!(answer.status, 400);
    assert!(answer.message().contains("--chat-template"), "{}", answer.body);
}

#[test]
fn default_variables_of_the_template_are_below_the_requests() {
    let mut options = Options::default();
    options.server.default_chat_template_kwargs = json!({ "shout": "!" }).as_object().unwrap().clone();
    let server = TestServer::with(options);
    assert_eq!(server.post(PATH, &hello()).status, 200);
    assert_eq!(prompt(&server), "^[user]Hi[assistant]!");
    let body = with(hello(), json!({ "chat_template_kwargs": { "shout": "?" } }));
    assert_eq!(server.post(PATH, &body).status, 200);
    assert_eq!(prompt(&server), "^[user]Hi[assistant]?");
}

#[test]
fn the_developers_message_becomes_the_systems() {
    let server = TestServer::start();
    let messages =
        json!([{ "role": "developer", "content": "Be brief." }, { "role": "user", "content": "Hi" }]);
    assert_eq!(server.post(PATH, &with(hello(), json!({ "messages": messages }))).status, 200);
    assert_eq!(prompt(&server), "^[system]Be brief.[user]Hi[assistant]");
}

#[test]
fn a_requests_template_that_does_not_end_is_its_own_fault() {
    let mut options = Options::default();
    options.server.trust_request_chat_template = true;
    let server = TestServer::with(options);
    let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{{ b }}{% endfor %}{% endfor %}";
    for template in [endless.to_owned(), format!("{{{{ {}1 }}}}", "not ".repeat(50_000)), "x".repeat(1 << 20)]
    {
        let answer = server.post(PATH, &with(hello(), json!({ "chat_template": template })));
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!("chat_template")),
            "{}",
            answer.body
        );
    }
    assert_eq!(server.post(PATH, &hello()).status, 200);
}

#[test]
fn tokens_that_the_model_does_not_embed_are_refused_in_prompts() {
    // The tokenizer's last token is <pad>.
    let options = Options { embedded_tokens: crate::server::VOCABULARY_SIZE - 1, ..Options::default() };
    let server = TestServer::with(options);
    assert_eq!(server.post(PATH, &hello()).status, 200);
    let messages = json!([{ "role": "user", "content": "a<pad>" }]);
    let chat = server.post(PATH, &with(hello(), json!({ "messages": messages })));
    let text = server.post("/v1/completions", &json!({ "prompt": "a<pad>", "max_tokens": 1 }));
    let ids = server.post("/v1/completions", &json!({ "prompt": [97, 258], "max_tokens": 1 }));
    for (answer, param) in [(chat, "messages"), (text, "prompt"), (ids, "prompt")] {
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!(param)),
            "{}",
            answer.body
        );
        assert!(answer.message().contains("258"), "{}", answer.body);
    }
    let bad_words = json!({ "prompt": "a", "max_tokens": 1, "bad_words": ["<pad>"] });
    assert_eq!(server.post("/v1/completions", &bad_words).status, 200);
}
