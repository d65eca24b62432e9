//! From a kernel's source to a code object: a compiler for the host, with the simulator's headers before the source.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::module::code_object;
use crate::profile::{Float8, Profile, of_name};
use crate::settings::settings;

/// What comes before every kernel's source.
const HEADERS: [(&str, &str); 4] = [
    ("lane.h", include_str!("../device/lane.h")),
    ("number.h", include_str!("../device/number.h")),
    ("wave.h", include_str!("../device/wave.h")),
    ("matrix.h", include_str!("../device/matrix.h")),
];

/// Compilers that are looked for, in this order. GCC lacks the vector types that AMD's builtins take.
const COMPILERS: [&str; 8] = [
    "clang++-22",
    "clang++-21",
    "clang++-20",
    "clang++-19",
    "clang++-18",
    "clang++-17",
    "clang++-16",
    "clang++",
];

/// Why there is no code object. The text goes into the program's log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CompileError {
    /// An option is not known, or names an architecture that is not.
    Option(String),
    /// There is no compiler, or it cannot be started.
    Compiler(String),
    /// The source is wrong: what the compiler says.
    Source(String),
}

/// What a kernel is compiled for.
#[derive(Debug)]
struct Options {
    profile: &'static Profile,
    /// Definitions and other options that the host's compiler gets as they are.
    passed: Vec<String>,
}

fn parse(options: &[String]) -> Result<Options, CompileError> {
    let mut profile = None;
    let mut passed = Vec::new();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        if let Some(name) =
            option.strip_prefix("--offload-arch=").or(option.strip_prefix("--gpu-architecture="))
        {
            let unknown =
                || CompileError::Option(format!("the simulator does not know the architecture {name}"));
            profile = Some(of_name(name).ok_or_else(unknown)?);
        } else if option == "-D" || option == "-U" {
            let name =
                options.next().ok_or_else(|| CompileError::Option(format!("{option} lacks a name")))?;
            passed.push(format!("{option}{name}"));
        } else if ["-D", "-U", "-std=", "-W", "-f"].iter().any(|known| option.starts_with(known)) {
            passed.push(option.clone());
        } else if !option.starts_with("-O") {
            return Err(CompileError::Option(format!("the simulator does not know the option {option}")));
        }
    }
    let profile = profile.ok_or_else(|| {
        CompileError::Option(
            "the option --offload-arch= is missing: the host has no architecture of a GPU".to_owned(),
        )
    })?;
    Ok(Options { profile, passed })
}

/// The oldest clang that has arithmetic on 16-bit types.
const OLDEST_VERSION: u32 = 16;

/// A compiler that starts and is new enough, with what it says of its version.
#[derive(Clone, Debug)]
struct Compiler {
    path: PathBuf,
    version: String,
}

fn try_compiler(path: &Path) -> Option<Compiler> {
    let output = Command::new(path).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = version_of_clang(&version)?;
    (output.status.success() && number >= OLDEST_VERSION).then(|| Compiler { path: path.to_owned(), version })
}

/// The 19 of `Debian clang version 19.1.7`.
fn version_of_clang(text: &str) -> Option<u32> {
    text.split_once("clang version ")?.1.split('.').next()?.parse().ok()
}

/// The compiler, looked for once.
fn compiler() -> Result<&'static Compiler, CompileError> {
    static FOUND: OnceLock<Result<Compiler, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| match &settings().compiler {
        Some(path) => try_compiler(path).ok_or_else(|| {
            format!(
                "OCTET_HIPSIM_CXX names {}, which is no clang++ from {OLDEST_VERSION} on that starts",
                path.display()
            )
        }),
        None => COMPILERS.iter().find_map(|name| try_compiler(Path::new(name))).ok_or_else(|| {
            format!(
                "the simulator needs a clang++ from {OLDEST_VERSION} on and found none of {}; on Debian 12: \
                 apt-get install clang-19, or set OCTET_HIPSIM_CXX",
                COMPILERS.join(", ")
            )
        }),
    });
    found.as_ref().map_err(|message| CompileError::Compiler(message.clone()))
}

/// Whether there is a compiler, or why not. One that was named counts as there, so that what is wrong with it is no reason
/// to leave tests out.
pub(crate) fn availability() -> Result<(), String> {
    match compiler() {
        Err(_) if settings().compiler.is_none() => Err(format!(
            "there is no clang++ from {OLDEST_VERSION} on (Debian: apt-get install clang-22, or clang-19)"
        )),
        _ => Ok(()),
    }
}

/// The instruction set that kernels are compiled to.
fn machine() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        let wide = std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
            && std::arch::is_x86_feature_detected!("bmi2");
        if wide { "-march=x86-64-v3" } else { "-march=x86-64" }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        "-O2"
    }
}

