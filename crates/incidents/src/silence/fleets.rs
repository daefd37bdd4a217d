//! Fleets of known cadence, to count false alarms and the time until a silence is noticed.
//!
//! Half of the kinds were looked at while the constants of [`Cadence`](super::cadence::Cadence) were chosen; the other half
//! is the estimate for fleets that nobody has seen.

use super::returns::Returns;
use super::{Finding, SilenceTime, Silences};

/// A kind of fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fleet {
    /// A sample each ten seconds.
    Regular,
    /// One each second, some lost, with a stall of some seconds now and then.
    Lossy,
    /// Gaps of 30 to 90 s.
    Jittered,
    /// One in ten seconds, and once a day nothing for up to two minutes.
    Restarting,
    /// One in five minutes, of which a tenth is lost.
    Scripts,
    /// At random moments, 30 s apart in the mean.
    Random,
    /// A sample a second for a random time of some minutes, then a pause as long.
    Bursty,
    /// Ten minutes of samples at once.
    Batched,
    /// From about 8 to about 17 o'clock from Monday to Friday, one sample in 30 s.
    OfficeHours,
    /// One sample an hour, and none at night.
    Shops,
}

impl Fleet {
    /// Looked at while constants were chosen.
    pub const TUNED: [Self; 5] =
        [Self::Regular, Self::Jittered, Self::Lossy, Self::Bursty, Self::OfficeHours];
    /// Not looked at.
    pub const HELD_OUT: [Self; 5] =
        [Self::Random, Self::Batched, Self::Shops, Self::Restarting, Self::Scripts];
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.uniform()).ln()
    }

    /// Nearly normal, of mean 0 and deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// One device of a fleet.
struct Device {
    fleet: Fleet,
    random: Random,
    /// Until when its burst, or its day, lasts.
    until_s: f64,
    at_s: f64,
}

const DAY_S: f64 = 86_400.0;

impl Device {
    fn new(fleet: Fleet, seed: u64) -> Self {
        let mut random = Random(seed);
        let at_s = 100.0 * DAY_S + 600.0 * random.uniform();
        Self { fleet, random, until_s: 0.0, at_s }
    }

    /// The second of its next sample.
    fn next(&mut self) -> u32 {
        let Self { fleet, random, until_s, at_s } = self;
        match fleet {
            Fleet::Regular => *at_s += 10.0 + 0.2 * random.normal(),
            Fleet::Lossy => loop {
                *at_s += 1.0 + if random.uniform() < 1e-4 { random.exponential(3.0) } else { 0.0 };
                if random.uniform() > 0.05 {
                    break;
                }
            },
            Fleet::Jittered => *at_s += 30.0 + 60.0 * random.uniform(),
            Fleet::Restarting => {
                *at_s += 10.0 + 0.2 * random.normal();
                if random.uniform() < 10.0 / DAY_S {
                    *at_s += 20.0 + 100.0 * random.uniform();
                }
            }
            Fleet::Scripts => loop {
                *at_s += 300.0 + 2.0 * random.normal();
                if random.uniform() > 0.1 {
                    break;
                }
            },
            Fleet::Random => *at_s += random.exponential(30.0),
            Fleet::Bursty => {
                *at_s += 1.0;
                if *at_s > *until_s {
                    *at_s += random.exponential(300.0);
                    *until_s = *at_s + random.exponential(300.0);
                }
            }
            Fleet::Batched => *at_s += 600.0 + 30.0 * random.normal(),
            Fleet::OfficeHours => {
                *at_s += 28.0 + 4.0 * random.uniform();
                if *at_s > *until_s {
                    let mut day = (*at_s / DAY_S).floor() + 1.0;
                    while day % 7.0 >= 5.0 {
                        day += 1.0;
                    }
                    *at_s = day * DAY_S + 3_600.0 * (8.0 + 0.5 * random.normal());
                    *until_s = day * DAY_S + 3_600.0 * (17.0 + 0.5 * random.normal());
                }
            }
            Fleet::Shops => {
                *at_s += 3_600.0 + 60.0 * random.normal();
                if *at_s % DAY_S > 21.5 * 3_600.0 {
                    *at_s = (*at_s / DAY_S).floor() * DAY_S + DAY_S + 7.0 * 3_600.0;
                }
            }
        }
        *at_s as u32
    }
}

