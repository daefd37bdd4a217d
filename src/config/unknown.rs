//! Variables that look like settings and are none.

use std::collections::BTreeSet;

use super::command_line::command_line;
use super::environment::{VARIABLE_PREFIX, variable};
use super::settings::{LISTEN, ServerSettings};

/// Variables of similar servers that set what a flag sets here.
const OF_OTHERS: [(&str, &str); 4] = [
    ("PORT", "listen"),
    ("HTTP_PORT", "listen"),
    ("REDIS_ADDR", "redis-url"),
    ("REDIS_URL", "redis-url"),
];

/// Which of these variables look like a setting and are none, each with the reason. The log warns of them, as
/// they may be misspelt. They stop no start: they may be set for another program.
pub fn unused_variables(
    names: impl Iterator<Item = String>,
    settings: &ServerSettings,
) -> Vec<(String, String)> {
    let command = command_line();
    let known: BTreeSet<_> =
        command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    let is_unset = |flag| match flag {
        "listen" => matches!(&*settings.listen, [one] if one.to_string() == LISTEN),
        _ => settings.redis_url.is_none(),
    };
    let reason = |name: &str| {
        if let Some((_, flag)) = OF_OTHERS.iter().find(|(other, _)| *other == name) {
            return is_unset(*flag).then(|| format!("{} sets --{flag}", variable(flag)));
        }
        let is_unknown = name.starts_with(VARIABLE_PREFIX) && !known.contains(name);
        let is_ours = is_unknown && !is_from_kubernetes(name);
        is_ours.then(|| "no setting has this variable".to_owned())
    };
    names.filter_map(|name| reason(&name).map(|reason| (name, reason))).collect()
}

/// Kubernetes sets variables for every Service in each container. A Service `sigmad` or `sigmad-redis` becomes
/// `SIGMAD_SERVICE_HOST`, `SIGMAD_PORT_8080_TCP_ADDR`, `SIGMAD_REDIS_PORT` and the like.
fn is_from_kubernetes(name: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}
