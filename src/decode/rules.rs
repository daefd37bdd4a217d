//! The rules for series: which label is the device, which series are left out, which values are counters.

use super::globs::Glob;
use super::telegraf;

/// The labels that can be the device, the first of which a point carries. `device` is the last one: the metrics of
/// disks and interfaces call those so, beside a host.
pub const DEVICE_LABELS: &str =
    "device_id,deviceId,sensor_id,host,hostname,host.name,instance,node,service.instance.id,device";

/// The rules in force, the same for all workers.
#[derive(Clone, Debug)]
pub struct SeriesRules {
    /// The labels that can be the device, in the order in which they are looked for.
    pub device_labels: Vec<String>,
    /// The series to keep; all if there are none.
    pub keep: Vec<Glob>,
    /// The series to leave out of those.
    pub drop: Vec<Glob>,
    /// Names of metrics that are counters where the sender gives no type.
    pub counters: Vec<Glob>,
    /// Names of metrics that are gauges where the sender gives no type, also those that are counters otherwise.
    pub gauges: Vec<Glob>,
}

impl Default for SeriesRules {
    fn default() -> Self {
        Self {
            device_labels: DEVICE_LABELS.split(',').map(str::to_owned).collect(),
            keep: Vec::new(),
            drop: Vec::new(),
            counters: Vec::new(),
            gauges: Vec::new(),
        }
    }
}

impl SeriesRules {
    /// The place of a label in the list of those that can be the device.
    pub fn device_rank(&self, label: &[u8]) -> Option<usize> {
        self.device_labels.iter().position(|name| name.as_bytes() == label)
    }

    /// Whether a series is neither stored nor judged.
    pub fn drops(&self, series: &str) -> bool {
        (!self.keep.is_empty() && !any(&self.keep, series)) || any(&self.drop, series)
    }

    /// Whether values without a type are cumulative, by the name of their metric.
    pub fn is_counter(&self, name: &str) -> bool {
        if any(&self.gauges, name) {
            return false;
        }
        any(&self.counters, name)
            || (name.ends_with("_total") && !telegraf::is_size(name))
            || telegraf::is_cumulative(name)
    }
}

fn any(globs: &[Glob], name: &str) -> bool {
    globs.iter().any(|glob| glob.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|text| text.parse().expect("a pattern")).collect()
    }

    #[test]
    fn what_is_dropped_is_dropped_after_what_is_kept() {
        let rules = |keep: &[&str], drop: &[&str]| SeriesRules {
            keep: globs(keep),
            drop: globs(drop),
            ..SeriesRules::default()
        };
        assert!(!rules(&[], &[]).drops("x"));
        let some = rules(&["node_*", "up"], &["node_scrape_*"]);
        assert!(!some.drops("node_load1") && !some.drops("up"));
        assert!(some.drops("go_threads") && some.drops("node_scrape_seconds"));
        assert!(rules(&[], &["*{*mode=\"idle\"*}"]).drops(r#"cpu{cpu="0",mode="idle"}"#));
    }

    #[test]
    fn gauges_precede_counters() {
        let rules = SeriesRules {
            counters: globs(&["hits", "x_*"]),
            gauges: globs(&["*_busy_total", "x_y"]),
            ..SeriesRules::default()
        };
        for (name, expected) in [
            ("hits", true),
            ("x_1", true),
            ("a_total", true),
            ("net_bytes_recv", true),
            ("x_y", false),
            ("a_busy_total", false),
            ("a_bytes", false),
            ("mem_total", false),
            ("a_count", false),
        ] {
            assert_eq!(rules.is_counter(name), expected, "{name}");
        }
    }
}
