//! The history as all replicas have recorded it.
//!
//! Values of streams are the cluster's at each replica, so of two points of the same ten seconds the one with more
//! values stays. Loads are each replica's own, and add up. At rest all replicas have the same points.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::page::{BLOCK_POINTS, Page, block_of};
use crate::dashboard::counters::EventsCounters;
use crate::dashboard::day::{Day, DayColumns, DayPoint, Join, POINT_S, place};
use crate::dashboard::streams::{HistoryQuery, HistoryReport, STREAMS_MAX, StreamName, make_room};
use crate::shared_history::{BLOCKS_KEPT, ReadPage, SharedHistory};
use sigmad_clock::Now;

/// Pages whose loads are known, so that none is added twice: those of 200 replicas, or of restarts, in a day.
const PAGES_KNOWN_MAX: usize = 200 * BLOCKS_KEPT;
/// Points after which all replicas are sure to have written theirs: until then a load has no value.
const SETTLED_POINTS: u32 = 3;

/// A day as all replicas have recorded it.
#[derive(Debug)]
pub(super) struct SharedDays {
    desk: Arc<SharedHistory>,
    counters: Arc<EventsCounters>,
    streams: BTreeMap<StreamName, Day>,
    load: Day,
    /// The last place of each block and replica whose load is in [`SharedDays::load`].
    known: BTreeMap<(u32, u32), u32>,
    /// The last place of which this replica has offered what it recorded.
    offered: Option<u32>,
}

impl SharedDays {
    pub(super) fn new(desk: Arc<SharedHistory>, counters: Arc<EventsCounters>) -> Self {
        let (streams, known) = Default::default();
        Self { desk, counters, streams, load: Day::default(), known, offered: None }
    }

