//! The environment variable of each setting.

/// The variable of a setting is this prefix and the flag's name in capitals.
pub(super) const VARIABLE_PREFIX: &str = "SIGMAD_";

/// The variable of `--max-body` is `SIGMAD_MAX_BODY`.
pub(super) fn variable(flag: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", flag.replace('-', "_").to_uppercase())
}
