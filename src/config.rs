//! Every setting: its default, its limits, and what it costs to turn.
//!
//! [`parse`] is the only source of [`Settings`]: what it gives out has passed every check and has its
//! tokens read, so nobody checks a setting again. A bad value, an unknown name or values that
//! contradict each other stop the start with a message that names them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use sigmad_flags::{BearerToken, TokenError, bytes, count, duration};
use sigmad_load::{self as load, LoadSettings};
use tracing_subscriber::EnvFilter;

use crate::store::url::{Target, UrlError};
use sigmad_demo as demo;
use sigmad_detectors::Kind;
use sigmad_eval as eval;

/// What the environment calls a setting: this, and the flag's name.
pub const VARIABLE_PREFIX: &str = "SIGMAD_";

/// More would only take turns on the cores of the largest machines.
const WORKERS_MAX: usize = 1_024;
/// One value has no spread; past the upper end every read of a window copies more than 80 kB.
const WINDOW: RangeInclusive<usize> = 2..=10_000;
/// 100 million names alone are more than 10 GB.
const STREAMS: RangeInclusive<usize> = 1..=100_000_000;
/// More than the ports of fifteen client addresses.
const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;
/// The lower end takes what curl sends; each connection may hold the upper one in memory.
const HEAD_BYTES: RangeInclusive<usize> = 256..=256 * 1024;
/// The lower end takes one sample; each connection may hold the upper one in memory, packed and unpacked.
const BODY_BYTES: RangeInclusive<usize> = 64..=256 * 1024 * 1024;
/// Below it a packet lost once is a client lost.
const READ_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=DAY;
/// Zero stops at once; past an hour nobody waits for a process to stop.
const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
/// Below it devices that report once a second would lose their windows between two samples.
const STREAM_IDLE: RangeInclusive<Duration> = Duration::from_secs(10)..=YEAR;
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=YEAR;
/// Below it Redis does nothing but answer; past it replicas judge by what was.
const FLUSH_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_secs(60);
/// The lower end is some seconds of a small fleet.
const REDIS_QUEUE_BYTES: RangeInclusive<usize> = 1024 * 1024..=64 * 1024 * 1024 * 1024;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The settings of `sigmad serve`. The doc of each is its line in `--help`.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// where to listen; `[::]:8080` for both families
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// HTTP threads; 0: as many as quota and cpuset allow, less one for analytics
    #[arg(long, default_value = "0", value_parser = count(0..=WORKERS_MAX))]
    pub workers: usize,

    /// threads stay on their cores: auto (four cores, no CPU quota, a core for each), on, off
    #[arg(long, value_enum, default_value = "auto")]
    pub pin: Pin,

    /// `native`, or `may`: comparisons on trusted networks only
    #[arg(long, value_enum, default_value = "native")]
    pub engine: Engine,

    /// values to judge by; 8 bytes each per stream
    #[arg(long, default_value = "50", value_parser = count(WINDOW))]
    pub window: usize,

    /// anomaly past so many standard deviations
    #[arg(long, default_value = "2.0", value_parser = threshold)]
    pub threshold: f64,

    /// values in a window before any anomaly
    #[arg(long, default_value = "10", value_parser = count(WINDOW))]
    pub min_samples: usize,

    /// what runs; the first gives isAnomaly
    #[arg(long, value_enum, value_delimiter = ',', default_value = "zscore")]
    pub detector: Vec<Kind>,

    /// device × metric, up to 1 KiB each with zscore alone, 4 with pager; past it 429
    #[arg(long, default_value = "1000000", value_parser = count(STREAMS))]
    pub max_streams: usize,

    /// a device silent for so long makes room
    #[arg(long, default_value = "1h", value_parser = duration(STREAM_IDLE))]
    pub stream_idle: Duration,

    /// open at once, if the file limit allows; past it the oldest idle one closes, else 503
    #[arg(long, default_value = "20000", value_parser = count(CONNECTIONS))]
    pub max_connections: usize,

    /// body, as sent and as unpacked; past it 413
    #[arg(long, default_value = "8MiB", value_parser = bytes(BODY_BYTES))]
    pub max_body: usize,

    /// request head; past it 431
    #[arg(long, default_value = "16KiB", value_parser = bytes(HEAD_BYTES))]
    pub max_head: usize,

    /// idle connections close; above the proxy's own
    #[arg(long, default_value = "75s", value_parser = duration(IDLE_TIMEOUT))]
    pub idle_timeout: Duration,

    /// for a whole head, and for each step of a body; past it 408
    #[arg(long, default_value = "10s", value_parser = duration(READ_TIMEOUT))]
    pub read_timeout: Duration,

    /// for answers in flight after SIGTERM; keep it below the grace period
    #[arg(long, default_value = "25s", value_parser = duration(DRAIN))]
    pub drain: Duration,

    /// redis://host, to share windows; docs/REDIS.md
    #[arg(long, value_parser = TargetParser)]
    pub redis_url: Option<Target>,

    /// how often it is written to; replicas know this much less of each other
    #[arg(long, default_value = "100ms", value_parser = duration(FLUSH_INTERVAL))]
    pub flush_interval: Duration,

    /// stream: every sample, in a stream per replica
    #[arg(long, value_enum, default_value = "off")]
    pub redis_history: RedisHistory,

    /// what waits while Redis is away; past it the oldest is dropped
    #[arg(long, default_value = "64MiB", value_parser = bytes(REDIS_QUEUE_BYTES))]
    pub redis_queue: usize,

    /// how long the store keeps a sample
    #[arg(long, default_value = "300s", value_parser = duration(TTL))]
    pub ttl: Duration,

    /// bearer token for POSTs: itself or @file
    #[arg(long)]
    pub ingest_token: Option<BearerToken>,

    /// bearer token for GETs of data: itself or @file
    #[arg(long)]
    pub read_token: Option<BearerToken>,

    /// bearer token for /debug/ from elsewhere than loopback: itself or @file
    #[arg(long)]
    pub debug_token: Option<BearerToken>,

    /// level, or a filter such as info,sigmad::http=debug
    #[arg(long, default_value = "info", value_parser = log_filter)]
    pub log: String,

    /// human, json, or auto: human on a terminal
    #[arg(long, value_enum, default_value = "auto")]
    pub log_format: LogFormat,
}

