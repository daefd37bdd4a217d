//! The recorded days as bytes, for the state directory.

use std::sync::Arc;

use super::{Day, Recorded, Recorder};
use crate::dashboard::streams::{STREAMS_MAX, StreamName};
use sigmad_detectors::saved::Saved;

impl Saved for StreamName {
    fn write(&self, to: &mut Vec<u8>) {
        // An empty name is no device's.
        self.device.clone().unwrap_or_else(|| Arc::from("")).write(to);
        self.series.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let device = Arc::<str>::read(from)?;
        let series = Saved::read(from)?;
        Some(Self { device: Some(device).filter(|name| !name.is_empty()), series })
    }
}

impl Recorder {
    /// All that is recorded, those last that were wanted last.
    pub fn saved(&self) -> Vec<u8> {
        let mut to = Vec::new();
        self.load.write(&mut to);
        let mut streams: Vec<_> = self.streams.iter().collect();
        streams.sort_by_key(|(_, one)| one.wanted_ms);
        (streams.len() as u32).write(&mut to);
        for (name, one) in streams {
            name.write(&mut to);
            one.day.write(&mut to);
        }
        to
    }

    /// Goes on with what was recorded before the restart. None, and nothing is changed, for bytes that are no recording.
    pub fn restore(&mut self, mut from: &[u8]) -> Option<()> {
        let from = &mut from;
        let load = Day::read(from)?;
        let mut streams = Vec::new();
        for _ in 0..u32::read(from)? {
            let name = StreamName::read(from)?;
            let day = Day::read(from)?;
            streams.push((name, day));
        }
        if !from.is_empty() || streams.len() > STREAMS_MAX {
            return None;
        }
        self.load = load;
        // In their order: whoever was wanted first makes room first.
        self.streams = (streams.into_iter().enumerate())
            .map(|(at, (name, day))| {
                (name, Recorded { day, is_restored: true, ..Recorded::new(at as u64) })
            })
            .collect();
        self.counters.history_streams.set(self.streams.len() as u64);
        Some(())
    }
}
