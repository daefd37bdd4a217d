//! Several analytics threads serve as one does.

use crate::harness::{Engine, Server};

#[test]
fn a_read_after_a_202_sees_its_samples_with_each_number_of_shards() {
    for shards in ["--analytics=1", "--analytics=2", "--analytics=4"] {
        let server = Server::start(Engine::Native, &[shards, "--workers=2"]);
        let mut serials = Vec::new();
        for round in 0..30_u32 {
            // Each device gets one outlier, once its window is full enough.
            let value = |device: u32| if round == 20 + device { 900 } else { round % 3 };
            let mut rows: Vec<String> = (0..5)
                .map(|device| format!(r#"{{"device":"d{device}","rps":{}}}"#, value(device)))
                .collect();
            rows.push(r#"{"rps":1}"#.to_owned());
            server.ingest(&format!("[{}]", rows.join(","))).expect(202);
            assert_eq!(server.total(), u64::from(round + 1) * 6, "{shards}");
            let newest = server.get("/latest?limit=6").expect(200).json();
            assert_eq!(newest["samples"].as_array().expect("a list").len(), 6);
            let anomalies = server.get("/anomalies").expect(200).json();
            let rows = anomalies["anomalies"].as_array().expect("a list");
            assert_eq!(rows.len() as u32, (round + 1).saturating_sub(20).min(5), "{shards}");
            serials = rows.iter().map(|row| row["serial"].as_u64().expect("a number")).collect();
        }
        assert_eq!(serials, [5, 4, 3, 2, 1], "{shards}");
        let devices = server.get("/devices?sort=anomalies").expect(200).json();
        let names: Vec<_> = devices["devices"].as_array().expect("a list").iter().collect();
        assert_eq!(names.len(), 5, "{shards}");
        let (code, log) = server.stop();
        assert_eq!(code, Some(0), "{log}");
    }
}
