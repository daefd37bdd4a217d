//! `sigmad eval`: how well the detectors detect, on labelled data and on scenarios with known truth.
//!
//! Detectors are run as the server runs them, in this process or, with `--url`, in a running server.
//! Tables go to stdout; the same data gives the same tables.

pub mod events;
pub mod judges;
pub mod nab;
mod plot;
mod remote;
pub mod series;
pub mod synthetic;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use judges::Z_THRESHOLD;
use nab::{NabScore, PROFILES};
use remote::{Remote, RemoteError};
use series::{Corpus, DataError, Series};
use synthetic::{Confusion, SCENARIOS};

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
        if self.data.is_empty() && !self.synthetic {
            let message = "nothing to evaluate: --data FOLDER or --synthetic is needed";
            return wrong(ErrorKind::MissingRequiredArgument, message);
        }
        if self.scores.is_some() && self.url.is_none() && self.detector.len() != 1 {
            let message = "--scores needs a single --detector";
            return wrong(ErrorKind::ArgumentConflict, message);
        }
        Ok(self)
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

/// One detector's scores of every series.
struct Scored {
    judge: DetectorKind,
    threshold: f64,
    scores: Vec<Vec<f64>>,
}

impl Scored {
    fn is_anomaly(&self, score: f64) -> bool {
        self.judge.is_anomaly(score, self.threshold)
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
        if is_nab {
            nab_table(out, &all, &judged)?;
        } else if all.iter().all(|series| series.labels.is_empty()) {
            writeln!(out, "No labels: there is nothing to compare verdicts with.")?;
        } else {
            events_table(out, &all, &judged)?;
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
        let judge = known.map_err(|_| RemoteError::Answer(format!("unknown detector {name}")))?;
        return Ok(vec![scored(settings, judge, scores)]);
    }
    let judges =
        if settings.detector.is_empty() { DetectorKind::ALL } else { settings.detector.as_slice() };
    let of_all =
        |judge: &DetectorKind| all.iter().map(|series| judges::scores_of(*judge, series)).collect();
    Ok(judges.iter().map(|judge| scored(settings, *judge, of_all(judge))).collect())
}

fn scored(settings: &EvalSettings, judge: DetectorKind, scores: Vec<Vec<f64>>) -> Scored {
    Scored { judge, threshold: settings.threshold.unwrap_or(judge.threshold(Z_THRESHOLD)), scores }
}

fn pairs<'a>(
    all: &'a [Series],
    scores: &'a [Vec<f64>],
) -> impl Iterator<Item = (&'a Series, &'a [f64])> + Clone {
    all.iter().zip(scores).map(|(series, scores)| (series, scores.as_slice()))
}

fn nab_table(out: &mut impl Write, all: &[Series], judged: &[Scored]) -> io::Result<()> {
    writeln!(
        out,
        "| detector | best: standard / low FP / low FN | at | windows | false rows \
              | fixed: standard / low FP / low FN | at | windows | false rows |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for scored in judged {
        let ranking = nab::NabRanking::new(pairs(all, &scored.scores));
        let cells = |threshold: Option<f64>| {
            let scores: Vec<NabScore> =
                PROFILES.iter().map(|&profile| ranking.score(profile, threshold)).collect();
            let standard = scores[0];
            let three: Vec<_> = scores.iter().map(|s| format!("{:.2}", s.score)).collect();
            format!(
                "{} | {:.4} | {}/{} | {}",
                three.join(" / "),
                standard.threshold,
                standard.hits,
                standard.windows,
                standard.false_rows
            )
        };
        writeln!(
            out,
            "| {} | {} | {} |",
            scored.judge.name(),
            cells(None),
            cells(Some(scored.threshold))
        )?;
    }
    Ok(())
}

fn events_table(out: &mut impl Write, all: &[Series], judged: &[Scored]) -> io::Result<()> {
    writeln!(
        out,
        "| detector | best: F1 | precision | recall | at | false/day \
              | fixed: F1 | precision | recall | at | events | false/day |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for scored in judged {
        let ranking = events::EventRanking::new(pairs(all, &scored.scores));
        let best = ranking.score(None);
        let fixed = ranking.score(Some(scored.threshold));
        writeln!(
            out,
            "| {} | {:.3} | {:.3} | {:.3} | {:.4} | {} | {:.3} | {:.3} | {:.3} | {:.4} | {}/{} | {} |",
            scored.judge.name(),
            best.f1,
            best.precision,
            best.recall,
            best.threshold,
            part(best.false_per_day),
            fixed.f1,
            fixed.precision,
            fixed.recall,
            fixed.threshold,
            fixed.hits,
            fixed.events,
            part(fixed.false_per_day),
        )?;
    }
    Ok(())
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
        writeln!(
            out,
            "| detector | TP | TN | FP | FN | precision | recall | accuracy | FP rate \
                  | false/day | events |"
        )?;
        writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for scored in &judged {
            let is_flagged = |score| scored.is_anomaly(score);
            let c = Confusion::new(pairs(&all, &scored.scores), is_flagged);
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {:.4} | {:.5} | {:.3} | {}/{} |",
                scored.judge.name(),
                c.true_positive,
                c.true_negative,
                c.false_positive,
                c.false_negative,
                part(c.precision()),
                part(c.recall()),
                c.accuracy(),
                c.false_positive_rate(),
                c.false_per_day,
                c.events_found,
                c.events,
            )?;
        }
        if let Some(folder) = &settings.plot {
            draw(folder, &all[..1], &judged)?;
        }
    }
    Ok(())
}

/// Of nothing there is no part.
fn part(part: f64) -> String {
    if !part.is_finite() { String::new() } else { format!("{part:.3}") }
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
