//! What Alertmanager is told, and when. Pure: time is an argument.
//!
//! As Prometheus does (`rules/alerting.go`): a firing alert is sent again each minute, with an end that is some minutes
//! ahead, and an ended one for a quarter of an hour. Alertmanager keeps alerts in memory alone: what it forgets in a
//! restart it thus learns again, and if this process dies, its alerts end by themselves.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use sigmad_clock::Now;
use sigmad_incidents::incident::{Incident, IncidentId, Severity, State};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::message::{Circumstances, Request, acknowledgement, description};
use crate::notes::NotedAlert;
use crate::retry::Outcome;

/// Interval between two times that an alert is sent: the default of Prometheus (`--rules.alert.resend-delay`).
const RESEND_MS: u64 = 60_000;
/// A firing alert ends by itself after this time: some posts may fail.
const ENDS_AHEAD_US: i64 = 5 * 60 * 1_000_000;
/// An ended alert is sent for this time after Alertmanager had it first: `resolvedRetention` of Prometheus.
const ENDED_FOR_MS: u64 = 15 * 60_000;
/// Alerts that are due within this time leave with those that are due now.
const JOIN_MS: u64 = 5_000;
/// Alerts in one POST: `DefaultMaxBatchSize` of Prometheus.
const BATCH_MAX: usize = 256;
/// Alerts that are kept: the open incidents of a full book, and as many that have ended. Further ones are dropped.
pub const ALERTS_MAX: usize = 8_192;
/// Alertmanager's own names for the first labels; `incident` makes each set of labels unique.
const ALERT_NAME: &str = "SigmadIncident";

/// Another severity is another alert: an alert is identified by its labels.
type Key = (IncidentId, Severity);

/// The alerts of one Alertmanager.
#[derive(Clone, Debug, Default)]
pub struct Alerts {
    alerts: BTreeMap<Key, Alert>,
    /// Those of the request that has no answer so far.
    in_flight: Vec<Key>,
    /// Those from before a restart that the book has not shown since.
    unseen: BTreeSet<Key>,
}

#[derive(Clone, Debug)]
struct Alert {
    /// As it was first: labels of an alert must not change.
    first: Arc<Incident>,
    incident: Arc<Incident>,
    ended_at_us: Option<i64>,
    /// Milliseconds of monotonic time.
    due_ms: u64,
    /// Set once Alertmanager knows that it has ended.
    forget_ms: Option<u64>,
}

impl Alerts {
    /// Goes on from what Alertmanager was told before a restart. What the book has of the incidents follows.
    pub fn go_on(&mut self, noted: Vec<NotedAlert>, now: Now) {
        for NotedAlert { severity, first, ended_at_us } in noted {
            let first = Arc::new(first);
            let (incident, due_ms) = (first.clone(), now.monotonic_ms());
            let alert = Alert { first, incident, ended_at_us, due_ms, forget_ms: None };
            self.unseen.insert((alert.first.id, severity));
            self.alerts.insert((alert.first.id, severity), alert);
        }
    }

    /// The book has shown all that it has: what it has not shown is over.
    pub fn has_looked(&mut self, now: Now) {
        for key in std::mem::take(&mut self.unseen) {
            if let Some(alert) = self.alerts.get_mut(&key) {
                alert.end(now.wall_us, now);
            }
        }
    }

    /// What Alertmanager was told, and what it is to be told.
    pub fn noted(&self) -> Vec<NotedAlert> {
        let alerts = self.alerts.iter();
        alerts.map(|(key, alert)| NotedAlert::new(key.1, &alert.first, alert.ended_at_us)).collect()
    }

    /// Takes an incident that has changed. Returns how many alerts are dropped for lack of room.
    pub fn update(&mut self, incident: &Arc<Incident>, now: Now) -> u64 {
        let key = (incident.id, incident.severity);
        self.unseen.remove(&key);
        // One that has grown worse goes on as another alert.
        let others = Severity::ALL.into_iter().filter(|severity| *severity != incident.severity);
        for severity in others {
            if let Some(alert) = self.alerts.get_mut(&(incident.id, severity)) {
                alert.end(incident.updated_at_us, now);
            }
        }
        match incident.state {
            State::Open | State::Acknowledged => return self.fire(key, incident, now),
            State::Silenced | State::Resolved => {
                // Alertmanager takes no notice of the end of an alert that it does not know.
                if let Some(alert) = self.alerts.get_mut(&key) {
                    alert.incident = incident.clone();
                    alert.end(incident.resolved_at_us.unwrap_or(incident.updated_at_us), now);
                }
            }
        }
        0
    }

