//! Labelled series, read from files.
//!
//! Two layouts: that of the Numenta Anomaly Benchmark (`data/` and `labels/combined_windows.json`), and
//! any tree of CSV files with a header: columns timestamp, value and label, or other names that they go
//! by ([`TIMESTAMP`], [`VALUE`], [`LABEL`]), between commas, semicolons or tabs. Rows are judged in the
//! order in which they stand. A row whose value is no number that the server would take is kept as a gap:
//! it is not judged, and scores 0. Blank lines are no rows.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sigmad_sample::VALUE_MAX;
use sigmad_sample::timestamp;

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

impl Series {
    /// Without its first rows, as if the detectors had started later.
    pub fn without_first(&self, rows: usize) -> Self {
        let rows = rows.min(self.values.len());
        let later = |window: &(usize, usize)| {
            (window.1 >= rows).then(|| (window.0.saturating_sub(rows), window.1 - rows))
        };
        Self {
            name: self.name.clone(),
            timestamps_us: self.timestamps_us[rows..].to_vec(),
            values: self.values[rows..].to_vec(),
            windows: self.windows.iter().filter_map(later).collect(),
            labels: self.labels.get(rows..).unwrap_or(&[]).to_vec(),
            present: vec![true; self.values.len() - rows],
        }
    }
}

/// What the column of moments is called, in whatever case.
const TIMESTAMP: [&str; 6] = ["timestamp", "timestamps", "time", "datetime", "date", "ts"];
/// What the column of values is called; any, when there is but one other.
const VALUE: [&str; 4] = ["value", "values", "val", "y"];
/// What the column of labels is called: a number above 0 or `true` is an anomaly.
const LABEL: [&str; 5] = ["label", "labels", "anomaly", "is_anomaly", "outlier"];

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
    Line(PathBuf, usize, String),
    /// The windows are not as NAB has them.
    Windows(PathBuf, String),
    /// None of the files that the windows name.
    NoneOfThem(PathBuf),
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
            Self::NoneOfThem(path) => {
                write!(f, "{}: none of the files that it names is in data/", path.display())
            }
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

/// Of files that the windows name, those that are there; a warning on stderr counts the others.
fn nab(root: &Path, windows: &Path) -> Result<Vec<Series>, DataError> {
    let text = text(windows)?;
    let wrong = |what: String| DataError::Windows(windows.to_owned(), what);
    let files: BTreeMap<String, Vec<[String; 2]>> =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut all = Vec::with_capacity(files.len());
    let mut absent = Vec::new();
    for (file, ranges) in files {
        let path = root.join("data").join(&file);
        if !path.exists() {
            absent.push(file);
            continue;
        }
        let mut series = csv(&path, &file)?;
        series.labels.clear();
        for [from, to] in &ranges {
            let window = window(&series.timestamps_us, from, to);
            let window =
                window.ok_or_else(|| wrong(format!("{file} has no row {from} to {to}")))?;
            series.windows.push(window);
        }
        series.windows.sort_unstable();
        all.push(series);
    }
    if all.is_empty() {
        return Err(DataError::NoneOfThem(windows.to_owned()));
    }
    if let Some(first) = absent.first() {
        // Not `eprintln!`: a stderr that takes nothing more must not end the tables.
        let _ = writeln!(
            io::stderr(),
            "warning: {}: {} of the {} files that it names are not in data/, such as {first}",
            windows.display(),
            absent.len(),
            absent.len() + all.len(),
        );
    }
    Ok(all)
}

