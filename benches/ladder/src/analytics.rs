//! The thread that judges, fed in one of four ways.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use baseline::report::{Report, StreamReport};
use baseline::sample::Sample;
use baseline::windows::WINDOW;
use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use sigmad::analytics::report::Scope;
use sigmad::analytics::{Analytics, AnalyticsSettings};
use sigmad::registry::Registry;
use sigmad::sample_queue::{QueueClosed, SampleConsumer, Sleeper};
use sigmad_clock::Clock;
use sigmad_detectors::DetectorSettings;
use sigmad_sample::Batch;

use crate::windows::{DETECTOR, Windows};
use crate::writer::{Record, Writer};

/// Samples or bodies that may wait in a channel.
pub const WAITING_MAX: usize = 65_536;
/// As in sigmad.
const DOZE: Duration = Duration::from_micros(900);
/// As in sigmad.
const PARK_AFTER_NS: u64 = 4_000_000;
/// Chunks of one queue judged before the next has its turn, as in sigmad.
const CHUNKS_PER_TURN: usize = 64;

/// Who asks for a report, and what becomes of it.
pub struct Ask {
    /// None for the fleet.
    pub device: Option<String>,
    /// Takes the report.
    pub reply: Box<dyn FnOnce(Report) + Send>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask").field("device", &self.device).finish_non_exhaustive()
    }
}

/// What goes through a channel.
#[derive(Debug)]
pub enum Message<T> {
    /// The samples of one request.
    Samples(T),
    /// A question; what was sent before it is judged first.
    Ask(Ask),
}

fn spawn(core: Option<usize>, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("analytics".into()).spawn(move || {
        if let Some(id) = core {
            assert!(core_affinity::set_for_current(CoreId { id }), "the kernel pins threads");
        }
        run();
    })
}

/// How a thread behind a channel waits for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// In the channel: whoever sends wakes it.
    Blocked,
    /// By timer: nobody wakes it.
    Timer,
}

/// The sending end of a channel of batches.
pub type BatchSender = Sender<Message<Vec<Sample>>>;

/// Judges by names; what comes through the channel is dropped at its end.
///
/// # Errors
/// When there is no thread to be had.
pub fn by_names(
    mut windows: Windows,
    writer: Option<Writer>,
    wait: Wait,
) -> io::Result<(BatchSender, JoinHandle<()>)> {
    let (sender, messages) = bounded::<Message<Vec<Sample>>>(WAITING_MAX);
    let thread = spawn(None, move || {
        while let Some(message) = next(&messages, wait) {
            match message {
                Message::Samples(samples) => {
                    for sample in &samples {
                        windows.observe(sample, None);
                    }
                    if let Some(writer) = &writer {
                        writer.put(samples.iter().map(Record::of).collect());
                    }
                }
                Message::Ask(Ask { device, reply }) => reply(windows.report(device.as_deref())),
            }
        }
    })?;
    Ok((sender, thread))
}

/// None when nobody can send any more.
fn next<T>(messages: &Receiver<T>, wait: Wait) -> Option<T> {
    loop {
        match (wait, messages.try_recv()) {
            (_, Ok(message)) => return Some(message),
            (_, Err(TryRecvError::Disconnected)) => return None,
            (Wait::Blocked, Err(TryRecvError::Empty)) => return messages.recv().ok(),
            (Wait::Timer, Err(TryRecvError::Empty)) => thread::sleep(DOZE),
        }
    }
}

/// sigmad's analytics, and what else the thread needs.
pub struct ById {
    analytics: Analytics,
    registry: Arc<Registry>,
    writer: Option<Writer>,
}

impl ById {
    /// Without samples.
    pub fn new(registry: Arc<Registry>, writer: Option<Writer>) -> Self {
        let detectors = DetectorSettings { zscore: DETECTOR, ..DetectorSettings::default() };
        let settings = AnalyticsSettings { window: WINDOW, detectors, onsets: None };
        let analytics = Analytics::new(settings, registry.clone().into());
        Self { analytics, registry, writer }
    }

