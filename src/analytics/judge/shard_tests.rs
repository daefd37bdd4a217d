//! Several shards judge as one does.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::analytics::report::AnomalyReport;
use crate::sample_queue;
use crate::shards::ShardLayout;
use sigmad_sample::Reading;

fn names() -> NameLookup {
    NameLookup::new(|id| Some(id.index.to_string().into()), |id| id.slot().to_string().into())
}

/// The shards of a layout, without threads.
fn judged(samples: &[(Option<u32>, f64)], layout: ShardLayout, sizes: &[usize]) -> Vec<Analytics> {
    let sleepers: Vec<_> = (0..layout.threads()).map(|_| Arc::default()).collect();
    let (mut producer, consumers) = sample_queue::sharded(layout, &sleepers, Arc::default());
    let (numbers, settings) = (AnomalyNumbers::default(), AnalyticsSettings::default());
    let mut shards: Vec<_> = (0..layout.threads())
        .map(|shard| {
            Analytics::of_part(layout.part(shard), settings.clone(), names(), numbers.clone())
        })
        .collect();
    let (mut rest, mut sizes) = (samples, sizes.iter().cycle());
    let mut sent = 0;
    while !rest.is_empty() {
        let (taken, after) = rest.split_at(rest.len().min(*sizes.next().expect("not empty")));
        rest = after;
        let mut batch = Batch::default();
        for &(device, value) in taken {
            let device = device.map(|index| DeviceId { index, generation: 0 });
            let readings = [(0, value), (1, -value)]
                .map(|(slot, value)| Reading { metric: MetricId::new(slot, 0), value });
            batch.push(sent, device, &readings[..1 + sent as usize % 2]);
            sent += 1;
        }
        let now = sigmad_clock::Now { monotonic_ns: 0, wall_us: sent };
        producer.push(&batch, now);
        producer.send(now);
    }
    for (shard, consumer) in shards.iter_mut().zip(&consumers) {
        while let Ok(Some(chunk)) = consumer.receive() {
            shard.judge(&chunk.batch, 0);
            consumer.recycle(chunk);
        }
    }
    shards
}

/// Everything that depends on values, to the last bit: `{:?}` of a float tells all floats apart.
fn windows(shard: &Analytics, device: Option<u32>) -> String {
    let device = device.map(|index| DeviceId { index, generation: 0 });
    format!("{:?}", shard.windows(device, Scope::Cluster))
}

fn anomalies<'a>(shards: impl Iterator<Item = &'a Analytics>) -> Vec<String> {
    let everything = AnomaliesQuery { limit: usize::MAX, ..AnomaliesQuery::default() };
    let found = shards.flat_map(|shard| shard.anomalies(&everything).anomalies);
    // Their numbers depend on which shard is first.
    let unnumbered = found.map(|anomaly| AnomalyReport { serial: 0, change: 0, ..anomaly });
    let mut found: Vec<String> = unnumbered.map(|anomaly| format!("{anomaly:?}")).collect();
    found.sort_unstable();
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn verdicts_are_the_same_for_each_number_of_shards_and_size_of_batches(
        samples in proptest::collection::vec(
            (proptest::option::weighted(0.8, 0u32..7), -10.0..10.0f64, 0u32..30),
            1..1_500,
        ),
        sizes in proptest::collection::vec(1usize..400, 1..8),
        shards in 2usize..6,
    ) {
        let samples: Vec<_> = samples
            .into_iter()
            .map(|(device, value, rare)| (device, if rare == 0 { value * 1e3 } else { value }))
            .collect();
        let one = judged(&samples, ShardLayout::ONE, &[usize::MAX]).pop().expect("one shard");
        let layout = ShardLayout::new(shards);
        let several = judged(&samples, layout, &sizes);
        for index in 0..7 {
            let shard = layout.of_device(DeviceId { index, generation: 0 });
            prop_assert_eq!(windows(&several[shard], Some(index)), windows(&one, Some(index)));
        }
        prop_assert_eq!(windows(&several[layout.of_fleet()], None), windows(&one, None));
        prop_assert_eq!(anomalies(several.iter()), anomalies([&one].into_iter()));
        let merged = TotalsReport::merge(several.iter().map(Analytics::part_totals).collect());
        prop_assert_eq!(format!("{merged:?}"), format!("{:?}", one.totals()));
    }
}
