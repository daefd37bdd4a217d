//! What is said of an incident: texts for people, and the bodies for webhooks.

use serde::Serialize;
use sigmad_incidents::incident::{Ack, Incident, IncidentId, Kind, Member, Severity};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::target::WebhookFormat;

/// A moment for people.
const MOMENT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");

/// What has happened to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    /// It is open.
    Opened,
    /// Its severity has risen.
    Worse,
    /// It is over.
    Resolved,
}

impl Change {
    /// Its name in ids and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Worse => "worse",
            Self::Resolved => "resolved",
        }
    }
}

/// The id of a notification: the same each time it is sent, so that a receiver can tell a repetition.
pub fn notification_id(incident: IncidentId, change: Change) -> String {
    format!("{incident}-{}", change.name())
}

/// A request to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// JSON.
    pub body: Vec<u8>,
    /// Value of `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// Notifications in it.
    pub count: u64,
}

/// What a notification says beside the incident.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Where people reach this server, with a slash at the end.
    pub external_url: &'a str,
    /// Of `sigmad notify-test`.
    pub is_test: bool,
}

impl Circumstances<'_> {
    /// The page with this incident.
    pub fn link(&self, id: IncidentId) -> String {
        format!("{}#incident={id}", self.external_url)
    }
}

/// The request that tells a webhook of `change`. `topic`: of ntfy.
pub fn request(
    incident: &Incident,
    change: Change,
    format: WebhookFormat,
    topic: &str,
    of: Circumstances<'_>,
) -> Request {
    let id = notification_id(incident.id, change);
    let body = match format {
        WebhookFormat::Json => json(&WebhookJson::new(&id, incident, change, of)),
        WebhookFormat::Slack => json(&SlackJson { text: slack_text(incident, change, of) }),
        WebhookFormat::Ntfy => json(&NtfyJson {
            topic,
            title: headline(incident, change, of),
            message: description(incident),
            priority: ntfy_priority(incident, change),
            click: of.link(incident.id),
        }),
    };
    Request { body, idempotency_key: Some(id), count: 1 }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("texts and numbers have a JSON form")
}

/// A moment as people read it.
fn moment(us: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(us.div_euclid(1_000_000));
    // A clock past the year 9999 is shown as it is.
    moment.ok().and_then(|moment| moment.format(MOMENT).ok()).unwrap_or_else(|| us.to_string())
}

/// One line: how bad it is, and what.
fn headline(incident: &Incident, change: Change, of: Circumstances<'_>) -> String {
    let test = if of.is_test { "Test: " } else { "" };
    let word = match (change, incident.severity) {
        (Change::Resolved, _) => "Resolved",
        (Change::Worse, _) => "Worse",
        (Change::Opened, Severity::Critical) => "Critical",
        (Change::Opened, Severity::Warning) => "Warning",
    };
    format!("{test}{word}: {}", incident.title)
}

/// What is wrong with the first suspect and since when, why the members belong together, who knows of it, and its end.
pub fn description(incident: &Incident) -> String {
    let mut sentences = vec![of_suspect(incident)];
    if incident.member_count > 1 && !incident.because.is_empty() {
        sentences.push(format!("One incident because: {}.", incident.because));
    }
    if let Some(ack) = &incident.ack {
        sentences.push(acknowledgement(ack));
    }
    match (incident.merged_into, incident.resolved_at_us) {
        (Some(id), _) => sentences.push(format!("It is a part of {id}.")),
        (None, Some(at_us)) => sentences.push(format!("Resolved at {}.", moment(at_us))),
        (None, None) => {}
    }
    sentences.join(" ")
}

fn of_suspect(incident: &Incident) -> String {
    let Member { device, series, started_at_us, value, usual, low, high, .. } = incident.suspect();
    let (device, since) = (device.as_deref().unwrap_or("the fleet"), moment(*started_at_us));
    let series = series.as_deref().unwrap_or("a series");
    match incident.kind {
        Kind::Deviation => {
            format!("{series} of {device} was {value}, usually {low} to {high}, since {since}.")
        }
        Kind::Silence => {
            format!("{device} is silent since {since}; it is usually heard every {usual} s.")
        }
        Kind::Reception => format!("Nothing was received from anyone since {since}."),
    }
}

