//! `sigmad demo`: a simulated fleet, so that a new user sees every part at work.
//!
//! [`fleet`] simulates the readings of its devices and [`story`] what breaks; a thread posts them to this process's own
//! address, over HTTP like any client, and forgets devices there like any operator. The server has judged the [`Past`]
//! before: detectors need one.

pub mod fleet;
mod past;
pub mod sites;
pub mod story;

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use self::fleet::{DeviceReading, SimulatedFleet};
pub use self::past::{Past, PastReadings};
use self::story::faults;
use sigmad_clock::Clock;

/// The interval between the readings of a device.
const PERIOD: Duration = Duration::from_millis(250);
/// The noise of the fleet after the start; that of its past is another.
const SEED: u64 = 11;
/// The default of `--incident-interval`: a story of a minute has thirty of them.
pub const INCIDENT_INTERVAL: &str = "2s";
/// The default of `--min-samples`: bounded noise takes this many values to show its bounds.
pub const MIN_SAMPLES: usize = 40;
/// A response that takes longer counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest head of a response that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What the server asks of its clients; None where it asks for nothing.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Of who sends samples.
    pub ingest: Option<String>,
    /// Of operators.
    pub operator: Option<String>,
}

/// Starts the thread that posts to `address` while the process runs.
///
/// # Errors
/// When the kernel refuses a thread.
pub fn start(address: SocketAddr, tokens: Tokens, start: Instant) -> io::Result<()> {
    let client = Client { address: reachable(address), tokens, connection: None };
    let run = move || run(client, &Clock::new(start));
    std::thread::Builder::new().name("demo".into()).spawn(run)?;
    Ok(())
}

/// The address at which a client on this machine reaches a server that listens on `address`.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn run(mut client: Client, clock: &Clock) {
    let mut fleet = SimulatedFleet::new(SEED);
    let begun_ns = clock.monotonic_ns();
    for turn in 0u32.. {
        let due = PERIOD * turn;
        let elapsed = Duration::from_nanos(clock.monotonic_ns() - begun_ns);
        std::thread::sleep(due.saturating_sub(elapsed));
        tell(due, &fleet, &mut client);
        for rack in fleet.measure(due.as_secs_f64()) {
            // None of its devices is heard.
            if rack.is_empty() {
                continue;
            }
            if let Err(error) = client.post(&body(&rack)) {
                warn!(%error, "the demo could not post its samples");
            }
        }
    }
}

/// Logs what breaks and what is well again with the readings that are due, and forgets what broke.
fn tell(due: Duration, fleet: &SimulatedFleet, client: &mut Client) {
    let at_s = due.as_secs_f64();
    let is_due = |moment_s: f64| (moment_s..moment_s + PERIOD.as_secs_f64()).contains(&at_s);
    for fault in faults(at_s) {
        let device = fleet.name(fault.devices.start);
        if is_due(fault.span_s.start) {
            info!("demo: {}", fault.begins(device));
        } else if is_due(fault.span_s.end) {
            info!("demo: {}", fault.ends(device));
        } else if is_due(fault.forgotten_s) {
            for device in fault.devices.map(|place| fleet.name(place)) {
                if let Err(error) = client.forget(device) {
                    warn!(%error, device, "the demo could not forget what was learned of a fault");
                }
            }
        }
    }
}

/// One connection, kept while it works.
struct Client {
    address: SocketAddr,
    tokens: Tokens,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    fn post(&mut self, body: &str) -> io::Result<()> {
        let token = self.tokens.ingest.clone();
        self.request("POST /ingest", token.as_deref(), body)
    }

    fn forget(&mut self, device: &str) -> io::Result<()> {
        let token = self.tokens.operator.clone();
        self.request(&format!("DELETE /devices/{device}"), token.as_deref(), "")
    }

    fn request(&mut self, what: &str, token: Option<&str>, body: &str) -> io::Result<()> {
        let done = self.exchange(what, token, body);
        if done.is_err() {
            self.connection = None;
        }
        done
    }

    fn exchange(&mut self, what: &str, token: Option<&str>, body: &str) -> io::Result<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.address)?;
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                stream.set_nodelay(true)?;
                self.connection.insert(BufReader::new(stream))
            }
        };
        let mut request = format!(
            "{what} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        );
        if let Some(token) = token {
            write!(request, "Authorization: Bearer {token}\r\n").expect("a String takes it");
        }
        request += "\r\n";
        request += body;
        connection.get_mut().write_all(request.as_bytes())?;
        read_answer(connection)
    }
}

/// Reads one response; an error unless it is a success.
fn read_answer(connection: &mut impl BufRead) -> io::Result<()> {
    let mut head = connection.take(ANSWER_BYTES_MAX);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let status = line.split(' ').nth(1).unwrap_or("nothing").to_owned();
    let mut length = 0;
    loop {
        line.clear();
        if head.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    io::copy(&mut connection.take(length), &mut io::sink())?;
    if status.starts_with('2') {
        Ok(())
    } else {
        Err(io::Error::other(format!("answered {status}")))
    }
}

fn body(rack: &[DeviceReading]) -> String {
    let mut body = String::from("[");
    for DeviceReading { device, rps, cpu } in rack {
        let comma = if body.len() > 1 { "," } else { "" };
        write!(body, r#"{comma}{{"device":"{device}","rps":{rps:.0},"cpu":{cpu:.1}}}"#)
            .expect("a String takes it");
    }
    body + "]"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_their_end() {
        let answers =
            "HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\n12345HTTP/1.1 503 No\r\n\r\n";
        let mut connection = BufReader::new(answers.as_bytes());
        read_answer(&mut connection).expect("a success");
        assert!(read_answer(&mut connection).expect_err("a refusal").to_string().contains("503"));
        assert!(read_answer(&mut connection).is_err(), "the end of the stream is no success");
    }

    #[test]
    fn a_rack_is_an_array_of_samples() {
        let reading =
            |device: &str| DeviceReading { device: device.into(), rps: 2000.4, cpu: 60.25 };
        let sent = body(&[reading("a"), reading("b")]);
        assert_eq!(
            sent,
            r#"[{"device":"a","rps":2000,"cpu":60.2},{"device":"b","rps":2000,"cpu":60.2}]"#
        );
    }

    #[test]
    fn a_server_on_every_address_is_found_on_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            let address = listens.parse().expect("an address");
            assert_eq!(reachable(address).to_string(), reached);
        }
    }
}
