//! The way of events from the analytics threads to the thread `incidents`.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use sigmad_counters::{Counter, Families, MetricSource};
use sigmad_incidents::event::Event;

/// Events that wait: a site of ten thousand devices falls silent at once. An event takes a hundred bytes.
pub const EVENTS_WAITING_MAX: usize = 16_384;

/// The events of one analytics thread.
#[derive(Debug, Default)]
pub struct EventCounters {
    /// Events sent.
    pub sent_total: Counter,
    /// Events dropped because too many waited.
    pub dropped_total: Counter,
}

impl MetricSource for EventCounters {
    fn collect(&self, families: &mut Families) {
        families
            .counter(
                "sigmad_incident_events_total",
                "Onsets and ends that analytics noticed, by result: sent, or dropped because too many waited.",
            )
            .add_counter(&[("result", "sent")], &self.sent_total)
            .add_counter(&[("result", "dropped")], &self.dropped_total);
    }
}

/// Sends the events of one analytics thread. Waits for nobody, but at a start.
#[derive(Clone, Debug)]
pub struct EventSender {
    events: Sender<Event>,
    counters: Arc<EventCounters>,
}

impl EventSender {
    /// Sends an event, or counts that there was no room.
    pub fn send(&self, event: Event) {
        match self.events.try_send(event) {
            Ok(()) => self.counters.sent_total.add(1),
            // Full, or the thread has ended before analytics, which the drain rules out.
            Err(_) => self.counters.dropped_total.add(1),
        }
    }

    /// Sends what is wrong after a restart. Waits for room: without it, all that was wrong before would be over.
    pub fn send_restored(&self, standing: Vec<Event>, at_us: i64) {
        match self.events.send(Event::Restored { standing, at_us }) {
            Ok(()) => self.counters.sent_total.add(1),
            Err(_) => self.counters.dropped_total.add(1),
        }
    }
}

/// A sender for each of these counters, which are those of one analytics thread each.
pub fn channel(counters: &[Arc<EventCounters>]) -> (Vec<EventSender>, Receiver<Event>) {
    let (events, received) = bounded(EVENTS_WAITING_MAX);
    let sender = |counters: &Arc<EventCounters>| EventSender {
        events: events.clone(),
        counters: counters.clone(),
    };
    (counters.iter().map(sender).collect(), received)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_without_room_are_counted() {
        let counters = Arc::<EventCounters>::default();
        let (senders, received) = channel(std::slice::from_ref(&counters));
        for at_us in 0..EVENTS_WAITING_MAX as i64 + 3 {
            senders[0].send(Event::ReceptionBack { at_us });
        }
        let counted = (counters.sent_total.get(), counters.dropped_total.get());
        assert_eq!(counted, (EVENTS_WAITING_MAX as u64, 3));
        assert_eq!(received.recv(), Ok(Event::ReceptionBack { at_us: 0 }));
    }
}
