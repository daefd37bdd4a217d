//! The chunks of several shards give Redis what those of one shard give it.

use super::*;
use crate::judged_queue::{self, JudgedConsumer, JudgedProducer};
use crate::shards::ShardLayout;

/// The judged-sample queue of several shards, and what each has counted.
struct Shards {
    layout: ShardLayout,
    producers: Vec<JudgedProducer>,
    consumer: JudgedConsumer,
    counted: Vec<u64>,
    of_fleet: u64,
    time_us: i64,
}

impl Shards {
    fn new(layout: ShardLayout) -> Self {
        let sleepers: Vec<_> = (0..layout.threads()).map(|_| Arc::default()).collect();
        let counters: Vec<_> = (0..layout.threads()).map(|_| Arc::default()).collect();
        let (producers, consumer) = judged_queue::sharded(64 << 20, layout, &sleepers, &counters);
        let counted = vec![0; layout.threads()];
        let time_us = 1_800_000_000_000_000;
        Self { layout, producers, consumer, counted, of_fleet: 0, time_us }
    }

    /// Judges samples that arrive one after another, each as its shard and the fleet's do.
    fn judge(&mut self, samples: &[SentSample]) {
        for sent in samples {
            self.time_us += 1;
            let reading = |&(metric, value)| Reading { metric: MetricId::new(metric, 0), value };
            let readings: Vec<_> = sent.metrics.iter().map(reading).collect();
            let SentSample { device, timestamp_us, .. } = *sent;
            let sample = Sample { timestamp_us, device, readings: readings.len() as u32 };
            let (of_device, of_fleet) = (self.layout.of_subject(device), self.layout.of_fleet());
            for shard in BTreeSet::from([of_device, of_fleet]) {
                let producer = &mut self.producers[shard];
                producer.begin_batch(self.time_us, self.counted[shard], self.of_fleet);
                producer.add(&[sample], &readings);
            }
            self.counted[of_device] += 1;
            self.of_fleet += 1;
        }
    }

    /// Sends what each shard has, in that order of shards.
    fn send(&mut self, counts: &ExpectedContents, first: usize) {
        let shards = self.producers.len();
        (0..shards).for_each(|at| self.producers[(first + at) % shards].send(counts));
    }
}

/// The values of each window in their order, and what else must be the same. Which of two devices has the last sample of a
/// timestamp depends on which shard comes first.
fn seen(contents: Contents) -> impl PartialEq + std::fmt::Debug {
    let of_devices = |key: &str| key.matches(':').count() > 1;
    let keys: Vec<String> = contents.strings.keys().cloned().collect();
    let mut strings = contents.strings;
    strings.retain(|key, _| of_devices(key));
    let value =
        |(at_us, member): &(i64, String)| (*at_us, member.rsplit(':').next().map(str::to_owned));
    let windows: BTreeMap<_, Vec<_>> = contents
        .windows
        .iter()
        .map(|(key, window)| (key.clone(), window.iter().map(value).collect()))
        .collect();
    (keys, strings, windows, contents.hashes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn several_shards_write_what_one_does(
        steps in proptest::collection::vec(step(), 1..25),
        shards in 2..5_usize,
        first in 0..5_usize,
        is_early in any::<bool>(),
    ) {
        let options = options(false);
        let mut queue = StoreQueue::new(Arc::new(ByteBudget::new(64 << 20)), options.window, false);
        let mut commands = CommandEncoder::new(options);
        let mut of_shards = Shards::new(ShardLayout::new(shards));
        let (mut expected, mut contents) = (ExpectedContents::default(), Contents::default());
        let (mut sent, mut finished) = (0, 0);
        let take = |queue: &mut StoreQueue, of_shards: &Shards| {
            for chunk in of_shards.consumer.take_all() {
                queue.take(&chunk, device_name, |metric| Some(metric_name(metric)));
                of_shards.consumer.recycle(chunk);
            }
        };
        for step in steps.into_iter().chain([EncoderStep::Done, EncoderStep::Begin, EncoderStep::Done]) {
            match step {
                EncoderStep::Take(samples) => {
                    let samples: Vec<_> = samples
                        .into_iter()
                        .map(|sample| SentSample { is_same_time: false, ..sample })
                        .collect();
                    expected.judge(&samples, false);
                    of_shards.judge(&samples);
                    sent += samples.len() as u64;
                    if is_early {
                        of_shards.send(&expected, first);
                    }
                }
                EncoderStep::Begin => if queue.in_flight().is_none() {
                    of_shards.send(&expected, first);
                    take(&mut queue, &of_shards);
                    queue.begin();
                },
                EncoderStep::Done => if let Some(segment) = queue.in_flight() {
                    flush(&mut commands, segment, &mut contents, 0);
                    let SegmentOutcome { stored, coalesced, refused } = queue.done(Refusals::default());
                    prop_assert_eq!(refused, 0);
                    finished += stored + coalesced;
                },
            }
        }
        prop_assert_eq!((queue.samples(), finished), (0, sent));
        prop_assert_eq!(of_shards.consumer.waiting(), 0);
        prop_assert_eq!(seen(contents), seen(expected.trimmed()));
    }
}
