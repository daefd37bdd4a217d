//! The thread that writes to Redis, ten times a second.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use baseline::TTL_S;
use baseline::sample::Sample;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use sigmad::analytics::Analytics;
use sigmad_sample::{Batch, MetricId};

use crate::rungs::Redis;

const INTERVAL: Duration = Duration::from_millis(100);
/// Commands in one write.
const PIPELINE: usize = 512;
/// Messages that may wait; past it what comes is dropped and said.
const WAITING_MAX: usize = 65_536;

/// What is kept of a sample.
#[derive(Clone, Debug)]
pub struct Record {
    device: Option<Arc<str>>,
    timestamp: i64,
    cpu: Option<f64>,
    rps: Option<f64>,
}

impl Record {
    /// Of a sample with names.
    pub fn of(sample: &Sample) -> Self {
        let Sample { timestamp, device, cpu, rps } = sample;
        let device = device.as_deref().map(Arc::from);
        Self { device, timestamp: *timestamp, cpu: *cpu, rps: *rps }
    }

    /// Of samples with ids.
    pub fn of_batch(batch: &Batch, analytics: &Analytics) -> Vec<Self> {
        let records = batch.iter().map(|(sample, readings)| {
            let value = |metric: MetricId| {
                readings.iter().find(|reading| reading.metric == metric).map(|r| r.value)
            };
            Self {
                device: sample.device.and_then(|id| analytics.device_name(id).cloned()),
                timestamp: sample.timestamp_us / 1_000_000,
                cpu: value(MetricId::CPU),
                rps: value(MetricId::RPS),
            }
        });
        records.collect()
    }
}

/// Where records go in.
#[derive(Clone, Debug)]
pub struct Writer(Sender<Vec<Record>>);

impl Writer {
    /// Connects, and starts the thread. It ends when all writers are gone and everything is written.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub fn start(url: &str, how: Redis) -> Result<Self, Box<dyn Error>> {
        let mut connection = redis::Client::open(url)?.get_connection()?;
        let (sender, records) = bounded(WAITING_MAX);
        thread::Builder::new().name("redis-writer".into()).spawn(move || {
            loop {
                thread::sleep(INTERVAL);
                let is_last = write(&records, how, &mut connection);
                if is_last {
                    return;
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// Queues records; never waits.
    pub fn put(&self, records: Vec<Record>) {
        match self.0.try_send(records) {
            Ok(()) => {}
            Err(TrySendError::Full(records)) => {
                eprintln!("Redis is too slow: {} samples dropped", records.len());
            }
            Err(TrySendError::Disconnected(_)) => unreachable!("the thread outlives its writers"),
        }
    }
}

/// Writes what waits; true when nothing can come any more.
fn write(records: &Receiver<Vec<Record>>, how: Redis, connection: &mut redis::Connection) -> bool {
    let mut all: Vec<Record> = Vec::new();
    let mut last: HashMap<Option<Arc<str>>, Record> = HashMap::new();
    let is_last = loop {
        match records.try_recv() {
            Ok(records) if how == Redis::Piped => all.extend(records),
            Ok(records) => last.extend(records.into_iter().map(|r| (r.device.clone(), r))),
            Err(error) => break error.is_disconnected(),
        }
    };
    all.extend(last.into_values());
    for records in all.chunks(PIPELINE) {
        let mut pipeline = redis::pipe();
        for Record { device, timestamp, cpu, rps } in records {
            let device = device.as_deref();
            let sample = Sample {
                timestamp: *timestamp,
                device: device.map(str::to_owned),
                cpu: *cpu,
                rps: *rps,
            };
            pipeline.set_ex(sample.key(), sample.to_json(), TTL_S).ignore();
        }
        if let Err(error) = pipeline.exec(connection) {
            eprintln!("Redis: {error}; {} samples dropped", records.len());
        }
    }
    is_last
}
