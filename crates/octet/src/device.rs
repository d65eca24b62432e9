//! `--device`: which device computes, and `octet devices`: what there is on this machine and what is missing.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use octet_backend::{Backend as _, TunableBackend};
use octet_cpu::{CpuBackend, CpuOptions};
use octet_gpu::{BlasOptions, GpuBackend, GpuOptions, Kind, Runtime};
use octet_tune::LibraryChoice;

use crate::cli::{Device, EngineArgs};
use crate::{report, settings};

/// A library that stands for HIP, hiprtc and hipBLASLt.
const HIP_VARIABLE: &str = "OCTET_HIP_LIBRARY";
/// Kernels that were made at release time, for machines without hiprtc or NVRTC.
const BUNDLE_VARIABLE: &str = "OCTET_KERNEL_BUNDLE";
/// Folder of compiled kernels.
const CACHE_VARIABLE: &str = "OCTET_KERNEL_CACHE";

/// What is done on a device, whichever it is.
pub(crate) trait DeviceTask {
    /// What comes of it.
    type Output;

    /// Does it on the device that `open` opens, which may be done on another thread.
    ///
    /// # Errors
    /// Those of the task, and a device that cannot be opened.
    fn run<B: TunableBackend>(self, open: impl FnOnce() -> Result<B> + Send) -> Result<Self::Output>;
}

/// A device that was chosen, and how to open it: what the flags mean.
#[derive(Clone, Debug)]
pub(crate) enum DevicePlan {
    /// The CPU.
    Cpu(CpuOptions),
    /// This GPU.
    Gpu(octet_gpu::Device, GpuOptions),
}

impl DevicePlan {
    /// What the flags ask for; `library` is the BLAS library of GPUs.
    ///
    /// # Errors
    /// The device that was asked for is not there, or a flag is for the other kind.
    pub(crate) fn new(arguments: &EngineArgs, library: &LibraryChoice) -> Result<Self> {
        let gpu = choose(arguments.device)?;
        check_flags(gpu.is_some(), arguments)?;
        Self::of(gpu, arguments.threads, arguments.step_timeout, library)
    }

    /// A device as it is without flags.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn plain(wanted: Device) -> Result<Self> {
        Self::of(choose(wanted)?, None, None, &LibraryChoice::default())
    }

    fn of(
        gpu: Option<octet_gpu::Device>,
        threads: Option<usize>,
        step_timeout: Option<u64>,
        library: &LibraryChoice,
    ) -> Result<Self> {
        match gpu {
            None => settings::cpu_with_threads(threads).map(Self::Cpu),
            Some(gpu) => Ok(Self::Gpu(gpu, gpu_options(library, step_timeout))),
        }
    }

    /// Does a task on it.
    ///
    /// # Errors
    /// Those of the task, and a device that cannot be opened.
    pub(crate) fn run<T: DeviceTask>(self, task: T) -> Result<T::Output> {
        match self {
            Self::Cpu(options) => task.run(move || Ok(CpuBackend::new(&options)?)),
            Self::Gpu(gpu, options) => task.run(move || open_gpu(gpu, &options)),
        }
    }
}

/// Refuses flags that are for the other kind of device.
///
/// # Errors
/// Such a flag.
pub(crate) fn check_flags(is_gpu: bool, arguments: &EngineArgs) -> Result<()> {
    match (is_gpu, arguments.threads, arguments.step_timeout) {
        (true, Some(threads), _) => bail!(
            "--threads {threads} is for the CPU, and this runs on a GPU; leave it out, or choose --device cpu"
        ),
        (false, _, Some(seconds)) => bail!(
            "--step-timeout {seconds} is for GPUs, and this runs on the CPU; leave it out, or name a GPU with --device"
        ),
        _ => Ok(()),
    }
}

/// Turns `--device` into a GPU, or none for the CPU. `auto` takes a GPU if one can be used.
///
/// # Errors
/// The device that was asked for is not there; the message says what was looked for.
fn choose(wanted: Device) -> Result<Option<octet_gpu::Device>> {
    match wanted {
        Device::Cpu => Ok(None),
        Device::Hip => find(Kind::Hip).context("--device hip").map(Some),
        Device::Cuda => find(Kind::Cuda).context("--device cuda").map(Some),
        Device::Auto => Ok(automatic()),
    }
}

