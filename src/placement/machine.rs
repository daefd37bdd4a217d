//! What the machine gives this process: the cores of its cpuset, and its CPU quota.
//!
//! A quota may stand at any level of the cgroup tree (the container's, its pod's, a slice above);
//! the tightest counts. Versions 1 and 2 are read, and the mixture of both.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// What the machine gives this process.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The cores it may run on; empty when they could not be listed.
    pub cores: Vec<usize>,
    /// CPU seconds a second, None for no quota.
    pub quota_cores: Option<f64>,
}

impl Machine {
    /// Looks at the machine. Called before any thread is pinned: a pinned one sees its own core only.
    pub fn of_this_process() -> Self {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        Self {
            cores: cores.into_iter().map(|core| core.id).collect(),
            quota_cores: quota_cores(Path::new("/")),
        }
    }
}

/// The tightest quota on the way from this process's cgroup to the root, with the files of `/proc`
/// and the cgroup mounts under `root`. None as well where nothing can be read: there is no cgroup.
pub fn quota_cores(root: &Path) -> Option<f64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    groups
        .lines()
        .filter_map(Group::parse)
        .filter_map(|group| {
            let mount = mounts.lines().filter_map(Mount::parse).find(|mount| mount.carries(&group));
            tightest(root, &group, &mount?)
        })
        .min_by(f64::total_cmp)
}

/// The quotas of one hierarchy, from the process's group up to the mount.
fn tightest(root: &Path, group: &Group<'_>, mount: &Mount<'_>) -> Option<f64> {
    let top = root.join(mount.point.trim_start_matches('/'));
    let mut directory = top.join(group.below(mount));
    let mut tightest: Option<f64> = None;
    loop {
        let quota = match group.version {
            Version::One => quota_v1(&directory),
            Version::Two => quota_v2(&directory),
        };
        tightest = match (tightest, quota) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if directory == top || !directory.pop() {
            return tightest;
        }
    }
}

/// `max 100000` or `25000 100000`: microseconds of each period.
fn quota_v2(directory: &Path) -> Option<f64> {
    let text = fs::read_to_string(directory.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

/// `-1` or `25000` in one file, `100000` in another.
fn quota_v1(directory: &Path) -> Option<f64> {
    let quota = fs::read_to_string(directory.join("cpu.cfs_quota_us")).ok()?;
    let period = fs::read_to_string(directory.join("cpu.cfs_period_us")).ok()?;
    ratio(quota.trim(), period.trim())
}

/// None for `max`, `-1` and whatever is no quota.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    One,
    Two,
}

/// A line of `/proc/self/cgroup`: `0::/path` (version 2) or `4:cpu,cpuacct:/path` (version 1).
struct Group<'a> {
    version: Version,
    path: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match controllers {
            "" => Some(Self { version: Version::Two, path }),
            _ if has_cpu(controllers) => Some(Self { version: Version::One, path }),
            _ => None,
        }
    }

    /// Where the group lies below its mount; the mount itself where it lies outside, as in a
    /// container that sees the host's path and its own tree.
    fn below(&self, mount: &Mount<'_>) -> PathBuf {
        let path = Path::new(self.path);
        let inside = path.strip_prefix(mount.group).unwrap_or(Path::new(""));
        let is_plain = inside.components().all(|part| matches!(part, Component::Normal(_)));
        if is_plain { inside.to_path_buf() } else { PathBuf::new() }
    }
}

/// A cgroup line of `/proc/self/mountinfo`.
struct Mount<'a> {
    version: Version,
    /// The group at its top.
    group: &'a str,
    /// Where it is mounted.
    point: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // 29 23 0:26 /docker/abc /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (group, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let version = match kind {
            "cgroup2" => Version::Two,
            "cgroup" if has_cpu(options) => Version::One,
            _ => return None,
        };
        Some(Self { version, group, point })
    }

    fn carries(&self, group: &Group<'_>) -> bool {
        self.version == group.version
    }
}

