//! Every counter of the server, and who reads it.

use std::sync::Arc;

use sigmad_counters::MetricSource;
use sigmad_notify::counters::TargetCounters;

use super::state::StateDirCounters;
use super::store::RedisCounters;
use crate::analytics::families::StoredInMemory;
use crate::analytics::thread::AnalyticsCounters;
use crate::api::acknowledge::AcknowledgeCounters;
use crate::api::counters::{RequestCounters, RouterCounters};
use crate::api::reader::READERS;
use crate::dashboard::counters::EventsCounters;
use crate::dashboard::sampler::{IngestSource, SamplerCounters};
use crate::http::counters::HttpCounters;
use crate::incidents::counters::IncidentCounters;
use crate::incidents::events::EventCounters;
use crate::logs::LostLines;
use crate::registry::Registry;
use crate::replicas::counters::ClusterCounters;
use crate::sample_queue::SampleQueueCounters;
use crate::shards::ShardLayout;
use crate::telemetry::{Build, Sources};

/// The counters of every thread.
pub(super) struct ServerCounters {
    pub workers: Vec<WorkerCounters>,
    pub readers: Vec<Arc<RequestCounters>>,
    pub debug: Arc<RequestCounters>,
    /// One for each shard.
    pub analytics: Vec<Arc<AnalyticsCounters>>,
    pub events: Arc<EventsCounters>,
    /// Events of incidents, one for each shard.
    pub incident_events: Vec<Arc<EventCounters>>,
    pub incidents: Arc<IncidentCounters>,
    /// One for each target of notifications.
    pub notify: Vec<Arc<TargetCounters>>,
    /// None without `--redis-url`.
    pub redis: Option<RedisCounters>,
    /// None without `--redis-url`.
    pub cluster: Option<Arc<ClusterCounters>>,
    /// None unless answers wait for the disk.
    pub acknowledge: Option<Arc<AcknowledgeCounters>>,
    /// None without `--state-dir`.
    pub state: Option<StateDirCounters>,
}

/// The counters of one worker.
pub(super) struct WorkerCounters {
    pub http: Arc<HttpCounters>,
    pub router: Arc<RouterCounters>,
    pub queue: Arc<SampleQueueCounters>,
}

impl WorkerCounters {
    fn new(worker: usize) -> Self {
        let queue = SampleQueueCounters { worker, ..SampleQueueCounters::default() };
        Self { http: Arc::default(), router: Arc::default(), queue: Arc::new(queue) }
    }
}

impl ServerCounters {
    pub fn new(
        workers: usize,
        shards: ShardLayout,
        redis: Option<RedisCounters>,
        has_state: bool,
    ) -> Self {
        Self {
            workers: (0..workers).map(WorkerCounters::new).collect(),
            readers: (0..READERS).map(|_| Arc::default()).collect(),
            debug: Arc::default(),
            analytics: (0..shards.threads()).map(|_| Arc::default()).collect(),
            events: Arc::default(),
            incident_events: (0..shards.threads()).map(|_| Arc::default()).collect(),
            incidents: Arc::default(),
            notify: Vec::new(),
            cluster: redis.is_some().then(Arc::default),
            redis,
            acknowledge: None,
            state: has_state.then(|| StateDirCounters::new(shards.threads())),
        }
    }

    /// Samples that were accepted for Redis and are neither there nor dropped. Of those in memory none outlives
    /// the process.
    pub fn without_outcome(&self) -> u64 {
        let Some(redis) = &self.redis else { return 0 };
        let finished = redis.finished();
        let accepted = self.workers.iter().map(|worker| worker.router.accepted_total.get());
        accepted.sum::<u64>().saturating_sub(finished)
    }

    /// For the scrape. What has left a queue comes before what has entered it: see [`Sources`].
    pub fn sources(&self, build: Build, registry: Arc<Registry>) -> Sources {
        let mut sources: Vec<Arc<dyn MetricSource>> = match &self.redis {
            Some(RedisCounters { queues, store, handovers }) => {
                let queues = queues.iter().map(|queue| queue.clone() as Arc<dyn MetricSource>);
                let handovers = handovers.iter().map(|of| of.clone() as Arc<dyn MetricSource>);
                queues.chain([store.clone() as Arc<dyn MetricSource>]).chain(handovers).collect()
            }
            None => (self.analytics.iter())
                .map(|shard| Arc::new(StoredInMemory(shard.clone())) as Arc<dyn MetricSource>)
                .collect(),
        };
        sources.extend(self.readers.iter().map(|reader| reader.clone() as Arc<dyn MetricSource>));
        sources.extend(self.acknowledge.iter().map(|held| held.clone() as Arc<dyn MetricSource>));
        sources.extend(self.analytics.iter().map(|shard| shard.clone() as Arc<dyn MetricSource>));
        let of_events = self.incident_events.iter();
        sources.extend(of_events.map(|shard| shard.clone() as Arc<dyn MetricSource>));
        sources.push(self.incidents.clone());
        sources.extend(self.cluster.iter().map(|one| one.clone() as Arc<dyn MetricSource>));
        sources.extend(self.notify.iter().map(|target| target.clone() as Arc<dyn MetricSource>));
        sources.extend::<[Arc<dyn MetricSource>; 3]>([
            self.debug.clone(),
            self.events.clone(),
            registry,
        ]);
        for WorkerCounters { http, router, queue } in &self.workers {
            sources.extend::<[Arc<dyn MetricSource>; 3]>([
                http.clone(),
                router.clone(),
                queue.clone(),
            ]);
        }
        if let Some(StateDirCounters { snapshots, journal, incidents }) = &self.state {
            let snapshots = snapshots.clone() as Arc<dyn MetricSource>;
            sources.extend([snapshots, journal.clone(), incidents.clone()]);
        }
        sources.push(Arc::new(LostLines));
        sources.push(Arc::new(build));
        sources.into()
    }

    /// For the live page.
    pub fn sampled(&self) -> SamplerCounters {
        let workers = self.workers.iter();
        SamplerCounters {
            ingest: workers.clone().map(|w| w.router.clone() as Arc<dyn IngestSource>).collect(),
            http: workers.clone().map(|worker| worker.http.clone()).collect(),
            sample_queues: workers.map(|worker| worker.queue.clone()).collect(),
            analytics: self.analytics.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
