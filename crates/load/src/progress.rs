//! One line on a terminal, rewritten each second.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;

use super::LiveCounters;
use super::numbers::grouped;
use sigmad_counters::Counts;

const SECOND_NS: u64 = 1_000_000_000;
/// Moves to the start of the line and clears it.
const LINE_START: &str = "\r\x1b[K";

/// The line, and the figures that it showed last.
pub struct ProgressLine<'a> {
    lives: &'a [Arc<LiveCounters>],
    start_ns: u64,
    next_ns: u64,
    sent: u64,
    good: u64,
    latency: Counts,
}

impl<'a> ProgressLine<'a> {
    /// The line of a run that begins at `start_ns`.
    pub fn new(start_ns: u64, lives: &'a [Arc<LiveCounters>]) -> Self {
        let next_ns = start_ns + SECOND_NS;
        Self { lives, start_ns, next_ns, sent: 0, good: 0, latency: Counts::default() }
    }

    /// When the next line is due.
    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Shows the last second.
    pub fn show(&mut self, now_ns: u64) {
        if now_ns >= self.next_ns {
            let line = self.line(now_ns);
            // A line for people: without a reader the run goes on.
            let _ = write!(io::stderr(), "{LINE_START}{line}");
        }
    }

    /// Removes the line.
    pub fn clear(self) {
        let _ = write!(io::stderr(), "{LINE_START}");
    }

    fn line(&mut self, now_ns: u64) -> String {
        let sum = |count: fn(&LiveCounters) -> u64| {
            self.lives.iter().map(|live| count(live)).sum::<u64>()
        };
        let (sent, good) = (sum(|live| live.sent.get()), sum(|live| live.good.get()));
        let failed = sum(|live| live.failed.get());
        let mut latency = Counts::default();
        for live in self.lives {
            live.latency.merge_into(&mut latency);
        }
        let second = latency.since(&self.latency);
        let span_s = (now_ns - (self.next_ns - SECOND_NS)) as f64 / 1e9;
        let per_s = |now: u64, before: u64| grouped(((now - before) as f64 / span_s) as u64);
        let mut line = format!(
            "{:>4} s   {} sent/s   {} good/s   {} failed   {} in flight",
            (now_ns - self.start_ns) / SECOND_NS,
            per_s(sent, self.sent),
            per_s(good, self.good),
            grouped(failed),
            // Other threads count meanwhile.
            grouped(sent.saturating_sub(good + failed)),
        );
        for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
            if let Some(ns) = second.quantile_ns(q) {
                write!(line, "   {name} {:.2} ms", ns as f64 / 1e6).expect("a string grows");
            }
        }
        (self.sent, self.good, self.latency) = (sent, good, latency);
        self.next_ns = now_ns + SECOND_NS;
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_one_second() {
        let lives = [Arc::new(LiveCounters::default()), Arc::new(LiveCounters::default())];
        let mut progress = ProgressLine::new(0, &lives);
        for live in &lives {
            live.sent.add(1_000);
            live.good.add(900);
            live.failed.add(50);
            live.latency.record(1_000_000, 900);
        }
        let line = progress.line(SECOND_NS);
        assert!(line.starts_with("   1 s   2,000 sent/s   1,800 good/s   100 failed"), "{line}");
        assert!(line.contains("100 in flight   p50 1."), "{line}");
        lives[0].sent.add(10);
        lives[0].latency.record(64_000_000, 1);
        let line = progress.line(3 * SECOND_NS);
        assert!(line.starts_with("   3 s   5 sent/s   0 good/s   100 failed"), "{line}");
        assert!(line.contains("p50 67.11 ms   p99 67.11 ms"), "{line}");
    }
}
