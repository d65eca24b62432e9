//! Data sets with the tokenizer of the model inside the program.

use std::fs;
use std::path::Path;

use clap::Parser;
use octet_text::Tokenizer;

use super::*;
use crate::cli::bench::PromptForm;

#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    dataset: DatasetArgs,
}

fn typed(flags: &[&str]) -> Result<Dataset> {
    Dataset::new(&Typed::parse_from([&["octet"], flags].concat()).dataset)
}

fn tokenizer() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/octet-mini");
    Tokenizer::load(&folder).expect("the model inside the program has a tokenizer")
}

fn ids(sample: &Sample) -> &[u32] {
    match &sample.prompt {
        Prompt::Tokens(ids) => ids,
        Prompt::Text(text) => panic!("text: {text}"),
    }
}

fn text(sample: &Sample) -> &str {
    match &sample.prompt {
        Prompt::Text(text) => text,
        Prompt::Tokens(ids) => panic!("ids: {ids:?}"),
    }
}

#[test]
fn ids_are_exact_in_number_and_never_special() {
    let tokenizer = tokenizer();
    let source = PromptSource::new(Some(&tokenizer), PromptForm::Tokens, usize::MAX).unwrap();
    let dataset = typed(&["--random-input-len", "300", "--random-output-len", "7"]).unwrap();
    let samples = dataset.samples(50, 3, &source).unwrap();
    assert_eq!(samples.len(), 50);
    for sample in &samples {
        assert_eq!((ids(sample).len(), sample.prompt_len, sample.output_len), (300, 300, 7));
        assert!(ids(sample).iter().all(|id| !tokenizer.is_special(*id) && *id < 4096));
    }
    // From all of the vocabulary.
    let most = samples.iter().flat_map(ids).max();
    assert!(most.is_some_and(|id| *id > 4000), "{most:?}");
}

#[test]
fn without_a_tokenizer_ids_stay_below_the_limit() {
    let source = PromptSource::new(None, PromptForm::Tokens, 20).unwrap();
    let samples = typed(&["--input-len", "100"]).unwrap().samples(10, 0, &source).unwrap();
    assert_eq!(samples.iter().flat_map(ids).max(), Some(&19));
    assert!(PromptSource::new(None, PromptForm::Text, 20).is_err());
}

#[test]
fn text_is_exact_when_a_server_reads_it() {
    let tokenizer = tokenizer();
    let source = PromptSource::new(Some(&tokenizer), PromptForm::Text, usize::MAX).unwrap();
    let flags = ["--random-input-len", "200", "--random-range-ratio", "0.5", "--random-prefix-len", "33"];
    let samples = typed(&flags).unwrap().samples(40, 1, &source).unwrap();
    for sample in &samples {
        assert_eq!(tokenizer.encode(text(sample), true).unwrap().len(), sample.prompt_len);
    }
    let shared = |one: &Sample, other: &Sample| {
        let both = [one, other].map(|sample| tokenizer.encode(text(sample), true).unwrap());
        both[0].iter().zip(&both[1]).take_while(|(one, other)| one == other).count()
    };
    assert!(samples.windows(2).all(|pair| (33..40).contains(&shared(&pair[0], &pair[1]))));
}

#[test]
fn a_seed_fixes_all_of_it_and_another_changes_it() {
    let tokenizer = tokenizer();
    for form in [PromptForm::Tokens, PromptForm::Text] {
        let source = PromptSource::new(Some(&tokenizer), form, usize::MAX).unwrap();
        let dataset = typed(&["--input-len", "50", "--random-range-ratio", "0.3"]).unwrap();
        let samples = |seed| dataset.samples(20, seed, &source).unwrap();
        assert_eq!(samples(5), samples(5));
        assert_ne!(samples(5), samples(6));
    }
}

#[test]
fn lengths_spread_over_their_range_and_no_further() {
    let source = PromptSource::new(None, PromptForm::Tokens, 100).unwrap();
    let ratio = r#"{"input": 0.5, "output": 0.9}"#;
    let flags = ["--input-len", "100", "--output-len", "10", "--random-range-ratio", ratio];
    let samples = typed(&flags).unwrap().samples(2000, 0, &source).unwrap();
    let range = |values: Vec<usize>| (*values.iter().min().unwrap(), *values.iter().max().unwrap());
    assert_eq!(range(samples.iter().map(|sample| sample.prompt_len).collect()), (50, 150));
    assert_eq!(range(samples.iter().map(|sample| sample.output_len).collect()), (1, 19));
}

