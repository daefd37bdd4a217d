//! Which incidents an onset belongs to.
//!
//! Two onsets that are close in time have one cause if they share what unrelated ones would hardly share. The question
//! is always the same: how likely is it that so many recent incidents are like the newcomer by chance?
//!
//! 1. The same device: another series of it, within [`SAME_DEVICE_US`].
//! 2. A group with a name part in common: at least [`GROUP_DEVICES_MIN`] devices, nearly all with a token that the
//!    newcomer has, and the fleet has not.
//! 3. A token that makes a group: of `m` recent incidents, `c` and the newcomer have it. The chance is the tail of a
//!    binomial with the token's share of the fleet, which is the hypergeometric tail of a fleet that is large beside
//!    `m`. At most [`CHANCE_MAX`], and all of them become one. A token that most of the fleet has never gets there.
//! 4. Devices whose onsets went together before ([`crate::together`]).
//! 5. A storm: more incidents at once than the usual rate explains ([`STORM_CHANCE_MAX`]), whatever their names. One that
//!    is a storm already counts as those it was made of, so what begins while it lasts joins it.

use crate::tokens::{FleetTokens, tokens};

/// Another series of a device belongs to its incident within this time.
pub const SAME_DEVICE_US: i64 = 600_000_000;
/// Devices from which the token of a group tells who else belongs to it.
pub const GROUP_DEVICES_MIN: u32 = 3;
/// A token with a larger share of the fleet tells nothing.
pub const SHARE_MAX: f64 = 0.5;
/// Part of a group's devices that have its token.
pub const DOMINANT: f64 = 0.8;
/// Chance of a token in common above which it counts as one.
pub const CHANCE_MAX: f64 = 0.05;
/// Incidents from which there can be a storm.
pub const STORM_MIN: usize = 5;
/// Chance of so many at once above which they count as one.
pub const STORM_CHANCE_MAX: f64 = 1e-3;
/// Recent incidents that an onset is compared with.
pub const RECENT_MAX: usize = 256;
/// Tokens that a group keeps: those of its first devices.
pub const GROUP_TOKENS_MAX: usize = 64;

/// How many devices of an incident have each token.
#[derive(Clone, Debug, Default)]
pub struct GroupTokens {
    pub(crate) counts: Vec<(Box<str>, u32)>,
    pub(crate) devices: u32,
}

impl GroupTokens {
    /// Adds a device.
    pub fn add(&mut self, device: &str) {
        self.devices += 1;
        tokens(device).into_iter().for_each(|token| self.count(token, 1));
    }

    /// Adds the devices of another incident, which has none of them.
    pub fn merge(&mut self, other: &Self) {
        self.devices += other.devices;
        other.counts.iter().for_each(|(token, count)| self.count(token, *count));
    }

    fn count(&mut self, token: &str, devices: u32) {
        let has_room = self.counts.len() < GROUP_TOKENS_MAX;
        match self.counts.iter_mut().find(|(known, _)| **known == *token) {
            Some((_, count)) => *count += devices,
            None if has_room => self.counts.push((token.into(), devices)),
            None => {}
        }
    }

    /// Devices.
    pub fn devices(&self) -> u32 {
        self.devices
    }

    /// Devices with this token.
    pub fn with(&self, token: &str) -> u32 {
        self.counts.iter().find(|(known, _)| **known == *token).map_or(0, |(_, count)| *count)
    }

    fn is_dominant(&self, token: &str) -> bool {
        f64::from(self.with(token)) >= DOMINANT * f64::from(self.devices)
    }

    /// The token that nearly all devices have and fewest others, of several the shortest. None for one device.
    pub fn site(&self, fleet: &FleetTokens) -> Option<&str> {
        if self.devices < 2 {
            return None;
        }
        let dominant = self.counts.iter().map(|(token, _)| &**token);
        dominant
            .filter(|token| self.is_dominant(token) && fleet.share(token) <= SHARE_MAX)
            .min_by_key(|token| (fleet.with(token), token.len()))
    }
}

/// Why an onset belongs to an incident.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Link {
    /// It is of a device that the incident has.
    #[default]
    SameDevice,
    /// Their devices share a token.
    Token(Box<str>),
    /// They began together that often before.
    Together(u32),
    /// So many at once are no chance.
    Storm(usize),
}

/// An incident that began shortly before or after the onset.
#[derive(Clone, Debug)]
pub struct Recent<'a> {
    /// What its devices share.
    pub tokens: &'a GroupTokens,
    /// How often a device of it and the newcomer began together.
    pub together: Option<u32>,
    /// Incidents that it was made of, if it is a storm; else 1.
    pub at_once: usize,
}

