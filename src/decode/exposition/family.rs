//! The family that lines belong to, and what it says of their values.

use crate::decode::labels::ValueKind;

/// `# TYPE`: how the samples of a family are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FamilyType {
    #[default]
    Untyped,
    Counter,
    Gauge,
    Histogram,
    Summary,
}

impl FamilyType {
    fn read(kind: &[u8]) -> Self {
        match kind {
            b"counter" => Self::Counter,
            b"gauge" | b"gaugehistogram" | b"info" | b"stateset" => Self::Gauge,
            b"histogram" => Self::Histogram,
            b"summary" => Self::Summary,
            _ => Self::Untyped,
        }
    }
}

/// What may follow the name of a family in that of a metric has no more bytes.
const PART_BYTES_MAX: usize = b"_created".len();

/// A family: its name and its type. Lines before the first `# TYPE` are of one without a name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Family<'a> {
    name: &'a [u8],
    kind: FamilyType,
    /// The name has a byte that ends the name of a metric: only quoted ones are of the family.
    is_quoted: bool,
}

/// Whether the name of a metric without quotes ends before the byte.
#[inline]
pub(super) fn ends_name(byte: u8) -> bool {
    byte == b'{' || byte.is_ascii_whitespace()
}

impl<'a> Family<'a> {
    /// The family of a `# TYPE`.
    pub(super) fn read(name: &'a [u8], kind: &[u8]) -> Self {
        let is_quoted = name.iter().any(|&byte| ends_name(byte));
        Self { name, kind: FamilyType::read(kind), is_quoted }
    }

    /// The kind of a metric; one that is not of the family has none.
    pub(super) fn kind_of(&self, metric: &[u8]) -> ValueKind {
        metric.strip_prefix(self.name).map_or(ValueKind::Untyped, |part| self.kind_of_part(part))
    }

    /// The kind of the metric whose name is `part` after that of the family.
    fn kind_of_part(&self, part: &[u8]) -> ValueKind {
        match (self.kind, part) {
            (FamilyType::Counter, b"" | b"_total") => ValueKind::Counter,
            (FamilyType::Histogram, b"_bucket" | b"_sum" | b"_count") => ValueKind::Counter,
            (FamilyType::Summary, b"_sum" | b"_count") => ValueKind::Counter,
            (FamilyType::Summary | FamilyType::Gauge, b"") => ValueKind::Gauge,
            // `_info` of OpenMetrics, `_created` of both.
            (FamilyType::Gauge, b"_info") | (_, b"_created") => ValueKind::Gauge,
            _ => ValueKind::Untyped,
        }
    }

    /// The kind of the metric whose name `line` begins with, without a search for its end.
    #[inline]
    pub(super) fn kind_at(&self, line: &[u8]) -> ValueKind {
        let Some(part) = line.strip_prefix(self.name) else { return ValueKind::Untyped };
        if self.is_quoted || self.kind == FamilyType::Untyped && part.first() != Some(&b'_') {
            return ValueKind::Untyped;
        }
        let may_be_part = &part[..part.len().min(PART_BYTES_MAX + 1)];
        match may_be_part.iter().position(|&byte| ends_name(byte)) {
            Some(end) => self.kind_of_part(&part[..end]),
            None => ValueKind::Untyped,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_kind_is_that_of_the_whole_name(
            family in "(a|a_b|_x|\"a b\")?",
            kind in "gauge|counter|histogram|summary|unknown",
            metric in "(a|a_b|_x|b)?(_total|_bucket|_sum|_count|_created|_createds|_info|_long_suffix)?",
            end in "[ {\t]",
        ) {
            let name = family.trim_matches('"').as_bytes();
            let family =
                if name.is_empty() { Family::default() } else { Family::read(name, kind.as_bytes()) };
            let line = format!("{metric}{end}b=\"c\"}} 1");
            prop_assert_eq!(family.kind_at(line.as_bytes()), family.kind_of(metric.as_bytes()));
        }
    }

    #[test]
    fn a_part_of_a_family_has_its_own_kind() {
        use ValueKind::{Counter, Gauge, Untyped};
        for (kind, kinds) in [
            ("gauge", [Gauge, Untyped, Untyped, Untyped, Gauge, Gauge]),
            ("counter", [Counter, Counter, Untyped, Untyped, Gauge, Untyped]),
            ("histogram", [Untyped, Untyped, Counter, Counter, Gauge, Untyped]),
            ("summary", [Gauge, Untyped, Untyped, Counter, Gauge, Untyped]),
            ("unknown", [Untyped, Untyped, Untyped, Untyped, Gauge, Untyped]),
        ] {
            let family = Family::read(b"a", kind.as_bytes());
            let metrics = ["a", "a_total", "a_bucket", "a_sum", "a_created", "a_info"];
            assert_eq!(metrics.map(|metric| family.kind_of(metric.as_bytes())), kinds, "{kind}");
            assert_eq!(family.kind_of(b"b"), Untyped);
        }
    }
}
