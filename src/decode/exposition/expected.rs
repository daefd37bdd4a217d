//! The line that the cache of series expects next: a sender repeats its lines.
//!
//! The key of a series is its name and its labels as they are written, within those of the group. A line that begins with
//! the expected key is not looked at further than to its value and its time.

use super::family::Family;
use super::grouping::{Grouping, TAG};
use super::time::time;
use crate::decode::decimal::leading_decimal;
use crate::decode::labels::ValueKind;
use crate::decode::points::PointReader;
use crate::decode::series_cache::{EntryIndex, Scope, SeriesCache, SeriesKey, strip};
use sigmad_sample::timestamp::Stamp;

/// The kind of the scope of groups, past those of values.
const GROUP: u64 = 3;
const _: () = assert!((ValueKind::Untyped as u64) < GROUP);

/// Within what the keys of a body are.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyScopes {
    /// The body has no group.
    Whole,
    /// The group is known.
    Group(EntryIndex),
    /// The cache has no room for the group: it stands in each key.
    Spelled,
}

impl KeyScopes {
    pub(super) fn new(grouping: &Grouping, points: &mut PointReader<'_>) -> Self {
        if grouping.text.is_empty() {
            return Self::Whole;
        }
        let scope = Scope::of_format(TAG, GROUP);
        let group = points.common(SeriesKey { scope, bytes: &grouping.text });
        group.map_or(Self::Spelled, Self::Group)
    }

    /// The scope of series of a kind.
    #[inline]
    pub(super) fn of(self, kind: ValueKind) -> Option<Scope> {
        match self {
            Self::Whole => Some(Scope::of_format(TAG, kind as u64)),
            Self::Group(group) => Some(Scope::within(group, kind as u16)),
            Self::Spelled => None,
        }
    }
}

/// The last time that was read: most lines have the one before.
pub(super) type RecentTime<'b> = Option<(&'b [u8], i64)>;

/// A line of the expected series, with a finite value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ExpectedLine {
    pub(super) index: EntryIndex,
    pub(super) value: f64,
    pub(super) time: Stamp,
    /// Without its end.
    pub(super) length: usize,
}

impl ExpectedLine {
    /// The line that `body` begins with. None if it must be read otherwise.
    #[inline]
    pub(super) fn read<'b>(
        body: &'b [u8],
        cache: &SeriesCache,
        scopes: KeyScopes,
        family: &Family<'_>,
        are_seconds: bool,
        recent: &mut RecentTime<'b>,
    ) -> Option<Self> {
        let (index, key) = cache.expected(scopes.of(family.kind_at(body))?)?;
        // What was once a whole series is so wherever a space follows.
        let [b' ', rest @ ..] = strip(body, key)? else { return None };
        let (value, length) = leading_decimal(rest)?;
        let (time, rest) = match &rest[length..] {
            rest @ ([] | [b'\n', ..]) => (None, rest),
            [b' ', rest @ ..] => {
                let (micros, rest) = take_time(rest, are_seconds, recent)?;
                (Some(micros), rest)
            }
            _ => return None,
        };
        Some(Self { index, value, time, length: body.len() - rest.len() })
    }
}

/// Takes the time, which is the last of its line.
#[inline]
fn take_time<'b>(
    text: &'b [u8],
    are_seconds: bool,
    recent: &mut RecentTime<'b>,
) -> Option<(i64, &'b [u8])> {
    if let Some((known, micros)) = *recent
        && let Some(rest) = strip(text, known)
        && matches!(rest, [] | [b'\n', ..])
    {
        return Some((micros, rest));
    }
    let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
    let (first, rest) = text.split_at(end);
    let micros = time(first, are_seconds)?.ok()??;
    *recent = Some((first, micros));
    Some((micros, rest))
}
