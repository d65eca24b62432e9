//! What this process itself costs: a client beside the server on the same cores takes from what it measures.

use std::fs;

/// Processor time of this process so far, user and system, seconds; `None` where the system does not say.
pub(super) fn seconds() -> Option<f64> {
    parse(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// The name in parentheses may hold spaces. After it, user and system time are fields 12 and 13 (proc(5)), in units of
/// `USER_HZ`, which is 100 on every architecture that Linux runs on.
fn parse(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    Some((times.next()?.ok()? + times.next()?.ok()?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_added() {
        let stat = "77 (a (b) c) S 1 77 77 0 -1 4194304 500 0 0 0 250 50 0 0 20 0 3 0 900 1 2 3";
        assert_eq!(parse(stat), Some(3.0));
        assert_eq!(parse("nothing"), None);
    }
}