    fn judge(&mut self, batch: &Batch, arrived_us: i64) {
        self.analytics.judge(batch, arrived_us);
        if let Some(writer) = &self.writer {
            writer.put(Record::of_batch(batch, &self.analytics));
        }
    }

    fn answer(&self, Ask { device, reply }: Ask) {
        let device = device.map(|name| self.registry.find_device(&name));
        let report = match device {
            Some(None) => Report::default(),
            Some(Some(id)) => self.report(Some(id)),
            None => self.report(None),
        };
        reply(report);
    }

    fn report(&self, device: Option<sigmad_sample::DeviceId>) -> Report {
        let windows = self.analytics.windows(device, Scope::Cluster);
        let metrics = windows.metrics.iter().map(|metric| {
            let stream = StreamReport {
                count: metric.values.len(),
                mean: metric.mean,
                std_dev: metric.std_dev,
                z_score: metric.verdict.z_score,
                is_anomaly: metric.verdict.is_anomaly,
                anomalies: metric.anomaly_count,
                total: metric.total_count,
                last: metric.values.last().copied().unwrap_or_default(),
            };
            (metric.metric.to_string(), stream)
        });
        Report {
            metrics: metrics.collect(),
            last_timestamp: windows.last_timestamp_us.unwrap_or_default() / 1_000_000,
        }
    }
}

/// Judges by ids, a message for each request.
///
/// # Errors
/// When there is no thread to be had.
pub fn by_ids(
    mut by_id: ById,
    start: Instant,
) -> io::Result<(Sender<Message<Batch>>, JoinHandle<()>)> {
    let (sender, messages) = bounded::<Message<Batch>>(WAITING_MAX);
    let mut clock = Clock::new(start);
    let thread = spawn(None, move || {
        for message in messages {
            match message {
                Message::Samples(batch) => by_id.judge(&batch, clock.now().wall_us),
                Message::Ask(ask) => by_id.answer(ask),
            }
        }
    })?;
    Ok((sender, thread))
}

/// How a thread behind sample queues waits for chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Whoever sends wakes it.
    Park,
    /// By timer, until nothing has come for a while.
    Doze,
}

/// Judges by ids, in blocks.
///
/// # Errors
/// When there is no thread to be had.
pub fn by_blocks(
    mut by_id: ById,
    mut consumers: Vec<SampleConsumer>,
    sleeper: Arc<Sleeper>,
    rest: Rest,
    core: Option<usize>,
    start: Instant,
) -> io::Result<(Sender<Ask>, JoinHandle<()>)> {
    let (sender, asks) = unbounded();
    let clock = Clock::new(start);
    let thread = spawn(core, move || {
        sleeper.register();
        let mut busy_ns = 0;
        while !consumers.is_empty() {
            let asked: Option<Ask> = asks.try_recv().ok();
            let mut is_busy = asked.is_some();
            consumers.retain(|consumer| {
                // All that was there when the question was taken, and a bounded number of the rest.
                for _ in 0..consumer.waiting().max(CHUNKS_PER_TURN) {
                    match consumer.receive() {
                        Ok(Some(block)) => {
                            is_busy = true;
                            by_id.judge(&block.batch, block.sent.wall_us);
                            consumer.recycle(block);
                        }
                        Ok(None) => return true,
                        Err(QueueClosed) => {
                            is_busy = true;
                            return false;
                        }
                    }
                }
                true
            });
            if let Some(ask) = asked {
                by_id.answer(ask);
            }
            if is_busy {
                busy_ns = clock.monotonic_ns();
                continue;
            }
            let has_work = || consumers.iter().any(SampleConsumer::is_ready) || !asks.is_empty();
            if rest == Rest::Doze && clock.monotonic_ns() - busy_ns < PARK_AFTER_NS {
                sleeper.doze(DOZE, has_work);
            } else {
                sleeper.park(has_work);
            }
        }
    })?;
    Ok((sender, thread))
}
