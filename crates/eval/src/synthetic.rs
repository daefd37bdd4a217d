//! Scenarios with known truth: mostly two weeks of one value a minute, normal around 100 with a
//! deviation of 10, and one thing wrong with it. The same seeds give the same series everywhere.

use crate::events::{self, EventRanking, EventRules};
use crate::series::Series;

/// Two weeks of minutes.
const ROWS: usize = 14 * DAY;
const DAY: usize = 24 * 60;
/// The first moment of 2025, UTC.
pub const START_US: i64 = 1_735_689_600_000_000;
const LEVEL: f64 = 100.0;
const DEVIATION: f64 = 10.0;
/// Series of each scenario.
const SERIES: u64 = 8;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scenario {
    /// Normal noise, with this many seconds between values.
    Quiet(u32),
    /// Noise with heavy tails: Student's t with three degrees of freedom.
    HeavyTails,
    /// This fraction of the values is 6 to 12 deviations off.
    Spikes(f64),
    /// Once a day twenty values 6 deviations up.
    Bursts,
    /// From some moment on everything lies 5 deviations higher; its first hour is anomalous.
    LevelShift,
    /// Half a day in which it climbs by 10 deviations, and stays there.
    Drift,
    /// Six hours of four times the deviation.
    Variance,
    /// Six hours of the same value.
    Stuck,
    /// A wave of the day, of 5 deviations, that fails to come on one day.
    MissingCycle,
}

/// All of them.
pub const SCENARIOS: [Scenario; 14] = [
    Scenario::Quiet(60),
    Scenario::Quiet(1),
    Scenario::Quiet(300),
    Scenario::Quiet(3_600),
    Scenario::HeavyTails,
    Scenario::Spikes(0.01),
    Scenario::Spikes(0.02),
    Scenario::Spikes(0.05),
    Scenario::Bursts,
    Scenario::LevelShift,
    Scenario::Drift,
    Scenario::Variance,
    Scenario::Stuck,
    Scenario::MissingCycle,
];

impl Scenario {
    /// For tables.
    pub fn name(self) -> String {
        match self {
            Self::Quiet(seconds) => format!("normal alone, every {seconds} s"),
            Self::HeavyTails => "heavy tails alone".to_owned(),
            Self::Spikes(part) => format!("spikes at {:.0} %", 100.0 * part),
            Self::Bursts => "bursts of 20".to_owned(),
            Self::LevelShift => "level shift".to_owned(),
            Self::Drift => "drift".to_owned(),
            Self::Variance => "variance change".to_owned(),
            Self::Stuck => "stuck sensor".to_owned(),
            Self::MissingCycle => "daily wave, one missing".to_owned(),
        }
    }

    /// Its series.
    pub fn series(self) -> Vec<Series> {
        (0..SERIES).map(|seed| self.one(seed)).collect()
    }

    /// How many, and the microseconds between them: two days at least, at most a quarter of a year.
    fn rows(self) -> (usize, i64) {
        let seconds = if let Self::Quiet(seconds) = self { seconds as usize } else { 60 };
        let least = 2 * DAY * 60 / seconds;
        let most = 90 * DAY * 60 / seconds;
        (ROWS.clamp(least, most), seconds as i64 * 1_000_000)
    }

