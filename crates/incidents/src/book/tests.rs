use super::*;
use crate::incident::MEMBERS_KEPT_MAX;
use crate::list::ListQuery;

const S: i64 = 1_000_000;

fn deviation(device: &str, series: &str, at_s: i64, score: f64) -> Event {
    Event::Deviation {
        device: (!device.is_empty()).then(|| device.into()),
        series: series.into(),
        at_us: at_s * S,
        value: 900.0,
        usual: 120.0,
        low: 110.0,
        high: 130.0,
        score,
    }
}

fn recovery(device: &str, series: &str, at_s: i64) -> Event {
    let device = (!device.is_empty()).then(|| device.into());
    Event::Recovery { device, series: series.into(), at_us: at_s * S }
}

fn silence(device: &str, since_s: i64, at_s: i64) -> Event {
    Event::Silence {
        device: device.into(),
        since_us: since_s * S,
        at_us: at_s * S,
        usual_interval_us: 10 * S,
    }
}

fn book_of(events: &[Event]) -> Book {
    let mut book = Book::default();
    let mut fleet = FleetTokens::default();
    for site in 0..10 {
        (0..20).for_each(|n| fleet.add(&format!("site-{site}-edge-{n:02}")));
    }
    book.set_fleet(fleet);
    events.iter().for_each(|event| book.apply(event));
    book
}

fn all(book: &Book) -> Vec<Incident> {
    book.list(&ListQuery { limit: 9_999, ..ListQuery::default() }).incidents
}

#[test]
fn one_stream_is_opened_worse_and_resolved() {
    let mut book = book_of(&[deviation("a", "rps", 100, 1.5)]);
    let opened = all(&book).pop().expect("one");
    assert_eq!((opened.state, opened.severity), (State::Open, Severity::Warning));
    assert_eq!((opened.started_at_us, opened.opened_at_us), (100 * S, 100 * S));
    assert_eq!(opened.title, "a rps is 900, usually 110 to 130");
    assert_eq!(opened.because, "one stream");

    book.apply(&deviation("a", "rps", 110, 1.2));
    assert_eq!(book.revision(), opened.revision, "not worse");
    book.apply(&deviation("a", "rps", 120, 3.0));
    let worse = &book.changes_since(opened.revision, 9)[0];
    assert_eq!((worse.id, worse.severity, worse.score), (opened.id, Severity::Critical, 3.0));
    assert_eq!((worse.started_at_us, worse.updated_at_us), (100 * S, 120 * S));
    assert_eq!(book.open_by_severity(), [0, 1]);

    book.apply(&recovery("a", "cpu", 130));
    book.apply(&recovery("a", "rps", 140));
    let resolved = book.get(opened.id).expect("kept");
    assert_eq!((resolved.state, resolved.resolved_at_us), (State::Resolved, Some(140 * S)));
    assert_eq!(resolved.suspect().ended_at_us, Some(140 * S));
    assert_eq!(book.open_by_severity(), [0, 0]);
    // The next is another one.
    book.apply(&deviation("a", "rps", 150, 1.5));
    assert_eq!(all(&book).len(), 2);
    assert_eq!((book.counts().opened, book.counts().resolved), ([2, 0, 0], 1));
}

#[test]
fn series_of_one_device_are_one_incident() {
    let book = book_of(&[
        deviation("a", "rps", 100, 1.5),
        deviation("a", "cpu", 190, 2.5),
        deviation("b", "cpu", 190, 2.5),
        recovery("a", "rps", 200),
    ]);
    let [b, a] = &all(&book)[..] else { panic!("{:?}", all(&book)) };
    assert_eq!((a.member_count, a.open_count, a.device_count, a.state), (2, 1, 1, State::Open));
    assert_eq!((&*a.title, &*a.because), ("a: 2 series, first rps", "one device"));
    assert_eq!(b.member_count, 1);
}

