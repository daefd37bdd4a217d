//! What `sigmad load` is told: where to, how much, of what, and where the results go.
//!
//! These are requests of one run, not settings of a service: they have no variables in the
//! environment. [`LoadSettings::checked`] refuses what contradicts itself, so nobody checks again.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};

use sigmad_flags::{BearerToken, count, duration};
use sigmad_sample::QUEUE_SAMPLES_MAX;

/// Ten million a second is more than any one machine asks.
const RATE: RangeInclusive<usize> = 1..=10_000_000;
/// Below it a run is over before its threads are warm; past the upper end, run it twice.
const DURATION: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);
/// One address of the client has fewer ports.
const CONNECTIONS: RangeInclusive<usize> = 1..=60_000;
/// Past it the answers to one connection would fill its socket buffers before they are read.
const PIPELINE: RangeInclusive<usize> = 1..=1_024;
/// A body with more is refused by the decoder.
const BATCH: RangeInclusive<usize> = 1..=QUEUE_SAMPLES_MAX;
/// The largest `--max-streams` of a server.
const DEVICES: RangeInclusive<usize> = 1..=100_000_000;
const DEVICES_DEFAULT: usize = 100;
/// When every second value is an anomaly, none is.
const ANOMALY_RATE_MAX: f64 = 0.5;
const ANOMALY_RATE_DEFAULT: f64 = 0.01;
/// More would only take turns on the cores of the largest machines.
pub const THREADS_MAX: usize = 64;
const THREADS: RangeInclusive<usize> = 1..=THREADS_MAX;
/// Shorter than a lost packet; longer than anybody waits.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60 * 60);
/// Timestamps in microseconds have 16 digits between the two: 2001 to 2286.
const FROM_S: RangeInclusive<usize> = 1_000_000_000..=9_999_999_998;

/// The port of a URL that names none.
const PORT_DEFAULT: u16 = 80;
/// The path of a URL that names none.
const TARGET_DEFAULT: &str = "/ingest";

/// What stands under the flags in `--help`.
pub const HELP_END: &str = "  --help

An open loop (--rate) counts latency from the moment when a request was due, so
that a server that stops is seen; a closed loop asks again once it was answered.
Throughput is what was answered with 2xx. Exit codes: 0, 1 when no request
succeeded, 2 for a bad flag.

  sigmad load --rate 1000 --duration 60s --pid $(pidof sigmad)
  sigmad load --connections 64 --pipeline 16 --batch 100 --profile devices
  sigmad load --rate 2000 --profile anomalies --truth truth.ndjson --json -
";

/// The flags of `sigmad load`. The doc of each is its line in `--help`.
#[derive(Args, Clone, Debug)]
pub struct LoadSettings {
    /// where to POST, plain HTTP; without a path: /ingest
    #[arg(long, default_value = "http://127.0.0.1:8080/ingest")]
    pub url: Url,

    /// open loop: requests a second, by timetable; without it closed loop
    #[arg(long, value_parser = count(RATE))]
    pub rate: Option<usize>,

    /// how long
    #[arg(long, default_value = "10s", value_parser = duration(DURATION))]
    pub duration: Duration,

    /// kept alive, and opened again when lost
    #[arg(long, default_value = "64", value_parser = count(CONNECTIONS))]
    pub connections: usize,

    /// unanswered requests on one connection, at most
    #[arg(long, default_value = "1", value_parser = count(PIPELINE))]
    pub pipeline: usize,

    /// samples in one request
    #[arg(long, default_value = "1", value_parser = count(BATCH))]
    pub batch: usize,

    /// seed: one sample, always the same; devices: a fleet with noise; anomalies: of which some values are wrong
    #[arg(long, value_enum, default_value = "seed")]
    pub profile: Profile,

    /// in the fleet; 100 unless given
    #[arg(long, value_parser = count(DEVICES))]
    pub devices: Option<usize>,

    /// share of samples with an anomaly, after the first 20 of each device; 0.01 unless given
    #[arg(long, value_parser = anomaly_rate)]
    pub anomaly_rate: Option<f64>,

    /// the anomalies that were accepted, one JSON object a line
    #[arg(long)]
    pub truth: Option<PathBuf>,

    /// of values and anomalies: the same seed, the same run
    #[arg(long, default_value = "1")]
    pub seed: u64,

    /// timestamp of the first sample, seconds since 1970; now unless given
    #[arg(long, value_parser = count(FROM_S))]
    pub from: Option<usize>,

    /// bearer token: itself or @file
    #[arg(long)]
    pub token: Option<BearerToken>,

    /// an answer that takes longer is an error
    #[arg(long, default_value = "5s", value_parser = duration(TIMEOUT))]
    pub timeout: Duration,

    /// threads that share the connections
    #[arg(long, default_value = "1", value_parser = count(THREADS))]
    pub threads: usize,

    /// the server's process: its CPU time per request, to the ns; user and system in ticks
    #[arg(long)]
    pub pid: Option<u32>,

    /// latencies for HdrHistogram's plotter
    #[arg(long)]
    pub hgrm: Option<PathBuf>,

    /// everything as JSON; `-`: to stdout, the table to stderr
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// What the bodies hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// One sample, always the same.
    Seed,
    /// A fleet that behaves.
    Devices,
    /// A fleet of which some values are wrong, and it is known which.
    Anomalies,
}

impl Profile {
    /// As the flag and the summary call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Devices => "devices",
            Self::Anomalies => "anomalies",
        }
    }

    /// Samples are of devices.
    pub const fn has_devices(self) -> bool {
        match self {
            Self::Seed => false,
            Self::Devices | Self::Anomalies => true,
        }
    }
}

impl LoadSettings {
    /// What no single flag shows; reads the token.
    ///
    /// # Errors
    /// A message that names the flags.
    pub fn checked(mut self) -> Result<Self, clap::Error> {
        let wrong = |message: String| {
            Err(clap::Error::raw(ErrorKind::ArgumentConflict, format!("{message}\n")))
        };
        if self.profile == Profile::Seed && self.devices.is_some() {
            return wrong("--devices needs --profile devices or anomalies".into());
        }
        if self.profile != Profile::Anomalies {
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
            Profile::Seed | Profile::Devices => 0.0,
            Profile::Anomalies => self.anomaly_rate.unwrap_or(ANOMALY_RATE_DEFAULT),
        }
    }
}

fn anomaly_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=ANOMALY_RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("must be a number from 0 to {ANOMALY_RATE_MAX}")),
    }
}

/// `http://host:port/target`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// For the Host field: host, and port where it was named.
    pub authority: String,
    /// Name or address, without brackets.
    pub host: String,
    /// 80 unless named.
    pub port: u16,
    /// Path and query.
    pub target: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) => return Err(format!("{scheme} is not spoken here, only http")),
            None => return Err("must be like http://host:port/path".into()),
        };
        // A request line carries nothing else.
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains('#') {
            return Err("must be printable ASCII without spaces and fragments".into());
        }
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
        Ok(Self { authority: authority.to_owned(), host: bare.to_owned(), port, target })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.target)
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
        text.parse::<Url>().map(|url| (url.host, url.port, url.target))
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
        let shown: Url = "http://[::1]:99".parse().expect("good");
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
        assert!(url("https://a").expect_err("refused").contains("only http"));
    }
}
