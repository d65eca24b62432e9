//! The operations of a decoder, each in a file of its own.
