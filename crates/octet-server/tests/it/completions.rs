//! `/v1/completions`.

use octet_sample::LogprobCount;
use serde_json::{Value, json};

use crate::executor::{EOS, SHORT_ANSWER, TEXT};
use crate::server::{BOS, MAX_MODEL_LEN, Options, TestServer};

const PATH: &str = "/v1/completions";

/// The first `bytes` bytes of the text, as text.
fn written(bytes: usize) -> String {
    let all = TEXT.repeat(bytes / TEXT.len() + 1);
    String::from_utf8_lossy(&all.as_bytes()[..bytes]).into_owned()
}

fn texts(chunks: &[Value], index: u64) -> String {
    chunks
        .iter()
        .flat_map(|chunk| chunk["choices"].as_array().unwrap())
        .filter(|choice| choice["index"] == index)
        .map(|choice| choice["text"].as_str().unwrap())
        .collect()
}

#[test]
fn a_completion_has_openais_form() {
    let server = TestServer::start();
    let answer = server.post(PATH, &json!({ "model": "scripted", "prompt": "Hi", "temperature": 0 }));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body = answer.json();
    assert!(body["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(body["object"], "text_completion");
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(body["model"], "scripted");
    let choice = json!({
        "index": 0, "text": written(16), "logprobs": null, "finish_reason": "length", "stop_reason": null,
        "token_ids": null, "prompt_logprobs": null, "prompt_token_ids": null
    });
    assert_eq!(body["choices"], json!([choice]));
    let usage = json!({
        "prompt_tokens": 3, "total_tokens": 19, "completion_tokens": 16, "prompt_tokens_details": null
    });
    assert_eq!(body["usage"], usage);
}

#[test]
fn the_articles_request_works_as_it_stands() {
    let server = TestServer::start();
    let answer = server.post(
        PATH,
        &json!({ "model": "scripted", "prompt": "Write a haiku about artificial intelligence",
                 "max_tokens": 128, "top_p": 0.95, "top_k": 20, "temperature": 0.8 }),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 128);
    let admitted = server.admitted.lock().unwrap();
    let (sampling, prompt) = &admitted[0];
    assert_eq!(prompt[0], BOS);
    assert_eq!((sampling.top_p, sampling.top_k, sampling.temperature), (0.95, 20, 0.8));
    assert_eq!(sampling.eos_token_id, Some(EOS));
}

#[test]
fn a_stream_joins_to_the_whole_answer_and_never_cuts_a_character() {
    let server = TestServer::start();
    let mut body = json!({ "prompt": "Hi", "temperature": 0, "max_tokens": 40 });
    let whole = server.post(PATH, &body).json()["choices"][0]["text"].as_str().unwrap().to_owned();
    body["stream"] = json!(true);
    let chunks = server.post(PATH, &body).chunks();
    assert_eq!(texts(&chunks, 0), whole);
    assert!(!whole[..whole.len() - 3].contains('\u{fffd}'), "{whole}");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk.get("usage").is_none()));
    let reasons: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert!(reasons[..reasons.len() - 1].iter().all(|reason| reason.is_null()));
    assert_eq!(reasons[reasons.len() - 1], "length");
    let last_text = chunks[chunks.len() - 1]["choices"][0]["text"].as_str().unwrap();
    assert!(!last_text.is_empty(), "the reason comes with the last token");
}

#[test]
fn the_reason_comes_with_the_last_token_when_the_cache_is_full() {
    // Four blocks of sixteen tokens: the engine ends the sequence long before `max_tokens`.
    let engine = octet_engine::EngineConfig::new(5, 16, MAX_MODEL_LEN);
    let server = TestServer::with(Options { engine, ..Options::default() });
    let body = json!({ "prompt": "Hi", "temperature": 0, "max_tokens": 200, "stream": true, "return_token_ids": true });
    let chunks = server.post(PATH, &body).chunks();
    let last = &chunks[chunks.len() - 1]["choices"][0];
    assert_eq!(last["finish_reason"], "length");
    assert_eq!(last["token_ids"].as_array().map(Vec::len), Some(1), "{last}");
}

#[test]
fn usage_in_a_stream() {
    let server = TestServer::start();
    let body = |options: Value| json!({ "prompt": "Hi", "max_tokens": 4, "stream": true, "stream_options": options });
    let chunks = server.post(PATH, &body(json!({ "include_usage": true }))).chunks();
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], 7);
    assert!(others.iter().all(|chunk| chunk.get("usage").is_none()));
    let continuous = json!({ "include_usage": true, "continuous_usage_stats": true });
    let chunks = server.post(PATH, &body(continuous)).chunks();
    let counts: Vec<u64> =
        chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2, 3, 4, 4]);
}

