//! One stream over a day: minimum, mean, maximum and flags of each ten seconds.
//!
//! Pure: time is an argument. Ten seconds without values take no memory.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::figures::digits_of;
use sigmad_detectors::saved::{Saved, saved};

/// Seconds of a point.
pub const POINT_S: i64 = 10;
/// What is kept, in seconds: a night and the day around it.
pub const DAY_S: i64 = 86_400;
/// Points of a day.
pub const POINTS_MAX: usize = (DAY_S / POINT_S) as usize;
/// Bytes of a full day.
pub const DAY_BYTES: usize = POINTS_MAX * size_of::<Point>();

/// Ten seconds that are over. Values are differences to [`Day::base`], so that 32 bits show a small change of a
/// large value.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// Its number since 1970: enough until the year 3331.
    place: u32,
    count: u32,
    flags: u32,
    min: f32,
    mean: f32,
    max: f32,
}

const _: () = assert!(size_of::<Point>() == 24);

/// Ten seconds of one stream that are over, for other replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DayPoint {
    /// Its number since 1970.
    pub place: u32,
    /// Values in it.
    pub count: u32,
    /// Values that the detector flagged.
    pub flags: u32,
    /// The smallest value, like the others 0 without values.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The largest value.
    pub max: f64,
}

/// How two points of the same ten seconds become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Both are of the same values: the one with more of them stays.
    Fuller,
    /// They are of different values, which add up: those of several replicas.
    Sum,
}

/// The ten seconds that go on.
#[derive(Clone, Copy, Debug, Default)]
struct OpenPoint {
    place: u32,
    count: u32,
    flags: u32,
    sum: f64,
    min: f64,
    max: f64,
}

/// A day of one stream.
#[derive(Clone, Debug, Default)]
pub struct Day {
    base: f64,
    over: VecDeque<Point>,
    open: Option<OpenPoint>,
}

saved!(Point { place, count, flags, min, mean, max });
saved!(OpenPoint { place, count, flags, sum, min, max });

impl Saved for Day {
    fn write(&self, to: &mut Vec<u8>) {
        self.base.write(to);
        (self.over.len() as u32).write(to);
        self.over.iter().for_each(|point| point.write(to));
        self.open.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let base = f64::read(from)?;
        let over = VecDeque::from(Vec::<Point>::read(from)?);
        let open = Option::<OpenPoint>::read(from)?;
        (over.len() <= POINTS_MAX).then_some(Self { base, over, open })
    }
}

impl Point {
    fn join(&mut self, added: &Self, how: Join, base: f64) {
        match how {
            Join::Fuller => {
                let flags = self.flags.max(added.flags);
                if added.count > self.count {
                    *self = *added;
                }
                self.flags = flags;
            }
            Join::Sum => {
                self.flags = self.flags.saturating_add(added.flags);
                if self.count == 0 || added.count == 0 {
                    let (flags, place) = (self.flags, self.place);
                    let counted = if self.count == 0 { added } else { &*self };
                    *self = Self { place, flags, ..*counted };
                    return;
                }
                // Each is a difference to the base, and the sum is one too.
                let sum = |one: f32, other: f32| (base + f64::from(one) + f64::from(other)) as f32;
                self.min = sum(self.min, added.min);
                self.mean = sum(self.mean, added.mean);
                self.max = sum(self.max, added.max);
                self.count = self.count.max(added.count);
            }
        }
    }
}

/// Which points are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayRange {
    /// The number of the first point.
    first: u32,
    /// Points of ten seconds that make one of the answer.
    each: u32,
    /// Points of the answer.
    count: usize,
}

/// The answer: each column has one value a point, None where there were no values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DayColumns {
    /// The smallest value.
    pub min: Vec<Option<f64>>,
    /// The mean.
    pub mean: Vec<Option<f64>>,
    /// The largest value.
    pub max: Vec<Option<f64>>,
    /// Values that the detector flagged.
    pub flags: Vec<u64>,
}

