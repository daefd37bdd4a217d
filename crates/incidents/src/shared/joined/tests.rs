use super::*;
use crate::book::BookSettings;
use crate::incident::{Incident, State};
use crate::list::ListQuery;
use crate::shared::claims::{self, Claims};
use crate::tokens::FleetTokens;

const S: i64 = 1_000_000;
const SETTINGS: JoinSettings = JoinSettings { moved_us: 60 * S, idle_us: 3_600 * S };

fn joined() -> Joined {
    let mut book = Book::new(BookSettings::default());
    let mut fleet = FleetTokens::default();
    for site in 0..10 {
        (0..20).for_each(|n| fleet.add(&format!("site-{site}-edge-{n}")));
    }
    book.set_fleet(fleet);
    Joined::new(SETTINGS, book, Vec::new(), 0)
}

fn deviation(device: &str, at_us: i64, score: f64) -> Event {
    let (value, usual, low, high) = (9.0, 5.0, 4.0, 6.0);
    let (device, series) = (Some(device.into()), "rps".into());
    Event::Deviation { device, series, at_us, value, usual, low, high, score }
}

fn recovery(device: &str, at_us: i64) -> Event {
    Event::Recovery { device: Some(device.into()), series: "rps".into(), at_us }
}

/// Silent for ten seconds when it was noticed.
fn silence(device: &str, since_us: i64) -> Event {
    let at_us = since_us + 10 * S;
    Event::Silence { device: device.into(), since_us, at_us, usual_interval_us: S }
}

fn claims(events: &[Event]) -> Vec<Member> {
    let mut claims = Claims::default();
    events.iter().for_each(|event| claims.apply(event));
    // By the bytes, as another replica reads them.
    claims::read(&claims.written()).expect("it was written here")
}

fn hear(joined: &mut Joined, device: &str, replicas: &[(Replica, i64)]) {
    joined.heard_mut().set(Some(device.into()), replicas.to_vec());
}

fn in_state(joined: &Joined, state: State) -> Vec<Incident> {
    let query = ListQuery { limit: 1_000, state: Some(state), ..ListQuery::default() };
    joined.book().list(&query).incidents
}

fn open(joined: &Joined) -> Vec<Incident> {
    in_state(joined, State::Open)
}

#[test]
fn a_site_heard_by_two_replicas_is_one_incident_in_any_order() {
    let of = |from: usize| -> Vec<Member> {
        let devices = (from..20).step_by(2);
        claims(
            &devices
                .map(|n| silence(&format!("site-3-edge-{n}"), n as i64 * S))
                .collect::<Vec<_>>(),
        )
    };
    let mut books = Vec::new();
    for order in [[0, 1], [1, 0]] {
        let mut joined = joined();
        for replica in order {
            joined.state(replica as Replica, of(replica));
        }
        for n in 0..20 {
            hear(&mut joined, &format!("site-3-edge-{n}"), &[(n % 2, n as i64 * S)]);
        }
        joined.settle(40 * S, None);
        let open = open(&joined);
        assert_eq!((open.len(), open[0].member_count), (1, 20), "{open:#?}");
        assert_eq!(open[0].site.as_deref(), Some("site-3"));
        books.push(open);
    }
    assert_eq!(books[0], books[1]);
}

#[test]
fn a_device_that_any_replica_hears_is_not_silent() {
    let mut joined = joined();
    joined.state(1, claims(&[silence("a", 100 * S)]));
    assert_eq!(joined.to_ask(9), [Some("a".into())]);
    joined.settle(111 * S, None);
    assert!(open(&joined).is_empty(), "not before it is known who hears it");
    hear(&mut joined, "a", &[(1, 100 * S), (2, 108 * S)]);
    joined.settle(111 * S, None);
    assert!(open(&joined).is_empty(), "another one hears it");
    // Neither does, for as long as it was silent when that was noticed.
    joined.settle(118 * S, None);
    assert_eq!(open(&joined).len(), 1);
    hear(&mut joined, "a", &[(1, 100 * S), (2, 119 * S)]);
    joined.settle(120 * S, None);
    assert_eq!((open(&joined).len(), in_state(&joined, State::Resolved).len()), (0, 1));
    // The replica that heard it first will say for an hour that it is silent.
    joined.settle(121 * S, None);
    assert_eq!(in_state(&joined, State::Resolved).len(), 1);
    joined.settle(119 * S + 3_601 * S, None);
    assert!(open(&joined).is_empty(), "gone, and not silent");
}

#[test]
fn a_deviation_is_over_once_no_replica_claims_it() {
    let mut joined = joined();
    let begins = deviation("a", 10 * S, 1.5);
    joined.state(1, claims(std::slice::from_ref(&begins)));
    joined.state(2, claims(&[deviation("a", 12 * S, 2.5)]));
    joined.settle(13 * S, None);
    let first = open(&joined).remove(0);
    assert_eq!((first.member_count, first.score, first.started_at_us), (1, 2.5, 10 * S));
    joined.state(1, claims(&[begins.clone(), recovery("a", 20 * S)]));
    joined.settle(21 * S, None);
    assert_eq!(open(&joined).len(), 1, "the other one still says so");
    joined.state(2, Vec::new());
    joined.settle(22 * S, None);
    assert!(open(&joined).is_empty());
    // An end that was seen is not seen again.
    joined.state(1, claims(&[begins, recovery("a", 20 * S)]));
    joined.settle(23 * S, None);
    assert_eq!(in_state(&joined, State::Resolved).len(), 1);
}

