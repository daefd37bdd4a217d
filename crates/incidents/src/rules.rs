//! Silences of operators: for which streams nobody is to be told, and until when. As in Alertmanager.

use std::sync::Arc;

use sigmad_sample::glob;

use crate::tokens::hash;

/// Silences that are kept; ended ones make room.
pub const RULES_MAX: usize = 1_024;

/// A silence that an operator has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilenceRule {
    /// Identifies it: 16 hex digits.
    pub id: Arc<str>,
    /// Devices, as a pattern with `*` and `?`; None for all, and for streams without a device.
    pub device: Option<Arc<str>>,
    /// Series, as such a pattern; None for all, and for silent devices.
    pub series: Option<Arc<str>>,
    /// When it begins, in microseconds since 1970.
    pub starts_at_us: i64,
    /// When it ends.
    pub ends_at_us: i64,
    /// Who asked for it.
    pub created_by: Arc<str>,
    /// Why.
    pub comment: Arc<str>,
}

impl SilenceRule {
    /// An id for the `number`th rule of a process.
    pub fn new_id(now_us: i64, number: u64) -> Arc<str> {
        let bytes = [now_us.to_le_bytes(), number.to_le_bytes()].concat();
        format!("{:016x}", hash(&bytes)).into()
    }

    /// Whether it is in force.
    pub fn is_active(&self, now_us: i64) -> bool {
        (self.starts_at_us..self.ends_at_us).contains(&now_us)
    }

    /// Whether it is about that stream, or about that device.
    pub fn covers(&self, device: Option<&str>, series: Option<&str>) -> bool {
        let matches = |pattern: &Option<Arc<str>>, name: Option<&str>| match (pattern, name) {
            (None, _) => true,
            (Some(pattern), Some(name)) => glob::matches(pattern, name),
            (Some(pattern), None) => &**pattern == "*",
        };
        matches(&self.device, device) && matches(&self.series, series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigmad_sample::glob::matches;

    #[test]
    fn patterns_are_whole_texts() {
        for (pattern, text) in [
            ("*", ""),
            ("ams-*", "ams-2"),
            ("*-05", "ams-2-05"),
            ("a?c*e", "abcde"),
            ("?", "ß"),
            ("**a**", "bab"),
            ("", ""),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("ams-*", "xams-2"), ("?", ""), ("a*b", "abc"), ("", "a"), ("*a", "ab"), ("a", "")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
        let (pattern, text) = ("*a".repeat(64), "a".repeat(60));
        assert!(!matches(&pattern, &text), "and it ends");
    }

    #[test]
    fn a_rule_covers_devices_and_series_by_both_patterns() {
        let rule = |device: Option<&str>, series: Option<&str>| SilenceRule {
            id: SilenceRule::new_id(5, 1),
            device: device.map(Arc::from),
            series: series.map(Arc::from),
            starts_at_us: 10,
            ends_at_us: 20,
            created_by: "a".into(),
            comment: "b".into(),
        };
        let site = rule(Some("ams-*"), None);
        assert!(site.covers(Some("ams-2"), Some("rps")) && site.covers(Some("ams-2"), None));
        assert!(!site.covers(Some("fra-2"), None) && !site.covers(None, Some("rps")));
        let series = rule(None, Some("rps"));
        assert!(series.covers(None, Some("rps")) && !series.covers(Some("ams-2"), None));
        assert_eq!([9, 10, 19, 20].map(|at| site.is_active(at)), [false, true, true, false]);
        assert_eq!(site.id.len(), 16);
    }
}
