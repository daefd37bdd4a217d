//! What a replica has recorded in ten minutes, as bytes for the other replicas.
//!
//! Columns, because neighbours of a column resemble each other: they are packed for Redis.

use crate::dashboard::day::{Day, DayPoint, POINT_S};
use crate::dashboard::streams::StreamName;
use crate::shared_history::BLOCK_S;
use sigmad_detectors::saved::Saved;

/// The version of a page. Those of another one are left out, and counted.
const FORM: u8 = 1;
/// Points of a block.
pub const BLOCK_POINTS: u32 = (BLOCK_S / POINT_S) as u32;

/// The block of a point.
pub fn block_of(place: u32) -> u32 {
    place / BLOCK_POINTS
}

/// What a replica has recorded in a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The wall clock of the replica less Redis' clock: what its places are corrected by.
    pub offset_us: i64,
    /// Samples that it accepted per second, and anomalies as flags.
    pub load: Vec<DayPoint>,
    /// Each stream.
    pub streams: Vec<(StreamName, Vec<DayPoint>)>,
}

impl Page {
    /// What these days have of a block, up to a place.
    pub fn of<'a>(
        (block, last): (u32, u32),
        offset_us: i64,
        load: &Day,
        streams: impl Iterator<Item = (&'a StreamName, &'a Day)>,
    ) -> Self {
        let first = block * BLOCK_POINTS;
        let places = first..=last.min(first + BLOCK_POINTS - 1);
        let taken = |day: &Day| day.points(places.clone()).collect::<Vec<_>>();
        let streams = streams.map(|(name, day)| (name.clone(), taken(day)));
        let streams = streams.filter(|(_, points)| !points.is_empty()).collect();
        Self { offset_us, load: taken(load), streams }
    }

    /// The page as bytes.
    pub fn write(&self, block: u32) -> Vec<u8> {
        let mut to = Vec::new();
        FORM.write(&mut to);
        self.offset_us.write(&mut to);
        write_points(&self.load, block, &mut to);
        (self.streams.len() as u32).write(&mut to);
        for (name, points) in &self.streams {
            name.write(&mut to);
            write_points(points, block, &mut to);
        }
        to
    }

    /// Reads what [`Page::write`] has made; None for anything else.
    pub fn read(block: u32, mut bytes: &[u8]) -> Option<Self> {
        let from = &mut bytes;
        if u8::read(from)? != FORM {
            return None;
        }
        let (offset_us, load) = (Saved::read(from)?, read_points(from, block)?);
        let mut streams = Vec::new();
        for _ in 0..u32::read(from)? {
            streams.push((StreamName::read(from)?, read_points(from, block)?));
        }
        from.is_empty().then_some(Self { offset_us, load, streams })
    }
}

/// A number of a point, then the next one; values as differences to the first mean.
fn write_points(points: &[DayPoint], block: u32, to: &mut Vec<u8>) {
    let base = points.iter().find(|point| point.count > 0).map_or(0.0, |point| point.mean);
    base.write(to);
    (points.len() as u8).write(to);
    let first = block * BLOCK_POINTS;
    points.iter().for_each(|point| ((point.place - first) as u8).write(to));
    points.iter().for_each(|point| point.count.write(to));
    points.iter().for_each(|point| point.flags.write(to));
    for of in
        [|point: &DayPoint| point.min, |point: &DayPoint| point.mean, |point: &DayPoint| point.max]
    {
        points.iter().for_each(|point| ((of(point) - base) as f32).write(to));
    }
}

fn read_points(from: &mut &[u8], block: u32) -> Option<Vec<DayPoint>> {
    let base = f64::read(from)?;
    let count = usize::from(u8::read(from)?);
    let first = block.checked_mul(BLOCK_POINTS)?;
    let places = column(from, count, |from| {
        let place = u8::read(from).map(u32::from).filter(|place| *place < BLOCK_POINTS)?;
        first.checked_add(place)
    })?;
    let [counts, flags] = [column(from, count, u32::read)?, column(from, count, u32::read)?];
    let mut values = || column(from, count, f32::read);
    let [min, mean, max] = [values()?, values()?, values()?];
    let points = (0..count).map(|at| {
        let value =
            |column: &[f32]| if counts[at] == 0 { 0.0 } else { base + f64::from(column[at]) };
        DayPoint {
            place: places[at],
            count: counts[at],
            flags: flags[at],
            min: value(&min),
            mean: value(&mean),
            max: value(&max),
        }
    });
    let points: Vec<_> = points.collect();
    let is_sound =
        |point: &DayPoint| [point.min, point.mean, point.max].iter().all(|value| value.is_finite());
    points.iter().all(is_sound).then_some(points)
}

fn column<T>(
    from: &mut &[u8],
    count: usize,
    read: impl Fn(&mut &[u8]) -> Option<T>,
) -> Option<Vec<T>> {
    (0..count).map(|_| read(from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_it_was_written_and_damage_is_noticed() {
        let block = 2_891_833;
        let mut day = Day::default();
        let second_us = 1_000_000;
        let start_us = i64::from(block) * BLOCK_S * second_us;
        for second in -20..2 * BLOCK_S {
            day.add(start_us + second * second_us, 1e9 + second as f64);
        }
        day.add_flags(start_us + 2 * BLOCK_S * second_us, 3);
        let name = StreamName { device: Some("edge-1".into()), series: "rps".into() };
        let whole = Page::of((block, u32::MAX), -5, &day, [(&name, &day)].into_iter());
        assert_eq!(whole.load.len() as u32, BLOCK_POINTS);
        assert_eq!(whole.streams[0].1[0].min, 1e9);
        let begun = Page::of((block, block * BLOCK_POINTS + 2), -5, &day, [].into_iter());
        assert_eq!((begun.load.len(), begun.streams.len()), (3, 0));
        let flags = Page::of((block + 2, u32::MAX), 0, &day, [(&name, &day)].into_iter());
        assert_eq!((flags.load[0].flags, flags.load[0].count), (3, 0));
        for (block, page) in [(block, whole), (block, begun), (block + 2, flags)] {
            let bytes = page.write(block);
            assert_eq!(Page::read(block, &bytes), Some(page));
            assert!((0..bytes.len()).all(|end| Page::read(block, &bytes[..end]).is_none()));
            assert_eq!(Page::read(u32::MAX, &bytes), None);
            let mut newer = bytes;
            newer[0] += 1;
            assert_eq!(Page::read(block, &newer), None);
        }
    }
}
