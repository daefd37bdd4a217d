//! Server-sent events as text.
//!
//! The data of an event is one JSON object, with one section per line and one list item per line, so that
//! people can read it too.

use std::fmt::{self, Write};
use std::str::FromStr;

use serde::Serialize;

/// The position of a client in the stream: the value of `Last-Event-ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The start of the process, milliseconds since 1970; it identifies the stream.
    pub boot_ms: i64,
    /// The time of the event, milliseconds since the process started.
    pub at_ms: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.boot_ms, self.at_ms)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (boot, at) = text.split_once('-').ok_or(())?;
        let (boot_ms, at_ms) = (boot.parse(), at.parse());
        Ok(Self { boot_ms: boot_ms.map_err(|_| ())?, at_ms: at_ms.map_err(|_| ())? })
    }
}

/// A comment that shows that the connection is alive.
pub const HEARTBEAT: &[u8] = b": still here\n\n";

/// One event, as text.
#[derive(Debug)]
pub struct EventMessage {
    text: String,
    is_first: bool,
}

impl EventMessage {
    /// An event without data. Clients wait for `retry_ms` before they reconnect.
    pub fn new(event: &'static str, id: EventId, retry_ms: Option<u64>) -> Self {
        let mut text = format!("id: {id}\nevent: {event}\n");
        if let Some(retry_ms) = retry_ms {
            writeln!(text, "retry: {retry_ms}").expect("writing to a String cannot fail");
        }
        text += "data: {";
        Self { text, is_first: true }
    }

    /// Adds a section. Compact JSON has no line ends.
    pub fn section(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> &mut Self {
        self.begin(name);
        self.text += &json(value);
        self
    }

    /// Adds a section that is a list.
    pub fn list(
        &mut self,
        name: &'static str,
        items: impl IntoIterator<Item = impl Serialize>,
    ) -> &mut Self {
        let items: Vec<String> = items.into_iter().map(|item| json(&item)).collect();
        self.json_list(name, &items)
    }

    /// Adds a section that is a list of items in JSON.
    pub fn json_list(&mut self, name: &'static str, items: &[String]) -> &mut Self {
        self.begin(name);
        write!(self.text, "[\ndata:   {}]", items.join(",\ndata:   "))
            .expect("writing to a String cannot fail");
        self
    }

    fn begin(&mut self, name: &'static str) {
        if !std::mem::take(&mut self.is_first) {
            self.text += ",\ndata: ";
        }
        write!(self.text, "\"{name}\":").expect("writing to a String cannot fail");
    }

    /// The text of the event.
    pub fn finish(mut self) -> Vec<u8> {
        self.text += "}\n\n";
        self.text.into_bytes()
    }
}

/// As JSON, without line ends.
pub fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("reports have string keys and finite numbers")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_object_with_a_section_per_line() {
        let id = EventId { boot_ms: 1_700_000_000_123, at_ms: 4_500 };
        let mut message = EventMessage::new("delta", id, Some(1_000));
        message.section("at", &1.5).list("names", ["a\nb\r\u{2028}", "\"}"]).list("none", [0; 0]);
        let text = String::from_utf8(message.finish()).expect("UTF-8");
        let lines: Vec<&str> = text.split('\n').collect();
        assert_eq!(lines[..3], ["id: 1700000000123-4500", "event: delta", "retry: 1000"]);
        let data: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("data: ")).collect();
        let shown = ["{\"at\":1.5,", "\"names\":[", "  \"a\\nb\\r\u{2028}\",", "  \"\\\"}\"],"];
        assert_eq!(data[..4], shown);
        let value: serde_json::Value = serde_json::from_str(&data.join("\n")).expect("JSON");
        assert_eq!(value, json!({"at": 1.5, "names": ["a\nb\r\u{2028}", "\"}"], "none": []}));
        assert!(text.ends_with("}\n\n"));
    }

    #[test]
    fn ids_round_trip_and_other_text_is_refused() {
        let id = EventId { boot_ms: 1_700_000_000_123, at_ms: 4_500 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "-", "7", "1-", "-1", "1-2-3", "a-b", "1-99999999999999999999"] {
            assert_eq!(text.parse::<EventId>(), Err(()), "{text}");
        }
    }
}
