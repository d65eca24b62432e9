//! Bad input: each gets its status, its parameter and words that help, and the server goes on.

use serde_json::{Value, json};

use crate::server::{Options, TestServer};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// Sends `{base} + {more}` and checks status, type, param and a part of the message.
fn check(server: &TestServer, path: &str, more: Value, expected: (u16, &str, &str)) {
    let mut body = if path == CHAT {
        json!({ "messages": [{ "role": "user", "content": "Hi" }] })
    } else {
        json!({ "prompt": "Hi" })
    };
    let Value::Object(more) = more else { panic!("an object") };
    body.as_object_mut().unwrap().extend(more);
    let (status, param, message) = expected;
    let answer = server.post(path, &body);
    assert_eq!(answer.status, status, "{body}: {}", answer.body);
    let error = answer.json()["error"].clone();
    assert_eq!(error["code"], status, "{body}");
    assert_eq!(error["param"], param, "{body}: {}", answer.body);
    assert!(answer.message().contains(message), "{body}: {}", answer.message());
}

#[test]
fn values_out_of_range_name_field_value_and_range() {
    let server = TestServer::start();
    let table = [
        (json!({ "temperature": -0.1 }), "temperature", "temperature must be between 0 and 2, got -0.1"),
        (json!({ "temperature": 2.5 }), "temperature", "between 0 and 2, got 2.5"),
        (json!({ "top_p": 0 }), "top_p", "top_p must be above 0 and at most 1, got 0"),
        (json!({ "top_p": 1.1 }), "top_p", "got 1.1"),
        (json!({ "top_k": -2 }), "top_k", "got -2"),
        (json!({ "min_p": 1.5 }), "min_p", "between 0 and 1, got 1.5"),
        (json!({ "repetition_penalty": 0 }), "repetition_penalty", "between 0.00001 and 100000, got 0"),
        (json!({ "repetition_penalty": 1e300 }), "repetition_penalty", "between 0.00001 and 100000"),
        (json!({ "presence_penalty": 2.1 }), "presence_penalty", "between -2 and 2, got 2.1"),
        (json!({ "frequency_penalty": -3 }), "frequency_penalty", "got -3"),
        (json!({ "n": 0 }), "n", "between 1 and 512, got 0"),
        (json!({ "n": 100_000 }), "n", "got 100000"),
        (json!({ "n": 2, "temperature": 0 }), "n", "n must be 1 when temperature is 0"),
        (json!({ "best_of": 1, "n": 2 }), "best_of", "at least n (2)"),
        (json!({ "best_of": 3, "n": 2 }), "best_of", "not supported"),
        (json!({ "max_tokens": -1 }), "max_tokens", "at least 1"),
        (json!({ "max_tokens": 0 }), "max_tokens", "at least 1"),
        (json!({ "min_tokens": -1 }), "min_tokens", "got -1"),
        (json!({ "min_tokens": 20, "max_tokens": 10 }), "min_tokens", "at most max_tokens (10), got 20"),
        (json!({ "prompt_logprobs": 21 }), "prompt_logprobs", "between 0 and 20 (--max-logprobs), got 21"),
        (json!({ "stop": "" }), "stop", "empty string"),
        (json!({ "stop": ["a", ""] }), "stop", "empty string"),
        (json!({ "stop": ["a".repeat(65_000), "b".repeat(65_000)] }), "stop", "at most 65536 bytes of text"),
        (json!({ "bad_words": ["a".repeat(70_000)] }), "bad_words", "at most 65536 bytes of text, got 70000"),
        (json!({ "stop": vec!["a"; 1025] }), "stop", "at most 1024 strings, got 1025"),
        (json!({ "cache_salt": "a".repeat(1025) }), "cache_salt", "at most 1024 bytes, got 1025"),
        (json!({ "bad_words": [" "] }), "bad_words", "empty string"),
        (json!({ "bad_words": ["x".repeat(1001)] }), "bad_words", "at most 1000 bytes, got one of 1001"),
        (json!({ "stop_token_ids": [259] }), "stop_token_ids", "ids of this model go from 0 to 258"),
        (json!({ "allowed_token_ids": [] }), "allowed_token_ids", "must not be empty"),
        (json!({ "allowed_token_ids": [-1] }), "allowed_token_ids", "token id -1"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias", "the key \"x\"; keys must be token ids"),
        (json!({ "logit_bias": { "259": 1 } }), "logit_bias", "token id 259"),
        (json!({ "truncate_prompt_tokens": 0 }), "truncate_prompt_tokens", "got 0"),
        (json!({ "truncate_prompt_tokens": 513 }), "truncate_prompt_tokens", "512 tokens"),
        (json!({ "stream_options": {} }), "stream_options", "only be given when stream is true"),
        (json!({ "stream": true, "prompt_logprobs": 1 }), "prompt_logprobs", "not available when stream"),
        (json!({ "priority": 1 }), "priority", "--scheduling-policy priority"),
        (json!({ "cache_salt": "" }), "cache_salt", "must not be empty"),
        (json!({ "response_format": { "type": "json_object" } }), "response_format", "not supported"),
        (json!({ "response_format": "text" }), "response_format", "must be an object"),
        (json!({ "structured_outputs": { "json": {} } }), "structured_outputs", "not supported"),
        (json!({ "guided_choice": ["a"] }), "guided_choice", "not supported"),
        (json!({ "use_beam_search": true }), "use_beam_search", "not supported"),
        (json!({ "logprob_token_ids": [1] }), "logprob_token_ids", "not supported"),
    ];
    for (more, param, message) in &table {
        for path in [COMPLETIONS, CHAT] {
            check(&server, path, more.clone(), (400, param, message));
        }
    }
    assert_eq!(server.engine.stats().prompt_tokens, 0, "none of them reached the engine");
}