/// When threads are bound to cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pin {
    /// Without a quota, when each thread can have a core of its own.
    Auto,
    /// Always, round robin over the cores there are.
    On,
    /// Never.
    Off,
}

/// What serves HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// sigmad's own.
    Native,
    /// may_minihttp, with the limits listed in docs/ENGINES.md.
    May,
}

impl Engine {
    /// As the flag and the metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::May => "may",
        }
    }
}

/// Whether Redis keeps every sample, or the last one of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RedisHistory {
    /// The last one of each key.
    Off,
    /// Besides, every one in a stream.
    Stream,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// For machines: one object a line.
    Json,
}

impl Settings {
    /// Every setting by its flag, with the value in force in the form in which it is given.
    pub fn in_force(&self) -> Vec<(&'static str, Shown)> {
        // Without `..`: a new setting does not compile until it is listed.
        let Self {
            listen,
            workers,
            pin,
            engine,
            window,
            threshold,
            min_samples,
            detector,
            max_streams,
            stream_idle,
            max_connections,
            max_body,
            max_head,
            idle_timeout,
            read_timeout,
            drain,
            redis_url,
            flush_interval,
            redis_history,
            redis_queue,
            ttl,
            ingest_token,
            read_token,
            debug_token,
            log,
            log_format,
        } = self;
        vec![
            ("listen", Shown::value(listen)),
            ("workers", Shown::value(workers)),
            ("pin", Shown::choice(pin)),
            ("engine", Shown::choice(engine)),
            ("window", Shown::value(window)),
            ("threshold", Shown::value(threshold)),
            ("min-samples", Shown::value(min_samples)),
            ("detector", Shown::choices(detector)),
            ("max-streams", Shown::value(max_streams)),
            ("stream-idle", Shown::duration(*stream_idle)),
            ("max-connections", Shown::value(max_connections)),
            ("max-body", Shown::value(max_body)),
            ("max-head", Shown::value(max_head)),
            ("idle-timeout", Shown::duration(*idle_timeout)),
            ("read-timeout", Shown::duration(*read_timeout)),
            ("drain", Shown::duration(*drain)),
            ("redis-url", Shown::target(redis_url.as_ref())),
            ("flush-interval", Shown::duration(*flush_interval)),
            ("redis-history", Shown::choice(redis_history)),
            ("redis-queue", Shown::value(redis_queue)),
            ("ttl", Shown::duration(*ttl)),
            ("ingest-token", Shown::token(ingest_token.as_ref())),
            ("read-token", Shown::token(read_token.as_ref())),
            ("debug-token", Shown::token(debug_token.as_ref())),
            ("log", Shown::value(log)),
            ("log-format", Shown::choice(log_format)),
        ]
    }

