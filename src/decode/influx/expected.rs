//! The names of fields that the cache of series expects next: a sender repeats its lines.
//!
//! The key of the first field of a line is all before its equals sign, that is measurement, tags and name. The keys of
//! the others are their names, within that of the first.

use crate::decode::series_cache::{EntryIndex, Scope, SeriesCache, strip};

/// The scope of first fields.
pub(super) const FIRST: Scope = Scope::of_format(b'L', 0);

/// The scope of the other fields.
#[inline]
pub(super) fn following(first: EntryIndex) -> Scope {
    Scope::within(first, 0)
}

/// The fields of one line, as far as they are the expected ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedFields<'c> {
    cache: Option<&'c SeriesCache>,
    first: Option<EntryIndex>,
    last: Option<EntryIndex>,
}

impl<'c> ExpectedFields<'c> {
    /// Nothing is expected without a cache.
    #[inline]
    pub(super) fn new(cache: Option<&'c SeriesCache>) -> Self {
        Self { cache, first: None, last: None }
    }

    /// The entry of the first field of `line`, and the length of its key.
    #[inline]
    pub(super) fn first(&mut self, line: &[u8]) -> Option<(EntryIndex, usize)> {
        let (index, key) = self.cache?.expected(FIRST)?;
        if !is_before_value(line, key) {
            return None;
        }
        (self.first, self.last) = (Some(index), Some(index));
        Some((index, key.len()))
    }

    /// The entry of the next field, whose name `line` begins with, and the length of its name.
    #[inline]
    pub(super) fn next(&mut self, line: &[u8]) -> Option<(EntryIndex, usize)> {
        let (index, name) = self.cache?.expected_after(self.last?, following(self.first?))?;
        if !is_before_value(line, name) {
            // Perhaps the one after it: text has no entry.
            return None;
        }
        self.last = Some(index);
        Some((index, name.len()))
    }
}

/// Whether the equals sign of a field follows `name`. What was once the end of a name is so wherever the same bytes
/// stand.
#[inline]
fn is_before_value(line: &[u8], name: &[u8]) -> bool {
    strip(line, name).is_some_and(|rest| rest.first() == Some(&b'='))
}
