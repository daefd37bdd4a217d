//! The decoder of each format agrees with a plain reader, whatever the body.

#[path = "../lines/mod.rs"]
mod lines;
#[path = "../points_bounds/mod.rs"]
mod points_bounds;
#[path = "../prometheus/mod.rs"]
mod prometheus;
#[path = "../reference/mod.rs"]
mod reference;
#[path = "../reference_otlp/mod.rs"]
mod reference_otlp;

mod influx;
mod json;
mod otlp;
mod points;
mod remote_write;