    fn fire(&mut self, key: Key, incident: &Arc<Incident>, now: Now) -> u64 {
        let is_full = self.alerts.len() >= ALERTS_MAX;
        match self.alerts.entry(key) {
            Entry::Vacant(_) if is_full => return 1,
            Entry::Vacant(entry) => {
                let (first, incident) = (incident.clone(), incident.clone());
                let due_ms = now.monotonic_ms();
                entry.insert(Alert { first, incident, ended_at_us: None, due_ms, forget_ms: None });
            }
            Entry::Occupied(mut entry) => {
                let alert = entry.get_mut();
                // What else has changed can wait for the next minute.
                if alert.ended_at_us.is_some() || alert.incident.ack != incident.ack {
                    alert.due_ms = now.monotonic_ms();
                }
                (alert.ended_at_us, alert.forget_ms) = (None, None);
                alert.incident = incident.clone();
            }
        }
        0
    }

    /// Alerts that Alertmanager has not taken since they were due.
    pub fn waiting(&self, now: Now) -> u64 {
        self.alerts.values().filter(|alert| alert.due_ms <= now.monotonic_ms()).count() as u64
    }

    /// Milliseconds until the next request is due; None if nothing is open.
    pub fn wait_ms(&self, now: Now) -> Option<u64> {
        let first = self.alerts.values().map(|alert| alert.due_ms).min()?;
        Some(first.saturating_sub(now.monotonic_ms()))
    }

    /// The request that is due. [`Alerts::record`] takes its outcome.
    pub fn next(&mut self, now: Now, of: Circumstances<'_>) -> Option<Request> {
        if self.wait_ms(now) != Some(0) {
            return None;
        }
        let until_ms = now.monotonic_ms() + JOIN_MS;
        let due = self.alerts.iter().filter(|(_, alert)| alert.due_ms <= until_ms);
        let batch: Vec<_> = due.take(BATCH_MAX).collect();
        let alerts: Vec<_> = batch.iter().map(|(key, alert)| alert.json(key.1, now, of)).collect();
        self.in_flight = batch.iter().map(|(key, _)| **key).collect();
        let body = serde_json::to_vec(&alerts).expect("texts have a JSON form");
        Some(Request { body, idempotency_key: None, count: alerts.len() as u64 })
    }

    /// Takes the outcome of the last request, which ended `now`.
    pub fn record(&mut self, outcome: Outcome, now: Now) {
        let now_ms = now.monotonic_ms();
        let keys = std::mem::take(&mut self.in_flight);
        if matches!(outcome, Outcome::Failed { .. }) {
            return;
        }
        for key in keys {
            let Entry::Occupied(mut entry) = self.alerts.entry(key) else { continue };
            let alert = entry.get_mut();
            alert.due_ms = now_ms + RESEND_MS;
            if alert.ended_at_us.is_none() {
                continue;
            }
            let forget_ms = *alert.forget_ms.get_or_insert(now_ms + ENDED_FOR_MS);
            if forget_ms <= now_ms {
                entry.remove();
            }
        }
    }
}

impl Alert {
    fn end(&mut self, at_us: i64, now: Now) {
        if self.ended_at_us.is_none() {
            self.ended_at_us = Some(at_us);
            self.due_ms = now.monotonic_ms();
        }
    }

