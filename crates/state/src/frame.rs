//! The bytes of every file: a header, then frames with a length and a checksum. All numbers are little-endian.
//!
//! ```text
//! header   magic "sigmad\0", kind, u16 version, u16 0, u32 shard, u64 generation, u64 position, u32 CRC32C of these
//! frame    u32 length, u32 CRC32C, content
//! end      u32 0, u32 CRC32C: what is before is whole; in a segment of a journal, it is durable
//! ```
//!
//! The checksum of a frame covers the header's checksum, its own number in the file, the length and the content. So
//! a frame at another place, or in another file, is as wrong as one with another content.

use std::io;

use crate::CONTENT_BYTES_MAX;
use crate::damage::DamageKind;
use crate::disk::{Disk, FileReader, FileWriter};
use crate::names::{Aside, FileName};

/// The version of the format that this build writes, and the newest that it reads.
pub const VERSION: u16 = 1;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 36;
/// Bytes of a frame before its content.
pub const FRAME_BYTES: usize = 8;
const MAGIC: &[u8; 7] = b"sigmad\0";
/// Passed to the system at once: few calls, little memory.
pub(crate) const WRITE_BYTES: usize = 256 * 1024;
/// Read at once: few calls, little memory.
const READ_BYTES: usize = 64 * 1024;
const _: () = assert!(READ_BYTES >= HEADER_BYTES + FRAME_BYTES);

/// The header of a file, and its checksum, which seeds those of the frames.
pub(crate) fn header(name: &FileName) -> ([u8; HEADER_BYTES], u32) {
    let mut header = [0; HEADER_BYTES];
    header[..7].copy_from_slice(MAGIC);
    header[7] = name.kind.byte();
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&name.shard.to_le_bytes());
    header[16..24].copy_from_slice(&name.generation.to_le_bytes());
    header[24..32].copy_from_slice(&name.position.to_le_bytes());
    let seed = crc32c::crc32c(&header[..32]);
    header[32..].copy_from_slice(&seed.to_le_bytes());
    (header, seed)
}

/// Adds a frame. `number`: how many frames are before it in the file.
pub(crate) fn push(into: &mut Vec<u8>, seed: u32, number: u64, content: &[u8]) {
    debug_assert!((1..=CONTENT_BYTES_MAX).contains(&content.len()));
    let length = (content.len() as u32).to_le_bytes();
    into.extend_from_slice(&length);
    into.extend_from_slice(&checksum(seed, number, length, content).to_le_bytes());
    into.extend_from_slice(content);
}

/// Adds the mark of the end.
pub(crate) fn push_end(into: &mut Vec<u8>, seed: u32, number: u64) {
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&checksum(seed, number, [0; 4], &[]).to_le_bytes());
}

/// Writes a whole file under a temporary name, makes it durable, and gives it its name. Returns its length.
pub(crate) fn write_file<'a>(
    disk: &dyn Disk,
    name: &FileName,
    contents: impl Iterator<Item = &'a [u8]>,
) -> io::Result<u64> {
    let mut file = WholeFile::create(disk, *name)?;
    for content in contents {
        file.push(content)?;
    }
    file.finish()?;
    file.take_name(disk)?;
    disk.sync_dir()?;
    Ok(file.bytes())
}

/// A file that gets its name once it is whole and durable.
#[derive(Debug)]
pub(crate) struct WholeFile {
    name: FileName,
    file: Box<dyn FileWriter>,
    seed: u32,
    frames: u64,
    /// Frames that are not passed to the system so far.
    buffer: Vec<u8>,
    /// Bytes passed to the system.
    passed: u64,
}

impl WholeFile {
    /// Creates it under its temporary name.
    pub fn create(disk: &dyn Disk, name: FileName) -> io::Result<Self> {
        let (header, seed) = header(&name);
        let file = disk.create(&name.temporary())?;
        Ok(Self { name, file, seed, frames: 0, buffer: header.to_vec(), passed: 0 })
    }

    /// Its name.
    pub fn name(&self) -> FileName {
        self.name
    }

    /// Its length so far. What arrived is not known after an error, so all of it is counted.
    pub fn bytes(&self) -> u64 {
        self.passed + self.buffer.len() as u64
    }

    /// Adds a frame.
    pub fn push(&mut self, content: &[u8]) -> io::Result<()> {
        push(&mut self.buffer, self.seed, self.frames, content);
        self.frames += 1;
        if self.buffer.len() >= WRITE_BYTES { self.pass() } else { Ok(()) }
    }

    /// Adds the mark of the end, and makes the content durable.
    pub fn finish(&mut self) -> io::Result<()> {
        push_end(&mut self.buffer, self.seed, self.frames);
        self.pass()?;
        self.file.sync_data()
    }

    /// Gives it its name, which is durable after the next sync of the directory.
    pub fn take_name(&self, disk: &dyn Disk) -> io::Result<()> {
        // An earlier file of the temporary name must not get the name after a crash.
        disk.sync_dir()?;
        disk.rename(&self.name.temporary(), &self.name.to_string())
    }

    fn pass(&mut self) -> io::Result<()> {
        let appended = self.file.append(&self.buffer);
        self.passed += self.buffer.len() as u64;
        self.buffer.clear();
        appended
    }
}

fn checksum(seed: u32, number: u64, length: [u8; 4], content: &[u8]) -> u32 {
    let mut place = [0; 12];
    place[..8].copy_from_slice(&number.to_le_bytes());
    place[8..].copy_from_slice(&length);
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &place), content)
}

