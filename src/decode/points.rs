//! Points to samples: what every format but the JSON of samples gives its values to.
//!
//! A point is one value of a series at a time. The bytes by which the sender names the series lead to its ids in this
//! worker's cache ([`super::series_cache`]); only a new one is described, by its name and labels
//! ([`SeriesDescription`]). Values of one device and one time that follow each other join one sample.
//!
//! A point that is wrong is refused alone, and one without room is left out. Both are counted, as is every value that
//! gives none: see [`ValueCounts`].

use std::sync::Arc;

use super::admission::{BodyAdmission, Decoded};
use super::fault::{BodyError, SampleFault};
use super::labels::{SeriesDescription, ValueKind};
use super::rates::{Arrival, BodyIds, Point, Rate, RateSlot, SeriesIds};
use super::series_cache::{Known, SeriesCache};
use super::tables::PointTables;
use super::values::ValueCounts;
use crate::registry::Full;
use sigmad_sample::timestamp::Stamp;
use sigmad_sample::{DeviceId, MetricId, READINGS_MAX, Reading, VALUE_MAX};

pub use super::fault::PointFault;

/// What one worker keeps from body to body.
#[derive(Debug)]
pub(super) struct Points {
    tables: Arc<PointTables>,
    bodies: BodyIds,
    cache: SeriesCache,
    /// The evictions of the registry that the cache knows of.
    evictions: u64,
    description: SeriesDescription,
    series: String,
    counts: ValueCounts,
}

impl Points {
    pub(super) fn new(tables: Arc<PointTables>) -> Self {
        Self {
            bodies: tables.rates.bodies(),
            cache: SeriesCache::default(),
            evictions: 0,
            description: SeriesDescription::new(tables.clone()),
            series: String::new(),
            counts: ValueCounts::default(),
            tables,
        }
    }

    /// The values of the last body.
    pub(super) fn counts(&self) -> ValueCounts {
        self.counts
    }
}

/// Takes the points of one body.
pub struct PointReader<'p> {
    admission: BodyAdmission<'p>,
    points: &'p mut Points,
    arrival: Arrival,
    /// The point that is read, for its refusal.
    index: usize,
    open: OpenSample,
}

/// The sample whose readings are the draft of the batch.
#[derive(Debug, Default)]
struct OpenSample {
    time_us: i64,
    device: Option<DeviceId>,
    readings: usize,
    /// A bit for the slot of each metric, modulo 64: most metrics that are not in it need no search.
    metrics: u64,
}

impl OpenSample {
    /// Whether a value joins the sample; `drafted` is what it has.
    #[inline]
    fn takes(&self, ids: SeriesIds, time_us: i64, drafted: &[Reading]) -> bool {
        self.readings > 0
            && self.time_us == time_us
            && self.device == ids.device
            && self.readings < READINGS_MAX
            && (self.metrics & bit_of(ids.metric) == 0
                || drafted.iter().all(|reading| reading.metric != ids.metric))
    }
}

#[inline]
fn bit_of(metric: MetricId) -> u64 {
    1 << (metric.slot() % u64::BITS as usize)
}

impl<'p> PointReader<'p> {
    pub(super) fn new(admission: BodyAdmission<'p>, points: &'p mut Points) -> Self {
        let registry = admission.registry();
        if points.evictions != registry.metric_evictions() {
            points.evictions = registry.metric_evictions();
            points.cache.clear();
        }
        points.counts = ValueCounts::default();
        let arrival = Arrival { body: points.bodies.next(), now_s: admission.now_s() };
        Self { admission, points, arrival, index: 0, open: OpenSample::default() }
    }
}

