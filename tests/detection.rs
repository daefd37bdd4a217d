//! Detection on two series of public benchmarks (`detection/`, with their licences), and on scenarios.

mod harness;
mod incidents;

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use harness::{Engine, Server};
use sigmad_detectors::DetectorKind;
use sigmad_eval::events;
use sigmad_eval::judges::{Z_THRESHOLD, scores_of};
use sigmad_eval::nab::{self, PROFILES};
use sigmad_eval::series::{self, Corpus, Series};
use sigmad_eval::synthetic::{Confusion, Scenario};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/detection");

fn nab_series() -> Vec<Series> {
    match series::read(&Path::new(FOLDER).join("nab")) {
        Ok(Corpus::Nab(all)) => all,
        other => panic!("{other:?}"),
    }
}

fn labelled_series() -> Vec<Series> {
    match series::read(&Path::new(FOLDER).join("mscloud")) {
        Ok(Corpus::Labelled(all)) => all,
        other => panic!("{other:?}"),
    }
}

fn scores(judge: DetectorKind, all: &[Series]) -> Vec<(&Series, Vec<f64>)> {
    all.iter().map(|series| (series, scores_of(judge, series))).collect()
}

/// What the reference implementation makes of these scores of `zscore`, which never change.
#[test]
fn scores_are_those_of_the_reference() {
    let all = nab_series();
    let scored = scores(DetectorKind::Zscore, &all);
    let ranking = nab::NabRanking::new(scored.iter().map(|(series, s)| (*series, s.as_slice())));
    let best = [58.923_076_402_750_89, 20.425_638_940_385_26, 72.615_384_268_500_62];
    let fixed = [-154.743_033_452_263_57, -409.398_179_498_593, -69.828_688_968_175_68];
    for ((profile, best), fixed) in PROFILES.into_iter().zip(best).zip(fixed) {
        assert!((ranking.score(profile, None).score - best).abs() < 1e-9, "{}", profile.name);
        let at_two = ranking.score(profile, Some(2.0));
        assert!((at_two.score - fixed).abs() < 1e-9, "{}: {}", profile.name, at_two.score);
        assert_eq!((at_two.hits, at_two.windows, at_two.false_rows), (1, 1, 47));
    }

    let all = labelled_series();
    let scored = scores(DetectorKind::Zscore, &all);
    let pairs = scored.iter().map(|(series, s)| (*series, s.as_slice()));
    let ranking = events::EventRanking::new(events::EventRules::DEFAULT, pairs);
    assert_eq!(ranking.score(None).f1, 1.0);
    let fixed = ranking.score(Some(2.0));
    assert_eq!((fixed.hits, fixed.events, fixed.false_alarms), (3, 3, 45));
    assert!((fixed.f1 - 0.117_647_058_823_529_41).abs() < 1e-12);
    assert!((fixed.false_per_day - 1.129_850_880_344_951_4).abs() < 1e-12);
}

#[test]
fn what_follows_changes_nothing() {
    for series in nab_series().iter().chain(&labelled_series()) {
        for &judge in DetectorKind::ALL {
            let whole = scores_of(judge, series);
            for cut in [1, 2, 149, 151, 500, 777, series.values.len() - 1] {
                let start = Series {
                    timestamps_us: series.timestamps_us[..cut].to_vec(),
                    values: series.values[..cut].to_vec(),
                    ..Series::default()
                };
                assert_eq!(scores_of(judge, &start), whole[..cut], "{} {cut}", judge.name());
            }
        }
    }
}

#[test]
fn scores_are_finite_and_not_negative_whatever_comes() {
    let cruel: [fn(usize) -> f64; 6] = [
        |_| 0.0,
        |row| if row % 1_000 == 999 { 1e15 } else { 1.0 },
        |row| if row % 2 == 0 { 1e15 } else { -1e15 },
        |row| 1e-300 * (row % 7) as f64,
        |row| 1e9 + (row % 13) as f64 * 1e-6,
        |row| (row as f64).powi(3),
    ];
    let clocks: [fn(usize) -> i64; 4] = [
        |row| row as i64 * 1_000,
        |_| 0,
        |row| -(row as i64) * 60_000_000,
        |row| {
            if row % 2 == 0 { i64::MAX } else { i64::MIN }
        },
    ];
    for value in cruel {
        for clock in clocks {
            let series = Series {
                timestamps_us: (0..5_000).map(clock).collect(),
                values: (0..5_000).map(value).collect(),
                ..Series::default()
            };
            for &judge in DetectorKind::ALL {
                let scores = scores_of(judge, &series);
                assert!(scores.iter().all(|s| s.is_finite() && *s >= 0.0), "{}", judge.name());
            }
        }
    }
}

#[test]
fn units_and_zero_are_the_streams_own_business() {
    let series = &nab_series()[0];
    let plain = scores_of(DetectorKind::Pager, series);
    let values = series.values.iter().map(|v| 4096.0 * v + 1e6).collect();
    let other = Series { values, ..series.clone() };
    for (row, (a, b)) in plain.iter().zip(scores_of(DetectorKind::Pager, &other)).enumerate() {
        assert!((a - b).abs() < 0.05 * a.max(1.0), "row {row}: {a} and {b}");
    }
}