/// Its first and its last row: of exactly these moments, else the outermost between them.
fn window(timestamps_us: &[i64], from: &str, to: &str) -> Option<(usize, usize)> {
    let (from, to) = (timestamp_us(from)?, timestamp_us(to)?);
    let row = |at_us| timestamps_us.iter().position(|&t| t == at_us);
    let within = |t: &i64| (from..=to).contains(t);
    let first = row(from).or_else(|| timestamps_us.iter().position(within))?;
    let last = row(to).or_else(|| timestamps_us.iter().rposition(within))?;
    (first <= last).then_some((first, last))
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
        let entry = entry.map_err(at)?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
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
    let wrong = |line: usize, what: String| DataError::Line(path.to_owned(), line + 1, what);
    let head = lines.next().map_or("", |(_, head)| head);
    let separator = [',', ';', '\t'].into_iter().find(|&s| head.contains(s)).unwrap_or(',');
    let columns: Vec<String> = fields(head, separator).map(str::to_ascii_lowercase).collect();
    let column = |names: &[&str]| {
        names.iter().find_map(|name| columns.iter().position(|column| column == name))
    };
    let at = column(&TIMESTAMP);
    let label = column(&LABEL);
    let mut others = (0..columns.len()).filter(|&c| Some(c) != at && Some(c) != label);
    let only = others.next().filter(|_| others.next().is_none());
    let value = column(&VALUE).or(only.filter(|_| at.is_some()));
    let (Some(at), Some(value)) = (at, value) else {
        let missing = [(at, &TIMESTAMP[..]), (value, &VALUE[..])].into_iter();
        let missing: Vec<_> = missing
            .filter(|(column, _)| column.is_none())
            .map(|(_, names)| format!("{} ({})", names[0], names[1..].join(", ")))
            .collect();
        return Err(wrong(
            0,
            format!("no column {} in the header \"{head}\"", missing.join(" and no column ")),
        ));
    };

    let ending = name.len().saturating_sub(".csv".len());
    let has_ending = name.get(ending..).is_some_and(|end| end.eq_ignore_ascii_case(".csv"));
    let name = if has_ending { &name[..ending] } else { name }.to_owned();
    let mut series = Series { name, ..Series::default() };
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let row: Vec<&str> = fields(line, separator).collect();
        let field = |column: usize| row.get(column).copied().unwrap_or("");
        let parsed = field(value).parse::<f64>().ok().filter(|value| value.abs() <= VALUE_MAX);
        series.present.push(parsed.is_some());
        let Some(parsed) = parsed else { continue };
        let no = |what: &str, column| wrong(number, format!("\"{}\" is no {what}", field(column)));
        series.timestamps_us.push(timestamp_us(field(at)).ok_or_else(|| no("timestamp", at))?);
        series.values.push(parsed);
        if let Some(label) = label {
            series.labels.push(is_anomalous(field(label)).ok_or_else(|| no("label", label))?);
        }
    }
    Ok(series)
}

fn fields(line: &str, separator: char) -> impl Iterator<Item = &str> {
    line.split(separator).map(|field| field.trim().trim_matches('"'))
}

/// A row that nobody has labelled is normal.
fn is_anomalous(label: &str) -> Option<bool> {
    match label.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" | "" => Some(false),
        number => number.parse::<f64>().ok().map(|label| label > 0.0),
    }
}