#[test]
fn a_stream_comes_in_groups_if_asked_to() {
    let mut options = Options::default();
    options.server.responses.stream_interval = 4;
    let server = TestServer::with(options);
    let groups = |more: Value| {
        let mut body = json!({ "prompt": "Hi", "max_tokens": 12, "temperature": 0, "stream": true,
                               "return_token_ids": true });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let chunks = server.post(PATH, &body).chunks();
        assert_eq!(texts(&chunks, 0), written(12));
        let tokens = |chunk: &Value| chunk["choices"][0]["token_ids"].as_array().unwrap().len();
        chunks.iter().map(tokens).collect::<Vec<_>>()
    };
    // The first token at once, then groups, then what is left.
    assert_eq!(groups(json!({})), [1, 4, 4, 3]);
    assert_eq!(groups(json!({ "stream_interval": 100 })), [1, 11]);
    assert_eq!(groups(json!({ "stream_interval": 1 })), [1; 12]);
    let stopped =
        json!({ "prompt": "Hi", "max_tokens": 40, "temperature": 0, "stream": true, "stop": "thr" });
    assert_eq!(texts(&server.post(PATH, &stopped).chunks(), 0), "One two ");
}

#[test]
fn several_prompts_and_n() {
    let server = TestServer::start();
    let body = json!({ "prompt": ["Hi", "Hello"], "n": 2, "seed": 3, "max_tokens": 6 });
    let answer = server.post(PATH, &body).json();
    let indices: Vec<u64> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    // The seed of the i-th of a prompt's sequences is seed + i, and the script starts at the seed.
    let expected: Vec<&str> = vec![&TEXT[3..9], &TEXT[4..10], &TEXT[3..9], &TEXT[4..10]];
    for (choice, expected) in answer["choices"].as_array().unwrap().iter().zip(&expected) {
        assert_eq!(choice["text"], *expected);
    }
    assert_eq!(answer["usage"]["prompt_tokens"], 3 + 6);
    assert_eq!(answer["usage"]["completion_tokens"], 4 * 6);
    let mut body = body;
    body["stream"] = json!(true);
    let chunks = server.post(PATH, &body).chunks();
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(texts(&chunks, index as u64), *expected);
    }
}

#[test]
fn token_ids_as_prompts() {
    let server = TestServer::start();
    let body =
        json!({ "prompt": [[72, 105], [72]], "max_tokens": 1, "return_token_ids": true, "temperature": 0 });
    let answer = server.post(PATH, &body).json();
    assert_eq!(answer["choices"][0]["prompt_token_ids"], json!([72, 105]));
    assert_eq!(answer["choices"][1]["prompt_token_ids"], json!([72]));
    assert_eq!(answer["choices"][0]["token_ids"], json!([TEXT.as_bytes()[0]]));
    let one =
        server.post(PATH, &json!({ "prompt": [72, 105], "max_tokens": 1, "return_token_ids": true })).json();
    assert_eq!(one["choices"][0]["prompt_token_ids"], json!([72, 105]));
}

#[test]
fn a_stop_string_over_several_tokens_ends_the_sequence() {
    let server = TestServer::start();
    for stream in [false, true] {
        for (include, expected) in [(false, "One "), (true, "One two")] {
            let body = json!({ "prompt": "Hi", "temperature": 0, "max_tokens": 400, "stop": ["zzz", "two"],
                               "include_stop_str_in_output": include, "stream": stream });
            let answer = server.post(PATH, &body);
            let (text, last) = if stream {
                let chunks = answer.chunks();
                (texts(&chunks, 0), chunks[chunks.len() - 1]["choices"][0].clone())
            } else {
                let choice = answer.json()["choices"][0].clone();
                (choice["text"].as_str().unwrap().to_owned(), choice)
            };
            assert_eq!(text, expected);
            assert_eq!((&last["finish_reason"], &last["stop_reason"]), (&json!("stop"), &json!("two")));
        }
    }
    // The engine was told: it does not go on to 400 tokens.
    server.wait_until_idle();
}

#[test]
fn min_tokens_hold_for_stop_strings_and_the_end_of_sequence() {
    let server = TestServer::start();
    let stopped =
        json!({ "prompt": "Hi", "temperature": 0, "max_tokens": 100, "stop": "e", "min_tokens": 5 });
    assert_eq!(server.post(PATH, &stopped).json()["choices"][0]["text"], "One two thré");
    let ended = json!({ "prompt": "Hi!", "temperature": 0, "max_tokens": 100, "min_tokens": 9 });
    assert_eq!(server.post(PATH, &ended).json()["usage"]["completion_tokens"], 10);
}

