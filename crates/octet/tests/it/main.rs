//! Tests of the whole: the house's own rules, and the program as a process.

mod arrows;
mod bench;
mod checkpoint;
mod commands;
mod connections;
mod facts;
mod faults;
mod gpu;
mod house;
mod logs;
mod program;
mod requests;
mod start_lines;
mod style;
mod tuning;
