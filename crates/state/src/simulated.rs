//! A disk in memory that crashes and fails as real ones do, under a seed.
//!
//! What was written and not synced is kept, lost, torn or garbled by sectors at a crash. Creations, renames and removals
//! that were not synced happen or do not, each by itself.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::disk::{Disk, Entry, FileReader, FileWriter};

/// What a disk writes at once.
const SECTOR_BYTES: usize = 512;
/// "No space left on device" of Linux.
const ENOSPC: i32 = 28;
/// "Read-only file system" of Linux.
const EROFS: i32 = 30;
/// "Input/output error" of Linux.
const EIO: i32 = 5;

/// What fails besides crashes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Nothing can be changed.
    pub is_read_only: bool,
    /// Bytes of all files together; None for a disk without a limit.
    pub capacity: Option<u64>,
    /// One in so many syncs fails, and the bytes that it was for are lost at the next crash. 0 for none.
    pub sync_fails_one_in: u32,
    /// One in so many writes fails after a part. 0 for none.
    pub append_fails_one_in: u32,
    /// One in so many truncations fails. 0 for none.
    pub truncate_fails_one_in: u32,
    /// Reads return a part of what was asked for.
    pub has_short_reads: bool,
}

/// The disk. Clones share it: one stands for the disk, others for processes that use it.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct Platter {
    random: u64,
    faults: Faults,
    files: Vec<Content>,
    /// Names as processes see them.
    names: BTreeMap<String, usize>,
    /// Names that survive a crash.
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync of the directory.
    changes: Vec<Change>,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// So many bytes survive a crash.
    durable: usize,
    /// True after a failed sync: the system believes that the bytes are written.
    is_lost: bool,
    /// Reads fail.
    is_unreadable: bool,
}

#[derive(Debug)]
enum Change {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            random: seed,
            faults: Faults::default(),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
        })))
    }

    /// Replaces what fails.
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    /// The power fails. Writers that were open before are not to be used any more.
    pub fn crash(&self) {
        self.0.lock().crash();
    }

    /// The content of a file, None without one.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let platter = self.0.lock();
        Some(platter.files[*platter.names.get(name)?].bytes.clone())
    }

    /// Replaces the content of a file, or creates it: damage, or a file from elsewhere.
    pub fn set_content(&self, name: &str, bytes: Vec<u8>) {
        let mut platter = self.0.lock();
        let durable = bytes.len();
        platter.files.push(Content { bytes, durable, ..Content::default() });
        let file = platter.files.len() - 1;
        platter.names.insert(name.into(), file);
        platter.durable_names.insert(name.into(), file);
    }

    /// Has each read of a file fail.
    ///
    /// # Panics
    /// Without such a file.
    pub fn set_unreadable(&self, name: &str) {
        let mut platter = self.0.lock();
        let file = platter.names[name];
        platter.files[file].is_unreadable = true;
    }

    fn writable(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let platter = self.0.lock();
        if platter.faults.is_read_only {
            Err(io::Error::from_raw_os_error(EROFS))
        } else {
            Ok(platter)
        }
    }
}

impl Platter {
    /// SplitMix64: enough for faults, and no dependency.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `max`.
    fn up_to(&mut self, max: usize) -> usize {
        (self.random() % (max as u64 + 1)) as usize
    }

    fn fails(&mut self, one_in: u32) -> bool {
        one_in > 0 && self.random().is_multiple_of(u64::from(one_in))
    }

    fn crash(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            if self.random().is_multiple_of(2) {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        for at in 0..self.files.len() {
            let (durable, is_lost) = (self.files[at].durable, self.files[at].is_lost);
            let written = self.files[at].bytes.len() - durable;
            let kept = durable + if is_lost { 0 } else { self.up_to(written) };
            self.files[at].bytes.truncate(kept);
            // The length may be durable before the sectors are, and these in any order.
            let mut sector = durable;
            while sector < kept {
                let end = kept.min((sector / SECTOR_BYTES + 1) * SECTOR_BYTES);
                if self.random().is_multiple_of(4) {
                    self.files[at].bytes[sector..end].fill(0);
                }
                sector = end;
            }
            self.files[at].durable = kept;
            self.files[at].is_lost = false;
        }
    }

    fn sync(&mut self, file: usize) -> io::Result<()> {
        let one_in = self.faults.sync_fails_one_in;
        if self.fails(one_in) {
            self.files[file].is_lost = true;
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let content = &mut self.files[file];
        // After a failed sync the system reports success for bytes that are lost.
        if !content.is_lost {
            content.durable = content.bytes.len();
        }
        Ok(())
    }

    fn append(&mut self, file: usize, bytes: &[u8]) -> io::Result<()> {
        let one_in = self.faults.append_fails_one_in;
        let used: usize = self.names.values().map(|file| self.files[*file].bytes.len()).sum();
        let left = self.faults.capacity.map_or(u64::MAX, |max| max.saturating_sub(used as u64));
        let (fits, error) = if (bytes.len() as u64) > left {
            (left as usize, Some(ENOSPC))
        } else if self.fails(one_in) {
            (self.up_to(bytes.len()), Some(EIO))
        } else {
            (bytes.len(), None)
        };
        self.files[file].bytes.extend_from_slice(&bytes[..fits]);
        error.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)))
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>> {
        let mut platter = self.writable()?;
        platter.files.push(Content::default());
        let file = platter.files.len() - 1;
        platter.change(Change::Create(name.into(), file));
        Ok(Box::new(SimulatedFile { disk: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn FileReader>> {
        let file = self.0.lock().file(name)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut platter = self.writable()?;
        platter.file(from)?;
        platter.change(Change::Rename(from.into(), to.into()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut platter = self.writable()?;
        platter.file(name)?;
        platter.change(Change::Remove(name.into()));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let platter = self.0.lock();
        let entry = |(name, file): (&String, &usize)| Entry {
            name: name.clone(),
            bytes: platter.files[*file].bytes.len() as u64,
        };
        Ok(platter.names.iter().map(entry).collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut platter = self.0.lock();
        let one_in = platter.faults.sync_fails_one_in;
        if platter.fails(one_in) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        platter.durable_names = platter.names.clone();
        platter.changes.clear();
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
}

impl FileWriter for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.writable()?.append(self.file, bytes)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.disk.0.lock().sync(self.file)
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        let mut platter = self.disk.writable()?;
        let one_in = platter.faults.truncate_fails_one_in;
        if platter.fails(one_in) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        platter.files[self.file].bytes.truncate(bytes as usize);
        Ok(())
    }
}

impl FileReader for SimulatedFile {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut platter = self.disk.0.lock();
        if platter.files[self.file].is_unreadable {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let length = platter.files[self.file].bytes.len();
        let from = length.min(offset as usize);
        let mut count = into.len().min(length - from);
        if platter.faults.has_short_reads && count > 1 {
            count = 1 + platter.up_to(count - 1);
        }
        into[..count].copy_from_slice(&platter.files[self.file].bytes[from..from + count]);
        Ok(count)
    }
}