#[test]
fn the_end_of_sequence_and_stop_tokens_have_no_text() {
    let server = TestServer::start();
    let body = json!({ "prompt": "Hi!", "temperature": 0, "max_tokens": 100, "return_token_ids": true });
    let choice = server.post(PATH, &body).json()["choices"][0].clone();
    assert_eq!(choice["text"], TEXT[..SHORT_ANSWER]);
    assert_eq!(choice["token_ids"].as_array().unwrap().last().unwrap(), EOS);
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &Value::Null));

    let mut body = body;
    body["ignore_eos"] = json!(true);
    assert_eq!(server.post(PATH, &body).json()["choices"][0]["finish_reason"], "length");

    let space = u32::from(b' ');
    let body = json!({ "prompt": "Hi", "temperature": 0, "max_tokens": 100, "stop_token_ids": [space] });
    let choice = server.post(PATH, &body).json()["choices"][0].clone();
    assert_eq!(choice["text"], "One");
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(space)));
}

#[test]
fn logprobs_in_four_lists() {
    let server = TestServer::start();
    let body = json!({ "prompt": "Hi", "temperature": 0, "max_tokens": 3, "logprobs": 2 });
    let expected = json!({
        "text_offset": [0, 1, 2],
        "token_logprobs": [-0.25, -0.25, -0.25],
        "tokens": ["O", "n", "e"],
        "top_logprobs": [
            { "O": -0.25, "A": -1.0 }, { "n": -0.25, "A": -1.0 }, { "e": -0.25, "A": -1.0 }
        ]
    });
    assert_eq!(server.post(PATH, &body).json()["choices"][0]["logprobs"], expected);
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let chunks = server.post(PATH, &streamed).chunks();
    let second = &chunks[1]["choices"][0]["logprobs"];
    assert_eq!((&second["tokens"], &second["text_offset"]), (&json!(["n"]), &json!([1])));

    let mut as_ids = body;
    as_ids["return_tokens_as_token_ids"] = json!(true);
    as_ids["logprobs"] = json!(0);
    let logprobs = server.post(PATH, &as_ids).json()["choices"][0]["logprobs"].clone();
    assert_eq!(logprobs["tokens"][0], "token_id:79");
    assert_eq!(logprobs["top_logprobs"][0], json!({ "token_id:79": -0.25 }));
}

#[test]
fn echo_shows_the_prompt_and_its_logprobs() {
    let server = TestServer::start();
    let body = json!({ "prompt": "Hi", "temperature": 0, "max_tokens": 1, "logprobs": 0, "echo": true });
    let choice = server.post(PATH, &body).json()["choices"][0].clone();
    assert_eq!(choice["text"], "HiO");
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["<s>", "H", "i", "O"]));
    assert_eq!(logprobs["token_logprobs"], json!([null, -40.0, -40.0, -0.25]));
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);
    assert_eq!(logprobs["top_logprobs"][1], json!({ "H": -40.0 }));

    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let chunks = server.post(PATH, &streamed).chunks();
    assert_eq!(texts(&chunks, 0), "HiO");
    assert_eq!(chunks[0]["choices"][0]["logprobs"]["tokens"], json!(["<s>", "H", "i", "O"]));

    let nothing = json!({ "prompt": "Hi", "max_tokens": 0, "echo": true, "logprobs": 1 });
    let answer = server.post(PATH, &nothing).json();
    assert_eq!(answer["choices"][0]["text"], "Hi");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    assert_eq!(answer["choices"][0]["logprobs"]["token_logprobs"], json!([null, -40.0, -40.0]));
}

#[test]
fn prompt_logprobs_have_ranks() {
    let server = TestServer::start();
    let body = json!({ "prompt": "Hi", "max_tokens": 1, "prompt_logprobs": 1 });
    let expected = json!([
        null,
        { "72": { "logprob": -40.0, "rank": 27, "decoded_token": "H" },
          "65": { "logprob": -1.0, "rank": 1, "decoded_token": "A" } },
        { "105": { "logprob": -40.0, "rank": 27, "decoded_token": "i" },
          "65": { "logprob": -1.0, "rank": 1, "decoded_token": "A" } }
    ]);
    assert_eq!(server.post(PATH, &body).json()["choices"][0]["prompt_logprobs"], expected);
}

