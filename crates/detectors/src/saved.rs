//! What a restart keeps: values as bytes, to the last bit.
//!
//! Little-endian, one field after the other, without names: the version of a detector's state says which fields there
//! are ([`Detector::STATE_VERSION`](crate::Detector::STATE_VERSION)). Floats are written by their bits, so a state that
//! was read goes on exactly as the one that was written.

use std::array;
use std::sync::Arc;

use sigmad_sample::{DeviceId, MetricId, Reading, Verdict};

/// A value that is written to bytes and read from them.
pub trait Saved: Sized {
    /// Appends the value.
    fn write(&self, to: &mut Vec<u8>);

    /// Takes a value from the front. None where the bytes end early, or are of no such value; then `from` may have
    /// advanced.
    fn read(from: &mut &[u8]) -> Option<Self>;
}

macro_rules! saved_numbers {
    ($($number:ty),+) => {
        $(impl Saved for $number {
            #[inline]
            fn write(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn read(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_le_bytes(*bytes))
            }
        })+
    };
}

saved_numbers!(u8, u16, u32, u64, i8, i64, f32, f64);

impl Saved for bool {
    fn write(&self, to: &mut Vec<u8>) {
        u8::from(*self).write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        match u8::read(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// Written with and without a value, so that a state of numbers has one length.
impl<T: Saved + Default> Saved for Option<T> {
    fn write(&self, to: &mut Vec<u8>) {
        self.is_some().write(to);
        match self {
            Some(value) => value.write(to),
            None => T::default().write(to),
        }
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let is_some = bool::read(from)?;
        let value = T::read(from)?;
        Some(is_some.then_some(value))
    }
}

/// As 64 bits.
impl Saved for usize {
    fn write(&self, to: &mut Vec<u8>) {
        (*self as u64).write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        u64::read(from)?.try_into().ok()
    }
}

impl<A: Saved, B: Saved> Saved for (A, B) {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
        self.1.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some((A::read(from)?, B::read(from)?))
    }
}

impl<T: Saved + Default, const N: usize> Saved for [T; N] {
    fn write(&self, to: &mut Vec<u8>) {
        self.iter().for_each(|value| value.write(to));
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let mut values = array::from_fn(|_| T::default());
        for value in &mut values {
            *value = T::read(from)?;
        }
        Some(values)
    }
}

macro_rules! saved_texts {
    ($($text:ty),+) => {
        $(
            /// The length, then the bytes of UTF-8.
            impl Saved for $text {
                fn write(&self, to: &mut Vec<u8>) {
                    (self.len() as u32).write(to);
                    to.extend_from_slice(self.as_bytes());
                }

                fn read(from: &mut &[u8]) -> Option<Self> {
                    let len = u32::read(from)? as usize;
                    let (text, rest) = from.split_at_checked(len)?;
                    *from = rest;
                    std::str::from_utf8(text).ok().map(Self::from)
                }
            }
        )+
    };
}

saved_texts!(Arc<str>, Box<str>, String);

/// The length, then the values.
impl<T: Saved> Saved for Vec<T> {
    fn write(&self, to: &mut Vec<u8>) {
        (self.len() as u32).write(to);
        self.iter().for_each(|value| value.write(to));
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        // Grows as values are there: the length may be wrong.
        (0..u32::read(from)?).map(|_| T::read(from)).collect()
    }
}

impl Saved for MetricId {
    fn write(&self, to: &mut Vec<u8>) {
        (self.slot() as u16).write(to);
        self.generation().write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let slot = u16::read(from)?;
        Some(Self::new(slot, u16::read(from)?))
    }
}

impl Saved for DeviceId {
    fn write(&self, to: &mut Vec<u8>) {
        self.index.write(to);
        self.generation.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let index = u32::read(from)?;
        Some(Self { index, generation: u32::read(from)? })
    }
}

/// Saves the fields of a type in the order given. A field that is not named does not compile. After `if`: what holds
/// for every value that was ever written, where a value without it could panic.
///
/// Of an enum: the number of the variant as a byte, then its fields. A variant that is not named does not compile.
#[macro_export]
macro_rules! saved {
    (enum $type:ident { $($number:literal => $variant:ident $(($($field:ident),+))?),+ $(,)? }) => {
        impl $crate::saved::Saved for $type {
            fn write(&self, to: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $(($($field),+))? => {
                        <u8 as $crate::saved::Saved>::write(&$number, to);
                        $($($crate::saved::Saved::write($field, to);)+)?
                    })+
                }
            }

            fn read(from: &mut &[u8]) -> Option<Self> {
                Some(match <u8 as $crate::saved::Saved>::read(from)? {
                    $($number => {
                        $($(let $field = $crate::saved::Saved::read(from)?;)+)?
                        Self::$variant $(($($field),+))?
                    })+
                    _ => return None,
                })
            }
        }
    };
    ($type:ident { $($field:ident),+ $(,)? } $(if $holds:expr)?) => {
        $crate::saved::saved!(impl [] $type { $($field),+ } $(if $holds)?);
    };
    (impl [$($generics:tt)*] $type:ty { $($field:ident),+ $(,)? } $(if $holds:expr)?) => {
        impl<$($generics)*> $crate::saved::Saved for $type {
            fn write(&self, to: &mut Vec<u8>) {
                let Self { $($field),+ } = self;
                $($crate::saved::Saved::write($field, to);)+
            }

            fn read(from: &mut &[u8]) -> Option<Self> {
                let value = Self { $($field: $crate::saved::Saved::read(from)?),+ };
                $(
                    let holds: fn(&Self) -> bool = $holds;
                    if !holds(&value) {
                        return None;
                    }
                )?
                Some(value)
            }
        }
    };
}
pub use saved;

