//! What an incident says of itself: its title, and why its members are one thing.

use crate::grouping::Link;
use crate::incident::{Incident, Kind, Member};
use crate::tokens::FleetTokens;

/// One line: what is wrong, how much of it, and where it began.
pub fn title(incident: &Incident, fleet: &FleetTokens) -> String {
    let suspect = incident.suspect();
    if suspect.kind == Kind::Reception {
        return "nothing is received from anyone".to_owned();
    }
    if incident.member_count == 1 {
        return suspect.said();
    }
    if incident.device_count <= 1 {
        return one_device(incident);
    }
    // A device that the fleet has lost since is still a member.
    let of_site = |site: &str| fleet.with(site).max(incident.device_count);
    let (count, within) = (incident.device_count, span(incident));
    match incident.site.as_deref() {
        Some(site) if silent(incident) => {
            format!("{site}: {count} of {} devices silent within {within}", of_site(site))
        }
        None if silent(incident) => format!("{count} devices silent within {within}"),
        Some(site) => {
            let (all, first) = (of_site(site), stream(suspect));
            format!("{count} of {all} devices of {site} within {within}, first {first}")
        }
        None => format!("{count} devices within {within}, first {}", stream(suspect)),
    }
}

/// Several members of one device, or of the fleet.
fn one_device(incident: &Incident) -> String {
    let suspect = incident.suspect();
    let name = suspect.device.as_deref().unwrap_or("fleet");
    // One that is not kept is a series: a device is silent once.
    match incident.members.iter().any(|member| member.kind == Kind::Silence) {
        true => {
            format!("{name} is silent, and {} of its series deviate", incident.member_count - 1)
        }
        false => format!("{name}: {} series, first {}", incident.member_count, series(suspect)),
    }
}

/// Why the members are one incident.
pub fn because(incident: &Incident, link: Option<&Link>, fleet: &FleetTokens) -> String {
    match link {
        None if incident.member_count == 1 => "one stream".to_owned(),
        None | Some(Link::SameDevice) if incident.device_count <= 1 => "one device".to_owned(),
        Some(Link::Together(times)) => format!("these devices began together {times} times before"),
        Some(Link::Storm(at_once)) => {
            format!("{at_once} incidents at once are far more than usual")
        }
        None | Some(Link::SameDevice | Link::Token(_)) => {
            let token = match (incident.site.as_deref(), link) {
                (Some(site), _) => site,
                (None, Some(Link::Token(token))) => token,
                (None, _) => return "they began together".to_owned(),
            };
            let (with, all) = (fleet.with(token), fleet.devices());
            format!("their names share {token}, as {with} of {all} devices do")
        }
    }
}

impl Member {
    /// What is wrong with it, for a person: "edge-1 rps is 900, usually 110 to 130".
    pub fn said(&self) -> String {
        let name = self.device.as_deref().unwrap_or("fleet");
        match self.kind {
            Kind::Silence => {
                format!("{name} is silent, usually heard every {}", seconds(self.usual))
            }
            Kind::Deviation | Kind::Reception => format!(
                "{name} {} is {}, usually {} to {}",
                series(self),
                number(self.value),
                number(self.low),
                number(self.high)
            ),
        }
    }
}

fn series(member: &Member) -> &str {
    member.series.as_deref().unwrap_or("a series")
}

fn stream(member: &Member) -> String {
    let name = member.device.as_deref().unwrap_or("fleet");
    match member.kind {
        Kind::Silence => format!("silence of {name}"),
        Kind::Deviation | Kind::Reception => format!("{name} {}", series(member)),
    }
}

fn silent(incident: &Incident) -> bool {
    incident.members.iter().all(|member| member.kind == Kind::Silence)
}

/// From the first onset to the last one that is kept.
fn span(incident: &Incident) -> String {
    let last_us = incident.members.last().map_or(0, |member| member.started_at_us);
    seconds(last_us.saturating_sub(incident.started_at_us) as f64 / 1e6)
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "1 s".to_owned(),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3_600.0),
    }
}

/// Four significant digits.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    match digits {
        ..=0 if value.abs() < 1e15 => format!("{value:.0}"),
        1..=6 => {
            let text = format!("{value:.*}", digits as usize);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (118.0, "118"),
            (60.52, "60.52"),
            (-1234.56, "-1235"),
            (0.001234, "0.001234"),
            (1e-9, "1.000e-9"),
            (5e20, "5.000e20"),
            (99.999, "100"),
        ] {
            assert_eq!(number(value), text);
        }
        let spans = [0.2, 9.4, 119.0, 600.0, 86_400.0].map(seconds);
        assert_eq!(spans, ["1 s", "9 s", "119 s", "10 min", "24 h"]);
    }
}
