//! The answers of `/debug/`, apart from how they are sent.

use std::io;

use crate::api::accept::takes_text;
use crate::api::errors::ApiError;
use crate::api::query::Query;
use crate::http::message::{HeaderField, Response};
use crate::http::stages::TIMED_EVERY;
use crate::telemetry::Sources;
use crate::telemetry::latency::LatencyBudget;
use sigmad_clock::Clock;
use sigmad_profile::capture::CUT;
use sigmad_profile::cpu::CpuProfile;
use sigmad_profile::flame;
use sigmad_profile::memory::{self, View};
use sigmad_profile::proto::{self, ProfileHeader, ProfileSample};
use sigmad_profile::symbols::Symbols;
use sigmad_profile::threads::{self, Thread};
use sigmad_profile::unwind::Unwinder;

/// Addresses in one request for symbols; a stack has some fifty.
const ADDRESSES_MAX: usize = 10_000;

/// The stack of each thread.
pub(super) fn thread_stacks(
    query: &Query<'_>,
    mut clock: Clock,
) -> Result<Response, ApiError<'static>> {
    let mut symbols = Symbols::of_this_process();
    let mut unwinder = Unwinder::new(&symbols);
    let threads = threads::stacks(&mut unwinder).map_err(|error| {
        tracing::error!(%error, "cannot sample the threads");
        ApiError::Unprofilable("the kernel permits no signals for sampling threads")
    })?;
    let threads = threads.ok_or(ApiError::DebugFull)?;
    if query.is_text() {
        return Ok(text(listing(&threads, &mut symbols).into_bytes()));
    }
    let cut = threads.iter().any(|thread| thread.is_cut).then(|| CUT.to_owned());
    let about = ProfileHeader {
        sample_types: &[("threads", "count")],
        default_sample_type: "threads",
        period_type: ("threads", "count"),
        period: 1,
        wall_us: clock.now().wall_us,
        duration_ns: 0,
        comments: cut.as_slice(),
    };
    let labels: Vec<_> = threads.iter().map(|thread| [("thread", &*thread.name)]).collect();
    let samples = threads.iter().zip(&labels).map(|(thread, labels)| ProfileSample {
        stack: &thread.stack,
        is_leaf_exact: true,
        values: &[1],
        labels,
    });
    Ok(file("threads", proto::encode(&about, samples, &mut symbols)))
}

/// A paragraph for each thread, a line for each function.
fn listing(threads: &[Thread], symbols: &mut Symbols) -> String {
    let mut lines = format!("threads: {}\n", threads.len());
    for Thread { tid, name, state, stack, is_cut } in threads {
        lines += &format!("\n{tid} {name:?} {state}\n");
        if stack.is_empty() {
            lines += "  no stack: the thread could not be interrupted\n";
        }
        let sample = ProfileSample { stack, is_leaf_exact: true, values: &[], labels: &[] };
        for (index, address) in stack.iter().enumerate() {
            for frame in symbols.resolve(proto::address_at(&sample, index)).iter() {
                lines += &format!("  {address:#018x} {}", frame.function);
                if frame.line > 0 {
                    lines += &format!(" {}:{}", frame.file, frame.line);
                }
                lines.push('\n');
            }
        }
        if *is_cut {
            lines += &format!("  … {CUT}\n");
        }
    }
    lines
}

/// Memory in use, or allocated since the start.
pub(super) fn heap(view: View, query: &Query<'_>, clock: &mut Clock) -> Response {
    if query.is_text() {
        return text(memory::text(view).into_bytes());
    }
    let name = match view {
        View::InUse => "heap",
        View::Allocated => "allocs",
    };
    file(name, memory::profile(view, clock.now().wall_us))
}

/// A CPU profile as SVG.
pub(super) fn flame_graph(profile: &mut CpuProfile) -> io::Result<Vec<u8>> {
    let mut lines = profile.fold();
    if lines.is_empty() {
        lines.push("nothing_was_sampled 1".to_owned());
    }
    let title = format!("sigmad, CPU time in {:.1} s", profile.duration_ns() as f64 / 1e9);
    flame::draw(&lines, title, profile.comments.join("; "))
}

