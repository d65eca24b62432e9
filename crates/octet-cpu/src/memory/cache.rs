//! How much the processor's last caches keep, so that what is measured comes from memory.

use std::fs;
use std::path::Path;

use crate::threads::{allowed_cpus, parse_cpu_list};

/// For systems that do not say.
const USUAL_BYTES: usize = 32 << 20;

/// Bytes of all last caches that the allowed CPUs reach. A virtual machine may be told of more than is its own.
#[must_use]
pub fn last_cache_bytes() -> usize {
    last_caches(allowed_cpus(), Path::new("/sys/devices/system/cpu")).unwrap_or(USUAL_BYTES)
}

/// The caches of the highest level, each counted once.
fn last_caches(cpus: &[usize], devices: &Path) -> Option<usize> {
    let mut counted: Vec<usize> = Vec::new();
    let mut total = None;
    for &cpu in cpus {
        if counted.contains(&cpu) {
            continue;
        }
        let caches = devices.join(format!("cpu{cpu}/cache"));
        // Of level 4 and upwards nothing is known that counts; index 3 is the last, index 2 where there is no third.
        let Some(cache) =
            ["index3", "index2"].map(|name| caches.join(name)).into_iter().find(|path| path.exists())
        else {
            continue;
        };
        let size = fs::read_to_string(cache.join("size")).ok()?;
        let kib: usize = size.trim().strip_suffix('K')?.parse().ok()?;
        total = Some(total.unwrap_or(0) + kib * 1024);
        let shared = fs::read_to_string(cache.join("shared_cpu_list")).ok();
        counted.extend(shared.and_then(|list| parse_cpu_list(list.trim()).ok()).unwrap_or_default());
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_cache_counts_once() {
        let devices = std::env::temp_dir().join(format!("octet-caches-{}", std::process::id()));
        for (cpu, shared) in ["0-1", "0-1", "2-3"].into_iter().enumerate() {
            let cache = devices.join(format!("cpu{cpu}/cache/index3"));
            fs::create_dir_all(&cache).unwrap();
            fs::write(cache.join("size"), "32768K\n").unwrap();
            fs::write(cache.join("shared_cpu_list"), format!("{shared}\n")).unwrap();
        }
        assert_eq!(last_caches(&[0, 1, 2], &devices), Some(64 << 20));
        assert_eq!(last_caches(&[1], &devices), Some(32 << 20));
        assert_eq!(last_caches(&[7], &devices), None);
        fs::remove_dir_all(&devices).unwrap();
    }

    #[test]
    fn this_machine_has_a_last_cache() {
        assert!(last_cache_bytes() >= 1 << 18);
    }
}
