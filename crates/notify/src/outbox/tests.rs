use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::message::notification_id;
use crate::testing::{at_s, critical, incident, with_state};

const FAILED: Outcome = Outcome::Failed { retry_after: None };

fn outbox() -> Outbox {
    Outbox::new(at_s(0).wall_us)
}

fn update(outbox: &mut Outbox, incident: Incident, second: u64) {
    assert_eq!(outbox.update(&Arc::new(incident), at_s(second)), 0);
}

/// What the target takes until nothing is due.
fn taken(outbox: &mut Outbox, second: u64) -> Vec<(u128, Change)> {
    assert_eq!(outbox.gather(at_s(second)), 0);
    let mut changes = Vec::new();
    while let Some((incident, change)) = outbox.next() {
        // The counter of the id is the number that the test gave.
        changes.push((u128::from(incident.revision), change));
        outbox.record(Outcome::Delivered);
    }
    changes
}

#[test]
fn an_incident_is_told_when_it_opens_grows_worse_and_ends() {
    let mut outbox = outbox();
    update(&mut outbox, incident(1), 0);
    assert_eq!(outbox.wait_ms(at_s(4)), Some(6_000));
    assert_eq!(taken(&mut outbox, 9), []);
    assert_eq!(taken(&mut outbox, 10), [(1, Change::Opened)]);
    update(&mut outbox, incident(1), 11);
    update(&mut outbox, with_state(incident(1), State::Acknowledged, at_s(12)), 12);
    assert_eq!(taken(&mut outbox, 12), []);
    update(&mut outbox, critical(incident(1)), 13);
    update(&mut outbox, critical(incident(1)), 14);
    assert_eq!(taken(&mut outbox, 14), [(1, Change::Worse)]);
    update(&mut outbox, with_state(critical(incident(1)), State::Resolved, at_s(15)), 15);
    assert_eq!(taken(&mut outbox, 15), [(1, Change::Resolved)]);
    assert_eq!((outbox.wait_ms(at_s(16)), outbox.incidents.len()), (None, 0));
}

#[test]
fn what_is_worse_before_it_is_told_is_told_once() {
    let mut outbox = outbox();
    update(&mut outbox, incident(1), 0);
    update(&mut outbox, critical(incident(1)), 1);
    assert_eq!(taken(&mut outbox, 10), [(1, Change::Opened)]);
    update(&mut outbox, critical(incident(1)), 11);
    assert_eq!(taken(&mut outbox, 11), []);
}

#[test]
fn a_short_incident_is_told_in_order() {
    let mut outbox = outbox();
    update(&mut outbox, incident(1), 0);
    update(&mut outbox, with_state(incident(1), State::Resolved, at_s(1)), 1);
    assert_eq!(taken(&mut outbox, 9), []);
    assert_eq!(taken(&mut outbox, 10), [(1, Change::Opened), (1, Change::Resolved)]);
    // Opened and resolved between two looks at the book.
    update(&mut outbox, with_state(incident(2), State::Resolved, at_s(11)), 11);
    assert_eq!(taken(&mut outbox, 11), [(2, Change::Opened), (2, Change::Resolved)]);
}

#[test]
fn what_ended_before_the_start_is_no_news() {
    let mut outbox = Outbox::new(at_s(50).wall_us);
    update(&mut outbox, with_state(incident(1), State::Resolved, at_s(49)), 60);
    assert_eq!(outbox.wait_ms(at_s(60)), None);
}

#[test]
fn a_silenced_incident_is_not_told() {
    let mut outbox = outbox();
    for state in [State::Silenced, State::Open, State::Silenced] {
        update(&mut outbox, with_state(incident(1), state, at_s(1)), 1);
    }
    update(&mut outbox, with_state(incident(2), State::Silenced, at_s(1)), 1);
    assert_eq!(taken(&mut outbox, 100), []);
    // The silence ends first.
    update(&mut outbox, incident(2), 200);
    assert_eq!(taken(&mut outbox, 210), [(2, Change::Opened)]);
    // Whoever was told of the opening is told of the end.
    for state in [State::Silenced, State::Resolved] {
        update(&mut outbox, with_state(critical(incident(2)), state, at_s(220)), 220);
    }
    assert_eq!(taken(&mut outbox, 220), [(2, Change::Resolved)]);
}

