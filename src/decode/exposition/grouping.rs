//! The labels that all series of a body get, and what they are in keys.

use std::ops::Range;

/// In front of the keys of this format.
pub(super) const TAG: u8 = b'T';
/// Between the grouping labels and the series of a key: in no UTF-8.
pub(super) const KEY_SEPARATOR: u8 = 0xff;

/// Labels that all series of a body get, in place of their own of the same name.
#[derive(Debug, Default)]
pub struct Grouping {
    pub(super) text: Vec<u8>,
    labels: Vec<(Range<usize>, Range<usize>)>,
}

impl Grouping {
    /// Removes all labels.
    pub fn clear(&mut self) {
        self.text.clear();
        self.labels.clear();
    }

    /// Adds a label; one without a value removes that of the series.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        // Between name and value, and behind: in no UTF-8, so no two groups are spelled alike.
        self.text.push(KEY_SEPARATOR);
        let value_at = self.text.len();
        self.text.extend_from_slice(value);
        self.labels.push((start..value_at - 1, value_at..self.text.len()));
        self.text.push(KEY_SEPARATOR);
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.labels
            .iter()
            .map(|(name, value)| (&self.text[name.clone()], &self.text[value.clone()]))
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.iter().any(|(known, _)| known == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_cleared_has_no_labels() {
        let mut grouping = Grouping::default();
        for _ in 0..2 {
            grouping.push(b"job", b"backup");
            grouping.push(b"instance", b"");
            let labels: Vec<_> = grouping.iter().collect();
            assert_eq!(labels, [(&b"job"[..], &b"backup"[..]), (b"instance", b"")]);
            assert!(grouping.has(b"instance") && !grouping.has(b"backup"));
            grouping.clear();
            assert_eq!((grouping.iter().count(), grouping.has(b"job")), (0, false));
        }
    }
}
