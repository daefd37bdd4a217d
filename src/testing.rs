//! Tests that keep a generated document equal to the code it describes.

use std::path::Path;

/// Asserts that the file `path`, relative to the repository, holds `expected`.
/// With `UPDATE_DOCS=1` in the environment it writes the file instead: `make docs`.
pub fn check_document(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&file, expected).unwrap_or_else(|error| panic!("{path}: {error}"));
        return;
    }
    let found = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
    let differing =
        found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    let line = differing.unwrap_or_else(|| found.lines().count().min(expected.lines().count())) + 1;
    assert!(found == expected, "{path} is out of date from line {line}: run `make docs`");
}
