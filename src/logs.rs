//! Log lines on stderr: text on a terminal, JSON elsewhere. Times are RFC 3339 in UTC. No request is logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// may and may_minihttp log three lines for each connection, its normal end as an error. `--log` comes after this
/// directive and overrides it.
const MAY_IS_SILENT: &str = "may=off";

/// Starts logging by `filter`. `main` calls it once, before any other thread runs.
pub fn start(filter: &str, format: LogFormat) {
    let is_terminal = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{MAY_IS_SILENT},{filter}")))
        .with_writer(std::io::stderr);
    match (format, is_terminal) {
        (LogFormat::Human, _) | (LogFormat::Auto, true) => {
            // NO_COLOR, with any value, asks every tool for plain text.
            let is_coloured = is_terminal && std::env::var_os("NO_COLOR").is_none();
            logs.with_ansi(is_coloured).with_target(false).init();
        }
        (LogFormat::Json, _) | (LogFormat::Auto, false) => {
            logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
}
