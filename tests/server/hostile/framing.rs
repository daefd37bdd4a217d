//! Requests of every framing, valid, ambiguous and broken; every byte at every place.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::assert_none_failed;
use super::cases::{
    BODY, CASES_MIN, Case, CaseEnd, body_cases, chunk_cases, chunks, coding_cases, framing_cases,
    garbage_cases, head_cases, length_cases, raw, request_line_cases, sized,
};
use super::json::json_cases;
use super::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX, limit_cases, packed};
use crate::harness::{End, Engine, Family, Server, shown};

/// Sends one row and reads its answers. Returns how many samples were acknowledged.
fn try_case(server: &Server, case: &Case) -> Result<u64, String> {
    let mut connection = server.connect();
    // The server may close before it has read everything: the answer says why.
    let sent = connection.try_send(&case.bytes);
    let mut acknowledged = 0;
    let mut closes = false;
    for (index, statuses) in case.answers.iter().enumerate() {
        let answer = connection
            .read()
            .map_err(|failure| format!("answer {index}: {failure:?} (sent: {sent:?})"))?;
        if !statuses.contains(&answer.status) {
            return Err(format!(
                "answer {index} is {}, not {statuses:?}: {}",
                answer.status,
                shown(&answer.body)
            ));
        }
        closes = answer.closes();
        if answer.status == 202 {
            acknowledged += answer.accepted();
        } else if answer.status >= 400 {
            answer.error(answer.status);
        }
    }
    match case.end {
        CaseEnd::Closes if !closes => return Err("the last answer lacks Connection: close".into()),
        CaseEnd::Stays if closes => return Err("the last answer has Connection: close".into()),
        CaseEnd::Stays | CaseEnd::Any => connection.finish(),
        CaseEnd::Closes => {}
    }
    if case.end == CaseEnd::Any {
        // Further answers are allowed, samples are not.
        let rest = connection.read_rest().map_err(|failure| format!("end: {failure:?}"))?;
        if crate::harness::find(&rest, b"accepted").is_some() {
            return Err(format!("more was accepted: {}", shown(&rest)));
        }
        return Ok(acknowledged);
    }
    match connection.read_end() {
        End::Closed => Ok(acknowledged),
        end => Err(format!("ends with {end:?}")),
    }
}

fn check_framing(cases: &[Case]) {
    check_framing_on(Family::Tcp, cases);
}

fn check_framing_on(family: Family, cases: &[Case]) {
    let server = Server::start_on(family, &["--workers", "1"]);
    let mut failed = Vec::new();
    let mut total = 0;
    for case in cases {
        let outcome =
            catch_unwind(AssertUnwindSafe(|| try_case(&server, case))).unwrap_or_else(|panic| {
                Err(panic.downcast_ref::<String>().cloned().unwrap_or_default())
            });
        let now = server.total();
        match outcome {
            Err(why) => failed.push(format!("{}: {why}", case.name)),
            Ok(acknowledged) if now != total + acknowledged => {
                failed.push(format!(
                    "{}: {} samples, {acknowledged} acknowledged",
                    case.name,
                    now - total
                ));
            }
            Ok(_) => {}
        }
        total = now;
    }
    println!("{} cases", cases.len());
    assert_none_failed(&failed, cases.len());
    assert_eq!(server.get("/analyze?device=smuggled").json()["totalCount"], 0);
}

#[test]
fn framing_lengths() {
    check_framing(&length_cases());
}

#[test]
fn framing_codings() {
    check_framing(&coding_cases());
}

#[test]
fn framing_chunks() {
    check_framing(&chunk_cases());
}

#[test]
fn framing_heads() {
    check_framing(&head_cases());
}

#[test]
fn framing_request_lines() {
    check_framing(&request_line_cases());
}

#[test]
fn framing_garbage() {
    check_framing(&garbage_cases());
}

#[test]
fn framing_bodies() {
    check_framing(&body_cases());
}

