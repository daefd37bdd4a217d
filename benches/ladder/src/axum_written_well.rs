//! axum as one writes it who knows how, to compare with.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::thread;

use axum::body::Bytes;
use axum::extract::{OriginalUri, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use baseline::sample::Sample;
use crossbeam_channel::Sender;
use serde_json::json;
use sigmad::http::listen::listeners;
use tokio::signal::unix::{SignalKind, signal};

use crate::Options;
use crate::analytics::{self, Message, Wait};
use crate::counters::AllCounters;
use crate::rungs::{Redis, Statistics};
use crate::samples::{self, Accepted};
use crate::web::ask;
use crate::windows::Windows;
use crate::writer::Writer;

/// What handlers of both frameworks share.
pub struct Shared {
    /// Leads to the analytics thread.
    pub messages: Sender<Message<Vec<Sample>>>,
    /// What is counted.
    pub counters: AllCounters,
}

impl Shared {
    /// Starts the analytics thread.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub fn start(options: &Options) -> Result<Arc<Self>, Box<dyn Error>> {
        let writer = options.redis_url.as_deref().map(|url| Writer::start(url, Redis::Coalesced));
        let windows = Windows::new(Statistics::Running);
        let (messages, _) = analytics::by_names(windows, writer.transpose()?, Wait::Timer)?;
        Ok(Arc::new(Self { messages, counters: AllCounters::default() }))
    }

    /// Keeps the samples of a body: how many, or why not.
    pub fn keep(&self, body: &[u8]) -> Result<usize, (u16, String)> {
        let mut samples = Vec::new();
        samples::typed(body, &mut samples).map_err(|message| (400, message))?;
        let accepted = samples.len();
        let full = |_| (503, "the queue is full".to_owned());
        self.messages.try_send(Message::Samples(samples)).map_err(full)?;
        self.counters.with(|counters| counters.accepted(accepted));
        Ok(accepted)
    }
}

/// Serves until SIGTERM: each worker a runtime of its own, with a listener of its own.
///
/// # Errors
/// When the address can't be had, or Redis does not answer.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let shared = Shared::start(options)?;
    let listeners = listeners(options.listen, options.workers)?;
    eprintln!("listening on {}", listeners[0].local_addr()?);
    let workers = listeners.into_iter().map(|listener| {
        let shared = shared.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(serve(listener, shared))
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.join().expect("no worker panics")?;
    }
    Ok(())
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let router = Router::new()
        .route("/ingest", post(ingest))
        .route("/metrics", post(ingest).get(scrape))
        .route("/bare", post(bare))
        .route("/analyze", get(analyze))
        .route("/healthz", get(healthz))
        .with_state(shared);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        terminate.recv().await;
    });
    serving.await
}

async fn ingest(
    State(shared): State<Arc<Shared>>,
    OriginalUri(uri): OriginalUri,
    body: Bytes,
) -> Response {
    let since = sigmad_clock::start();
    let (status, answer) = match shared.keep(&body) {
        Ok(accepted) => {
            let status = if uri.path() == "/ingest" { 202 } else { 200 };
            (status, Json(Accepted::of(accepted)).into_response())
        }
        Err((status, message)) => {
            (status, Json(json!({"error": {"message": message}})).into_response())
        }
    };
    let elapsed_ns = since.elapsed().as_nanos() as u64;
    shared.counters.with(|counters| counters.answered(uri.path(), status, Some(elapsed_ns)));
    (StatusCode::from_u16(status).expect("a status"), answer).into_response()
}

/// What the framework alone costs: the same request and response, and no work between them.
async fn bare(_body: Bytes) -> impl IntoResponse {
    (StatusCode::ACCEPTED, Json(Accepted::of(1)))
}

async fn analyze(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Json<serde_json::Value> {
    let device = query.get("device").map(String::as_str);
    Json(ask(&shared.messages, device).await.to_json(device))
}

async fn scrape(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let text = shared.counters.scrape(&ask(&shared.messages, None).await);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn healthz() -> Json<serde_json::Value> {
    Json(json!({"status": "ok"}))
}