saved!(Reading { metric, value });
saved!(Verdict { score, z_score, is_anomaly, is_zscore_anomaly });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        let floats = [f64::NAN, -0.0, f64::MIN_POSITIVE / 2.0, f64::INFINITY];
        floats.write(&mut bytes);
        Some(7u16).write(&mut bytes);
        None::<u16>.write(&mut bytes);
        true.write(&mut bytes);
        let mut from = &bytes[..];
        let read = <[f64; 4]>::read(&mut from).expect("whole");
        assert_eq!(read.map(f64::to_bits), floats.map(f64::to_bits));
        assert_eq!(Option::<u16>::read(&mut from), Some(Some(7)));
        assert_eq!(Option::<u16>::read(&mut from), Some(None));
        assert_eq!(bool::read(&mut from), Some(true));
        assert_eq!(u8::read(&mut from), None);
        assert_eq!(bool::read(&mut &[2][..]), None);

        let names: Vec<Arc<str>> = vec!["".into(), "größer".into()];
        let ids = vec![DeviceId { index: 7, generation: u32::MAX }];
        bytes.clear();
        names.write(&mut bytes);
        ids.write(&mut bytes);
        MetricId::new(9, 3).write(&mut bytes);
        let mut from = &bytes[..];
        assert_eq!(Vec::<Arc<str>>::read(&mut from), Some(names));
        assert_eq!(Vec::<DeviceId>::read(&mut from), Some(ids));
        assert_eq!(MetricId::read(&mut from), Some(MetricId::new(9, 3)));
        assert_eq!(Vec::<u8>::read(&mut &[255; 4][..]), None);
        assert_eq!(Arc::<str>::read(&mut &[1, 0, 0, 0, 0xff][..]), None);
    }

    #[derive(Debug, PartialEq)]
    enum Shape {
        Point,
        Box(u8, u16),
    }
    saved!(enum Shape { 0 => Point, 7 => Box(width, height) });

    #[test]
    fn a_variant_is_its_number_and_its_fields() {
        for (shape, written) in [(Shape::Point, &[0][..]), (Shape::Box(3, 4), &[7, 3, 4, 0])] {
            let mut bytes = Vec::new();
            shape.write(&mut bytes);
            assert_eq!(bytes, written);
            assert_eq!(Shape::read(&mut &bytes[..]), Some(shape));
        }
        for bytes in [&[1][..], &[7, 3, 4], &[]] {
            assert_eq!(Shape::read(&mut &*bytes), None);
        }
    }
}