#[test]
fn fields_of_one_endpoint() {
    let server = TestServer::start();
    let completions = [
        (json!({ "logprobs": 21 }), "logprobs", "between 0 and 20"),
        (json!({ "logprobs": -1 }), "logprobs", "got -1"),
        (json!({ "prompt": "" }), "prompt", "must not be empty"),
        (json!({ "prompt": [] }), "prompt", "must not be empty"),
        (json!({ "prompt": [[1], []] }), "prompt", "must not be empty"),
        (json!({ "prompt": null }), "prompt", "prompt is missing"),
        (json!({ "prompt": [-1] }), "prompt", "token id -1; ids of this model go from 0 to 258"),
        (json!({ "prompt": [259] }), "prompt", "token id 259"),
        (json!({ "prompt": ["a", "b"], "n": 500 }), "prompt", "1000 sequences"),
        (json!({ "suffix": "x" }), "suffix", "not supported"),
        (json!({ "prompt_embeds": "AAAA" }), "prompt_embeds", "not supported"),
    ];
    for (more, param, message) in &completions {
        check(&server, COMPLETIONS, more.clone(), (400, param, message));
    }
    let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
    let chat = [
        (json!({ "messages": [] }), "messages", "at least one message"),
        (json!({ "messages": null }), "messages", "at least one message"),
        (json!({ "messages": [{ "content": "x" }] }), "messages", "messages[0].role is missing"),
        (json!({ "top_logprobs": 2 }), "top_logprobs", "when logprobs is true"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs", "got 21"),
        (json!({ "max_completion_tokens": 0 }), "max_completion_tokens", "at least 1"),
        (json!({ "tools": [] }), "tools", "must not be an empty array"),
        (json!({ "tools": tools }), "tool_choice", "does not parse tool calls"),
        (json!({ "tools": tools, "tool_choice": "required" }), "tool_choice", "does not parse tool calls"),
        (json!({ "tool_choice": "auto" }), "tool_choice", "together with tools"),
        (json!({ "functions": [{ "name": "f" }] }), "functions", "replaced by tools"),
        (
            json!({ "continue_final_message": true, "add_generation_prompt": true }),
            "continue_final_message",
            "must not both be true",
        ),
    ];
    for (more, param, message) in &chat {
        check(&server, CHAT, more.clone(), (400, param, message));
    }
}

#[test]
fn wrong_types_are_named_with_their_place() {
    let server = TestServer::start();
    let table = [
        (
            COMPLETIONS,
            json!({ "temperature": "hot" }),
            "body.temperature",
            "string \"hot\", expected a number",
        ),
        (COMPLETIONS, json!({ "max_tokens": [1] }), "body.max_tokens", "expected an integer"),
        (COMPLETIONS, json!({ "prompt": 3 }), "body.prompt", "expected a string, an array of strings"),
        (COMPLETIONS, json!({ "stream": "perhaps" }), "body.stream", "expected a boolean"),
        (COMPLETIONS, json!({ "logit_bias": { "65": "x" } }), "body.logit_bias.65", "expected a number"),
        (COMPLETIONS, json!({ "truncation_side": "up" }), "body.truncation_side", "unknown variant `up`"),
        (CHAT, json!({ "messages": [{ "role": "user" }, 3] }), "body.messages[1]", "expected"),
        (CHAT, json!({ "messages": "Hi" }), "body.messages", "expected"),
        (CHAT, json!({ "tools": [1] }), "body.tools[0]", "expected"),
        ("/tokenize", json!({ "prompt": 3 }), "body.prompt", "expected a string"),
        ("/detokenize", json!({ "tokens": ["a"] }), "body.tokens[0]", "expected an integer"),
    ];
    for (path, more, param, message) in table {
        check(&server, path, more, (400, param, message));
    }
}

#[test]
fn bodies_that_are_no_json() {
    let server = TestServer::start();
    let client = server.client();
    let table: [(&[u8], &str); 5] = [
        (b"", "not valid JSON: EOF"),
        (b"{\"prompt\": \"Hi\"", "line 1 column"),
        (b"{\"prompt\": \"Hi\",\n \"temperature\": NaN}", "line 2 column"),
        (b"[1, 2]", "expected an object"),
        (b"{\"prompt\": \"\xff\"}", "not valid UTF-8: byte 12"),
    ];
    for path in [COMPLETIONS, CHAT, "/tokenize", "/detokenize"] {
        for (body, message) in table {
            let answer = client.post(path, body);
            assert_eq!(answer.status, 400, "{path}: {}", answer.body);
            assert!(answer.message().contains(message), "{path}: {}", answer.message());
        }
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            let headers: Vec<(&str, &str)> = kind.iter().map(|kind| ("content-type", *kind)).collect();
            let answer = client.request("POST", path, &headers, Some(b"{}"));
            assert_eq!(answer.status, 400, "{}", answer.body);
            assert!(answer.message().contains("unsupported media type"), "{}", answer.body);
        }
    }
    // A body without a declared length, too.
    let chunked = [("content-type", "application/json"), ("transfer-encoding", "chunked")];
    let mut reader = client.send("POST", COMPLETIONS, &chunked, None);
    std::io::Write::write_all(reader.get_mut(), b"3\r\n{\"p\r\n0\r\n\r\n").unwrap();
    assert_eq!(crate::client::read_head(&mut reader).0, 400);
}

