//! Whether this process wants requests: two flags, one set by the server, one by the thread of the
//! store beyond this process; told by `/readyz`.
//!
//! A store that fails changes the words of the answer, never its status: without it samples are taken
//! and judged as before.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;

/// How far the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not everything runs yet.
    Starting,
    /// Send requests.
    Ready,
    /// SIGTERM came: what is in flight is finished, send no more.
    Draining,
}

/// How the store beyond this process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// There is none.
    Off,
    /// It does what it is asked.
    Ok,
    /// It does not: samples wait for it, and what other replicas change is not seen.
    Degraded,
}

impl StoreState {
    /// As `/readyz` and the live page call it.
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
            phase: AtomicU8::new(Phase::Starting as u8),
            store: AtomicU8::new(StoreState::Off as u8),
        }
    }
}

impl Readiness {
    /// Says how far the process is.
    pub fn set(&self, phase: Phase) {
        // Relaxed: the flag orders nothing else; a probe sees it a moment late at worst.
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Says how the store does.
    pub fn set_store(&self, store: StoreState) {
        // Relaxed, as the other flag.
        self.store.store(store as u8, Ordering::Relaxed);
    }

    /// How far the process is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// How the store does.
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

const fn answer(phase: Phase, store: StoreState) -> (u16, &'static str) {
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
        (Phase::Starting, StoreState::Off) => (503, body!("starting", "ok", "starting", "off")),
        (Phase::Starting, StoreState::Ok) => (503, body!("starting", "ok", "starting", "ok")),
        (Phase::Starting, StoreState::Degraded) => {
            (503, body!("starting", "ok", "starting", "degraded"))
        }
        (Phase::Ready, StoreState::Off) => (200, body!("ready", "ok", "ok", "off")),
        (Phase::Ready, StoreState::Ok) => (200, body!("ready", "ok", "ok", "ok")),
        (Phase::Ready, StoreState::Degraded) => (200, body!("degraded", "ok", "ok", "degraded")),
        (Phase::Draining, StoreState::Off) => (503, body!("draining", "draining", "ok", "off")),
        (Phase::Draining, StoreState::Ok) => (503, body!("draining", "draining", "ok", "ok")),
        (Phase::Draining, StoreState::Degraded) => {
            (503, body!("draining", "draining", "ok", "degraded"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_phase_is_told_with_each_state_of_the_store() {
        let readiness = Readiness::default();
        assert_eq!((readiness.phase(), readiness.store()), (Phase::Starting, StoreState::Off));
        for (phase, status, word) in [
            (Phase::Ready, 200, "ready"),
            (Phase::Draining, 503, "draining"),
            (Phase::Starting, 503, "starting"),
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
        readiness.set(Phase::Ready);
        readiness.set_store(StoreState::Degraded);
        let body =
            r#"{"status":"degraded","parts":{"http":"ok","analytics":"ok","redis":"degraded"}}"#;
        assert_eq!(readiness.answer(), (200, body));
    }
}