#[test]
fn one_or_two_devices_are_a_warning_and_three_are_critical() {
    let mut book = book_of(&[silence("site-3-edge-01", 100, 130)]);
    let severity = |book: &Book| all(book)[0].severity;
    assert_eq!(severity(&book), Severity::Warning);
    book.apply(&deviation("site-3-edge-01", "rps", 131, 1.5));
    let [one] = &all(&book)[..] else { panic!("{:?}", all(&book)) };
    assert_eq!(one.severity, Severity::Warning);
    assert_eq!(one.title, "site-3-edge-01 is silent, and 1 of its series deviate");
    // A site is critical with its third device, and stays so.
    let site = (1..=4).map(|n| silence(&format!("site-3-edge-0{n}"), 100, 130 + n));
    let mut book = book_of(&site.collect::<Vec<_>>());
    let all_of = |book: &Book| all(book).iter().map(|one| one.severity).collect::<Vec<_>>();
    assert_eq!(all_of(&book), [Severity::Critical]);
    for n in 1..=3 {
        book.apply(&Event::Return { device: format!("site-3-edge-0{n}").into(), at_us: 200 * S });
    }
    assert_eq!(all_of(&book), [Severity::Critical]);
    let deviates = |n: i64| deviation(&format!("site-3-edge-0{n}"), "rps", 130 + n, 1.1);
    let book = book_of(&(1..=2).map(deviates).collect::<Vec<_>>());
    assert!(all_of(&book).iter().all(|severity| *severity == Severity::Warning));
    let book = book_of(&(1..=4).map(deviates).collect::<Vec<_>>());
    assert_eq!(all_of(&book), [Severity::Critical], "devices that deviate");
}

#[test]
fn a_site_that_falls_silent_is_one_incident_that_ends_when_it_returns() {
    let mut book = book_of(&[]);
    for n in 0..20 {
        book.apply(&silence(&format!("site-3-edge-{n:02}"), 100 - n % 10, 130 + n / 4));
    }
    let open = |book: &Book| {
        let query = ListQuery { limit: 99, state: Some(State::Open), ..ListQuery::default() };
        book.list(&query).incidents
    };
    let [site] = &open(&book)[..] else { panic!("{:?}", open(&book)) };
    assert_eq!((site.kind, site.member_count, site.device_count), (Kind::Silence, 20, 20));
    assert_eq!(site.site.as_deref(), Some("site-3"));
    assert_eq!(site.title, "site-3: 20 of 20 devices silent within 9 s");
    assert_eq!(site.because, "their names share site-3, as 20 of 200 devices do");
    assert!(site.members.is_sorted_by_key(|member| member.started_at_us));
    // Those that came before it was clear are a part of it now, and not in the list.
    let mut every = book.changes_since(0, 99);
    every.retain(|one| one.merged_into == Some(site.id));
    assert_eq!(every.len() as u64, book.counts().merged);
    assert!(!every.is_empty() && all(&book).len() == 1);
    assert_eq!(book.get(every[0].id).map(|one| one.state), Some(State::Resolved));
    for n in 0..20 {
        assert_eq!(open(&book).len(), 1);
        book.apply(&Event::Return { device: format!("site-3-edge-{n:02}").into(), at_us: 300 * S });
    }
    assert!(open(&book).is_empty());
    assert!(book.members.is_empty());
}

#[test]
fn a_device_that_is_gone_ends_all_that_it_is_a_member_of() {
    let book = book_of(&[
        deviation("a", "rps", 100, 1.5),
        silence("a", 110, 140),
        Event::Gone { device: "a".into(), at_us: 4_000 * S },
    ]);
    let [a] = &all(&book)[..] else { panic!("{:?}", all(&book)) };
    assert_eq!((a.state, a.member_count), (State::Resolved, 2));
    assert!(a.members.iter().all(|member| member.is_gone));
}

#[test]
fn reception_is_an_incident_of_its_own() {
    let mut book = book_of(&[
        deviation("", "rps", 100, 1.5),
        Event::Reception { since_us: 100 * S, at_us: 130 * S },
    ]);
    assert_eq!(all(&book).len(), 2);
    assert_eq!(all(&book)[0].title, "nothing is received from anyone");
    assert_eq!(all(&book)[1].title, "fleet rps is 900, usually 110 to 130");
    book.apply(&Event::ReceptionBack { at_us: 200 * S });
    assert_eq!(all(&book)[0].state, State::Resolved);
}

#[test]
fn an_acknowledged_incident_stays_so_until_it_is_resolved() {
    let mut book = book_of(&[deviation("a", "rps", 100, 1.5)]);
    let id = all(&book)[0].id;
    let ack = Ack { at_us: 110 * S, by: Some("ann".into()), comment: None };
    let acknowledged = book.acknowledge(id, ack.clone()).expect("open");
    assert_eq!((acknowledged.state, &acknowledged.ack), (State::Acknowledged, &Some(ack.clone())));
    book.apply(&deviation("a", "rps", 120, 9.0));
    assert_eq!(all(&book)[0].state, State::Acknowledged);
    book.apply(&recovery("a", "rps", 140));
    assert_eq!(book.acknowledge(id, ack.clone()), Err(AckError::Resolved));
    let unknown = IncidentId::new(0, 0, 0);
    assert_eq!(book.acknowledge(unknown, ack), Err(AckError::Unknown));
}