    fn json(&self, severity: Severity, now: Now, of: Circumstances<'_>) -> AlertJson<'_> {
        let suspect = self.first.suspect();
        let labels = LabelsJson {
            alertname: ALERT_NAME,
            incident: self.incident.id.to_string(),
            severity: severity.name(),
            kind: self.first.kind.name(),
            device: suspect.device.as_deref(),
            series: suspect.series.as_deref(),
            site: self.first.site.as_deref(),
            test: of.is_test.then_some("true"),
        };
        let annotations = AnnotationsJson {
            title: &self.incident.title,
            description: description(&self.incident),
            acknowledged: self.incident.ack.as_ref().map(acknowledgement),
        };
        AlertJson {
            labels,
            annotations,
            starts_at: rfc3339(self.incident.started_at_us),
            ends_at: rfc3339(self.ended_at_us.unwrap_or(now.wall_us + ENDS_AHEAD_US)),
            generator_url: of.link(self.incident.id),
        }
    }
}

/// `postableAlert` of Alertmanager's API v2: <https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml>.
#[derive(Serialize)]
struct AlertJson<'a> {
    labels: LabelsJson<'a>,
    annotations: AnnotationsJson<'a>,
    #[serde(rename = "startsAt")]
    starts_at: String,
    #[serde(rename = "endsAt")]
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: String,
}

#[derive(Serialize)]
struct LabelsJson<'a> {
    alertname: &'static str,
    incident: String,
    severity: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    series: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<&'static str>,
}

#[derive(Serialize)]
struct AnnotationsJson<'a> {
    title: &'a str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledged: Option<String>,
}

