//! The command line of the real binary: what it prints, and how it exits.

use std::process::{Command, Output};

fn sigmad(args: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new("timeout")
        .arg("10")
        .arg(env!("CARGO_BIN_EXE_sigmad"))
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn help_and_version_go_to_stdout_and_exit_0() {
    for arg in ["--help", "--version"] {
        let output = sigmad(&[arg], &[]);
        assert_eq!(output.status.code(), Some(0), "{arg}");
        assert!(text(&output.stdout).starts_with("sigmad ") || arg == "--help");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arg}");
    }
}

#[test]
fn a_bad_value_exits_2_and_names_its_flag_wherever_it_came_from() {
    let from_flag = sigmad(&["--window", "1"], &[]);
    let from_environment = sigmad(&[], &[("SIGMAD_WINDOW", "1")]);
    for output in [from_flag, from_environment] {
        assert_eq!(output.status.code(), Some(2));
        let message = text(&output.stderr);
        assert!(message.contains("--window") && message.contains("2 to 10000"), "{message}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn settings_that_cannot_work_exit_78() {
    let cases = [
        (sigmad(&["--window=5", "--min-samples=10"], &[]), "--min-samples"),
        (sigmad(&["--ingest-token=@/no/such/file"], &[]), "--ingest-token"),
        (sigmad(&[], &[("SIGMAD_READ_TOKEN", "")]), "--read-token"),
    ];
    for (output, named) in cases {
        assert_eq!(output.status.code(), Some(78), "{named}");
        assert!(text(&output.stderr).contains(named), "{}", text(&output.stderr));
    }
}

#[test]
fn the_printed_settings_are_an_environment_that_prints_the_same() {
    let first = sigmad(
        &["--print-config", "--window=77", "--max-body=1MiB", "--ingest-token=s3cret"],
        &[("SIGMAD_THRESHOLD", "3.5"), ("SIGMAD_PIN", "off")],
    );
    assert_eq!(first.status.code(), Some(0));
    let printed = text(&first.stdout);
    assert!(!printed.contains("s3cret") && printed.contains("# SIGMAD_INGEST_TOKEN is set"));

    let environment: Vec<_> = printed.lines().filter_map(|line| line.split_once('=')).collect();
    assert!(environment.contains(&("SIGMAD_WINDOW", "77")), "{printed}");
    assert!(environment.contains(&("SIGMAD_THRESHOLD", "3.5")), "{printed}");
    let second = sigmad(&["serve", "--print-config", "--ingest-token=other"], &environment);
    assert_eq!(text(&second.stdout), printed);
}

#[test]
fn a_flag_wins_over_its_variable() {
    let output = sigmad(&["--print-config", "--window=20"], &[("SIGMAD_WINDOW", "30")]);
    assert!(text(&output.stdout).contains("SIGMAD_WINDOW=20\n"));
}
