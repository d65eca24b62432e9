//! The last binary of `cargo test --workspace`: reports which tests were not run. It always passes.
//!
//! It has no harness, so that nothing comes after the report. Runners that ask for a list of tests find one.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asks = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if asks("--list") {
        let list = if asks("--ignored") { "" } else { "what_was_not_run: test\n" };
        return std::io::stdout().write_all(list.as_bytes());
    }
    let report = octet_unrun::report(&octet_unrun::take()?);
    std::io::stderr().write_all(report.as_bytes())
}
