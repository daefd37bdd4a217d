//! Every setting of the server, and the command line that sets it.
//!
//! [`parse`] is the only source of [`ServerSettings`]. It has checked every value and has read the tokens, so no
//! other module checks a setting. A bad value, an unknown flag or values that contradict each other stop the
//! start with an error that names them.

mod checks;
mod choices;
mod command_line;
mod environment;
mod error;
mod grafana_url;
mod help;
mod in_force;
mod listen;
mod parsers;
#[cfg(test)]
mod reference;
mod settings;
#[cfg(test)]
mod tests;
mod unix_listen;
mod unknown;

pub use choices::{
    Ack, Engine, LogFormat, Pin, PollerKind, RedisHistory, RedisKeys, Shards, Switch,
};
#[cfg(test)]
pub(crate) use command_line::parse_from;
pub use command_line::{Invocation, command_line, parse};
pub use error::SettingsError;
pub use grafana_url::GrafanaUrl;
pub use settings::ServerSettings;
pub use unknown::unused_variables;
