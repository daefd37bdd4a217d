//! Patterns of names, as settings have them ([`sigmad_sample::glob`]).

use std::fmt;
use std::str::FromStr;

use sigmad_sample::glob;

/// A pattern of names, for the whole name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<str>);

/// A pattern that no name has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyGlob;

impl fmt::Display for EmptyGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must not be empty; * is any text, and ? any one character")
    }
}

impl std::error::Error for EmptyGlob {}

impl FromStr for Glob {
    type Err = EmptyGlob;

    fn from_str(text: &str) -> Result<Self, EmptyGlob> {
        if text.is_empty() { Err(EmptyGlob) } else { Ok(Self(text.into())) }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Glob {
    /// Whether the pattern is that of `name`.
    pub fn matches(&self, name: &str) -> bool {
        glob::matches(&self.0, name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        text.parse().expect("a pattern")
    }

    #[test]
    fn patterns_are_for_the_whole_name() {
        for (pattern, yes, no) in [
            ("cpu", &["cpu"][..], &["cpu0", "acpu", "CPU", ""][..]),
            ("cpu*", &["cpu", "cpu{a=\"b\"}"], &["acpu"]),
            ("*_total", &["a_total", "_total", "a_total_total"], &["a_total{b=\"c\"}"]),
            ("*_total{*", &["a_total{b=\"c\"}"], &["a_total"]),
            ("a?c", &["abc", "aéc", "a,c"], &["ac", "abbc"]),
            ("*a*b*", &["ab", "xaybz", "aab"], &["ba", "a", "b"]),
            ("*", &["", "x"], &[]),
            ("[a-z]", &["[a-z]"], &["a"]),
        ] {
            for name in yes {
                assert!(glob(pattern).matches(name), "{pattern} {name}");
            }
            for name in no {
                assert!(!glob(pattern).matches(name), "{pattern} {name}");
            }
        }
        assert_eq!("".parse::<Glob>(), Err(EmptyGlob));
    }

    /// By the definition, in exponential time.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some(('*', after)), None) => naive(after, name),
            (Some(('*', after)), Some((_, left))) => naive(after, name) || naive(pattern, left),
            (Some((wanted, after)), Some((found, left))) => {
                (*wanted == '?' || wanted == found) && naive(after, left)
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_by_its_definition(pattern in "[ab*?]{1,7}", name in "[abé]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(glob(&pattern).matches(&name), naive(&chars(&pattern), &chars(&name)));
        }
    }
}
