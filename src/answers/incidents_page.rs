//! `/incidents.html`: incidents as a plain table, for browsers without JavaScript.

use std::fmt::Write;

use sigmad_clock::Now;
use sigmad_incidents::incident::{Incident, Kind, State};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Resolved incidents in the table, the latest first.
pub const RESOLVED_SHOWN_MAX: usize = 50;
/// Incidents in the table that are not resolved.
pub const UNRESOLVED_SHOWN_MAX: usize = 1_000;
const UTC: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");

/// The table: what is not resolved, in the order given, then what is.
pub fn page(incidents: &[Incident], now: Now) -> Vec<u8> {
    let is_wrong = |one: &&Incident| matches!(one.state, State::Open | State::Acknowledged);
    let title = match incidents.iter().filter(is_wrong).count() {
        0 => "No open incident".to_owned(),
        1 => "1 open incident".to_owned(),
        count => format!("{count} open incidents"),
    };
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} · sigmad</title>\n<link rel=\"stylesheet\" href=\"/page.css\">\n</head>\n\
         <body>\n<main class=\"plain\">\n<h1>{title}</h1>\n\
         <p class=\"muted\">As of {}. Load it again for what is new. \
         <a href=\"/\">The live page</a> needs JavaScript.</p>\n",
        utc_text(now.wall_us)
    );
    if !incidents.is_empty() {
        html += "<div class=\"card\" role=\"region\" aria-label=\"Incidents\" tabindex=\"0\">\n<table>\n<thead><tr>\
                 <th scope=\"col\">severity</th><th scope=\"col\">state</th><th scope=\"col\">what</th>\
                 <th scope=\"col\">first suspect</th><th scope=\"col\">began</th>\
                 <th scope=\"col\">resolved</th><th scope=\"col\">series</th>\
                 <th scope=\"col\">devices</th></tr></thead>\n<tbody>\n";
        incidents.iter().for_each(|one| row(&mut html, one));
        html += "</tbody>\n</table>\n</div>\n";
    }
    html += "</main>\n</body>\n</html>\n";
    html.into_bytes()
}

fn row(html: &mut String, one: &Incident) {
    let resolved = one.resolved_at_us.map_or_else(String::new, utc_text);
    writeln!(
        html,
        "<tr class=\"{class}\"><td>{severity}</td><td>{state}</td>\
         <td><a href=\"/incidents/{id}\">{title}</a></td><td>{suspect}</td>\
         <td>{began}</td><td>{resolved}</td><td>{members}</td><td>{devices}</td></tr>",
        class = if one.state == State::Resolved { "over" } else { one.severity.name() },
        severity = one.severity.name(),
        state = one.state.name(),
        id = one.id,
        title = Escaped(&one.title),
        suspect = Escaped(&suspect(one)),
        began = utc_text(one.started_at_us),
        members = one.member_count,
        devices = one.device_count,
    )
    .expect("writing to a String cannot fail");
}

fn suspect(one: &Incident) -> String {
    let member = one.suspect();
    match member.kind {
        Kind::Deviation | Kind::Silence => member.said(),
        Kind::Reception => "nothing was received".to_owned(),
    }
}

/// Empty for a moment that no calendar has.
fn utc_text(at_us: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(at_us.div_euclid(1_000_000));
    moment.ok().and_then(|moment| moment.format(UTC).ok()).unwrap_or_default()
}

/// Text as text, whatever it contains.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            char => f.write_char(char),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigmad_incidents::book::{Book, BookSettings};
    use sigmad_incidents::event::Event;
    use sigmad_incidents::list::ListQuery;

    #[test]
    fn a_hostile_device_is_text() {
        let mut book = Book::new(BookSettings::default());
        let at_us = 1_735_100_000_000_000;
        let device = "<img src=x onerror='a()'>\"&".into();
        book.apply(&Event::Silence { device, since_us: at_us, at_us, usual_interval_us: 1 });
        let found = book.list(&ListQuery { limit: 9, ..ListQuery::default() }).incidents;
        let html = page(&found, Now { wall_us: at_us, ..Now::default() });
        let html = String::from_utf8(html).expect("UTF-8");
        assert!(html.contains("<title>1 open incident · sigmad</title>"), "{html}");
        assert!(html.contains("&lt;img src=x onerror=&#39;a()&#39;&gt;&quot;&amp;"), "{html}");
        assert!(!html.contains("<img"), "{html}");
        assert!(html.contains("2024-12-25 04:13:20 UTC"), "{html}");
        assert_eq!(html.matches(" is silent, usually heard every 1 s</").count(), 2, "{html}");
        let well = String::from_utf8(page(&[], Now::default())).expect("UTF-8");
        assert!(well.contains("<h1>No open incident</h1>") && !well.contains("<table>"), "{well}");
    }
}
