//! The map of sigmad.

pub mod analytics;
pub mod api;
pub mod clock;
pub mod config;
pub mod decode;
pub mod handover;
pub mod http;
pub mod registry;
pub mod sample;
pub mod server;
pub mod store;
pub mod tally;
pub mod telemetry;
