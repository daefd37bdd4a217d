//! sigmad, the sigma daemon: samples in over HTTP, verdicts out within a millisecond.
//!
//! # Threads
//!
//! ```text
//!  clients          clients                            one core each, pinned where there is room
//!     │                │
//! ┌───▼────┐      ┌────▼───┐   chunks of samples   ┌───────────┐  judged   ┌───────┐
//! │worker-0│  …   │worker-N├──────────────────────►│ analytics │◄─────────►│ store │◄──► Redis
//! └─┬────▲─┘      └─┬────▲─┘   (a queue each)      └─────▲─────┘  windows  └───────┘
//!   │    │          │    │                               │ questions, reports
//!   │    └──────────│────┴───── completions ────────┐    │
//!   └───────────────┴───────── reads ────────────►┌─┴────▼───┐
//!                                                 │ reader-0… │  JSON, the scrape, compression
//!                                                 └──┬────────┘
//!                                                    │ clients of /events
//!                                                 ┌──▼────────┐
//!                                                 │  events   │  asks once a tick, tells all who watch
//!                                                 └───────────┘
//! ```
//!
//! analytics judges and keeps every window; the store, which is there with Redis only, shares them with
//! other replicas. One more thread, `debug`, stands aside: it starts another for each who looks into the
//! process ([`api::debug`], [`sigmad_profile`]). `main` starts them in [`server`], waits for a signal, and stops
//! them in the order of the arrows. `sigmad demo` has one more, [`sigmad_demo`], which posts as any client does.
//! `sigmad load` starts none of them: [`sigmad_load`] is a client with threads of its own.
//!
//! # The life of a sample
//!
//! 1. A [`http::worker`] reads a socket; [`http::head`] finds the request, [`http::protocol`] calls
//!    the service.
//! 2. [`api`] routes it; [`decode`] turns the body into a [`sigmad_sample::Batch`], with names already
//!    turned into ids by the [`registry`].
//! 3. If the worker's [`sample_queue::SampleProducer`] has room the batch is kept, else nothing of the request is.
//! 4. At the end of the round the producer sends its chunk, and only then do the answers leave: a 202
//!    means that the sample is on its way in memory, in order.
//! 5. The [`analytics`] thread judges each value against the windows of its device and of the fleet, and by
//!    what other [`sigmad_detectors`] remember of both, then lets it enter them.
//! 6. With Redis it hands the sample to the [`store::thread`] through the [`judged_queue`], which writes it
//!    with the next flush, reads what other replicas have changed, and hands that back.
//! 7. Reads come as questions to the same thread, which first judges all chunks sent before: a read
//!    sees every sample whose 202 had left.
//!
//! [`sigmad_eval`] is beside all that: it runs the detectors over labelled data, and says how well they detect.
//!
//! # Invariants
//!
//! - [`http`], [`decode`], [`analytics`] and [`store`] never import one another. They share the words of [`sigmad_sample`],
//!   the form of a [`number`](sigmad_sample::number) and the counters of [`sigmad_counters`]; [`api`] and [`server`] are where they meet.
//! - A worker blocks in one place, its poller, and never on another thread. What could take long
//!   (reports, the scrape, compression) runs on a reader and comes back by [`http::message::Responder`].
//! - Who looks into the process, through [`sigmad_profile`], is answered on threads of its own ([`api::debug`]).
//! - However many clients watch, the [`dashboard`] asks once a tick, and nobody waits for it.
//! - [`analytics`] does no I/O; only [`sigmad_clock`] reads the clock.
//! - No allocation per sample between socket and verdict once its stream exists.
//! - A request writes no memory that another worker writes. [`sigmad_counters`] counters have one writer.
//! - Nothing is refused or dropped without a counter beside the code that does it.

pub mod analytics;
pub mod answers;
pub mod api;
pub mod config;
pub mod dashboard;
pub mod decode;
pub mod http;
pub mod judged_queue;
pub mod logs;
pub mod placement;
pub mod readiness;
pub mod registry;
pub mod sample_queue;
pub mod server;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod test_reports;
#[cfg(test)]
mod testing;
