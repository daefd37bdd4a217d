//! The flags of `sigmad load`: target, rate, samples and results.
//!
//! They describe one run and not a service, so they have no environment variables.
//! [`LoadSettings::checked`] rejects flags that contradict each other; no other module checks them.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};

use sigmad_flags::{TokenFlag, UNIX_SCHEME, UnixName, count, duration};
use sigmad_sample::QUEUE_SAMPLES_MAX;

/// One machine can't send ten million requests a second.
const RATE: RangeInclusive<usize> = 1..=10_000_000;
/// Below it a run is over before its threads are warm; past the upper end, run it twice.
const DURATION: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);
/// One address of the client has fewer ports.
const CONNECTIONS: RangeInclusive<usize> = 1..=60_000;
/// Past it the responses to one connection would fill its socket buffers before they are read.
const PIPELINE: RangeInclusive<usize> = 1..=1_024;
/// The decoder of the server rejects a larger body.
const BATCH: RangeInclusive<usize> = 1..=QUEUE_SAMPLES_MAX;
/// The largest `--max-streams` of a server.
const DEVICES: RangeInclusive<usize> = 1..=100_000_000;
const DEVICES_DEFAULT: usize = 100;
/// If half of the values are anomalies, they are the normal case.
const ANOMALY_RATE_MAX: f64 = 0.5;
const ANOMALY_RATE_DEFAULT: f64 = 0.01;
/// More threads would only share the cores of the largest machines.
pub const THREADS_MAX: usize = 64;
const THREADS: RangeInclusive<usize> = 1..=THREADS_MAX;
/// From less than the retransmission of a packet to an hour.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60 * 60);
/// Between the two, 2001 to 2286, timestamps in microseconds have 16 digits.
const FROM_S: RangeInclusive<usize> = 1_000_000_000..=9_999_999_998;

/// The port of a URL without one.
const PORT_DEFAULT: u16 = 80;
/// The path of a URL without one.
const TARGET_DEFAULT: &str = "/ingest";

/// The end of `sigmad load --help`.
pub const HELP_END: &str = "
Open loop (--rate): requests follow a schedule. Latency counts from the time
when a request was due, so it shows a stalled server. Closed loop (no --rate): a
connection sends its next request after a response. Throughput counts 2xx only.
Exit codes: 0; 1 if no request succeeded; 2 for a wrong flag.

Examples:
  sigmad load --rate 1000 --duration 60s --pid $(pidof sigmad)
  sigmad load --connections 64 --pipeline 16 --batch 100 --profile devices
  sigmad load --rate 2000 --profile anomalies --truth truth.ndjson --json -
  sigmad load --url unix:/run/sigmad.sock
";

/// The flags of `sigmad load`. The documentation of each is its line in `--help`.
#[derive(Args, Clone, Debug)]
pub struct LoadSettings {
    /// URL to send POST requests to; HTTP only
    ///
    /// URL to send POST requests to, HTTP only. `unix:/run/sigmad.sock` is a Unix socket, and
    /// `unix:/run/sigmad.sock:/write` another path on it.
    #[arg(long, default_value = "http://127.0.0.1:8080/ingest", help_heading = "Requests")]
    pub url: TargetUrl,

    /// open loop: requests per second on a schedule
    #[arg(long, value_parser = count(RATE), help_heading = "Requests")]
    pub rate: Option<usize>,

    /// duration of the run
    #[arg(long, default_value = "10s", value_parser = duration(DURATION), help_heading = "Requests")]
    pub duration: Duration,

    /// keep-alive connections, reopened when lost
    #[arg(long, default_value = "64", value_parser = count(CONNECTIONS), help_heading = "Requests")]
    pub connections: usize,

    /// largest number of open requests per connection
    #[arg(long, default_value = "1", value_parser = count(PIPELINE), help_heading = "Requests")]
    pub pipeline: usize,

    /// a response that takes longer is an error
    #[arg(long, default_value = "5s", value_parser = duration(TIMEOUT), help_heading = "Requests")]
    pub timeout: Duration,

    /// bearer token: the token, or @file
    #[arg(long, value_name = "TOKEN", help_heading = "Requests")]
    pub token: Option<TokenFlag>,

    /// threads that share the connections
    #[arg(long, default_value = "1", value_parser = count(THREADS), help_heading = "Requests")]
    pub threads: usize,

    /// samples per request
    #[arg(long, default_value = "1", value_parser = count(BATCH), help_heading = "Samples")]
    pub batch: usize,

