//! The conversions against two independent sources: files that `ml_dtypes` wrote (see
//! `tests/data/README.md`), and a search for the nearest code over the table of values in f64.
#![expect(clippy::unwrap_used, reason = "a test panics when its own set-up fails")]

mod goldens;
mod search;