#[test]
fn prefixes_are_shared_by_as_many_as_wanted() {
    let source = PromptSource::new(None, PromptForm::Tokens, 1000).unwrap();
    let flags = [
        "--dataset-name=prefix_repetition",
        "--prefix-repetition-num-prefixes=3",
        "--prefix-repetition-prefix-len=40",
        "--prefix-repetition-suffix-len=8",
        "--output-len=5",
    ];
    let dataset = typed(&flags).unwrap();
    let samples = dataset.samples(14, 2, &source).unwrap();
    // Four for each of three prefixes; the rest is dropped, as in vLLM.
    assert_eq!(samples.len(), 12);
    assert!(samples.iter().all(|sample| ids(sample).len() == 48 && sample.output_len == 5));
    let mut prefixes: Vec<&[u32]> = samples.iter().map(|sample| &ids(sample)[..40]).collect();
    prefixes.sort_unstable();
    let counts: Vec<usize> = prefixes.chunk_by(|one, other| one == other).map(<[&[u32]]>::len).collect();
    assert_eq!(counts, [4, 4, 4]);
    assert!(dataset.samples(2, 0, &source).unwrap_err().to_string().contains("3 prefixes"));
    assert_eq!(dataset.for_warmup().samples(2, 0, &source).unwrap().len(), 2);
}

/// A file of conversations, removed at its end.
struct Conversations(PathBuf);

impl Conversations {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("octet-{name}-{}.json", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Conversations {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn conversations_of_a_usable_length_are_sent() {
    let file = Conversations::new(
        "sharegpt",
        r#"[{"id": "a", "conversations": [{"from": "human", "value": "Tell me about the old house on the hill."},
                                          {"from": "gpt", "value": "It was built by a man who liked the sea."}, {"value": "x"}]},
            {"conversations": [{"value": "Why is the sky blue in the day?"}, {"value": "No."}]},
            {"conversations": [{"value": "only one turn, and so nothing to answer"}]},
            {"items": []}]"#,
    );
    let tokenizer = tokenizer();
    let source = PromptSource::of_text(Some(&tokenizer), PromptForm::Text).unwrap();
    let samples = |flags: &[&str], wanted| {
        let flags = [&["--dataset-path", file.path()], flags].concat();
        typed(&flags).unwrap().samples(wanted, 0, &source).unwrap()
    };
    // The second conversation's answer is too short, unless the length is given.
    let one = samples(&["--no-oversample"], 10);
    assert_eq!(one.len(), 1);
    assert_eq!(text(&one[0]), "Tell me about the old house on the hill.");
    assert_eq!(one[0].prompt_len, tokenizer.encode(text(&one[0]), true).unwrap().len());
    let answer = tokenizer.encode("It was built by a man who liked the sea.", true).unwrap();
    assert_eq!(one[0].output_len, answer.len());
    let all = samples(&["--output-len", "9"], 10);
    assert_eq!(all.len(), 10);
    assert!(all.iter().all(|sample| sample.output_len == 9));
    assert_eq!(samples(&["--output-len", "9", "--no-oversample"], 10).len(), 2);
    assert_eq!(samples(&["--output-len", "9"], 1).len(), 1);
    assert!(PromptSource::of_text(None, PromptForm::Text).is_err());
}

#[test]
fn a_file_of_another_form_is_named() {
    let file = Conversations::new("not-sharegpt", r#"{"conversations": []}"#);
    let tokenizer = tokenizer();
    let source = PromptSource::of_text(Some(&tokenizer), PromptForm::Text).unwrap();
    let message = |path: &str| {
        let dataset = typed(&["--dataset-path", path]).unwrap();
        format!("{:#}", dataset.samples(1, 0, &source).unwrap_err())
    };
    assert!(message(file.path()).contains(file.path()));
    assert!(message("/nowhere/at/all.json").contains("/nowhere/at/all.json"));
    let empty = Conversations::new("empty-sharegpt", "[]");
    assert!(message(empty.path()).contains("no conversation of a usable length"));
}

#[test]
fn flags_of_another_data_set_are_refused() {
    let message = |flags: &[&str]| typed(flags).unwrap_err().to_string();
    assert!(message(&["--sharegpt-output-len", "5"]).contains("belongs to --dataset-name sharegpt"));
    assert!(message(&["--dataset-name", "prefix_repetition", "--input-len", "5"]).contains("--input-len"));
    assert!(message(&["--dataset-name", "random", "--dataset-path", "x"]).contains("--dataset-path"));
    assert!(message(&["--dataset-name", "sharegpt"]).contains("needs --dataset-path"));
}
