//! Doubles of what surrounds the API: an engine that keeps answers, an analytics thread that knows
//! them by heart.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde_json::Value;

use super::answers::Judging;
use super::reader::ReaderDeps;
use crate::analytics::report::{
    AnomalyReport, DeviceReport, MetricReport, Question, SampleReport, Scope, TotalsReport,
    WindowsReport, questions,
};
use crate::dashboard::events::door;
use crate::http::message::{
    Completion, CompletionSink, HeaderField, Responder, Response, ResponseWriter,
};
use crate::registry::Registry;
use crate::telemetry::{Build, Sources, Telemetry};
use sigmad_detectors::Kind;
use sigmad_sample::Verdict;

/// An engine with one client: answers come out in the order in which they were given.
pub struct FakeEngine {
    sent: VecDeque<Response>,
    sink: Arc<CompletionChannel>,
    completed: Receiver<Response>,
}

struct CompletionChannel(Sender<Response>);

impl CompletionSink for CompletionChannel {
    fn complete(&self, _serial: u64, completion: Completion) {
        let Completion::Response(response) = completion else { panic!("nothing is streamed") };
        // What is still asked when a test ends is answered to nobody.
        let _ = self.0.send(response);
    }
}

impl Default for FakeEngine {
    fn default() -> Self {
        let (sender, completed) = unbounded();
        Self { sent: VecDeque::new(), sink: Arc::new(CompletionChannel(sender)), completed }
    }
}

impl ResponseWriter for FakeEngine {
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    ) {
        let fields = fields.to_vec();
        self.sent.push_back(Response { status, content_type, fields, body: body.to_vec() });
    }

    fn defer(&mut self) -> Responder {
        Responder::new(0, self.sink.clone())
    }
}

impl FakeEngine {
    /// The answer given at once.
    pub fn sent(&mut self) -> Response {
        self.sent.pop_front().expect("an answer")
    }

    /// The response sent through a responder; waits for it.
    pub fn completed(&self) -> Response {
        self.completed.recv().expect("an answer")
    }

    /// True while no answer waits.
    pub fn is_silent(&self) -> bool {
        self.sent.is_empty() && self.completed.is_empty()
    }
}

/// The value of a header field.
pub fn field<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let mut fields = response.fields.iter().filter(|(known, _)| *known == name);
    fields.next().map(|(_, value)| &**value)
}

/// The body, which must be JSON.
pub fn json(response: &Response) -> Value {
    let text = String::from_utf8_lossy(&response.body);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A desk whose analytics thread tells the same of whatever it is asked; it ends with the desk.
pub fn desk(registry: Arc<Registry>) -> (Arc<ReaderDeps>, JoinHandle<()>) {
    let (asker, asked) = questions(Arc::default());
    let analytics = std::thread::spawn(move || asked.into_iter().for_each(tell));
    let (events, _) = door(Arc::default());
    let desk = ReaderDeps {
        asker,
        events,
        telemetry: telemetry(registry.clone()),
        registry,
        judging: Judging { window: 50, threshold: 2.0, detector: "zscore" },
        is_shared: false,
    };
    (Arc::new(desk), analytics)
}

/// The telemetry of two workers and a reader.
pub fn telemetry(registry: Arc<Registry>) -> Telemetry {
    let build = Build { version: "0.1.0", engine: "native", detector: "zscore", window: 50 };
    Telemetry::new(build, sources(registry))
}

/// The counters of two workers and a reader.
pub fn sources(registry: Arc<Registry>) -> Sources {
    Sources {
        http: vec![Arc::default(), Arc::default()],
        routers: vec![Arc::default(), Arc::default()],
        sample_queues: vec![Arc::default(), Arc::default()],
        readers: vec![Arc::default()],
        debug: Arc::default(),
        analytics: Arc::default(),
        events: Arc::default(),
        registry,
        store: None,
    }
}

/// A name that would break out of any string it is not escaped in.
pub const HOSTILE: &str = "m\"} 1\n\\é☃";

/// Windows of `rps` and of a metric with a hostile name.
pub fn fleet() -> WindowsReport {
    let metric = |name: &str, value: f64| MetricReport {
        metric: name.into(),
        values: vec![value; 3],
        mean: value,
        std_dev: 0.0,
        verdict: Verdict { score: 1e6, z_score: -1e6, is_anomaly: true, is_far: true },
        findings: Vec::new(),
        total_count: 70,
        anomaly_count: 2,
    };
    WindowsReport {
        metrics: vec![metric("rps", 1e15), metric(HOSTILE, -40.5)],
        last_timestamp_us: Some(1_735_100_000_500_000),
        synced_at_us: Some(1_735_100_001_250_000),
    }
}

/// What was counted for [`fleet`].
pub fn totals() -> TotalsReport {
    let anomalies = vec![("rps".into(), 2), (HOSTILE.into(), 1)];
    TotalsReport { samples: 70, anomalies, devices: 3, streams: 5 }
}

fn tell(question: Question) {
    let verdict = Verdict { score: 5.0, z_score: 5.0, is_anomaly: true, is_far: true };
    // A reader that has stopped waiting is none of our business.
    match question {
        Question::Windows(_, scope, to) => {
            let mut report = fleet();
            if scope == Scope::Local {
                report.metrics.iter_mut().for_each(|metric| metric.total_count /= 10);
            }
            drop(to.send(report));
        }
        Question::Totals(to) => drop(to.send(totals())),
        Question::Devices(query, to) => {
            let report = DeviceReport {
                device: format!("{:?}", query.sort).into(),
                score: 5.0,
                is_anomaly: true,
                metric: "rps".into(),
                last: 1.0,
                last_seen_us: 1,
                total_count: 1,
                anomaly_count: 1,
            };
            drop(to.send(vec![report; query.limit]));
        }
        Question::Anomalies(query, to) => {
            let report = AnomalyReport {
                serial: query.limit as u64,
                device: None,
                metric: "rps".into(),
                value: 9.0,
                mean: 1.0,
                std_dev: 1.0,
                reach: 2.0,
                verdict,
                timestamp_us: query.since_us.max(0),
                arrived_us: 1,
                detector: Kind::Zscore,
                start_us: 0,
                end_us: None,
                flags: 1,
                changed_us: 1,
                change: 0,
            };
            let serials = (query.after_change + 1..=query.limit as u64).rev();
            let reports =
                serials.map(|serial| AnomalyReport { serial, change: serial, ..report.clone() });
            drop(to.send(reports.collect()));
        }
        Question::Latest(query, to) => {
            let readings = vec![("rps".into(), 1.5)];
            let report = SampleReport { device: None, timestamp_us: 1, arrived_us: 1, readings };
            drop(to.send(vec![report; query.limit]));
        }
    }
}