/// A number since 1970 as the server takes it, or a date with or without a time, in UTC unless it says
/// otherwise.
fn timestamp_us(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<f64>() {
        return Some(timestamp::from_float(number).ok()?.unwrap_or(0));
    }
    let text = text.replace('/', "-").replacen(' ', "T", 1);
    let (date, time) = text.split_once('T').unwrap_or((&text, "00:00:00"));
    let zone_from = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone_from);
    let seconds = if time.matches(':').count() == 1 { ":00" } else { "" };
    let zone = if zone.is_empty() { "Z" } else { zone };
    timestamp::from_text(&format!("{date}T{}{seconds}{zone}", time.trim())).transpose().ok()??
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_come_in_many_forms() {
        for text in [
            "2014-04-10 07:15:00",
            "2014-04-10T07:15:00Z",
            "2014-04-10 07:15:00.000000",
            "2014-04-10 07:15",
            "2014/04/10 07:15:00",
            "2014-04-10 09:15:00+02:00",
            "1397114100",
            "1397114100.0",
            "1397114100000",
            "1397114100000000000",
        ] {
            assert_eq!(timestamp_us(text), Some(1_397_114_100_000_000), "{text}");
        }
        assert_eq!(timestamp_us("2014-04-10"), Some(1_397_088_000_000_000));
        assert_eq!(timestamp_us("7"), Some(7_000_000));
        assert_eq!(timestamp_us("0"), Some(0));
        for text in ["", "soon", "2014-13-10 00:00:00", "04/10/2014 07:15", "-5", "nan"] {
            assert_eq!(timestamp_us(text), None, "{text}");
        }
    }

    /// Reads one file of this text.
    fn read_one(name: &str, text: &str) -> Result<Series, String> {
        let folder = std::env::temp_dir().join(format!("sigmad-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("one.CSV");
        fs::write(&path, text).expect("a file");
        let read = read(&folder);
        fs::remove_dir_all(&folder).expect("it was made");
        match read {
            Ok(Corpus::Labelled(mut all)) => Ok(all.remove(0)),
            Ok(Corpus::Nab(_)) => Err("windows".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn rows_without_a_value_are_gaps_and_blank_lines_are_nothing() {
        let text = "\u{feff}TimeStamp;is_anomaly;cpu\r\n1;0;5\r\n1;True;6\r\n\r\n\
                    0;;7\n9;0;\n9;0;NaN\n9;0;1e300\n9;1.0;-8.5\n\n";
        let series = read_one("gaps", text).expect("it is read");
        assert_eq!(series.name, "one");
        assert_eq!(series.values, [5.0, 6.0, 7.0, -8.5]);
        assert_eq!(series.timestamps_us, [1_000_000, 1_000_000, 0, 9_000_000]);
        assert_eq!(series.labels, [false, true, false, true]);
        assert_eq!(series.present, [true, true, true, false, false, false, true]);
        let unlabelled = read_one("unlabelled", "value,timestamp\n1,2014-01-01\n");
        assert!(unlabelled.is_ok_and(|series| series.labels.is_empty()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, named) in [
            ("", "one.CSV:1: no column timestamp (timestamps, time, datetime, date, ts)"),
            ("1,2\n", "and no column value (values, val, y) in the header \"1,2\""),
            ("timestamp,a,b\n", "one.CSV:1: no column value (values, val, y) in the header"),
            (
                "a,value\n",
                "one.CSV:1: no column timestamp (timestamps, time, datetime, date, ts) in",
            ),
            ("timestamp,value\n\nyesterday,1\n", "one.CSV:3: \"yesterday\" is no timestamp"),
            ("timestamp,value,label\n1,1,odd\n", "one.CSV:2: \"odd\" is no label"),
        ] {
            let error = read_one("wrong", text).expect_err(text);
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_later_start_moves_windows_and_labels() {
        let series = Series {
            timestamps_us: (0..9).collect(),
            values: (0..9).map(f64::from).collect(),
            windows: vec![(1, 2), (2, 4), (6, 7)],
            labels: (0..9).map(|row| row == 4).collect(),
            ..Series::default()
        };
        let later = series.without_first(3);
        assert_eq!(later.windows, [(0, 1), (3, 4)]);
        assert_eq!((later.values[0], later.timestamps_us[0], later.labels[1]), (3.0, 3, true));
        assert!(series.without_first(99).values.is_empty());
    }

    #[test]
    fn windows_are_rows() {
        let rows: Vec<i64> = [0, 60, 120, 120, 180].map(|s| s * 1_000_000).to_vec();
        let window = |from, to| window(&rows, from, to);
        assert_eq!(window("1970-01-01 00:01:00", "1970-01-01 00:03:00.000000"), Some((1, 4)));
        assert_eq!(window("30", "121"), Some((1, 3)));
        assert_eq!(window("181", "200"), None);
        assert_eq!(window("120", "60"), None);
    }
}
