//! `sigmad eval`: how well the detectors detect, on labelled data and on scenarios with known truth.
//!
//! Detectors are run as the server runs them, in this process or, with `--url`, in a running server.
//! Tables go to stdout; the same data gives the same tables.

pub mod baselines;
pub mod events;
pub mod ghosts;
pub mod judges;
mod means;
pub mod nab;
pub mod noise;
mod plot;
mod remote;
pub mod series;
pub mod synthetic;
mod tables;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use baselines::Baseline;
use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use events::{EventRules, Skip};
use judges::Judge;
use remote::{Remote, RemoteError};
use series::{Corpus, DataError, Series};
use synthetic::SCENARIOS;

use sigmad_detectors::DetectorKind;

/// The flags of `sigmad eval`. The documentation of each is its line in `--help`.
#[derive(Args, Clone, Debug)]
pub struct EvalSettings {
    /// folder of labelled data: NAB's layout or CSV files
    #[arg(long)]
    pub data: Vec<PathBuf>,

    /// run the synthetic scenarios
    #[arg(long)]
    pub synthetic: bool,

    /// run streams of usual values, and count the alarms on them
    #[arg(long, conflicts_with = "url")]
    pub ghosts: bool,

    /// run noise of several kinds and intervals, and count the alarms of pager on it
    #[arg(long, conflicts_with = "url")]
    pub noise: bool,

    /// rows at the start of labelled series that do not count, such as 150 or 15%
    #[arg(long, default_value = "150")]
    pub skip: Skip,

    /// rows around an event in which an alarm still finds it
    #[arg(long, default_value_t = EventRules::DEFAULT.tolerance)]
    pub tolerance: usize,

    /// runs of labels at most this many rows apart are one event
    #[arg(long, default_value_t = EventRules::DEFAULT.merge)]
    pub merge: usize,

    /// also the mean over eight starts: rows left out at the beginning
    #[arg(long, conflicts_with = "url")]
    pub starts: bool,

    /// add simple rules as rows
    #[arg(long, conflicts_with = "url")]
    pub baselines: bool,

    /// detectors to evaluate; the default is all
    #[arg(long, value_enum, value_delimiter = ',')]
    pub detector: Vec<DetectorKind>,

    /// threshold instead of each detector's own
    #[arg(long)]
    pub threshold: Option<f64>,

    /// evaluate one half of the sorted files: a for even places, b for odd ones
    #[arg(long, value_enum)]
    pub half: Option<Half>,

    /// folder for one file of scores per series; needs a single detector
    #[arg(long)]
    pub scores: Option<PathBuf>,

    /// folder for one SVG plot per series
    #[arg(long)]
    pub plot: Option<PathBuf>,

    /// evaluate the detector of a running server, such as http://127.0.0.1:8080
    #[arg(long, conflicts_with = "detector")]
    pub url: Option<String>,
}

/// One half of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Half {
    /// Files at even places, counted from 0.
    A,
    /// Files at odd places.
    B,
}

impl EvalSettings {
    /// Checks flags against each other.
    ///
    /// # Errors
    /// A message that names the flags.
    pub fn checked(self) -> Result<Self, clap::Error> {
        let wrong = |kind, message| {
            Err(clap::Error::raw(
                kind,
                format!("{message}\n\nUsage: sigmad eval [FLAGS]\n\n{TRY_HELP}\n"),
            ))
        };
        if self.data.is_empty() && !self.synthetic && !self.ghosts && !self.noise {
            let message =
                "nothing to evaluate: --data FOLDER, --synthetic, --ghosts or --noise is needed";
            return wrong(ErrorKind::MissingRequiredArgument, message);
        }
        if self.scores.is_some() && self.url.is_none() && self.detector.len() != 1 {
            let message = "--scores needs a single --detector";
            return wrong(ErrorKind::ArgumentConflict, message);
        }
        Ok(self)
    }
}

impl EvalSettings {
    fn rules(&self) -> EventRules {
        EventRules { skip: self.skip, tolerance: self.tolerance, merge: self.merge }
    }

    /// The judges of this process.
    fn judges(&self) -> Vec<Judge> {
        let kinds =
            if self.detector.is_empty() { DetectorKind::ALL } else { self.detector.as_slice() };
        let baselines = if self.baselines { &Baseline::ALL[..] } else { &[] };
        let detectors = kinds.iter().map(|&kind| Judge::Detector(kind));
        detectors.chain(baselines.iter().map(|&baseline| Judge::Baseline(baseline))).collect()
    }
}

/// The last line of clap's own errors.
const TRY_HELP: &str = "For more information, try '--help'.";

/// Why there is no table.
#[derive(Debug)]
pub enum EvalError {
    /// The reader of the tables is gone, or the disk is full.
    Output(io::Error),
    /// Data that cannot be read, or a file not written.
    Data(DataError),
    /// The server.
    Remote(RemoteError),
}

impl std::error::Error for EvalError {}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(error) => write!(f, "stdout can't be written: {error}"),
            Self::Data(error) => error.fmt(f),
            Self::Remote(error) => error.fmt(f),
        }
    }
}

