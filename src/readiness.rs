//! Whether this process takes requests, as `/readyz` shows it.
//!
//! Two shared flags: the server sets the phase, the thread of the store sets the state of the store.
//! A failing store changes the body of the answer, never its status: samples are still judged.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;

/// The phase of the process, from start to shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadinessPhase {
    /// Some threads do not run yet.
    Starting,
    /// Requests are welcome.
    Ready,
    /// After SIGTERM: requests in flight are finished, new ones should go elsewhere.
    Draining,
}

/// The state of the Redis store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// No store is configured.
    Off,
    /// Commands succeed.
    Ok,
    /// Commands fail: samples are queued, and updates of other replicas do not arrive.
    Degraded,
}

impl StoreState {
    /// The name in `/readyz` and on the live page.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Ok => "ok",
            Self::Degraded => "degraded",
        }
    }
}

/// The shared flags.
#[derive(Debug)]
pub struct Readiness {
    phase: AtomicU8,
    store: AtomicU8,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            phase: AtomicU8::new(ReadinessPhase::Starting as u8),
            store: AtomicU8::new(StoreState::Off as u8),
        }
    }
}

impl Readiness {
    /// Sets the phase.
    pub fn set(&self, phase: ReadinessPhase) {
        // Relaxed: the flag orders nothing else; a probe sees it a moment late at worst.
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Sets the state of the store.
    pub fn set_store(&self, store: StoreState) {
        // Relaxed, as the other flag.
        self.store.store(store as u8, Ordering::Relaxed);
    }

    /// The current phase.
    pub fn phase(&self) -> ReadinessPhase {
        match self.phase.load(Ordering::Relaxed) {
            0 => ReadinessPhase::Starting,
            1 => ReadinessPhase::Ready,
            _ => ReadinessPhase::Draining,
        }
    }

    /// The current state of the store.
    pub fn store(&self) -> StoreState {
        match self.store.load(Ordering::Relaxed) {
            0 => StoreState::Off,
            1 => StoreState::Ok,
            _ => StoreState::Degraded,
        }
    }

    /// Status and body of `/readyz`.
    pub fn answer(&self) -> (u16, &'static str) {
        answer(self.phase(), self.store())
    }
}

const fn answer(phase: ReadinessPhase, store: StoreState) -> (u16, &'static str) {
    macro_rules! body {
        ($status:literal, $http:literal, $analytics:literal, $redis:literal) => {
            concat!(
                r#"{"status":""#,
                $status,
                r#"","parts":{"http":""#,
                $http,
                r#"","analytics":""#,
                $analytics,
                r#"","redis":""#,
                $redis,
                r#""}}"#
            )
        };
    }
    match (phase, store) {
        (ReadinessPhase::Starting, StoreState::Off) => {
            (503, body!("starting", "ok", "starting", "off"))
        }
        (ReadinessPhase::Starting, StoreState::Ok) => {
            (503, body!("starting", "ok", "starting", "ok"))
        }
        (ReadinessPhase::Starting, StoreState::Degraded) => {
            (503, body!("starting", "ok", "starting", "degraded"))
        }
        (ReadinessPhase::Ready, StoreState::Off) => (200, body!("ready", "ok", "ok", "off")),
        (ReadinessPhase::Ready, StoreState::Ok) => (200, body!("ready", "ok", "ok", "ok")),
        (ReadinessPhase::Ready, StoreState::Degraded) => {
            (200, body!("degraded", "ok", "ok", "degraded"))
        }
        (ReadinessPhase::Draining, StoreState::Off) => {
            (503, body!("draining", "draining", "ok", "off"))
        }
        (ReadinessPhase::Draining, StoreState::Ok) => {
            (503, body!("draining", "draining", "ok", "ok"))
        }
        (ReadinessPhase::Draining, StoreState::Degraded) => {
            (503, body!("draining", "draining", "ok", "degraded"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_phase_is_shown_with_every_store_state() {
        let readiness = Readiness::default();
        assert_eq!(
            (readiness.phase(), readiness.store()),
            (ReadinessPhase::Starting, StoreState::Off)
        );
        for (phase, status, word) in [
            (ReadinessPhase::Ready, 200, "ready"),
            (ReadinessPhase::Draining, 503, "draining"),
            (ReadinessPhase::Starting, 503, "starting"),
        ] {
            for (store, redis) in [
                (StoreState::Ok, "ok"),
                (StoreState::Degraded, "degraded"),
                (StoreState::Off, "off"),
            ] {
                readiness.set(phase);
                readiness.set_store(store);
                assert_eq!((readiness.phase(), readiness.store()), (phase, store));
                let (actual, body) = readiness.answer();
                let body: Value = serde_json::from_str(body).expect("JSON");
                let word = if (word, redis) == ("ready", "degraded") { redis } else { word };
                assert_eq!((actual, &body["status"]), (status, &json!(word)));
                assert_eq!(body["parts"]["redis"], redis);
            }
        }
        readiness.set(ReadinessPhase::Ready);
        readiness.set_store(StoreState::Degraded);
        let body =
            r#"{"status":"degraded","parts":{"http":"ok","analytics":"ok","redis":"degraded"}}"#;
        assert_eq!(readiness.answer(), (200, body));
    }
}