fn arguments(options: &Options) -> Vec<String> {
    let Profile { name, wave, float8, .. } = options.profile;
    let hexadecimal = name.trim_start_matches("gfx");
    let float8 = match float8 {
        Float8::None => 0,
        Float8::Fnuz => 1,
        Float8::Ocp => 2,
    };
    let mut arguments: Vec<String> = ["-x", "c++", "-std=c++17", "-O2", machine(), "-shared", "-fPIC"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    // Bounds of arrays are checked, because LDS has no guard pages between its variables.
    arguments.extend(
        [
            "-fsanitize=array-bounds",
            "-fsanitize-trap=array-bounds",
            "-fvisibility=hidden",
            "-fno-exceptions",
            "-fno-rtti",
            "-fno-strict-aliasing",
            "-nostdlib++",
            "-Wall",
            "-Wno-unused",
            "-Wno-unknown-attributes",
            "-Wno-unknown-pragmas",
            "-Wno-pass-failed",
        ]
        .map(str::to_owned),
    );
    arguments.push(format!("-DHIPSIM_GFX=0x{hexadecimal}"));
    arguments.push(format!("-DHIPSIM_WAVE={wave}"));
    arguments.push(format!("-DHIPSIM_FLOAT8={float8}"));
    arguments.extend(options.passed.iter().cloned());
    arguments
}

/// Headers and source as one text. Messages name the kernel's own file and lines.
fn whole_source(source: &str, name: &str) -> String {
    let mut whole = String::new();
    for (header, text) in HEADERS {
        whole.push_str(&format!("#line 1 \"hipsim/{header}\"\n{text}\n"));
    }
    let name = name.replace(['"', '\\', '\n'], "_");
    whole.push_str(&format!("#line 1 \"{name}\"\n{source}\n"));
    whole
}

/// Where compiled kernels are kept: beside the library, which in tests is Cargo's folder of build outputs.
fn cache_folder() -> PathBuf {
    let beside = || crate::own_path().and_then(|path| Some(path.parent()?.join("octet-hipsim-cache")));
    settings()
        .cache
        .clone()
        .or_else(beside)
        .unwrap_or_else(|| std::env::temp_dir().join("octet-hipsim-cache"))
}

fn key(compiler: &Compiler, arguments: &[String], source: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(&compiler.version);
    for argument in arguments {
        hash.update([0]);
        hash.update(argument);
    }
    hash.update([0]);
    hash.update(source);
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A name that no other thread or process uses at this time.
fn unique(folder: &Path, key: &str, extension: &str) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{key}.{}.{number}.{extension}", std::process::id()))
}

/// A compilation's code object, and what the compiler had to say (warnings).
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) code: Vec<u8>,
    pub(crate) log: String,
}

/// Compiles a kernel source, or takes it from the cache.
pub(crate) fn compile(source: &str, name: &str, options: &[String]) -> Result<Compiled, CompileError> {
    let options = parse(options)?;
    let compiler = compiler()?;
    let source = whole_source(source, name);
    let arguments = arguments(&options);
    let folder = cache_folder();
    std::fs::create_dir_all(&folder).map_err(|error| cannot("make the folder", &folder, &error))?;
    let key = key(compiler, &arguments, &source);
    let kept = folder.join(format!("{key}.so"));
    if let Ok(library) = std::fs::read(&kept) {
        return Ok(Compiled { code: code_object(options.profile, &library), log: String::new() });
    }
    let source_path = unique(&folder, &key, "cpp");
    let library_path = unique(&folder, &key, "tmp");
    std::fs::write(&source_path, &source).map_err(|error| cannot("write", &source_path, &error))?;
    let paths = [OsString::from("-o"), library_path.clone().into(), source_path.clone().into(), "-lm".into()];
    let output = Command::new(&compiler.path).args(&arguments).args(paths).output();
    // What remains of it would only fill the disk.
    let _ = std::fs::remove_file(&source_path);
    let output = output.map_err(|error| cannot("start", &compiler.path, &error))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        let _ = std::fs::remove_file(&library_path);
        return Err(CompileError::Source(log));
    }
    let library = std::fs::read(&library_path).map_err(|error| cannot("read", &library_path, &error))?;
    // Renaming is atomic: another process sees the whole file or none.
    std::fs::rename(&library_path, &kept).map_err(|error| cannot("write", &kept, &error))?;
    Ok(Compiled { code: code_object(options.profile, &library), log })
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> CompileError {
    CompileError::Compiler(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Result<Options, CompileError> {
        parse(&list.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_version_of_clang_is_read_and_no_other_compiler_has_one() {
        assert_eq!(version_of_clang("Debian clang version 19.1.7 (3)\nTarget: x86_64"), Some(19));
        assert_eq!(version_of_clang("clang version 14.0.6\n"), Some(14));
        assert_eq!(version_of_clang("g++ (Debian 12.2.0-14) 12.2.0\n"), None);
    }

    #[test]
    fn options_name_an_architecture_and_definitions() {
        let parsed = options(&["--offload-arch=gfx942:xnack-", "-O3", "-DWAVE=64", "-D", "X"]).unwrap();
        assert_eq!(parsed.profile.name, "gfx942");
        assert_eq!(parsed.passed, ["-DWAVE=64", "-DX"]);
        assert!(
            matches!(options(&["--offload-arch=gfx803"]), Err(CompileError::Option(text)) if text.contains("gfx803"))
        );
        assert!(
            matches!(options(&["-O3"]), Err(CompileError::Option(text)) if text.contains("--offload-arch"))
        );
        assert!(matches!(options(&["--fancy"]), Err(CompileError::Option(text)) if text.contains("--fancy")));
    }
}
