//! The files of the results. They are created before the run, so that a bad path wastes no run.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::outcome::LoadOutcome;
use super::report::LoadSummary;
use super::settings::LoadSettings;
use super::table::table;
use super::{LoadError, hgrm};

/// The value of `--json` that means standard output.
const STDOUT: &str = "-";

struct OutputFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl OutputFile {
    fn create(path: &PathBuf) -> Result<Self, LoadError> {
        match File::create(path) {
            Ok(file) => Ok(Self { path: path.clone(), file: BufWriter::new(file) }),
            Err(error) => Err(LoadError::File(path.clone(), error)),
        }
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), LoadError> {
        write(&mut self.file).map_err(|error| LoadError::File(self.path.clone(), error))
    }
}

/// The files that the settings name.
pub struct ResultFiles {
    truth: Option<OutputFile>,
    hgrm: Option<OutputFile>,
    json: Option<OutputFile>,
    has_json_on_stdout: bool,
}

impl ResultFiles {
    /// Creates the files.
    ///
    /// # Errors
    /// When a file can't be created.
    pub fn create(settings: &LoadSettings) -> Result<Self, LoadError> {
        let create = |path: Option<&PathBuf>| path.map(OutputFile::create).transpose();
        let has_json_on_stdout = settings.json.as_deref() == Some(Path::new(STDOUT));
        Ok(Self {
            truth: create(settings.truth.as_ref())?,
            hgrm: create(settings.hgrm.as_ref())?,
            json: create(settings.json.as_ref().filter(|_| !has_json_on_stdout))?,
            has_json_on_stdout,
        })
    }

    /// Adds lines to the file of `--truth`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn add_truth(&mut self, lines: &[u8]) -> Result<(), LoadError> {
        self.truth.as_mut().map_or(Ok(()), |truth| truth.write(|file| file.write_all(lines)))
    }

    /// Writes all files, and the table to standard output unless the JSON goes there.
    ///
    /// # Errors
    /// When one of them can't be written.
    pub fn write(
        self,
        settings: &LoadSettings,
        summary: &LoadSummary,
        outcome: &LoadOutcome,
    ) -> Result<(), LoadError> {
        if let Some(mut truth) = self.truth {
            truth.write(|file| file.flush())?;
        }
        if let Some(mut output) = self.hgrm {
            output.write(|file| {
                hgrm::write(&outcome.latency, file)?;
                file.flush()
            })?;
        }
        let json = summary.to_json();
        if let Some(mut output) = self.json {
            output.write(|file| {
                file.write_all(json.as_bytes())?;
                file.flush()
            })?;
        }
        let table = table(settings, summary);
        let text = if self.has_json_on_stdout { &json } else { &table };
        match io::stdout().write_all(text.as_bytes()) {
            // A reader that has gone (`| head -1`) has seen what it wants.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(LoadError::File("standard output".into(), error));
            }
            _ => {}
        }
        if self.has_json_on_stdout {
            // The result is on stdout: this copy is for people.
            let _ = io::stderr().write_all(table.as_bytes());
        }
        Ok(())
    }
}
