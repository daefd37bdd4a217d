//! The threads behind `/debug/`: they look into the process, and no worker or reader waits for them.
//!
//! One thread, `debug`, takes the requests and counts the answers. It starts another for each request,
//! as many as [`AT_ONCE_MAX`]; who comes then is told to come again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, select, unbounded};

use super::accept::takes_text;
use super::errors::ApiError;
use super::routes::{Debug, Label};
use crate::clock::Clock;
use crate::http::message::{HeaderField, Method, Response, Ticket};
use crate::profile::cmdline;
use crate::profile::memory::{self, View};
use crate::profile::symbols::Symbols;
use crate::telemetry::Sources;
use crate::telemetry::latency::Budget;

/// Requests that wait for the thread.
pub const DEBUGS_WAITING_MAX: usize = 16;
/// Requests answered at once: a profile, and looks at other things while it is taken.
const AT_ONCE_MAX: usize = 4;
/// Addresses of one request for names; a stack has some fifty.
const ADDRESSES_MAX: usize = 10_000;
const OCTETS: &str = "application/octet-stream";

/// One request to look into the process.
#[derive(Debug)]
pub struct DebugRequest {
    /// What is asked.
    pub debug: Debug,
    /// What it is counted under.
    pub label: Label,
    /// GET, HEAD or POST.
    pub method: Method,
    /// The path, as sent.
    pub path: String,
    /// The query string, as sent.
    pub query: String,
    /// The field `Accept`, empty without one.
    pub accept: String,
    /// The body.
    pub body: Vec<u8>,
    /// When a worker read the request, on the monotonic clock.
    pub read_ns: u64,
    /// Where the answer goes.
    pub ticket: Ticket,
}

/// An answer that has been given.
struct Answered {
    label: Label,
    method: Method,
    status: u16,
    read_ns: u64,
}

/// The thread `debug`.
struct Attendant {
    sources: Arc<Sources>,
    clock: Clock,
    told: Sender<Answered>,
    /// Threads that answer at present.
    running: usize,
}

/// Starts the thread. It ends when the last worker has gone, and its answers are given.
pub fn start(
    requests: Receiver<DebugRequest>,
    sources: Arc<Sources>,
    start: Instant,
) -> io::Result<JoinHandle<()>> {
    let (told, answered) = unbounded();
    let clock = Clock::new(start);
    let mut attendant = Attendant { sources, clock, told, running: 0 };
    std::thread::Builder::new().name("debug".into()).spawn(move || {
        loop {
            select! {
                recv(requests) -> request => match request {
                    Ok(request) => attendant.begin(request),
                    Err(_) => break,
                },
                recv(answered) -> one => {
                    attendant.end(one.expect("this thread holds a sender"));
                }
            }
        }
        while attendant.running > 0 {
            attendant.end(answered.recv().expect("this thread holds a sender"));
        }
    })
}

impl Attendant {
    fn begin(&mut self, request: DebugRequest) {
        let DebugRequest { label, method, read_ns, .. } = request;
        let count = move |status| Answered { label, method, status, read_ns };
        if self.running == AT_ONCE_MAX {
            let error = ApiError::DebugFull;
            request.ticket.send(error.debug_response());
            return self.count(&count(error.status()));
        }
        let (told, clock) = (self.told.clone(), Clock::new(self.clock.start()));
        let sources = self.sources.clone();
        let answering = std::thread::Builder::new().name("profile".into()).spawn(move || {
            let status = answer(request, &sources, clock);
            // Err: the process is on its way out.
            let _ = told.send(count(status));
        });
        match answering {
            Ok(_) => self.running += 1,
            // The request is gone with its closure, and its ticket has answered 500.
            Err(error) => {
                tracing::error!(%error, "no thread to look into the process");
                self.count(&count(500));
            }
        }
    }

    fn end(&mut self, answered: Answered) {
        self.running -= 1;
        self.count(&answered);
    }

    fn count(&self, answered: &Answered) {
        let Answered { label, method, status, read_ns } = *answered;
        self.sources.debug.count(label, method, status);
        self.sources.debug.time(label, self.clock.monotonic_ns().saturating_sub(read_ns), 1);
    }
}

/// Answers, and returns with what status.
fn answer(request: DebugRequest, sources: &Sources, mut clock: Clock) -> u16 {
    let DebugRequest { debug, path, query, accept, body, ticket, .. } = request;
    // A mistake of ours must not leave the count of running threads wrong.
    let made = catch_unwind(AssertUnwindSafe(|| {
        let made = match debug {
            Debug::Index => Ok(index(&path)),
            Debug::Cmdline => Ok(text(cmdline::of_this_process())),
            Debug::Symbol => Ok(names(if body.is_empty() { query.as_bytes() } else { &body })),
            Debug::Heap => Ok(memory(View::InUse, &query, &mut clock)),
            Debug::Allocs => Ok(memory(View::Allocated, &query, &mut clock)),
            Debug::Latency => Ok(latency(&Budget::of(sources), &query, &accept)),
            Debug::Profile | Debug::Flamegraph | Debug::Threads => {
                Err(ApiError::Unprofilable("this build takes none yet"))
            }
        };
        made.unwrap_or_else(|error| error.debug_response())
    }));
    let response = made.unwrap_or_else(|_| ApiError::Internal.debug_response());
    let status = response.status;
    ticket.send(response);
    status
}

