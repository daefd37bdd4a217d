//! The member that an onset makes.

use std::sync::Arc;

use super::SILENCE_SCORE;
use crate::event::Event;
use crate::incident::{Kind, Member};

impl Member {
    /// A member without values, with the score of a silence.
    pub(super) fn begun(kind: Kind, device: Option<Arc<str>>, series: Option<Arc<str>>) -> Self {
        Self {
            kind,
            device,
            series,
            started_at_us: 0,
            ended_at_us: None,
            is_gone: false,
            score: SILENCE_SCORE,
            value: 0.0,
            usual: 0.0,
            low: 0.0,
            high: 0.0,
        }
    }
}

/// The member that an onset makes.
pub(crate) fn member(event: &Event) -> Member {
    let begun = |kind, device, series, started_at_us| Member {
        started_at_us,
        ..Member::begun(kind, device, series)
    };
    match event {
        Event::Deviation { device, series, at_us, value, usual, low, high, score } => Member {
            score: *score,
            value: *value,
            usual: *usual,
            low: *low,
            high: *high,
            ..begun(Kind::Deviation, device.clone(), Some(series.clone()), *at_us)
        },
        Event::Silence { device, since_us, at_us, usual_interval_us } => {
            let usual = *usual_interval_us as f64 / 1e6;
            let value = (at_us - since_us) as f64 / 1e6;
            let member = begun(Kind::Silence, Some(device.clone()), None, *since_us);
            Member { value, usual, high: usual, ..member }
        }
        Event::Reception { since_us, at_us } => {
            let value = (at_us - since_us) as f64 / 1e6;
            Member { value, ..begun(Kind::Reception, None, None, *since_us) }
        }
        Event::Recovery { .. }
        | Event::Return { .. }
        | Event::Gone { .. }
        | Event::Restored { .. }
        | Event::ReceptionBack { .. } => unreachable!("only onsets make members"),
    }
}
