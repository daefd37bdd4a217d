//! The live page: what a person sees at `/`, and the stream of events that feeds it.
//!
//! [`page`] is the page itself, embedded and packed at build. [`events`] is the thread behind
//! `/events`: once a tick it has the [`sampler`] ask what is new, composes one [`message`] for all
//! who watch the same, and hands out copies. However many pages are open, the analytics thread is
//! asked once; no worker ever waits for a page.

pub mod counters;
pub mod events;
pub mod history;
pub mod message;
pub mod page;
pub mod sampler;
#[cfg(test)]
mod testing;
