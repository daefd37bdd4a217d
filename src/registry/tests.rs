//! Laws of the registry: what is admitted, evicted and shared.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const DEVICE_METRICS_MAX: usize = METRICS_MAX / 16;
const SHARES_FROM: usize = METRICS_MAX / 2;
const REPLICA_METRICS_MAX: usize = METRICS_MAX / 4 * 3;

fn admit(
    registry: &Registry,
    device: &str,
    metrics: &[&str],
    now_s: u32,
) -> Result<DeviceId, Full> {
    let mut named: Vec<_> = metrics.iter().map(|&name| (name, None)).collect();
    let admitted = registry.admit(NameSource::Client, Some(device), &mut named, now_s)?;
    assert!(
        named
            .iter()
            .all(|(name, id)| registry.metric_name(id.expect("given")).as_deref() == Some(*name))
    );
    Ok(admitted.expect("asked for a device").device)
}

#[test]
fn names_keep_their_ids() {
    let registry = Registry::new(100, 60);
    let mut metrics = ["rps", "cpu", "disk"].map(|name| (name, None));
    assert_eq!(registry.admit(NameSource::Client, None, &mut metrics, 0), Ok(None));
    let ids = metrics.map(|(_, id)| id.expect("given"));
    assert_eq!(ids, [MetricId::RPS, MetricId::CPU, MetricId::new(2, 0)]);
    let a = admit(&registry, "a", &["cpu", "rps"], 0).expect("room");
    let b = admit(&registry, "b", &["cpu", "net"], 0).expect("room");
    assert_ne!(a, b);
    assert_eq!(admit(&registry, "a", &["rps"], 5), Ok(a));
    assert_eq!(registry.find_device("a"), Some(a));
    assert_eq!(registry.device_name(b).as_deref(), Some("b"));
    assert_eq!(registry.find_device("c"), None);
    assert_eq!((registry.streams(), registry.devices(), registry.metrics()), (4, 2, 4));
}

#[test]
fn a_refused_sample_creates_nothing() {
    let registry = Registry::new(3, 60);
    admit(&registry, "a", &["cpu", "rps"], 0).expect("room");
    assert_eq!(admit(&registry, "b", &["cpu", "x"], 1), Err(Full::Streams));
    assert_eq!(admit(&registry, "a", &["x", "y"], 1), Err(Full::Streams));
    assert_eq!(admit(&registry, "b", &["x", "y", "z", "cpu"], 1), Err(Full::Streams));
    assert_eq!((registry.streams(), registry.devices(), registry.metrics()), (2, 1, 2));
    admit(&registry, "b", &["x"], 1).expect("room");
    assert_eq!((registry.streams(), registry.devices(), registry.metrics()), (3, 2, 3));
}

#[test]
fn silent_devices_are_evicted_and_others_stay() {
    let registry = Registry::new(4, 10);
    let ids = ["a", "b", "c", "d"].map(|name| admit(&registry, name, &["cpu"], 0).expect("room"));
    assert!(registry.touch(ids[0], 11));
    assert_eq!(admit(&registry, "e", &["cpu"], 10), Err(Full::Streams));
    let e = admit(&registry, "e", &["cpu", "rps"], 11).expect("b and c were silent");
    assert_eq!(registry.devices_evicted(), 2);
    assert_eq!(registry.find_device("b"), None);
    assert_eq!(registry.device_name(ids[1]), None);
    assert!(!registry.touch(ids[1], 11));
    assert!(!registry.touch(ids[2], 11));
    assert!(registry.touch(ids[0], 11));
    assert_eq!(registry.device_name(e).as_deref(), Some("e"));
    assert_eq!(e.generation, 1);
    assert_eq!((registry.streams(), registry.devices()), (4, 3));
    // One turn of the hand in a second, and a new one in the next.
    admit(&registry, "f", &["cpu"], 11).expect("d was silent");
    assert_eq!(admit(&registry, "g", &["cpu"], 11), Err(Full::Streams));
    assert_eq!(admit(&registry, "g", &["cpu"], 21), Err(Full::Streams));
    admit(&registry, "g", &["cpu"], 22).expect("all were silent");
}

#[test]
fn the_asking_device_does_not_evict_itself() {
    let registry = Registry::new(2, 10);
    let a = admit(&registry, "a", &["cpu"], 0).expect("room");
    admit(&registry, "b", &["cpu"], 0).expect("room");
    assert_eq!(admit(&registry, "a", &["rps"], 100), Ok(a));
    assert_eq!(registry.find_device("b"), None);
}

