//! The name of this machine.

/// The name of the machine or the container.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    // People read it; nothing depends on it.
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim_end().to_owned())
}