    fn one(self, seed: u64) -> Series {
        let mut random = Random(seed);
        // In the second week, away from its ends: every detector knows the stream by then.
        let from = ROWS / 2 + (random.uniform() * (ROWS / 2 - 2 * DAY) as f64) as usize;
        let mut stuck_at = LEVEL;
        let mut series = Series { name: format!("{} {seed}", self.name()), ..Series::default() };
        let (rows, interval_us) = self.rows();
        for row in 0..rows {
            let since = row.checked_sub(from);
            let within = |rows: usize| since.is_some_and(|since| since < rows);
            let normal = LEVEL + DEVIATION * random.normal();
            let (value, is_anomalous) = match self {
                Self::Quiet(_) => (normal, false),
                Self::HeavyTails => {
                    let squares: f64 = (0..3).map(|_| random.normal().powi(2)).sum();
                    (LEVEL + (normal - LEVEL) / (squares / 3.0).sqrt(), false)
                }
                Self::Spikes(part) => {
                    let off = DEVIATION * (6.0 + 6.0 * random.uniform());
                    let sign = if random.uniform() < 0.5 { -1.0 } else { 1.0 };
                    let spikes = random.uniform() < part;
                    (if spikes { LEVEL + sign * off } else { normal }, spikes)
                }
                Self::Bursts => {
                    let bursts = row > DAY && (row + from) % DAY < 20;
                    (if bursts { normal + 6.0 * DEVIATION } else { normal }, bursts)
                }
                Self::LevelShift => {
                    let shift = if since.is_some() { 5.0 * DEVIATION } else { 0.0 };
                    (normal + shift, within(60))
                }
                Self::Drift => {
                    let climbed = since.map_or(0.0, |since| since as f64 / (DAY / 2) as f64);
                    (normal + 10.0 * DEVIATION * climbed.min(1.0), within(DAY / 2))
                }
                Self::Variance => {
                    let loud = within(DAY / 4);
                    (if loud { LEVEL + 4.0 * (normal - LEVEL) } else { normal }, loud)
                }
                Self::Stuck => {
                    let stuck = within(DAY / 4);
                    if !stuck {
                        stuck_at = normal;
                    }
                    (stuck_at, stuck)
                }
                Self::MissingCycle => {
                    let missing = row / DAY == 10;
                    let turn = row as f64 / DAY as f64 * std::f64::consts::TAU;
                    let wave = if missing { -1.0 } else { -turn.cos() };
                    (normal + 5.0 * DEVIATION * wave, missing)
                }
            };
            series.timestamps_us.push(START_US + row as i64 * interval_us);
            series.values.push(value);
            series.labels.push(is_anomalous);
        }
        series.present = vec![true; rows];
        series
    }
}

/// Rows flagged and not, anomalous and not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Confusion {
    /// Anomalous rows flagged.
    pub true_positive: usize,
    /// Normal rows left alone.
    pub true_negative: usize,
    /// Normal rows flagged.
    pub false_positive: usize,
    /// Anomalous rows left alone.
    pub false_negative: usize,
    /// Events with a flag in them, or just beside.
    pub events_found: usize,
    /// Events.
    pub events: usize,
    /// Flagged normal rows, per series and day.
    pub false_per_day: f64,
}

impl Confusion {
    /// Of all series with their scores, past the rows in which detectors learn.
    pub fn new<'a>(
        scored: impl IntoIterator<Item = (&'a Series, &'a [f64])> + Clone,
        is_flagged: impl Fn(f64) -> bool,
    ) -> Self {
        let mut confusion = Self::default();
        let (mut flagged, mut days) = (Vec::new(), 0.0);
        for (series, scores) in scored {
            for (&score, &is_anomalous) in scores.iter().zip(&series.labels).skip(events::SKIP) {
                let cell = match (is_flagged(score), is_anomalous) {
                    (true, true) => &mut confusion.true_positive,
                    (true, false) => &mut confusion.false_positive,
                    (false, true) => &mut confusion.false_negative,
                    (false, false) => &mut confusion.true_negative,
                };
                *cell += 1;
            }
            let flags = scores.iter().map(|&score| f64::from(u8::from(is_flagged(score))));
            flagged.push((series, flags.collect::<Vec<_>>()));
            if let (Some(last), Some(first)) =
                (series.timestamps_us.last(), series.timestamps_us.get(events::SKIP))
            {
                days += (last - first) as f64 / (DAY as f64 * 60e6);
            }
        }
        let flags = flagged.iter().map(|(series, flags)| (*series, flags.as_slice()));
        let score = EventRanking::new(EventRules::DEFAULT, flags).score(Some(1.0));
        confusion.events_found = score.hits;
        confusion.events = score.events;
        confusion.false_per_day = confusion.false_positive as f64 / days;
        confusion
    }

    /// Flagged rows that were anomalous.
    pub fn precision(&self) -> f64 {
        self.true_positive as f64 / (self.true_positive + self.false_positive) as f64
    }

    /// Anomalous rows that were flagged.
    pub fn recall(&self) -> f64 {
        self.true_positive as f64 / (self.true_positive + self.false_negative) as f64
    }

    /// Rows judged right.
    pub fn accuracy(&self) -> f64 {
        let right = self.true_positive + self.true_negative;
        right as f64 / (right + self.false_positive + self.false_negative) as f64
    }

    /// Normal rows that were flagged.
    pub fn false_positive_rate(&self) -> f64 {
        self.false_positive as f64 / (self.false_positive + self.true_negative) as f64
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of mean 0 and deviation 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}
