use super::*;
use crate::incident::{Ack, State};
use crate::list::ListQuery;

const S: i64 = 1_000_000;

fn deviation(device: &str, at_s: i64) -> Event {
    Event::Deviation {
        device: Some(device.into()),
        series: "rps".into(),
        at_us: at_s * S,
        value: 900.0,
        usual: 120.0,
        low: 110.0,
        high: 130.0,
        score: 1.5,
    }
}

fn recovery(device: &str, at_s: i64) -> Event {
    Event::Recovery { device: Some(device.into()), series: "rps".into(), at_us: at_s * S }
}

fn silence(device: &str, at_s: i64) -> Event {
    let (since_us, at_us) = (at_s * S, at_s * S);
    Event::Silence { device: device.into(), since_us, at_us, usual_interval_us: S }
}

fn rule() -> SilenceRule {
    SilenceRule {
        id: SilenceRule::new_id(5, 1),
        device: Some("other-*".into()),
        series: None,
        starts_at_us: 0,
        ends_at_us: 10_000 * S,
        created_by: "ann".into(),
        comment: "maintenance".into(),
    }
}

/// An incident that is resolved, one that is known of, a storm of silences, and a silence.
fn book() -> Book {
    let mut book = Book::default();
    [deviation("a", 100), recovery("a", 200), deviation("b", 4_000)]
        .iter()
        .for_each(|event| book.apply(event));
    (0..8).for_each(|n| book.apply(&silence(&format!("{n}x"), 8_000 + n)));
    let b = all(&book).into_iter().find(|one| one.opened_at_us == 4_000 * S).expect("there");
    let ack = Ack { at_us: 8_100 * S, by: Some("mia".into()), comment: None };
    book.acknowledge(b.id, ack).expect("open");
    assert!(book.add_rule(rule(), 8_200 * S));
    book
}

fn all(book: &Book) -> Vec<Incident> {
    book.list(&ListQuery { limit: 9_999, ..ListQuery::default() }).incidents
}

fn written(book: &Book, now_s: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    book.write(now_s * S, &mut bytes);
    bytes
}

fn read(bytes: &[u8], shards: usize) -> Book {
    Book::read(BookSettings::default(), shards, bytes).expect("a book")
}

fn restored(standing: Vec<Event>, at_s: i64) -> Event {
    Event::Restored { standing, at_us: at_s * S }
}

/// What is wrong in [`book`].
fn standing() -> Vec<Event> {
    (0..8).map(|n| silence(&format!("{n}x"), 8_000 + n)).chain([deviation("b", 4_000)]).collect()
}

#[test]
fn a_book_that_was_read_is_the_one_that_was_written() {
    let book = book();
    let bytes = written(&book, 9_000);
    let mut again = read(&bytes, 1);
    assert_eq!((all(&again), again.rules()), (all(&book), book.rules()));
    assert_eq!(again.changes_since(0, 99), book.changes_since(0, 99));
    assert_eq!(written(&again, 9_000), bytes);
    let merged = again.changes_since(0, 99).iter().filter(|one| one.merged_into.is_some()).count();
    assert_eq!((merged, again.silent().len()), (3, 8));
    // Ids, revisions and grouping go on.
    let mut book = book;
    again.apply(&restored(standing(), 9_001));
    for book in [&mut book, &mut again] {
        book.apply(&deviation("c", 9_002));
        book.apply(&silence("8x", 9_003));
        book.apply(&recovery("b", 9_004));
    }
    assert_eq!(all(&again), all(&book));
    assert_eq!(again.next_rule_id(5), book.next_rule_id(5));
}

#[test]
fn every_prefix_and_a_newer_version_are_no_book() {
    let bytes = written(&book(), 9_000);
    let read = |bytes: &[u8]| Book::read(BookSettings::default(), 1, bytes).map(|_| ());
    for length in 0..bytes.len() {
        assert_eq!(read(&bytes[..length]), Err(BookError::Broken), "{length}");
    }
    let newer = [&(form::VERSION + 1).to_le_bytes(), &bytes[2..]].concat();
    assert_eq!(read(&newer), Err(BookError::Newer(form::VERSION + 1)));
}

#[test]
fn what_is_judged_again_is_known_and_what_ended_meanwhile_is_over() {
    let mut book = read(&written(&book(), 9_000), 2);
    let before = all(&book);
    // The journal once more.
    for event in [deviation("a", 100), recovery("a", 200), deviation("b", 4_000)] {
        book.apply(&event);
    }
    assert_eq!(all(&book), before);
    // What came after the book was written is news.
    book.apply(&deviation("d", 9_100));
    let mut of_first = standing();
    of_first.retain(|event| *event != deviation("b", 4_000));
    // On its way when the book was written; and one that the book knows to be over.
    of_first.extend([deviation("e", 8_995), deviation("a", 100)]);
    book.apply(&restored(of_first, 9_200));
    // A shard goes on before the other one has said what is wrong.
    book.apply(&silence("9x", 9_300));
    book.apply(&restored(vec![deviation("d", 9_100)], 9_400));
    let is_open = |name: &str| {
        let has = |one: &Incident| {
            one.members.iter().any(|m| m.device.as_deref() == Some(name) && m.ended_at_us.is_none())
        };
        all(&book).iter().any(|one| one.state != State::Resolved && has(one))
    };
    let open = ["a", "b", "d", "e", "0x", "7x", "9x"].map(is_open);
    assert_eq!(open, [false, false, true, true, true, true, true]);
    assert_eq!(all(&book).len(), before.len() + 3);
}

