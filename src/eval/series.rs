//! Labelled series, read from files.
//!
//! Two layouts: that of the Numenta Anomaly Benchmark (`data/` and `labels/combined_windows.json`), and
//! any tree of CSV files with the columns timestamp, value and label, in whatever case. A row whose
//! value is no number is kept as a gap: it is not judged, and scores 0.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One series and its truth.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// The file's path below the root, without its ending.
    pub name: String,
    /// Microseconds since 1970, of the rows with a value.
    pub timestamps_us: Vec<i64>,
    /// Their values.
    pub values: Vec<f64>,
    /// First and last row of each anomalous window; of NAB's layout.
    pub windows: Vec<(usize, usize)>,
    /// Which rows are anomalous; of a CSV with labels, else empty.
    pub labels: Vec<bool>,
    /// Which rows of the file have a value.
    pub present: Vec<bool>,
}

/// What a root holds.
#[derive(Debug)]
pub enum Corpus {
    /// Windows, for [`super::nab`].
    Nab(Vec<Series>),
    /// Labels, for [`super::events`].
    Labelled(Vec<Series>),
}

/// Why data cannot be read or scores not written.
#[derive(Debug)]
pub enum DataError {
    /// The system says so.
    Io(PathBuf, io::Error),
    /// Line by number, and what is wrong with it.
    Line(PathBuf, usize, &'static str),
    /// The windows are not as NAB has them.
    Windows(PathBuf, String),
    /// No series at all.
    Empty(PathBuf),
}

impl std::error::Error for DataError {}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Line(path, line, what) => write!(f, "{}:{line}: {what}", path.display()),
            Self::Windows(path, what) => write!(f, "{}: {what}", path.display()),
            Self::Empty(path) => write!(f, "{}: no CSV files in it", path.display()),
        }
    }
}

/// Where NAB keeps the windows.
const NAB_WINDOWS: &str = "labels/combined_windows.json";

/// Reads everything below a root, in the order of the names.
pub fn read(root: &Path) -> Result<Corpus, DataError> {
    let windows = root.join(NAB_WINDOWS);
    if windows.exists() { nab(root, &windows).map(Corpus::Nab) } else { labelled(root) }
}

fn nab(root: &Path, windows: &Path) -> Result<Vec<Series>, DataError> {
    let text = text(windows)?;
    let wrong = |what: String| DataError::Windows(windows.to_owned(), what);
    let files: BTreeMap<String, Vec<[String; 2]>> =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut all = Vec::with_capacity(files.len());
    for (file, ranges) in files {
        let mut series = csv(&root.join("data").join(&file), &file)?;
        series.labels.clear();
        let row = |at: &String| {
            let at_us = timestamp_us(at)?;
            series.timestamps_us.iter().position(|&t| t == at_us)
        };
        for [from, to] in &ranges {
            let window = row(from).zip(row(to));
            let window =
                window.ok_or_else(|| wrong(format!("{file} has no row {from} or {to}")))?;
            series.windows.push(window);
        }
        series.windows.sort_unstable();
        all.push(series);
    }
    Ok(all)
}

fn labelled(root: &Path) -> Result<Corpus, DataError> {
    let mut files = Vec::new();
    walk(root, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(DataError::Empty(root.to_owned()));
    }
    let all = files.iter().map(|file| {
        let name = file.strip_prefix(root).expect("it was found there");
        csv(file, &name.to_string_lossy())
    });
    Ok(Corpus::Labelled(all.collect::<Result<_, _>>()?))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let at = |error| DataError::Io(folder.to_owned(), error);
    for entry in fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "csv") {
            files.push(path);
        }
    }
    Ok(())
}

fn text(path: &Path) -> Result<String, DataError> {
    fs::read_to_string(path).map_err(|error| DataError::Io(path.to_owned(), error))
}

fn csv(path: &Path, name: &str) -> Result<Series, DataError> {
    let text = text(path)?;
    let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let wrong = |line: usize, what| DataError::Line(path.to_owned(), line + 1, what);
    let (_, head) = lines.next().ok_or_else(|| wrong(0, "an empty file"))?;
    let columns: Vec<String> = fields(head).map(str::to_ascii_lowercase).collect();
    let column = |name| columns.iter().position(|column| column == name);
    let at = column("timestamp").ok_or_else(|| wrong(0, "no column timestamp"))?;
    let value = column("value").ok_or_else(|| wrong(0, "no column value"))?;
    let label = column("label");

    let name = name.strip_suffix(".csv").unwrap_or(name).to_owned();
    let mut series = Series { name, ..Series::default() };
    for (number, line) in lines {
        let row: Vec<&str> = fields(line).collect();
        let field = |column: usize| row.get(column).copied().unwrap_or("");
        let parsed = field(value).parse::<f64>().ok().filter(|value| value.is_finite());
        series.present.push(parsed.is_some());
        let Some(parsed) = parsed else { continue };
        let at_us = timestamp_us(field(at)).ok_or_else(|| wrong(number, "no timestamp"))?;
        series.timestamps_us.push(at_us);
        series.values.push(parsed);
        if let Some(label) = label {
            let label = field(label).parse::<f64>().map_err(|_| wrong(number, "no label"))?;
            series.labels.push(label > 0.0);
        }
    }
    Ok(series)
}

fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|field| field.trim().trim_matches('"'))
}

/// Seconds since 1970, or a date with a time, in UTC unless it says otherwise.
fn timestamp_us(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Some((seconds * 1e6).round() as i64);
    }
    let mut text = text.replacen(' ', "T", 1);
    let time = text.split_once('T')?.1;
    if !time.contains(['Z', 'z', '+', '-']) {
        text.push('Z');
    }
    let at = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_of_both_benchmarks_are_read() {
        for text in ["2014-04-10 07:15:00", "2014-04-10T07:15:00Z", "2014-04-10 07:15:00.000000"] {
            assert_eq!(timestamp_us(text), Some(1_397_114_100_000_000), "{text}");
        }
        assert_eq!(timestamp_us("1397114100"), Some(1_397_114_100_000_000));
        for text in ["", "soon", "2014-04-10", "2014-13-10 00:00:00"] {
            assert_eq!(timestamp_us(text), None, "{text}");
        }
    }
}