    /// seed: one fixed sample; devices: a fleet with noise; anomalies: a fleet with noise and anomalies
    #[arg(long, value_enum, default_value = "seed", help_heading = "Samples")]
    pub profile: LoadProfile,

    /// number of devices; the default is 100
    #[arg(long, value_parser = count(DEVICES), help_heading = "Samples")]
    pub devices: Option<usize>,

    /// share of samples with an anomaly, after 20 samples of the device; the default is 0.01
    #[arg(long, value_parser = anomaly_rate, help_heading = "Samples")]
    pub anomaly_rate: Option<f64>,

    /// seed of the values; equal seeds give equal runs
    #[arg(long, default_value = "1", help_heading = "Samples")]
    pub seed: u64,

    /// timestamp of the first sample, in seconds since 1970; the default is now
    #[arg(long, value_parser = count(FROM_S), help_heading = "Samples")]
    pub from: Option<usize>,

    /// file for accepted anomalies: JSON lines
    #[arg(long, help_heading = "Results")]
    pub truth: Option<PathBuf>,

    /// file for latencies, for HdrHistogram's plotter
    #[arg(long, help_heading = "Results")]
    pub hgrm: Option<PathBuf>,

    /// file for all results as JSON; -: standard output
    #[arg(long, help_heading = "Results")]
    pub json: Option<PathBuf>,

    /// server process whose CPU time to report
    ///
    /// Process of the server, to report its CPU time per request. The total is exact to the nanosecond; user
    /// and system time count in ticks.
    #[arg(long, help_heading = "Results")]
    pub pid: Option<u32>,
}

/// The samples of the request bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LoadProfile {
    /// One fixed sample.
    Seed,
    /// A fleet with noise.
    Devices,
    /// A fleet with noise and anomalies; each anomaly is known.
    Anomalies,
}

impl LoadProfile {
    /// The name in the flag and the summary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Devices => "devices",
            Self::Anomalies => "anomalies",
        }
    }

    /// Whether samples have a device.
    pub const fn has_devices(self) -> bool {
        match self {
            Self::Seed => false,
            Self::Devices | Self::Anomalies => true,
        }
    }
}

impl LoadSettings {
    /// Checks flags against each other; reads the token.
    ///
    /// # Errors
    /// A message that names the flags.
    pub fn checked(mut self) -> Result<Self, clap::Error> {
        let wrong = |message: String| {
            Err(clap::Error::raw(ErrorKind::ArgumentConflict, format!("{message}\n")))
        };
        if self.profile == LoadProfile::Seed && self.devices.is_some() {
            return wrong("--devices needs --profile devices or anomalies".into());
        }
        if self.profile != LoadProfile::Anomalies {
            if self.anomaly_rate.is_some() {
                return wrong("--anomaly-rate needs --profile anomalies".into());
            }
            if self.truth.is_some() {
                return wrong("--truth needs --profile anomalies".into());
            }
        }
        let Self { threads, connections, .. } = self;
        if threads > connections {
            return wrong(format!("--threads {threads} is more than --connections {connections}"));
        }
        if let Some(token) = &mut self.token
            && let Err(error) = token.read("token")
        {
            return wrong(error.to_string());
        }
        Ok(self)
    }

    /// Devices of the fleet.
    pub fn devices(&self) -> usize {
        self.devices.unwrap_or(DEVICES_DEFAULT)
    }

    /// Share of samples with an anomaly; 0 for profiles without.
    pub fn anomaly_rate(&self) -> f64 {
        match self.profile {
            LoadProfile::Seed | LoadProfile::Devices => 0.0,
            LoadProfile::Anomalies => self.anomaly_rate.unwrap_or(ANOMALY_RATE_DEFAULT),
        }
    }
}

fn anomaly_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=ANOMALY_RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("must be a number from 0 to {ANOMALY_RATE_MAX}")),
    }
}

/// Where the server of a URL listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetServer {
    /// Over TCP.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// 80 unless named.
        port: u16,
    },
    /// At a Unix socket.
    Unix(UnixName),
}

/// `http://host:port/target` or `unix:/path/of/socket:/target`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetUrl {
    /// For the Host field: host, and port where it was named; `localhost` for a Unix socket, as curl has it.
    pub authority: String,
    /// Where it leads.
    pub at: TargetServer,
    /// Path and query.
    pub target: String,
}

impl TargetUrl {
    /// The server, for messages.
    pub fn server(&self) -> String {
        match &self.at {
            TargetServer::Tcp { .. } => self.authority.clone(),
            TargetServer::Unix(name) => name.to_string(),
        }
    }
}