    /// The settings in force as environment lines that can be read again; secrets are comments.
    pub fn to_environment(&self) -> String {
        let mut lines = String::new();
        for (flag, shown) in self.in_force() {
            let variable = variable(flag);
            lines += &match shown {
                Shown::Value(value) => format!("{variable}={value}\n"),
                Shown::Secret => format!("# {variable} is set\n"),
                Shown::Unset => format!("# {variable} is not set\n"),
            };
        }
        lines
    }

    /// The settings in force on one line, for the log.
    pub fn summary(&self) -> String {
        let pairs = self.in_force().into_iter().map(|(flag, shown)| match shown {
            Shown::Value(value) => format!("{flag}={value}"),
            Shown::Secret => format!("{flag}=(set)"),
            Shown::Unset => format!("{flag}=(none)"),
        });
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// What no single value shows.
    fn checked(mut self) -> Result<Self, SettingsError> {
        let Self { window, min_samples, .. } = self;
        if min_samples > window {
            return Err(SettingsError::MinSamplesPastWindow { min_samples, window });
        }
        for (place, kind) in self.detector.iter().enumerate() {
            if self.detector[..place].contains(kind) {
                return Err(SettingsError::DetectorTwice(kind.name()));
            }
        }
        if let Some(token) = &mut self.ingest_token {
            token.read("ingest-token").map_err(SettingsError::Token)?;
        }
        if let Some(token) = &mut self.read_token {
            token.read("read-token").map_err(SettingsError::Token)?;
        }
        if let Some(token) = &mut self.debug_token {
            token.read("debug-token").map_err(SettingsError::Token)?;
        }
        Ok(self)
    }
}

/// How a setting is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// In the form in which it is given.
    Value(String),
    /// It has a value that is not for showing.
    Secret,
    /// It has none.
    Unset,
}

impl Shown {
    fn value(value: &impl fmt::Display) -> Self {
        Self::Value(value.to_string())
    }

    fn duration(value: Duration) -> Self {
        // "1h 15m" is read again as "1h15m", which needs no quotes in an environment file.
        Self::Value(humantime::format_duration(value).to_string().replace(' ', ""))
    }

    fn choice(value: &impl ValueEnum) -> Self {
        let name = value.to_possible_value().expect("no value of a setting is hidden");
        Self::Value(name.get_name().to_owned())
    }

    fn choices<T: ValueEnum>(values: &[T]) -> Self {
        let names = values.iter().filter_map(ValueEnum::to_possible_value);
        Self::Value(names.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(","))
    }

