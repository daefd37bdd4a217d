//! The operations on one directory, and the real one.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::damage::StateError;

/// The process id of the owner. The lock is on the directory, so that it works where nothing can be written.
const LOCK_FILE: &str = "lock";

/// One directory. A name has no slash.
pub trait Disk: Send + Sync + fmt::Debug {
    /// A new and empty file for appending; one of that name is replaced.
    ///
    /// # Errors
    /// Those of the system.
    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>>;
    /// A file for reading.
    ///
    /// # Errors
    /// Those of the system.
    fn open(&self, name: &str) -> io::Result<Box<dyn FileReader>>;
    /// Renames a file; one that has the new name is replaced.
    ///
    /// # Errors
    /// Those of the system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// Those of the system.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// All files, in any order.
    ///
    /// # Errors
    /// Those of the system.
    fn list(&self) -> io::Result<Vec<Entry>>;
    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_dir(&self) -> io::Result<()>;
}

/// A file of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// A file that grows.
pub trait FileWriter: Send + fmt::Debug {
    /// Adds bytes at the end. After an error any part of them may be there.
    ///
    /// # Errors
    /// Those of the system.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended durable. After an error any part of it may be lost, whatever a later call returns.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_data(&mut self) -> io::Result<()>;
    /// Takes back what was appended after the first `bytes`.
    ///
    /// # Errors
    /// Those of the system.
    fn truncate(&mut self, bytes: u64) -> io::Result<()>;
}

/// A file that is read.
pub trait FileReader: Send + fmt::Debug {
    /// Reads up to as many bytes as there is room for; 0 at the end only.
    ///
    /// # Errors
    /// Those of the system.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// A directory of the system. It is locked as long as this lives.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    directory: File,
}

impl RealDisk {
    /// Creates the directory where it is missing, and locks it.
    ///
    /// # Errors
    /// [`StateError::Locked`] when another process has it; else those of the system.
    pub fn lock(path: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(path)?;
        let directory = File::open(path)?;
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(path.join(LOCK_FILE)).ok();
                let pid = pid.and_then(|pid| pid.trim().parse().ok());
                return Err(StateError::Locked { directory: path.into(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // Err: nothing can be written now. The lock holds without it.
        let _ = fs::write(path.join(LOCK_FILE), format!("{}\n", std::process::id()));
        Ok(Self { path: path.into(), directory })
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>> {
        Ok(Box::new(RealFile(File::create(self.path.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn FileReader>> {
        Ok(Box::new(RealFile(File::open(self.path.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            // A name that is no UTF-8 is none of ours.
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                entries.push(Entry { name, bytes: metadata.len() });
            }
        }
        Ok(entries)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl FileWriter for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}

impl FileReader for RealFile {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match FileExt::read_at(&self.0, into, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}