/// Who knows of it, in one sentence.
pub fn acknowledgement(ack: &Ack) -> String {
    let by = ack.by.as_deref().unwrap_or("somebody");
    match &ack.comment {
        Some(comment) => format!("Acknowledged by {by}: {comment}."),
        None => format!("Acknowledged by {by}."),
    }
}

/// The body for `--webhook-format json`. The incident has the fields of `GET /incidents`; times are seconds since 1970.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookJson<'a> {
    id: &'a str,
    event: &'static str,
    is_test: bool,
    link: String,
    headline: String,
    description: String,
    incident: IncidentJson<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IncidentJson<'a> {
    id: String,
    kind: &'static str,
    state: &'static str,
    severity: &'static str,
    score: f64,
    started_at: f64,
    opened_at: f64,
    updated_at: f64,
    resolved_at: Option<f64>,
    title: &'a str,
    because: &'a str,
    site: Option<&'a str>,
    member_count: usize,
    open_count: usize,
    device_count: usize,
    suspect: SuspectJson<'a>,
    ack: Option<AckJson<'a>>,
    merged_into: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SuspectJson<'a> {
    device: Option<&'a str>,
    series: Option<&'a str>,
    started_at: f64,
    value: f64,
    usual: f64,
    expected: RangeJson,
}

#[derive(Serialize)]
struct RangeJson {
    low: f64,
    high: f64,
}

#[derive(Serialize)]
struct AckJson<'a> {
    at: f64,
    by: Option<&'a str>,
    comment: Option<&'a str>,
}

/// Microseconds as seconds: an f64 keeps them until the year 2242.
fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

impl<'a> WebhookJson<'a> {
    fn new(id: &'a str, incident: &'a Incident, change: Change, of: Circumstances<'_>) -> Self {
        let suspect = incident.suspect();
        Self {
            id,
            event: change.name(),
            is_test: of.is_test,
            link: of.link(incident.id),
            headline: headline(incident, change, of),
            description: description(incident),
            incident: IncidentJson {
                id: incident.id.to_string(),
                kind: incident.kind.name(),
                state: incident.state.name(),
                severity: incident.severity.name(),
                score: incident.score,
                started_at: seconds(incident.started_at_us),
                opened_at: seconds(incident.opened_at_us),
                updated_at: seconds(incident.updated_at_us),
                resolved_at: incident.resolved_at_us.map(seconds),
                title: &incident.title,
                because: &incident.because,
                site: incident.site.as_deref(),
                member_count: incident.member_count,
                open_count: incident.open_count,
                device_count: incident.device_count,
                suspect: SuspectJson {
                    device: suspect.device.as_deref(),
                    series: suspect.series.as_deref(),
                    started_at: seconds(suspect.started_at_us),
                    value: suspect.value,
                    usual: suspect.usual,
                    expected: RangeJson { low: suspect.low, high: suspect.high },
                },
                ack: incident.ack.as_ref().map(|ack| AckJson {
                    at: seconds(ack.at_us),
                    by: ack.by.as_deref(),
                    comment: ack.comment.as_deref(),
                }),
                merged_into: incident.merged_into.map(|id| id.to_string()),
            },
        }
    }
}

/// An incoming webhook of Slack: <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>.
#[derive(Serialize)]
struct SlackJson {
    text: String,
}

fn slack_text(incident: &Incident, change: Change, of: Circumstances<'_>) -> String {
    let (headline, description) = (headline(incident, change, of), description(incident));
    let link = of.link(incident.id);
    format!("*{}*\n{}\n<{link}|open>", slack_escaped(&headline), slack_escaped(&description))
}