fn rfc3339(us: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1_000);
    let text = moment.ok().and_then(|moment| moment.format(&Rfc3339).ok());
    text.expect("a clock says a year of four digits")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sigmad_incidents::incident::Ack;

    use super::*;
    use crate::testing::{at_s, critical, incident, with_state};

    const OF: Circumstances<'_> = Circumstances { external_url: "http://s/", is_test: false };
    const FAILED: Outcome = Outcome::Failed { retry_after: None };

    fn sent(alerts: &mut Alerts, second: u64) -> Vec<Value> {
        let Some(request) = alerts.next(at_s(second), OF) else { return Vec::new() };
        let body: Vec<Value> = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(body.len() as u64, request.count);
        body
    }

    /// Sends what is due, and Alertmanager takes it.
    fn taken(alerts: &mut Alerts, second: u64) -> Vec<Value> {
        let body = sent(alerts, second);
        alerts.record(Outcome::Delivered, at_s(second));
        body
    }

    fn ends(alerts: &[Value]) -> Vec<&str> {
        alerts.iter().map(|alert| alert["endsAt"].as_str().expect("a text")).collect()
    }

    #[test]
    fn an_alert_is_sent_each_minute_and_its_end_for_a_quarter_of_an_hour() {
        let mut alerts = Alerts::default();
        let open = Arc::new(incident(1));
        assert_eq!(alerts.update(&open, at_s(0)), 0);
        let body = taken(&mut alerts, 0);
        let expected = json!({
            "labels": {
                "alertname": "SigmadIncident", "incident": open.id.to_string(), "severity": "warning",
                "kind": "deviation", "device": "ams-2-edge-05", "series": "rps", "site": "ams-2",
            },
            "annotations": { "title": "ams-2-edge-05 rps", "description": description(&open) },
            "startsAt": "2024-12-25T04:13:20Z",
            "endsAt": "2024-12-25T04:18:20Z",
            "generatorURL": format!("http://s/#incident={}", open.id),
        });
        assert_eq!(body, [expected]);
        assert_eq!((alerts.wait_ms(at_s(0)), alerts.next(at_s(59), OF)), (Some(60_000), None));
        assert_eq!(ends(&taken(&mut alerts, 60)), ["2024-12-25T04:19:20Z"]);

        alerts.update(&Arc::new(with_state(incident(1), State::Resolved, at_s(70))), at_s(71));
        assert_eq!(sent(&mut alerts, 71).len(), 1);
        alerts.record(FAILED, at_s(71));
        let mut times = 0;
        for second in 72..4_000 {
            let body = taken(&mut alerts, second);
            times += body.len();
            assert!(ends(&body).iter().all(|end| *end == "2024-12-25T04:14:30Z"));
        }
        assert_eq!((times, alerts.alerts.len()), (16, 0));
    }

    #[test]
    fn a_worse_incident_is_another_alert_and_ends_the_first() {
        let mut alerts = Alerts::default();
        alerts.update(&Arc::new(incident(1)), at_s(0));
        taken(&mut alerts, 0);
        let mut worse = critical(incident(1));
        worse.updated_at_us = at_s(9).wall_us;
        alerts.update(&Arc::new(worse), at_s(10));
        let body = taken(&mut alerts, 10);
        assert_eq!(ends(&body), ["2024-12-25T04:13:29Z", "2024-12-25T04:18:30Z"]);
        assert_eq!(body[1]["labels"]["severity"], "critical");
    }

    #[test]
    fn a_restart_ends_no_alert_and_changes_no_label() {
        let mut alerts = Alerts::default();
        for number in 1..=4 {
            alerts.update(&Arc::new(incident(number)), at_s(0));
        }
        alerts.update(&Arc::new(with_state(incident(2), State::Resolved, at_s(1))), at_s(1));
        let first = taken(&mut alerts, 5);
        let mut again = Alerts::default();
        again.go_on(alerts.noted(), at_s(100));
        assert_eq!(again.noted(), alerts.noted());
        // Of 1 the first suspect is another one now, 3 ended meanwhile, and 4 is in the book no more.
        let mut grown = incident(1);
        grown.members[0].device = Some(Arc::from("ams-2-edge-01"));
        again.update(&Arc::new(grown), at_s(100));
        again.update(&Arc::new(with_state(incident(2), State::Resolved, at_s(1))), at_s(100));
        again.update(&Arc::new(with_state(incident(3), State::Resolved, at_s(90))), at_s(100));
        again.has_looked(at_s(100));
        let body = taken(&mut again, 100);
        assert_eq!(body.len(), 4);
        for (one, other) in first.iter().zip(&body) {
            assert_eq!(one["labels"], other["labels"]);
        }
        let expected = ["04:20:00Z", "04:13:21Z", "04:14:50Z", "04:15:00Z"];
        assert_eq!(ends(&body), expected.map(|end| format!("2024-12-25T{end}")));
    }

    #[test]
    fn labels_stay_while_the_incident_grows() {
        let mut alerts = Alerts::default();
        alerts.update(&Arc::new(incident(1)), at_s(0));
        let first = taken(&mut alerts, 0);
        let mut grown = incident(1);
        (grown.site, grown.title) = (None, "2 devices".to_owned());
        grown.members[0].device = Some(Arc::from("ams-2-edge-01"));
        alerts.update(&Arc::new(grown), at_s(10));
        let later = taken(&mut alerts, 60);
        assert_eq!(first[0]["labels"], later[0]["labels"]);
        assert_eq!(later[0]["annotations"]["title"], "2 devices");
    }

    #[test]
    fn who_knows_of_it_is_said_at_once_and_a_silenced_one_ends() {
        let mut alerts = Alerts::default();
        alerts.update(&Arc::new(with_state(incident(2), State::Silenced, at_s(0))), at_s(0));
        assert_eq!(taken(&mut alerts, 0), [Value::Null; 0]);
        alerts.update(&Arc::new(incident(1)), at_s(0));
        taken(&mut alerts, 0);
        let mut known = with_state(incident(1), State::Acknowledged, at_s(5));
        known.ack = Some(Ack { at_us: 0, by: Some(Arc::from("mia")), comment: None });
        alerts.update(&Arc::new(known), at_s(5));
        let body = taken(&mut alerts, 5);
        assert_eq!(body[0]["annotations"]["acknowledged"], "Acknowledged by mia.");
        alerts.update(&Arc::new(with_state(incident(1), State::Silenced, at_s(6))), at_s(6));
        assert_eq!(ends(&taken(&mut alerts, 6)), ["2024-12-25T04:13:26Z"]);
        // The silence has ended, the incident has not.
        alerts.update(&Arc::new(incident(1)), at_s(7));
        assert_eq!(ends(&taken(&mut alerts, 7)), ["2024-12-25T04:18:27Z"]);
    }

    #[test]
    fn a_storm_leaves_in_parts_and_has_a_bound() {
        let mut alerts = Alerts::default();
        let count = ALERTS_MAX as u32 + 3;
        let dropped = (0..count).map(|number| alerts.update(&Arc::new(incident(number)), at_s(0)));
        assert_eq!(dropped.sum::<u64>(), 3);
        let mut total = 0;
        for _ in 0..ALERTS_MAX / BATCH_MAX {
            let body = taken(&mut alerts, 0);
            assert_eq!(body.len(), BATCH_MAX);
            total += body.len();
        }
        assert_eq!((total, alerts.next(at_s(0), OF)), (ALERTS_MAX, None));
    }
}
