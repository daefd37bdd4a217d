//! Measurement, tags and the name of a field: read when the worker does not know the series.
//!
//! A backslash before a comma, an equals sign or a space makes it a part of the name; before any other byte it is a
//! backslash. In a measurement an equals sign needs none.

use std::borrow::Cow;

use crate::decode::fault::PointFault;
use crate::decode::labels::SeriesDescription;

/// Bytes that end a part of the tags, unless they are escaped.
const OF_TAGS: &[u8] = b",= ";
const OF_MEASUREMENT: &[u8] = b", ";

/// Describes the series of a field: `measurement_field`, with the tags as labels.
pub(super) fn describe(
    series: &[u8],
    field: &[u8],
    description: &mut SeriesDescription,
) -> Result<(), PointFault> {
    let (measurement, tags) = split(series)?;
    description.name(&unescaped(measurement, OF_MEASUREMENT));
    description.name(b"_");
    description.name(&unescaped(field, OF_TAGS));
    each_tag(tags, |name, value| {
        description.label(&unescaped(name, OF_TAGS), &unescaped(value, OF_TAGS));
    })
}

/// Checks measurement and tags.
pub(super) fn check(series: &[u8]) -> Result<(), PointFault> {
    each_tag(split(series)?.1, |_, _| ())
}

/// The measurement, and the tags if there are any.
fn split(series: &[u8]) -> Result<(&[u8], Option<&[u8]>), PointFault> {
    let (measurement, tags) = match end(series, b',') {
        None => (series, None),
        Some(comma) => (&series[..comma], Some(&series[comma + 1..])),
    };
    if measurement.is_empty() {
        return Err(PointFault::Syntax("missing measurement"));
    }
    Ok((measurement, tags))
}

fn each_tag(tags: Option<&[u8]>, mut tag: impl FnMut(&[u8], &[u8])) -> Result<(), PointFault> {
    let mut rest = tags;
    while let Some(tags) = rest {
        let pair = match end(tags, b',') {
            None => {
                rest = None;
                tags
            }
            Some(comma) => {
                rest = Some(&tags[comma + 1..]);
                &tags[..comma]
            }
        };
        let equals = end(pair, b'=').ok_or(PointFault::Syntax("missing tag value"))?;
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        match (name, value) {
            ([], _) => return Err(PointFault::Syntax("missing tag key")),
            (_, []) => return Err(PointFault::Syntax("missing tag value")),
            _ if end(value, b'=').is_some() => {
                return Err(PointFault::Syntax("invalid tag format"));
            }
            _ => tag(name, value),
        }
    }
    Ok(())
}

/// The first `byte` that is not escaped.
fn end(text: &[u8], byte: u8) -> Option<usize> {
    (0..text.len()).find(|&at| text[at] == byte && (at == 0 || text[at - 1] != b'\\'))
}

/// The text without the backslashes that escape one of `escaped`.
fn unescaped<'t>(text: &'t [u8], escaped: &[u8]) -> Cow<'t, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let is_kept = |at: usize| {
        text[at] != b'\\' || text.get(at + 1).is_none_or(|next| !escaped.contains(next))
    };
    (0..text.len()).filter(|at| is_kept(*at)).map(|at| text[at]).collect::<Vec<_>>().into()
}
