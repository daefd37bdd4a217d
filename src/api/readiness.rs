//! Whether this process wants requests: one flag, set by the server, told by `/readyz`.

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

/// The shared flag.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

impl Default for Readiness {
    fn default() -> Self {
        Self(AtomicU8::new(Phase::Starting as u8))
    }
}

impl Readiness {
    /// Says how far the process is.
    pub fn set(&self, phase: Phase) {
        // Relaxed: the flag orders nothing else; a probe sees it a moment late at worst.
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    /// How far the process is.
    pub fn phase(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }
}

impl Phase {
    /// Status and body of `/readyz`.
    pub const fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Starting => (
                503,
                r#"{"status":"starting","parts":{"http":"ok","analytics":"starting","redis":"off"}}"#,
            ),
            Self::Ready => {
                (200, r#"{"status":"ready","parts":{"http":"ok","analytics":"ok","redis":"off"}}"#)
            }
            Self::Draining => (
                503,
                r#"{"status":"draining","parts":{"http":"draining","analytics":"ok","redis":"off"}}"#,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_is_told() {
        let readiness = Readiness::default();
        assert_eq!(readiness.phase().answer().0, 503);
        for (phase, status, word) in [
            (Phase::Ready, 200, "ready"),
            (Phase::Draining, 503, "draining"),
            (Phase::Starting, 503, "starting"),
        ] {
            readiness.set(phase);
            assert_eq!(readiness.phase(), phase);
            let (actual, body) = phase.answer();
            let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!((actual, &body["status"]), (status, &serde_json::json!(word)));
            assert_eq!(body["parts"]["redis"], "off");
        }
    }
}