/// The latency of each stage of a request.
pub(super) fn latency(
    sources: &Sources,
    query: &Query<'_>,
    accept: &str,
) -> Result<Response, ApiError<'static>> {
    let budget = LatencyBudget::of(sources, TIMED_EVERY);
    if query.wants_text()?.unwrap_or_else(|| takes_text(accept)) {
        return Ok(text(budget.text().into_bytes()));
    }
    let mut fields = nosniff();
    fields.push(("Vary", "Accept".into()));
    Ok(Response { status: 200, content_type: crate::api::JSON, fields, body: budget.json() })
}

/// Plain text.
pub(super) fn text(body: Vec<u8>) -> Response {
    Response { status: 200, content_type: crate::api::TEXT, fields: nosniff(), body }
}

/// A profile as a file, with the header fields that Go sends.
pub(super) fn file(name: &str, body: Vec<u8>) -> Response {
    let mut fields = nosniff();
    let disposition = format!("attachment; filename=\"{name}\"");
    fields.push(("Content-Disposition", disposition.into()));
    Response { status: 200, content_type: "application/octet-stream", fields, body }
}

pub(super) fn nosniff() -> Vec<HeaderField> {
    vec![("X-Content-Type-Options", "nosniff".into()), ("Cache-Control", "no-store".into())]
}

/// The index: the last part of each path, and its description.
const INDEX: &[(&str, &str)] = &[
    ("profile?seconds=30", "CPU profile; ?seconds= 1 to 300, ?hz= 1 to 1000"),
    ("flamegraph?seconds=10", "CPU profile as a flame graph (SVG)"),
    ("threads?debug=1", "the stack of every thread; without debug=1 for go tool pprof"),
    ("heap", "memory in use; ?debug=1 as text, ?seconds=5 the change in that time"),
    ("allocs", "allocations since the start; ?debug=1 as text, ?seconds=5 in that time"),
    ("cmdline", "the command line of the process"),
    ("symbol", "symbols of addresses: ?0x1f+0x2e"),
];

/// Links to the other paths.
pub(super) fn index(path: &str) -> Response {
    // Relative links work behind a prefix, and from the path without its last slash.
    let prefix = if path.ends_with('/') { "" } else { "pprof/" };
    let row = |(link, line): &(&str, &str)| {
        let name = link.split('?').next().unwrap_or(link);
        format!("<tr><td><a href=\"{prefix}{link}\">{name}</a></td><td>{line}</td></tr>\n")
    };
    let rows: String = INDEX.iter().map(row).collect();
    let body = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>/debug/pprof/</title>\n\
         <h1>/debug/pprof/</h1>\n<table>\n{rows}</table>\n\
         <p><code>go tool pprof -http=: http://localhost:8080/debug/pprof/profile?seconds=30</code></p>\n"
    );
    let content_type = "text/html; charset=utf-8";
    Response { status: 200, content_type, fields: nosniff(), body: body.into_bytes() }
}

/// A line for each address that has a symbol, as in Go.
pub(super) fn symbols(addresses: &[u8]) -> Response {
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
    fn addresses_have_symbols() {
        let here = addresses_have_symbols as *const () as u64;
        let response = symbols(format!("{here:#x}+0x1+nonsense").as_bytes());
        let body = String::from_utf8(response.body).expect("text");
        let lines: Vec<_> = body.lines().collect();
        assert_eq!((lines.len(), lines[0]), (2, "num_symbols: 1"));
        assert!(lines[1].starts_with(&format!("{here:#x} ")), "{body}");
        assert!(lines[1].contains("addresses_have_symbols"), "{body}");
    }

    #[test]
    fn the_index_links_to_existing_paths() {
        for (path, prefix) in [("/debug/pprof/", "/debug/pprof/"), ("/debug/pprof", "/debug/")] {
            let body = String::from_utf8(index(path).body).expect("text");
            let links: Vec<_> = body.split("href=\"").skip(1).collect();
            assert_eq!(links.len(), INDEX.len());
            for link in links {
                let link = link.split(['"', '?']).next().expect("a link");
                let label = crate::api::routes::find(&format!("{prefix}{link}"));
                assert!(label.route().is_some(), "{path} {link}");
            }
        }
    }
}
