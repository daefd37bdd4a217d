//! Devices whose detector states come from another replica, or go there.

use super::DeviceWindows;
use super::entry::note_verdict;
use crate::analytics::anomalies::{AnomalousValue, AnomalyLog};
use crate::analytics::arena::{MetricStream, RingSource, StreamToJudge};
use crate::analytics::handover::WaitingValue;
use crate::analytics::metrics::KnownMetrics;
use crate::handover::{FoundStates, STREAMS_PER_PART, StatedPart, StreamStates, WaitOutcome};
use sigmad_detectors::DetectorKind;
use sigmad_sample::{DeviceId, Reading, Sample};

impl DeviceWindows {
    /// A sample of a device has arrived. True when its values wait for states.
    pub(super) fn hear(&mut self, id: DeviceId, arrived_us: i64, metrics: &KnownMetrics) -> bool {
        if self.get_mut(id, metrics).is_none() {
            return false;
        }
        self.handover.as_mut().is_some_and(|handover| handover.hear(id, arrived_us))
    }

    /// Judges a sample as [`DeviceWindows::judge`], but by `zscore` alone; its values wait for the other detectors, and to
    /// be judged for incidents.
    #[cold]
    pub(super) fn judge_early(
        &mut self,
        id: DeviceId,
        sample: &Sample,
        readings: &[Reading],
        arrived_us: i64,
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) -> bool {
        let is_final = self.arena.states().settings().first() == DetectorKind::Zscore;
        let timestamp_us = sample.timestamp_us;
        for (at, &Reading { metric, value }) in readings.iter().enumerate() {
            let Some((device, arena, _)) = self.get_mut(id, metrics) else { return false };
            let of_device = device.stream(metric, at, arena, metrics);
            let Some(MetricStream { place, .. }) = of_device else { continue };
            let StreamToJudge { record: stream, ring, states, .. } = arena.get_to_judge(place);
            let before = stream.window.moments();
            let verdict = states.judge_early(&before, value);
            stream.enter(ring, value, verdict);
            if is_final {
                let flag = AnomalousValue { value, before, verdict, timestamp_us, arrived_us };
                note_verdict(device.of(id), (metric, stream), flag, metrics, anomalies);
            }
            if stream.ring_source != RingSource::Own {
                arena.enter_own(place, value, verdict);
            }
            let early = verdict;
            let waiting = WaitingValue { metric, value, before, early, timestamp_us, arrived_us };
            if let Some(handover) = &mut self.handover {
                handover.wait(id, waiting);
            }
        }
        let Some((device, ..)) = self.get_mut(id, metrics) else { return false };
        device.count(timestamp_us, arrived_us)
    }

    /// Takes states that came for a device, and judges the values that waited for them.
    pub fn receive_states(
        &mut self,
        found: FoundStates,
        now_us: i64,
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) {
        let id = found.device;
        // Otherwise they are too late: the states that are here have gone on.
        if !self.handover.as_ref().is_some_and(|handover| handover.is_waiting(id)) {
            return;
        }
        let outcome = match found.streams.is_empty() {
            true => WaitOutcome::Unknown,
            false if found.is_older => WaitOutcome::Older,
            false => WaitOutcome::Received,
        };
        let mut anew = 0;
        for (at, StreamStates { metric, bytes }) in found.streams.into_iter().enumerate() {
            let Some((device, arena, onsets)) = self.get_mut(id, metrics) else { return };
            let of_device = device.stream(metric, at, arena, metrics);
            let Some(MetricStream { place, .. }) = of_device else { continue };
            anew += arena.read_states(place, &bytes).unwrap_or(1);
            onsets.receive(arena, (device.name.as_ref(), metric, place), metrics, now_us);
        }
        if let Some(handover) = &self.handover {
            handover.counters.anew_total.add(anew as u64);
        }
        self.end_wait(id, outcome, metrics, anomalies);
    }

    /// Ends the wait of a device: judges its values by the states that are here.
    pub fn end_wait(
        &mut self,
        id: DeviceId,
        outcome: WaitOutcome,
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) {
        let Some(handover) = &mut self.handover else { return };
        let values = handover.end_wait(id, outcome);
        self.judge_waiting(id, values, metrics, anomalies);
    }

    /// Judges values that have waited, in their order.
    pub fn judge_waiting(
        &mut self,
        id: DeviceId,
        values: Vec<WaitingValue>,
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) {
        let is_final = self.arena.states().settings().first() == DetectorKind::Zscore;
        for (at, waiting) in values.into_iter().enumerate() {
            let WaitingValue { metric, value, before, early, timestamp_us, arrived_us } = waiting;
            let Some((device, arena, onsets)) = self.get_mut(id, metrics) else { return };
            // None: its metric was evicted meanwhile.
            let Some(at) = device.find(metric, at) else { continue };
            let place = device.streams[at].place;
            let StreamToJudge { record: stream, fold, interval_us, states, .. } =
                arena.get_to_judge(place);
            let is_due = fold.is_some_and(|fold| !fold.add(interval_us, arrived_us, value));
            let verdict = states.judge_late(stream.state, timestamp_us, value, early);
            if is_due {
                let of = (device.name.as_ref(), metric, place);
                onsets.judge(arena, of, metrics, arrived_us, value);
            }
            if is_final {
                continue;
            }
            let (stream, _) = arena.get_mut(place);
            // Of the last value: what `zscore` says of it stays, which may have been judged again.
            let last = stream.verdict.verdict().by(verdict.score, verdict.is_anomaly);
            stream.verdict = last.into();
            stream.own.anomalies += u64::from(verdict.is_anomaly);
            let ring_source = stream.ring_source;
            let flag = AnomalousValue { value, before, verdict, timestamp_us, arrived_us };
            note_verdict(device.of(id), (metric, stream), flag, metrics, anomalies);
            if let RingSource::Both(copy) = ring_source {
                let own = arena.get_mut(copy).0;
                own.verdict = own.verdict.verdict().by(last.score, last.is_anomaly).into();
            }
        }
    }

    /// The states of a device for the replica that hears it now. Open anomalies end here: they go on there. A deviation stays
    /// open here until it is unheard: so no moment of the move is without a claim of it.
    pub fn state_device(&mut self, id: DeviceId, takeover: u32) -> Vec<StatedPart> {
        let Some(device) = self.get(id) else { return Vec::new() };
        let (own_total, head) = (device.own.total, self.arena.states_head());
        let places: Vec<_> = device.streams.iter().map(|s| (s.metric, s.place)).collect();
        let mut parts: Vec<StatedPart> =
            Vec::with_capacity(places.len().div_ceil(STREAMS_PER_PART));
        for of_part in places.chunks(STREAMS_PER_PART) {
            let streams = of_part.iter().map(|&(metric, place)| StreamStates {
                metric,
                bytes: self.arena.write_states(place, &head),
            });
            let (is_first, is_last) = (parts.is_empty(), false);
            parts.push(StatedPart {
                device: id,
                own_total,
                takeover,
                streams: streams.collect(),
                cadence: None,
                is_first,
                is_last,
            });
        }
        if let Some(last) = parts.last_mut() {
            last.is_last = true;
        }
        for (metric, place) in places {
            let open = self.arena.get_mut(place).0.open.take();
            self.left_open.extend(open.map(|open| (open, (Some(id), metric))));
        }
        parts
    }
}
