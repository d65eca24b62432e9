//! The four FP8 formats.

/// The four formats, as a run-time value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float8Format {
    /// OCP E4M3.
    E4M3,
    /// E4M3, FNUZ.
    E4M3Fnuz,
    /// OCP E5M2.
    E5M2,
    /// E5M2, FNUZ.
    E5M2Fnuz,
}