/// The number of the ten seconds of a moment.
pub fn place(at_us: i64) -> u32 {
    at_us.div_euclid(POINT_S * 1_000_000).clamp(0, u32::MAX.into()) as u32
}

impl DayRange {
    /// From one moment to another, in at most `points` and one, of whole tens of seconds.
    pub fn new(from_us: i64, to_us: i64, points: usize) -> Self {
        let to = place(to_us.max(from_us));
        // What is older is not kept.
        let from = place(from_us).max(to.saturating_sub(POINTS_MAX as u32 - 1));
        let each = (to - from + 1).div_ceil(points.max(1) as u32);
        let first = from - from % each;
        Self { first, each, count: ((to - first) / each + 1) as usize }
    }

    /// When the points begin, in seconds since 1970.
    pub fn starts(&self) -> Vec<i64> {
        let at = |point: usize| i64::from(self.first) + i64::from(self.each) * point as i64;
        (0..self.count).map(|point| at(point) * POINT_S).collect()
    }

    /// Seconds of a point.
    pub fn step_s(&self) -> i64 {
        i64::from(self.each) * POINT_S
    }
}

impl Day {
    /// Adds a value. A clock that was set back adds it to the newest ten seconds.
    pub fn add(&mut self, at_us: i64, value: f64) {
        debug_assert!(value.is_finite());
        if self.open.is_none() && self.over.is_empty() {
            self.base = value;
        }
        let open = self.open_at(at_us);
        open.count = open.count.saturating_add(1);
        open.sum += value;
        open.min = open.min.min(value);
        open.max = open.max.max(value);
    }

    /// Counts flagged values.
    pub fn add_flags(&mut self, at_us: i64, flags: u64) {
        if flags > 0 {
            let open = self.open_at(at_us);
            open.flags = open.flags.saturating_add(flags.min(u32::MAX.into()) as u32);
        }
    }

    fn open_at(&mut self, at_us: i64) -> &mut OpenPoint {
        let place = place(at_us);
        if self.open.is_some_and(|open| open.place < place) {
            let open = self.open.take().expect("checked");
            if self.over.len() == POINTS_MAX {
                self.over.pop_front();
            }
            self.over.push_back(self.closed(&open));
        }
        self.open.get_or_insert(OpenPoint {
            place,
            count: 0,
            flags: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        })
    }

    fn closed(&self, open: &OpenPoint) -> Point {
        let OpenPoint { place, count, flags, sum, min, max } = *open;
        let of = |value: f64| if count == 0 { 0.0 } else { (value - self.base) as f32 };
        Point { place, count, flags, min: of(min), mean: of(sum / f64::from(count)), max: of(max) }
    }

