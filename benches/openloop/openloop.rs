//! Latency at a steady rate, told from the moment a request was due, not from when it was sent.
//!
//! A closed loop waits for slow answers and so asks less often just when it matters; here each
//! connection keeps its timetable, and lateness counts. Checks every answer.
//!
//! Usage: `openloop ADDRESS RATE SECONDS [CONNECTIONS]`; prints one line of JSON.

#![allow(clippy::disallowed_methods, reason = "a load generator keeps its own time")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

const BODY: &str = r#"{"timestamp":1735100000,"cpu":60.5,"rps":2000}"#;
/// Enough that one late answer delays few of the others.
const CONNECTIONS: usize = 16;
/// An answer that takes longer is an error.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The answer to one sample fits.
const ANSWER_BYTES_MAX: usize = 4096;
/// The sleep ends a little early; the rest is waited for awake, so that waking up is not measured.
const AWAKE: Duration = Duration::from_micros(100);

struct Outcome {
    latencies_ns: Vec<u64>,
    errors: u64,
}

fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    std::thread::sleep(left.saturating_sub(AWAKE));
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

fn is_accepted(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut answer = [0; ANSWER_BYTES_MAX];
    let mut length = 0;
    loop {
        let read = stream.read(&mut answer[length..])?;
        length += read;
        if answer[..length].ends_with(b"}") || read == 0 {
            return Ok(answer.starts_with(b"HTTP/1.1 202 "));
        }
    }
}

fn drive(address: &str, start: Instant, gap: Duration, count: u32) -> Outcome {
    let mut outcome = Outcome { latencies_ns: Vec::with_capacity(count as usize), errors: 0 };
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream.set_read_timeout(Some(TIMEOUT)).expect("timeout");
    let request = format!(
        "POST /ingest HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    for index in 0..count {
        let due = start + gap * index;
        wait_until(due);
        let sent = stream.write_all(request.as_bytes());
        if sent.is_ok() && is_accepted(&mut stream).unwrap_or(false) {
            outcome.latencies_ns.push(due.elapsed().as_nanos() as u64);
        } else {
            outcome.errors += 1;
        }
    }
    outcome
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, rate, seconds, rest @ ..] = &arguments[..] else {
        panic!("usage: openloop ADDRESS RATE SECONDS [CONNECTIONS]");
    };
    let rate: u32 = rate.parse().expect("RATE");
    let seconds: u32 = seconds.parse().expect("SECONDS");
    let connections =
        rest.first().map_or(CONNECTIONS, |number| number.parse().expect("CONNECTIONS")) as u32;

    let gap = Duration::from_secs(1) * connections / rate;
    let count = rate * seconds / connections;
    let start = Instant::now() + Duration::from_millis(100);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let drivers: Vec<_> = (0..connections)
            .map(|index| {
                let first = start + Duration::from_secs(1) * index / rate;
                scope.spawn(move || drive(address, first, gap, count))
            })
            .collect();
        drivers.into_iter().map(|driver| driver.join().expect("driver")).collect()
    });

    let errors: u64 = outcomes.iter().map(|outcome| outcome.errors).sum();
    let mut latencies: Vec<u64> = outcomes.into_iter().flat_map(|o| o.latencies_ns).collect();
    latencies.sort_unstable();
    let at = |share: f64| -> f64 {
        let index = (latencies.len() as f64 * share) as usize;
        latencies
            .get(index.min(latencies.len().saturating_sub(1)))
            .map_or(f64::NAN, |&ns| ns as f64 / 1e3)
    };
    let report = json!({
        "rate": rate, "seconds": seconds, "connections": connections,
        "requests": latencies.len(), "errors": errors,
        "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0),
    });
    println!("{report}");
}
