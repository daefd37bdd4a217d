//! The same over HTTP: every value is sent to a running server, and its verdict read back.
//!
//! One connection, a sample and then a question, as the answer to a question sees exactly the samples
//! sent before it. The device is new for every series, so nothing is left over from a run before.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::series::Series;

/// The metric that every series is sent as.
const METRIC: &str = "value";
/// A server that takes longer for one answer is not well.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer that is longer is not one to this question.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why a server gives no verdicts.
#[derive(Debug)]
pub enum RemoteError {
    /// Not `http://host:port`.
    Url(String),
    /// The connection.
    Io(io::Error),
    /// An answer that was not expected.
    Answer(String),
}

impl std::error::Error for RemoteError {}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url}: must be like http://127.0.0.1:8080"),
            Self::Io(error) => write!(f, "the server cannot be reached: {error}"),
            Self::Answer(answer) => write!(f, "the server answers: {answer}"),
        }
    }
}

impl From<io::Error> for RemoteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A running server.
pub struct Remote {
    host: String,
    stream: TcpStream,
    /// Sets this run's devices apart from others'.
    run: u32,
    series: usize,
    buffer: Vec<u8>,
}

impl Remote {
    /// Connects.
    pub fn connect(url: &str) -> Result<Self, RemoteError> {
        let host = url.strip_prefix("http://").map(|host| host.trim_end_matches('/'));
        let host = host.ok_or_else(|| RemoteError::Url(url.to_owned()))?.to_owned();
        let stream = TcpStream::connect(&host)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { host, stream, run: std::process::id(), series: 0, buffer: Vec::new() })
    }

    /// The server's detector, and one score for each value.
    pub fn scores(&mut self, series: &Series) -> Result<(String, Vec<f64>), RemoteError> {
        self.series += 1;
        let device = format!("eval-{}-{}", self.run, self.series);
        let mut detector = String::new();
        let mut scores = Vec::with_capacity(series.values.len());
        for (&at_us, &value) in series.timestamps_us.iter().zip(&series.values) {
            let sample = serde_json::json!({
                "timestamp": rfc3339(at_us)?, "device": device, METRIC: value,
            });
            self.ask("POST /ingest", sample.to_string().as_bytes(), 202)?;
            let report = self.ask(&format!("GET /analyze?device={device}"), b"", 200)?;
            let score = report["metrics"][METRIC]["score"].as_f64();
            scores.push(score.ok_or_else(|| RemoteError::Answer(report.to_string()))?);
            if detector.is_empty() {
                report["detector"].as_str().unwrap_or("unknown").clone_into(&mut detector);
            }
        }
        Ok((detector, scores))
    }

    fn ask(&mut self, request: &str, body: &[u8], expected: u16) -> Result<Value, RemoteError> {
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        self.buffer.clear();
        loop {
            if let Some((status, body)) = answer(&self.buffer)? {
                if status != expected {
                    return Err(RemoteError::Answer(String::from_utf8_lossy(body).into_owned()));
                }
                return serde_json::from_slice(body)
                    .map_err(|error| RemoteError::Answer(error.to_string()));
            }
            let mut part = [0; 4_096];
            match self.stream.read(&mut part)? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ if self.buffer.len() > ANSWER_BYTES_MAX => {
                    return Err(RemoteError::Answer("without an end".to_owned()));
                }
                read => self.buffer.extend_from_slice(&part[..read]),
            }
        }
    }
}

/// Status and body, once all of it is there.
fn answer(bytes: &[u8]) -> Result<Option<(u16, &[u8])>, RemoteError> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| RemoteError::Answer(error.to_string()))?;
    let httparse::Status::Complete(head) = parsed else { return Ok(None) };
    let length = response.headers.iter().find_map(|header| {
        let is_length = header.name.eq_ignore_ascii_case("content-length");
        is_length.then(|| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok())?
    });
    let length = length.ok_or_else(|| RemoteError::Answer("without a length".to_owned()))?;
    let status = response.code.unwrap_or(0);
    Ok(bytes.get(head..head + length).map(|body| (status, body)))
}

fn rfc3339(at_us: i64) -> Result<String, RemoteError> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_us) * 1_000);
    let text = at.ok().and_then(|at| at.format(&Rfc3339).ok());
    text.ok_or_else(|| RemoteError::Answer(format!("{at_us} us is no date")))
}
