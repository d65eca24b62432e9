//! Tests of the whole: the house's own rules.

mod arrows;
mod house;
mod style;