    /// The points of these places, the ten seconds that go on among them.
    pub fn points(&self, places: RangeInclusive<u32>) -> impl Iterator<Item = DayPoint> + '_ {
        let open = self.open.map(|open| self.closed(&open));
        let from = self.over.partition_point(|point| point.place < *places.start());
        let asked = self.over.range(from..).copied().chain(open);
        asked.filter(move |point| places.contains(&point.place)).map(|point| {
            let Point { place, count, flags, min, mean, max } = point;
            let of = |value: f32| if count == 0 { 0.0 } else { self.base + f64::from(value) };
            DayPoint { place, count, flags, min: of(min), mean: of(mean), max: of(max) }
        })
    }

    /// The place of the newest point that is over.
    pub fn last_place(&self) -> Option<u32> {
        self.over.back().map(|point| point.place)
    }

    /// Adds ten seconds that are over. Of a full day the oldest make room.
    pub fn join(&mut self, added: &DayPoint, how: Join) {
        let is_empty = self.open.is_none() && self.over.iter().all(|point| point.count == 0);
        if added.count > 0 && is_empty {
            self.base = added.mean;
        }
        let of = |value: f64| if added.count == 0 { 0.0 } else { (value - self.base) as f32 };
        let DayPoint { place, count, flags, .. } = *added;
        let (min, mean, max) = (of(added.min), of(added.mean), of(added.max));
        let added = Point { place, count, flags, min, mean, max };
        match self.over.binary_search_by_key(&place, |point| point.place) {
            Ok(at) => {
                let base = self.base;
                self.over[at].join(&added, how, base);
            }
            Err(0) if self.over.len() == POINTS_MAX => {}
            Err(mut at) => {
                if self.over.len() == POINTS_MAX {
                    self.over.pop_front();
                    at -= 1;
                }
                self.over.insert(at, added);
            }
        }
    }

    /// The points of a range.
    pub fn columns(&self, range: &DayRange) -> DayColumns {
        let mut merged = vec![Merged::default(); range.count];
        let open = self.open.map(|open| self.closed(&open));
        let from = self.over.partition_point(|point| point.place < range.first);
        for point in self.over.range(from..).chain(&open) {
            let Some(offset) = point.place.checked_sub(range.first) else { continue };
            if let Some(merged) = merged.get_mut((offset / range.each) as usize) {
                merged.add(point);
            }
        }
        let low = merged.iter().map(|one| one.min).fold(f64::INFINITY, f64::min);
        let high = merged.iter().map(|one| one.max).fold(f64::NEG_INFINITY, f64::max);
        let column = |of: fn(&Merged) -> f64| -> Vec<Option<f64>> {
            let value = |one: &Merged| digits_of(self.base + of(one), high - low);
            merged.iter().map(|one| (one.count > 0).then(|| value(one))).collect()
        };
        DayColumns {
            min: column(|one| one.min),
            mean: column(|one| one.sum / one.count as f64),
            max: column(|one| one.max),
            flags: merged.iter().map(|one| one.flags).collect(),
        }
    }
}

