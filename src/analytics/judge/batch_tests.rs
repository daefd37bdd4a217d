//! Samples in one batch are judged as they are one by one, whatever runs of them have the same metrics.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::analytics::names::Names;
use sigmad_sample::Reading;

/// Its name is never known.
const EVICTED: u16 = 9;
/// The metrics of a sample.
const METRICS: [&[u16]; 6] = [&[0, 1], &[1, 0], &[0, 1, 2], &[2], &[1, 1], &[0, EVICTED, 1]];

struct TestNames;

impl Names for TestNames {
    fn device(&self, id: DeviceId) -> Option<Arc<str>> {
        Some(id.index.to_string().into())
    }

    fn is_device(&self, _: DeviceId) -> bool {
        true
    }

    fn metric(&self, id: MetricId) -> Option<Arc<str>> {
        self.is_metric(id).then(|| id.slot().to_string().into())
    }

    fn is_metric(&self, id: MetricId) -> bool {
        id.slot() != usize::from(EVICTED)
    }

    fn evictions(&self) -> u64 {
        0
    }
}

fn analytics() -> Analytics {
    let settings = AnalyticsSettings { window: 12, ..AnalyticsSettings::default() };
    Analytics::new(settings, NameLookup(Box::new(TestNames)))
}

/// Everything that depends on values, to the last bit: `{:?}` of a float tells all floats apart.
fn state(analytics: &Analytics) -> String {
    let devices = (0..4).map(|index| Some(DeviceId { index, generation: 0 }));
    let windows: Vec<_> =
        devices.chain([None]).map(|device| analytics.windows(device, Scope::Cluster)).collect();
    let all = AnomaliesQuery { limit: usize::MAX, ..AnomaliesQuery::default() };
    format!("{windows:?} {:?} {:?}", analytics.anomalies(&all), analytics.totals())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_batch_is_judged_as_its_samples_are_one_by_one(
        runs in proptest::collection::vec(
            (select(&METRICS[..]), proptest::option::weighted(0.95, 0u32..4), 1usize..40, 0u8..3),
            1..12,
        ),
        values in proptest::collection::vec(-10.0..10.0f64, 50),
    ) {
        let (mut together, mut alone) = (analytics(), analytics());
        let mut values = values.iter().cycle().enumerate();
        let mut batch = Batch::default();
        for (metrics, device, len, kind) in runs {
            for at in 0..len {
                let mut reading = |&slot: &u16| {
                    let (count, &value) = values.next().expect("a cycle");
                    // Constant, noisy, or noisy with values far away.
                    let value = match kind {
                        0 => 7.0,
                        1 => value,
                        _ => if count % 13 == 0 { value * 1e3 } else { value },
                    };
                    Reading { metric: MetricId::new(slot, 0), value }
                };
                let readings: Vec<_> = metrics.iter().map(&mut reading).collect();
                let index = |index| (index + at as u32) % 4;
                let device = device.map(|first| DeviceId { index: index(first), generation: 0 });
                batch.push(at as i64, device, &readings);
            }
        }
        together.judge(&batch, 0);
        for (sample, readings) in batch.iter() {
            let mut one = Batch::default();
            one.push(sample.timestamp_us, sample.device, readings);
            alone.judge(&one, 0);
        }
        prop_assert_eq!(state(&together), state(&alone));
    }
}
