//! The live page at `/`, and `/events`, the stream of events that feeds it.
//!
//! [`page`] has the embedded files. [`events`] is the thread behind `/events`: once a tick its [`sampler`] asks
//! analytics for the changes, and the thread composes one [`message`] for each feed and sends a copy to every
//! client. The same thread has a [`recorder`] of the last [`day`] for `/history`. However many pages are open, analytics is asked once per tick, and no worker waits for a page.

pub mod counters;
pub mod day;
pub mod events;
mod feed;
mod figures;
mod history;
pub mod history_answer;
mod message;
pub mod page;
pub mod recorder;
pub mod sampler;
pub mod streams;
pub mod subscriber;
#[cfg(test)]
mod testing;
