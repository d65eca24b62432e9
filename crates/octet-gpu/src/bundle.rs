//! Code that was made at release time, for machines without a run-time compiler.
//!
//! A bundle is a file: a first line, a line for each module (`key;architecture;title;offset;bytes;code bytes;hash`), an
//! empty line, then the modules, each compressed by itself. A key is the hash of source and options, so that code of
//! other sources is never taken. It is looked for in the file that the user names, then beside the program, then inside
//! of it (`OCTET_KERNEL_BUNDLE` at build time).

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::{env, fs, str};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use sha2::{Digest, Sha256};

use crate::architecture::Architecture;
use crate::cache::CodeCache;
use crate::kernels::{self, Source};

/// The first line; the number changes with the layout.
const FIRST_LINE: &str = "octet-kernels 1";
/// The name of a bundle beside the program.
const FILE_NAME: &str = "octet-kernels.bundle";
/// No module is as large; a damaged length must not take all memory.
const MOST_BYTES: usize = 64 << 20;
/// The bundle inside the program, empty unless the build was told of one.
static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.bundle"));

/// Makes a bundle.
#[derive(Debug, Default)]
pub struct BundleWriter {
    index: String,
    modules: Vec<u8>,
}

impl BundleWriter {
    /// Adds a module's code.
    ///
    /// # Errors
    /// It cannot be compressed.
    pub fn add(
        &mut self,
        source: &Source,
        architecture: Architecture,
        code: &[u8],
    ) -> Result<(), std::io::Error> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(code)?;
        let packed = encoder.finish()?;
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.index,
            "{};{};{};{};{};{};{}",
            key(source, &source.text(), architecture),
            architecture.name(),
            source.title(),
            self.modules.len(),
            packed.len(),
            code.len(),
            hash_of(code)
        );
        self.modules.extend(packed);
        Ok(())
    }

    /// The file.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut file = format!("{FIRST_LINE}\n{}\n", self.index).into_bytes();
        file.extend(self.modules);
        file
    }
}

fn key(source: &Source, text: &str, architecture: Architecture) -> String {
    let options: Vec<String> = kernels::all_options(source, architecture).collect();
    CodeCache::key(&[text, &options.join(" ")])
}

fn hash_of(code: &[u8]) -> String {
    Sha256::digest(code).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// A module's place in a bundle.
struct Entry<'a> {
    key: &'a str,
    architecture: &'a str,
    packed: &'a [u8],
    bytes: usize,
    hash: &'a str,
}

/// The entries of a bundle, or what is wrong with it.
fn entries(file: &[u8]) -> Result<Vec<Entry<'_>>, String> {
    const END: &[u8] = b"\n\n";
    let damaged = || "it is damaged".to_owned();
    let end = file.windows(END.len()).position(|pair| pair == END).ok_or_else(damaged)?;
    let (index, modules) = (&file[..end], &file[end + END.len()..]);
    let mut lines = str::from_utf8(index).map_err(|_| damaged())?.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err(format!("its first line is not {FIRST_LINE:?}"));
    }
    let entry = |line| {
        let fields: Vec<&str> = str::split(line, ';').collect();
        let [key, architecture, _title, offset, length, bytes, hash] = fields[..] else { return None };
        let (offset, length): (usize, usize) = (offset.parse().ok()?, length.parse().ok()?);
        let packed = modules.get(offset..offset.checked_add(length)?)?;
        Some(Entry { key, architecture, packed, bytes: bytes.parse().ok()?, hash })
    };
    lines.map(|line| entry(line).ok_or_else(damaged)).collect()
}

impl Entry<'_> {
    fn code(&self) -> Result<Vec<u8>, String> {
        let damaged = || "its code is damaged".to_owned();
        let mut code = Vec::new();
        let limit = self.bytes.min(MOST_BYTES) as u64 + 1;
        DeflateDecoder::new(self.packed).take(limit).read_to_end(&mut code).map_err(|_| damaged())?;
        if code.len() == self.bytes && hash_of(&code) == self.hash { Ok(code) } else { Err(damaged()) }
    }
}