#[test]
fn a_silence_covers_incidents_for_its_time() {
    let mut book = book_of(&[deviation("a-1", "rps", 100, 1.5), deviation("b-1", "rps", 100, 1.5)]);
    let states = |book: &Book| {
        let mut states: Vec<_> = all(book)
            .iter()
            .map(|one| (one.suspect().device.as_deref().unwrap_or("").to_owned(), one.state))
            .collect();
        states.sort_by(|one, other| one.0.cmp(&other.0));
        states.into_iter().map(|(_, state)| state).collect::<Vec<_>>()
    };
    let rule = SilenceRule {
        id: book.next_rule_id(0),
        device: Some("a-*".into()),
        series: None,
        starts_at_us: 120 * S,
        ends_at_us: 200 * S,
        created_by: "ann".into(),
        comment: "maintenance".into(),
    };
    assert!(book.add_rule(rule.clone(), 110 * S));
    assert_eq!(states(&book), [State::Open, State::Open]);
    assert_eq!(book.next_tick_us(), Some(120 * S));
    let before = book.revision();
    book.tick(120 * S);
    assert_eq!(states(&book), [State::Silenced, State::Open]);
    assert_eq!(book.changes_since(before, 9).len(), 1);
    assert_eq!(book.open_by_severity(), [1, 0]);
    book.tick(200 * S);
    assert_eq!(states(&book), [State::Open, State::Open]);
    assert!(book.rules().is_empty() && book.next_tick_us().is_none());

    assert!(book.add_rule(SilenceRule { ends_at_us: 900 * S, ..rule.clone() }, 210 * S));
    assert_eq!(states(&book), [State::Silenced, State::Open]);
    assert!(!book.remove_rule("none", 220 * S) && book.remove_rule(&rule.id, 220 * S));
    assert_eq!(states(&book), [State::Open, State::Open]);
}

#[test]
fn pages_can_be_followed_while_incidents_open() {
    let names = |n: i64| char::from(b'a' + n as u8).to_string();
    let at = |n: i64| n * 1_000;
    let mut book = book_of(&[]);
    (0..10).for_each(|n| book.apply(&deviation(&names(n), "rps", at(n), 1.5)));
    let mut query = ListQuery { limit: 3, ..ListQuery::default() };
    let mut seen = Vec::new();
    loop {
        let page = book.list(&query);
        let devices = page.incidents.iter().map(|one| one.suspect().device.clone());
        seen.extend(devices.flatten().map(|name| name.to_string()));
        book.apply(&deviation(&names(10 + seen.len() as i64), "rps", at(20), 1.5));
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..10).rev().map(names).collect::<Vec<_>>());
    let query = ListQuery { device: Some("c".into()), limit: 9, ..ListQuery::default() };
    assert_eq!(book.list(&query).incidents.len(), 1);
    let query = ListQuery { since_us: Some(at(9) * S), limit: 99, ..ListQuery::default() };
    assert_eq!(book.list(&query).incidents.len(), 5);
}

#[test]
fn memory_is_bounded_and_what_does_not_fit_is_counted() {
    let mut book = Book::new(BookSettings { window_us: -1 });
    let event = |n: usize, series: &str| deviation(&format!("d{n}"), series, n as i64, 1.5);
    for n in 0..OPEN_MAX + 10 {
        book.apply(&event(n, "rps"));
    }
    assert_eq!((book.open.len(), book.counts().dropped), (OPEN_MAX, 10));
    for n in 0..MEMBERS_KEPT_MAX + 20 {
        book.apply(&event(0, &format!("s{n}")));
    }
    let first = all(&book).pop().expect("some");
    assert_eq!((first.members.len(), first.member_count), (MEMBERS_KEPT_MAX, 121));
    for n in 0..OPEN_MAX {
        book.apply(&Event::Gone { device: format!("d{n}").into(), at_us: 9_999_999_999 });
    }
    assert_eq!((book.open.len(), book.members.len()), (0, 0));
    assert_eq!(book.resolved.len(), RESOLVED_KEPT_MAX);
    assert!(book.resolved_members <= RESOLVED_MEMBERS_MAX);
}