/// What a simulation found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Silences of devices that were well, in the first week and after it.
    pub first_week: u32,
    /// Those after it.
    pub false_alarms: u32,
    /// The mean time until the end of all devices was noticed, in mean gaps, of those noticed within a day.
    pub gaps_to_notice: f64,
    /// Devices whose end was not noticed within a day.
    pub missed: u32,
}

/// Devices of one fleet take turns of this length.
const TURN_S: u32 = 600;

/// A device with what watches it.
struct Watched {
    silences: Silences,
    device: Device,
    /// Its first sample, its next one, and when it ends.
    first_s: u32,
    next_s: u32,
    end_s: u32,
    samples: u32,
}

fn time(now_s: u32) -> SilenceTime {
    SilenceTime { now_s, offset_s: 0 }
}

impl Watched {
    fn new(fleet: Fleet, weeks: u32, seed: u64) -> Self {
        let mut silences = Silences::default();
        silences.begin(0, false);
        let mut device = Device::new(fleet, seed);
        let first_s = device.next();
        // At noon, when all that rest at night are heard.
        let end_s = ((f64::from(first_s) / DAY_S).floor() + f64::from(weeks) * 7.0 + 0.5) * DAY_S;
        Self { silences, device, first_s, next_s: first_s, end_s: end_s as u32, samples: 0 }
    }

    /// Sends what comes before that second.
    fn send_until(&mut self, to_s: u32, outcome: &mut Outcome) {
        let Self { silences, device, first_s, next_s, end_s, samples } = self;
        let week_s = *first_s + 7 * DAY_S as u32;
        while *next_s < to_s.min(*end_s) {
            silences.advance(time(*next_s), u32::MAX, |_, finding| {
                assert!(matches!(finding, Finding::Silent(_)));
                let is_first_week = *next_s < week_s;
                outcome.first_week += u32::from(is_first_week);
                outcome.false_alarms += u32::from(!is_first_week);
            });
            silences.heard(0, time(*next_s));
            *samples += 1;
            *next_s = device.next();
        }
    }

    /// After how many mean gaps its end is noticed. None if it is not within a day.
    fn notice_end(&mut self) -> Option<f64> {
        // The last sample came before the one that was not sent; what is found now is right.
        let gap_s = f64::from(self.end_s - self.first_s) / f64::from(self.samples);
        let mut noticed_s = None;
        for now_s in self.end_s..self.end_s + DAY_S as u32 {
            self.silences.advance(time(now_s), u32::MAX, |_, _| noticed_s = Some(now_s));
            if noticed_s.is_some() {
                break;
            }
        }
        Some(f64::from(noticed_s? - self.end_s) / gap_s)
    }
}

/// Simulates devices of a fleet for some weeks, and then their end. What one shows that comes back is known of the others,
/// up to a turn too early; their wheels are apart, which is faster.
pub fn simulate(fleet: Fleet, devices: u32, weeks: u32, seed: u64) -> Outcome {
    let mut outcome = Outcome::default();
    let seed = |device| seed.wrapping_mul(1 << 20) + u64::from(device);
    let mut all: Vec<_> =
        (0..devices).map(|device| Watched::new(fleet, weeks, seed(device))).collect();
    let mut returns = Returns::default();
    let mut to_s = all.iter().map(|one| one.first_s).min().unwrap_or(0);
    while all.iter().any(|one| one.next_s < one.end_s) {
        to_s += TURN_S;
        for one in &mut all {
            std::mem::swap(&mut one.silences.returns, &mut returns);
            one.send_until(to_s, &mut outcome);
            std::mem::swap(&mut one.silences.returns, &mut returns);
        }
    }
    let noticed: Vec<f64> = all.iter_mut().filter_map(Watched::notice_end).collect();
    outcome.missed = devices - noticed.len() as u32;
    outcome.gaps_to_notice = noticed.iter().sum::<f64>() / noticed.len().max(1) as f64;
    outcome
}
