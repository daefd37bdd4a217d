//! The windows of devices as they were read last, so that of one that others have changed the newest values alone are
//! read.
//!
//! A window in Redis has the newest of all values that were ever added to it, in whichever order they came, and so has
//! the copy here. The counts of all replicas, which are read first, say how many values came since. If as many values
//! are new among those that are read, none is missing, however late some of them are. If not (samples were dropped,
//! another client deleted a window, a replica wrote between the two reads), the window is read whole.
//!
//! Pure: no I/O.

use std::collections::HashMap;
use std::mem;

use foldhash::fast::RandomState;

use super::keys::{self, Member};
use super::windows::{MetricCounts, WindowMembers};

/// Values of all windows that are known, at most: some 7 MB, with 4,000 windows of usual size. A window of which
/// nobody has heard for longest makes room; it is read whole then.
const VALUES_MAX: usize = 200_000;

/// The windows known.
#[derive(Debug, Default)]
pub struct KnownWindows {
    recent: Windows,
    /// Those before them: not heard of since half of all were.
    older: Windows,
    key: Vec<u8>,
}

#[derive(Debug, Default)]
struct Windows {
    by_key: HashMap<Box<[u8]>, KnownWindow, RandomState>,
    values: usize,
}

#[derive(Debug)]
struct KnownWindow {
    /// The values of all replicas that it accounts for.
    total: u64,
    /// In their order.
    members: Vec<Member>,
}

impl KnownWindows {
    /// How many of the newest values of a window to read, if `whole` are all.
    pub fn unread(&mut self, device: &str, metric: &MetricCounts, whole: u32) -> u32 {
        self.set_key(device, &metric.name);
        let Some(known) = self.recent.by_key.get(&*self.key).or(self.older.by_key.get(&*self.key))
        else {
            return whole;
        };
        // One more: a window that another client has deleted has less.
        let new = metric.total().checked_sub(known.total).and_then(|new| new.checked_add(1));
        new.and_then(|new| u32::try_from(new).ok()).unwrap_or(whole).min(whole)
    }

    /// Takes what was read, and gives the window whole. None when values may be missing: then it is to be read whole.
    pub fn complete(
        &mut self,
        device: &str,
        metric: &MetricCounts,
        read: WindowMembers,
        (asked, whole): (u32, u32),
    ) -> Option<WindowMembers> {
        self.set_key(device, &metric.name);
        let known = self.recent.remove(&self.key).or_else(|| self.older.remove(&self.key));
        let is_exact = read.foreign == 0 && read.future == 0;
        if asked == whole {
            if is_exact && !read.members.is_empty() {
                self.keep(KnownWindow { total: metric.total(), members: read.members.clone() });
            }
            return Some(read);
        }
        let mut known = known.filter(|_| is_exact && read.members.len() == asked as usize)?;
        let mut new = 0_u64;
        for &member in &read.members {
            let order = |other: &Member| other.order().cmp(&member.order());
            let Err(place) = known.members.binary_search_by(order) else { continue };
            new += 1;
            if known.members.len() < whole as usize {
                known.members.insert(place, member);
            } else if place > 0 {
                // The oldest makes room.
                known.members[..place].rotate_left(1);
                known.members[place - 1] = member;
            }
        }
        if known.total.checked_add(new) != Some(metric.total()) {
            return None;
        }
        known.total += new;
        let window = WindowMembers { members: known.members.clone(), ..read };
        self.keep(known);
        Some(window)
    }

    /// Forgets a window.
    pub fn forget(&mut self, device: &str, metric: &str) {
        self.set_key(device, metric);
        self.recent.remove(&self.key);
        self.older.remove(&self.key);
    }

    /// Forgets all: Redis may have lost some, or keeps more or fewer values.
    pub fn clear(&mut self) {
        self.recent = Windows::default();
        self.older = Windows::default();
    }

    fn set_key(&mut self, device: &str, metric: &str) {
        self.key.clear();
        keys::write_window_key(&mut self.key, Some(device), metric);
    }

    fn keep(&mut self, window: KnownWindow) {
        if self.recent.values + window.members.len() > VALUES_MAX / 2 {
            self.older = mem::take(&mut self.recent);
        }
        self.recent.values += window.members.len();
        self.recent.by_key.insert(self.key.as_slice().into(), window);
    }
}

