//! Values of streams from standard input, in order of time, to the incidents that they make.
//!
//! A line is `DEVICE<tab>SERIES<tab>SECONDS<tab>VALUE`. Usage: `replay INTERVAL_S`. Prints a line for each member of each
//! incident that is no part of another: `INCIDENT<tab>DEVICE<tab>SERIES<tab>ONSET_S<tab>SCORE`, members in their order.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::sync::Arc;

use sigmad_incidents::book::{Book, BookSettings};
use sigmad_incidents::event::Event;
use sigmad_incidents::fold::Fold;
use sigmad_incidents::incident::{Incident, IncidentId};
use sigmad_incidents::tokens::FleetTokens;
use sigmad_incidents::watch::{Deviation, Finding, WatchSettings};
use sigmad_incidents::watches::Watches;

const STREAMS_MAX: usize = 100_000;
/// As in the server: onsets further apart have different causes.
const WINDOW_INTERVALS: i64 = 6;

type Row = (Arc<str>, Arc<str>, i64, f64);

fn row(line: &str) -> Option<Row> {
    let mut fields = line.split('\t');
    let (device, series) = (fields.next()?.into(), fields.next()?.into());
    let at_us = (fields.next()?.parse::<f64>().ok()? * 1e6) as i64;
    Some((device, series, at_us, fields.next()?.parse().ok()?))
}

fn events(rows: Vec<Row>, interval_us: u64) -> Vec<Event> {
    let mut watches = Watches::new(WatchSettings::new(interval_us), STREAMS_MAX);
    let mut folds: BTreeMap<(Arc<str>, Arc<str>), Fold> = BTreeMap::new();
    let mut events = Vec::new();
    for (device, series, at_us, value) in rows {
        let fold = folds.entry((device.clone(), series.clone())).or_default();
        if fold.add(interval_us, at_us, value) {
            continue;
        }
        watches.take(fold, at_us, value, |finding| {
            let (device, series) = (Some(device.clone()), series.clone());
            events.push(match finding {
                Finding::Recovers => Event::Recovery { device, series, at_us },
                Finding::Deviates(Deviation { value, usual, low, high, score }) => {
                    Event::Deviation { device, series, at_us, value, usual, low, high, score }
                }
            });
        });
    }
    events
}

fn main() {
    let interval_s: Option<u64> = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let Some(interval_s) = interval_s else {
        eprintln!("usage: replay INTERVAL_S");
        std::process::exit(2);
    };
    let interval_us = 1_000_000 * interval_s;
    let lines = std::io::stdin().lock().lines().map_while(Result::ok);
    let rows: Vec<Row> = lines.filter_map(|line| row(&line)).collect();
    let mut fleet = FleetTokens::default();
    let mut names: Vec<_> = rows.iter().map(|(device, ..)| device.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names.iter().for_each(|name| fleet.add(name));
    let least_us = BookSettings::default().window_us;
    let window_us = least_us.max(WINDOW_INTERVALS * interval_us as i64);
    let mut book = Book::new(BookSettings { window_us });
    book.set_fleet(fleet);
    let (mut found, mut revision) = (BTreeMap::<IncidentId, Incident>::new(), 0);
    for event in events(rows, interval_us) {
        book.apply(&event);
        let changed = book.changes_since(revision, usize::MAX);
        found.extend(changed.into_iter().map(|one| (one.id, one)));
        revision = book.revision();
    }
    for (id, incident) in found.iter().filter(|(_, one)| one.merged_into.is_none()) {
        for member in &incident.members {
            let (device, series) = (member.device.as_deref(), member.series.as_deref());
            let (device, series) = (device.unwrap_or(""), series.unwrap_or(""));
            let onset_s = member.started_at_us as f64 / 1e6;
            println!("{id}\t{device}\t{series}\t{onset_s}\t{}", member.score);
        }
    }
}