#[test]
fn members_of_one_moment_are_in_order_of_their_scores() {
    let series = |book: &Book| -> Vec<_> {
        all(book)[0].members.iter().map(|member| member.series.clone().expect("one")).collect()
    };
    let mut book = book_of(&[
        deviation("a", "rps", 100, 1.5),
        deviation("a", "cpu", 100, 3.0),
        deviation("a", "io", 101, 9.0),
    ]);
    assert_eq!(series(&book), ["cpu".into(), "rps".into(), "io".into()]);
    book.apply(&deviation("a", "rps", 102, 4.0));
    assert_eq!(series(&book), ["rps".into(), "cpu".into(), "io".into()]);
    assert_eq!(all(&book)[0].suspect().series.as_deref(), Some("rps"));
}

/// 300 devices of some sites begin to deviate within `spread_s`, in an order that follows from `seed`.
fn storm(sites: usize, spread_s: i64, seed: u64) -> Book {
    let name = |at: usize| {
        let (site, rack) = (["ams", "fra", "sgp", "sao"][at % sites], at / sites % 3 + 1);
        format!("{site}-{rack}-edge-{:02}", at / (3 * sites))
    };
    let mut fleet = FleetTokens::default();
    (0..300).for_each(|at| fleet.add(&name(at)));
    let mut order: Vec<usize> = (0..300).collect();
    order.sort_by_key(|at| {
        hash(&(seed, at).0.to_le_bytes()) ^ hash(&(*at as u64 + 97 * seed).to_le_bytes())
    });
    let mut book = Book::default();
    book.set_fleet(fleet);
    for (turn, at) in order.into_iter().enumerate() {
        let at_s = 1_000 + turn as i64 * spread_s / 300;
        book.apply(&deviation(&name(at), "rps", at_s, 1.2));
    }
    book
}

#[test]
fn a_storm_of_300_devices_is_one_incident() {
    for sites in [1, 4] {
        for (spread_s, seed) in [0, 10, 40].into_iter().flat_map(|s| (0..8).map(move |n| (s, n))) {
            let book = storm(sites, spread_s, seed);
            let open: Vec<_> =
                all(&book).into_iter().filter(|one| one.merged_into.is_none()).collect();
            let said: Vec<_> = open.iter().map(|one| (one.device_count, &one.because)).collect();
            assert_eq!(open.len(), 1, "{sites} sites, {spread_s} s, seed {seed}: {said:?}");
            assert_eq!((open[0].device_count, open[0].severity), (300, Severity::Critical));
        }
    }
    // The next day one device is an incident of its own.
    let mut book = storm(4, 10, 1);
    book.apply(&deviation("ams-1-edge-99", "rps", 90_000, 2.0));
    assert_eq!(all(&book)[0].device_count, 1);
}

/// Devices of some of ten sites fall silent within `spread_s`, in an order that follows from `seed`. How many incidents it
/// is, and how many of them have devices of several sites.
fn sites_silent(sites: usize, spread_s: i64, seed: u64) -> (usize, usize) {
    let mut silent: Vec<usize> = (0..sites * 20).collect();
    silent.sort_by_key(|at| hash(&(*at as u64 + 1_000 * seed).to_le_bytes()));
    let mut book = book_of(&[]);
    for (turn, at) in silent.iter().enumerate() {
        let since_s = 1_000 + turn as i64 * spread_s / silent.len() as i64;
        let device = format!("site-{}-edge-{:02}", at % sites, at / sites);
        book.apply(&silence(&device, since_s, since_s + 30));
    }
    let open: Vec<_> = all(&book).into_iter().filter(|one| one.merged_into.is_none()).collect();
    assert_eq!(open.iter().map(|one| one.device_count).sum::<usize>(), silent.len());
    let is_mixed = |one: &&Incident| {
        let sites = one.members.iter().filter_map(|member| member.device.as_deref()?.get(..6));
        sites.collect::<std::collections::BTreeSet<_>>().len() > 1
    };
    (open.len(), open.iter().filter(is_mixed).count())
}

#[test]
fn sites_that_fall_silent_at_once_are_one_storm_or_one_incident_each() {
    let mut outcomes = BTreeMap::new();
    for (sites, spread_s) in [2, 3, 4].into_iter().flat_map(|n| [0, 10, 40].map(|s| (n, s))) {
        for seed in 0..8 {
            let (open, mixed) = sites_silent(sites, spread_s, seed);
            *outcomes.entry((sites, open, mixed)).or_insert(0) += 1;
        }
    }
    println!("(sites, incidents, of several sites): orders {outcomes:?}");
    for &(sites, open, mixed) in outcomes.keys() {
        assert!((open, mixed) == (1, 1) || (open, mixed) == (sites, 0), "{outcomes:?}");
    }
}