/// Sends metrics `from..to` of device `device`, and returns how many were admitted.
fn send(
    registry: &Registry,
    source: NameSource,
    device: Option<&str>,
    names: std::ops::Range<usize>,
    now_s: u32,
) -> usize {
    let names: Vec<String> = names.map(|name| format!("m{name}")).collect();
    let mut admitted = 0;
    for names in names.chunks(READINGS_MAX) {
        let mut metrics: Vec<_> = names.iter().map(|name| (&**name, None)).collect();
        let all = registry.admit(source, device, &mut metrics, now_s);
        let some = metrics.iter().filter(|(_, id)| id.is_some()).count();
        assert_eq!(all.is_err(), some == 0, "{all:?}");
        admitted += some;
    }
    admitted
}

#[test]
fn the_table_is_bounded_and_known_metrics_keep_their_place() {
    let registry = Registry::new(1 << 20, 60);
    for device in 0..16 {
        let from = device * DEVICE_METRICS_MAX;
        let name = format!("d{device}");
        send(&registry, NameSource::Client, Some(&name), from..from + DEVICE_METRICS_MAX, 1);
    }
    assert_eq!(registry.metrics(), METRICS_MAX);
    let mut metrics = [("new", None), ("m7", None), ("cpu", None)];
    let admitted = registry.admit(NameSource::Client, Some("late"), &mut metrics, 1);
    assert!(admitted.is_ok_and(|admitted| admitted.is_some()));
    let [new, known, cpu] = metrics.map(|(_, id)| id);
    assert_eq!((new, cpu), (None, Some(MetricId::CPU)));
    assert_eq!(known.and_then(|id| registry.metric_name(id)).as_deref(), Some("m7"));
    let alone = registry.admit(NameSource::Client, Some("late"), &mut [("new", None)], 1);
    assert_eq!(alone, Err(Full::Metrics));
    assert_eq!(registry.streams(), METRICS_MAX - 2 + 2);
}

#[test]
fn silent_metrics_make_room_and_take_their_streams_along() {
    let registry = Registry::new(1 << 20, 10);
    for device in 0..16 {
        let from = device * DEVICE_METRICS_MAX;
        let name = format!("d{device}");
        send(&registry, NameSource::Client, Some(&name), from..from + DEVICE_METRICS_MAX, 1);
    }
    let kept = registry.admit(NameSource::Client, None, &mut [("m9", None)], 11);
    assert_eq!(kept, Ok(None));
    let a = admit(&registry, "d0", &["cpu", "m5", "m5000"], 11).expect("known");
    let mut again = [("m5", None), ("new", None)];
    assert_eq!(registry.admit(NameSource::Client, None, &mut again, 11), Ok(None));
    assert_eq!(again[1].1, None, "nothing is silent for more than ten seconds");
    let old = again[0].1.expect("known");
    let mut new = [("new", None)];
    assert_eq!(registry.admit(NameSource::Client, None, &mut new, 12), Ok(None));
    // cpu, rps, m5, m9, m5000 and the new one are left. d0 has streams of four of them, d1 of one.
    assert_eq!((registry.metrics(), registry.streams(), registry.devices()), (6, 4 + 1, 2));
    assert_eq!(registry.metrics_evicted(), METRICS_MAX as u64 - 5);
    assert_eq!(registry.device_name(a).as_deref(), Some("d0"));
    assert!(registry.touch_metric(old, 12) && registry.metric_evictions() == 1);
    let new = new[0].1.expect("room");
    assert_eq!(new.generation(), 1);
    let before = MetricId::new(new.slot() as u16, 0);
    assert!(!registry.touch_metric(before, 12) && registry.metric_name(before).is_none());
    assert_eq!(registry.metric_name(new).as_deref(), Some("new"));
}

#[test]
fn no_device_holds_more_than_its_share_past_half() {
    let registry = Registry::new(1 << 20, 60);
    let client = NameSource::Client;
    let greedy = send(&registry, client, Some("greedy"), 0..METRICS_MAX, 1);
    assert_eq!(greedy, SHARES_FROM - 2);
    // Another device gets its share, however much the first one holds.
    let from = METRICS_MAX;
    let other = send(&registry, client, Some("other"), from..from + SHARES_FROM, 1);
    assert_eq!(other, DEVICE_METRICS_MAX);
    let nobody = send(&registry, client, None, 2 * from..2 * from + SHARES_FROM, 1);
    assert_eq!(nobody, DEVICE_METRICS_MAX);
    // What a second one sends counts against nobody.
    assert_eq!(send(&registry, client, Some("third"), from..from + 100, 1), 100);
    assert_eq!(send(&registry, client, Some("other"), 3 * from..3 * from + 200, 1), 100);
}