    fn target(value: Option<&Target>) -> Self {
        match value {
            Some(target) if target.has_secret() => Self::Secret,
            Some(target) => Self::value(target),
            None => Self::Unset,
        }
    }

    fn token(value: Option<&BearerToken>) -> Self {
        match value {
            // The name of a file is no secret, and lets the printed settings be used again.
            Some(token) => {
                token.given_file().map_or(Self::Secret, |file| Self::Value(file.to_owned()))
            }
            None => Self::Unset,
        }
    }
}

/// Values that are right by themselves and cannot work. Exit code 78, the `EX_CONFIG` of sysexits.
#[derive(Debug)]
pub enum SettingsError {
    /// No window could ever be judged.
    MinSamplesPastWindow {
        /// As set.
        min_samples: usize,
        /// As set.
        window: usize,
    },
    /// This detector is named more than once.
    DetectorTwice(&'static str),
    /// A token can't be used.
    Token(TokenError),
}

impl std::error::Error for SettingsError {}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinSamplesPastWindow { min_samples, window } => write!(
                f,
                "--min-samples {min_samples} is more than --window {window} ever holds: \
                 nothing would be judged"
            ),
            Self::DetectorTwice(name) => write!(f, "--detector names {name} twice"),
            Self::Token(error) => error.fmt(f),
        }
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Serve with these settings.
    Serve(Settings),
    /// Serve with these settings, and invent a fleet.
    Demo(Settings),
    /// Print these settings.
    PrintConfig(Settings),
    /// Load a server like this.
    Load(Box<LoadSettings>),
    /// Evaluate the detectors.
    Eval(eval::Settings),
}

/// Why nothing starts.
#[derive(Debug)]
pub enum Refusal {
    /// The command line, or a single value; also the help, which is asked for in the same place.
    Usage(clap::Error),
    /// The settings as a whole.
    Settings(SettingsError),
}

/// `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;

impl Refusal {
    /// Tells the user, and says how to exit: 0 after help, 2 for usage, 78 for settings.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Usage(error) => {
                // Nowhere is left to say that stderr is gone.
                let _ = error.print();
                ExitCode::from(error.exit_code() as u8)
            }
            Self::Settings(error) => {
                eprintln!("error: {error}");
                ExitCode::from(EXIT_CONFIG)
            }
        }
    }
}

/// Reads the command line and the environment of this process.
pub fn parse() -> Result<Command, Refusal> {
    parse_from(std::env::args_os())
}

fn parse_from<T>(args: impl IntoIterator<Item = T>) -> Result<Command, Refusal>
where
    T: Into<std::ffi::OsString> + Clone,
{
    let matches = command_line().try_get_matches_from(args).map_err(Refusal::Usage)?;
    let line = CommandLine::from_arg_matches(&matches).map_err(Refusal::Usage)?;
    let is_demo = matches!(line.subcommand, Some(Subcommands::Demo(_)));
    let Serve { mut settings, print_config } = match line.subcommand {
        Some(Subcommands::Serve(serve) | Subcommands::Demo(serve)) => *serve,
        Some(Subcommands::Load(load)) => {
            let load = load.checked().map_err(Refusal::Usage)?;
            return Ok(Command::Load(Box::new(load)));
        }
        Some(Subcommands::Eval(settings)) => return Ok(Command::Eval(settings)),
        None => line.serve,
    };
    let given = matches.subcommand().map_or(&matches, |(_, given)| given);
    if given.value_source("min_samples") == Some(ValueSource::DefaultValue) {
        // Who asks for a small window asks for nothing more.
        let wished = if is_demo { demo::MIN_SAMPLES } else { settings.min_samples };
        settings.min_samples = wished.min(settings.window);
    }
    let settings = settings.checked().map_err(Refusal::Settings)?;
    Ok(match (print_config, is_demo) {
        (true, _) => Command::PrintConfig(settings),
        (false, true) => Command::Demo(settings),
        (false, false) => Command::Serve(settings),
    })
}

