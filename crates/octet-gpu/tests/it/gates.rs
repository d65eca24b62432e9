//! Compile gates: every kernel, for every architecture, by the real compilers, within committed limits.
//!
//! AMD's architectures need clang with its AMDGPU target (Debian: clang-22, or clang-19 for all but gfx950; or
//! `OCTET_CLANG`), NVIDIA's need NVRTC (`OCTET_NVRTC`, or where the loader finds it; PyPI: nvidia-cuda-nvrtc). Where one
//! is missing its gate is not run, which the report at the end of the tests says. One that is named must be there.
//!
//! `gates/limits.csv` has what each kernel may use. `OCTET_GATES=write` writes it anew.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use octet_gpu::{Architecture, ElementType, Kind, OfflineCompiler, Source};

const AMD: [&str; 5] = ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"];
const NVIDIA: [&str; 3] = ["sm_80", "sm_89", "sm_90"];

/// What a kernel uses: vector registers a lane, registers spilled (bytes, on NVIDIA), bytes of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    registers: usize,
    spills: usize,
    shared_bytes: usize,
}

/// By architecture, module and kernel.
type Table = BTreeMap<(String, String, String), Usage>;

/// The modules that models use, and two of the exact ones.
fn sources(architecture: Architecture) -> Vec<Source> {
    use ElementType::{BF16, E4M3, E5M2, F16, F32};
    let mut sources = vec![Source::rows(), Source::sample()];
    for cache in [BF16, E4M3, E5M2] {
        sources.push(Source::rotary(128, cache));
        sources.push(Source::attention(128, cache));
    }
    for head_dim in [64, 256] {
        sources.extend([BF16, E4M3].map(|cache| Source::attention(head_dim, cache)));
    }
    sources.extend([BF16, F16, F32, E4M3, E5M2].map(|weight| Source::linear(weight, BF16, false)));
    sources.extend([E4M3, E5M2].map(|weight| Source::linear(weight, BF16, true)));
    sources.extend([BF16, F32].map(|weight| Source::linear(weight, F32, false)));
    if architecture.multiplies_float8() {
        sources.extend([Source::quantize(), Source::linear_float8()]);
    }
    sources
}

fn limits_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("gates/limits.csv")
}

fn read_limits() -> Table {
    let text = fs::read_to_string(limits_path()).unwrap_or_default();
    let lines = text.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split(';').collect();
        let [architecture, module, kernel, registers, spills, shared_bytes] = fields[..] else {
            panic!("six fields in {line:?}");
        };
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("a number in {line:?}"));
        let usage = Usage {
            registers: number(registers),
            spills: number(spills),
            shared_bytes: number(shared_bytes),
        };
        ((architecture.to_owned(), module.to_owned(), kernel.to_owned()), usage)
    });
    lines.collect()
}

/// Runs `compile` for all architectures and sources on all CPUs, and gathers what kernels use.
fn compile_all(
    architectures: &[&str],
    compile: impl Fn(Architecture, &Source) -> Vec<(String, Usage)> + Sync,
) -> Table {
    let jobs: Vec<(&str, Architecture, Source)> = architectures
        .iter()
        .flat_map(|&name| {
            let architecture = Architecture::parse(name).unwrap();
            sources(architecture).into_iter().map(move |source| (name, architecture, source))
        })
        .collect();
    let (next, table) = (AtomicUsize::new(0), Mutex::new(Table::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((name, architecture, source)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let usages = compile(*architecture, source);
                    assert!(!usages.is_empty(), "{} for {name} has no kernels", source.title());
                    for (kernel, usage) in usages {
                        table.lock().unwrap().insert(((*name).to_owned(), source.title(), kernel), usage);
                    }
                }
            });
        }
    });
    table.into_inner().unwrap()
}