#[test]
fn every_sampling_field_reaches_the_engine() {
    let server = TestServer::start();
    let body = json!({
        "prompt": "Hi", "max_tokens": 4, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05,
        "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": -0.5, "seed": 42,
        "min_tokens": 2, "stop_token_ids": [9, 7], "logit_bias": { "65": 200, "66": -1.5 },
        "allowed_token_ids": [65, 66, 67], "bad_words": ["ab"], "logprobs": 3, "prompt_logprobs": 2
    });
    assert_eq!(server.post(PATH, &body).status, 200);
    let admitted = server.admitted.lock().unwrap();
    let sampling = &admitted[0].0;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p), (0.7, 0.9, 40, 0.05));
    assert_eq!(
        (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty),
        (1.1, 0.5, -0.5)
    );
    assert_eq!((sampling.seed, sampling.min_tokens), (42, 2));
    assert_eq!(sampling.stop_token_ids[..], [7, 9]);
    assert_eq!(sampling.logit_bias[..], [(65, 100.0), (66, -1.5)]);
    assert_eq!(sampling.allowed_token_ids, Some([65, 66, 67].into()));
    // Also as it stands inside of a text, though it has a token more there.
    assert_eq!(sampling.bad_words[..], [vec![97, 98], vec![32, 97, 98]]);
    assert_eq!(sampling.logprobs, Some(LogprobCount::Top(3)));
    assert_eq!(sampling.prompt_logprobs, Some(LogprobCount::Top(2)));
}

#[test]
fn the_models_defaults_hold_where_a_request_is_silent() {
    let mut options = Options::default();
    options.server.generation_defaults.temperature = Some(0.3);
    options.server.generation_defaults.top_k = Some(5);
    options.server.generation_defaults.max_new_tokens = Some(7);
    let server = TestServer::with(options);
    assert_eq!(server.post(PATH, &json!({ "prompt": "Hi" })).json()["usage"]["completion_tokens"], 7);
    let body = json!({ "prompt": "Hi", "max_tokens": 90, "top_k": -1 });
    assert_eq!(server.post(PATH, &body).json()["usage"]["completion_tokens"], 7);
    let admitted = server.admitted.lock().unwrap();
    assert_eq!((admitted[0].0.temperature, admitted[0].0.top_k), (0.3, 5));
    assert_eq!((admitted[1].0.temperature, admitted[1].0.top_k), (0.3, 0));
}

#[test]
fn truncation_keeps_the_end_of_the_prompt() {
    let server = TestServer::start();
    let body = json!({ "prompt": "x".repeat(600), "max_tokens": 12, "truncate_prompt_tokens": -1 });
    let answer = server.post(PATH, &body).json();
    assert_eq!(answer["usage"]["prompt_tokens"], MAX_MODEL_LEN - 12);
    assert_eq!(answer["usage"]["completion_tokens"], 12);
    let body =
        json!({ "prompt": "abcdef", "max_tokens": 1, "truncate_prompt_tokens": 3, "return_token_ids": true });
    let ids = server.post(PATH, &body).json()["choices"][0]["prompt_token_ids"].clone();
    assert_eq!(ids, json!([BOS, b'e', b'f']));
}

#[test]
fn a_prefix_that_is_cached_shows_in_the_usage() {
    let mut options = Options::default();
    options.server.responses.prompt_tokens_details = true;
    let server = TestServer::with(options);
    let body = json!({ "prompt": "x".repeat(100), "max_tokens": 1 });
    let cached = |body: &Value| {
        server.post(PATH, body).json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached(&body), 0);
    assert_eq!(cached(&body), 96);
    let mut salted = body;
    salted["cache_salt"] = json!("tenant");
    assert_eq!(cached(&salted), 0);
}

#[test]
fn ids_are_the_clients_where_it_gives_one() {
    let mut options = Options::default();
    options.server.responses.request_id_headers = true;
    let server = TestServer::with(options);
    let body = json!({ "prompt": "Hi", "max_tokens": 1, "request_id": "mine" });
    let answer = server.post(PATH, &body);
    assert_eq!(answer.json()["id"], "cmpl-mine");
    assert_eq!(answer.header("x-request-id").unwrap().len(), 32);
    let headers = [("content-type", "application/json"), ("x-request-id", "header")];
    let answer = server.client().request("POST", PATH, &headers, Some(body.to_string().as_bytes()));
    assert_eq!(answer.json()["id"], "cmpl-header");
    assert_eq!(answer.header("x-request-id"), Some("header"));
}
