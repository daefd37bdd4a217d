//! The settings of the server: default, range and help of each.
//!
//! The first paragraph of a field's documentation is its line in `--help`; `docs/SETTINGS.md` has all of it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use sigmad_flags::{TokenFlag, bytes, count, duration};
use sigmad_notify::settings::NotifySettings;

use super::choices::{
    Ack, Engine, LogFormat, Pin, PollerKind, RedisHistory, RedisKeys, Shards, Switch, shards,
};
use super::grafana_url::GrafanaUrl;
use super::listen::listen;
use super::parsers::{RedisUrlParser, log_filter, threshold};
use crate::decode::{DEVICE_LABELS, Glob};
use crate::http::cors::AllowedOrigin;
use crate::http::listen::ListenAddress;
use crate::store::url::{Password, Target};
use sigmad_detectors::DetectorKind;

/// The default of `--listen`.
pub(super) const LISTEN: &str = "0.0.0.0:8080";
/// More threads would only share the cores of the largest machines.
const WORKERS: RangeInclusive<usize> = 0..=1_024;
/// One value has no spread; past the upper end every read of a window copies more than 80 kB.
const WINDOW: RangeInclusive<usize> = 2..=10_000;
/// The names of 100 million streams alone take more than 10 GB.
const STREAMS: RangeInclusive<usize> = 1..=100_000_000;
/// The upper end is more than the ports of fifteen client addresses.
const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;
/// Below it the program itself has no room; past it the parts are as large as without a limit.
const MEMORY_BYTES: RangeInclusive<usize> = 32 * 1024 * 1024..=1 << 50;
/// The lower end holds what curl sends; each connection can hold the upper end in memory.
const HEAD_BYTES: RangeInclusive<usize> = 256..=256 * 1024;
/// The lower end holds one sample; each connection can hold the upper end twice, compressed and decompressed.
const BODY_BYTES: RangeInclusive<usize> = 64..=256 * 1024 * 1024;
/// Below it one lost packet would end a connection.
const READ_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
/// The upper end is what a slow disk reads.
const BODY_RATE_BYTES: RangeInclusive<usize> = 1..=64 * 1024 * 1024;
const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=DAY;
/// Zero stops at once; no supervisor waits longer than an hour.
const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
/// Below it devices that report once a second would lose their windows between two samples.
const STREAM_IDLE: RangeInclusive<Duration> = Duration::from_secs(10)..=YEAR;
/// Below it each value is an interval; past it an incident opens too late to be of use.
const INCIDENT_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=YEAR;
/// Zero: values never wait. The longest keeps what a minute brings of devices that move.
const HANDOVER_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
/// Below it Redis is busy with flushes alone; past it replicas judge by stale windows.
const FLUSH_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(60);
/// The lower end holds the devices of a small fleet.
const STATE_BYTES: RangeInclusive<usize> = 1024 * 1024..=1 << 50;
/// Below it the disk writes nothing else; past it a crash loses too much.
const SNAPSHOT_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=DAY;
/// The lower end holds some seconds of a small fleet.
const REDIS_QUEUE_BYTES: RangeInclusive<usize> = 1024 * 1024..=64 * 1024 * 1024 * 1024;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The settings of `sigmad serve` and `sigmad demo`.
#[derive(Args, Clone, Debug)]
pub struct ServerSettings {
    /// address and port, or unix:/path/of/socket
    ///
    /// Address and port: `127.0.0.1:8080`, `[::]:8080` for IPv4 and IPv6, `localhost:8080`, or a port alone (`8080`, `:8080`)
    /// for all IPv4 addresses. Or a Unix socket: `unix:/run/sigmad.sock`, by default with mode 0660, or with options as in
    /// `unix:/run/sigmad.sock?mode=0660&user=sigmad&group=telegraf`; `unix:@name` is an abstract name. It may be given several
    /// times, or as a list with commas.
    #[arg(
        help_heading = "HTTP",
        long,
        value_delimiter = ',',
        default_value = LISTEN,
        value_parser = listen
    )]
    pub listen: Vec<ListenAddress>,

    /// worker threads; 0: from CPU cores and quota
    ///
    /// HTTP worker threads, 0 to 1024. By default one for each core that cpuset and CPU quota allow, less those
    /// of the analytics threads, and one at least.
    #[arg(help_heading = "HTTP", long, default_value = "0", value_parser = count(WORKERS))]
    pub workers: usize,

    /// threads that judge devices: auto, or 1 to 64
    ///
    /// Shards of analytics, 1 to 64: threads that have the windows of a part of the devices each. With more than one, the
    /// fleet's windows have one more thread. `auto`: one; from eight cores on one for every four.
    #[arg(help_heading = "HTTP", long, value_name = "N", default_value = "auto", value_parser = shards)]
    pub analytics: Shards,

    /// pin each thread to a CPU core: auto, on, off
    ///
    /// Pin each thread to a CPU core. `auto` pins if there is no CPU quota, at least four cores, and a core for
    /// each thread.
    #[arg(help_heading = "HTTP", long, value_enum, default_value = "auto")]
    pub pin: Pin,

    /// native, or may (for benchmarks only)
    ///
    /// HTTP engine. `may` is for comparisons on trusted networks; see ENGINES.md.
    #[arg(help_heading = "HTTP", long, value_enum, default_value = "native")]
    pub engine: Engine,

    /// epoll, or io_uring where the kernel allows it
    ///
    /// How workers of the native engine wait for the kernel. `io_uring` needs Linux 6.1, and many container runtimes forbid
    /// it: then the log says so, and epoll is used.
    #[arg(help_heading = "HTTP", long, value_enum, default_value = "epoll")]
    pub poller: PollerKind,

    /// memory that is divided; default: that of the cgroup or machine
    ///
    /// Memory that is divided: half for streams and what incidents keep of them, an eighth for bodies, an eighth for queues. By default the limit of the
    /// cgroup, or the memory of the machine. The start logs the parts.
    #[arg(help_heading = "HTTP", long, value_name = "SIZE", value_parser = bytes(MEMORY_BYTES))]
    pub memory_limit: Option<usize>,

    /// limit of open connections
    ///
    /// Open connections, as far as the file limit allows. A new connection past the limit closes the connection
    /// that has been idle longest; if none is idle, it gets 503, but for the health paths.
    #[arg(help_heading = "HTTP", long, default_value = "20000", value_parser = count(CONNECTIONS))]
    pub max_connections: usize,

    /// largest request head; larger ones get 431
    #[arg(help_heading = "HTTP", long, default_value = "16KiB", value_parser = bytes(HEAD_BYTES))]
    pub max_head: usize,

    /// largest request body; larger ones get 413
    ///
    /// Largest request body, both compressed and decompressed; larger ones get 413.
    #[arg(help_heading = "HTTP", long, default_value = "8MiB", value_parser = bytes(BODY_BYTES))]
    pub max_body: usize,

    /// time for a head, or the next part of a body
    ///
    /// Time limit for a whole request head, and for each part of a body. The answer to a slower request is 408.
    #[arg(help_heading = "HTTP", long, default_value = "10s", value_parser = duration(READ_TIMEOUT))]
    pub read_timeout: Duration,

    /// bytes per second that a body must bring
    ///
    /// Bytes per second that a body must bring, once `--read-timeout` has passed. The answer to a slower one is 408.
    #[arg(help_heading = "HTTP", long, default_value = "1KiB", value_parser = bytes(BODY_RATE_BYTES))]
    pub body_rate_min: usize,

    /// close a connection that is idle for this time
    ///
    /// Close a connection that is idle for this time. Keep it above the idle timeout of a proxy in front of the
    /// server (nginx: 60s), or the proxy answers 502.
    #[arg(help_heading = "HTTP", long, default_value = "75s", value_parser = duration(IDLE_TIMEOUT))]
    pub idle_timeout: Duration,

    /// time to finish open requests after SIGTERM
    ///
    /// Time to finish open requests after SIGTERM. Keep it below the grace period of the supervisor.
    #[arg(help_heading = "HTTP", long, default_value = "25s", value_parser = duration(DRAIN))]
    pub drain: Duration,

    /// values in the window of each stream
    ///
    /// Values in the window of each stream, 2 to 10000. Each takes 8 bytes.
    #[arg(help_heading = "Detection", long, default_value = "50", value_parser = count(WINDOW))]
    pub window: usize,

    /// values a window needs before any anomaly
    ///
    /// Values that a window must hold before a value can be an anomaly. The default is 10, or `--window` if that
    /// is less; `sigmad demo` starts from 40.
    #[arg(help_heading = "Detection", long, default_value = "10", value_parser = count(WINDOW))]
    pub min_samples: usize,

    /// detectors to run, comma-separated; the first one decides isAnomaly
    ///
    /// Detectors to run, comma-separated; the first one decides `isAnomaly`. See DETECTION.md.
    #[arg(
        help_heading = "Detection",
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "zscore"
    )]
    pub detector: Vec<DetectorKind>,

    /// standard deviations that make an anomaly
    ///
    /// Distance from the mean, in standard deviations, past which a value is an anomaly.
    #[arg(help_heading = "Detection", long, default_value = "2.0", value_parser = threshold)]
    pub threshold: f64,

    /// limit of streams; default: what fits into 3/8 of memory
    ///
    /// Limit of streams (device × metric); a sample that needs another one gets 429. By default those that fit into 3/8
    /// of `--memory-limit`, half of it with `--incidents off`, and at most 1,000,000. A stream takes up to 1 KiB with `zscore` alone, 4 KiB with `pager`.
    #[arg(help_heading = "Detection", long, value_name = "COUNT", value_parser = count(STREAMS))]
    pub max_streams: Option<usize>,

    /// idle time after which a device or a metric can be evicted
    ///
    /// A device without samples for this time, or a metric name that nobody sent, is evicted if a new one needs its place.
    #[arg(help_heading = "Detection", long, default_value = "1h", value_parser = duration(STREAM_IDLE))]
    pub stream_idle: Duration,

    /// time for which /latest and Redis keep a sample
    ///
    /// Time for which `/latest` and Redis keep a sample.
    #[arg(help_heading = "Detection", long, default_value = "300s", value_parser = duration(TTL))]
    pub ttl: Duration,

    /// find incidents: on, off
    ///
    /// Find incidents: what begins to be wrong with streams, by `pager`, whatever `--detector` says. A stream takes 3.6 kB
    /// as far as memory suffices. See DETECTION.md.
    #[arg(help_heading = "Incidents", long, value_enum, default_value = "on")]
    pub incidents: Switch,

    /// fold values of a stream within this time into one
    ///
    /// Values of a stream that arrive within this time are folded into one, by which it is judged for incidents. A slower
    /// stream is judged value by value. `sigmad demo` has 2 s.
    #[arg(
        help_heading = "Incidents",
        long,
        default_value = "10s",
        value_parser = duration(INCIDENT_INTERVAL)
    )]
    pub incident_interval: Duration,

    /// devices that may be silent, as patterns
    ///
    /// Devices that may be silent, as patterns with `*` and `?` such as `web-*`, comma-separated: those of fleets that grow
    /// and shrink. Any other device that is usually heard and is not is an incident.
    #[arg(help_heading = "Incidents", long, value_name = "PATTERN", value_delimiter = ',')]
    pub silence_ignore: Vec<Glob>,

    /// link of the live page to Grafana, with {device}, {series}, {from}, {to}
    ///
    /// URL that the live page links devices and incidents to, with `{device}`, `{series}`, `{from}` and `{to}` (milliseconds
    /// since 1970) and `{incident}` in their places, such as
    /// `https://grafana.example/d/sigmad?var-device={device}&var-metric={series}&from={from}&to={to}`.
    #[arg(help_heading = "Incidents", long, value_name = "URL")]
    pub grafana_url: Option<GrafanaUrl>,

    /// labels that can be the device; see SERIES.md
    ///
    /// Labels that can be the device of a point, comma-separated; the first that it carries is. JSON samples have `device`
    /// first. See SERIES.md.
    #[arg(
        help_heading = "Series",
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = DEVICE_LABELS,
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub device_labels: Vec<String>,

    /// series to keep, as patterns with * and ?
    ///
    /// Series to keep, as patterns such as `node_cpu_*`, comma-separated: `*` is any text, and `?` any one character, also a
    /// comma. The default is all. For points of every format but JSON samples; what is left out is counted.
    #[arg(help_heading = "Series", long, value_name = "PATTERN", value_delimiter = ',')]
    pub keep: Vec<Glob>,

    /// series to drop of those that are kept
    ///
    /// Series to drop of those that `--keep` keeps, as the same patterns.
    #[arg(help_heading = "Series", long, value_name = "PATTERN", value_delimiter = ',')]
    pub drop: Vec<Glob>,

    /// untyped metrics that are counters
    ///
    /// Names of metrics, without labels, that are counters if their sender gives no type: judged by their rate. The same
    /// patterns. SERIES.md lists those that are known to be.
    #[arg(help_heading = "Series", long, value_name = "PATTERN", value_delimiter = ',')]
    pub counters: Vec<Glob>,

    /// untyped metrics that are gauges
    ///
    /// Names of metrics, without labels, that are gauges if their sender gives no type, although they would be counters.
    #[arg(help_heading = "Series", long, value_name = "PATTERN", value_delimiter = ',')]
    pub gauges: Vec<Glob>,

    /// Redis in which replicas share their windows
    ///
    /// Redis in which replicas share their windows: `redis://`, `rediss://`, `redis+sentinel://` or
    /// `redis+cluster://`; see REDIS.md. Give a password in the variable: other users can read a command line.
    #[arg(help_heading = "Redis", long, value_parser = RedisUrlParser)]
    pub redis_url: Option<Target>,

    /// password of Redis, or @file
    ///
    /// Password of Redis, as a value or `@file`, instead of one in `--redis-url`; a user stays in the URL
    /// (`redis://user@host`). The file is read for each login, and so when Redis refuses the old password: a
    /// mounted Secret that changes needs no restart.
    #[arg(help_heading = "Redis", long, value_name = "PASSWORD")]
    pub redis_password: Option<Password>,

    /// interval between Redis writes; replicas lag each other by up to this
    #[arg(
        help_heading = "Redis",
        long,
        default_value = "100ms",
        value_parser = duration(FLUSH_INTERVAL)
    )]
    pub flush_interval: Duration,

    /// longest wait of a device that moved, for its detector states
    ///
    /// How long values of a device that another replica had wait for the detector states of that replica, at most. Only
    /// detectors other than `zscore` wait. Longer with a `--flush-interval` above 200ms: the other replica learns of
    /// the move with one flush, and writes the states with the next.
    #[arg(
        help_heading = "Redis",
        long,
        default_value = "1s",
        value_parser = duration(HANDOVER_WAIT)
    )]
    pub handover_wait: Duration,

    /// stream: also write samples to a Redis stream
    ///
    /// `stream`: also keep every sample, in a Redis stream for each replica.
    #[arg(help_heading = "Redis", long, value_enum, default_value = "off")]
    pub redis_history: RedisHistory,

    /// keys that each sample has: two, one or none
    ///
    /// Keys that each sample has in Redis. `two`: `metric:<timestamp>`, and with a device `metric:<device>:<timestamp>` as
    /// well; `one`: only the second for a sample with a device; `none`: windows only. REDIS.md says what they take.
    #[arg(help_heading = "Redis", long, value_enum, default_value = "two")]
    pub redis_keys: RedisKeys,

    /// memory for samples while Redis is unavailable
    ///
    /// Memory for samples that wait while Redis is unavailable. When it is full, the oldest samples are dropped and
    /// counted. By default 1/16 of `--memory-limit`, at most 64 MiB.
    #[arg(help_heading = "Redis", long, value_name = "SIZE", value_parser = bytes(REDIS_QUEUE_BYTES))]
    pub redis_queue: Option<usize>,

    /// directory that keeps what was learned over a restart
    ///
    /// Directory in which windows, detectors and anomalies outlive a restart; it is created. One process at a time uses it.
    /// Without it they are in memory alone. With `--redis-url` each replica has a directory of its own, which also says which
    /// replica it is: never start two from copies of one directory.
    #[arg(help_heading = "State", long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// limit of the state directory
    ///
    /// Limit of all files in `--state-dir`. When no further snapshot fits, the older ones are kept, and it is counted.
    #[arg(help_heading = "State", long, value_name = "SIZE", default_value = "4GiB", value_parser = bytes(STATE_BYTES))]
    pub state_max: usize,

    /// interval between two snapshots of all devices
    ///
    /// Interval between two snapshots of all devices in `--state-dir`. One more is written at the end of the drain.
    #[arg(help_heading = "State", long, default_value = "60s", value_parser = duration(SNAPSHOT_INTERVAL))]
    pub snapshot_interval: Duration,

    /// acknowledge samples in: memory, disk
    ///
    /// When the 202 of samples leaves. `memory`: once they are in the queue to analytics; a crash can lose the last 100 ms.
    /// `disk`: once the journal in `--state-dir` is synced with them, which costs each request one sync of the disk. The
    /// answer is 503 if they can't be made durable.
    #[arg(help_heading = "State", long, value_enum, default_value = "memory")]
    pub ack: Ack,

    /// bearer token for POST: the token, or @file
    ///
    /// Bearer token that POST requests need, as a token or `@file`. Without it, no token is needed.
    #[arg(help_heading = "Access", long, value_name = "TOKEN")]
    pub ingest_token: Option<TokenFlag>,

    /// bearer token for GET of data
    ///
    /// Bearer token that GET requests for data need, as a token or `@file`. Without it, no token is needed.
    #[arg(help_heading = "Access", long, value_name = "TOKEN")]
    pub read_token: Option<TokenFlag>,

    /// bearer token for /debug/; none: local only
    ///
    /// Bearer token that every request to `/debug/` needs, as a token or `@file`. Without it, only requests from this
    /// machine are answered, and others get 403.
    #[arg(help_heading = "Access", long, value_name = "TOKEN")]
    pub debug_token: Option<TokenFlag>,

    /// bearer token of operators; none: local only
    ///
    /// Bearer token that acknowledging an incident, silencing and `DELETE /devices/ID` need, as a token or `@file`. Without
    /// it, only requests from this machine are answered, and others get 403. Pages of other sites are refused in any case.
    #[arg(help_heading = "Access", long, value_name = "TOKEN")]
    pub operator_token: Option<TokenFlag>,

    /// PEM file of the certificate: HTTPS only
    ///
    /// PEM file of the certificate and its chain. With it the port speaks HTTPS only, TLS 1.2 and 1.3; Unix sockets stay
    /// without TLS. SIGHUP reads it again.
    #[arg(help_heading = "Access", long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file of the private key
    ///
    /// PEM file of the private key of `--tls-cert`. SIGHUP reads it again.
    #[arg(help_heading = "Access", long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// origins whose pages may read, or *
    ///
    /// Origins whose pages browsers let read responses, comma-separated, such as `https://example.com`; `*` for every one.
    #[arg(help_heading = "Access", long, value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<AllowedOrigin>,

    /// Who is told of incidents.
    #[command(flatten)]
    pub notify: NotifySettings,

    /// level or filter: info,sigmad::http=debug
    ///
    /// Log level, or a filter such as `info,sigmad::http=debug`.
    #[arg(help_heading = "Logs", long, default_value = "info", value_parser = log_filter)]
    pub log: String,

    /// human, json, or auto: human on a terminal only
    ///
    /// Format of log lines. `auto` is `human` on a terminal, and `json` elsewhere.
    #[arg(help_heading = "Logs", long, value_enum, default_value = "auto")]
    pub log_format: LogFormat,
}
