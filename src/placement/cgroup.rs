//! The limits that cgroups set for this process: CPU quota and memory, versions 1 and 2.
//!
//! A limit can stand at any level of the tree: the container, its pod, a slice above. The tightest one counts.
//! Mounts are expected where every distribution and container runtime has them, below `/sys/fs/cgroup`.

use std::fs;
use std::path::{Path, PathBuf};

/// The tightest limits of all cgroups that this process is in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CgroupLimits {
    /// CPU seconds per second; None without a quota.
    pub quota_cores: Option<f64>,
    /// None without a limit.
    pub memory_bytes: Option<u64>,
}

impl CgroupLimits {
    /// The limits of this process; none where there are no cgroups.
    pub fn of_this_process() -> Self {
        Self::read(Path::new("/"))
    }

    /// The same, with `proc` and `sys` below `root`.
    fn read(root: &Path) -> Self {
        // 0::/path (version 2) or 4:cpu,cpuacct:/path (version 1)
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounts = root.join("sys/fs/cgroup");
        let mut limits = Self::default();
        for line in groups.lines() {
            let Some((controllers, path)) =
                line.split_once(':').and_then(|(_, rest)| rest.split_once(':'))
            else {
                continue;
            };
            if controllers.is_empty() {
                // Beside version 1, version 2 is mounted at "unified".
                for mount in [mounts.clone(), mounts.join("unified")] {
                    limits.tighten(&mount, path, quota_v2, memory_v2);
                }
            }
            for controller in controllers.split(',') {
                let mount = mounts.join(controller);
                match controller {
                    "cpu" => limits.tighten(&mount, path, quota_v1, |_| None),
                    "memory" => limits.tighten(&mount, path, |_| None, memory_v1),
                    _ => {}
                }
            }
        }
        limits
    }

    /// Reads the group and every group above it, up to the mount. A container can see a path of the host, which
    /// its own mount does not have: those levels have no files, and the mount itself is its group.
    fn tighten(
        &mut self,
        mount: &Path,
        group: &str,
        quota_cores: fn(&Path) -> Option<f64>,
        memory_bytes: fn(&Path) -> Option<u64>,
    ) {
        let group = Path::new(group.trim_start_matches('/'));
        let levels = group.ancestors().filter(|level| !level.starts_with(".."));
        for directory in levels.map(|level| mount.join(level)) {
            self.quota_cores = [self.quota_cores, quota_cores(&directory)]
                .into_iter()
                .flatten()
                .min_by(f64::total_cmp);
            self.memory_bytes =
                [self.memory_bytes, memory_bytes(&directory)].into_iter().flatten().min();
        }
    }
}

/// `25000 100000`: microseconds of CPU time in each period; `max 100000` is no quota.
fn quota_v2(directory: &Path) -> Option<f64> {
    let text = read(directory.join("cpu.max"))?;
    let (quota, period) = text.split_once(' ')?;
    ratio(quota, period)
}

/// The same in two files; `-1` is no quota.
fn quota_v1(directory: &Path) -> Option<f64> {
    ratio(&read(directory.join("cpu.cfs_quota_us"))?, &read(directory.join("cpu.cfs_period_us"))?)
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

/// Bytes, or `max`.
fn memory_v2(directory: &Path) -> Option<u64> {
    read(directory.join("memory.max"))?.parse().ok()
}

/// Bytes; without a limit the largest multiple of a page.
fn memory_v1(directory: &Path) -> Option<u64> {
    const NO_LIMIT: u64 = 1 << 62;
    let bytes = read(directory.join("memory.limit_in_bytes"))?.parse().ok()?;
    (bytes < NO_LIMIT).then_some(bytes)
}

fn read(file: PathBuf) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits that a tree of files sets.
    fn limits(name: &str, files: &[(&str, &str)]) -> CgroupLimits {
        let root = std::env::temp_dir().join(format!("sigmad-{name}-{}", std::process::id()));
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a temporary folder");
            fs::write(path, content).expect("a temporary file");
        }
        let limits = CgroupLimits::read(&root);
        // A test without files made no folder.
        let _ = fs::remove_dir_all(&root);
        limits
    }

    #[test]
    fn a_pod_under_version_2_sees_its_limits_at_the_mount() {
        for (max, expected) in [
            ("25000 100000\n", Some(0.25)),
            ("150000 50000\n", Some(3.0)),
            ("max 100000\n", None),
            ("0 100000\n", None),
            ("25000 0\n", None),
            ("25000\n", None),
            ("", None),
        ] {
            for group in ["0::/\n", "0::/../../x\n", "0::/of/the/host\n"] {
                let files = [("proc/self/cgroup", group), ("sys/fs/cgroup/cpu.max", max)];
                assert_eq!(limits("pod2", &files).quota_cores, expected, "{max:?} {group}");
            }
        }
        for (max, expected) in [("1048576\n", Some(1 << 20)), ("max\n", None)] {
            let files = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", max)];
            assert_eq!(limits("memory2", &files).memory_bytes, expected);
        }
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let quota = |name: &str, pod: &str, container: &str| {
            let files = [
                ("proc/self/cgroup", "0::/kubepods/pod1/c1\n"),
                ("sys/fs/cgroup/kubepods/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/kubepods/pod1/cpu.max", pod),
                ("sys/fs/cgroup/kubepods/pod1/c1/cpu.max", container),
                ("sys/fs/cgroup/other/cpu.max", "1000 100000\n"),
            ];
            limits(name, &files).quota_cores
        };
        assert_eq!(quota("up1", "50000 100000\n", "200000 100000\n"), Some(0.5));
        assert_eq!(quota("up2", "200000 100000\n", "50000 100000\n"), Some(0.5));
        assert_eq!(quota("up3", "200000 100000\n", "max 100000\n"), Some(2.0));
        assert_eq!(quota("up4", "max 100000\n", "max 100000\n"), None);
    }

    #[test]
    fn version_1_has_a_mount_for_each_controller() {
        let files = |quota, memory| {
            [
                (
                    "proc/self/cgroup",
                    "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n1:name=systemd:/\n",
                ),
                ("sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", memory),
            ]
        };
        let set = limits("v1a", &files("150000\n", "4096\n"));
        assert_eq!(set, CgroupLimits { quota_cores: Some(1.5), memory_bytes: Some(4096) });
        let unset = limits("v1b", &files("-1\n", "9223372036854771712\n"));
        assert_eq!(unset, CgroupLimits::default());
    }

    #[test]
    fn both_versions_side_by_side_are_read() {
        let files = [
            ("proc/self/cgroup", "4:cpu,cpuacct:/a\n0::/b\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "300000\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/unified/b/cpu.max", "200000 100000\n"),
        ];
        assert_eq!(limits("hybrid", &files).quota_cores, Some(2.0));
    }

    #[test]
    fn without_cgroups_there_are_no_limits() {
        assert_eq!(limits("none", &[]), CgroupLimits::default());
    }
}
