//! The server one would write first, in idiomatic Rust: axum, `serde_json::Value`, windows behind one
//! mutex and recomputed for every value, a SET for each sample before its answer, labelled metrics.
//!
//! Nothing in it is slow on purpose. It speaks as much of sigmad's API as the measurement needs: `POST
//! /ingest` and `/metrics` (one object, an array, `{"metrics":[…]}`, lines), `GET /analyze`, `/metrics`
//! and `/healthz`. A sample has a timestamp, a device, `cpu` and `rps`; a body with a wrong one is
//! refused whole. The steps from here to sigmad are in `benches/ladder`.

pub mod metrics;
pub mod parse;
pub mod report;
pub mod sample;
pub mod windows;

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{OriginalUri, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use redis::AsyncCommands;
use redis::aio::ConnectionManager;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::metrics::Metrics;
use crate::sample::Sample;
use crate::windows::Windows;

/// How long Redis keeps a sample.
pub const TTL_S: u64 = 300;

#[derive(Clone)]
struct App {
    windows: Arc<Mutex<Windows>>,
    metrics: Arc<Metrics>,
    redis: Option<ConnectionManager>,
}

/// Serves until SIGTERM, on as many threads as there are `workers`.
///
/// # Errors
/// When the address can't be had, or Redis does not answer.
pub fn run(listen: &str, redis_url: Option<&str>, workers: usize) -> Result<(), Box<dyn Error>> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(serve(listen, redis_url))
}

async fn serve(listen: &str, redis_url: Option<&str>) -> Result<(), Box<dyn Error>> {
    let redis = match redis_url {
        Some(url) => Some(ConnectionManager::new(redis::Client::open(url)?).await?),
        None => None,
    };
    let app = App { windows: Arc::default(), metrics: Arc::new(Metrics::new()), redis };
    let router = Router::new()
        .route("/ingest", post(ingest))
        .route("/metrics", post(ingest).get(scrape))
        .route("/analyze", get(analyze))
        .route("/healthz", get(healthz))
        .with_state(app);
    let listener = tokio::net::TcpListener::bind(listen).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        terminate.recv().await;
    });
    Ok(serving.await?)
}

async fn ingest(State(app): State<App>, OriginalUri(uri): OriginalUri, body: Bytes) -> Response {
    let since = Instant::now();
    let (status, answer) = match keep(&app, &body).await {
        Ok(accepted) => {
            let status =
                if uri.path() == "/ingest" { StatusCode::ACCEPTED } else { StatusCode::OK };
            (status, json!({"status": "accepted", "accepted": accepted}))
        }
        Err((status, message)) => (status, json!({"error": {"message": message}})),
    };
    app.metrics.answered("POST", uri.path(), status.as_u16(), since.elapsed());
    (status, Json(answer)).into_response()
}

async fn keep(app: &App, body: &[u8]) -> Result<usize, (StatusCode, String)> {
    let samples = parse::samples(body).map_err(|message| (StatusCode::BAD_REQUEST, message))?;
    for sample in &samples {
        {
            let mut windows = app.windows.lock().expect("no holder panics");
            let judged = windows.observe(sample);
            app.metrics.judged(&judged);
        }
        if let Some(redis) = &app.redis {
            store(redis.clone(), sample)
                .await
                .map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
        }
    }
    app.metrics.accepted(samples.len());
    Ok(samples.len())
}

async fn store(mut redis: ConnectionManager, sample: &Sample) -> redis::RedisResult<()> {
    redis.set_ex(sample.key(), sample.to_json(), TTL_S).await
}

async fn analyze(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
) -> Json<serde_json::Value> {
    let device = query.get("device").map(String::as_str);
    let report = app.windows.lock().expect("no holder panics").report(device);
    Json(report.to_json(device))
}

async fn scrape(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.scrape())
}

async fn healthz() -> Json<serde_json::Value> {
    Json(json!({"status": "ok"}))
}