fn confusion(judge: DetectorKind, scenario: Scenario) -> Confusion {
    let all = scenario.series();
    let scored = scores(judge, &all);
    let pairs: Vec<_> = scored.iter().map(|(series, s)| (*series, s.as_slice())).collect();
    let threshold = judge.threshold(Z_THRESHOLD);
    Confusion::new(pairs.iter().copied(), |score| judge.is_anomaly(score, threshold))
}

#[test]
fn spikes_in_noise_are_told_from_the_noise() {
    let pager = confusion(DetectorKind::Pager, Scenario::Spikes(0.01));
    assert!(pager.precision() > 0.7, "{pager:?}");
    assert!(pager.false_positive_rate() < 0.1, "{pager:?}");
    // What the contract's detector does is known, and is no accident.
    let zscore = confusion(DetectorKind::Zscore, Scenario::Spikes(0.01));
    assert!((0.2..0.3).contains(&zscore.precision()), "{zscore:?}");
}

/// Neither takes a stream where it has never been.
#[test]
fn stuck_sensors_and_days_that_fail_to_come_are_found() {
    for scenario in [Scenario::Stuck, Scenario::MissingCycle] {
        let pager = confusion(DetectorKind::Pager, scenario);
        assert_eq!(pager.events_found, pager.events, "{scenario:?}");
        assert!(pager.false_per_day < 0.4, "{scenario:?}: {pager:?}");
    }
}

#[test]
fn the_command_prints_tables_and_writes_a_score_for_every_row() {
    let folder = std::env::temp_dir().join(format!("sigmad-eval-{}", std::process::id()));
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_sigmad"), "eval", "--detector", "pager", "--data"])
        .arg(format!("{FOLDER}/nab"))
        .args(["--scores", &folder.display().to_string(), "--plot", &folder.display().to_string()])
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tables = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(tables.contains("| pager |"), "{tables}");
    let written = folder.join("realAdExchange/exchange-2_cpc_results");
    let scores = std::fs::read_to_string(written.with_extension("txt")).expect("scores");
    let scores: Vec<f64> = scores.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(scores, scores_of(DetectorKind::Pager, &nab_series()[0]));
    let svg = std::fs::read_to_string(written.with_extension("svg")).expect("a picture");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    std::fs::remove_dir_all(&folder).expect("it was written");
}

#[test]
fn what_cannot_be_evaluated_is_named() {
    for (args, named) in [
        (&["eval", "--data", "/no/such/folder"][..], "/no/such/folder"),
        (&["eval", "--synthetic", "--url", "127.0.0.1:1"], "http://"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_sigmad")).args(args).output();
        let output = output.expect("the binary runs");
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(named), "{message}");
    }
}

/// The scores that `sigmad eval --url` reads back.
fn remote_scores(server: &Server, root: &str, name: &str) -> Vec<f64> {
    let folder = std::env::temp_dir().join(format!("sigmad-remote-{}", server.address.port()));
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_sigmad"), "eval", "--data", root])
        .args(["--url", &format!("http://{}", server.address)])
        .args(["--scores", &folder.display().to_string()])
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let scores = std::fs::read_to_string(folder.join(name)).expect("scores");
    std::fs::remove_dir_all(&folder).expect("it was written");
    scores.lines().map(|line| line.parse().expect("a number")).collect()
}

#[test]
fn a_running_server_judges_as_this_process_does() {
    let series = &nab_series()[0];
    for detectors in ["zscore", "pager", "robust,pager", "residual", "novelty,zscore"] {
        let flags = ["--workers", "1", "--detector", detectors];
        let server = Server::start(Engine::Native, &flags);
        let name = format!("{}.txt", series.name);
        let remote = remote_scores(&server, &format!("{FOLDER}/nab"), &name);
        let first = detectors.split(',').next().expect("not empty");
        let judge = DetectorKind::from_str(first, false).expect("a detector");
        let local = scores_of(judge, series);
        assert_eq!(remote.len(), local.len());
        for (row, (remote, local)) in remote.into_iter().zip(local).enumerate() {
            assert_eq!(remote, local, "{detectors}, row {row}: not the same to the last digit");
        }
    }
}

/// One device's samples in batches of every size give the anomalies that they give one by one.
#[test]
fn batches_end_where_they_may() {
    let series = &nab_series()[0];
    let rows = series.timestamps_us.iter().zip(&series.values);
    let samples: Vec<_> = rows
        .map(|(at_us, value)| serde_json::json!({"device": "d", "timestamp": at_us, "v": value}))
        .collect();
    let judged = |sizes: &[usize]| {
        let server = Server::start(Engine::Native, &["--detector", "pager,zscore"]);
        let (mut rest, mut sizes) = (&samples[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (batch, after) = rest.split_at((*sizes.next().expect("endless")).min(rest.len()));
            server.ingest(&serde_json::json!(batch).to_string()).expect(202);
            rest = after;
        }
        let mut anomalies = server.get("/anomalies?limit=1000").expect(200).json();
        let all = anomalies["anomalies"].as_array_mut().expect("a list");
        all.iter_mut().for_each(|anomaly| anomaly["arrivedAt"] = serde_json::Value::Null);
        let figures = server.get("/analyze?device=d").expect(200).json()["metrics"].clone();
        (anomalies, figures)
    };
    let one_by_one = judged(&[1]);
    assert!(one_by_one.0["count"].as_u64().is_some_and(|count| count > 0), "{one_by_one:?}");
    assert_eq!(judged(&[1, 7, 1_000, 2]), one_by_one);
    assert_eq!(judged(&[samples.len()]), one_by_one);
}
