//! The suite on the backends of this repository.

/// One test for each part of the suite, so that they run side by side and each fails by name.
macro_rules! conformance {
    ($claims:expr, $backend:expr) => {
        conformance!(
            $claims, $backend;
            kept_weights, embed, rms_norm, join, linear, linear_invariance, gated_linear, rotary, stored_values, attention,
            attention_invariance, logits, errors
        );
    };
    ($claims:expr, $backend:expr; $($part:ident),*) => {
        $(
            #[test]
            fn $part() {
                octet_conformance::$part(&$claims, &mut $backend);
            }
        )*
    };
}

mod broken;
mod cpu;
mod reference;