/// Rolling statistics and anomaly verdicts for fleets, over HTTP
#[derive(Parser)]
#[command(name = "sigmad", version, disable_help_subcommand = true)]
#[command(args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    subcommand: Option<Subcommands>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Subcommands {
    /// take samples, give verdicts; the default
    Serve(Box<Serve>),
    /// the same, with a fleet that does not exist: to look at
    Demo(Box<Serve>),
    /// ask a server for much, and tell how it answered
    Load(Box<LoadSettings>),
    /// how well the detectors detect; eval --help
    Eval(eval::Settings),
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// print the settings in force, and exit
    #[arg(long)]
    print_config: bool,
}

fn command_line() -> clap::Command {
    // Here and not at each setting, so that no setting can be without its variable.
    let with_variable = |arg: clap::Arg| match arg.get_long() {
        Some(flag) if flag != PRINT_CONFIG => {
            let variable = variable(flag);
            arg.env(variable)
        }
        _ => arg,
    };
    let command = CommandLine::command()
        .mut_args(with_variable)
        .mut_subcommand("serve", |serve| serve.mut_args(with_variable))
        .mut_subcommand("demo", |demo| demo.mut_args(with_variable));
    let help = help(&command, "sigmad [COMMAND] [FLAGS]", HELP_END);
    let serve_help = help.clone();
    command
        .override_help(help.clone())
        .mut_subcommand("serve", |serve| serve.override_help(serve_help))
        .mut_subcommand("demo", |demo| demo.override_help(help))
        .mut_subcommand("load", |load| {
            let help = self::help(&load, "sigmad load [FLAGS]", load::HELP_END);
            load.override_help(help)
        })
}

/// One flag a line, with its default: clap's own layout takes two screens.
fn help(command: &clap::Command, usage: &str, end: &str) -> String {
    let about = command.get_about().expect("a doc comment");
    let mut help = format!("{about}\n\nUsage: {usage}\n\n");
    for subcommand in command.get_subcommands() {
        let about = subcommand.get_about().expect("a doc comment");
        help += &format!("  {:<17}  {about}\n", subcommand.get_name());
    }
    if command.has_subcommands() {
        help.push('\n');
    }
    help += &format!("  {:<17}  {:<12} meaning\n", "flag", "default");
    for arg in command.get_arguments() {
        let default = arg.get_default_values().first().and_then(|value| value.to_str());
        let meaning = arg.get_help().expect("a doc comment").to_string().replace('`', "");
        let mut column = format!(
            "--{:<15}  {:<12}",
            arg.get_id().as_str().replace('_', "-"),
            default.unwrap_or("")
        );
        if column.chars().count() > HELP_FLAG_COLUMNS {
            help += &format!("  {column}\n");
            column.clear();
        }
        let mut line = String::new();
        for word in meaning.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > HELP_MEANING_COLUMNS {
                help += &format!("  {column:<HELP_FLAG_COLUMNS$}{line}\n");
                column.clear();
                line.clear();
            }
            line += " ";
            line += word;
        }
        help += &format!("  {column:<HELP_FLAG_COLUMNS$}{line}\n");
    }
    help += end;
    help
}

/// Flag and default; what is longer has a line of its own.
const HELP_FLAG_COLUMNS: usize = 31;
/// What 80 columns leave beside flag and default.
const HELP_MEANING_COLUMNS: usize = 47;
const HELP_END: &str = "  --help, --version

A flag is also SIGMAD_<FLAG> in the environment: --max-body is SIGMAD_MAX_BODY.
Times are like 100ms, 75s, 10m, 1h; sizes like 16KiB, 8MiB, or bytes.
";

/// A request, not a setting.
const PRINT_CONFIG: &str = "print-config";

fn variable(flag: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", flag.replace('-', "_").to_uppercase())
}

