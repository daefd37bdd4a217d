use sigmad_incidents::book::BookSettings;
use sigmad_incidents::event::Event;
use sigmad_incidents::list::ListQuery;
use sigmad_state::{Faults, SimulatedDisk};

use super::*;
use crate::incidents::thread::running;
use crate::registry::Registry;

fn read(disk: &SimulatedDisk) -> Kept {
    Kept::read(Arc::new(disk.clone()), BookSettings::default(), 1)
}

fn silence(device: &str) -> Event {
    let (since_us, at_us) = (5, 30_000_000);
    Event::Silence { device: device.into(), since_us, at_us, usual_interval_us: 1 }
}

/// Runs a keeper until `meanwhile` is done.
fn keep(
    disk: &SimulatedDisk,
    targets: &[&str],
    meanwhile: impl FnOnce(&IncidentsAsker, &Notes, &dyn Fn(Event)),
) -> Arc<KeeperCounters> {
    let (asker, events) = running(Arc::new(Registry::new(1_000, 3_600)));
    let counters = Arc::<KeeperCounters>::default();
    let targets: Vec<_> = targets.iter().map(|&target| target.to_owned()).collect();
    let clock = Clock::new(sigmad_clock::start());
    let keeper = Keeper::new(read(disk), &targets, asker.clone(), clock, counters.clone());
    let (keeper, handle) = keeper.expect("the incidents run");
    let thread = std::thread::spawn(move || keeper.run());
    meanwhile(&asker, &handle.notes, &|event| events.send(event));
    drop(handle);
    thread.join().expect("no panic");
    counters
}

#[test]
fn what_is_known_at_the_end_is_kept_with_the_notes() {
    let disk = SimulatedDisk::new(1);
    let counters = keep(&disk, &["a", "b"], |_, notes, send| {
        assert_eq!(notes.of("a"), None);
        send(silence("edge"));
        notes.keep("a", vec![1]);
        notes.keep("b", vec![2]);
        notes.keep("a", vec![3]);
    });
    assert!(counters.written_total.get() > 0 && counters.failed_total.get() == 0);
    let kept = read(&disk);
    let book = kept.book.expect("it was written");
    let found = book.list(&ListQuery { limit: 9, ..ListQuery::default() }).incidents;
    assert_eq!(found[0].members[0].device.as_deref(), Some("edge"));
    assert_eq!(kept.damage, None);
    // Of a target that is no more nothing is kept.
    keep(&disk, &["a"], |_, notes, _| {
        assert_eq!((notes.of("a"), notes.of("b")), (Some(vec![3]), None));
    });
    assert_eq!(read(&disk).notes.len(), 1);
}

/// A keeper that is asked by [`KeepNow`] writes then, and not when its time has come.
#[test]
fn who_waits_finds_it_durable() {
    let disk = SimulatedDisk::new(1);
    let (asker, events) = running(Arc::new(Registry::new(1_000, 3_600)));
    let kept = read(&disk);
    let keep_now = kept.keep_now();
    let clock = Clock::new(sigmad_clock::start());
    let keeper = Keeper::new(kept, &[], asker, clock, Arc::default());
    let (keeper, handle) = keeper.expect("the incidents run");
    let thread = std::thread::spawn(move || keeper.run());
    for device in ["a", "b", "c"] {
        events.send(silence(device));
        keep_now.wait();
        let copy = SimulatedDisk::new(1);
        copy.set_content("incidents", disk.content("incidents").expect("it was written"));
        let book = read(&copy).book.expect("it was written");
        let found = book.list(&ListQuery { limit: 9, ..ListQuery::default() }).incidents;
        let mut members = found.iter().flat_map(|incident| &incident.members);
        assert!(members.any(|member| member.device.as_deref() == Some(device)), "{device}");
    }
    drop(handle);
    thread.join().expect("no panic");
    keep_now.wait();
}

#[test]
fn a_disk_that_refuses_keeps_what_was_there() {
    let disk = SimulatedDisk::new(1);
    keep(&disk, &[], |_, _, send| send(silence("edge")));
    let before = disk.content("incidents");
    disk.set_faults(Faults { is_read_only: true, ..Faults::default() });
    let counters = keep(&disk, &[], |_, _, send| send(silence("other")));
    assert!(counters.failed_total.get() > 0 && counters.written_total.get() == 0);
    assert_eq!(disk.content("incidents"), before);
}

#[test]
fn what_is_damaged_is_named_and_what_is_newer_is_set_aside() {
    let disk = SimulatedDisk::new(1);
    let document = || Document::incidents(Arc::new(disk.clone())).0;
    for (bytes, kind) in [
        (&b""[..], DamageKind::BadChecksum),
        (&[1, 0, 0, 0, 0, 0, 9, 9][..], DamageKind::OtherVersion),
        (&[9, 9, 7][..], DamageKind::OtherVersion),
    ] {
        document().write(bytes).expect("the disk works");
        let kept = read(&disk);
        assert!(kept.book.is_none());
        assert_eq!(kept.damage.map(|damage| damage.kind), Some(kind), "{bytes:?}");
    }
    let aside = format!("incidents.version-{}", 0x0909);
    assert!(disk.content(&aside).is_some() && disk.content("incidents").is_none());
    assert!(read(&disk).damage.is_none(), "the next start has none");
}
