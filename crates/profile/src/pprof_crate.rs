//! Samples by the pprof crate: one clock for the whole process, whose signal goes to whoever runs.
//!
//! To compare with: it unwinds in the handler, and misses what runs in short bursts.

use std::io;

use pprof::{ProfilerGuard, ProfilerGuardBuilder};

use super::samples::ProfileSamples;
use super::symbols::Symbols;

/// The pprof crate at work.
pub struct PprofCrate(ProfilerGuard<'static>);

impl PprofCrate {
    /// Begins to sample; `hz` is not 0, with which the crate would be lost for good.
    ///
    /// # Errors
    /// When the crate does not start.
    pub fn start(hz: u64) -> io::Result<Self> {
        assert!(hz > 0, "the pprof crate never recovers from it");
        let hz = i32::try_from(hz).map_err(io::Error::other)?;
        let guard = ProfilerGuardBuilder::default().frequency(hz).build();
        Ok(Self(guard.map_err(io::Error::other)?))
    }

    /// What it found; each sample stands for `period_ns`.
    ///
    /// # Errors
    /// When the crate can't tell.
    pub fn end(
        self,
        samples: &mut ProfileSamples,
        symbols: &mut Symbols,
        period_ns: u64,
    ) -> io::Result<()> {
        let report = self.0.report().build_unresolved().map_err(io::Error::other)?;
        for (frames, count) in &report.data {
            let stack: Vec<u64> = frames.frames.iter().map(|frame| frame.ip() as u64).collect();
            let interrupted = stack.iter().rposition(|at| {
                let functions = symbols.resolve(at - 1);
                functions.iter().any(|frame| frame.function.contains("perf_signal_handler"))
            });
            // Behind the handler comes what returns from signals, then what was interrupted.
            let from = interrupted.map_or(0, |place| (place + 2).min(stack.len()));
            let count = u64::try_from(*count).unwrap_or(0);
            let name = &frames.thread_name[..frames.thread_name_length];
            let name = String::from_utf8_lossy(name);
            let tid = frames.thread_id as i32;
            samples.add_named(tid, &name, &stack[from..], count, count * period_ns);
        }
        Ok(())
    }
}