#[test]
fn what_replicas_send_leaves_room_and_shares_nothing() {
    let registry = Registry::new(1 << 20, 60);
    let replica = NameSource::Replica;
    assert_eq!(send(&registry, replica, None, 0..METRICS_MAX, 1), REPLICA_METRICS_MAX - 2);
    assert_eq!(send(&registry, replica, Some("a"), METRICS_MAX..METRICS_MAX + 9, 1), 0);
    let from = METRICS_MAX;
    let mut admitted = 0;
    for device in 0..8 {
        let from = from + device * DEVICE_METRICS_MAX;
        let name = format!("d{device}");
        admitted += send(
            &registry,
            NameSource::Client,
            Some(&name),
            from..from + DEVICE_METRICS_MAX + 50,
            1,
        );
    }
    assert_eq!(admitted, METRICS_MAX - REPLICA_METRICS_MAX);
    // A fleet that is read back is no second sender, and a device that sends a replica's name holds it.
    let registry = Registry::new(1 << 20, 60);
    let client = NameSource::Client;
    send(&registry, replica, None, 0..2_000, 1);
    send(&registry, client, Some("a"), 0..METRICS_MAX, 1);
    send(&registry, replica, None, 0..SHARES_FROM - 2, 1);
    assert_eq!(registry.metrics(), SHARES_FROM);
    assert_eq!(send(&registry, client, Some("a"), METRICS_MAX..METRICS_MAX + 9, 1), 0);
    assert_eq!(send(&registry, client, Some("b"), METRICS_MAX..METRICS_MAX + 9, 1), 9);
}

proptest! {
    /// Ids belong to their names as long as somebody sends them, whatever is evicted.
    #[test]
    fn an_id_never_stands_for_another_name(
        steps in proptest::collection::vec((0..4_usize, 0..40_usize, 1..6_usize, 0..3_u32), 1..200),
    ) {
        let registry = Registry::new(60, STREAM_IDLE_MIN_S);
        let mut now_s = 1;
        let mut given: HashMap<MetricId, String> = HashMap::new();
        for (device, from, count, seconds) in steps {
            now_s += seconds;
            let names: Vec<String> = (from..from + count).map(|name| format!("m{name}")).collect();
            let mut metrics: Vec<_> = names.iter().map(|name| (&**name, None)).collect();
            let device = format!("d{device}");
            let device = (from % 5 > 0).then_some(&*device);
            // Any metric that is wanted and silent goes: as if the table were full.
            registry.evict_metrics(&mut registry.names.write(), now_s);
            let admitted = registry.admit(NameSource::Client, device, &mut metrics, now_s);
            prop_assert!(admitted.is_ok() || admitted == Err(Full::Streams));
            for (name, id) in metrics {
                let Some(id) = id else { continue };
                let known = given.entry(id).or_insert_with(|| name.to_owned());
                prop_assert_eq!(&**known, name);
                let now = registry.metric_name(id);
                prop_assert_eq!(now.as_deref(), Some(name));
            }
            for (&id, name) in &given {
                let now = registry.metric_name(id);
                prop_assert!(now.is_none_or(|now| *now == **name));
            }
            prop_assert!(registry.streams() <= 60 && registry.devices() <= 4);
        }
    }
}

#[test]
fn a_device_that_is_forgotten_gives_its_streams_back() {
    let registry = Registry::new(2, 60);
    let admit = |name: &'static str| {
        registry.admit(NameSource::Client, Some(name), &mut [("cpu", None), ("rps", None)], 9)
    };
    let before = admit("a").expect("room").expect("a device").device;
    assert_eq!(admit("b"), Err(Full::Streams));
    assert!(!registry.forget_device("b") && registry.forget_device("a"));
    assert_eq!((registry.devices(), registry.streams(), registry.devices_evicted()), (0, 0, 0));
    assert!(!registry.touch(before, 9) && registry.device_name(before).is_none());
    let after = admit("b").expect("room").expect("a device").device;
    assert_eq!((after.index, registry.find_device("a")), (before.index, None));
}
