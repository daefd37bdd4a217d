//! The command line: what it accepts, what it rejects, and its help.

use std::collections::BTreeSet;
use std::time::Duration;

use sigmad_flags::TokenFlag;

use super::command_line::parse_from;
use super::environment::variable;
use super::error::CommandLineError;
use super::in_force::ShownValue;
use super::*;
use sigmad_detectors::DetectorKind;

fn parsed(args: &[&str]) -> Result<Invocation, CommandLineError> {
    parse_from([&["sigmad"], args].concat())
}

fn settings(args: &[&str]) -> ServerSettings {
    match parsed(args) {
        Ok(Invocation::Serve(settings)) => *settings,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn rejection(args: &[&str]) -> String {
    match parsed(args).expect_err("rejected") {
        CommandLineError::Usage(error) => error.to_string(),
        CommandLineError::Settings(message) => message,
    }
}

#[test]
fn the_command_line_is_consistent() {
    command_line().debug_assert();
}

fn listen(args: &[&str]) -> Vec<String> {
    settings(args).listen.iter().map(ToString::to_string).collect()
}

#[test]
fn serve_is_the_default_command() {
    assert_eq!(listen(&[]), ["0.0.0.0:8080"]);
    for args in [&["--listen", "[::]:1"][..], &["serve", "--listen", "[::]:1"]] {
        assert_eq!(listen(args), ["[::]:1"]);
    }
    let mixed = ["--listen=unix:@s,1.2.3.4:5", "--listen", "unix:///s?mode=600"];
    assert_eq!(listen(&mixed), ["unix:@s", "1.2.3.4:5", "unix:/s?mode=0600"]);
    assert!(rejection(&["--window", "20", "serve"]).contains("serve"));
    match parsed(&["demo", "--window", "5"]) {
        Ok(Invocation::Demo(settings)) => {
            assert_eq!(settings.min_samples, 5);
            assert_eq!(settings.incident_interval, Duration::from_secs(2));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(parsed(&["serve", "--print-config"]), Ok(Invocation::PrintConfig(_))));
}

#[test]
fn values_are_parsed_in_their_units() {
    let set = settings(&[
        "--max-body=1MiB",
        "--max-head=2000",
        "--idle-timeout=10m",
        "--read-timeout=100ms",
        "--stream-idle=1h30m",
        "--threshold=3",
    ]);
    assert_eq!((set.max_body, set.max_head), (1 << 20, 2000));
    assert_eq!(set.idle_timeout, Duration::from_secs(600));
    assert_eq!(set.read_timeout, Duration::from_millis(100));
    assert_eq!(set.stream_idle, Duration::from_secs(5400));
    assert_eq!(set.threshold, 3.0);
}

#[test]
fn printed_settings_parse_to_the_same_settings() {
    let odd: &[&[&str]] = &[
        &[],
        &["--idle-timeout=1h15m3s", "--max-body=1025", "--threshold=0.1", "--listen=[::1]:0"],
        &["--listen=127.0.0.1:1", "--listen=[::1]:2"],
        &["--cors-origin=https://a.example,http://b:1"],
        &["--log=warn,sigmad::http=trace", "--pin=off", "--engine=may", "--log-format=json"],
    ];
    for args in odd {
        let before = settings(args).in_force();
        let flags: Vec<String> = before
            .iter()
            .filter_map(|(flag, shown)| match shown {
                ShownValue::Value(value) => Some(format!("--{flag}={value}")),
                ShownValue::Secret | ShownValue::Unset => None,
            })
            .collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        assert_eq!(settings(&flags).in_force(), before);
    }
}

#[test]
fn every_flag_is_listed_once_and_has_its_variable() {
    let shown: BTreeSet<_> = settings(&[]).in_force().iter().map(|(flag, _)| *flag).collect();
    let command = command_line();
    let serve = command.find_subcommand("serve").expect("a command");
    for command in [&command, serve] {
        let flags: BTreeSet<_> = command
            .get_arguments()
            .filter_map(|arg| {
                let flag = arg.get_long()?;
                let name = arg.get_env()?.to_str()?;
                assert_eq!(name, variable(flag));
                Some(flag)
            })
            .collect();
        assert_eq!(flags, shown);
    }
}

#[test]
fn bad_values_are_rejected_with_flag_and_range() {
    let cases = [
        ("--window=1", "must be 2 to 10000"),
        ("--window=10001", "must be 2 to 10000"),
        ("--window=-1", "must be a whole number"),
        ("--window=5.5", "must be a whole number"),
        ("--min-samples=1", "must be 2 to 10000"),
        ("--workers=1025", "must be 0 to 1024"),
        ("--analytics=0", "must be auto, or 1 to 64"),
        ("--analytics=65", "must be auto, or 1 to 64"),
        ("--analytics=two", "must be auto, or 1 to 64"),
        ("--threshold=0", "above 0"),
        ("--threshold=-1", "above 0"),
        ("--threshold=NaN", "above 0"),
        ("--threshold=inf", "above 0"),
        ("--threshold=1e6", "below 1000000"),
        ("--max-body=1GiB", "must be 64 B to 256.0 MiB"),
        ("--max-body=8Meg", "must be like"),
        ("--max-body=-1", "must be like"),
        ("--max-head=255", "must be 256 B to 256.0 KiB"),
        ("--max-head=99999999999999999999", "must be"),
        ("--idle-timeout=75", "time unit needed"),
        ("--idle-timeout=0s", "must be 1s to 1day"),
        ("--read-timeout=99ms", "must be 100ms to 1h"),
        ("--drain=2h", "must be 0s to 1h"),
        ("--ttl=", "empty"),
        ("--stream-idle=9s", "must be 10s to"),
        ("--max-streams=0", "must be 1 to 100000000"),
        ("--memory-limit=1MiB", "must be 32.0 MiB"),
        ("--max-connections=0", "must be 1 to 1000000"),
        ("--redis-url=localhost:6379", "must start with redis://"),
        ("--redis-history=all", "off, stream"),
        ("--redis-keys=three", "two, one, none"),
        ("--redis-queue=1MB", "must be 1.0 MiB"),
        ("--state-max=1MB", "must be 1.0 MiB"),
        ("--snapshot-interval=10ms", "must be 1s to 1day"),
        ("--flush-interval=1ms", "must be 5ms to 1m"),
        ("--listen=nowhere", "must be an address and a port"),
        ("--listen=no host:8080", "can't be resolved"),
        ("--pin=maybe", "auto, on, off"),
        ("--engine=iis", "native, may"),
        ("--detector=oracle", "zscore"),
        ("--log=loud", "`loud` has no level"),
        ("--log=sigmad=loud", "`sigmad=loud` has no level"),
        ("--log=info,sigmad::http", "`sigmad::http` has no level"),
        ("--log=", "has no level"),
        ("--log-format=xml", "auto, human, json"),
    ];
    for (arg, reason) in cases {
        let message = rejection(&[arg]);
        let (flag, _) = arg.split_once('=').expect("a value");
        assert!(message.contains(flag) && message.contains(reason), "{arg}: {message}");
        if let Some(negative) = arg.strip_suffix("=-1") {
            assert_eq!(rejection(&[negative, "-1"]), message);
        }
    }
}

#[test]
fn every_filter_that_is_offered_is_taken() {
    for filter in ["info", "WARN", "off", "info,sigmad::http=debug", "sigmad=trace,may=off", "5"] {
        assert_eq!(settings(&["--log", filter]).log, filter);
    }
}

#[test]
fn contradictory_values_are_rejected() {
    let message = rejection(&["--window=5", "--min-samples=10"]);
    assert!(message.contains("--min-samples 10") && message.contains("--window 5"), "{message}");
    assert_eq!(settings(&["--window=5"]).min_samples, 5);
    assert_eq!(settings(&["serve", "--window=60"]).min_samples, 10);
    let message = rejection(&["--engine=may", "--poller=io_uring"]);
    assert!(message.contains("--poller io_uring is of --engine native"), "{message}");
    let message = rejection(&["--engine=may", "--listen=:1", "--listen=:2"]);
    assert!(message.contains("--engine may takes only one --listen"), "{message}");
    assert_eq!(
        settings(&["--analytics=2", "--redis-url=redis://localhost"]).analytics,
        Shards::Count(2)
    );
    let message = rejection(&["--detector=pager,zscore,pager"]);
    assert!(message.contains("--detector has pager twice"), "{message}");
}

#[test]
fn series_are_chosen_by_patterns() {
    let set = settings(&["--keep=node_*,up", "--keep=go_*", "--drop=*_info", "--gauges=x_total"]);
    let rules = set.series_rules();
    assert!(!rules.drops("up") && !rules.drops("go_threads") && rules.drops("node_uname_info"));
    assert!(rules.drops("process_threads") && rules.is_counter("a_total"));
    assert!(!rules.is_counter("x_total"));
    assert_eq!(rules.device_rank(b"host"), Some(3));
    let set = settings(&["--device-labels=rack,host"]);
    assert_eq!(set.series_rules().device_rank(b"host"), Some(1));
    assert!(rejection(&["--keep="]).contains("must not be empty"));
    assert!(rejection(&["--device-labels=,host"]).contains("--device-labels"));
}

#[test]
fn detectors_are_a_list_in_order() {
    for args in [&["--detector=pager,zscore"][..], &["--detector=pager", "--detector=zscore"]] {
        let set = settings(args);
        assert_eq!(set.detector, [DetectorKind::Pager, DetectorKind::Zscore]);
        assert!(set.to_environment().contains("SIGMAD_DETECTOR=pager,zscore\n"));
    }
    assert_eq!(settings(&[]).detector, [DetectorKind::Zscore]);
}

#[test]
fn a_token_is_read_and_never_shown() {
    let set = settings(&["--ingest-token", "s3cret"]);
    assert_eq!(set.ingest_token.as_ref().map(TokenFlag::secret), Some("s3cret"));
    for text in [format!("{set:?}"), set.summary(), set.to_environment()] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(rejection(&["--read-token=@/no/such/file"]).contains("--read-token: can't read"));
    assert!(rejection(&["--ingest-token="]).contains("--ingest-token is empty"));
}

#[test]
fn a_password_in_a_url_is_never_shown() {
    let set = settings(&["--redis-url=redis://:s3cret@redis"]);
    for text in [format!("{set:?}"), set.summary(), set.to_environment()] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    let message = rejection(&["--redis-url=redis://:s3cret@redis/one"]);
    assert!(!message.contains("s3cret") && message.contains("--redis-url"), "{message}");
    let set = settings(&["--redis-url=redis://redis:6380/2"]);
    assert!(set.to_environment().contains("SIGMAD_REDIS_URL=redis://redis:6380/2"));
}

#[test]
fn a_redis_password_has_its_own_flag_and_is_never_shown() {
    let set = settings(&["--redis-url=redis://sigmad@redis", "--redis-password=s3cret"]);
    for text in [format!("{set:?}"), set.summary(), set.to_environment()] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(set.summary().contains("redis-url=redis://sigmad@redis:6379 redis-password=(set)"));
    for (args, named) in [
        (&["--redis-url=redis://:s3cret@redis", "--redis-password=s3cret"][..], "--redis-url"),
        (&["--redis-url=redis://:s3cret@redis", "--redis-password=s3cret"], "--redis-password"),
        (&["--redis-url=redis://s3cret@redis"], "--redis-password"),
        (&["--redis-password="], "--redis-password"),
        (&["--redis-password=@/no/such/file"], "--redis-password"),
    ] {
        let message = rejection(args);
        assert!(message.contains(named) && !message.contains("s3cret"), "{args:?}: {message}");
    }
}

#[test]
fn a_demo_uses_redis_by_its_own_flag_only() {
    let Ok(Invocation::Demo(settings)) = parsed(&["demo", "--demo-redis-url=redis://h"]) else {
        panic!("it is a demo");
    };
    assert_eq!(settings.redis_url.map(|target| target.to_string()), Some("redis://h:6379".into()));
    let message = rejection(&["demo", "--redis-url=redis://:s3cret@h"]);
    assert!(message.contains("--demo-redis-url") && !message.contains("s3cret"), "{message}");
    let message = rejection(&["demo", "--demo-redis-url=redis://:s3cret@h/x"]);
    assert!(message.contains("'--demo-redis-url'") && !message.contains("s3cret"), "{message}");
}

#[test]
fn variables_that_set_nothing_are_named() {
    let unknown = ["SIGMAD_TRESHOLD", "SIGMAD_PRINT_CONFIG", "SIGMAD_"];
    let known = ["SIGMAD_THRESHOLD", "SIGMAD_SERVICE_PORT_HTTP", "SIGMAD_REDIS_PORT", "HOME"];
    let of_others = ["PORT", "HTTP_PORT", "REDIS_ADDR", "REDIS_URL"];
    let names =
        unknown.into_iter().chain(known).chain(["SIGMAD_PORT_8080_TCP_ADDR"]).chain(of_others);
    let named = |args: &[&str]| {
        let unused = unused_variables(names.clone().map(str::to_owned), &settings(args));
        unused.into_iter().map(|(name, reason)| format!("{name}: {reason}")).collect::<Vec<_>>()
    };
    let first = ["SIGMAD_TRESHOLD", "SIGMAD_PRINT_CONFIG", "SIGMAD_"]
        .map(|name| format!("{name}: no setting has this variable"));
    assert_eq!(named(&["--listen=:1", "--redis-url=redis://r"]), first);
    let all = named(&[]);
    assert_eq!(all[..3], first);
    assert_eq!(all[3], "PORT: SIGMAD_LISTEN sets --listen");
    assert_eq!(all[6], "REDIS_URL: SIGMAD_REDIS_URL sets --redis-url");
    assert_eq!(all.len(), 7);
}

#[test]
fn help_and_version_are_commands_too() {
    assert_eq!(rejection(&["help"]), rejection(&["--help"]));
    assert_eq!(rejection(&["help", "load"]), rejection(&["load", "--help"]));
    assert_eq!(rejection(&["version"]), rejection(&["--version"]));
}

#[test]
fn nothing_that_may_belong_to_a_password_is_repeated() {
    for args in [
        &["--redis-url", "redis://:s3c", "r3t@host"][..],
        &["--redis-url=redis://:s3c", "r3t"],
        &["redis://:s3cr3t@host"],
        &["serve", "redis://:s3cr3t@host"],
        &["--ingest-token", "s3c", "r3t"],
        &["--redis-url=redis://u:s3c/r3t@h"],
        &["--redis-url=redis://u:s3c#r3t@h"],
        &["--redis-url=redis+sentinel://u:s3cr3t@h/m?sentinel_password=s3c&r3t"],
    ] {
        let message = rejection(args);
        assert!(!message.contains("s3c") && !message.contains("r3t"), "{args:?}: {message}");
    }
    assert!(rejection(&["sevre"]).contains("'sevre'"));
}

#[test]
fn load_has_its_own_flags_and_no_variables() {
    let Ok(Invocation::Load(load)) = parsed(&["load", "--rate", "500", "--duration=2m"]) else {
        panic!("it is a load");
    };
    assert_eq!((load.rate, load.duration), (Some(500), Duration::from_secs(120)));
    let command = command_line();
    let load = command.find_subcommand("load").expect("a command");
    assert!(load.get_arguments().all(|arg| arg.get_env().is_none()));
    for (args, reason) in [
        (&["load", "--rate=0"][..], "1 to 10000000"),
        (&["load", "--url=https://a"], "only http"),
        (&["load", "--devices=5"], "--profile devices"),
        (&["load", "--truth=a", "--profile=devices"], "--profile anomalies"),
        (&["load", "--profile=anomalies", "--anomaly-rate=0.6"], "0 to 0.5"),
        (&["load", "--threads=9", "--connections=8"], "--connections 8"),
        (&["load", "--token="], "--token is empty"),
    ] {
        assert!(rejection(args).contains(reason), "{}", rejection(args));
    }
}

#[test]
fn the_help_of_load_fits_a_screen() {
    let help = rejection(&["load", "--help"]);
    assert!(help.lines().count() <= 60, "{} lines\n{help}", help.lines().count());
    for line in help.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(!help.contains("SIGMAD_") && help.contains("sigmad load --rate"), "{help}");
}

#[test]
fn the_help_fits_a_screen() {
    let help = rejection(&["--help"]);
    assert!(help.lines().count() <= 106, "{} lines\n{help}", help.lines().count());
    for line in help.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(help.contains("SIGMAD_MAX_BODY"));
}