/// Names come from clients: without the escapes a device `<!channel>` would call everybody.
/// <https://docs.slack.dev/messaging/formatting-message-text#escaping>
fn slack_escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A message published as JSON, which takes any text, unlike headers: <https://docs.ntfy.sh/publish/#publish-as-json>.
#[derive(Serialize)]
struct NtfyJson<'a> {
    topic: &'a str,
    title: String,
    message: String,
    priority: u8,
    click: String,
}

/// 5 is the most urgent, 3 the default.
const fn ntfy_priority(incident: &Incident, change: Change) -> u8 {
    match (change, incident.severity) {
        (Change::Resolved, _) => 3,
        (_, Severity::Warning) => 4,
        (_, Severity::Critical) => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use sigmad_incidents::incident::State;

    use super::*;
    use crate::testing::{at_s, critical, incident, with_state};

    const OF: Circumstances<'_> =
        Circumstances { external_url: "http://sigmad:8080/", is_test: false };

    fn body(incident: &Incident, change: Change, format: WebhookFormat) -> Value {
        let request = request(incident, change, format, "alarms", OF);
        serde_json::from_slice(&request.body).expect("JSON")
    }

    #[test]
    fn json_has_the_incident_and_a_stable_id() {
        let incident = incident(7);
        let request = request(&incident, Change::Opened, WebhookFormat::Json, "", OF);
        let id = format!("{}-opened", incident.id);
        assert_eq!(request.idempotency_key.as_deref(), Some(&*id));
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!((&body["id"], &body["event"]), (&json!(id), &json!("opened")));
        assert_eq!(body["link"], json!(format!("http://sigmad:8080/#incident={}", incident.id)));
        assert_eq!(body["headline"], "Warning: ams-2-edge-05 rps");
        assert_eq!(
            body["description"],
            "rps of ams-2-edge-05 was 512, usually 90 to 110, since 2024-12-25 04:13:20 UTC."
        );
        let shown = &body["incident"];
        assert_eq!(
            (&shown["site"], &shown["startedAt"]),
            (&json!("ams-2"), &json!(1_735_100_000.0))
        );
        assert_eq!((&shown["resolvedAt"], &shown["ack"]), (&Value::Null, &Value::Null));
        assert_eq!(shown["suspect"]["series"], "rps");
    }

    #[test]
    fn texts_say_who_knows_of_it_and_when_it_ended() {
        let mut known = with_state(incident(1), State::Resolved, at_s(60));
        let by = Some(Arc::from("mia"));
        known.ack = Some(Ack { at_us: 0, by, comment: Some(Arc::from("on it")) });
        let body = body(&known, Change::Resolved, WebhookFormat::Json);
        assert_eq!(body["headline"], "Resolved: ams-2-edge-05 rps");
        let text = body["description"].as_str().expect("a text");
        let end = "Acknowledged by mia: on it. Resolved at 2024-12-25 04:14:20 UTC.";
        assert!(text.ends_with(end), "{text}");
        let mut silent = incident(2);
        silent.kind = Kind::Silence;
        silent.members[0].usual = 10.0;
        let expected = "ams-2-edge-05 is silent since 2024-12-25 04:13:20 UTC; it is usually heard every 10 s.";
        assert_eq!(description(&silent), expected);
    }

    #[test]
    fn slack_gets_no_markup_of_a_client() {
        let mut hostile = critical(incident(1));
        hostile.title = "<!channel> & co".to_owned();
        let body = body(&hostile, Change::Opened, WebhookFormat::Slack);
        let text = body["text"].as_str().expect("a text");
        assert!(text.starts_with("*Critical: &lt;!channel&gt; &amp; co*\n"), "{text}");
    }

    #[test]
    fn ntfy_gets_topic_and_priority() {
        let body = body(&critical(incident(1)), Change::Worse, WebhookFormat::Ntfy);
        assert_eq!((&body["topic"], &body["priority"]), (&json!("alarms"), &json!(5)));
        assert_eq!(body["title"], "Worse: ams-2-edge-05 rps");
    }
}
