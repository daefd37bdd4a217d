use proptest::prelude::*;

use super::*;

/// Every slot has a name, with the generation in it; those of `evicted` have none.
#[derive(Default)]
struct Known {
    evicted: Vec<u32>,
    admitted: Vec<String>,
}

impl Names for Known {
    fn device_name(&self, id: DeviceId) -> Option<Arc<str>> {
        let name = format!("device-{}-{}", id.index, id.generation);
        (!self.evicted.contains(&id.index)).then(|| name.into())
    }

    fn metric_name(&self, id: MetricId) -> Option<Arc<str>> {
        Some(format!("metric-{}-{}", id.slot(), id.generation()).into())
    }
}

/// Ids here are those there, moved by one.
impl Admission for Known {
    fn device(&mut self, there: DeviceId, name: &str) -> Option<DeviceId> {
        assert_eq!(name, format!("device-{}-{}", there.index, there.generation));
        self.admitted.push(name.into());
        Some(DeviceId { index: there.index + 1, generation: there.generation })
    }

    fn metric(&mut self, there: MetricId, name: &str) -> Option<MetricId> {
        assert_eq!(name, format!("metric-{}-{}", there.slot(), there.generation()));
        self.admitted.push(name.into());
        (there.slot() != 13).then(|| MetricId::new(there.slot() as u16 + 1, there.generation()))
    }
}

fn input(samples: &[(i64, Option<DeviceId>, Vec<Reading>)]) -> JudgedInput {
    let mut batch = Batch::default();
    for (timestamp_us, device, readings) in samples {
        batch.push(*timestamp_us, *device, readings);
    }
    JudgedInput { arrived_us: 77, batch, ..JudgedInput::default() }
}

fn samples() -> impl Strategy<Value = Vec<(i64, Option<DeviceId>, Vec<Reading>)>> {
    // The generation follows from the slot: a chunk has one device a slot.
    let device = proptest::option::of(
        (0_u32..40).prop_map(|index| DeviceId { index, generation: index / 7 }),
    );
    let reading = (0_u16..12, -1e15..1e15_f64)
        .prop_map(|(slot, value)| Reading { metric: MetricId::new(slot, slot / 3), value });
    let sample = (any::<i64>(), device, proptest::collection::vec(reading, 1..6));
    proptest::collection::vec(sample, 1..20)
}

/// A sample, with its values by their bits.
type Exact = (i64, Option<DeviceId>, Vec<(MetricId, u64)>);

fn exact(batch: &Batch) -> Vec<Exact> {
    batch
        .iter()
        .map(|(sample, readings)| {
            let readings = readings.iter().map(|r| (r.metric, r.value.to_bits()));
            (sample.timestamp_us, sample.device, readings.collect())
        })
        .collect()
}

proptest! {
    // Each decodes every prefix of its records.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_round_trip_and_no_prefix_does(chunks in proptest::collection::vec(samples(), 1..6)) {
        let (mut encoder, mut decoder) = (RecordEncoder::default(), RecordDecoder::default());
        let mut known = Known::default();
        let (mut record, mut batch) = (Vec::new(), Batch::default());
        for chunk in &chunks {
            encoder.encode(&input(chunk), &known, &mut record).expect("all names are known");
            prop_assert_eq!(decoder.decode(&record, &mut known, &mut batch), Some(77));
            let expected = input(&chunk
                .iter()
                .map(|(timestamp_us, device, readings)| {
                    let device = device.map(|id| DeviceId { index: id.index + 1, ..id });
                    let metric = |id: MetricId| MetricId::new(id.slot() as u16 + 1, id.generation());
                    let readings =
                        readings.iter().map(|r| Reading { metric: metric(r.metric), ..*r });
                    (*timestamp_us, device, readings.collect())
                })
                .collect::<Vec<_>>());
            prop_assert_eq!(exact(&batch), exact(&expected.batch));
            for length in 0..record.len() {
                let mut other = RecordDecoder::default();
                prop_assert_eq!(other.decode(&record[..length], &mut known, &mut batch), None);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, is_chunk: bool) {
        if is_chunk && !bytes.is_empty() {
            bytes[0] = CHUNK;
        }
        struct All;
        impl Admission for All {
            fn device(&mut self, there: DeviceId, _: &str) -> Option<DeviceId> {
                Some(there)
            }
            fn metric(&mut self, there: MetricId, _: &str) -> Option<MetricId> {
                Some(there)
            }
        }
        RecordDecoder::default().decode(&bytes, &mut All, &mut Batch::default());
    }
}

fn one(index: u32, generation: u32, slot: u16) -> JudgedInput {
    let reading = Reading { metric: MetricId::new(slot, 0), value: 1.0 };
    input(&[(1, Some(DeviceId { index, generation }), vec![reading])])
}

#[test]
fn a_segment_says_each_name_once_and_a_new_occupant_again() {
    let (mut encoder, mut decoder) = (RecordEncoder::default(), RecordDecoder::default());
    let mut known = Known::default();
    let (mut record, mut batch) = (Vec::new(), Batch::default());
    let mut said = |encoder: &mut RecordEncoder, index, generation| {
        let mut known = Known::default();
        encoder.encode(&one(index, generation, 4), &known, &mut record).expect("known");
        decoder.decode(&record, &mut known, &mut batch).expect("it is whole");
        known.admitted
    };
    assert_eq!(said(&mut encoder, 3, 0), ["device-3-0", "metric-4-0"]);
    assert_eq!(said(&mut encoder, 3, 0), [""; 0]);
    assert_eq!(said(&mut encoder, 3, 1), ["device-3-1"]);
    encoder.begin_segment();
    assert_eq!(said(&mut encoder, 3, 1), ["device-3-1", "metric-4-0"]);
    known.evicted.push(9);
    assert_eq!(encoder.encode(&one(9, 0, 4), &known, &mut Vec::new()), Err(Unnamed));
}

#[test]
fn a_value_without_room_for_its_metric_is_left_out() {
    let (mut encoder, mut decoder) = (RecordEncoder::default(), RecordDecoder::default());
    let (mut record, mut batch) = (Vec::new(), Batch::default());
    encoder.encode(&one(1, 0, 13), &Known::default(), &mut record).expect("known");
    assert_eq!(decoder.decode(&record, &mut Known::default(), &mut batch), Some(77));
    assert!(batch.is_empty());
}

#[test]
fn names_of_records_that_a_snapshot_has_replaced_are_learned() {
    let (mut encoder, mut decoder) = (RecordEncoder::default(), RecordDecoder::default());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    encoder.encode(&one(1, 0, 2), &Known::default(), &mut first).expect("known");
    encoder.encode(&one(1, 0, 2), &Known::default(), &mut second).expect("known");
    let mut batch = Batch::default();
    let nameless = RecordDecoder::default().decode(&second, &mut Known::default(), &mut batch);
    assert_eq!(nameless, None);
    decoder.learn(&first);
    assert_eq!(decoder.decode(&second, &mut Known::default(), &mut batch), Some(77));
    assert_eq!(batch.len(), 1);
}