/// Holds a table against the limits of its architectures, or writes them.
fn check(found: &Table, architectures: &[&str]) {
    // Two tests write one file.
    static FILE: Mutex<()> = Mutex::new(());
    let _file = FILE.lock().unwrap();
    let mut limits = read_limits();
    if let Ok(mode) = env::var("OCTET_GATES") {
        assert_eq!(
            mode, "write",
            "OCTET_GATES may be `write`; OCTET_REQUIRE_COMPILERS=1 requires the compilers"
        );
        limits.retain(|(architecture, ..), _| !architectures.contains(&architecture.as_str()));
        limits.extend(found.clone());
        let mut text = "architecture;module;kernel;registers;spills;shared_bytes\n".to_owned();
        for ((architecture, module, kernel), usage) in &limits {
            let Usage { registers, spills, shared_bytes } = usage;
            writeln!(text, "{architecture};{module};{kernel};{registers};{spills};{shared_bytes}").unwrap();
        }
        fs::write(limits_path(), text).unwrap();
        return;
    }
    let mut faults = String::new();
    for (key, usage) in found {
        let Some(limit) = limits.get(key) else {
            writeln!(faults, "{key:?} has no limit; it uses {usage:?}").unwrap();
            continue;
        };
        // Another version of the compiler may allocate a little differently; spills and memory are exact.
        let is_within = usage.registers <= limit.registers + limit.registers / 8
            && usage.spills <= limit.spills
            && usage.shared_bytes <= limit.shared_bytes;
        if !is_within {
            writeln!(faults, "{key:?} uses {usage:?} where {limit:?} is allowed").unwrap();
        }
    }
    for key in limits.keys().filter(|(architecture, ..)| architectures.contains(&architecture.as_str())) {
        if !found.contains_key(key) {
            writeln!(faults, "{key:?} has a limit and is not compiled").unwrap();
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// The newest clang with AMD's target, and its version; or why there is none.
fn clang() -> Result<(PathBuf, u32), String> {
    let usable = |clang: &Path| {
        let version = Command::new(clang).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&version.stdout).into_owned();
        let number = text.split("version ").nth(1)?.split('.').next()?.parse().ok()?;
        let targets = Command::new(clang).arg("--print-targets").output().ok()?;
        let has_target = String::from_utf8_lossy(&targets.stdout).contains("amdgcn");
        has_target.then(|| (clang.to_path_buf(), number))
    };
    if let Some(named) = env::var_os("OCTET_CLANG").filter(|name| !name.is_empty()).map(PathBuf::from) {
        let named = usable(&named)
            .unwrap_or_else(|| panic!("OCTET_CLANG names {}, no clang with AMD's target", named.display()));
        return Ok(named);
    }
    let usual = ["clang-22", "clang-21", "clang-20", "clang-19", "clang"].map(Path::new);
    usual.into_iter().find_map(usable).ok_or_else(|| {
        "there is no clang with AMD's target (Debian: apt-get install clang-22, or clang-19)".to_owned()
    })
}

/// The numbers behind a kernel's metadata, which clang writes below its assembly.
fn usages_of(assembly: &str) -> Vec<(String, Usage)> {
    let metadata = assembly.rsplit("amdhsa.kernels:").next().unwrap_or_default();
    metadata
        .split("\n  - ")
        .filter_map(|kernel| {
            let field = |name: &str| {
                let line =
                    kernel.lines().find(|line| line.trim_start_matches([' ', '-']).starts_with(name))?;
                Some(line.split(':').next_back()?.trim().to_owned())
            };
            let number = |name: &str| field(name)?.parse::<usize>().ok();
            let usage = Usage {
                registers: number(".vgpr_count:")?,
                spills: number(".vgpr_spill_count:")? + number(".sgpr_spill_count:")?,
                shared_bytes: number(".group_segment_fixed_size:")?,
            };
            Some((field(".symbol:")?.trim_end_matches(".kd").to_owned(), usage))
        })
        .collect()
}

#[test]
fn kernels_compile_for_amd_within_their_limits() {
    let (clang, version) = octet_unrun::needs!(clang());
    let folder = tempfile::tempdir().unwrap();
    let mut architectures = AMD.to_vec();
    if version < 20 {
        let missing = format!("clang {version} does not know gfx950: that needs clang 20 or newer");
        octet_unrun::not_run(env!("CARGO_PKG_NAME"), &missing);
        architectures.retain(|&name| name != "gfx950");
    }
    let found = compile_all(&architectures, |architecture, source| {
        let input = folder.path().join(format!("{}-{}.hip", source.title(), architecture.name()));
        fs::write(&input, source.text()).unwrap();
        let output = Command::new(&clang)
            .args(["-x", "hip", "--cuda-device-only", "-nogpulib", "-nogpuinc", "-S", "-o", "-"])
            .args(["-Wall", "-Werror", "-Wno-unused-function", "-Wno-pass-failed"])
            .args(architecture.options())
            .args(source.options())
            .arg(&input)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} for {}:\n{log}", source.title(), architecture.name());
        usages_of(&String::from_utf8_lossy(&output.stdout))
    });
    check(&found, &architectures);
}

/// NVIDIA's compiler, or why there is none.
fn nvrtc() -> Result<OfflineCompiler, String> {
    let named = env::var_os("OCTET_NVRTC").filter(|name| !name.is_empty()).map(PathBuf::from);
    let loaded = OfflineCompiler::load(Kind::Cuda, named.as_deref());
    loaded.map_err(|error| {
        assert!(named.is_none(), "OCTET_NVRTC: {error}");
        "there is no NVRTC (PyPI: nvidia-cuda-nvrtc; OCTET_NVRTC names its file)".to_owned()
    })
}

/// Registers, spills and shared memory from the log of ptxas.
fn usages_of_log(log: &str) -> Vec<(String, Usage)> {
    let before = |text: &str, unit: &str| -> usize {
        let number = text.split(unit).next().and_then(|text| text.trim_end().rsplit([' ', ',']).next());
        number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    log.split("Compiling entry function '")
        .skip(1)
        .map(|entry| {
            let name = entry.split('\'').next().unwrap_or_default().to_owned();
            let used = entry.lines().find(|line| line.contains("Used ")).unwrap_or_default();
            let spilled = entry.lines().find(|line| line.contains("spill stores")).unwrap_or_default();
            let shared_bytes = if used.contains(" bytes smem") { before(used, " bytes smem") } else { 0 };
            let usage = Usage {
                registers: before(used, " registers"),
                spills: before(spilled, " bytes spill stores"),
                shared_bytes,
            };
            (name, usage)
        })
        .collect()
}

#[test]
fn kernels_compile_for_nvidia_within_their_limits() {
    let compiler = octet_unrun::needs!(nvrtc());
    let found = compile_all(&NVIDIA, |architecture, source| {
        let compiled = compiler.compile(source, architecture, &["--ptxas-options=-v"]);
        let compiled = compiled.unwrap_or_else(|error| panic!("{error}"));
        assert!(compiled.code.starts_with(b"\x7fELF"), "{} is no code", source.title());
        usages_of_log(&compiled.log)
    });
    check(&found, &NVIDIA);
}

#[test]
fn the_logs_of_both_compilers_are_understood() {
    let assembly = "\t.amdgpu_metadata\n---\namdhsa.kernels:\n  - .agpr_count:     0\n    .group_segment_fixed_size: 4352\n    \
        .sgpr_spill_count: 1\n    .symbol:         linear_skinny.kd\n    .vgpr_count:     28\n    .vgpr_spill_count: 2\n";
    let usage = Usage { registers: 28, spills: 3, shared_bytes: 4352 };
    assert_eq!(usages_of(assembly), [("linear_skinny".to_owned(), usage)]);
    let log = "ptxas info    : Compiling entry function 'gate' for 'sm_80'\nptxas         .     16 bytes stack frame, 12 \
        bytes spill stores, 20 bytes spill loads\nptxas info    : Used 18 registers, used 1 barriers, 16 bytes cumulative \
        stack size, 36928 bytes smem, 392 bytes cmem[0]";
    let usage = Usage { registers: 18, spills: 12, shared_bytes: 36_928 };
    assert_eq!(usages_of_log(log), [("gate".to_owned(), usage)]);
}
