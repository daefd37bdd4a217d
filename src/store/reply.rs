//! A reply of Redis. Windows and counts stay the bytes that they came as: a replica reads more of them than of
//! all else, and a string of memory for each member would cost more than to read it. No I/O.

use redis::Value;

/// Arrays in arrays: a mark has two levels. Deeper replies are left to the crate.
const DEPTH_MAX: usize = 4;

/// A reply of Redis.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// An array of strings alone, also an empty one.
    Strings(ReplyStrings),
    /// Any other reply.
    Value(Value),
}

/// An array of strings, as Redis sends it: `$5\r\nfirst\r\n$6\r\nsecond\r\n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyStrings {
    bytes: Box<[u8]>,
    count: usize,
}

impl ReplyStrings {
    /// The bytes after the length of the array; the scan has found that they are `count` strings.
    pub(super) fn new(bytes: &[u8], count: usize) -> Self {
        Self { bytes: bytes.into(), count }
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True without a string.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The strings, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (len, text) = counted(rest, b'$')?;
            let string = text.get(..len)?;
            rest = text.get(len + 2..)?;
            Some(string)
        })
    }
}

impl Reply {
    /// Its parts as values of their own.
    pub fn into_value(self) -> Value {
        match self {
            Self::Strings(strings) => {
                Value::Array(strings.iter().map(|text| Value::BulkString(text.to_vec())).collect())
            }
            Self::Value(value) => value,
        }
    }
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        let Value::Array(parts) = &value else { return Self::Value(value) };
        let mut bytes = Vec::new();
        for part in parts {
            let Value::BulkString(text) = part else { return Self::Value(value) };
            bytes.extend(format!("${}\r\n", text.len()).bytes());
            bytes.extend(text.iter().chain(b"\r\n"));
        }
        Self::Strings(ReplyStrings::new(&bytes, parts.len()))
    }
}

/// A whole reply of numbers, strings and arrays. The crate parses any reply, and takes ten times as long. None for
/// what is left to it: errors, other statuses than OK, and what is malformed.
pub(super) fn value(bytes: &[u8]) -> Option<Value> {
    let (value, rest) = value_in(bytes, DEPTH_MAX)?;
    rest.is_empty().then_some(value)
}

fn value_in(bytes: &[u8], depth: usize) -> Option<(Value, &[u8])> {
    match bytes.first()? {
        b'+' => Some((Value::Okay, bytes.strip_prefix(b"+OK\r\n")?)),
        b':' => {
            let (number, rest) = counted(bytes, b':')?;
            Some((Value::Int(number.try_into().ok()?), rest))
        }
        b'$' => {
            let (len, rest) = counted(bytes, b'$')?;
            let text = rest.get(..len)?.to_vec();
            Some((Value::BulkString(text), rest[len..].strip_prefix(b"\r\n")?))
        }
        b'*' if depth > 0 => {
            let (count, mut rest) = counted(bytes, b'*')?;
            // Each has three bytes at least.
            let mut parts = Vec::with_capacity(count.min(rest.len() / 3));
            for _ in 0..count {
                let (part, after) = value_in(rest, depth - 1)?;
                parts.push(part);
                rest = after;
            }
            Some((Value::Array(parts), rest))
        }
        _ => None,
    }
}

/// The number in a line of that kind, and what follows the line. None for a negative one, which stands for nil.
#[inline]
fn counted(bytes: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    let mut rest = bytes.strip_prefix(&[kind])?;
    let (number, after) = digits(rest)?;
    rest = after.strip_prefix(b"\r\n")?;
    Some((number, rest))
}

/// The number that digits are, and what follows them. None without a digit, and for more than a `usize` holds.
#[inline]
pub(super) fn digits(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (mut number, mut at) = (0_usize, 0);
    while let Some(&digit @ b'0'..=b'9') = bytes.get(at) {
        number = number.checked_mul(10)?.checked_add(usize::from(digit - b'0'))?;
        at += 1;
    }
    (at > 0).then(|| (number, &bytes[at..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Replies of all kinds, as Redis sends them.
    fn reply() -> impl Strategy<Value = String> {
        let one = prop_oneof![
            Just("+OK\r\n".to_owned()),
            Just("+PONG\r\n".to_owned()),
            Just("-ERR no\r\n".to_owned()),
            Just("$-1\r\n".to_owned()),
            any::<i64>().prop_map(|number| format!(":{number}\r\n")),
            "[a-z\r\n$]{0,12}".prop_map(|text| format!("${}\r\n{text}\r\n", text.len())),
        ];
        one.prop_recursive(6, 40, 5, |inner| {
            proptest::collection::vec(inner, 0..5)
                .prop_map(|parts| format!("*{}\r\n{}", parts.len(), parts.concat()))
        })
    }

    proptest! {
        #[test]
        fn values_are_those_of_the_crate(reply in reply(), cut in 0..600_usize, foreign in any::<u8>()) {
            let mut bytes = reply.into_bytes();
            let expected = redis::parse_redis_value(&bytes).expect("a reply");
            if let Some(found) = value(&bytes) {
                prop_assert_eq!(&found, &expected);
            }
            prop_assert_eq!(Reply::from(expected.clone()).into_value(), expected);
            // A damaged one is what the crate says, or is left to the crate.
            let at = cut % bytes.len();
            prop_assert_eq!(value(&bytes[..at]), None);
            bytes[at] = foreign;
            if let Some(found) = value(&bytes) {
                prop_assert_eq!(Some(found), redis::parse_redis_value(&bytes).ok());
            }
        }
    }

    #[test]
    fn deep_replies_are_left_to_the_crate() {
        let of = |depth: usize| format!("{}:1\r\n", "*1\r\n".repeat(depth));
        assert!(value(of(DEPTH_MAX).as_bytes()).is_some());
        assert_eq!(value(of(DEPTH_MAX + 1).as_bytes()), None);
        assert_eq!(value(of(100_000).as_bytes()), None);
    }
}