impl FromStr for TargetUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A request line carries nothing else.
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains('#') {
            return Err("must be printable ASCII without spaces and fragments".into());
        }
        if let Some(rest) = text.strip_prefix(UNIX_SCHEME) {
            return unix(rest);
        }
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err("https is not supported, only http: load a listener without TLS".into());
            }
            Some((scheme, _)) => return Err(format!("{scheme} is not supported, only http")),
            None => return Err("must be like http://host:port/path or unix:/path/of/socket".into()),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of an IPv6 address stand within its brackets.
            Some((host, port)) if !port.contains(']') => {
                let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
                (host, port)
            }
            _ => (authority, PORT_DEFAULT),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || bare.contains(['@', '[', ']']) || (bare == host && host.contains(':'))
        {
            return Err(format!("{authority:?} is not host:port"));
        }
        let target = match target.as_bytes().first() {
            None => TARGET_DEFAULT.to_owned(),
            Some(b'?') => format!("{TARGET_DEFAULT}{target}"),
            Some(_) => target.to_owned(),
        };
        let at = TargetServer::Tcp { host: bare.to_owned(), port };
        Ok(Self { authority: authority.to_owned(), at, target })
    }
}

/// What follows `unix:`. A colon ends the name, as in the URLs of nginx.
fn unix(rest: &str) -> Result<TargetUrl, String> {
    let (name, target) = rest.split_once(':').unwrap_or((rest, TARGET_DEFAULT));
    let name = format!("{UNIX_SCHEME}{name}").parse()?;
    if !target.starts_with('/') {
        return Err(
            "must have a path behind the socket, as in unix:/run/sigmad.sock:/ingest".into()
        );
    }
    let at = TargetServer::Unix(name);
    Ok(TargetUrl { authority: "localhost".into(), at, target: target.to_owned() })
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            TargetServer::Tcp { .. } => write!(f, "http://{}{}", self.authority, self.target),
            TargetServer::Unix(name) => write!(f, "{name}:{}", self.target),
        }
    }
}

#[cfg(test)]
pub mod testing {
    //! LoadSettings from flags, for the tests of this module.

    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: super::LoadSettings,
    }

    /// As `sigmad load` with these flags would have them.
    pub fn settings(args: &[&str]) -> super::LoadSettings {
        let line = Line::parse_from([&["load"], args].concat());
        line.settings.checked().expect("they agree")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<(String, u16, String), String> {
        text.parse::<TargetUrl>().map(|url| match url.at {
            TargetServer::Tcp { host, port } => (host, port, url.target),
            TargetServer::Unix(name) => panic!("{name}"),
        })
    }

    #[test]
    fn unix_sockets_are_urls_too() {
        for (text, shown) in [
            ("unix:/run/a.sock", "unix:/run/a.sock:/ingest"),
            ("unix:///run/a.sock", "unix:/run/a.sock:/ingest"),
            ("unix:@a:/write?db=x", "unix:@a:/write?db=x"),
        ] {
            let url: TargetUrl = text.parse().expect("good");
            assert_eq!((url.to_string().as_str(), url.authority.as_str()), (shown, "localhost"));
        }
        for text in ["unix:", "unix:a.sock", "unix:/a:", "unix:/a:b", "unix:/a:/b c", "unix://a/b"]
        {
            assert!(text.parse::<TargetUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, port, target) in [
            ("http://localhost:8080/ingest", "localhost", 8080, "/ingest"),
            ("HTTP://10.0.0.1", "10.0.0.1", 80, "/ingest"),
            ("http://[::1]:99/a?b=c", "::1", 99, "/a?b=c"),
            ("http://[::1]/", "::1", 80, "/"),
            ("http://a.example?x", "a.example", 80, "/ingest?x"),
        ] {
            assert_eq!(url(text), Ok((host.to_owned(), port, target.to_owned())), "{text}");
        }
        let shown: TargetUrl = "http://[::1]:99".parse().expect("good");
        assert_eq!((shown.authority.as_str(), shown.to_string().as_str()), {
            ("[::1]:99", "http://[::1]:99/ingest")
        });
    }

    #[test]
    fn what_is_no_plain_url_is_refused() {
        for text in [
            "localhost:8080",
            "https://localhost",
            "http://",
            "http://:80/",
            "http://a:b/",
            "http://a:65536",
            "http://::1/",
            "http://me@host/",
            "http://a/b c",
            "http://a/\r\nX: y",
            "http://a/#top",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
        assert!(url("ftp://a").expect_err("refused").contains("only http"));
        assert!(url("HTTPS://a").expect_err("refused").contains("a listener without TLS"));
    }
}
