//! What begins and ends to be wrong with streams, as events for the incidents.
//!
//! [`Watches`](sigmad_incidents::watches::Watches) judge folded values; here a finding gets the names of its stream.
//! A stream that deviates and is heard no more would deviate for ever: [`Onsets::end_unheard`] looks for those.

use std::collections::BTreeMap;
use std::sync::Arc;

use sigmad_incidents::event::Event;
use sigmad_incidents::watch::Finding;
use sigmad_sample::MetricId;

use crate::analytics::arena::{Arena, StreamIndex};
use crate::analytics::metrics::KnownMetrics;

/// A stream that deviates.
#[derive(Debug)]
struct OpenStream {
    device: Option<Arc<str>>,
    series: Arc<str>,
    /// When the deviation began, which tells it from a later one.
    began_us: i64,
}

/// The onset of a deviation that has not ended.
fn onset(arena: &Arena, place: StreamIndex, open: &OpenStream) -> Option<Event> {
    let found = arena.deviation(place)?;
    Some(Event::Deviation {
        device: open.device.clone(),
        series: open.series.clone(),
        at_us: open.began_us,
        value: found.value,
        usual: found.usual,
        low: found.low,
        high: found.high,
        score: found.score,
    })
}

/// The events of some streams, until they are taken.
#[derive(Debug, Default)]
pub struct Onsets {
    events: Vec<Event>,
    /// In the order of places, so that what is done for each has one order.
    open: BTreeMap<StreamIndex, OpenStream>,
}

impl Onsets {
    /// Lets the watch of a stream take a value that its fold refused. `device`: the stream's, if it is of one.
    #[inline(never)] // once an interval
    pub fn judge(
        &mut self,
        arena: &mut Arena,
        (device, metric, place): (Option<&Arc<str>>, MetricId, StreamIndex),
        metrics: &KnownMetrics,
        arrived_us: i64,
        value: f64,
    ) {
        let mut findings = [None, None];
        let mut count = 0;
        arena.judge_folded(place, arrived_us, value, |finding| {
            findings[count] = Some(finding);
            count += 1;
        });
        for finding in findings.into_iter().flatten() {
            self.found(arena, (device, metric, place), metrics, arrived_us, finding);
        }
    }

    #[cold]
    fn found(
        &mut self,
        arena: &Arena,
        (device, metric, place): (Option<&Arc<str>>, MetricId, StreamIndex),
        metrics: &KnownMetrics,
        at_us: i64,
        finding: Finding,
    ) {
        // None: its name has been evicted, and the stream will be given back.
        let Some(series) = metrics.name(metric) else { return };
        let device = device.cloned();
        match finding {
            Finding::Recovers => {
                self.open.remove(&place);
                self.events.push(Event::Recovery { device, series, at_us });
            }
            Finding::Deviates(found) => {
                // None: it recovered with the value after this one.
                if let Some(began_us) = arena.deviates_since(place) {
                    let (device, series) = (device.clone(), series.clone());
                    let open = OpenStream { device, series, began_us };
                    // Another one: that of a stream that was given back.
                    if let Some(before) = self.open.insert(place, open)
                        && before.began_us != began_us
                    {
                        self.recovered(before, at_us);
                    }
                }
                let (value, usual, low, high) = (found.value, found.usual, found.low, found.high);
                let score = found.score;
                self.events.push(Event::Deviation {
                    device,
                    series,
                    at_us,
                    value,
                    usual,
                    low,
                    high,
                    score,
                });
            }
        }
    }

    fn recovered(&mut self, open: OpenStream, at_us: i64) {
        let OpenStream { device, series, .. } = open;
        self.events.push(Event::Recovery { device, series, at_us });
    }

    /// Takes a stream that deviated before a restart, and does so still.
    pub fn restore(
        &mut self,
        arena: &Arena,
        (device, metric, place): (Option<&Arc<str>>, MetricId, StreamIndex),
        metrics: &KnownMetrics,
    ) {
        let Some(began_us) = arena.deviates_since(place) else { return };
        let Some(series) = metrics.name(metric) else { return };
        self.open.insert(place, OpenStream { device: device.cloned(), series, began_us });
    }

    /// Takes a stream whose states came from another replica: what is wrong with it there is wrong here, and nothing else.
    pub fn receive(
        &mut self,
        arena: &Arena,
        (device, metric, place): (Option<&Arc<str>>, MetricId, StreamIndex),
        metrics: &KnownMetrics,
        now_us: i64,
    ) {
        let before = self.open.remove(&place);
        self.restore(arena, (device, metric, place), metrics);
        let open = self.open.get(&place);
        if let Some(before) = before
            && open.is_none_or(|open| open.began_us != before.began_us)
        {
            self.recovered(before, now_us);
        }
        let standing = self.open.get(&place).and_then(|open| onset(arena, place, open));
        self.events.extend(standing);
    }

    /// An onset of each stream that deviates.
    pub fn standing(&self, arena: &Arena) -> impl Iterator<Item = Event> {
        self.open.iter().filter_map(|(place, open)| onset(arena, *place, open))
    }

    /// Ends the deviations of streams that were given back, or had no value for `idle_us`.
    pub fn end_unheard(&mut self, arena: &mut Arena, now_us: i64, idle_us: i64) {
        let is_over = |place: &StreamIndex, open: &OpenStream| {
            arena.deviates_since(*place) != Some(open.began_us)
                || arena.end_if_unheard(*place, now_us - idle_us)
        };
        let mut is_over = is_over;
        let over: Vec<_> = self.open.extract_if(.., |place, open| is_over(place, open)).collect();
        for (_, open) in over {
            self.recovered(open, now_us);
        }
    }

    /// Adds an event of a device.
    pub fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Takes the events so far.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }

    /// Whether there are events.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}
