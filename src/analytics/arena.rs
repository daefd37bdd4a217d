//! Where streams live: headers and rings, in chunks that never move.
//!
//! A stream is a header of two cache lines and, elsewhere, a ring of N values. Growing takes one more
//! chunk and copies nothing; a stream that is given back is the next to be taken.

use crate::analytics::window::{WINDOW_MAX, Window};
use crate::exchange::Counts;
use crate::sample::Verdict;

/// Memory for rings is taken so much at a time: some 50 µs of page faults, spread over its use.
const CHUNK_RING_BYTES: usize = 1 << 20;

/// A stream's place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPlace(u32);

/// What is kept of one stream beside its ring.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// The sums over its ring.
    pub window: Window,
    /// Of the last value.
    pub verdict: Verdict,
    /// What was judged here since the start.
    pub own: Counts,
}

const _: () = assert!(size_of::<Stream>() <= 128);

impl Stream {
    /// Lets a value in that was judged by the window before it.
    #[inline(always)] // called twice a reading, where a call would pass its arguments through memory
    pub fn enter(&mut self, ring: &mut [f64], value: f64, verdict: Verdict) {
        self.window.push(ring, value);
        self.verdict = verdict;
        self.own.total += 1;
        self.own.anomalies += u64::from(verdict.is_anomaly);
    }
}

#[derive(Debug)]
struct Chunk {
    streams: Box<[Stream]>,
    rings: Box<[f64]>,
}

/// All streams.
#[derive(Debug)]
pub struct Arena {
    window: usize,
    /// log₂ of the streams in a chunk.
    chunk_bits: u32,
    chunks: Vec<Chunk>,
    /// Places up to here have been taken at least once.
    taken: u32,
    given_back: Vec<StreamPlace>,
}

impl Arena {
    /// Streams with `window` values each.
    pub fn new(window: usize) -> Self {
        assert!((1..=WINDOW_MAX).contains(&window), "config checks --window");
        let streams = CHUNK_RING_BYTES / (window * size_of::<f64>());
        let chunk_bits = streams.max(1).ilog2();
        Self { window, chunk_bits, chunks: Vec::new(), taken: 0, given_back: Vec::new() }
    }

    /// How many streams are in use.
    pub fn in_use(&self) -> usize {
        self.taken as usize - self.given_back.len()
    }

    /// An empty stream.
    pub fn take(&mut self) -> StreamPlace {
        if let Some(place) = self.given_back.pop() {
            *self.get_mut(place).0 = Stream::default();
            return place;
        }
        let place = StreamPlace(self.taken);
        if self.split(place).0 == self.chunks.len() {
            let streams = 1 << self.chunk_bits;
            self.chunks.push(Chunk {
                streams: vec![Stream::default(); streams].into(),
                // Zeroed by the system, page by page as it is used.
                rings: vec![0.0; streams * self.window].into(),
            });
        }
        self.taken += 1;
        place
    }

    /// Forgets a stream; its place will be taken again.
    pub fn give_back(&mut self, place: StreamPlace) {
        self.given_back.push(place);
    }

    /// A stream and its ring.
    #[inline]
    pub fn get(&self, place: StreamPlace) -> (&Stream, &[f64]) {
        let (chunk, within) = self.split(place);
        let Chunk { streams, rings } = &self.chunks[chunk];
        (&streams[within], &rings[within * self.window..][..self.window])
    }

    /// A stream and its ring, to push to.
    #[inline]
    pub fn get_mut(&mut self, place: StreamPlace) -> (&mut Stream, &mut [f64]) {
        let (chunk, within) = self.split(place);
        let Chunk { streams, rings } = &mut self.chunks[chunk];
        (&mut streams[within], &mut rings[within * self.window..][..self.window])
    }

    #[inline]
    fn split(&self, place: StreamPlace) -> (usize, usize) {
        let place = place.0 as usize;
        (place >> self.chunk_bits, place & ((1 << self.chunk_bits) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_do_not_touch_each_other_and_do_not_move() {
        for window in [1, 50, WINDOW_MAX] {
            let mut arena = Arena::new(window);
            let places: Vec<_> = (0..60).map(|_| arena.take()).collect();
            let first = arena.get(places[0]).1.as_ptr();
            for (i, &place) in places.iter().enumerate() {
                let (stream, ring) = arena.get_mut(place);
                assert_eq!(ring.len(), window);
                for _ in 0..=window {
                    stream.window.push(ring, i as f64);
                }
            }
            for (i, &place) in places.iter().enumerate() {
                let (stream, ring) = arena.get(place);
                assert!(ring.iter().all(|&v| v == i as f64));
                assert_eq!(stream.window.moments().mean, i as f64);
            }
            assert_eq!(arena.get(places[0]).1.as_ptr(), first);
        }
    }

    #[test]
    fn a_place_given_back_is_taken_again_empty() {
        let mut arena = Arena::new(50);
        let (a, b) = (arena.take(), arena.take());
        let (stream, ring) = arena.get_mut(a);
        stream.window.push(ring, 5.0);
        stream.own.total = 1;
        arena.give_back(a);
        assert_eq!(arena.in_use(), 1);
        let again = arena.take();
        assert_eq!(again, a);
        assert_ne!(again, b);
        let (stream, ring) = arena.get(again);
        assert_eq!((stream.own.total, stream.window.last(ring)), (0, None));
    }
}