impl EvalError {
    /// Whether the reader has seen enough, as in `sigmad eval | head`.
    pub fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<io::Error> for EvalError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<DataError> for EvalError {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

impl From<RemoteError> for EvalError {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}

/// One judge's scores of every series.
struct Scored {
    judge: Judge,
    /// The smallest score of an anomaly.
    threshold: f64,
    scores: Vec<Vec<f64>>,
}

impl Scored {
    fn is_anomaly(&self, score: f64) -> bool {
        score >= self.threshold
    }

    /// By a judge of this process.
    fn new(judge: Judge, threshold: f64, all: &[Series]) -> Self {
        let scores = all.iter().map(|series| judge.scores(series, threshold)).collect();
        Self { judge, threshold, scores }
    }
}

/// Writes the tables that are asked for.
///
/// # Errors
/// When data can't be read, the server does not answer, or `out` takes nothing more.
pub fn run(settings: &EvalSettings, out: &mut impl Write) -> Result<(), EvalError> {
    let mut remote = settings.url.as_deref().map(Remote::connect).transpose()?;
    for root in &settings.data {
        let corpus = series::read(root)?;
        let (mut all, is_nab) = match corpus {
            Corpus::Nab(all) => (all, true),
            Corpus::Labelled(all) => (all, false),
        };
        if let Some(half) = settings.half {
            all = all.into_iter().skip(usize::from(half == Half::B)).step_by(2).collect();
        }
        let judged = judge(settings, remote.as_mut(), &all)?;
        writeln!(out, "\n## {}: {} series\n", root.display(), all.len())?;
        let rules = (!is_nab).then(|| settings.rules());
        if !is_nab && all.iter().all(|series| series.labels.is_empty()) {
            writeln!(out, "No labels: there is nothing to compare verdicts with.")?;
        } else {
            match rules {
                None => tables::nab(out, &all, &judged)?,
                Some(rules) => tables::events(out, rules, &all, &judged)?,
            }
            if settings.starts {
                means::table(out, settings, rules, &all)?;
            }
        }
        if let Some(folder) = &settings.scores {
            for scored in &judged {
                write_scores(folder, &all, &scored.scores)?;
            }
        }
        if let Some(folder) = &settings.plot {
            draw(folder, &all, &judged)?;
        }
    }
    if settings.synthetic {
        synthetic_tables(out, settings, remote.as_mut())?;
    }
    if settings.ghosts {
        tables::ghosts(out, &settings.judges(), settings.threshold)?;
    }
    if settings.noise {
        tables::noise(out)?;
    }
    Ok(())
}

fn judge(
    settings: &EvalSettings,
    remote: Option<&mut Remote>,
    all: &[Series],
) -> Result<Vec<Scored>, EvalError> {
    if let Some(remote) = remote {
        let mut name = String::new();
        let mut scores = Vec::with_capacity(all.len());
        for series in all {
            let (detector, of_series) = remote.scores(series)?;
            name = detector;
            scores.push(of_series);
        }
        let known = DetectorKind::from_str(&name, false);
        let kind = known.map_err(|_| RemoteError::Answer(format!("unknown detector {name}")))?;
        let judge = Judge::Detector(kind);
        return Ok(vec![Scored { judge, threshold: judge.threshold(settings.threshold), scores }]);
    }
    let scored = |judge: Judge| Scored::new(judge, judge.threshold(settings.threshold), all);
    Ok(settings.judges().into_iter().map(scored).collect())
}

fn synthetic_tables(
    out: &mut impl Write,
    settings: &EvalSettings,
    mut remote: Option<&mut Remote>,
) -> Result<(), EvalError> {
    for scenario in SCENARIOS {
        let all = scenario.series();
        let judged = judge(settings, remote.as_deref_mut(), &all)?;
        writeln!(out, "\n## {}\n", scenario.name())?;
        tables::scenario(out, &all, &judged)?;
        if let Some(folder) = &settings.plot {
            draw(folder, &all[..1], &judged)?;
        }
    }
    Ok(())
}

fn write_scores(folder: &Path, all: &[Series], scores: &[Vec<f64>]) -> Result<(), DataError> {
    for (series, scores) in all.iter().zip(scores) {
        let mut text = String::new();
        let mut scores = scores.iter();
        for &is_present in &series.present {
            let score = if is_present { scores.next() } else { None };
            text += &format!("{}\n", score.unwrap_or(&0.0));
        }
        write(folder, &format!("{}.txt", series.name), &text)?;
    }
    Ok(())
}

fn draw(folder: &Path, all: &[Series], judged: &[Scored]) -> Result<(), DataError> {
    for (number, series) in all.iter().enumerate() {
        let flags = |scored: &Scored| {
            scored.scores[number].iter().map(|&score| scored.is_anomaly(score)).collect()
        };
        let lanes: Vec<(&str, Vec<bool>)> =
            judged.iter().map(|scored| (scored.judge.name(), flags(scored))).collect();
        let name = series.name.replace(' ', "-");
        write(folder, &format!("{name}.svg"), &plot::svg(series, &lanes))?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), DataError> {
    let path = folder.join(name);
    let parent = path.parent().unwrap_or(folder);
    let made = fs::create_dir_all(parent).and_then(|()| fs::write(&path, text));
    made.map_err(|error| DataError::Io(path.clone(), error))
}
