//! The symbols of remote_write 2.0, numbered for as long as a worker lives.
//!
//! A request brings its own table of strings, and its series refer to places in it: the same series has other
//! references in each request. Here a string keeps its number from request to request. The numbers of its labels are
//! the key of a series, four bytes a string.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Strings with a number. When there are more, the numbers begin anew with the next request, which costs one look-up
/// of each series.
const NUMBERED_MAX: usize = 1 << 16;
/// Their bytes: 16 for each.
const NUMBERED_BYTES_MAX: usize = 1 << 20;
/// Longer strings get no number: no label of a series that is kept is longer.
const SYMBOL_BYTES_MAX: usize = sigmad_sample::METRIC_BYTES_MAX;
/// Strings of one request: Prometheus sends 2,000 samples in one, with a few thousand. An empty string takes two bytes
/// of a body and twelve here.
const TABLE_MAX: usize = 1 << 16;

/// Bytes that the symbols of one worker take at most.
pub(super) const SYMBOLS_BYTES: usize = 2 * NUMBERED_BYTES_MAX
    + NUMBERED_MAX * 2 * size_of::<Numbered>()
    + size_of::<FirstNumbers>()
    + TABLE_MAX * (size_of::<u32>() + size_of::<Range<u32>>());

/// Places that one byte of a reference can say.
const SHORT_PLACES: usize = 0x80;

/// The number of a string without one.
pub(super) const UNNUMBERED: u32 = u32::MAX;

/// The request has more than [`TABLE_MAX`] symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManySymbols;

/// A string, as a part of [`Symbols::bytes`].
#[derive(Clone, Copy, Debug)]
struct Numbered {
    at: u32,
    length: u32,
    number: u32,
}

#[derive(Debug)]
struct FirstNumbers([u32; SHORT_PLACES]);

impl Default for FirstNumbers {
    fn default() -> Self {
        Self([UNNUMBERED; SHORT_PLACES])
    }
}

/// The strings that a worker knows, and the table of the present request.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    hasher: RandomState,
    known: HashTable<Numbered>,
    bytes: Vec<u8>,
    /// How often the numbers began anew: a part of each key.
    epoch: u32,
    /// The number of each symbol of the request.
    numbers: Vec<u32>,
    /// The first of them, so that a look-up needs no check; [`UNNUMBERED`] past the last symbol.
    first_numbers: FirstNumbers,
    /// Where each stands in the body.
    places: Vec<Range<u32>>,
}

impl Symbols {
    /// Starts the table of a request.
    pub(super) fn begin(&mut self) {
        self.numbers.clear();
        self.first_numbers = FirstNumbers::default();
        self.places.clear();
        if self.known.len() >= NUMBERED_MAX || self.bytes.len() >= NUMBERED_BYTES_MAX {
            self.known.clear();
            self.bytes.clear();
            self.epoch = self.epoch.wrapping_add(1);
        }
    }

    /// How often the numbers began anew.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Adds the next symbol of the table: `symbol`, which starts at `at` in the body.
    pub(super) fn push(&mut self, symbol: &[u8], at: usize) -> Result<(), TooManySymbols> {
        if self.numbers.len() >= TABLE_MAX {
            return Err(TooManySymbols);
        }
        let number = self.number(symbol);
        if let Some(first) = self.first_numbers.0.get_mut(self.numbers.len()) {
            *first = number;
        }
        self.numbers.push(number);
        // A body has fewer bytes than a u32 can count; one that had more could not be read back, and so is refused.
        let (Ok(start), Ok(end)) = (u32::try_from(at), u32::try_from(at + symbol.len())) else {
            return Err(TooManySymbols);
        };
        self.places.push(start..end);
        Ok(())
    }

    fn number(&mut self, symbol: &[u8]) -> u32 {
        let Self { hasher, known, bytes, .. } = self;
        let hash = hash(hasher, symbol);
        let spelled = |each: &Numbered| &bytes[each.at as usize..][..each.length as usize];
        if let Some(found) = known.find(hash, |each| spelled(each) == symbol) {
            return found.number;
        }
        let is_full =
            known.len() >= NUMBERED_MAX || bytes.len() + symbol.len() > NUMBERED_BYTES_MAX;
        if is_full || symbol.len() > SYMBOL_BYTES_MAX {
            return UNNUMBERED;
        }
        let number = known.len() as u32;
        let new = Numbered { at: bytes.len() as u32, length: symbol.len() as u32, number };
        known.insert_unique(hash, new, |each| hash_of(hasher, bytes, each));
        bytes.extend_from_slice(symbol);
        number
    }

    /// The number of the symbol at that place of the table, [`UNNUMBERED`] if it has none. None without such a place.
    #[inline(always)]
    pub(super) fn number_at(&self, place: u32) -> Option<u32> {
        self.numbers.get(place as usize).copied()
    }

