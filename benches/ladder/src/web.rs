//! The lower rungs: the baseline's axum server, part by part replaced.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{OriginalUri, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use baseline::metrics::Metrics;
use baseline::parse;
use baseline::report::Report;
use baseline::sample::Sample;
use crossbeam_channel::Sender;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::Options;
use crate::analytics::{self, Ask, Message, Wait};
use crate::counters::AllCounters;
use crate::rungs::{Counters, Json as JsonParts, Judge, WebParts};
use crate::samples::{self, Accepted};
use crate::windows::Windows;
use crate::writer::{Record, Writer};

#[derive(Clone)]
struct App(Arc<Shared>);

struct Shared {
    json: JsonParts,
    judge: Judging,
    counting: Counting,
    writer: Option<Writer>,
}

enum Judging {
    Locked(Mutex<Windows>),
    Thread(Sender<Message<Vec<Sample>>>),
}

enum Counting {
    Labelled(Metrics),
    Local(AllCounters),
}

/// Serves until SIGTERM.
///
/// # Errors
/// When the address can't be had, or Redis does not answer.
pub fn run(options: &Options, parts: WebParts) -> Result<(), Box<dyn Error>> {
    let writer = options.redis_url.as_deref().map(|url| Writer::start(url, parts.redis));
    let writer = writer.transpose()?;
    let windows = Windows::new(parts.statistics);
    let (judge, writer) = match parts.judge {
        Judge::Locked => (Judging::Locked(Mutex::new(windows)), writer),
        Judge::Thread => {
            let (sender, _) = analytics::by_names(windows, writer, Wait::Blocked)?;
            (Judging::Thread(sender), None)
        }
    };
    let counting = match parts.counters {
        Counters::Labelled => Counting::Labelled(Metrics::new()),
        Counters::Local => Counting::Local(AllCounters::default()),
    };
    let app = App(Arc::new(Shared { json: parts.json, judge, counting, writer }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.workers)
        .enable_all()
        .build()?;
    runtime.block_on(serve(options, app))
}

async fn serve(options: &Options, app: App) -> Result<(), Box<dyn Error>> {
    let router = Router::new()
        .route("/ingest", post(ingest))
        .route("/metrics", post(ingest).get(scrape))
        .route("/analyze", get(analyze))
        .route("/healthz", get(healthz))
        .with_state(app);
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        terminate.recv().await;
    });
    Ok(serving.await?)
}

async fn ingest(State(app): State<App>, OriginalUri(uri): OriginalUri, body: Bytes) -> Response {
    let since = sigmad_clock::start();
    let (status, answer) = match app.0.keep(&body) {
        Ok(accepted) => {
            let status =
                if uri.path() == "/ingest" { StatusCode::ACCEPTED } else { StatusCode::OK };
            let answer = match app.0.json {
                JsonParts::Value => {
                    Json(json!({"status": "accepted", "accepted": accepted})).into_response()
                }
                _ => Json(Accepted::of(accepted)).into_response(),
            };
            (status, answer)
        }
        Err((status, message)) => {
            (status, Json(json!({"error": {"message": message}})).into_response())
        }
    };
    match &app.0.counting {
        Counting::Labelled(metrics) => {
            metrics.answered("POST", uri.path(), status.as_u16(), since.elapsed());
        }
        Counting::Local(counters) => counters.with(|counters| {
            let elapsed_ns = since.elapsed().as_nanos() as u64;
            counters.answered(uri.path(), status.as_u16(), Some(elapsed_ns));
        }),
    }
    (status, answer).into_response()
}

impl Shared {
    fn keep(&self, body: &[u8]) -> Result<usize, (StatusCode, String)> {
        let samples = match self.json {
            JsonParts::Value => parse::samples(body),
            _ => {
                let mut samples = Vec::new();
                samples::typed(body, &mut samples).map(|()| samples)
            }
        };
        let samples = samples.map_err(|message| (StatusCode::BAD_REQUEST, message))?;
        let accepted = samples.len();
        let metrics = match &self.counting {
            Counting::Labelled(metrics) => Some(metrics),
            Counting::Local(_) => None,
        };
        match &self.judge {
            Judging::Locked(windows) => {
                for sample in &samples {
                    windows.lock().expect("no holder panics").observe(sample, metrics);
                }
                if let Some(writer) = &self.writer {
                    writer.put(samples.iter().map(Record::of).collect());
                }
            }
            Judging::Thread(messages) => {
                let full = |_| (StatusCode::SERVICE_UNAVAILABLE, "the queue is full".to_owned());
                messages.try_send(Message::Samples(samples)).map_err(full)?;
            }
        }
        match &self.counting {
            Counting::Labelled(metrics) => metrics.accepted(accepted),
            Counting::Local(counters) => counters.with(|counters| counters.accepted(accepted)),
        }
        Ok(accepted)
    }

    async fn report(&self, device: Option<&str>) -> Report {
        match &self.judge {
            Judging::Locked(windows) => windows.lock().expect("no holder panics").report(device),
            Judging::Thread(messages) => ask(messages, device).await,
        }
    }
}

/// Asks a thread behind a channel.
pub async fn ask(messages: &Sender<Message<Vec<Sample>>>, device: Option<&str>) -> Report {
    let (to, report) = oneshot::channel();
    // Err: who asked has gone.
    let reply = Box::new(move |report| drop(to.send(report)));
    let mut message = Message::Ask(Ask { device: device.map(str::to_owned), reply });
    while let Err(error) = messages.try_send(message) {
        message = error.into_inner();
        tokio::task::yield_now().await;
    }
    report.await.expect("the thread answers whom it hears")
}

async fn analyze(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
) -> Json<serde_json::Value> {
    let device = query.get("device").map(String::as_str);
    let report = app.0.report(device).await;
    Json(report.to_json(device))
}

async fn scrape(State(app): State<App>) -> impl IntoResponse {
    let text = match &app.0.counting {
        Counting::Labelled(metrics) => metrics.scrape(),
        Counting::Local(counters) => counters.scrape(&app.0.report(None).await),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn healthz() -> Json<serde_json::Value> {
    Json(json!({"status": "ok"}))
}