fn has_cpu(list: &str) -> bool {
    list.split(',').any(|name| name == "cpu")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine made of files, gone at the end of its test.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("sigmad-{name}-{}", std::process::id()));
            for (path, content) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a directory")).expect("a temporary one");
                fs::write(path, content).expect("a temporary file");
            }
            Self(root)
        }

        fn quota_cores(&self) -> Option<f64> {
            quota_cores(&self.0)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            // A test without files made no directory.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const V2: &str = "22 1 0:20 / /sys rw - sysfs sysfs rw\n\
                      30 22 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    const V1: &str = "31 22 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                      32 22 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn a_pod_under_version_2_sees_its_quota_at_the_mount() {
        let files = |max| {
            [
                ("proc/self/cgroup", "0::/\n"),
                ("proc/self/mountinfo", V2),
                ("sys/fs/cgroup/cpu.max", max),
            ]
        };
        for (max, expected) in [
            ("25000 100000\n", Some(0.25)),
            ("150000 50000\n", Some(3.0)),
            ("max 100000\n", None),
            ("0 100000\n", None),
            ("25000 0\n", None),
            ("25000\n", None),
            ("", None),
        ] {
            assert_eq!(Tree::new("pod2", &files(max)).quota_cores(), expected, "{max:?}");
        }
    }

    #[test]
    fn the_tightest_quota_on_the_way_up_counts() {
        let tree = |name: &str, pod: &str, container: &str| {
            Tree::new(
                name,
                &[
                    ("proc/self/cgroup", "0::/kubepods/pod1/c1\n"),
                    ("proc/self/mountinfo", V2),
                    ("sys/fs/cgroup/kubepods/cpu.max", "max 100000\n"),
                    ("sys/fs/cgroup/kubepods/pod1/cpu.max", pod),
                    ("sys/fs/cgroup/kubepods/pod1/c1/cpu.max", container),
                    ("sys/fs/cgroup/other/cpu.max", "1000 100000\n"),
                ],
            )
            .quota_cores()
        };
        assert_eq!(tree("up1", "50000 100000\n", "200000 100000\n"), Some(0.5));
        assert_eq!(tree("up2", "200000 100000\n", "50000 100000\n"), Some(0.5));
        assert_eq!(tree("up3", "200000 100000\n", "max 100000\n"), Some(2.0));
        assert_eq!(tree("up4", "max 100000\n", "max 100000\n"), None);
    }

    #[test]
    fn version_1_keeps_quota_and_period_in_two_files() {
        let tree = |name: &str, quota: &str| {
            Tree::new(
                name,
                &[
                    (
                        "proc/self/cgroup",
                        "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n",
                    ),
                    ("proc/self/mountinfo", V1),
                    ("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", quota),
                    ("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ],
            )
            .quota_cores()
        };
        assert_eq!(tree("v1a", "150000\n"), Some(1.5));
        assert_eq!(tree("v1b", "-1\n"), None);
    }

    #[test]
    fn a_container_that_sees_the_hosts_path_finds_its_quota_at_the_mount() {
        // Mounted from its own group: the path starts with the mount's group.
        let own = "32 22 0:29 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        // Mounted from elsewhere, or from above its namespace.
        for (name, path) in [("h1", "/docker/abc"), ("h2", "/elsewhere"), ("h3", "/../../x")] {
            let tree = Tree::new(
                name,
                &[
                    ("proc/self/cgroup", &format!("4:cpu:{path}\n")),
                    ("proc/self/mountinfo", own),
                    ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "25000\n"),
                    ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ],
            );
            assert_eq!(tree.quota_cores(), Some(0.25), "{path}");
        }
        let tree = Tree::new(
            "h4",
            &[
                ("proc/self/cgroup", "0::/../../x\n"),
                ("proc/self/mountinfo", V2),
                ("sys/fs/cgroup/cpu.max", "25000 100000\n"),
            ],
        );
        assert_eq!(tree.quota_cores(), Some(0.25));
    }

    #[test]
    fn both_versions_side_by_side_are_both_read() {
        let mounts = format!("{V1}33 22 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let tree = Tree::new(
            "hybrid",
            &[
                ("proc/self/cgroup", "4:cpu,cpuacct:/a\n0::/b\n"),
                ("proc/self/mountinfo", &mounts),
                ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/unified/b/cgroup.procs", ""),
            ],
        );
        assert_eq!(tree.quota_cores(), Some(3.0));
    }

    #[test]
    fn without_proc_or_cgroups_there_is_no_quota() {
        assert_eq!(Tree::new("none", &[]).quota_cores(), None);
        let no_mount = [("proc/self/cgroup", "0::/\n"), ("proc/self/mountinfo", "")];
        assert_eq!(Tree::new("unmounted", &no_mount).quota_cores(), None);
    }

    #[test]
    fn std_sees_as_many_cores_on_this_machine() {
        let Machine { cores, quota_cores } = Machine::of_this_process();
        let quota = quota_cores.map_or(usize::MAX, |quota| (quota as usize).max(1));
        let std = std::thread::available_parallelism().expect("Linux tells");
        assert_eq!(cores.len().min(quota), std.get());
    }
}