    /// Whether `key` has the numbers of the symbols that `refs` refers to; no number in a key is [`UNNUMBERED`].
    #[inline(always)]
    pub(super) fn are(&self, refs: &[u8], key: &[u8]) -> bool {
        let (numbers, _) = key.as_chunks();
        if refs.len() == numbers.len() {
            // As many bytes as references.
            let first = &self.first_numbers.0;
            return numbers.iter().zip(refs).all(|(number, &place)| {
                place < SHORT_PLACES as u8
                    && first[usize::from(place)] == u32::from_ne_bytes(*number)
            });
        }
        let mut refs = refs.iter();
        for number in numbers {
            let number = u32::from_ne_bytes(*number);
            debug_assert_ne!(number, UNNUMBERED);
            let found = match refs.next() {
                Some(&place @ ..0x80) => self.first_numbers.0[usize::from(place)],
                Some(&low) => match refs.next() {
                    Some(&high @ ..0x80) => {
                        let place = u32::from(low & 0x7f) | u32::from(high) << 7;
                        self.number_at(place).unwrap_or(UNNUMBERED)
                    }
                    // A place past 16,383: read otherwise.
                    _ => return false,
                },
                None => return false,
            };
            if found != number {
                return false;
            }
        }
        refs.as_slice().is_empty()
    }

    /// The symbol at that place of the table.
    pub(super) fn get<'b>(&self, body: &'b [u8], place: u32) -> Option<&'b [u8]> {
        let Range { start, end } = self.places.get(place as usize)?.clone();
        body.get(start as usize..end as usize)
    }
}

#[inline]
fn hash(hasher: &RandomState, bytes: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(bytes);
    state.finish()
}

fn hash_of(hasher: &RandomState, bytes: &[u8], each: &Numbered) -> u64 {
    hash(hasher, &bytes[each.at as usize..][..each.length as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(symbols: &mut Symbols, table: &[&str]) -> Vec<Option<u32>> {
        symbols.begin();
        let mut at = 0;
        for symbol in table {
            symbols.push(symbol.as_bytes(), at).expect("room");
            at += symbol.len();
        }
        let body = table.concat();
        for (place, symbol) in table.iter().enumerate() {
            assert_eq!(symbols.get(body.as_bytes(), place as u32), Some(symbol.as_bytes()));
        }
        (0..=table.len() as u32).map(|place| symbols.number_at(place)).collect()
    }

    #[test]
    fn a_string_keeps_its_number() {
        let mut symbols = Symbols::default();
        assert_eq!(
            numbers(&mut symbols, &["", "a", "b", "a"]),
            [Some(0), Some(1), Some(2), Some(1), None]
        );
        assert_eq!(numbers(&mut symbols, &["b", "c", ""]), [Some(2), Some(3), Some(0), None]);
        assert_eq!((symbols.epoch(), symbols.get(b"", u32::MAX)), (0, None));
    }

    #[test]
    fn a_long_string_gets_no_number() {
        let mut symbols = Symbols::default();
        let long = "x".repeat(SYMBOL_BYTES_MAX + 1);
        assert_eq!(numbers(&mut symbols, &[&long[1..], &long]), [Some(0), Some(UNNUMBERED), None]);
    }

    #[test]
    fn memory_is_bounded_and_numbers_begin_anew() {
        let mut symbols = Symbols::default();
        let strings = |range: std::ops::Range<usize>| range.map(|each| format!("{each}"));
        let table: Vec<_> = strings(0..NUMBERED_MAX - 10).collect();
        let table: Vec<_> = table.iter().map(String::as_str).collect();
        assert_eq!(numbers(&mut symbols, &table)[0], Some(0));
        let table: Vec<_> = strings(NUMBERED_MAX - 10..NUMBERED_MAX + 10).collect();
        let table: Vec<_> = table.iter().map(String::as_str).collect();
        let last = numbers(&mut symbols, &table);
        assert_eq!(last[9], Some(NUMBERED_MAX as u32 - 1));
        assert_eq!(last[10], Some(UNNUMBERED));
        assert_eq!(symbols.epoch(), 0);
        assert_eq!(numbers(&mut symbols, &["x"]), [Some(0), None]);
        assert_eq!(symbols.epoch(), 1);
        symbols.begin();
        for _ in 0..TABLE_MAX {
            symbols.push(b"", 0).expect("room");
        }
        assert_eq!(symbols.push(b"", 0), Err(TooManySymbols));
    }

    #[test]
    fn references_are_compared_by_the_numbers_of_their_symbols() {
        let mut symbols = Symbols::default();
        let table: Vec<_> = (0..300).map(|each| format!("{each}")).collect();
        // Places 0 to 299 have the numbers 299 to 0.
        let reversed: Vec<_> = table.iter().rev().map(String::as_str).collect();
        numbers(&mut symbols, &table.iter().map(String::as_str).collect::<Vec<_>>());
        numbers(&mut symbols, &reversed);
        let key =
            |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
        let three = key(&[298, 9, 297]);
        // 290 is a varint of two bytes.
        for (refs, is_same) in [
            (&[1, 0xa2, 0x02, 2][..], true),
            (&[1, 0xa2, 0x02, 3], false),
            (&[2, 0xa2, 0x02, 2], false),
            (&[1, 0xa3, 0x02, 2], false),
            (&[1, 0xa2, 0x02, 2, 0], false),
            (&[1, 0xa2, 0x02], false),
            (&[1, 0xa2], false),
            (&[1, 0xff, 0x7f, 2], false),
            (&[], false),
        ] {
            assert_eq!(symbols.are(refs, &three), is_same, "{refs:?}");
        }
        assert!(symbols.are(&[], &[]) && !symbols.are(&[1], &[]));
    }
}
