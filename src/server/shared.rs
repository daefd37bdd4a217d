//! What several threads of the server use.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;

use crate::config::ServerSettings;
use crate::decode::PointTables;
use crate::readiness::Readiness;
use crate::registry::Registry;
use crate::sample_queue::Sleeper;
use crate::shards::ShardLayout;

/// What the main thread waits for.
pub(super) enum MainEvent {
    /// SIGTERM, SIGINT or SIGQUIT.
    Signal(i32),
    /// SIGHUP.
    Reload,
    /// A worker lost its poller.
    WorkerFailed(io::Error),
    /// The store has read the windows of the cluster, or Redis is unavailable; also each later change.
    StoreState,
    /// What was known before the restart is there again.
    Restored,
}

/// Handles that every builder of threads receives.
pub(super) struct Shared {
    /// All clocks count from here.
    pub start: Instant,
    pub registry: Arc<Registry>,
    /// What the decoders of all workers share.
    pub points: Arc<PointTables>,
    pub readiness: Arc<Readiness>,
    /// How analytics is divided.
    pub layout: ShardLayout,
    /// Each wakes the analytics thread of its shard.
    pub sleepers: Vec<Arc<Sleeper>>,
    pub main: Sender<MainEvent>,
}

impl Shared {
    pub fn new(
        settings: &ServerSettings,
        max_streams: usize,
        layout: ShardLayout,
        start: Instant,
        main: Sender<MainEvent>,
    ) -> Self {
        let stream_idle_s = u32::try_from(settings.stream_idle.as_secs()).unwrap_or(u32::MAX);
        Self {
            start,
            registry: Arc::new(Registry::new(max_streams, stream_idle_s)),
            points: Arc::new(PointTables::new(settings.series_rules(), max_streams)),
            readiness: Arc::default(),
            layout,
            sleepers: (0..layout.threads()).map(|_| Arc::default()).collect(),
            main,
        }
    }
}
