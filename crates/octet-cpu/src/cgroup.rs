//! Limits that the control group (a container) puts on this process, version 1 and 2.
//!
//! A group's limit is the smallest on the way from the group to the root, so every ancestor is read. Inside a
//! container the paths of `/proc/self/cgroup` may not exist below the mount; the mount itself is then the group.

use std::fs;
use std::path::{Path, PathBuf};

/// Where `/proc` and `/sys` are; tests put another folder in front.
pub(crate) struct Cgroup {
    root: PathBuf,
}

impl Cgroup {
    /// The limits of this process.
    pub(crate) fn of_this_process() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// CPUs' worth of time that the quota allows, if there is one: `cpu.max`, or `cpu.cfs_quota_us`.
    pub(crate) fn cpu_quota(&self) -> Option<f64> {
        let unified = self.folders_v2().into_iter().filter_map(|folder| {
            let text = read(&folder, "cpu.max")?;
            let (quota, period) = text.split_once(' ')?;
            Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
        });
        let legacy = self.folders_v1("cpu").into_iter().filter_map(|folder| {
            let quota = read(&folder, "cpu.cfs_quota_us")?.parse::<f64>().ok()?;
            let period = read(&folder, "cpu.cfs_period_us")?.parse::<f64>().ok()?;
            Some(quota / period)
        });
        unified.chain(legacy).filter(|&cpus| cpus > 0.0).min_by(f64::total_cmp)
    }

    /// Memory in bytes that the group may hold and that it could still take, if it is limited.
    ///
    /// Clean file pages are given back under pressure, so the inactive ones count as free.
    pub(crate) fn memory(&self) -> Option<(usize, usize)> {
        let unified = self.folders_v2().into_iter().filter_map(|folder| {
            let limit = read(&folder, "memory.max")?.parse().ok()?;
            let usage = read(&folder, "memory.current")?.parse().ok()?;
            Some(headroom(limit, usage, statistic(&folder, "inactive_file")))
        });
        let legacy = self.folders_v1("memory").into_iter().filter_map(|folder| {
            let limit = read(&folder, "memory.limit_in_bytes")?.parse().ok()?;
            let usage = read(&folder, "memory.usage_in_bytes")?.parse().ok()?;
            Some(headroom(limit, usage, statistic(&folder, "total_inactive_file")))
        });
        unified.chain(legacy).reduce(|a, b| (a.0.min(b.0), a.1.min(b.1)))
    }

    fn folders_v2(&self) -> Vec<PathBuf> {
        let path = self.membership("");
        let mut folders = self.ancestors("sys/fs/cgroup", &path);
        folders.extend(self.ancestors("sys/fs/cgroup/unified", &path));
        folders
    }

    fn folders_v1(&self, controller: &str) -> Vec<PathBuf> {
        self.ancestors(&format!("sys/fs/cgroup/{controller}"), &self.membership(controller))
    }

    /// The group's path below the mount of a controller, the empty name being version 2.
    fn membership(&self, controller: &str) -> String {
        let text = fs::read_to_string(self.root.join("proc/self/cgroup")).unwrap_or_default();
        let path = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let path = fields.next()?;
            controllers.split(',').any(|name| name == controller).then_some(path)
        });
        path.unwrap_or("/").trim_start_matches('/').to_owned()
    }

    /// The folder of the group and of each ancestor up to the mount.
    fn ancestors(&self, mount: &str, path: &str) -> Vec<PathBuf> {
        let mount = self.root.join(mount);
        let group = mount.join(path);
        group.ancestors().take_while(|folder| folder.starts_with(&mount)).map(Path::to_path_buf).collect()
    }
}

fn headroom(limit: usize, usage: usize, reclaimable: usize) -> (usize, usize) {
    (limit, limit.saturating_sub(usage.saturating_sub(reclaimable)))
}

fn read(folder: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_owned())
}

fn statistic(folder: &Path, name: &str) -> usize {
    let text = read(folder, "memory.stat").unwrap_or_default();
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group_of(name: &str, files: &[(&str, &str)]) -> Cgroup {
        let root = std::env::temp_dir().join(format!("octet-cgroup-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Cgroup { root }
    }

    #[test]
    fn version_2_takes_the_smallest_limit_on_the_way_up() {
        let group = group_of(
            "v2",
            &[
                ("proc/self/cgroup", "0::/box/job\n"),
                ("sys/fs/cgroup/box/job/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/box/cpu.max", "350000 100000\n"),
                ("sys/fs/cgroup/box/job/memory.max", "max\n"),
                ("sys/fs/cgroup/box/job/memory.current", "100\n"),
                ("sys/fs/cgroup/box/memory.max", "1000\n"),
                ("sys/fs/cgroup/box/memory.current", "700\n"),
                ("sys/fs/cgroup/box/memory.stat", "anon 300\ninactive_file 400\n"),
            ],
        );
        assert_eq!(group.cpu_quota(), Some(3.5));
        assert_eq!(group.memory(), Some((1000, 700)));
        fs::remove_dir_all(&group.root).unwrap();
    }

    #[test]
    fn version_1_reads_each_controller_and_falls_back_to_the_mount() {
        let group = group_of(
            "v1",
            &[
                ("proc/self/cgroup", "4:memory:/docker/ab\n1:cpu,cpuacct:/docker/ab\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "6000\n"),
            ],
        );
        assert_eq!(group.cpu_quota(), Some(2.0));
        assert_eq!(group.memory(), Some((5000, 0)));
        fs::remove_dir_all(&group.root).unwrap();
    }

    #[test]
    fn no_group_is_no_limit() {
        let group = group_of(
            "none",
            &[
                ("proc/self/cgroup", "1:cpu:/\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(group.cpu_quota(), None);
        assert_eq!(group.memory(), None);
        fs::remove_dir_all(&group.root).unwrap();
    }
}