#[test]
fn what_was_brief_is_opened_and_resolved() {
    let mut joined = joined();
    let events = [deviation("a", 10 * S, 1.5), recovery("a", 11 * S)];
    joined.state(1, claims(&events));
    joined.settle(12 * S, None);
    let resolved = in_state(&joined, State::Resolved);
    assert_eq!((resolved.len(), resolved[0].started_at_us), (1, 10 * S));
}

#[test]
fn another_holder_goes_on_with_the_same_incidents() {
    let mut before = joined();
    let begins = [deviation("a", 10 * S, 1.5), deviation("b", 400 * S, 1.5)];
    before.state(1, claims(&begins));
    before.settle(401 * S, None);
    let open_before = open(&before);
    assert_eq!(open_before.len(), 2);
    // The next one has what was written, and hears of the replica a little later.
    let mut after = Joined::new(SETTINGS, before.book().clone(), before.seen().collect(), 410 * S);
    after.settle(410 * S, None);
    assert_eq!(open(&after), open_before);
    let ended = [&begins[..], &[recovery("a", 405 * S)]].concat();
    after.state(1, claims(&ended));
    after.settle(411 * S, None);
    assert_eq!((open(&after).len(), open(&after)[0].id), (1, open_before[0].id));
    assert_eq!(in_state(&after, State::Resolved)[0].id, open_before[1].id);
}

#[test]
fn a_replica_that_has_ended_leaves_what_it_said_until_it_is_known_to_be_well() {
    let mut joined = joined();
    joined.state(1, claims(&[deviation("a", 10 * S, 1.5)]));
    joined.settle(11 * S, None);
    joined.leave(1, 20 * S);
    hear(&mut joined, "a", &[(1, 15 * S), (2, 70 * S)]);
    joined.settle(71 * S, None);
    assert_eq!(open(&joined).len(), 1, "the other one hears it since a moment");
    hear(&mut joined, "a", &[(1, 15 * S), (2, 76 * S)]);
    joined.settle(77 * S, None);
    assert!(open(&joined).is_empty());
    // Nobody hears it: it is gone after an hour.
    joined.state(1, claims(&[deviation("b", 80 * S, 1.5)]));
    joined.settle(81 * S, None);
    joined.leave(1, 82 * S);
    hear(&mut joined, "b", &[(1, 80 * S)]);
    joined.settle(3_600 * S, None);
    assert_eq!(open(&joined).len(), 1);
    joined.settle(3_681 * S, None);
    let gone = &in_state(&joined, State::Resolved)[0];
    assert!(gone.members[0].is_gone && joined.replicas().is_empty());
}

#[test]
fn without_the_others_one_replica_goes_by_itself() {
    let mut joined = joined();
    joined.state(1, claims(&[deviation("a", 10 * S, 1.5)]));
    joined.state(2, claims(&[deviation("b", 300 * S, 1.5)]));
    joined.settle(301 * S, Some(1));
    assert_eq!(open(&joined).len(), 1, "only what it says itself");
    joined.settle(302 * S, None);
    assert_eq!(open(&joined).len(), 2);
    joined.state(1, Vec::new());
    joined.settle(303 * S, Some(1));
    let left = open(&joined);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].suspect().device.as_deref(), Some("b"), "which is as it was");
    joined.state(1, claims(&[silence("c", 700 * S)]));
    joined.settle(711 * S, Some(1));
    assert_eq!(open(&joined).len(), 2, "nobody else is asked who hears it");
}

#[test]
fn a_device_that_was_deleted_is_not_claimed_again() {
    let mut joined = joined();
    let claimed = claims(&[deviation("a", 10 * S, 1.5), deviation("b", 900 * S, 1.5)]);
    joined.state(1, claimed.clone());
    joined.settle(901 * S, None);
    joined.forget(&"a".into(), 902 * S);
    assert_eq!(open(&joined).len(), 1);
    joined.state(1, claimed);
    joined.settle(903 * S, None);
    assert_eq!(open(&joined).len(), 1);
    joined.state(1, claims(&[deviation("a", 1_800 * S, 1.5), deviation("b", 900 * S, 1.5)]));
    joined.settle(1_801 * S, None);
    assert_eq!(open(&joined).len(), 2, "one of that name is heard again");
}

#[test]
fn devices_are_asked_about_in_turn() {
    let mut joined = joined();
    let names = ["a", "b", "c", "d", "e"];
    joined.state(1, claims(&names.map(|name| silence(name, 5 * S))));
    let mut asked = BTreeSet::new();
    for _ in 0..3 {
        for device in joined.to_ask(2) {
            let name = device.clone().expect("a device");
            hear(&mut joined, &name, &[(1, 5 * S)]);
            asked.insert(name);
        }
    }
    assert_eq!(asked.len(), 5);
    joined.state(1, Vec::new());
    joined.settle(20 * S, None);
    assert!(joined.to_ask(9).is_empty());
}