/// Points that are one of an answer; values are differences to the base.
#[derive(Clone, Copy, Debug)]
struct Merged {
    count: u64,
    flags: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Default for Merged {
    fn default() -> Self {
        Self { count: 0, flags: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Merged {
    fn add(&mut self, point: &Point) {
        self.flags += u64::from(point.flags);
        if point.count > 0 {
            self.count += u64::from(point.count);
            self.sum += f64::from(point.mean) * f64::from(point.count);
            self.min = self.min.min(point.min.into());
            self.max = self.max.max(point.max.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0_US: i64 = 1_735_100_000_000_000;

    fn at(seconds: i64) -> i64 {
        T0_US + seconds * 1_000_000
    }

    #[test]
    fn each_ten_seconds_have_their_extremes_their_mean_and_their_flags() {
        let mut day = Day::default();
        for second in 0..60 {
            // Without values from 20 s to 30 s.
            if !(20..30).contains(&second) {
                day.add(at(second), 1e9 + (second % 10) as f64);
            }
        }
        day.add_flags(at(59), 3);
        // The clock was set back.
        day.add(at(15), 1e9 + 100.0);
        let range = DayRange::new(at(0), at(59), 100);
        assert_eq!((range.step_s(), range.starts().len()), (10, 6));
        assert_eq!(range.starts()[1], 1_735_100_010);
        let columns = day.columns(&range);
        assert_eq!(columns.min, [Some(1e9), Some(1e9), None, Some(1e9), Some(1e9), Some(1e9)]);
        assert_eq!(columns.max[4..], [Some(1_000_000_009.0), Some(1_000_000_100.0)]);
        assert_eq!(columns.mean[0], Some(1_000_000_004.5));
        assert_eq!(columns.flags, [0, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn a_longer_range_has_wider_points() {
        let mut day = Day::default();
        for second in 0..3_600 {
            day.add(at(second), if second == 1_234 { -5.0 } else { 10.0 });
        }
        let range = DayRange::new(at(0), at(3_599), 30);
        assert_eq!(range.step_s(), 120);
        let columns = day.columns(&range);
        assert!((30..=31).contains(&columns.min.len()));
        assert_eq!(columns.min.iter().filter(|min| **min == Some(-5.0)).count(), 1);
        assert_eq!(columns.max.iter().flatten().copied().fold(0.0, f64::max), 10.0);
        // All values are in the answer, whatever the width.
        for points in [1, 7, 720] {
            let columns = day.columns(&DayRange::new(at(0), at(3_599), points));
            assert!(columns.min.contains(&Some(-5.0)), "{points}");
            assert!(columns.min.len() <= points + 1, "{points}");
        }
    }

    fn point(place: u32, count: u32, mean: f64) -> DayPoint {
        let (min, max) = (mean - 1.0, mean + 1.0);
        DayPoint { place, count, flags: 1, min, mean, max }
    }

    #[test]
    fn points_of_several_replicas_become_one_in_any_order() {
        let mut own = Day::default();
        for second in 0..60 {
            own.add(at(second), 1e6 + second as f64);
        }
        let first = place(at(0));
        let taken: Vec<_> = own.points(first + 1..=first + 5).collect();
        assert_eq!((taken.len(), taken[0].place, taken[4].count), (5, first + 1, 10));
        assert_eq!((taken[0].min, taken[0].max), (1e6 + 10.0, 1e6 + 19.0));
        let mut joined = Day::default();
        for point in taken.iter().rev().chain(&taken[2..4]) {
            joined.join(point, Join::Fuller);
        }
        assert_eq!(joined.points(0..=u32::MAX).collect::<Vec<_>>(), taken);
        // The fuller one stays, whichever comes first.
        for order in [[3, 7], [7, 3]] {
            let mut day = Day::default();
            for count in order {
                day.join(&point(5, count, f64::from(count)), Join::Fuller);
            }
            assert_eq!(day.points(5..=5).next(), Some(point(5, 7, 7.0)));
        }
        // Sums do not depend on the order either, and a point without values adds its flags alone.
        let without = DayPoint { min: 0.0, mean: 0.0, max: 0.0, ..point(5, 0, 0.0) };
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
            let parts = [point(5, 9, 100.0), point(5, 10, 50.0), without];
            let mut day = Day::default();
            order.into_iter().for_each(|at| day.join(&parts[at], Join::Sum));
            let sum = DayPoint { count: 10, flags: 3, min: 148.0, max: 152.0, ..parts[0] };
            assert_eq!(day.points(5..=5).next(), Some(DayPoint { mean: 150.0, ..sum }));
        }
    }

    #[test]
    fn a_full_day_takes_newer_points_only() {
        let mut day = Day::default();
        for place in 10..10 + POINTS_MAX as u32 {
            day.join(&point(place, 1, 5.0), Join::Fuller);
        }
        day.join(&point(9, 1, 5.0), Join::Fuller);
        assert_eq!(day.over.front().map(|point| point.place), Some(10));
        day.join(&point(20 + POINTS_MAX as u32, 1, 5.0), Join::Fuller);
        assert_eq!(day.over.front().map(|point| point.place), Some(11));
        assert_eq!((day.over.len(), day.last_place()), (POINTS_MAX, Some(20 + POINTS_MAX as u32)));
    }

    #[test]
    fn no_more_than_a_day_is_kept() {
        let mut day = Day::default();
        for point in 0..POINTS_MAX as i64 + 100 {
            day.add(at(point * POINT_S), point as f64);
        }
        assert_eq!(day.over.len(), POINTS_MAX);
        let range = DayRange::new(i64::MIN, at((POINTS_MAX as i64 + 99) * POINT_S), POINTS_MAX);
        let columns = day.columns(&range);
        assert_eq!(columns.min.len(), POINTS_MAX);
        assert_eq!(columns.min[0], Some(100.0));
    }

    #[test]
    fn any_range_has_an_answer() {
        let mut day = Day::default();
        assert_eq!(day.columns(&DayRange::new(0, 0, 1)).mean, [None]);
        day.add(at(0), 1.0);
        for (from_us, to_us) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (at(5), at(0))] {
            let columns = day.columns(&DayRange::new(from_us, to_us, 720));
            assert!((1..=721).contains(&columns.mean.len()));
        }
        day.add_flags(at(11), 1);
        assert_eq!(day.columns(&DayRange::new(at(10), at(11), 5)).mean, [None], "flags alone");
    }
}
