//! Placeholder docs: replaced by the crate's first commit.
