//! Variables that look like settings and are none.

use std::collections::BTreeSet;

use super::command_line::command_line;
use super::environment::VARIABLE_PREFIX;

/// Which of these variables start like a setting and are none. The log warns of them, as they may be
/// misspelt. They stop no start: other programs may set such variables.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let command = command_line();
    let known: BTreeSet<_> =
        command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    names
        .filter(|name| name.starts_with(VARIABLE_PREFIX))
        .filter(|name| !known.contains(name.as_str()) && !is_from_kubernetes(name))
        .collect()
}

/// Kubernetes sets variables for every Service in each container. A Service `sigmad` or `sigmad-redis` becomes
/// `SIGMAD_SERVICE_HOST`, `SIGMAD_PORT_8080_TCP_ADDR`, `SIGMAD_REDIS_PORT` and the like.
fn is_from_kubernetes(name: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}
