//! How many workers, and on which CPUs.

use super::ThreadBinding;
use super::binding::format_cpu_list;
use super::topology::MAX_CPUS;
use crate::CpuError;

/// What the user says about threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolOptions {
    /// Workers; if not set, as many as the binding gives.
    pub workers: Option<usize>,
    /// Where they run.
    pub binding: ThreadBinding,
    /// Cores that [`ThreadBinding::Auto`] and [`ThreadBinding::Unbound`] leave to the rest of the process.
    pub reserved_cores: usize,
}

/// What the machine offers.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// CPUs of the affinity mask: one of each core first, then their siblings.
    pub(super) cpus: Vec<usize>,
    /// Physical cores among them.
    pub(super) cores: usize,
    /// CPUs' worth of time that the control group grants.
    pub(super) quota: Option<f64>,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Workers, the caller included.
    pub(super) workers: usize,
    /// The CPU of each worker, unless the system chooses.
    pub(super) cpus: Option<Vec<usize>>,
}

/// Decides on workers and CPUs.
///
/// # Errors
/// A CPU outside the affinity mask, more threads than an explicit list has CPUs, no thread at all.
pub(super) fn plan(options: &PoolOptions, machine: &Machine) -> Result<Plan, CpuError> {
    if let Some(asked) = options.workers.filter(|&asked| asked == 0 || asked > MAX_CPUS) {
        return Err(CpuError::ThreadCount { asked, limit: MAX_CPUS });
    }
    if let ThreadBinding::Cpus(cpus) = &options.binding {
        return plan_list(options.workers, cpus, machine);
    }
    // Workers beyond the quota would be throttled in the middle of a step, and everyone would wait for them.
    let granted = machine.quota.map_or(machine.cores, |quota| (quota as usize).clamp(1, machine.cores));
    let workers = options.workers.unwrap_or_else(|| granted.saturating_sub(options.reserved_cores).max(1));
    // With a quota below the mask, other containers run on the same CPUs and would choose the same ones; the system
    // spreads threads better than we can.
    let pinned =
        options.binding == ThreadBinding::Auto && granted == machine.cores && workers <= machine.cpus.len();
    let cpus = pinned.then(|| machine.cpus[..workers].to_vec());
    Ok(Plan { workers, cpus })
}

fn plan_list(workers: Option<usize>, cpus: &[usize], machine: &Machine) -> Result<Plan, CpuError> {
    if let Some(&cpu) = cpus.iter().find(|cpu| !machine.cpus.contains(cpu)) {
        let mut allowed = machine.cpus.clone();
        allowed.sort_unstable();
        return Err(CpuError::CpuNotAllowed { cpu, allowed: format_cpu_list(&allowed) });
    }
    let workers = workers.unwrap_or(cpus.len());
    if workers > cpus.len() {
        return Err(CpuError::ThreadCount { asked: workers, limit: cpus.len() });
    }
    Ok(Plan { workers, cpus: Some(cpus[..workers].to_vec()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(quota: Option<f64>) -> Machine {
        Machine { cpus: vec![0, 1, 2, 3, 4, 5, 6, 7], cores: 4, quota }
    }

    fn options(workers: Option<usize>, binding: ThreadBinding) -> PoolOptions {
        PoolOptions { workers, binding, reserved_cores: 0 }
    }

    #[test]
    fn auto_takes_one_worker_a_core() {
        let auto = options(None, ThreadBinding::Auto);
        assert_eq!(plan(&auto, &machine(None)).unwrap(), Plan { workers: 4, cpus: Some(vec![0, 1, 2, 3]) });
        let reserving = PoolOptions { reserved_cores: 1, ..auto.clone() };
        assert_eq!(plan(&reserving, &machine(None)).unwrap().workers, 3);
        let reserving_all = PoolOptions { reserved_cores: 9, ..auto };
        assert_eq!(plan(&reserving_all, &machine(None)).unwrap().workers, 1);
    }

    #[test]
    fn a_quota_lowers_the_count_and_gives_up_pinning() {
        let auto = options(None, ThreadBinding::Auto);
        assert_eq!(plan(&auto, &machine(Some(2.5))).unwrap(), Plan { workers: 2, cpus: None });
        assert_eq!(plan(&auto, &machine(Some(0.5))).unwrap(), Plan { workers: 1, cpus: None });
        assert_eq!(plan(&auto, &machine(Some(64.0))).unwrap().cpus, Some(vec![0, 1, 2, 3]));
    }

    #[test]
    fn more_workers_than_cores_use_the_siblings_and_then_float() {
        let six = options(Some(6), ThreadBinding::Auto);
        assert_eq!(plan(&six, &machine(None)).unwrap().cpus, Some(vec![0, 1, 2, 3, 4, 5]));
        let twenty = options(Some(20), ThreadBinding::Auto);
        assert_eq!(plan(&twenty, &machine(None)).unwrap(), Plan { workers: 20, cpus: None });
    }

    #[test]
    fn lists_are_followed_or_refused() {
        let list = options(None, ThreadBinding::Cpus(vec![6, 2]));
        assert_eq!(plan(&list, &machine(None)).unwrap(), Plan { workers: 2, cpus: Some(vec![6, 2]) });
        let one = options(Some(1), ThreadBinding::Cpus(vec![6, 2]));
        assert_eq!(plan(&one, &machine(None)).unwrap().cpus, Some(vec![6]));
        let error = |options| plan(&options, &machine(None)).unwrap_err().to_string();
        let outside = error(options(None, ThreadBinding::Cpus(vec![9])));
        assert!(outside.contains("CPU 9") && outside.contains("0-7"), "{outside}");
        assert!(error(options(Some(3), ThreadBinding::Cpus(vec![1]))).contains("1 to 1 are possible"));
        assert!(error(options(Some(0), ThreadBinding::Auto)).contains("0 threads"));
    }
}
