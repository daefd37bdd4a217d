//! Telemetry for tests.

use std::sync::Arc;

use super::{Build, Sources, Telemetry};
use crate::registry::Registry;

/// The telemetry of two workers and a reader.
pub fn telemetry(registry: Arc<Registry>) -> Telemetry {
    let build = Build { version: "0.1.0", engine: "native", detector: "zscore", window: 50 };
    Telemetry::new(build, sources(registry))
}

/// The counters of two workers and a reader.
pub fn sources(registry: Arc<Registry>) -> Sources {
    Sources {
        http: vec![Arc::default(), Arc::default()],
        routers: vec![Arc::default(), Arc::default()],
        sample_queues: vec![Arc::default(), Arc::default()],
        readers: vec![Arc::default()],
        debug: Arc::default(),
        analytics: Arc::default(),
        events: Arc::default(),
        registry,
        store: None,
    }
}
