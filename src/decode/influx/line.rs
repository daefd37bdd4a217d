//! One line: where its series and its fields are, their values, and its time.

use std::ops::Range;

use memchr::{memchr, memchr2};
use sigmad_sample::timestamp::Stamp;

use super::number;
use super::precision::LinePrecision;
use crate::decode::decimal::{integer, leading_decimal};
use crate::decode::fault::PointFault;
use crate::decode::series_cache::strip;

/// Fields of one line, and so readings of one point in any format but JSON (SPEC section 4).
pub(super) const FIELDS_MAX: usize = 1_024;

/// A line that can be read; its fields are in the caller's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub start: usize,
    /// None for the time of arrival.
    pub time_us: Stamp,
    /// Where it ends: at a line end, or at the end of the body.
    pub end: usize,
    /// True if line ends may be within it.
    pub has_string: bool,
}

impl Line {
    /// Measurement and tags, as sent and not yet checked.
    pub(super) fn series<'b>(&self, body: &'b [u8]) -> &'b [u8] {
        let end = series_end(body, self.start).unwrap_or(self.start);
        debug_assert!(end > self.start, "the line was read");
        &body[self.start..end]
    }
}

/// A field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    /// Its name, as sent.
    pub key: Range<usize>,
    /// NaN if it is no number.
    pub value: f64,
}

/// The last time that was read, as text in the body and in microseconds: most lines have the one before.
pub(super) type RecentTime = Option<(Range<usize>, i64)>;

/// Why a line can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineFault {
    pub fault: PointFault,
    /// The line ends with the first line end from here on.
    pub at: usize,
}

const fn syntax(message: &'static str, at: usize) -> LineFault {
    LineFault { fault: PointFault::Syntax(message), at }
}

/// The end of the line that `at` is in.
pub(super) fn end_of(body: &[u8], at: usize) -> usize {
    memchr(b'\n', &body[at..]).map_or(body.len(), |length| at + length)
}

/// Reads the line that starts at `start`, which is neither white space nor a comment.
///
/// # Errors
/// If it is not in the grammar, or its time is out of range.
pub(super) fn parse(
    body: &[u8],
    start: usize,
    fields: &mut Vec<Field>,
    precision: LinePrecision,
    recent_time: &mut RecentTime,
) -> Result<Line, LineFault> {
    fields.clear();
    let mut at = skip_space(body, series_end(body, start)?);
    let mut has_string = false;
    loop {
        if fields.len() == FIELDS_MAX {
            return Err(syntax("more than 1024 fields", at));
        }
        let key = at..key_end(body, at)?;
        let value_at = key.end + 1;
        let value;
        if body.get(value_at) == Some(&b'"') {
            has_string = true;
            value = f64::NAN;
            at = string_end(body, value_at)?;
        } else {
            (value, at) = read_value(body, value_at)?;
        }
        fields.push(Field { key, value });
        match body.get(at) {
            Some(b',') => at += 1,
            None | Some(b' ' | b'\t' | b'\r' | b'\n') => break,
            // Only what follows a string.
            Some(_) => return Err(syntax("invalid field format", at)),
        }
    }
    at = skip_space(body, at);
    let mut time_us = None;
    if !is_end(body, at) {
        let (micros, end) = read_time(body, at, precision, recent_time)?;
        time_us = Some(micros);
        at = end;
    }
    Ok(Line { start, time_us, end: at, has_string })
}

/// Reads the value of a field that is no string; returns where it ends.
#[inline(always)]
pub(super) fn read_value(body: &[u8], start: usize) -> Result<(f64, usize), LineFault> {
    if let Some((value, length)) = leading_decimal(&body[start..]) {
        let end = start + length;
        if matches!(body.get(end), None | Some(b',' | b' ' | b'\n' | b'\r' | b'\t')) {
            return Ok((value, end));
        }
    }
    let end = value_end(body, start);
    let value = number::value(&body[start..end]).map_err(|text| syntax(text, start))?;
    Ok((value, end))
}

/// Reads the time of a line, which is the last on it; returns where the line ends.
#[inline(always)]
pub(super) fn read_time(
    body: &[u8],
    start: usize,
    precision: LinePrecision,
    recent: &mut RecentTime,
) -> Result<(i64, usize), LineFault> {
    if let Some((text, micros)) = recent
        && let Some(rest) = strip(&body[start..], &body[text.clone()])
        && matches!(rest, [] | [b'\n', ..])
    {
        return Ok((*micros, body.len() - rest.len()));
    }
    let end = value_end(body, start);
    let Some(time) = integer(&body[start..end]) else {
        return Err(syntax("bad timestamp", start));
    };
    let Some(micros) = precision.micros(time) else {
        return Err(LineFault { fault: PointFault::Time, at: start });
    };
    *recent = Some((start..end, micros));
    let at = skip_space(body, end);
    if !is_end(body, at) {
        return Err(syntax("bad timestamp", at));
    }
    Ok((micros, at))
}
const _: () = assert!(FIELDS_MAX == 1_024, "the message says so");

pub(super) fn is_end(body: &[u8], at: usize) -> bool {
    matches!(body.get(at), None | Some(b'\n'))
}

/// A carriage return is white space: some clients end their lines with both.
#[inline]
pub(super) fn skip_space(body: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\r') = body.get(at) {
        at += 1;
    }
    at
}

/// The first space that is not escaped.
#[inline]
fn series_end(body: &[u8], start: usize) -> Result<usize, LineFault> {
    let mut at = start;
    loop {
        match memchr2(b' ', b'\n', &body[at..]) {
            Some(length) if body[at + length] == b'\n' => {
                return Err(syntax("missing fields", at + length));
            }
            None => return Err(syntax("missing fields", body.len())),
            Some(length) if at + length > start && body[at + length - 1] == b'\\' => {
                at += length + 1;
            }
            Some(length) => return Ok(at + length),
        }
    }
}

/// The equals sign that ends the name of a field.
#[inline]
pub(super) fn key_end(body: &[u8], start: usize) -> Result<usize, LineFault> {
    let mut at = start;
    loop {
        match body.get(at) {
            Some(b'=') if at == start => return Err(syntax("missing field key", at)),
            Some(b'=') => return Ok(at),
            Some(b'\\') => {
                let is_escape = matches!(body.get(at + 1), Some(b',' | b'=' | b' '));
                at += 1 + usize::from(is_escape);
            }
            None | Some(b',' | b' ' | b'\n') if at == start => {
                return Err(syntax("missing fields", at));
            }
            None | Some(b',' | b' ' | b'\n') => return Err(syntax("missing field value", at)),
            Some(_) => at += 1,
        }
    }
}

/// The end of a value that is no string.
#[inline]
fn value_end(body: &[u8], mut at: usize) -> usize {
    while !matches!(body.get(at), None | Some(b',' | b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The end of the string that opens at `open`. It may have line ends.
pub(super) fn string_end(body: &[u8], open: usize) -> Result<usize, LineFault> {
    let mut at = open + 1;
    while let Some(length) = memchr2(b'"', b'\\', &body[at..]) {
        at += length;
        if body[at] == b'"' {
            return Ok(at + 1);
        }
        let is_escape = matches!(body.get(at + 1), Some(b'"' | b'\\'));
        at += 1 + usize::from(is_escape);
    }
    // It would end with the body: only this line is given up.
    Err(syntax("unbalanced quotes", open))
}