/// The ends of connections are those of another family; the parser is the same.
#[test]
fn framing_on_a_unix_socket() {
    for cases in [chunk_cases(), garbage_cases(), body_cases()] {
        check_framing_on(Family::Unix, &cases);
    }
}

/// Every byte at every place where a grammar decides: refused and closed, or served and kept.
#[test]
fn every_byte_at_every_place_follows_the_grammar() {
    let places: [(&str, &str); 12] = [
        ("", "POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("PO", "ST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST", " /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST ", "/ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ing", "est HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST http://a", "/ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.", "\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1", "\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1\r\nHost: a", "\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1\r\nHost: a\r\nX", ": b\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1\r\nHost: a\r\nX: b", "\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17", "\r\n\r\n"),
    ];
    let chunk_places: [(&str, &str); 6] = [
        ("11", "\r\n"),
        ("11;a", "\r\n"),
        ("11;a=", "\r\n"),
        ("11;a=\"", "\"\r\n"),
        ("11;a=\"\\", "\"\r\n"),
        ("11 ", ";a\r\n"),
    ];
    let bounds = crate::grammar::Bounds {
        head_bytes: HEAD_BYTES_MAX,
        fields: HEADERS_MAX,
        body_bytes: BODY_BYTES_MAX,
    };
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    let mut failed = Vec::new();
    let mut check = |bytes: Vec<u8>| {
        let expected = crate::grammar::parse(&bytes, bounds);
        let mut connection = server.connect();
        connection.send(&bytes);
        connection.finish();
        let mut refused = false;
        let mut served = 0;
        while let Ok(answer) = connection.read() {
            // The routes' own errors keep the connection, and 202 closes it only in HTTP/1.0.
            refused = answer.closes() && answer.status != 202;
            served += usize::from(!refused);
        }
        if (served, refused) != (expected.accepted.len(), expected.is_refused) {
            failed.push(format!("{served} {refused}: {expected:?}: {}", bytes.escape_ascii()));
        }
    };
    for byte in 0..=u8::MAX {
        for (before, after) in places {
            check([before.as_bytes(), &[byte], after.as_bytes(), BODY].concat());
        }
        for (before, after) in chunk_places {
            check(sized(&[before.as_bytes(), &[byte], after.as_bytes()].concat()));
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_refused_head_has_no_body() {
    let server = Server::start(Engine::Native, &[]);
    for bytes in [
        &b"HEAD / HTTP/1.1\r\n\r\n"[..],
        b"HEAD / HTTP/2.0\r\n",
        b"HEAD /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx",
    ] {
        let mut connection = server.connect();
        connection.send(bytes);
        let all = connection.read_rest().expect("the refusal, then the end");
        let length = crate::harness::find(&all, b"\r\n\r\n").expect("a head") + 4;
        assert!(all.starts_with(b"HTTP/1.1 4") || all.starts_with(b"HTTP/1.1 505"));
        assert_eq!(all.len(), length, "{}", shown(&all));
    }
}

#[test]
fn refusals_are_counted_as_requests() {
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    server.ask(&raw("Content-Length: x\r\n", b"")).error(400);
    server.ask(b"GET / HTTP/9.9\r\n\r\n").error(505);
    server.ask(&packed("br", BODY)).error(415);
    server.ask(&chunks(&[b"x"])).error(400);
    let answer = server.get("/metrics");
    let scrape = answer.text();
    for line in [
        r#"http_requests_total{method="POST",path="/ingest",code="400"} 2"#,
        r#"http_requests_total{method="other",path="other",code="505"} 1"#,
        r#"http_requests_total{method="POST",path="/ingest",code="415"} 1"#,
    ] {
        assert!(scrape.contains(line), "{line} in {scrape}");
    }
}

#[test]
fn there_are_as_many_rows_as_required() {
    let mut names: Vec<String> = framing_cases().into_iter().map(|case| case.name).collect();
    names.extend(json_cases().into_iter().map(|case| case.name.to_owned()));
    names.extend(limit_cases().into_iter().map(|case| case.name));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two cases share a name");
    println!("{count} named cases in tables");
    assert!(count >= CASES_MIN);
}