#[test]
fn a_target_that_is_away_for_long_loses_the_oldest_messages_and_they_are_counted() {
    let mut outbox = outbox();
    let count = QUEUE_MAX as u32 + 10;
    for number in 0..count {
        update(&mut outbox, incident(number), 0);
    }
    assert_eq!(outbox.gather(at_s(10)), 10);
    outbox.record(FAILED);
    assert_eq!(outbox.waiting(), QUEUE_MAX as u64);
    let told = taken(&mut outbox, 11);
    assert_eq!((told.len(), told[0]), (QUEUE_MAX, (10, Change::Opened)));

    let mut outbox = self::outbox();
    for number in 0..INCIDENTS_MAX as u32 + 10 {
        outbox.update(&Arc::new(incident(number)), at_s(0));
    }
    assert_eq!(outbox.incidents.len(), INCIDENTS_MAX);
}

#[test]
fn the_part_of_another_incident_ends_for_those_who_know_of_it() {
    let mut outbox = outbox();
    let merged = |number, second| {
        let mut merged = with_state(incident(number), State::Resolved, at_s(second));
        merged.merged_into = Some(incident(0).id);
        merged
    };
    for number in [1, 2] {
        update(&mut outbox, incident(number), 0);
    }
    update(&mut outbox, merged(2, 1), 1);
    update(&mut outbox, merged(3, 1), 1);
    assert_eq!(taken(&mut outbox, 10), [(1, Change::Opened)]);
    update(&mut outbox, merged(1, 11), 11);
    assert_eq!(taken(&mut outbox, 11), [(1, Change::Resolved)]);
    assert_eq!((outbox.wait_ms(at_s(100)), outbox.incidents.len()), (None, 0));
}

#[test]
fn a_restart_repeats_nothing_and_forgets_nothing() {
    let mut before = outbox();
    for number in 1..=6 {
        update(&mut before, incident(number), 0);
    }
    assert_eq!(before.gather(at_s(10)), 0);
    for _ in 1..=5 {
        before.record(Outcome::Delivered);
    }
    // 6 waits, 7 gathers, 8 was told to be over, and 9 is silenced.
    update(&mut before, incident(7), 11);
    let mut silenced = with_state(incident(9), State::Silenced, at_s(12));
    update(&mut before, silenced.clone(), 12);
    assert_eq!(before.told().len(), 7);

    let mut again = Outbox::new(at_s(100).wall_us);
    again.go_on(12, before.told());
    assert_eq!(again.told(), before.told());
    let resolved = |number, second| with_state(incident(number), State::Resolved, at_s(second));
    let since = |mut incident: Incident| {
        // A change of the book that nobody had seen.
        incident.revision += 100;
        incident
    };
    update(&mut again, incident(1), 100);
    update(&mut again, since(critical(incident(2))), 100);
    update(&mut again, since(resolved(3, 20)), 100);
    update(&mut again, since(with_state(incident(4), State::Silenced, at_s(20))), 100);
    // 5 is in the book no more.
    update(&mut again, incident(6), 100);
    update(&mut again, since(resolved(7, 20)), 100);
    update(&mut again, resolved(8, 11), 100);
    silenced.state = State::Open;
    update(&mut again, since(silenced), 100);
    update(&mut again, since(resolved(10, 20)), 100);
    again.has_looked();
    let told = |number: u128, change| (number, change);
    assert_eq!(
        taken(&mut again, 110),
        [
            told(102, Change::Worse),
            told(103, Change::Resolved),
            told(107, Change::Opened),
            told(107, Change::Resolved),
            told(110, Change::Opened),
            told(110, Change::Resolved),
            told(6, Change::Opened),
            told(109, Change::Opened),
        ]
    );
    assert_eq!(again.told().len(), 5, "1, 2, 4, 6 and 9");
    update(&mut again, since(resolved(1, 120)), 120);
    assert_eq!(taken(&mut again, 120), [(101, Change::Resolved)]);
}

