//! Compiles all kernels of a release and writes them into one file: `kernel_bundle FILE ARCHITECTURE...`.
//!
//! AMD's architectures need clang with its AMDGPU target and lld (`OCTET_CLANG`, else clang-22 and older), NVIDIA's need
//! NVRTC (`OCTET_NVRTC`, else where the loader finds it). `tools/kernels/build` says which architectures a release has.

use std::env;
use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use octet_gpu::{Architecture, BundleWriter, Kind, OfflineCompiler, Source};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Drivers of ROCm 6 load it too; clang's own default is newer.
const CODE_OBJECT_VERSION: &str = "-mcode-object-version=5";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done if standard error is closed.
            let _ = writeln!(std::io::stderr(), "kernel_bundle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let mut arguments = env::args_os().skip(1);
    let file = PathBuf::from(arguments.next().ok_or("usage: kernel_bundle FILE ARCHITECTURE...")?);
    let architectures = arguments
        .map(|name| Ok(Architecture::parse(&name.to_string_lossy())?))
        .collect::<Outcome<Vec<_>>>()?;
    if architectures.is_empty() {
        return Err("no architecture was named, such as gfx942 or sm_90".into());
    }
    let compilers = Compilers::find(&architectures)?;
    let mut modules = 0;
    let mut writer = BundleWriter::default();
    for architecture in architectures {
        let sources = Source::released(architecture);
        modules += sources.len();
        let codes = compile_all(&compilers, &sources, architecture);
        for (source, code) in sources.iter().zip(codes) {
            writer.add(source, architecture, &code?)?;
        }
    }
    let bytes = writer.finish();
    fs::write(&file, &bytes)?;
    let text = format!("{modules} modules, {} KiB in {}", bytes.len() >> 10, file.display());
    // Nothing can be done if standard error is closed.
    let _ = writeln!(std::io::stderr(), "kernel_bundle: {text}");
    Ok(())
}

/// The code of each source, compiled on all CPUs.
fn compile_all(
    compilers: &Compilers,
    sources: &[Source],
    architecture: Architecture,
) -> Vec<Outcome<Vec<u8>>> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some((index, source)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            sources.get(index).map(|source| (index, source))
        } {
            done.push((index, compilers.compile(source, architecture)));
        }
        done
    };
    let mut codes = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let done =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect::<Vec<_>>()
    });
    codes.sort_by_key(|(index, _)| *index);
    codes.into_iter().map(|(_, code)| code).collect()
}

/// The compilers that the architectures need.
struct Compilers {
    clang: Option<PathBuf>,
    nvrtc: Option<OfflineCompiler>,
    /// Of clang's input and output.
    folder: tempfile::TempDir,
}

impl Compilers {
    fn find(architectures: &[Architecture]) -> Outcome<Self> {
        let is_amd = |architecture: &&Architecture| matches!(architecture, Architecture::Gfx(_));
        let nvrtc = || {
            let path = env::var_os("OCTET_NVRTC").map(PathBuf::from);
            OfflineCompiler::load(Kind::Cuda, path.as_deref())
        };
        let has_amd = architectures.iter().any(|architecture| is_amd(&architecture));
        let has_nvidia = !architectures.iter().all(|architecture| is_amd(&architecture));
        Ok(Self {
            clang: if has_amd { Some(clang()?) } else { None },
            nvrtc: if has_nvidia { Some(nvrtc()?) } else { None },
            folder: tempfile::tempdir()?,
        })
    }

    fn compile(&self, source: &Source, architecture: Architecture) -> Outcome<Vec<u8>> {
        match (architecture, &self.clang, &self.nvrtc) {
            (Architecture::Gfx(_), Some(clang), _) => {
                compile_with_clang(clang, self.folder.path(), source, architecture)
            }
            (Architecture::Sm(_), _, Some(nvrtc)) => Ok(nvrtc.compile_portably(source, architecture)?.code),
            _ => Err(format!("no compiler for {}", architecture.name()).into()),
        }
    }
}

/// The newest clang.
fn clang() -> Outcome<PathBuf> {
    let named = env::var_os("OCTET_CLANG").map(PathBuf::from);
    let usual = ["clang-22", "clang-21", "clang-20", "clang-19", "clang"].map(PathBuf::from);
    named
        .into_iter()
        .chain(usual)
        .find(|clang| Command::new(clang).arg("--version").output().is_ok_and(|it| it.status.success()))
        .ok_or_else(|| "AMD's architectures need clang and lld, such as Debian's clang-22 and lld-22".into())
}

fn compile_with_clang(
    clang: &Path,
    folder: &Path,
    source: &Source,
    architecture: Architecture,
) -> Outcome<Vec<u8>> {
    let name = format!("{}-{}", source.title(), architecture.name());
    let (input, output) = (folder.join(&name).with_extension("hip"), folder.join(&name).with_extension("co"));
    fs::write(&input, source.text())?;
    let result = Command::new(clang)
        .args(["-x", "hip", "--cuda-device-only", "--no-gpu-bundle-output", "-nogpulib", "-nogpuinc"])
        .args([CODE_OBJECT_VERSION, "-Wno-pass-failed"])
        .args(architecture.options())
        .args(source.options())
        .arg("-o")
        .arg(&output)
        .arg(&input)
        .output()?;
    if !result.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&result.stderr)).into());
    }
    Ok(fs::read(&output)?)
}
