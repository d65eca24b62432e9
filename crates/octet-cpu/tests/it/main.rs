//! The CPU backend through its public interface.

mod conformance;