fn memory(view: View, query: &str, clock: &mut Clock) -> Response {
    if asks(query, "debug", |level| level != "0") {
        return text(memory::text(view).into_bytes());
    }
    let name = match view {
        View::InUse => "heap",
        View::Allocated => "allocs",
    };
    file(name, memory::profile(view, clock.now().wall_us))
}

fn latency(budget: &Budget, query: &str, accept: &str) -> Response {
    let named = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "format");
    let is_text = named.map_or_else(|| takes_text(accept), |(_, format)| format == "text");
    if is_text {
        return text(budget.text().into_bytes());
    }
    let mut fields = nosniff();
    fields.push(("Vary", "Accept".into()));
    Response { status: 200, content_type: super::JSON, fields, body: budget.json() }
}

/// True when the query has the parameter, with a value that fits.
fn asks(query: &str, name: &str, fits: impl Fn(&str) -> bool) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(key, value)| key == name && fits(&value))
}

fn text(body: Vec<u8>) -> Response {
    Response { status: 200, content_type: super::TEXT, fields: nosniff(), body }
}

/// A profile as a file: what Go says of its own.
pub fn file(name: &str, body: Vec<u8>) -> Response {
    let mut fields = nosniff();
    let disposition = format!("attachment; filename=\"{name}\"");
    fields.push(("Content-Disposition", disposition.into()));
    Response { status: 200, content_type: OCTETS, fields, body }
}

fn nosniff() -> Vec<HeaderField> {
    vec![("X-Content-Type-Options", "nosniff".into()), ("Cache-Control", "no-store".into())]
}

/// What there is: the last part of the path, and a line for each.
const CONTENTS: &[(&str, &str)] = &[
    ("profile?seconds=30", "where CPU time goes; ?seconds= 1 to 300, ?hz= 1 to 1000"),
    ("flamegraph?seconds=10", "the same as a picture (SVG)"),
    ("threads?debug=1", "the stack of every thread; without debug=1 for go tool pprof"),
    ("heap", "who holds memory; ?debug=1 as text"),
    ("allocs", "who took memory since the start; ?debug=1 as text"),
    ("cmdline", "how the process was started"),
    ("symbol", "names of addresses: ?0x1f+0x2e"),
];

fn index(path: &str) -> Response {
    // Links work behind a prefix too, and from the path without its last slash.
    let prefix = if path.ends_with('/') { "" } else { "pprof/" };
    let row = |(link, line): &(&str, &str)| {
        let name = link.split('?').next().unwrap_or(link);
        format!("<tr><td><a href=\"{prefix}{link}\">{name}</a></td><td>{line}</td></tr>\n")
    };
    let rows: String = CONTENTS.iter().map(row).collect();
    let body = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>/debug/pprof/</title>\n\
         <h1>/debug/pprof/</h1>\n<table>\n{rows}</table>\n\
         <p><code>go tool pprof -http=: http://localhost:8080/debug/pprof/profile?seconds=30</code></p>\n"
    );
    let content_type = "text/html; charset=utf-8";
    Response { status: 200, content_type, fields: nosniff(), body: body.into_bytes() }
}

/// A line for each address that has a name, as Go's `symbol`.
fn names(addresses: &[u8]) -> Response {
    let mut symbols = Symbols::of_this_process();
    let mut lines = "num_symbols: 1\n".to_owned();
    for word in addresses.split(|byte| *byte == b'+').take(ADDRESSES_MAX) {
        let word = std::str::from_utf8(word).unwrap_or_default().trim();
        let digits = word.strip_prefix("0x").unwrap_or(word);
        let Ok(address) = u64::from_str_radix(digits, 16) else { continue };
        let frames = symbols.resolve(address);
        let function = frames.last().map(|frame| frame.function.clone());
        let function = function.filter(|name| !name.starts_with('['));
        if let Some(function) = function {
            lines += &format!("{address:#x} {function}\n");
        }
    }
    text(lines.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_their_names() {
        let here = addresses_get_their_names as *const () as u64;
        let response = names(format!("{here:#x}+0x1+nonsense").as_bytes());
        let body = String::from_utf8(response.body).expect("text");
        let lines: Vec<_> = body.lines().collect();
        assert_eq!((lines.len(), lines[0]), (2, "num_symbols: 1"));
        assert!(lines[1].starts_with(&format!("{here:#x} ")), "{body}");
        assert!(lines[1].contains("addresses_get_their_names"), "{body}");
    }

    #[test]
    fn the_index_links_to_what_there_is() {
        for (path, prefix) in [("/debug/pprof/", "/debug/pprof/"), ("/debug/pprof", "/debug/")] {
            let body = String::from_utf8(index(path).body).expect("text");
            let links: Vec<_> = body.split("href=\"").skip(1).collect();
            assert_eq!(links.len(), CONTENTS.len());
            for link in links {
                let link = link.split(['"', '?']).next().expect("a link");
                let label = super::super::routes::find(&format!("{prefix}{link}"));
                assert!(label.route().is_some(), "{path} {link}");
            }
        }
    }
}
