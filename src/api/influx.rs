//! What Influx clients ask before they write: `/ping` and `/query`.
//!
//! Telegraf creates its database, and clients list them, so these two statements of InfluxQL are answered as InfluxDB
//! 1.8 answers them. sigmad has no databases: any name is as good as another.

use std::borrow::Cow;

use super::actions::InfluxVersion;
use super::ingest::influx::write_error;
use super::query::parameter;
use crate::http::message::{HeaderField, Request};

/// The version whose API the clients find. Some of them compare it before they use line protocol.
const VERSION: &str = "1.8.10-sigmad";
const BUILD: &str = "OSS";

/// The fields of `/ping`, which clients read the version from.
pub const PING_FIELDS: [HeaderField; 2] =
    [("X-Influxdb-Version", Cow::Borrowed(VERSION)), ("X-Influxdb-Build", Cow::Borrowed(BUILD))];

/// Writes the answer to `/ping`; returns its status. `?verbose=true` is for clients that need a body.
pub fn ping(query: &str, body: &mut Vec<u8>) -> u16 {
    body.clear();
    match parameter(query, "verbose").as_deref() {
        None | Some("" | "0" | "false") => 204,
        Some(_) => {
            body.extend_from_slice(br#"{"version":""#);
            body.extend_from_slice(VERSION.as_bytes());
            body.extend_from_slice(br#""}"#);
            200
        }
    }
}

/// Writes the answer to a statement of InfluxQL, which is the parameter `q` of the query or of a form; returns its
/// status.
pub fn query(request: &Request<'_>, body: &mut Vec<u8>) -> u16 {
    let form = std::str::from_utf8(request.body).unwrap_or_default();
    let Some(statement) = parameter(request.query, "q").or_else(|| parameter(form, "q")) else {
        write_error(InfluxVersion::V1, 400, r#"missing required parameter "q""#, body);
        return 400;
    };
    let words: Vec<_> = statement
        .trim_end()
        .trim_end_matches(';')
        .split_ascii_whitespace()
        .map(str::to_ascii_uppercase)
        .collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let answer: &[u8] = match &words[..] {
        // A semicolon would begin another statement.
        _ if words.iter().any(|word| word.contains(';')) => return refuse(body),
        ["CREATE", "DATABASE", _, ..] => br#"{"results":[{"statement_id":0}]}"#,
        ["SHOW", "DATABASES"] => {
            br#"{"results":[{"statement_id":0,"series":[{"name":"databases","columns":["name"],"values":[["sigmad"]]}]}]}"#
        }
        _ => return refuse(body),
    };
    body.clear();
    body.extend_from_slice(answer);
    200
}

fn refuse(body: &mut Vec<u8>) -> u16 {
    let message = "sigmad takes line protocol but is not queried by InfluxQL; reads are GET /analyze, /devices, /anomalies and /latest";
    write_error(InfluxVersion::V1, 400, message, body);
    400
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::request;

    fn ask(query_text: &str, form: &str) -> (u16, String) {
        let mut answer = b"from before".to_vec();
        let mut form = form.as_bytes().to_vec();
        let status = query(&request(query_text, &mut form), &mut answer);
        (status, String::from_utf8(answer).expect("UTF-8"))
    }

    #[test]
    fn two_statements_are_answered() {
        for (query_text, form) in [
            ("q=CREATE+DATABASE+%22telegraf%22", ""),
            ("db=x&q=create%20database%20t%3B", ""),
            ("", "q=CREATE+DATABASE+telegraf+WITH+DURATION+7d"),
        ] {
            let created = (200, r#"{"results":[{"statement_id":0}]}"#.to_owned());
            assert_eq!(ask(query_text, form), created, "{query_text} {form}");
        }
        let (status, body) = ask("q=SHOW%20DATABASES", "");
        assert!(status == 200 && body.contains(r#""values":[["sigmad"]]"#), "{body}");
        for wrong in
            ["q=SELECT+1", "q=CREATE+DATABASE", "q=SHOW+DATABASES;DROP+DATABASE+x", "q=", ""]
        {
            let (status, body) = ask(wrong, "");
            assert_eq!(status, 400, "{wrong}");
            let error: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            assert!(error["error"].is_string(), "{body}");
        }
    }

    #[test]
    fn a_ping_has_a_body_if_it_is_asked_for() {
        let mut body = Vec::new();
        for query in ["", "verbose=", "verbose=0", "verbose=false", "x=1"] {
            assert_eq!((ping(query, &mut body), body.len()), (204, 0), "{query}");
        }
        assert_eq!(ping("verbose=true", &mut body), 200);
        assert_eq!(body, br#"{"version":"1.8.10-sigmad"}"#);
    }
}
