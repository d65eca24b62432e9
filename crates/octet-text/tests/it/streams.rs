//! Streams: their deltas joined are the full decode, whatever the tokens are.

use std::sync::Arc;

use octet_text::{StreamOptions, TextStream, Tokenizer};

use crate::support::{Choices, Folder, all_kinds, byte_fallback, byte_level};

fn options(skip_special_tokens: bool, stop: &[&str]) -> StreamOptions {
    let stop = stop.iter().map(|&text| text.to_owned()).collect::<Vec<_>>().into();
    StreamOptions { skip_special_tokens, stop, include_stop_str_in_output: false }
}

fn joined(tokenizer: &Arc<Tokenizer>, options: StreamOptions, prompt: &[u32], tokens: &[u32]) -> String {
    let mut stream = TextStream::new(Arc::clone(tokenizer), options, prompt);
    let mut text: String = tokens.iter().map(|&token| stream.push(token).unwrap().text).collect();
    text.push_str(&stream.finish());
    text
}

/// Random ids: unknown ones too, and often runs of bytes, of which some are characters.
fn random_tokens(choices: &mut Choices, tokenizer: &Tokenizer) -> Vec<u32> {
    let size = tokenizer.vocabulary_size();
    let byte = |byte: u8| {
        let spelled = tokenizer.token_id(&format!("<0x{byte:02X}>"));
        // In the byte-level vocabulary, id and byte are one.
        spelled.unwrap_or(u32::from(byte))
    };
    let mut tokens = Vec::new();
    for _ in 0..choices.below(24) {
        match choices.below(4) {
            0 => tokens.extend(
                "é日🙂\u{301} ▁".as_bytes()[choices.below(4)..][..choices.below(9)].iter().map(|&b| byte(b)),
            ),
            1 => tokens.push(byte(choices.below(256) as u8)),
            _ => tokens.push(choices.below(size + 3) as u32),
        }
    }
    tokens
}

#[test]
fn deltas_join_to_the_full_decode() {
    let mut choices = Choices::new(1);
    for (kind, definition) in all_kinds() {
        let tokenizer = Folder::new().with_json("tokenizer.json", &definition).load();
        for case in 0..1500 {
            let tokens = random_tokens(&mut choices, &tokenizer);
            let skip = case % 2 == 0;
            let expected = tokenizer.decode(&tokens, skip).unwrap();
            assert_eq!(joined(&tokenizer, options(skip, &[]), &[], &tokens), expected, "{kind}: {tokens:?}");
        }
    }
}

#[test]
fn deltas_continue_the_prompt() {
    let mut choices = Choices::new(2);
    for (kind, definition) in all_kinds() {
        let tokenizer = Folder::new().with_json("tokenizer.json", &definition).load();
        let hello = tokenizer.token_id("hello").unwrap();
        for case in 0..1500 {
            let mut prompt = random_tokens(&mut choices, &tokenizer);
            // A prompt that ends inside of a run of bytes has no whole text of its own.
            let is_whole = case % 2 == 0;
            prompt.extend(is_whole.then_some(hello));
            let output = random_tokens(&mut choices, &tokenizer);
            let full = tokenizer.decode(&[prompt.clone(), output.clone()].concat(), true).unwrap();
            let text = joined(&tokenizer, options(true, &[]), &prompt, &output);
            assert!(
                full.ends_with(&text),
                "{kind}: {prompt:?} then {output:?}: {text:?} is not the end of {full:?}"
            );
            if is_whole {
                let shown = tokenizer.decode(&prompt, true).unwrap();
                assert_eq!(shown + &text, full, "{kind}: {prompt:?} then {output:?}");
            }
        }
    }
}

#[test]
fn half_a_character_is_never_shown() {
    let tokenizer = Folder::new().with_json("tokenizer.json", &byte_level()).load();
    let tokens = tokenizer.encode("é🙂日", false).unwrap();
    let mut stream = TextStream::new(Arc::clone(&tokenizer), StreamOptions::default(), &[]);
    let deltas: Vec<String> = tokens.iter().map(|&token| stream.push(token).unwrap().text).collect();
    let shown: Vec<&str> = deltas.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    assert_eq!(shown, ["é", "🙂", "日"]);
    assert_eq!(stream.finish(), "");
}

#[test]
fn a_run_of_bytes_is_one_text_or_none() {
    let tokenizer = Folder::new().with_json("tokenizer.json", &byte_fallback()).load();
    let byte = |byte: u32| byte + 3;
    let hello = tokenizer.token_id("▁hello").unwrap();
    let stream = |tokens: &[u32]| {
        let mut stream = TextStream::new(Arc::clone(&tokenizer), StreamOptions::default(), &[]);
        tokens.iter().map(|&token| stream.push(token).unwrap().text).collect::<Vec<_>>()
    };
    assert_eq!(stream(&[hello, byte(0xC3), byte(0xA9), hello]), ["hello", "", "", "é hello"]);
    // The whole run is broken by one byte: the decoder shows none of its characters.
    assert_eq!(
        stream(&[byte(0xC3), byte(0xA9), byte(0xFF), hello]),
        ["", "", "", "\u{FFFD}\u{FFFD}\u{FFFD} hello"]
    );
}

#[test]
fn stop_strings_end_the_text_across_tokens() {
    let tokenizer = Folder::new().with_json("tokenizer.json", &byte_level()).load();
    let tokens = tokenizer.encode("hello hello he said", false).unwrap();
    let mut stream = TextStream::new(Arc::clone(&tokenizer), options(true, &["o he s"]), &[]);
    let mut text = String::new();
    for &token in &tokens {
        let delta = stream.push(token).unwrap();
        text.push_str(&delta.text);
        if let Some(stop) = delta.stopped_by {
            assert_eq!(stop, "o he s");
            break;
        }
    }
    assert_eq!(text, "hello hell");
    assert_eq!(stream.stopped_by(), Some("o he s"));
    assert_eq!(stream.push(tokens[0]).unwrap().text + &stream.finish(), "");

    let including = StreamOptions { include_stop_str_in_output: true, ..options(true, &["o he s"]) };
    assert_eq!(joined(&tokenizer, including, &[], &tokens), "hello hello he s");
    // What might have become a stop string is given up at the end.
    assert_eq!(joined(&tokenizer, options(true, &["said so"]), &[], &tokens), "hello hello he said");
}

#[test]
fn stop_strings_do_not_count_before_the_minimum_length() {
    let tokenizer = Folder::new().with_json("tokenizer.json", &byte_level()).load();
    let tokens = tokenizer.encode("hello hello hello", false).unwrap();
    assert_eq!(tokens.len(), 3);
    let mut stream =
        TextStream::new(Arc::clone(&tokenizer), options(true, &["ello"]), &[]).with_min_tokens(2);
    let text: String = tokens.iter().map(|&token| stream.push(token).unwrap().text).collect();
    assert_eq!((text.as_str(), stream.stopped_by()), ("hello hello h", Some("ello")));
}

#[test]
fn a_long_text_costs_as_much_a_token_as_a_short_one() {
    let tokenizer = Folder::new().with_json("tokenizer.json", &byte_level()).load();
    let hello = tokenizer.token_id("Ġhello").unwrap();
    let mut stream = TextStream::new(Arc::clone(&tokenizer), options(true, &["hello hello!"]), &[]);
    let start = std::time::Instant::now();
    let length: usize = (0..300_000).map(|_| stream.push(hello).unwrap().text.len()).sum();
    assert_eq!(length + stream.finish().len(), 6 * 300_000);
    // Anything that looks at the text so far would take minutes.
    assert!(start.elapsed().as_secs() < 20);
}
