//! Start lines as people publish them: each starts, as far as that needs no weights, or is refused with its sentence.

use std::ffi::OsString;

use super::{Cli, Command};
use crate::{environment, serve, settings};

const CORPUS: &str = include_str!("corpus.txt");

/// The words of a line as a shell splits them; quotes group.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote): (Option<String>, Option<char>) = (None, None);
    for character in line.chars() {
        match (quote, character) {
            (None, ' ') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), _) if character == open => quote = None,
            _ => word.get_or_insert_default().push(character),
        }
    }
    assert!(quote.is_none(), "an open quote: {line}");
    words.extend(word);
    words
}

/// What keeps a command line from starting, of all that needs no weights.
fn refusal(line: &str) -> Option<String> {
    let words: Vec<String> = if line.starts_with('[') {
        let arguments: Vec<String> = serde_json::from_str(line).expect("arguments are a JSON list");
        [vec!["octet".to_owned()], arguments].concat()
    } else {
        shell_words(line)
    };
    let program = words.iter().position(|word| word == "octet").expect("the program is named");
    let variables = words[..program].iter().map(|word| word.split_once('=').expect("NAME=value"));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    if let Err(error) = environment::notices(variables) {
        return Some(error.to_string());
    }
    let arguments = words[program..].iter().map(OsString::from).collect();
    let command = match Cli::try_read(arguments) {
        Ok((cli, _)) => cli.command,
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
            return Some(error.to_string());
        }
    };
    let checked = match command {
        Command::Serve(arguments) => serve::check(&arguments),
        Command::Tune(arguments) => settings::check(&arguments.engine),
        Command::Bench(super::bench::BenchCommand::Latency(arguments)) => settings::check(&arguments.engine),
        Command::Bench(super::bench::BenchCommand::Throughput(arguments)) => {
            settings::check(&arguments.engine)
        }
        _ => Ok(()),
    };
    checked.err().map(|error| format!("{error:#}"))
}

#[test]
fn published_start_lines_start_or_are_refused_with_the_reason() {
    let (mut started, mut refused, mut faults) = (0, 0, Vec::new());
    for entry in CORPUS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(line) = entry.strip_prefix("+ ") {
            started += 1;
            faults.extend(refusal(line).map(|said| format!("{line}\n  is refused: {said}")));
        } else {
            refused += 1;
            let expected = entry.strip_prefix("- ").and_then(|rest| rest.split_once(" | "));
            let (words, line) = expected.unwrap_or_else(|| panic!("neither + nor -: {entry}"));
            match refusal(line) {
                None => faults.push(format!("{line}\n  starts, but not for: {words}")),
                Some(said) if !said.to_lowercase().contains(&words.to_lowercase()) => {
                    faults.push(format!("{line}\n  lacks {words:?}: {said}"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(started + refused >= 150, "{started} start and {refused} are refused");
}

#[test]
fn words_are_split_as_a_shell_does() {
    assert_eq!(shell_words("a  'b c' \"\" d\"e f\""), ["a", "b c", "", "de f"]);
}