/// The code of a module in a bundle.
fn find_in(file: &[u8], (source, text): (&Source, &str), wanted: Architecture) -> Result<Vec<u8>, String> {
    let entries = entries(file)?;
    let mut known: Vec<Architecture> =
        entries.iter().filter_map(|entry| Architecture::parse(entry.architecture).ok()).collect();
    known.retain(|&made_for| runs(made_for, wanted));
    // The newest first: it knows most of what the device can do.
    known.sort_by_key(|made_for| match made_for {
        Architecture::Gfx(digits) => *digits,
        Architecture::Sm(capability) => *capability,
    });
    known.reverse();
    known.dedup();
    if known.is_empty() {
        return Err("it has nothing for this architecture".to_owned());
    }
    for made_for in known {
        let key = key(source, text, made_for);
        if let Some(entry) = entries.iter().find(|entry| entry.key == key) {
            return entry.code();
        }
    }
    Err("it was made of other sources, or for other types and sizes of heads".to_owned())
}

/// Whether a device runs code that was made for another: AMD's only its own, NVIDIA's also that of older ones.
fn runs(made_for: Architecture, device: Architecture) -> bool {
    match (made_for, device) {
        (Architecture::Sm(older), Architecture::Sm(capability)) => older <= capability,
        (made_for, device) => made_for == device,
    }
}

/// The code of a module: from the file that was named, or from one beside the program, or from inside of it.
///
/// # Errors
/// What is wrong with each of them.
pub(crate) fn find(
    named: Option<&Path>,
    source: (&Source, &str),
    architecture: Architecture,
) -> Result<Vec<u8>, String> {
    let beside = env::current_exe().ok().and_then(|program| Some(program.parent()?.join(FILE_NAME)));
    let mut reasons = Vec::new();
    for path in named.map(Path::to_path_buf).into_iter().chain(beside) {
        let found = fs::read(&path).map_err(|error| error.to_string());
        match found.and_then(|file| find_in(&file, source, architecture)) {
            Ok(code) => return Ok(code),
            Err(reason) => reasons.push(format!("{}: {reason}", path.display())),
        }
    }
    if EMBEDDED.is_empty() {
        reasons.push("this program was built without kernels inside".to_owned());
    } else {
        match find_in(EMBEDDED, source, architecture) {
            Ok(code) => return Ok(code),
            Err(reason) => reasons.push(format!("the kernels inside this program: {reason}")),
        }
    }
    Err(reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ElementType;

    fn bundle(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = BundleWriter::default();
        for (architecture, code) in parts {
            writer.add(&Source::rows(), Architecture::parse(architecture).unwrap(), code).unwrap();
        }
        writer.finish()
    }

    fn find_rows(file: &[u8], architecture: &str) -> Result<Vec<u8>, String> {
        let source = Source::rows();
        find_in(file, (&source, &source.text()), Architecture::parse(architecture).unwrap())
    }

    #[test]
    fn what_was_put_in_is_found() {
        let file = bundle(&[("gfx942", b"for an MI300X"), ("gfx950", b"for an MI355X")]);
        assert_eq!(find_rows(&file, "gfx942").as_deref(), Ok(&b"for an MI300X"[..]));
        assert_eq!(find_rows(&file, "gfx950").as_deref(), Ok(&b"for an MI355X"[..]));
        assert!(find_rows(&file, "gfx90a").unwrap_err().contains("nothing for this architecture"));
        let other = Source::attention(64, ElementType::BF16);
        let gfx942 = Architecture::parse("gfx942").unwrap();
        assert!(find_in(&file, (&other, &other.text()), gfx942).unwrap_err().contains("other sources"));
        let rows = Source::rows();
        assert!(find_in(&file, (&rows, "a changed source"), gfx942).is_err());
    }

    #[test]
    fn nvidia_takes_the_newest_that_is_not_too_new() {
        let file = bundle(&[("sm_80", b"80"), ("sm_90", b"90"), ("sm_89", b"89")]);
        for (device, expected) in [("sm_80", "80"), ("sm_86", "80"), ("sm_89", "89"), ("sm_100", "90")] {
            assert_eq!(find_rows(&file, device).as_deref(), Ok(expected.as_bytes()), "{device}");
        }
        assert!(find_rows(&bundle(&[("sm_90", b"90")]), "sm_80").is_err());
    }

    #[test]
    fn every_damage_is_noticed() {
        let file = bundle(&[("gfx942", b"some code that is long enough to be compressed, compressed")]);
        for position in 0..file.len() {
            let mut damaged = file.clone();
            damaged[position] ^= 1;
            let found = find_rows(&damaged, "gfx942");
            // The title is for people.
            let expected = find_rows(&file, "gfx942");
            assert!(found.is_err() || found == expected, "byte {position}");
            assert!(find_rows(&file[..position], "gfx942").is_err(), "cut after {position}");
        }
        assert!(find_rows(b"", "gfx942").is_err());
        assert!(find_rows(b"octet-kernels 2\n\n", "gfx942").unwrap_err().contains("first line"));
    }
}