impl Windows {
    fn remove(&mut self, key: &[u8]) -> Option<KnownWindow> {
        let window = self.by_key.remove(key)?;
        self.values -= window.members.len();
        Some(window)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::judged_queue::JudgedCounts;
    use crate::store::keys::ReplicaId;

    const WHOLE: u32 = 6;

    #[derive(Clone, Debug)]
    enum Step {
        /// A value of that time, and whether it comes between the counts and the window.
        Write {
            time_us: i64,
            replica: u32,
            is_between: bool,
        },
        /// It is counted and never written.
        Drop,
        /// Another client deletes the window.
        Delete,
        Read,
    }

    fn step() -> impl Strategy<Value = Step> {
        let write = (0..40_i64, 0..3_u32, any::<bool>());
        prop_oneof![
            12 => write.prop_map(|(time_us, replica, is_between)| Step::Write {
                time_us,
                replica,
                is_between
            }),
            1 => Just(Step::Drop),
            1 => Just(Step::Delete),
            6 => Just(Step::Read),
        ]
    }

    #[derive(Default)]
    struct Redis {
        window: BTreeSet<(i64, ReplicaId, u16)>,
        written: BTreeSet<(i64, ReplicaId, u16)>,
        total: u64,
        late: Vec<(i64, ReplicaId, u16)>,
    }

    impl Redis {
        fn write(&mut self, value: (i64, ReplicaId, u16)) {
            if self.written.insert(value) {
                self.total += 1;
                self.window.insert(value);
                while self.window.len() > WHOLE as usize {
                    self.window.pop_first();
                }
            }
        }

        /// Reads the window as the store thread does.
        fn read(&mut self, known: &mut KnownWindows) -> Vec<i64> {
            let counts = MetricCounts {
                name: "m".into(),
                others: JudgedCounts { total: self.total, anomalies: 0 },
                ..MetricCounts::default()
            };
            for late in std::mem::take(&mut self.late) {
                self.write(late);
            }
            let mut asked = known.unread("d", &counts, WHOLE);
            loop {
                let from = self.window.len().saturating_sub(asked as usize);
                let member = |&(time_us, replica, sequence): &(i64, ReplicaId, u16)| Member {
                    time_us,
                    replica,
                    sequence,
                    value: 1.0,
                };
                let members: Vec<_> = self.window.iter().skip(from).map(member).collect();
                if members.is_empty() {
                    known.forget("d", "m");
                    return Vec::new();
                }
                let read = WindowMembers { members, ..WindowMembers::default() };
                if let Some(window) = known.complete("d", &counts, read, (asked, WHOLE)) {
                    return window.members.iter().map(|member| member.time_us).collect();
                }
                assert_ne!(asked, WHOLE);
                asked = known.unread("d", &counts, WHOLE);
                assert_eq!(asked, WHOLE, "it is not known any more");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_known_at_rest_is_what_redis_has(
            steps in proptest::collection::vec(step(), 1..120),
        ) {
            let (mut known, mut redis) = (KnownWindows::default(), Redis::default());
            let mut sequence = 0;
            for step in steps {
                match step {
                    Step::Write { time_us, replica, is_between } => {
                        sequence += 1;
                        let value = (time_us, ReplicaId::new(replica), sequence);
                        if is_between { redis.late.push(value) } else { redis.write(value) }
                    }
                    Step::Drop => redis.total += 1,
                    Step::Delete => redis.window.clear(),
                    Step::Read => {
                        redis.read(&mut known);
                    }
                }
            }
            // A value between the two reads marks its device again.
            redis.read(&mut known);
            let shown = redis.read(&mut known);
            prop_assert_eq!(shown, redis.window.iter().map(|value| value.0).collect::<Vec<_>>());
        }
    }

    #[test]
    fn windows_make_room_for_others() {
        let mut known = KnownWindows::default();
        let member =
            |sequence| Member { time_us: 1, replica: ReplicaId::new(1), sequence, value: 0.5 };
        let others = JudgedCounts { total: 50, anomalies: 0 };
        let counts = MetricCounts { name: "m".into(), others, ..MetricCounts::default() };
        let read = WindowMembers { members: (0..50).map(member).collect(), ..Default::default() };
        for device in 0..VALUES_MAX / 50 * 3 {
            let device = format!("d{device}");
            known.complete(&device, &counts, read.clone(), (51, 51)).expect("whole");
            assert_eq!(known.unread(&device, &counts, 51), 1);
            assert!(known.recent.values + known.older.values <= VALUES_MAX);
        }
        assert_eq!(known.unread("d0", &counts, 51), 51, "it is not known any more");
        known.clear();
        assert_eq!(known.recent.values + known.older.values, 0);
    }
}