/// What follows in a file.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    /// The content of a frame.
    Frame(&'a [u8]),
    /// The mark of the end.
    End,
    /// The file ends here, after a whole frame.
    NoMore,
}

/// Why a file can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadFault {
    Damage(DamageKind),
    /// A newer version.
    Version(u16),
}

impl From<DamageKind> for ReadFault {
    fn from(kind: DamageKind) -> Self {
        Self::Damage(kind)
    }
}

impl ReadFault {
    pub fn kind(&self) -> DamageKind {
        match self {
            Self::Damage(kind) => *kind,
            Self::Version(_) => DamageKind::OtherVersion,
        }
    }

    /// Why the file is kept, if it is: this build can't read it now, and that is all that is known of it.
    pub fn aside(&self) -> Option<Aside> {
        match self {
            Self::Damage(DamageKind::Unreadable) => Some(Aside::Unreadable),
            Self::Damage(_) => None,
            Self::Version(version) => Some(Aside::Newer(*version)),
        }
    }
}

/// Reads the frames of a file in order, with one buffer.
#[derive(Debug)]
pub(crate) struct FrameReader {
    file: Box<dyn FileReader>,
    seed: u32,
    number: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the next frame begins.
    at: usize,
    /// Where in the file the buffer ends.
    offset: u64,
    /// Whether the mark of the end was read.
    has_ended: bool,
}

impl FrameReader {
    /// Opens a file and checks its header.
    pub fn open(disk: &dyn Disk, name: &FileName) -> Result<Self, ReadFault> {
        let file = disk.open(&name.to_string()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DamageKind::Missing,
            _ => DamageKind::Unreadable,
        })?;
        let mut reader = Self {
            file,
            seed: 0,
            number: 0,
            buffer: Vec::new(),
            at: 0,
            offset: 0,
            has_ended: false,
        };
        if !reader.has(HEADER_BYTES)? {
            return Err(DamageKind::TornTail.into());
        }
        let found = &reader.buffer[..HEADER_BYTES];
        let seed = crc32c::crc32c(&found[..32]);
        if found[..7] != *MAGIC || found[32..] != seed.to_le_bytes() {
            return Err(DamageKind::BadChecksum.into());
        }
        let version = u16::from_le_bytes([found[8], found[9]]);
        if version > VERSION {
            return Err(ReadFault::Version(version));
        }
        if *found != header(name).0 {
            // Whole, but another's: it was renamed.
            return Err(DamageKind::BadChecksum.into());
        }
        reader.seed = seed;
        reader.at = HEADER_BYTES;
        Ok(reader)
    }

    /// The next frame. After an error nothing more can be read.
    pub fn next(&mut self) -> Result<Next<'_>, DamageKind> {
        if !self.has(FRAME_BYTES)? {
            let is_whole = self.at == self.buffer.len();
            return if is_whole { Ok(Next::NoMore) } else { Err(DamageKind::TornTail) };
        }
        let word = |at: usize| -> [u8; 4] {
            self.buffer[at..at + 4].try_into().expect("four bytes are four bytes")
        };
        let (length, expected) = (word(self.at), u32::from_le_bytes(word(self.at + 4)));
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > CONTENT_BYTES_MAX {
            return Err(DamageKind::BadChecksum);
        }
        if !self.has(FRAME_BYTES + bytes)? {
            return Err(DamageKind::TornTail);
        }
        let content = &self.buffer[self.at + FRAME_BYTES..self.at + FRAME_BYTES + bytes];
        if checksum(self.seed, self.number, length, content) != expected {
            // Some file systems fill a torn tail with zeros.
            let is_zero = bytes == 0 && expected == 0;
            return Err(if is_zero { DamageKind::TornTail } else { DamageKind::BadChecksum });
        }
        self.at += FRAME_BYTES + bytes;
        self.number += 1;
        self.has_ended = bytes == 0;
        Ok(if bytes == 0 { Next::End } else { Next::Frame(content) })
    }

    /// Whether the mark of the end was read.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The next frame of a snapshot; None at its end. A file that stops before it is torn.
    pub fn next_block(&mut self) -> Result<Option<&[u8]>, DamageKind> {
        match self.next()? {
            Next::Frame(block) => Ok(Some(block)),
            Next::End => Ok(None),
            Next::NoMore => Err(DamageKind::TornTail),
        }
    }

    /// The next record of a journal; None at the end of the segment.
    pub fn next_record(&mut self) -> Result<Option<&[u8]>, DamageKind> {
        match self.next()? {
            Next::Frame(record) => Ok(Some(record)),
            Next::End | Next::NoMore => Ok(None),
        }
    }

    /// Reads until the buffer has so many bytes from [`Self::at`] on. False when the file ends before.
    fn has(&mut self, bytes: usize) -> Result<bool, DamageKind> {
        if self.buffer.len() - self.at >= bytes {
            return Ok(true);
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        while self.buffer.len() < bytes {
            let filled = self.buffer.len();
            // Not more at once than was asked for or is cheap: a wrong length must not take the memory before the
            // file has shown that it is as long.
            self.buffer.resize(filled + READ_BYTES, 0);
            let read = self.file.read_at(self.offset, &mut self.buffer[filled..]);
            let read = read.map_err(|_| DamageKind::Unreadable);
            self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
            let read = read?;
            if read == 0 {
                return Ok(false);
            }
            self.offset += read as u64;
        }
        Ok(true)
    }
}