/// The first GPU that has kernels, AMD's before NVIDIA's, else the CPU; and a word about each GPU that cannot be used.
///
/// No GPU has yet run Octet outside of simulation. What keeps a wrong answer from its user is the self-test at start,
/// which ends the program instead.
fn automatic() -> Option<octet_gpu::Device> {
    for kind in [Kind::Hip, Kind::Cuda] {
        // A machine without the library, or with the library and no device, is the usual case and not worth a word.
        let Ok(runtime) = load(kind) else { continue };
        if !runtime.devices().is_ok_and(|devices| !devices.is_empty()) {
            continue;
        }
        match first(&runtime) {
            Ok(device) => {
                report::line(format_args!(
                    "a GPU was found and is used ({}); its kernels were verified in simulation, not yet on hardware: \
                     `octet selftest --device {}` tries all of them, --device cpu keeps off it",
                    runtime.describe(),
                    kind.name()
                ));
                return Some(device);
            }
            Err(error) => report::line(format_args!("{}: {error:#}; it is not used", kind.name())),
        }
    }
    None
}

fn hip_library() -> Option<PathBuf> {
    variable(HIP_VARIABLE)
}

/// A path that the environment names.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn load(kind: Kind) -> Result<Runtime> {
    let path = if kind == Kind::Hip { hip_library() } else { None };
    Ok(Runtime::load(kind, path.as_deref())?)
}

fn find(kind: Kind) -> Result<octet_gpu::Device> {
    first(&load(kind)?)
}

/// The first device that has kernels.
fn first(runtime: &Runtime) -> Result<octet_gpu::Device> {
    let devices = runtime.devices()?;
    if let Some(device) = devices.iter().find(|device| device.refusal.is_none()) {
        return Ok(runtime.open(device.index)?);
    }
    let refusals = devices.iter().map(|device| {
        let refusal = device.refusal.as_deref().unwrap_or_default();
        format!("device {}, {}: {refusal}", device.index, device.name)
    });
    let refusals: Vec<String> = refusals.collect();
    if refusals.is_empty() {
        bail!("{} shows no device", runtime.describe());
    }
    bail!("no device can be used: {}", refusals.join("; "))
}

/// How a GPU is opened, with kernels kept in the user's cache folder. `step_timeout` is what was typed, in seconds.
fn gpu_options(library: &LibraryChoice, step_timeout: Option<u64>) -> GpuOptions {
    GpuOptions {
        kernel_cache: kernel_cache(),
        kernel_bundle: variable(BUNDLE_VARIABLE),
        step_limit: settings::step_limit(step_timeout),
        blas: BlasOptions {
            is_off: library.is_enabled == Some(false),
            library: None,
            workspace_bytes: library.workspace_bytes,
        },
        ..GpuOptions::default()
    }
}

/// A backend on a GPU.
///
/// # Errors
/// Of the driver or the compiler.
pub(crate) fn open_gpu(device: octet_gpu::Device, options: &GpuOptions) -> Result<GpuBackend> {
    GpuBackend::new(device, options).context("the GPU cannot be used (--device cpu keeps off it)")
}

/// `OCTET_KERNEL_CACHE`, else `octet/kernels` in the user's cache folder.
fn kernel_cache() -> Option<PathBuf> {
    variable(CACHE_VARIABLE).or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(cache.join("octet/kernels"))
    })
}

/// `octet devices`.
///
/// # Errors
/// The CPU backend cannot start.
pub(crate) fn list() -> Result<()> {
    let mut text = String::new();
    for report in octet_gpu::survey(hip_library().as_deref()) {
        let name = report.kind.name();
        match report.runtime {
            Ok(runtime) => {
                text.push_str(&format!("{name}: {runtime}\n"));
                match report.blas {
                    Ok(blas) => text.push_str(&format!("  {blas}\n")),
                    Err(error) => text.push_str(&format!("  {error}\n  Octet's own kernels do all\n")),
                }
            }
            Err(error) => text.push_str(&format!("{name}: not usable: {error}\n")),
        }
        match report.devices {
            Ok(devices) => {
                for device in devices {
                    let state = device.refusal.unwrap_or_else(|| "supported".to_owned());
                    text.push_str(&format!(
                        "  {name} {}: {} ({}), {} units: {state}\n",
                        device.index, device.name, device.architecture, device.units
                    ));
                }
            }
            Err(error) => text.push_str(&format!("  devices cannot be listed: {error}\n")),
        }
    }
    let cpu = CpuBackend::new(&settings::cpu_with_threads(None)?)?.info();
    text.push_str(&format!("cpu: {}, {} threads, {} kernels\n", cpu.name, cpu.units, cpu.architecture));
    report::result(&text)
}