/// One step of a history.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Incident number, new severity and state.
    Change(u32, bool, State),
    /// So many seconds pass.
    Pass(u64),
    /// The next message is sent: did the target get it, and did its answer come?
    Send { is_received: bool, is_answered: bool },
    /// The message is sent, and the process dies before it records the answer.
    Die,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let state = prop_oneof![
        6 => Just(State::Open),
        2 => Just(State::Acknowledged),
        3 => Just(State::Resolved),
    ];
    let step = prop_oneof![
        4 => (0..5u32, any::<bool>(), state)
            .prop_map(|(number, is_critical, state)| Step::Change(number, is_critical, state)),
        2 => (0..12u64).prop_map(Step::Pass),
        4 => any::<(bool, bool)>()
            .prop_map(|(is_received, is_answered)| Step::Send { is_received, is_answered }),
        1 => Just(Step::Die),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn each_change_is_told_at_least_once_and_repeated_only_after_a_lost_answer(steps in steps()) {
        let mut outbox = outbox();
        let mut second = 0;
        let mut present = BTreeMap::<u32, Incident>::new();
        let mut received = BTreeMap::<String, u32>::new();
        // Answers that were lost, by id: each allows one repetition.
        let mut lost = BTreeMap::<String, u32>::new();
        for step in steps {
            outbox.gather(at_s(second));
            match step {
                Step::Change(number, is_critical, state) => {
                    let before = present.get(&number);
                    // Nothing follows a resolution, and no incident grows better.
                    if before.is_some_and(|before| before.state == State::Resolved) {
                        continue;
                    }
                    let was_critical = before.is_some_and(|it| it.severity == Severity::Critical);
                    let mut next = with_state(incident(number), state, at_s(second));
                    if is_critical || was_critical {
                        next = critical(next);
                    }
                    present.insert(number, next.clone());
                    outbox.update(&Arc::new(next), at_s(second));
                }
                Step::Pass(seconds) => second += seconds,
                Step::Send { .. } | Step::Die => {
                    let before = outbox.clone();
                    let Some((incident, change)) = outbox.next() else { continue };
                    let id = notification_id(incident.id, change);
                    let (is_received, is_answered) = match step {
                        Step::Send { is_received, is_answered } => (is_received, is_answered),
                        _ => (true, false),
                    };
                    if is_received {
                        *received.entry(id.clone()).or_default() += 1;
                    }
                    match (is_received && is_answered, step) {
                        (true, _) => outbox.record(Outcome::Delivered),
                        (false, Step::Die) => outbox = before,
                        (false, _) => outbox.record(FAILED),
                    }
                    if is_received && !is_answered {
                        *lost.entry(id).or_default() += 1;
                    }
                }
            }
        }
        outbox.end_gathering();
        while let Some((incident, change)) = outbox.next() {
            *received.entry(notification_id(incident.id, change)).or_default() += 1;
            outbox.record(Outcome::Delivered);
        }
        for incident in present.values() {
            let count = |change| received.get(&notification_id(incident.id, change)).copied();
            prop_assert!(count(Change::Opened) >= Some(1));
            prop_assert_eq!(count(Change::Resolved).is_some(), incident.state == State::Resolved);
        }
        for (id, count) in received {
            let allowed = 1 + lost.get(&id).copied().unwrap_or(0);
            prop_assert!(count <= allowed, "{} was told {} times", id, count);
        }
    }
}
