//! The line that the cache of series expects next: a sender repeats its lines.
//!
//! The key of the first field of a line is all before its equals sign, that is measurement, tags and name. The keys of
//! the others are their names, within that of the first. A line that begins with the expected keys is not looked at
//! further than to its values and its time.

use memchr::memchr;

use super::line::{
    FIELDS_MAX, RecentTime, is_end, key_end, read_time, read_value, skip_space, string_end,
};
use super::precision::LinePrecision;
use crate::decode::series_cache::{EntryIndex, Scope, SeriesCache, strip};
use sigmad_sample::timestamp::Stamp;

/// The scope of first fields.
pub(super) const FIRST: Scope = Scope::of_format(b'L', 0);

/// The scope of the other fields.
#[inline]
pub(super) fn following(first: EntryIndex) -> Scope {
    Scope::within(first, 0)
}

/// A field of a line that is expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ExpectedField {
    /// Its place in the cache; one without a number has none of its own.
    pub(super) index: EntryIndex,
    /// NaN if it is no number.
    pub(super) value: f64,
}

/// A line that begins with the keys that are expected; its fields are in the caller's list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ExpectedLine {
    pub(super) first: EntryIndex,
    /// None for the time of arrival.
    pub(super) time_us: Stamp,
    /// Where it ends: at a line end, or at the end of the body.
    pub(super) end: usize,
}

impl ExpectedLine {
    /// Reads the line that starts at `start`. None if it must be read otherwise.
    #[inline]
    pub(super) fn read(
        body: &[u8],
        start: usize,
        cache: &SeriesCache,
        precision: LinePrecision,
        recent_time: &mut RecentTime,
        fields: &mut Vec<ExpectedField>,
    ) -> Option<Self> {
        fields.clear();
        let (first, key) = cache.expected(FIRST)?;
        let (mut index, mut is_number) = (first, true);
        let mut at = after_name(body, start, key)?;
        loop {
            let value;
            (value, at) = if is_number {
                read_value(body, at).ok()?
            } else {
                (f64::NAN, text_end(body, at)?)
            };
            if fields.len() == FIELDS_MAX {
                return None;
            }
            fields.push(ExpectedField { index, value });
            if body.get(at) != Some(&b',') {
                break;
            }
            at += 1;
            let next = cache
                .expected_after(index, following(first))
                .and_then(|(next, name)| Some((next, after_name(body, at, name)?)));
            is_number = next.is_some();
            // Perhaps the field after it: text has no entry.
            (index, at) = next.or_else(|| Some((index, key_end(body, at).ok()? + 1)))?;
        }
        at = skip_space(body, at);
        let mut time_us = None;
        if !is_end(body, at) {
            let micros;
            (micros, at) = read_time(body, at, precision, recent_time).ok()?;
            time_us = Some(micros);
        }
        Some(Self { first, time_us, end: at })
    }
}

/// Where the value begins, if `name` and an equals sign stand at `at`. What was once the end of a name is so wherever the
/// same bytes stand.
#[inline(always)]
fn after_name(body: &[u8], at: usize, name: &[u8]) -> Option<usize> {
    let rest = strip(&body[at..], name)?;
    (rest.first() == Some(&b'=')).then(|| at + name.len() + 1)
}

/// The end of a value that is no number, on one line.
#[cold]
fn text_end(body: &[u8], start: usize) -> Option<usize> {
    if body.get(start) == Some(&b'"') {
        let end = string_end(body, start).ok()?;
        let is_whole = matches!(body.get(end), None | Some(b',' | b' ' | b'\t' | b'\r' | b'\n'));
        return (is_whole && memchr(b'\n', &body[start..end]).is_none()).then_some(end);
    }
    let (value, end) = read_value(body, start).ok()?;
    value.is_nan().then_some(end)
}
