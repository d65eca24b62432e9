//! What the environment chooses. Every variable is read once, at the first use of the library.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// Bytes of memory that a device has unless `OCTET_HIPSIM_MEMORY_BYTES` says otherwise.
const MEMORY_BYTES: usize = 1 << 30;

/// A kernel's name and which of its launches is meant, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NthLaunch {
    pub(crate) kernel: String,
    pub(crate) launch: u64,
}

impl NthLaunch {
    /// Reads `name` or `name:n`.
    fn parse(text: &str) -> Option<Self> {
        let (kernel, launch) = match text.split_once(':') {
            Some((kernel, launch)) => (kernel, launch.parse().ok()?),
            None => (text, 1),
        };
        Some(Self { kernel: kernel.to_owned(), launch })
    }
}

/// The environment's choices.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Names of the devices' architectures, in the order of their indices.
    pub(crate) architectures: Vec<String>,
    /// Devices that are shown, by index into `architectures`.
    pub(crate) visible: Vec<usize>,
    /// Seed of the order of waves and lanes.
    pub(crate) seed: u64,
    /// Threads that execute blocks.
    pub(crate) workers: usize,
    /// Bytes of a device's memory.
    pub(crate) memory_bytes: usize,
    /// The launch that never ends.
    pub(crate) hang: Option<NthLaunch>,
    /// The launch that ends with a fault.
    pub(crate) fault: Option<NthLaunch>,
    /// How long a stream waits before each of its operations, so that a missing synchronisation shows.
    pub(crate) delay: Duration,
    /// The compiler to use instead of the first one found.
    pub(crate) compiler: Option<PathBuf>,
    /// Folder of compiled kernels.
    pub(crate) cache: Option<PathBuf>,
    /// Whether hiprtc answers nothing, as where it is not installed.
    pub(crate) without_compiler: bool,
    /// Major version of ROCm to imitate: 6 or 7.
    pub(crate) rocm_major: u32,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> T {
    variable(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Indices that `HIP_VISIBLE_DEVICES` names: as HIP does, up to the first that does not exist.
fn visible(list: Option<&str>, devices: usize) -> Vec<usize> {
    let Some(list) = list else { return (0..devices).collect() };
    list.split(',')
        .map_while(|index| index.trim().parse::<usize>().ok().filter(|index| *index < devices))
        .collect()
}

impl Settings {
    fn read() -> Self {
        let architectures = variable("OCTET_HIPSIM_ARCH")
            .unwrap_or_else(|| "gfx942,gfx1100,gfx950,gfx1201,gfx90a".to_owned())
            .split(',')
            .map(|name| name.trim().to_owned())
            .filter(|name| crate::profile::of_name(name).is_some())
            .collect::<Vec<_>>();
        // An empty list of devices is a list: HIP then shows none.
        let list = std::env::var("HIP_VISIBLE_DEVICES").ok();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            visible: visible(list.as_deref(), architectures.len()),
            architectures,
            seed: number("OCTET_HIPSIM_SEED", 1),
            workers: number("OCTET_HIPSIM_THREADS", cores).max(1),
            memory_bytes: number("OCTET_HIPSIM_MEMORY_BYTES", MEMORY_BYTES),
            hang: variable("OCTET_HIPSIM_HANG").and_then(|text| NthLaunch::parse(&text)),
            fault: variable("OCTET_HIPSIM_FAULT").and_then(|text| NthLaunch::parse(&text)),
            delay: Duration::from_micros(number("OCTET_HIPSIM_DELAY_US", 0)),
            compiler: variable("OCTET_HIPSIM_CXX").map(PathBuf::from),
            cache: variable("OCTET_HIPSIM_CACHE").map(PathBuf::from),
            without_compiler: number("OCTET_HIPSIM_NO_COMPILER", 0) != 0,
            rocm_major: if number("OCTET_HIPSIM_ROCM", 7) == 6 { 6 } else { 7 },
        }
    }
}

/// The settings, read from the environment by the first caller.
pub(crate) fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(Settings::read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_devices_end_at_the_first_unknown_one() {
        assert_eq!(visible(None, 3), [0, 1, 2]);
        assert_eq!(visible(Some("2,0"), 3), [2, 0]);
        assert_eq!(visible(Some("1,7,0"), 3), [1]);
        assert_eq!(visible(Some(""), 3), [0_usize; 0]);
        assert_eq!(visible(Some("-1"), 3), [0_usize; 0]);
    }

    #[test]
    fn a_launch_is_a_name_and_perhaps_a_number() {
        let second = NthLaunch { kernel: "norm".to_owned(), launch: 2 };
        assert_eq!(NthLaunch::parse("norm:2"), Some(second));
        assert_eq!(NthLaunch::parse("norm").map(|launch| launch.launch), Some(1));
        assert_eq!(NthLaunch::parse("norm:x"), None);
    }
}
