//! Seeds, past finds and a fixed number of their mutations at every door, with every run of the tests.

mod mutation;

use mutation::Mutator;
use octet_fuzz::{TARGETS, Target};

/// Runs a target on all that is known, then on mutations. They are the same in every run: a find is no flake.
#[expect(clippy::print_stdout, reason = "libtest shows the input that a failing test printed last")]
fn attack(name: &str) {
    let target = Target::of(name).expect("a target of this name");
    let mut inputs = target.seeds().expect("seeds can be read");
    for (path, seed) in &inputs {
        assert!((target.run)(seed), "{} is refused, so it teaches nothing", path.display());
    }
    let finds = target.finds().expect("finds can be read");
    for (path, find) in &finds {
        println!("{}", path.display());
        (target.run)(find);
    }
    inputs.extend(finds);
    let all: Vec<Vec<u8>> = inputs.iter().map(|(_, input)| input.clone()).collect();
    let mut mutator = Mutator::new(all);
    for (path, input) in &inputs {
        for number in 0..target.mutations {
            let mutated = mutator.mutate(input);
            println!("{}, mutation {number}: {}", path.display(), mutated.escape_ascii());
            (target.run)(&mutated);
        }
    }
}

#[test]
fn json_bodies() {
    attack("request");
}

#[test]
fn checkpoints() {
    attack("checkpoint");
}

#[test]
fn configs() {
    attack("config");
}

#[test]
fn tokenizers() {
    attack("tokenizer");
}

#[test]
fn chat_templates() {
    attack("template");
}

#[test]
fn tuning_files() {
    attack("tuning");
}

#[test]
fn every_target_has_a_libfuzzer_binary() {
    let manifest = include_str!("../../../../fuzz/Cargo.toml");
    for Target { name, .. } in TARGETS {
        let binary = format!("name = \"{name}\"\npath = \"targets/{name}.rs\"");
        assert!(manifest.contains(&binary), "fuzz/Cargo.toml has no binary for {name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}