/// Which of these names in the environment look like settings and are none: a slip of the pen, of
/// which the log warns. It stops no start: the environment is not ours alone.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let command = command_line();
    let known: BTreeSet<_> =
        command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    names
        .filter(|name| name.starts_with(VARIABLE_PREFIX))
        .filter(|name| !known.contains(name.as_str()) && !is_of_kubernetes(name))
        .collect()
}

/// Kubernetes tells every container of every Service: one named `sigmad`, or `sigmad-redis`, becomes
/// `SIGMAD_SERVICE_HOST`, `SIGMAD_PORT_8080_TCP_ADDR`, `SIGMAD_REDIS_PORT` and their like.
fn is_of_kubernetes(name: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}

/// Reads a [`Target`]; unlike other parsers never repeats what it can't read, which may hold a password.
#[derive(Clone)]
struct TargetParser;

impl TypedValueParser for TargetParser {
    type Value = Target;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Target, clap::Error> {
        let refused = |reason: &dyn fmt::Display| {
            let message = format!("invalid value for '--redis-url': {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        };
        let text = value.to_str().ok_or_else(|| refused(&UrlError::NotUtf8))?;
        text.parse().map_err(|error: UrlError| refused(&error))
    }
}

/// A larger z-score is never given, so a larger threshold would never be passed.
const THRESHOLD_MAX: f64 = sigmad_sample::Z_MAX;

fn threshold(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < THRESHOLD_MAX => Ok(value),
        _ => Err(format!("must be a number above 0 and below {THRESHOLD_MAX}")),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Command, Refusal> {
        parse_from([&["sigmad"], args].concat())
    }

    fn settings(args: &[&str]) -> Settings {
        match parsed(args) {
            Ok(Command::Serve(settings)) => settings,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    fn refusal(args: &[&str]) -> String {
        match parsed(args).expect_err("refused") {
            Refusal::Usage(error) => error.to_string(),
            Refusal::Settings(error) => error.to_string(),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn serve_is_the_default_command() {
        assert_eq!(settings(&[]).listen.to_string(), "0.0.0.0:8080");
        for args in [&["--listen", "[::]:1"][..], &["serve", "--listen", "[::]:1"]] {
            assert_eq!(settings(args).listen.to_string(), "[::]:1");
        }
        assert!(refusal(&["--window", "20", "serve"]).contains("serve"));
        match parsed(&["demo", "--window", "5"]) {
            Ok(Command::Demo(settings)) => assert_eq!(settings.min_samples, 5),
            other => panic!("{other:?}"),
        }
        assert!(matches!(parsed(&["serve", "--print-config"]), Ok(Command::PrintConfig(_))));
    }

    #[test]
    fn values_are_read_in_their_units() {
        let set = settings(&[
            "--max-body=1MiB",
            "--max-head=2000",
            "--idle-timeout=10m",
            "--read-timeout=100ms",
            "--stream-idle=1h30m",
            "--threshold=3",
        ]);
        assert_eq!((set.max_body, set.max_head), (1 << 20, 2000));
        assert_eq!(set.idle_timeout, Duration::from_secs(600));
        assert_eq!(set.read_timeout, Duration::from_millis(100));
        assert_eq!(set.stream_idle, Duration::from_secs(5400));
        assert_eq!(set.threshold, 3.0);
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_settings() {
        let odd: &[&[&str]] = &[
            &[],
            &["--idle-timeout=1h15m3s", "--max-body=1025", "--threshold=0.1", "--listen=[::1]:0"],
            &["--log=warn,sigmad::http=trace", "--pin=off", "--engine=may", "--log-format=json"],
        ];
        for args in odd {
            let before = settings(args).in_force();
            let flags: Vec<String> = before
                .iter()
                .filter_map(|(flag, shown)| match shown {
                    Shown::Value(value) => Some(format!("--{flag}={value}")),
                    Shown::Secret | Shown::Unset => None,
                })
                .collect();
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            assert_eq!(settings(&flags).in_force(), before);
        }
    }

    #[test]
    fn every_flag_is_listed_once_and_has_its_variable() {
        let shown: BTreeSet<_> = settings(&[]).in_force().iter().map(|(flag, _)| *flag).collect();
        let command = command_line();
        let serve = command.find_subcommand("serve").expect("a command");
        for command in [&command, serve] {
            let flags: BTreeSet<_> = command
                .get_arguments()
                .filter_map(|arg| {
                    let flag = arg.get_long()?;
                    let name = arg.get_env()?.to_str()?;
                    assert_eq!(name, variable(flag));
                    Some(flag)
                })
                .collect();
            assert_eq!(flags, shown);
        }
    }

    #[test]
    fn bad_values_are_refused_by_name_with_the_limit() {
        let cases = [
            ("--window=1", "must be 2 to 10000"),
            ("--window=10001", "must be 2 to 10000"),
            ("--window=-1", "must be a whole number"),
            ("--window=5.5", "must be a whole number"),
            ("--min-samples=1", "must be 2 to 10000"),
            ("--workers=1025", "must be 0 to 1024"),
            ("--threshold=0", "above 0"),
            ("--threshold=-1", "above 0"),
            ("--threshold=NaN", "above 0"),
            ("--threshold=inf", "above 0"),
            ("--threshold=1e6", "below 1000000"),
            ("--max-body=1GiB", "must be 64 B to 256.0 MiB"),
            ("--max-body=8Meg", "must be like"),
            ("--max-body=-1", "must be like"),
            ("--max-head=255", "must be 256 B to 256.0 KiB"),
            ("--max-head=99999999999999999999", "must be"),
            ("--idle-timeout=75", "time unit needed"),
            ("--idle-timeout=0s", "must be 1s to 1day"),
            ("--read-timeout=99ms", "must be 100ms to 1h"),
            ("--drain=2h", "must be 0s to 1h"),
            ("--ttl=", "empty"),
            ("--stream-idle=9s", "must be 10s to"),
            ("--max-streams=0", "must be 1 to 100000000"),
            ("--max-connections=0", "must be 1 to 1000000"),
            ("--redis-url=localhost:6379", "must start with redis://"),
            ("--redis-history=all", "off, stream"),
            ("--redis-queue=1MB", "must be 1.0 MiB"),
            ("--flush-interval=1ms", "must be 5ms to 1m"),
            ("--listen=nowhere", "invalid socket address"),
            ("--listen=localhost:8080", "invalid socket address"),
            ("--pin=maybe", "auto, on, off"),
            ("--engine=iis", "native, may"),
            ("--detector=oracle", "zscore"),
            ("--log=sigmad=loud", "invalid"),
            ("--log-format=xml", "auto, human, json"),
        ];
        for (arg, reason) in cases {
            let message = refusal(&[arg]);
            let (flag, _) = arg.split_once('=').expect("a value");
            assert!(message.contains(flag) && message.contains(reason), "{arg}: {message}");
        }
    }

    #[test]
    fn values_that_contradict_each_other_are_refused() {
        let message = refusal(&["--window=5", "--min-samples=10"]);
        assert!(
            message.contains("--min-samples 10") && message.contains("--window 5"),
            "{message}"
        );
        assert_eq!(settings(&["--window=5"]).min_samples, 5);
        assert_eq!(settings(&["serve", "--window=60"]).min_samples, 10);
        let message = refusal(&["--detector=pager,zscore,pager"]);
        assert!(message.contains("--detector names pager twice"), "{message}");
    }

    #[test]
    fn detectors_are_a_list_in_order() {
        for args in [&["--detector=pager,zscore"][..], &["--detector=pager", "--detector=zscore"]] {
            let set = settings(args);
            assert_eq!(set.detector, [Kind::Pager, Kind::Zscore]);
            assert!(set.to_environment().contains("SIGMAD_DETECTOR=pager,zscore\n"));
        }
        assert_eq!(settings(&[]).detector, [Kind::Zscore]);
    }

    #[test]
    fn a_token_is_read_and_never_shown() {
        let set = settings(&["--ingest-token", "s3cret"]);
        assert_eq!(set.ingest_token.as_ref().map(BearerToken::secret), Some("s3cret"));
        for text in [format!("{set:?}"), set.summary(), set.to_environment()] {
            assert!(!text.contains("s3cret"), "{text}");
        }
        assert!(refusal(&["--read-token=@/no/such/file"]).contains("--read-token: can't read"));
        assert!(refusal(&["--ingest-token="]).contains("--ingest-token is empty"));
    }

    #[test]
    fn a_password_in_a_url_is_never_shown() {
        let set = settings(&["--redis-url=redis://:s3cret@redis"]);
        for text in [format!("{set:?}"), set.summary(), set.to_environment()] {
            assert!(!text.contains("s3cret"), "{text}");
        }
        let message = refusal(&["--redis-url=redis://:s3cret@redis/one"]);
        assert!(!message.contains("s3cret") && message.contains("--redis-url"), "{message}");
        let set = settings(&["--redis-url=redis://redis:6380/2"]);
        assert!(set.to_environment().contains("SIGMAD_REDIS_URL=redis://redis:6380/2"));
    }

    #[test]
    fn unknown_variables_are_told_from_those_of_kubernetes() {
        let unknown = ["SIGMAD_TRESHOLD", "SIGMAD_PRINT_CONFIG", "SIGMAD_"];
        let others = ["SIGMAD_THRESHOLD", "SIGMAD_SERVICE_PORT_HTTP", "SIGMAD_REDIS_PORT", "HOME"];
        let names = unknown.into_iter().chain(others).chain(["SIGMAD_PORT_8080_TCP_ADDR"]);
        assert_eq!(unknown_variables(names.map(str::to_owned)), unknown);
    }

    #[test]
    fn the_readme_lists_every_flag() {
        let readme = include_str!("../README.md");
        for (flag, _) in settings(&[]).in_force() {
            assert!(readme.contains(&format!("| `--{flag}` |")), "{flag}");
        }
    }

    #[test]
    fn the_load_is_its_own_command_and_has_no_variables() {
        let Ok(Command::Load(load)) = parsed(&["load", "--rate", "500", "--duration=2m"]) else {
            panic!("it is a load");
        };
        assert_eq!((load.rate, load.duration), (Some(500), Duration::from_secs(120)));
        let command = command_line();
        let load = command.find_subcommand("load").expect("a command");
        assert!(load.get_arguments().all(|arg| arg.get_env().is_none()));
        for (args, reason) in [
            (&["load", "--rate=0"][..], "1 to 10000000"),
            (&["load", "--url=https://a"], "only http"),
            (&["load", "--devices=5"], "--profile devices"),
            (&["load", "--truth=a", "--profile=devices"], "--profile anomalies"),
            (&["load", "--profile=anomalies", "--anomaly-rate=0.6"], "0 to 0.5"),
            (&["load", "--threads=9", "--connections=8"], "--connections 8"),
            (&["load", "--token="], "--token is empty"),
        ] {
            assert!(refusal(args).contains(reason), "{}", refusal(args));
        }
    }

    #[test]
    fn the_help_of_a_load_fits_a_screen() {
        let help = refusal(&["load", "--help"]);
        assert!(help.lines().count() <= 60, "{} lines\n{help}", help.lines().count());
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(!help.contains("SIGMAD_") && help.contains("sigmad load --rate"), "{help}");
    }

    #[test]
    fn the_help_fits_a_screen() {
        let help = refusal(&["--help"]);
        assert!(help.lines().count() <= 52, "{} lines\n{help}", help.lines().count());
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(help.contains("SIGMAD_<FLAG>"));
    }
}
