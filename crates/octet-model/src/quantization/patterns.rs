//! Names of modules as quantization configs list them: exact, `re:` expressions, globs.

use fancy_regex::Regex;

/// One entry of an ignore list or of a list of targets.
#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    /// The full name of a module.
    Exact(String),
    /// `re:` and a regular expression in Python's syntax, which must match at the name's start (Python's `re.match`).
    Expression(Regex),
    /// A name with `*` and `?`, which must match the full name.
    Glob(String),
}

impl Pattern {
    /// Reads an entry; the error says what is wrong with an expression.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(expression) = text.strip_prefix("re:") {
            let anchored = format!("^(?:{expression})");
            return Regex::new(&anchored).map(Self::Expression).map_err(|error| error.to_string());
        }
        let is_glob = text.contains(['*', '?']);
        Ok(if is_glob { Self::Glob(text.to_owned()) } else { Self::Exact(text.to_owned()) })
    }

    /// Whether the pattern means this module. An expression that gives up (too much backtracking) does not match.
    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Expression(expression) => expression.is_match(name).unwrap_or(false),
            Self::Glob(glob) => glob_matches(glob, name),
        }
    }
}

/// `*` stands for any characters, `?` for one.
pub(crate) fn glob_matches(glob: &str, name: &str) -> bool {
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    let (mut at, mut position) = (0, 0);
    // Where to go on if a mismatch follows: behind the last star, one more character swallowed by it.
    let mut retry: Option<(usize, usize)> = None;
    while position < name.len() {
        match glob.get(at) {
            Some(b'*') => {
                at += 1;
                retry = Some((at, position));
            }
            Some(&character) if character == b'?' || character == name[position] => {
                at += 1;
                position += 1;
            }
            _ => match retry {
                None => return false,
                Some((behind_star, swallowed)) => {
                    at = behind_star;
                    position = swallowed + 1;
                    retry = Some((behind_star, position));
                }
            },
        }
    }
    glob[at..].iter().all(|&character| character == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_python_does() {
        for (pattern, name, expected) in [
            ("lm_head", "lm_head", true),
            ("lm_head", "model.lm_head", false),
            ("re:.*lm_head", "lm_head", true),
            ("re:.*mlp.gate$", "model.layers.0.mlp.gate", true),
            ("re:.*mlp.gate$", "model.layers.0.mlp.gate_proj", false),
            ("re:model", "model.layers.0", true),
            ("re:layers", "model.layers.0", false),
            ("re:^(?!.*gate).*proj", "model.layers.0.mlp.gate_proj", false),
            ("re:^(?!.*gate).*proj", "model.layers.0.mlp.up_proj", true),
            ("*k_proj", "model.layers.0.self_attn.k_proj", true),
            ("*.self_attn.*", "model.layers.0.mlp.up_proj", false),
            ("model.layers.?.mlp*proj", "model.layers.3.mlp.up_proj", true),
            ("model.layers.?.mlp*proj", "model.layers.13.mlp.up_proj", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
        assert!(Pattern::parse("re:(").is_err());
    }
}
