//! How much memory this process may use.

use std::fs;

use octet_backend::DeviceMemory;

use crate::cgroup::Cgroup;

/// Memory of the machine or of the control group, whichever is less.
pub(crate) fn device_memory() -> DeviceMemory {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo_bytes(&text, "MemTotal").unwrap_or_else(physical_bytes);
    let available = meminfo_bytes(&text, "MemAvailable").unwrap_or(total);
    let (limit, headroom) = Cgroup::of_this_process().memory().unwrap_or((total, available));
    DeviceMemory { total_bytes: total.min(limit), free_bytes: available.min(headroom) }
}

fn meminfo_bytes(text: &str, key: &str) -> Option<usize> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: usize = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// For systems without `/proc/meminfo`.
#[cfg(unix)]
fn physical_bytes() -> usize {
    // SAFETY: sysconf only reads constants of the system.
    let (pages, page_bytes) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    usize::try_from(pages).unwrap_or(0).saturating_mul(usize::try_from(page_bytes).unwrap_or(0))
}

/// Nothing is known here; allocation itself is then the only check.
#[cfg(not(unix))]
fn physical_bytes() -> usize {
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_meminfo_are_read_in_kib() {
        let text = "MemTotal:       24000 kB\nMemFree:  1 kB\nMemAvailable:    12000 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(24000 * 1024));
        assert_eq!(meminfo_bytes(text, "MemAvailable"), Some(12000 * 1024));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
    }

    #[test]
    fn this_machine_has_memory() {
        let memory = device_memory();
        assert!(memory.free_bytes > 0 && memory.free_bytes <= memory.total_bytes, "{memory:?}");
    }
}