#[test]
fn a_body_that_is_too_large() {
    let mut options = Options::default();
    options.server.limits.max_body_bytes = 1000;
    let server = TestServer::with(options);
    let body = json!({ "prompt": "x".repeat(2000) });
    let answer = server.post(COMPLETIONS, &body);
    assert_eq!(answer.status, 413);
    assert_eq!(answer.message(), "the request body is larger than the limit of 1000 bytes");
    let chunked = [("content-type", "application/json"), ("transfer-encoding", "chunked")];
    let mut reader = server.client().send("POST", COMPLETIONS, &chunked, None);
    let chunk = format!("7d0\r\n{}\r\n", "x".repeat(2000));
    std::io::Write::write_all(reader.get_mut(), chunk.as_bytes()).unwrap();
    assert_eq!(crate::client::read_head(&mut reader).0, 413);
    assert_eq!(server.post(COMPLETIONS, &json!({ "prompt": "x" })).status, 200);
}

#[test]
fn prompts_that_do_not_fit() {
    let server = TestServer::start();
    let phrase = "This model's maximum context length is 512 tokens.";
    check(&server, COMPLETIONS, json!({ "prompt": "x".repeat(511) }), (400, "input_tokens", phrase));
    check(&server, COMPLETIONS, json!({ "prompt": "x".repeat(100_000) }), (400, "input_text", phrase));
    check(&server, COMPLETIONS, json!({ "prompt": vec![65; 512] }), (400, "input_tokens", phrase));
    let long = json!({ "messages": [{ "role": "user", "content": "x".repeat(600) }] });
    check(&server, CHAT, long, (400, "input_tokens", phrase));
    let much = json!({ "max_tokens": 510 });
    let message = "you requested 510 output tokens and your prompt has 3 tokens, 513 in total";
    check(&server, COMPLETIONS, much, (400, "max_tokens", message));
    // A cache that is smaller than the model's length: only the engine knows.
    let engine = octet_engine::EngineConfig::new(5, 16, crate::server::MAX_MODEL_LEN);
    let small = TestServer::with(Options { engine, ..Options::default() });
    let prompt = json!({ "prompt": "x".repeat(100) });
    check(&small, COMPLETIONS, prompt, (400, "input_tokens", "can have at most 64"));
}

#[test]
fn unknown_models() {
    let server = TestServer::start();
    for path in [COMPLETIONS, CHAT, "/tokenize"] {
        let message = "The model `other` does not exist; this server has: scripted, house/other-name";
        check(&server, path, json!({ "model": "other" }), (404, "model", message));
    }
    let body = json!({ "prompt": "Hi", "model": "", "max_tokens": 1 });
    assert_eq!(server.post(COMPLETIONS, &body).status, 200);
}

#[test]
fn unknown_fields_and_nulls_are_ignored() {
    let server = TestServer::start();
    let fields = [
        "temperature",
        "top_p",
        "top_k",
        "n",
        "stop",
        "seed",
        "max_tokens",
        "logprobs",
        "stream",
        "user",
        "suffix",
        "logit_bias",
        "best_of",
        "echo",
        "response_format",
        "stream_options",
        "min_tokens",
        "prompt_embeds",
    ];
    let mut body = json!({ "prompt": "Hi", "a_field_of_tomorrow": { "x": [1] }, "use_beam_search": false,
                           "response_format": { "type": "text" }, "suffix": "" });
    assert_eq!(server.post(COMPLETIONS, &body).status, 200);
    for field in fields {
        body[field] = Value::Null;
    }
    let answer = server.post(COMPLETIONS, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
}