/// The places of the incidents in `recent` that have one cause with an onset of `device`; several become one.
/// `expected`: incidents that the usual rate brings in the time that `recent` covers.
pub fn group(
    device: &str,
    recent: &[Recent<'_>],
    fleet: &FleetTokens,
    expected: f64,
) -> Option<(Vec<usize>, Link)> {
    let names: Vec<(&str, f64)> = tokens(device)
        .into_iter()
        .map(|token| (token, fleet.share(token)))
        .filter(|(_, share)| *share <= SHARE_MAX)
        .collect();
    joins_group(&names, recent)
        .or_else(|| makes_group(&names, recent))
        .or_else(|| went_together(recent))
        .or_else(|| is_storm(recent, expected))
}

fn joins_group(names: &[(&str, f64)], recent: &[Recent<'_>]) -> Option<(Vec<usize>, Link)> {
    let groups = recent.iter().enumerate();
    let joined = groups
        .filter(|(_, group)| group.tokens.devices() >= GROUP_DEVICES_MIN)
        .flat_map(|(place, group)| names.iter().map(move |name| (place, group, name)))
        .filter(|(_, group, (token, _))| group.tokens.is_dominant(token))
        .min_by(|one, other| one.2.1.total_cmp(&other.2.1))?;
    let (place, _, (token, _)) = joined;
    Some((vec![place], Link::Token((*token).into())))
}

fn makes_group(names: &[(&str, f64)], recent: &[Recent<'_>]) -> Option<(Vec<usize>, Link)> {
    let like = |token: &str| -> Vec<usize> {
        let places = recent.iter().enumerate();
        places.filter(|(_, one)| one.tokens.is_dominant(token)).map(|(place, _)| place).collect()
    };
    let (token, chance) = names
        .iter()
        .map(|(token, share)| (*token, tail(recent.len() as u32, like(token).len() as u32, *share)))
        .min_by(|one, other| one.1.total_cmp(&other.1))?;
    (chance <= CHANCE_MAX).then(|| (like(token), Link::Token(token.into())))
}

fn went_together(recent: &[Recent<'_>]) -> Option<(Vec<usize>, Link)> {
    let known = recent.iter().enumerate().filter_map(|(place, one)| Some((place, one.together?)));
    // Of several the latest.
    let (place, times) = known.max_by_key(|(place, times)| (*times, *place))?;
    Some((vec![place], Link::Together(times)))
}

fn is_storm(recent: &[Recent<'_>], expected: f64) -> Option<(Vec<usize>, Link)> {
    // With the newcomer.
    let at_once = recent.iter().map(|one| one.at_once).sum::<usize>() + 1;
    let is_chance = at_once < STORM_MIN || poisson_tail(at_once, expected) > STORM_CHANCE_MAX;
    (!is_chance).then(|| ((0..recent.len()).collect(), Link::Storm(at_once)))
}

/// The chance that at least `c` of `m` have what each has with chance `share`. 1 for none.
fn tail(m: u32, c: u32, share: f64) -> f64 {
    if c == 0 {
        return 1.0;
    }
    let (mut term, mut below) = ((1.0 - share).powi(m as i32), 0.0);
    for k in 0..c {
        below += term;
        term *= f64::from(m - k) / f64::from(k + 1) * share / (1.0 - share);
    }
    (1.0 - below).max(0.0)
}

/// The chance of at least `n` where `expected` are usual.
fn poisson_tail(n: usize, expected: f64) -> f64 {
    let (mut term, mut below) = ((-expected).exp(), 0.0);
    for k in 0..n {
        below += term;
        term *= expected / (k + 1) as f64;
    }
    (1.0 - below).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_the_distributions() {
        let near = |one: f64, other: f64| assert!((one - other).abs() < 1e-12, "{one} {other}");
        near(tail(1, 1, 0.2), 0.2);
        near(tail(3, 3, 0.5), 0.125);
        near(tail(4, 1, 0.25), 1.0 - 0.75_f64.powi(4));
        near(tail(9, 0, 0.1), 1.0);
        near(poisson_tail(1, 0.5), 1.0 - (-0.5_f64).exp());
        near(poisson_tail(0, 0.5), 1.0);
    }

    fn fleet() -> FleetTokens {
        let mut fleet = FleetTokens::default();
        for site in 0..10 {
            (0..20).for_each(|n| fleet.add(&format!("site-{site}-edge-{n}")));
        }
        fleet
    }

    fn groups(names: &[&[&str]]) -> Vec<GroupTokens> {
        let group = |devices: &&[&str]| {
            let mut group = GroupTokens::default();
            devices.iter().for_each(|device| group.add(device));
            group
        };
        names.iter().map(group).collect()
    }

    fn grouped(device: &str, groups: &[GroupTokens]) -> Option<(Vec<usize>, Link)> {
        let recent: Vec<_> =
            groups.iter().map(|tokens| Recent { tokens, together: None, at_once: 1 }).collect();
        group(device, &recent, &fleet(), 0.01)
    }

    #[test]
    fn a_rare_token_joins_and_a_common_one_does_not() {
        let of_site = |places: Vec<usize>| Some((places, Link::Token("site-3".into())));
        let group = groups(&[&["site-3-edge-1", "site-3-edge-2", "site-3-edge-9"]]);
        assert_eq!(grouped("site-3-edge-4", &group), of_site(vec![0]));
        assert_eq!(grouped("site-4-edge-4", &group), None);
        // One in ten shares the site by chance: one more is needed.
        let singles = groups(&[&["site-3-edge-1"], &["site-3-edge-2"]]);
        assert_eq!(grouped("site-3-edge-4", &singles[..1]), None);
        assert_eq!(grouped("site-3-edge-4", &singles), of_site(vec![0, 1]));
        assert_eq!(group_site(&group), Some("site-3".to_owned()));
    }

    fn group_site(groups: &[GroupTokens]) -> Option<String> {
        groups[0].site(&fleet()).map(str::to_owned)
    }

    #[test]
    fn a_storm_needs_no_names() {
        let names = ["a1", "b2", "c3", "d4"].map(|name| [name]);
        let names: Vec<&[&str]> = names.iter().map(|name| &name[..]).collect();
        let found = grouped("e5", &groups(&names));
        assert_eq!(found, Some((vec![0, 1, 2, 3], Link::Storm(5))));
        assert_eq!(grouped("e5", &groups(&names[..3])), None);
    }
}
