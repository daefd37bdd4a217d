//! The command line of the real binary: what it prints, and how it exits.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

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
    for arg in ["--help", "--version", "help", "version"] {
        let output = sigmad(&[arg], &[]);
        assert_eq!(output.status.code(), Some(0), "{arg}");
        assert!(text(&output.stdout).starts_with("sigmad ") || arg.ends_with("help"));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arg}");
    }
}

#[test]
fn a_bad_value_exits_2_and_is_named_as_it_was_given() {
    for (args, environment, named, others) in [
        (&["--window", "1"][..], &[][..], "'--window <WINDOW>': must be 2 to 10000", "SIGMAD"),
        (&[], &[("SIGMAD_WINDOW", "1")], "'SIGMAD_WINDOW': must be 2 to 10000", "--window"),
        (&["serve"], &[("SIGMAD_PIN", "maybe")], "'SIGMAD_PIN'", "--pin"),
        (&["demo"], &[("SIGMAD_DETECTOR", "pager,oracle")], "'SIGMAD_DETECTOR'", "--detector"),
        (&[], &[("SIGMAD_REDIS_URL", "redis://:s3c@h/x")], "SIGMAD_REDIS_URL", "--redis-url"),
        (&["--window=1"], &[("SIGMAD_WINDOW", "2")], "'--window <WINDOW>'", "SIGMAD"),
        (&["--window", "-1"], &[], "'--window <WINDOW>': must be a whole number", "unexpected"),
        (
            &["--threshold", "-1"],
            &[],
            "'--threshold <THRESHOLD>': must be a number above 0",
            "unexpected",
        ),
        (&["--log", "loud"], &[], "`loud` has no level", "SIGMAD"),
        (&[], &[("SIGMAD_LOG", "loud")], "'SIGMAD_LOG': `loud` has no level", "--log"),
    ] {
        let output = sigmad(args, environment);
        assert_eq!(output.status.code(), Some(2), "{args:?} {environment:?}");
        let message = text(&output.stderr);
        assert!(message.contains(named) && !message.contains(others), "{message}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn settings_that_cannot_work_exit_78() {
    let cases = [
        (sigmad(&["--window=5", "--min-samples=10"], &[]), "--min-samples"),
        (sigmad(&["--ack=disk"], &[]), "--ack disk needs --state-dir"),
        (sigmad(&["--ingest-token=@/no/such/file"], &[]), "--ingest-token"),
        (sigmad(&[], &[("SIGMAD_READ_TOKEN", "")]), "SIGMAD_READ_TOKEN is empty"),
        (
            sigmad(&["--window=5"], &[("SIGMAD_MIN_SAMPLES", "9")]),
            "SIGMAD_MIN_SAMPLES 9 is above --window 5",
        ),
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

#[test]
fn listen_takes_a_port_alone_and_a_name() {
    for (given, in_force) in [
        ("18080", "0.0.0.0:18080"),
        (":18080", "0.0.0.0:18080"),
        ("localhost:18080", "127.0.0.1:18080"),
    ] {
        let output = sigmad(&["--print-config", "--listen", given], &[]);
        let expected = format!("SIGMAD_LISTEN={in_force}\n");
        assert!(text(&output.stdout).contains(&expected), "{given}: {}", text(&output.stderr));
    }
}

#[test]
fn variables_of_other_servers_are_warned_of() {
    // The port is taken, so the start ends at once, after the warnings.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let environment =
        [("PORT", "80"), ("REDIS_URL", "redis://:s3cret@redis"), ("SIGMAD_WINDO", "9")];
    let output = sigmad(&["--listen", &address], &environment);
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    assert!(
        log.contains("SIGMAD_REDIS_URL sets --redis-url") && log.contains("SIGMAD_WINDO"),
        "{log}"
    );
    assert!(!log.contains("\"PORT\"") && !log.contains("s3cret"), "--listen is set: {log}");
}

#[test]
fn eval_without_anything_to_evaluate_exits_2_with_its_usage() {
    for args in [&["eval"][..], &["eval", "--synthetic", "--scores", "/tmp/none"]] {
        let output = sigmad(args, &[]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("Usage: sigmad eval") && message.contains("--"), "{message}");
    }
}

#[test]
fn eval_warns_of_files_that_are_not_there_and_needs_no_stderr() {
    let folder = std::env::temp_dir().join(format!("sigmad-absent-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("labels")).expect("a folder");
    std::fs::create_dir_all(folder.join("data")).expect("a folder");
    let windows = r#"{"here.csv":[["1970-01-01 00:00:01","1970-01-01 00:00:02"]],"gone.csv":[]}"#;
    std::fs::write(folder.join("labels/combined_windows.json"), windows).expect("a file");
    std::fs::write(folder.join("data/here.csv"), "timestamp,value\n1,5\n2,6\n").expect("a file");
    let data = folder.to_str().expect("UTF-8");
    let args = ["eval", "--detector", "zscore", "--data", data];
    let output = sigmad(&args, &[]);
    let message = text(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(message.starts_with("warning: "), "{message}");
    assert!(message.contains("1 of the 2 files") && message.contains("gone.csv"), "{message}");
    // Each write to it fails.
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a device");
    let silent = Command::new(env!("CARGO_BIN_EXE_sigmad"))
        .args(args)
        .stderr(full)
        .output()
        .expect("it runs");
    std::fs::remove_dir_all(&folder).expect("it was made");
    assert_eq!((silent.status.success(), silent.stdout), (true, output.stdout));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_output_without_a_panic() {
    for command in ["eval --synthetic --detector zscore", "--print-config"] {
        let script = format!("set -o pipefail; \"$SIGMAD_BINARY\" {command} | true");
        let output = Command::new("timeout")
            .args(["60", "bash", "-c", &script])
            .env("SIGMAD_BINARY", env!("CARGO_BIN_EXE_sigmad"))
            .output()
            .expect("bash runs");
        let message = text(&output.stderr);
        assert!(output.status.success() && message.is_empty(), "{command}: {message}");
    }
}

#[test]
fn a_demo_takes_no_redis_from_the_environment() {
    let variables = [("SIGMAD_REDIS_URL", "redis://production:6379")];
    let output = sigmad(&["demo", "--print-config"], &variables);
    let printed = text(&output.stdout);
    assert!(printed.contains("# SIGMAD_REDIS_URL is not set\n"), "{printed}");
    let output = sigmad(&["serve", "--print-config"], &variables);
    assert!(text(&output.stdout).contains("SIGMAD_REDIS_URL=redis://production:6379\n"));
}

#[test]
fn the_server_listens_on_each_address() {
    let mut server = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_sigmad"), "--workers=2", "--log-format=json"])
        .args(["--listen=127.0.0.1:0,127.0.0.2:0", "--listen", "127.0.0.3:0"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut log = BufReader::new(server.stderr.take().expect("piped")).lines();
    let line = log.find_map(|line| line.ok().filter(|line| line.contains("\"listening\"")));
    let line: serde_json::Value =
        serde_json::from_str(&line.expect("it starts")).expect("a line of JSON");
    let addresses: Vec<_> = line["address"].as_str().expect("text").split(", ").collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    // More than there are workers, so that each of them serves each address.
    for address in addresses.iter().cycle().take(30) {
        let mut client = TcpStream::connect(address).expect("it listens");
        let head = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        client.write_all(head.as_bytes()).expect("it reads");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("it answers and closes");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{address}: {answer}");
    }
    let pid = server.id().to_string();
    // `timeout` passes the signal on.
    assert!(Command::new("kill").arg(pid).status().is_ok_and(|status| status.success()));
    let ended = log.any(|line| line.is_ok_and(|line| line.contains("\"stopped\"")));
    assert!(ended && server.wait().is_ok());
    assert!(addresses.iter().all(|address| TcpStream::connect(address).is_err()));
}
