//! Whether this process takes requests, as `/readyz` shows it.
//!
//! Three shared flags: the server sets the phase, the thread of the store the state of the store, and the thread
//! `state` that of the state directory.
//! A failing store changes the body of the answer, never its status: samples are still judged.

use std::borrow::Cow;
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

/// The state of the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryState {
    /// There is none.
    Off,
    /// What was known before the restart is read: so many per cent of it.
    Restoring(u8),
    /// Snapshots are written.
    Ok,
    /// The last one could not be written.
    Degraded,
}

impl DirectoryState {
    const OFF: u8 = u8::MAX;
    const OK: u8 = u8::MAX - 1;
    const DEGRADED: u8 = u8::MAX - 2;

    /// In one byte.
    fn encoded(self) -> u8 {
        match self {
            Self::Off => Self::OFF,
            Self::Restoring(percent) => percent.min(100),
            Self::Ok => Self::OK,
            Self::Degraded => Self::DEGRADED,
        }
    }

    fn decoded(encoded: u8) -> Self {
        match encoded {
            Self::OFF => Self::Off,
            Self::OK => Self::Ok,
            Self::DEGRADED => Self::Degraded,
            percent => Self::Restoring(percent),
        }
    }
}

/// The shared flags.
#[derive(Debug)]
pub struct Readiness {
    phase: AtomicU8,
    store: AtomicU8,
    directory: AtomicU8,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            phase: AtomicU8::new(ReadinessPhase::Starting as u8),
            store: AtomicU8::new(StoreState::Off as u8),
            directory: AtomicU8::new(DirectoryState::OFF),
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

    /// Sets the state of the state directory.
    pub fn set_directory(&self, directory: DirectoryState) {
        // Relaxed, as the other flags.
        self.directory.store(directory.encoded(), Ordering::Relaxed);
    }

    /// The current state of the state directory.
    pub fn directory(&self) -> DirectoryState {
        DirectoryState::decoded(self.directory.load(Ordering::Relaxed))
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
    pub fn answer(&self) -> (u16, Cow<'static, str>) {
        match self.directory() {
            DirectoryState::Off => {
                let (status, body) = answer(self.phase(), self.store());
                (status, body.into())
            }
            directory => {
                let (status, body) = answer_with_directory(self.phase(), directory);
                (status, body.into())
            }
        }
    }
}

/// With a state directory there is no Redis.
fn answer_with_directory(phase: ReadinessPhase, directory: DirectoryState) -> (u16, String) {
    let (code, status, http, analytics) = match (phase, directory) {
        (ReadinessPhase::Starting, _) => (503, "starting", "ok", "starting"),
        (ReadinessPhase::Draining, _) => (503, "draining", "draining", "ok"),
        (ReadinessPhase::Ready, DirectoryState::Degraded) => (200, "degraded", "ok", "ok"),
        (ReadinessPhase::Ready, _) => (200, "ready", "ok", "ok"),
    };
    let directory = match directory {
        DirectoryState::Restoring(percent) => format!("restoring {percent} %"),
        DirectoryState::Degraded => "degraded".to_owned(),
        DirectoryState::Off | DirectoryState::Ok => "ok".to_owned(),
    };
    let parts = format!(
        r#"{{"http":"{http}","analytics":"{analytics}","redis":"off","state":"{directory}"}}"#
    );
    (code, format!(r#"{{"status":"{status}","parts":{parts}}}"#))
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
                let body: Value = serde_json::from_str(&body).expect("JSON");
                let word = if (word, redis) == ("ready", "degraded") { redis } else { word };
                assert_eq!((actual, &body["status"]), (status, &json!(word)));
                assert_eq!(body["parts"]["redis"], redis);
            }
        }
        readiness.set(ReadinessPhase::Ready);
        readiness.set_store(StoreState::Degraded);
        let body =
            r#"{"status":"degraded","parts":{"http":"ok","analytics":"ok","redis":"degraded"}}"#;
        assert_eq!(readiness.answer(), (200, body.into()));
    }

    #[test]
    fn the_state_directory_is_a_part_where_there_is_one() {
        let readiness = Readiness::default();
        for (phase, directory, status, word, part) in [
            (
                ReadinessPhase::Starting,
                DirectoryState::Restoring(0),
                503,
                "starting",
                "restoring 0 %",
            ),
            (
                ReadinessPhase::Starting,
                DirectoryState::Restoring(250),
                503,
                "starting",
                "restoring 100 %",
            ),
            (ReadinessPhase::Ready, DirectoryState::Ok, 200, "ready", "ok"),
            (ReadinessPhase::Ready, DirectoryState::Degraded, 200, "degraded", "degraded"),
            (ReadinessPhase::Draining, DirectoryState::Ok, 503, "draining", "ok"),
        ] {
            readiness.set(phase);
            readiness.set_directory(directory);
            let (actual, body) = readiness.answer();
            let body: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!((actual, &body["status"]), (status, &json!(word)));
            assert_eq!(body["parts"]["state"], part);
        }
        readiness.set_directory(DirectoryState::Off);
        assert!(!readiness.answer().1.contains("state"));
    }
}
