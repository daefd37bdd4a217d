//! sigmad, the sigma daemon: samples in over HTTP, statistics and anomaly verdicts out.
//!
//! `docs/GLOSSARY.md` defines the words, and `docs/ARCHITECTURE.md` has the entry points and invariants of each
//! part, and where to add what.
//!
//! # Threads
//!
//! ```text
//!  clients          clients                            one core each, pinned where possible
//!     │                │
//! ┌───▼────┐      ┌────▼───┐   chunks of samples   ┌───────────┐  judged   ┌───────┐
//! │worker-0│  …   │worker-N├──────────────────────►│ analytics │◄─────────►│ store │◄──► Redis
//! └─┬────▲─┘      └─┬────▲─┘   (a queue each)      └─────▲─────┘  windows  └───────┘
//!   │    │          │    │                               │ queries, reports
//!   │    └──────────│────┴───── completions ────────┐    │
//!   └───────────────┴───────── reads ────────────►┌─┴────▼───┐
//!                                                 │ reader-0… │  JSON, the scrape, compression
//!                                                 └──┬────────┘
//!                                                    │ subscribers of /events
//!                                                 ┌──▼────────┐
//!                                                 │  events   │  queries once per tick, for all subscribers
//!                                                 └───────────┘
//! ```
//!
//! The thread `incidents` (not drawn) takes what analytics notices, owns the book of incidents, and answers readers
//! ([`incidents`], [`sigmad_incidents`]). The threads `notify-N` ask it for changes and tell a target each. With Redis
//! the thread `replicas` makes one book of those of all replicas ([`replicas`]).
//!
//! The analytics thread judges every value and owns every window. With `--analytics` above 1 it is several: each has a
//! part of the devices, and one more has the fleet's windows ([`shards`]). The store thread runs with Redis only, and shares
//! the windows with other replicas, and the latest anomalies and samples ([`lists`]). The threads `state` and `journal` run with a state directory only: they write
//! what analytics knows and what it has judged since ([`state`], [`journal`]); `keeper` writes the incidents there. The thread `debug` starts one more
//! thread for each profile ([`api::debug`], [`sigmad_profile`]). [`server`] starts all threads, waits for a signal,
//! and stops them in the order of the data. `sigmad notify-test` tries who is told of incidents ([`sigmad_notify`]).
//! `sigmad demo` adds a thread that posts like any client ([`sigmad_demo`]). `sigmad load` and `sigmad eval` are
//! separate programs in the same binary ([`sigmad_load`], [`sigmad_eval`]).
//!
//! # The life of a sample
//!
//! 1. A [`http::worker`] reads a socket; [`http::head`] finds the request, and [`http::protocol`] calls the service.
//! 2. [`api`] routes it; [`decode`] turns the body into a [`sigmad_sample::Batch`], with ids from the [`registry`]
//!    instead of names.
//! 3. If the worker's [`sample_queue::SampleProducer`] has room, the whole batch is kept; otherwise nothing of the
//!    request is.
//! 4. At the end of the round the producer sends its chunk. Only then do the responses leave: a 202 means that the
//!    sample is in the queue, in order.
//! 5. The [`analytics`] thread judges each value against the windows of its device and of the fleet, and by the states
//!    of the other [`sigmad_detectors`]. Then it adds the value to them.
//! 6. With Redis, the judged sample goes through the [`judged_queue`] to the [`store::thread`], which writes it with the
//!    next flush, reads what other replicas have changed, and sends that back.
//! 7. Reads are queries to the same threads, each of which first judges all chunks sent before them. So a read sees every
//!    sample whose 202 has left.
//!
//! # Invariants
//!
//! - [`http`], [`decode`], [`analytics`] and [`store`] never import one another. They share the types of
//!   [`sigmad_sample`] and the counters of [`sigmad_counters`]; [`api`] and [`server`] connect them.
//! - A worker blocks in its poller only. Slow work (reports, the scrape, compression) runs on a reader and returns
//!   through [`http::message::Responder`].
//! - Profiles run on threads of their own ([`api::debug`]).
//! - The [`dashboard`] queries analytics once per tick, however many clients subscribe, and no thread waits for it.
//! - [`analytics`] does no I/O; only [`sigmad_clock`] reads the clock.
//! - No allocation per sample between socket and verdict, once its stream exists.
//! - A request writes no memory that another worker writes. A counter of [`sigmad_counters`] has one writer.
//! - Nothing is refused or dropped without a counter beside the code that does it.

pub mod acknowledgement;
pub mod analytics;
mod answers;
pub mod api;
pub mod cluster_scope;
pub mod config;
mod dashboard;
pub mod decode;
pub mod handover;
pub mod http;
pub mod incidents;
pub mod journal;
pub mod judged_queue;
pub mod lists;
pub mod logs;
mod memory;
mod placement;
mod questions;
mod readiness;
pub mod registry;
pub mod reloadable;
pub mod replicas;
pub mod sample_queue;
pub mod server;
pub mod shards;
pub mod shared_history;
pub mod shared_lists;
pub mod state;
pub mod store;
mod telemetry;
#[cfg(test)]
mod test_reports;
#[cfg(test)]
mod testing;
