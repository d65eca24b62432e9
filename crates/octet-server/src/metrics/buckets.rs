//! Upper bounds of histogram buckets: vLLM's, so that its dashboards fit.

/// `n`.
pub(super) const REQUEST_N: [f64; 5] = [1.0, 2.0, 5.0, 10.0, 20.0];

/// Time to the first token, seconds.
pub(super) const FIRST_TOKEN_SECONDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];

/// Time between tokens, seconds.
pub(super) const TOKEN_SECONDS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

/// Times of whole requests and their stages, seconds.
pub(super) const REQUEST_SECONDS: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];

/// Durations of HTTP requests, seconds: those of the instrumentator that vLLM uses.
pub(super) const HTTP_SECONDS: [f64; 3] = [0.1, 0.5, 1.0];

/// 1, 2, 5, 10, 20, 50, … up to the model's length.
pub(super) fn token_counts(max_model_len: usize) -> Vec<f64> {
    let decades = (0..).map(|exponent| 10_usize.saturating_pow(exponent));
    decades
        .flat_map(|decade| [1, 2, 5].map(|digit| decade.saturating_mul(digit)))
        .take_while(|bound| *bound <= max_model_len && *bound < usize::MAX)
        .map(|bound| bound as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_counts_go_up_to_the_models_length() {
        assert_eq!(token_counts(128), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(token_counts(2), [1.0, 2.0]);
        assert!(token_counts(usize::MAX).len() < 100);
    }

    #[test]
    fn bounds_rise() {
        let all: [&[f64]; 5] =
            [&REQUEST_N, &FIRST_TOKEN_SECONDS, &TOKEN_SECONDS, &REQUEST_SECONDS, &HTTP_SECONDS];
        for bounds in all {
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{bounds:?}");
        }
    }
}
