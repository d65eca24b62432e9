//! Which CPUs this process may use, and which of them share a physical core.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use super::binding::parse_cpu_list;

/// CPU numbers that an affinity mask of the kernel's usual size can name.
pub(crate) const MAX_CPUS: usize = 1024;

/// The CPUs that the process was allowed when it was first asked, ascending.
///
/// Remembered, because a pool binds its caller, and a second pool made by that thread would see one CPU only.
pub(crate) fn allowed_cpus() -> &'static [usize] {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        affinity()
            .unwrap_or_else(|| (0..std::thread::available_parallelism().map_or(1, usize::from)).collect())
    })
}

/// The allowed CPUs with one of each physical core first, then the siblings of those; and how many cores there are.
pub(crate) fn cores_first(allowed: &[usize], devices: &Path) -> (Vec<usize>, usize) {
    let mut firsts = Vec::new();
    let mut siblings = Vec::new();
    let mut seen: Vec<usize> = Vec::new();
    for &cpu in allowed {
        if seen.contains(&cpu) {
            siblings.push(cpu);
            continue;
        }
        firsts.push(cpu);
        let list = fs::read_to_string(devices.join(format!("cpu{cpu}/topology/thread_siblings_list")));
        // Without this file every CPU counts as a core.
        seen.extend(list.ok().and_then(|list| parse_cpu_list(list.trim()).ok()).unwrap_or_default());
    }
    let cores = firsts.len();
    firsts.extend(siblings);
    (firsts, cores)
}

/// The affinity mask of this thread, if the system has one.
#[cfg(target_os = "linux")]
fn affinity() -> Option<Vec<usize>> {
    // SAFETY: cpu_set_t is an array of bits; the kernel fills at most its size.
    let set = unsafe {
        let mut set = std::mem::zeroed::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return None;
        }
        set
    };
    // SAFETY: the index is below the number of bits.
    Some((0..MAX_CPUS).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

#[cfg(not(target_os = "linux"))]
fn affinity() -> Option<Vec<usize>> {
    None
}

/// Binds the calling thread to these CPUs. Failing is not an error: the work is done elsewhere then.
#[cfg(target_os = "linux")]
pub(crate) fn bind_this_thread(cpus: &[usize]) {
    // SAFETY: the set is an array of bits that outlives the call, and each index is below their number.
    unsafe {
        let mut set = std::mem::zeroed::<libc::cpu_set_t>();
        for &cpu in cpus.iter().filter(|&&cpu| cpu < MAX_CPUS) {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn bind_this_thread(_cpus: &[usize]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cpu_of_each_core_comes_first() {
        let devices = std::env::temp_dir().join(format!("octet-topology-{}", std::process::id()));
        for cpu in 0..6 {
            let folder = devices.join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("thread_siblings_list"), format!("{},{}\n", cpu % 3, cpu % 3 + 3)).unwrap();
        }
        assert_eq!(cores_first(&[0, 1, 2, 3, 4, 5], &devices), (vec![0, 1, 2, 3, 4, 5], 3));
        assert_eq!(cores_first(&[1, 4, 5], &devices), (vec![1, 5, 4], 2));
        fs::remove_dir_all(&devices).unwrap();
    }

    #[test]
    fn this_process_may_use_some_cpu() {
        assert!(!allowed_cpus().is_empty());
    }
}