    /// Offers what this replica has recorded, and takes what others have.
    pub(super) fn exchange<'a>(
        &mut self,
        now: Now,
        load: &Day,
        streams: impl Iterator<Item = (&'a StreamName, &'a Day)> + Clone,
    ) {
        let last = place(now.wall_us).saturating_sub(1);
        let oldest = block_of(last).saturating_sub(BLOCKS_KEPT as u32 - 1);
        if self.offered.is_none_or(|offered| offered < last) {
            let first = self.offered.map_or(last, |offered| offered + 1);
            let blocks = block_of(first).max(oldest)..=block_of(last);
            self.offered = Some(last);
            for block in blocks {
                let offset_us = self.desk.offset_us();
                let page = Page::of((block, last), offset_us, load, streams.clone());
                if !(page.load.is_empty() && page.streams.is_empty()) {
                    self.desk.offer(block, page.write(block));
                    self.add(self.desk.own(), block, &page);
                }
            }
            self.known.retain(|(block, _), _| *block >= oldest);
            let oldest = oldest * BLOCK_POINTS;
            self.streams.retain(|_, day| day.last_place().is_some_and(|last| last >= oldest));
        }
        for ReadPage { replica, block, content } in self.desk.take_read() {
            match Page::read(block, &content) {
                Some(page) if replica != self.desk.own() => self.add(replica, block, &page),
                Some(_) => {}
                None => self.counters.history_unreadable_total.add(1),
            }
        }
    }

    fn add(&mut self, replica: u32, block: u32, page: &Page) {
        let late_us = self.desk.offset_us() - page.offset_us;
        let point_us = POINT_S * 1_000_000;
        let shift = (late_us + point_us / 2).div_euclid(point_us);
        let corrected = |point: &DayPoint| {
            let place = (i64::from(point.place) + shift).clamp(0, u32::MAX.into()) as u32;
            DayPoint { place, ..*point }
        };
        let is_room = self.known.len() < PAGES_KNOWN_MAX;
        let known = self.known.get(&(block, replica)).copied();
        if known.is_some() || is_room {
            for point in
                page.load.iter().filter(|point| known.is_none_or(|last| point.place > last))
            {
                self.load.join(&corrected(point), Join::Sum);
            }
            if let Some(last) = page.load.last() {
                let last = known.map_or(last.place, |known| known.max(last.place));
                self.known.insert((block, replica), last);
            }
        } else {
            self.counters.history_refused_total.add(1);
        }
        for (name, points) in &page.streams {
            let Some(newest) = points.last() else { continue };
            if !self.streams.contains_key(name) && !self.has_room(newest.place) {
                continue;
            }
            let day = self.streams.entry(name.clone()).or_default();
            points.iter().for_each(|point| day.join(&corrected(point), Join::Fuller));
        }
    }

    /// Makes room for another stream, if one can go that ended before it.
    fn has_room(&mut self, newest: u32) -> bool {
        if self.streams.len() < STREAMS_MAX {
            return true;
        }
        let oldest = self.streams.iter().min_by_key(|(_, day)| day.last_place());
        let ended = oldest.filter(|(_, day)| day.last_place() < Some(newest));
        let going = ended.map(|(name, _)| name.clone());
        make_room(&mut self.streams, going, &self.counters)
    }

    /// The answer for the cluster, with what this replica alone has of the last seconds.
    pub(super) fn answer<'a>(
        &self,
        query: &HistoryQuery,
        now: Now,
        load: &Day,
        streams: impl Iterator<Item = (&'a StreamName, &'a Day)>,
    ) -> HistoryReport {
        let scope = self.desk.scope();
        let own: BTreeMap<_, _> = streams.filter(|(name, _)| query.is_for(name)).collect();
        let shared = self.streams.keys().filter(|name| query.is_for(name));
        let names: BTreeSet<_> = shared.chain(own.keys().copied()).collect();
        let series = names.into_iter().map(|name| {
            let mut day = self.streams.get(name).cloned().unwrap_or_default();
            // All of it: a recording begins with samples of the past, which no page had.
            let own = own.get(name).into_iter().flat_map(|day| day.points(0..=u32::MAX));
            own.for_each(|point| day.join(&point, Join::Fuller));
            (name.series.clone(), day.columns(&query.range))
        });
        let series = series.collect();
        let load = query.device.is_none().then(|| {
            let since = self.offered.map_or(0, |offered| offered.saturating_add(1));
            let mut all = self.load.clone();
            load.points(since..=u32::MAX).for_each(|point| all.join(&point, Join::Sum));
            let columns = all.columns(&query.range);
            if scope.degraded_since_us.is_some() {
                return columns;
            }
            // The sum of the last seconds is not complete. Flags are those that are known.
            let mut settled = Day::default();
            let until = place(now.wall_us).saturating_sub(SETTLED_POINTS);
            all.points(0..=until).for_each(|point| settled.join(&point, Join::Fuller));
            DayColumns { flags: columns.flags, ..settled.columns(&query.range) }
        });
        HistoryReport { scope, series, load }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::day::DayRange;
    use proptest::prelude::*;

    /// The start of a block.
    const T0_US: i64 = 2_891_833 * 600 * 1_000_000;

    fn at(seconds: u64) -> Now {
        Now { monotonic_ns: seconds * 1_000_000_000, wall_us: T0_US + seconds as i64 * 1_000_000 }
    }

    struct Replica {
        days: SharedDays,
        load: Day,
        streams: BTreeMap<StreamName, Day>,
    }

    impl Replica {
        fn new(number: u32) -> Self {
            let desk = Arc::new(SharedHistory::new(number, T0_US));
            desk.reached(0);
            let days = SharedDays::new(desk, Arc::default());
            Self { days, load: Day::default(), streams: BTreeMap::new() }
        }

        fn exchange(&mut self, now: Now) {
            self.days.exchange(now, &self.load, self.streams.iter());
        }

        fn answer(&self, device: Option<&str>, now: Now) -> HistoryReport {
            let range = DayRange::new(T0_US - 600_000_000, now.wall_us, 1_000);
            let device = device.map(Box::from);
            let query = HistoryQuery { device, series: Arc::default(), range, is_local: false };
            self.days.answer(&query, now, &self.load, self.streams.iter())
        }
    }

    fn name(device: Option<&str>) -> StreamName {
        StreamName { device: device.map(Arc::from), series: "rps".into() }
    }

    /// What Redis has: by block and replica.
    type Pages = BTreeMap<(u32, u32), Vec<u8>>;

    fn write(pages: &mut Pages, from: &Replica) {
        let own = from.days.desk.own();
        pages.extend(
            from.days.desk.take_offered().into_iter().map(|(block, page)| ((block, own), page)),
        );
    }

    fn read(pages: &Pages, to: &Replica) {
        let page = |(&(block, replica), content): (&(u32, u32), &Vec<u8>)| ReadPage {
            replica,
            block,
            content: content.clone(),
        };
        to.days.desk.add_read(pages.iter().map(page));
    }

    fn shown(replica: &Replica, now: Now) -> String {
        format!("{:?}", [None, Some("a"), Some("b")].map(|device| replica.answer(device, now)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn at_rest_all_replicas_have_the_same_points_and_loads_add_up(
            // Which replicas reach Redis in each ten seconds, from which on each runs.
            reaches in proptest::collection::vec(0..8_u8, 90),
            begins in [0..40_u64, 0..40_u64, 0..40_u64],
        ) {
            let mut replicas: Vec<_> = (0..3).map(Replica::new).collect();
            let mut pages = Pages::new();
            let end = reaches.len() as u64;
            for (tick, reaches) in reaches.iter().enumerate() {
                let tick = tick as u64;
                for number in 0..3 {
                    if tick < begins[number] {
                        continue;
                    }
                    let replica = &mut replicas[number];
                    let now = at(tick * 10);
                    replica.load.add(now.wall_us, 100.0 * (number + 1) as f64);
                    replica.load.add_flags(now.wall_us, 1);
                    // One that is cut off hears less.
                    let is_near = reaches & (1 << number) != 0;
                    let devices: &[_] = if number == 0 { &[None, Some("a")] } else { &[None, Some("b")] };
                    for device in devices {
                        let day = replica.streams.entry(name(*device)).or_default();
                        for _ in 0..if is_near { 5 } else { 1 + number } {
                            day.add(now.wall_us, tick as f64);
                        }
                    }
                    replica.exchange(now);
                    if is_near {
                        write(&mut pages, replica);
                        read(&pages, replica);
                    }
                }
            }
            // All reach Redis, another one starts, and nothing new is heard.
            replicas.push(Replica::new(7));
            let now = at(end * 10);
            for _ in 0..2 {
                for replica in &mut replicas {
                    replica.exchange(now);
                    write(&mut pages, replica);
                }
                replicas.iter().for_each(|replica| read(&pages, replica));
            }
            replicas.iter_mut().for_each(|replica| replica.exchange(now));
            let now = at(end * 10 + 60);
            let first = shown(&replicas[0], now);
            for replica in &replicas[1..] {
                prop_assert_eq!(&shown(replica, now), &first);
            }
            let fleet = replicas[3].answer(None, now);
            let load = fleet.load.expect("of the fleet");
            let running = |number: usize| begins[number] < end;
            let last = load.mean.iter().rev().flatten().next().copied();
            let sum: f64 = (0..3).filter(|at| running(*at)).map(|at| 100.0 * (at + 1) as f64).sum();
            prop_assert_eq!(last, Some(sum));
            let ticks: u64 = begins.iter().map(|begin| end - begin).sum();
            prop_assert_eq!(load.flags.iter().sum::<u64>(), ticks, "each anomaly once");
        }
    }

    #[test]
    fn the_sum_of_loads_has_no_value_until_all_have_written() {
        let mut replica = Replica::new(1);
        for second in 0..100 {
            replica.load.add(at(second).wall_us, 5.0);
            replica.load.add_flags(at(second).wall_us, 1);
            replica.exchange(at(second));
        }
        let means = |replica: &Replica| {
            let load = replica.answer(None, at(99)).load.expect("of the fleet");
            (load.mean.iter().flatten().count(), load.flags.iter().sum::<u64>())
        };
        assert_eq!(means(&replica), (7, 100), "the last 30 seconds have none, but flags");
        replica.days.desk.away(at(99).wall_us);
        assert_eq!(means(&replica), (10, 100), "then they are its own");
    }

    #[test]
    fn places_are_corrected_by_the_clocks() {
        let (mut one, mut other) = (Replica::new(1), Replica::new(2));
        // The clock of the other is a minute ahead.
        other.days.desk.reached(60_000_000);
        let mut pages = Pages::new();
        for second in 0..200 {
            one.exchange(at(second));
            let ahead = at(second + 60);
            let day = other.streams.entry(name(Some("a"))).or_default();
            day.add(ahead.wall_us, second as f64);
            other.exchange(ahead);
        }
        write(&mut pages, &other);
        read(&pages, &one);
        one.exchange(at(200));
        let report = one.answer(Some("a"), at(200));
        let newest = report.series[0].1.max.iter().rev().flatten().next().copied();
        assert_eq!(newest, Some(189.0), "that of the last ten seconds that were over");
        let first = report.series[0].1.min.iter().position(Option::is_some);
        assert_eq!(first, Some(60), "ten minutes before, there was nothing");
    }

    #[test]
    fn streams_and_pages_are_bounded_and_damage_is_counted() {
        let mut one = Replica::new(1);
        let mut day = Day::default();
        day.add(at(0).wall_us, 1.0);
        for device in 0..STREAMS_MAX + 5 {
            let name = name(Some(&format!("d{device}")));
            let block = block_of(place(T0_US));
            let page = Page::of((block, u32::MAX), 0, &day, [(&name, &day)].into_iter());
            one.days.add(device as u32 + 2, block, &page);
        }
        assert_eq!(one.days.streams.len(), STREAMS_MAX);
        assert_eq!(one.days.counters.history_refused_total.get(), 5);
        day.add(at(10).wall_us, 1.0);
        let (newer, block) = (name(Some("newer")), block_of(place(T0_US)));
        let page = Page::of((block, u32::MAX), 0, &day, [(&newer, &day)].into_iter());
        one.days.add(2, block, &page);
        assert!(one.days.streams.contains_key(&newer));
        assert_eq!(one.days.counters.history_evicted_total.get(), 1);
        one.days.desk.add_read([ReadPage { replica: 2, block, content: vec![9] }]);
        one.exchange(at(20));
        assert_eq!(one.days.counters.history_unreadable_total.get(), 1);
        // A day later nothing of it is left.
        let day_later = at(2 * 86_400);
        one.exchange(day_later);
        assert!(one.days.streams.is_empty() && one.days.known.is_empty());
    }
}
