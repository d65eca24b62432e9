//! Names of files: each device has one of its own, with its ordinal in the name, as in TunableOp.

use std::path::{Path, PathBuf};

/// TunableOp's default name of the results file.
pub const RESULTS_FILE: &str = "tunableop_results.csv";

/// TunableOp's default name of the file of untuned problems.
pub const UNTUNED_FILE: &str = "tunableop_untuned.csv";

/// The results file of a device: the first `%d` of the name is replaced by the ordinal; without one, the ordinal is
/// inserted before the name's last dot, or appended.
#[must_use]
pub fn results_file(name: &Path, ordinal: usize) -> PathBuf {
    let text = name.to_string_lossy();
    if text.contains("%d") {
        return PathBuf::from(text.replacen("%d", &ordinal.to_string(), 1));
    }
    untuned_file(name, ordinal)
}

/// The file of untuned problems of a device: the ordinal is always inserted before the name's last dot, or appended.
#[must_use]
pub fn untuned_file(name: &Path, ordinal: usize) -> PathBuf {
    let Some(last) = name.file_name().map(|last| last.to_string_lossy()) else {
        return name.to_owned();
    };
    // A dot in the name of a folder is none of the file's.
    let last = match last.rfind('.') {
        Some(dot) => format!("{}{ordinal}{}", &last[..dot], &last[dot..]),
        None => format!("{last}{ordinal}"),
    };
    name.with_file_name(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ordinal_stands_where_tunable_op_puts_it() {
        let results = |name: &str, ordinal| results_file(Path::new(name), ordinal).display().to_string();
        assert_eq!(results(RESULTS_FILE, 0), "tunableop_results0.csv");
        assert_eq!(results("a.b.csv", 7), "a.b7.csv");
        assert_eq!(results("results", 1), "results1");
        assert_eq!(results("r%d_%d.csv", 3), "r3_%d.csv");
        assert_eq!(results("v1.2/results", 4), "v1.2/results4");
        assert_eq!(results("gpu%d/results.csv", 5), "gpu5/results.csv");
        assert_eq!(untuned_file(Path::new("u%d.csv"), 2), Path::new("u%d2.csv"));
    }
}