impl PointReader<'_> {
    /// What all workers share.
    pub(super) fn tables(&self) -> Arc<PointTables> {
        self.points.tables.clone()
    }

    /// The index of the point that follows, from 0, for its refusal: the line, or the place in the body.
    #[inline]
    pub fn set_index(&mut self, index: usize) {
        self.index = index;
    }

    /// Takes one value of a series. The same `key` means the same series, in every body of this format: a format puts
    /// a byte of its own in front. `describe` runs only when the key is not in the cache.
    ///
    /// # Errors
    /// When the body has more samples than a queue holds; the format ends then.
    #[inline]
    pub fn value(
        &mut self,
        key: &[u8],
        time: Stamp,
        value: f64,
        describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
    ) -> Result<(), BodyError> {
        if !value.is_finite() {
            self.skip();
            return Ok(());
        }
        let time_us = time.unwrap_or(self.admission.now_us());
        let point = Point { time_us, value };
        let Some(index) = self.points.cache.find(key) else {
            return self.describe_and_take(key, point, describe);
        };
        let known = *self.points.cache.known(index);
        match known {
            Known::Gauge(ids) if self.touch(ids) => self.push(ids, point),
            Known::Counter(ids, slot) if self.touch(ids) => {
                let mut new_slot = slot;
                let taken = self.count(ids, &mut new_slot, point);
                if new_slot != slot {
                    *self.points.cache.known(index) = Known::Counter(ids, new_slot);
                }
                taken
            }
            Known::Dropped => {
                self.points.counts.dropped += 1;
                Ok(())
            }
            Known::Full { second, full }
                if second == self.arrival.now_s && self.admission.is_list_full() =>
            {
                self.leave_out(full);
                Ok(())
            }
            Known::Gauge(_) | Known::Counter(..) | Known::Full { .. } => {
                self.describe_and_take(key, point, describe)
            }
        }
    }

    /// Refuses a point that cannot be read; the others are kept.
    #[cold]
    pub fn refuse(&mut self, fault: PointFault) {
        self.admission.refuse_point(self.index, SampleFault::Point(fault));
    }

    /// Counts a value that says nothing: NaN, an infinity, a staleness marker, no recorded value.
    #[inline]
    pub fn skip(&mut self) {
        self.points.counts.skipped += 1;
    }

    /// Ends the body; `read` is the result of its format. After an error the batch is as before. A body without
    /// points is no error.
    ///
    /// # Errors
    /// That of `read`.
    pub fn end(mut self, read: Result<(), BodyError>) -> Result<Decoded, BodyError> {
        if read.is_ok() {
            self.close();
        } else {
            self.points.counts = ValueCounts::default();
        }
        self.admission.end_points(read)
    }

    /// Whether the ids are still those of the series. The device of the open sample was asked in this second.
    #[inline]
    fn touch(&self, ids: SeriesIds) -> bool {
        let registry = self.admission.registry();
        let now_s = self.arrival.now_s;
        registry.touch_metric(ids.metric, now_s)
            && (self.open.readings > 0 && self.open.device == ids.device
                || ids.device.is_none_or(|device| registry.touch(device, now_s)))
    }

    /// Takes a value of a counter.
    #[inline]
    fn count(
        &mut self,
        ids: SeriesIds,
        slot: &mut RateSlot,
        point: Point,
    ) -> Result<(), BodyError> {
        let rates = &self.points.tables.rates;
        match rates.rate(slot, ids, point, self.arrival, self.admission.registry()) {
            Rate::PerSecond(rate) => return self.push(ids, Point { value: rate, ..point }),
            Rate::First => self.points.counts.first += 1,
            Rate::Reset => self.points.counts.resets += 1,
            Rate::Old => self.points.counts.old += 1,
            Rate::Full => self.leave_out(Full::Streams),
        }
        Ok(())
    }

    /// Adds a value to the open sample, or opens the next one.
    #[inline]
    fn push(&mut self, ids: SeriesIds, point: Point) -> Result<(), BodyError> {
        if point.value.abs() > VALUE_MAX {
            self.skip();
            return Ok(());
        }
        let (_, batch) = self.admission.draft_parts();
        if !self.open.takes(ids, point.time_us, batch.drafted()) {
            self.close();
            self.admission.check_capacity()?;
            self.open.time_us = point.time_us;
            self.open.device = ids.device;
        }
        let (_, batch) = self.admission.draft_parts();
        // Adding zero turns -0 into 0.
        batch.draft(Reading { metric: ids.metric, value: point.value + 0.0 });
        self.open.readings += 1;
        self.open.metrics |= bit_of(ids.metric);
        self.points.counts.accepted += 1;
        Ok(())
    }

    /// Completes the open sample.
    #[inline]
    fn close(&mut self) {
        if self.open.readings > 0 {
            self.admission.complete(self.open.time_us, self.open.device);
            (self.open.readings, self.open.metrics) = (0, 0);
        }
    }

    /// Takes a value whose series is not in the cache.
    #[cold]
    fn describe_and_take(
        &mut self,
        key: &[u8],
        point: Point,
        describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
    ) -> Result<(), BodyError> {
        let Points { tables, description, series, cache, .. } = &mut *self.points;
        description.clear();
        let described = describe(description).and_then(|()| description.finish(series));
        let described = match described {
            Ok(described) => described,
            Err(fault) => {
                self.refuse(fault);
                return Ok(());
            }
        };
        let now_s = self.arrival.now_s;
        if tables.rules.drops(described.series) {
            cache.insert(key, Known::Dropped, now_s);
            self.points.counts.dropped += 1;
            return Ok(());
        }
        let is_counter = match described.kind {
            ValueKind::Gauge => false,
            ValueKind::Counter => true,
            ValueKind::Untyped => tables.rules.is_counter(described.name),
        };
        if !is_counter && point.value.abs() > VALUE_MAX {
            // Before it takes a name: some gauges are never within the bounds.
            self.skip();
            return Ok(());
        }
        let mut metrics = [(described.series, None)];
        let admitted = self.admission.registry().admit(described.device, &mut metrics, now_s);
        let known = match (admitted, metrics[0].1) {
            (Ok(admitted), Some(metric)) => {
                let ids = SeriesIds { device: admitted.map(|admitted| admitted.device), metric };
                if is_counter {
                    Known::Counter(ids, RateSlot::default())
                } else {
                    Known::Gauge(ids)
                }
            }
            (Err(Full::Streams), _) => Known::Full { second: now_s, full: Full::Streams },
            (Err(Full::Metrics), _) | (Ok(_), None) => {
                Known::Full { second: now_s, full: Full::Metrics }
            }
        };
        cache.insert(key, known, now_s);
        match known {
            Known::Gauge(ids) => self.push(ids, point),
            Known::Counter(ids, mut slot) => self.count(ids, &mut slot, point),
            Known::Full { full, .. } => {
                self.leave_out(full);
                Ok(())
            }
            Known::Dropped => Ok(()),
        }
    }

    /// Counts a value for which there is no room.
    #[cold]
    fn leave_out(&mut self, full: Full) {
        match full {
            Full::Streams => self.points.counts.unroomed += 1,
            Full::Metrics => self.points.counts.unnamed += 1,
        }
        self.admission.leave_out(self.index, full, &self.points.series);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::decode::{Decoder, SampleRefusal};
    use crate::registry::Registry;
    use sigmad_clock::Now;
    use sigmad_sample::{Batch, METRIC_BYTES_MAX};

    const SECOND_US: i64 = 1_000_000;

    /// A point of a test: time in seconds, value, and `name label=value …`.
    type TestPoint<'a> = (i64, f64, &'a str);

    struct Fixture {
        registry: Arc<Registry>,
        decoder: Decoder,
        batch: Batch,
        second: u64,
    }

    impl Fixture {
        fn new(max_streams: usize) -> Self {
            let registry = Arc::new(Registry::new(max_streams, 60));
            let decoder = Decoder::new(registry.clone());
            Self { registry, decoder, batch: Batch::default(), second: 5 }
        }

        fn read(&mut self, points: &[TestPoint<'_>]) -> Decoded {
            self.batch.clear();
            let now = Now { monotonic_ns: self.second * 1_000_000_000, wall_us: 9 * SECOND_US };
            let mut reader = self.decoder.points(now, &mut self.batch);
            let read = points.iter().enumerate().try_for_each(|(index, &(second, value, text))| {
                reader.set_index(index);
                reader.value(text.as_bytes(), Some(second * SECOND_US), value, |series| {
                    let mut words = text.split(' ');
                    series.name(words.next().unwrap_or_default().as_bytes());
                    for (name, value) in words.filter_map(|word| word.split_once('=')) {
                        match name.strip_prefix("resource.") {
                            Some(name) => series.resource_label(name.as_bytes(), value.as_bytes()),
                            None => series.label(name.as_bytes(), value.as_bytes()),
                        }
                    }
                    Ok(())
                })
            });
            reader.end(read).expect("a good body")
        }

        /// Each sample as `second device series=value …`.
        fn samples(&self) -> Vec<String> {
            let text = |(sample, readings): (sigmad_sample::Sample, &[Reading])| {
                let device = sample.device.and_then(|device| self.registry.device_name(device));
                let device = device.as_deref().unwrap_or("-").to_owned();
                let mut text = format!("{} {device}", sample.timestamp_us / SECOND_US);
                for reading in readings {
                    let name = self.registry.metric_name(reading.metric).expect("a known name");
                    text += &format!(" {name}={}", reading.value);
                }
                text
            };
            self.batch.iter().map(text).collect()
        }
    }

    #[test]
    fn values_of_one_device_and_time_join_a_sample() {
        let mut fixture = Fixture::new(100);
        for _ in 0..3 {
            let decoded = fixture.read(&[
                (1, 1.0, "load host=a zone=z cpu=0"),
                (1, 2.0, "load cpu=1 host=a zone=z"),
                (1, 3.0, "mem host=b"),
                (2, 4.0, "mem host=b"),
                (2, 5.0, "mem host=b"),
                (2, 6.0, "up"),
            ]);
            assert_eq!(
                fixture.samples(),
                [
                    r#"1 a load{cpu="0",zone="z"}=1 load{cpu="1",zone="z"}=2"#,
                    "1 b mem=3",
                    "2 b mem=4",
                    "2 b mem=5",
                    "2 - up=6",
                ]
            );
            assert_eq!((decoded.accepted, fixture.decoder.values().accepted), (5, 6));
        }
    }

    #[test]
    fn the_device_is_the_first_label_of_the_list() {
        let mut fixture = Fixture::new(100);
        fixture.read(&[
            (1, 1.0, "io device=sda instance=n:9100 job=node"),
            (1, 2.0, "net device=eth0 host=h"),
            (1, 3.0, "x device=d"),
            (1, 4.0, "y host=h resource.host.name=r resource.os=linux resource.node=n"),
            (1, 5.0, "z host="),
        ]);
        assert_eq!(
            fixture.samples(),
            [
                r#"1 n:9100 io{device="sda",job="node"}=1"#,
                r#"1 h net{device="eth0"}=2"#,
                "1 d x=3",
                r#"1 r y{host="h"}=4"#,
                "1 - z=5",
            ]
        );
    }

    #[test]
    fn a_counter_is_its_rate() {
        let mut fixture = Fixture::new(100);
        let body = [(10, 100.0, "hits_total host=a"), (20, 150.0, "hits_total host=a")];
        for _ in 0..3 {
            fixture.read(&body);
            assert_eq!(fixture.samples(), ["20 a hits_total=5"], "also when it is sent again");
        }
        fixture.read(&[
            (30, 10.0, "hits_total host=a"),
            (30, 11.0, "hits_total host=a"),
            (32, 20.0, "hits_total host=a"),
        ]);
        assert_eq!(fixture.samples(), ["32 a hits_total=5"]);
        let counts = ValueCounts { accepted: 1, resets: 1, old: 1, ..ValueCounts::default() };
        assert_eq!(fixture.decoder.values(), counts);
    }

    #[test]
    fn what_says_nothing_is_skipped_and_what_is_wrong_refused() {
        let mut fixture = Fixture::new(100);
        let long = format!("x a={}", "v".repeat(METRIC_BYTES_MAX));
        let points: [TestPoint<'_>; 8] = [
            (1, f64::NAN, "x host=a"),
            (1, f64::INFINITY, "x host=a"),
            (1, 1.8e19, "x_bytes host=a"),
            (1, 1.0, &long),
            (1, 1.0, " host=a"),
            (1, 1.0, "x a=1 a=2"),
            (1, 1.0, "x host=a\u{7}"),
            (1, 7.0, "x host=a"),
        ];
        for _ in 0..2 {
            let decoded = fixture.read(&points);
            assert_eq!(fixture.samples(), ["1 a x=7"]);
            assert_eq!((decoded.accepted, decoded.invalid), (1, 4));
            let counts = ValueCounts { accepted: 1, skipped: 3, ..ValueCounts::default() };
            assert_eq!(fixture.decoder.values(), counts);
            let indexes = fixture.decoder.refusals().iter().map(|refusal| refusal.index);
            assert_eq!(indexes.collect::<Vec<_>>(), [3, 4, 5, 6]);
        }
        assert_eq!(fixture.registry.metrics(), 3, "cpu, rps and x");
    }

    #[test]
    fn values_without_room_are_left_out() {
        let mut fixture = Fixture::new(2);
        let points: Vec<_> = (0..40).map(|n| format!("m{n} host=a")).collect();
        let points: Vec<TestPoint<'_>> = points.iter().map(|text| (1, 1.0, &**text)).collect();
        for _ in 0..2 {
            let decoded = fixture.read(&points);
            assert_eq!(fixture.samples(), ["1 a m0=1 m1=1"]);
            assert_eq!((decoded.accepted, decoded.rejected()), (1, 0));
            assert_eq!(fixture.decoder.values().unroomed, 38);
            let is_listed = |refusal: &SampleRefusal| refusal.code == "too_many_streams";
            assert!(fixture.decoder.refusals().iter().all(is_listed));
            assert_eq!(fixture.decoder.refusals().len(), 10);
        }
        fixture.second = 100;
        fixture.read(&points[20..22]);
        assert_eq!(fixture.samples(), ["1 a m20=1 m21=1"], "m0 and m1 are silent");
        fixture.read(&points[..1]);
        assert_eq!(fixture.samples(), [""; 0]);
    }

    #[test]
    fn a_body_without_points_is_no_error() {
        let mut fixture = Fixture::new(2);
        assert_eq!(fixture.read(&[]).accepted, 0);
        let reader =
            fixture.decoder.points(Now { monotonic_ns: 0, wall_us: 0 }, &mut fixture.batch);
        let error = BodyError::Malformed { offset: 7 };
        assert_eq!(reader.end(Err(error)), Err(error));
    }
}
