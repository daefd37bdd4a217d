//! The fields of Telegraf's input plugins that are cumulative, by `measurement_field`.
//!
//! Telegraf sends them without a type. From the metrics that each plugin's README lists
//! (<https://github.com/influxdata/telegraf>, `plugins/inputs/*/README.md`): cpu, disk, diskio, docker, kernel,
//! kernel_vmstat, mem, net, nginx, nstat,
//! processes, procstat and swap. docs/SERIES.md has the same list.

/// The start of a name, and what may follow it; an entry that ends in `*` is the start of a field.
type Plugin = (&'static str, &'static [&'static str]);

const PLUGINS: [Plugin; 12] = [
    ("cpu_", &["time_*"]),
    (
        "diskio_",
        &[
            "io_time",
            "merged_reads",
            "merged_writes",
            "read_bytes",
            "read_time",
            "reads",
            "weighted_io_time",
            "write_bytes",
            "write_time",
            "writes",
        ],
    ),
    ("docker_container_blkio_", &["io_service*"]),
    ("docker_container_cpu_", &["throttling_*", "usage_in_*", "usage_system"]),
    ("docker_container_net_", &["rx_*", "tx_*"]),
    (
        "kernel_",
        &["context_switches", "disk_pages_in", "disk_pages_out", "interrupts", "processes_forked"],
    ),
    (
        "kernel_vmstat_",
        &[
            "allocstall*",
            "compact_*",
            "numa_*",
            "pageoutrun",
            "pgactivate",
            "pgalloc_*",
            "pgdeactivate",
            "pgfault",
            "pgfree",
            "pgmajfault",
            "pgpgin",
            "pgpgout",
            "pgrefill*",
            "pgscan*",
            "pgsteal*",
            "pswpin",
            "pswpout",
        ],
    ),
    (
        "net_",
        &[
            "bytes_recv",
            "bytes_sent",
            "drop_in",
            "drop_out",
            "err_in",
            "err_out",
            "packets_recv",
            "packets_sent",
        ],
    ),
    ("nginx_", &["accepts", "handled", "requests"]),
    ("nstat_", &["*"]),
    (
        "procstat_",
        &[
            "child_*",
            "cpu_time_*",
            "involuntary_context_switches",
            "major_faults",
            "minor_faults",
            "read_bytes",
            "read_count",
            "voluntary_context_switches",
            "write_bytes",
            "write_count",
        ],
    ),
    ("swap_", &["in", "out"]),
];

/// Fields of nstat that are settings or states of the kernel.
const NSTAT_GAUGES: [&str; 7] = [
    "IpDefaultTTL",
    "IpForwarding",
    "TcpCurrEstab",
    "TcpMaxConn",
    "TcpRtoAlgorithm",
    "TcpRtoMax",
    "TcpRtoMin",
];

/// Fields that end as counters do, and are sizes: of disk, mem, processes and swap.
const TOTALS: [&str; 10] = [
    "disk_inodes_total",
    "disk_total",
    "mem_high_total",
    "mem_huge_pages_total",
    "mem_low_total",
    "mem_swap_total",
    "mem_total",
    "mem_vmalloc_total",
    "processes_total",
    "swap_total",
];

/// Whether a name ends in `_total`, and is a size.
pub(super) fn is_size(name: &str) -> bool {
    TOTALS.binary_search(&name).is_ok()
}

/// Whether a name is that of a cumulative field.
pub(super) fn is_cumulative(name: &str) -> bool {
    let is_field = |(start, fields): &Plugin| {
        let field = name.strip_prefix(start)?;
        let has = |known: &&str| {
            known.strip_suffix('*').map_or(*known == field, |s| field.starts_with(s))
        };
        Some(fields.iter().any(has))
    };
    PLUGINS.iter().any(|plugin| is_field(plugin) == Some(true))
        && !name.strip_prefix("nstat_").is_some_and(|field| NSTAT_GAUGES.contains(&field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_sorted() {
        assert!(TOTALS.is_sorted() && is_size("disk_total") && !is_size("disk_reads_total"));
    }

    #[test]
    fn fields_of_the_list_are_cumulative() {
        for name in [
            "net_bytes_sent",
            "diskio_reads",
            "cpu_time_user",
            "kernel_context_switches",
            "kernel_vmstat_pgfault",
            "nstat_TcpActiveOpens",
            "swap_in",
            "procstat_cpu_time_user",
        ] {
            assert!(is_cumulative(name), "{name}");
        }
        for name in [
            "net_bytes_sent_mean",
            "cpu_usage_idle",
            "diskio_io_util",
            "diskio_iops_in_progress",
            "mem_used_bytes",
            "nstat_TcpCurrEstab",
            "kernel_boot_time",
            "swap_used",
            "swap_in_use",
            "system_uptime",
        ] {
            assert!(!is_cumulative(name), "{name}");
        }
    }
}
