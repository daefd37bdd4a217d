//! How this process was started, without what nobody else may know.

/// Flags whose values are secrets, or may hold one.
const SECRET_FLAGS: [&str; 6] = [
    "--ingest-token",
    "--read-token",
    "--debug-token",
    "--redis-url",
    "--redis-password",
    "--demo-redis-url",
];
const HIDDEN: &str = "…";

/// The arguments with a zero byte between them, as Go tells them.
pub fn of_this_process() -> Vec<u8> {
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    without_secrets(arguments).join("\0").into_bytes()
}

fn without_secrets(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret = false;
    let shown = arguments.map(|argument| {
        if std::mem::take(&mut is_secret) {
            return hidden(&argument);
        }
        match argument.split_once('=') {
            Some((flag, value)) if SECRET_FLAGS.contains(&flag) => {
                format!("{flag}={}", hidden(value))
            }
            _ => {
                is_secret = SECRET_FLAGS.contains(&argument.as_str());
                argument
            }
        }
    });
    shown.collect()
}

/// The name of a file is no secret.
fn hidden(value: &str) -> String {
    if value.starts_with('@') { value.to_owned() } else { HIDDEN.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let arguments = [
            "sigmad",
            "--ingest-token",
            "s3cret",
            "--read-token=s3cret",
            "--debug-token",
            "@file",
            "--redis-url=redis://:s3cret@host",
            "--redis-password",
            "s3cret",
            "--demo-redis-url=redis://:s3cret@host",
            "--window=50",
        ];
        let shown = without_secrets(arguments.into_iter().map(str::to_owned));
        assert_eq!(
            shown,
            [
                "sigmad",
                "--ingest-token",
                "…",
                "--read-token=…",
                "--debug-token",
                "@file",
                "--redis-url=…",
                "--redis-password",
                "…",
                "--demo-redis-url=…",
                "--window=50"
            ]
        );
    }
}
