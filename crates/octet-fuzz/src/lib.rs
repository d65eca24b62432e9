//! Hostile input at every door that takes some: what clients send, and what stands in files that users download.
//!
//! A [`Target`] takes any bytes and must come back, soon and with little memory: a panic, an abort, a hang or an answer
//! that blames the server is a fault. Two drivers use the targets. The tests of this crate replay seeds, past finds and a
//! fixed number of mutations of both, with every `cargo test`. `tools/fuzz` builds `fuzz/` with coverage instrumentation
//! and lets libFuzzer search for as long as it is told to. What it finds goes into `finds/TARGET/` once it is mended.

mod checkpoint;
mod config;
mod folder;
mod request;
mod template;
mod tokenizer;
mod tuning;

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A door.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its folders and of its libFuzzer binary.
    pub name: &'static str,
    /// Takes any bytes, and says whether they were of use. It panics if they do harm that can be told.
    pub run: fn(&[u8]) -> bool,
    /// How many mutations of an input the tests try: fewer where one takes long.
    pub mutations: usize,
}

/// All doors.
pub const TARGETS: [Target; 6] = [
    Target { name: "checkpoint", run: checkpoint::run, mutations: 100 },
    Target { name: "config", run: config::run, mutations: 200 },
    Target { name: "request", run: request::run, mutations: 20 },
    Target { name: "template", run: template::run, mutations: 30 },
    Target { name: "tokenizer", run: tokenizer::run, mutations: 50 },
    Target { name: "tuning", run: tuning::run, mutations: 200 },
];

impl Target {
    /// The target of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Good inputs to begin with, by path.
    ///
    /// # Errors
    ///
    /// If the folder or a file cannot be read.
    pub fn seeds(&self) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        files_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(self.name))
    }

    /// Inputs that once did harm, by path.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn finds(&self) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("finds").join(self.name);
        if folder.exists() { files_of(&folder) } else { Ok(Vec::new()) }
    }
}

fn files_of(folder: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    paths.into_iter().map(|path| fs::read(&path).map(|bytes| (path, bytes))).collect()
}

/// An input of two parts, which a byte 0 separates: no text of ours contains one.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}