#[test]
fn a_book_that_waits_for_no_shard_takes_each_event() {
    let mut book = read(&written(&book(), 9_000), 0);
    let before = all(&book).len();
    book.apply(&deviation("z", 8_900));
    assert_eq!(all(&book).len(), before + 1);
}

#[test]
fn without_a_book_what_is_wrong_begins() {
    let mut book = Book::default();
    book.apply(&restored(vec![deviation("b", 4_000), silence("c", 100)], 9_000));
    assert_eq!(all(&book).len(), 2);
}

/// Devices that begin and end to be wrong at random, in order.
struct Story {
    random: u64,
    events: Vec<Event>,
    /// Devices that are wrong, with their onsets.
    wrong: BTreeMap<u64, Event>,
    now_s: i64,
}

impl Story {
    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % end
    }

    fn tell(&mut self, events: usize) {
        for _ in 0..events {
            self.now_s += 1 + self.below(40) as i64;
            let device = self.below(12);
            let name = format!("edge-{device}");
            let event = match self.wrong.remove(&device) {
                Some(Event::Silence { .. }) => {
                    Event::Return { device: name.into(), at_us: self.now_s * S }
                }
                Some(_) => recovery(&name, self.now_s),
                None => {
                    let onset = match device % 3 {
                        0 => silence(&name, self.now_s),
                        _ => deviation(&name, self.now_s),
                    };
                    self.wrong.insert(device, onset.clone());
                    onset
                }
            };
            self.events.push(event);
        }
    }
}

fn open_members(book: &Book) -> Vec<(Subject, IncidentId)> {
    let open = book.members.iter().filter(|(_, place)| place.is_open);
    open.map(|(subject, place)| (subject.clone(), place.id)).collect()
}

/// Whatever was on its way when the book was written, and wherever the journal begins: open is what is wrong, and what
/// was open before has the id that it had.
#[test]
fn a_restart_at_any_moment_loses_no_end_and_opens_nothing_twice() {
    for seed in 0..400 {
        let (events, wrong) = Default::default();
        let mut story = Story { random: seed, events, wrong, now_s: 1_000 };
        story.tell(60);
        let (count, lost) = (story.events.len(), story.below(3) as usize);
        let mut book = Book::default();
        story.events[..count - lost].iter().for_each(|event| book.apply(event));
        let known = open_members(&book);
        let written_s = story.events[count - 1].at_us() / S;
        let bytes = written(&book, written_s);
        // What follows is in the journal, as is a part of what was before.
        let begins = story.below(count as u64) as usize;
        let more = story.below(20) as usize;
        story.tell(more);
        let mut book = read(&bytes, 1);
        story.events[begins..].iter().for_each(|event| book.apply(event));
        let standing: Vec<Event> = story.wrong.values().cloned().collect();
        let subjects: BTreeSet<Subject> = standing
            .iter()
            .map(|event| {
                let found = member(event);
                (found.device, found.series)
            })
            .collect();
        book.apply(&restored(standing, story.now_s));
        let open = open_members(&book);
        // An onset that was lost and long before the book was written is one that the book had ended itself.
        let lost: BTreeSet<_> = story.events[count - lost..count]
            .iter()
            .filter(|event| event.at_us() <= written_s * S - ON_THE_WAY_US)
            .map(|event| format!("{event:?}"))
            .collect();
        let found: BTreeSet<Subject> = open.iter().map(|(subject, _)| subject.clone()).collect();
        assert!(found.is_subset(&subjects), "seed {seed}: {found:?} {subjects:?}");
        assert!(lost.len() + found.len() >= subjects.len(), "seed {seed}: {found:?} {subjects:?}");
        for (subject, id) in open {
            let before = known.iter().find(|(known, _)| *known == subject).map(|(_, id)| *id);
            let began_us = story.wrong.values().map(|event| (member(event).device, event.at_us()));
            let began_us = began_us.filter(|(device, _)| *device == subject.0).map(|one| one.1);
            // Still the same onset: the same incident, unless it went into another one.
            if before.is_some() && began_us.max() <= Some(written_s * S) {
                let went_to = |id| {
                    book.changes_since(0, 9_999)
                        .iter()
                        .any(|one| one.id == id && one.merged_into.is_some())
                };
                assert!(
                    before == Some(id) || before.is_some_and(went_to),
                    "seed {seed}: {subject:?}"
                );
            }
        }
    }
}
