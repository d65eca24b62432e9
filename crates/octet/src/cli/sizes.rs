//! Numbers with suffixes: `k`, `M`, `G` are powers of 1000 in lower case and of 1024 in upper case, as in vLLM.

use std::time::Duration;

use octet_model::MaxModelLen;

fn parse_with_suffix(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor: f64 = match &text[digits.len()..] {
        "" => 1.0,
        "k" => 1e3,
        "K" | "KiB" => 1024.0,
        "m" => 1e6,
        "M" | "MiB" => 1024.0 * 1024.0,
        "g" => 1e9,
        "G" | "GiB" => 1024.0 * 1024.0 * 1024.0,
        "t" => 1e12,
        "T" | "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        suffix => {
            return Err(format!(
                "unknown suffix {suffix:?}; known are k, m, g, t (1000) and K, M, G, T (1024)"
            ));
        }
    };
    if let (Ok(count), 1.0) = (digits.parse::<usize>(), factor) {
        return Ok(count);
    }
    let value: f64 =
        digits.parse().map_err(|_| format!("{text:?} is no number; examples: 4096, 32k, 1.5G"))?;
    let product = value * factor;
    if !(0.0..9e18).contains(&product) {
        return Err(format!("{text} is out of range"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked above"
    )]
    Ok(product.round() as usize)
}

/// A positive count such as `8192` or `8k`.
///
/// # Errors
/// A message for the user.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    match parse_with_suffix(text)? {
        0 => Err("must be at least 1".to_owned()),
        count => Ok(count),
    }
}

/// Bytes such as `67108864`, `4G` or `512M`.
///
/// # Errors
/// A message for the user.
pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    parse_count(text)
}

/// Seconds such as `0.5`.
///
/// # Errors
/// A message for the user.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "expected seconds of at least 0, such as 0.5".to_owned())
}

/// `auto`, `-1`, or a count.
///
/// # Errors
/// A message for the user.
pub(crate) fn parse_max_model_len(text: &str) -> Result<MaxModelLen, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "auto" | "-1" => Ok(MaxModelLen::Auto),
        _ => parse_count(text).map(MaxModelLen::Tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_follow_the_case() {
        assert_eq!(parse_count("8k"), Ok(8000));
        assert_eq!(parse_count("8K"), Ok(8192));
        assert_eq!(parse_bytes("1.5G"), Ok(1536 << 20));
        assert_eq!(parse_count("1T"), Ok(1 << 40));
        assert_eq!(parse_max_model_len("-1"), Ok(MaxModelLen::Auto));
        assert_eq!(parse_max_model_len("Auto"), Ok(MaxModelLen::Auto));
        assert_eq!(parse_max_model_len("1.5K"), Ok(MaxModelLen::Tokens(1536)));
        assert_eq!(parse_max_model_len("4096"), Ok(MaxModelLen::Tokens(4096)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "0", "k", "12q", "-5", "nan"] {
            assert!(parse_count(text).is_err(), "{text:?} was taken");
        }
    }
}
