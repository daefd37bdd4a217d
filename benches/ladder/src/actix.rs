//! actix-web as one writes it who knows how, to compare with.

use std::collections::HashMap;
use std::error::Error;

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data, Query};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use serde_json::json;

use crate::Options;
use crate::axum_written_well::Shared;
use crate::samples::Accepted;
use crate::web::ask;

/// As much as sigmad takes.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Serves until SIGTERM.
///
/// # Errors
/// When the address can't be had, or Redis does not answer.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let shared = Data::from(Shared::start(options)?);
    let app = move || {
        App::new()
            .app_data(shared.clone())
            .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
            .route("/ingest", web::post().to(ingest))
            .route("/metrics", web::post().to(ingest))
            .route("/metrics", web::get().to(scrape))
            .route("/bare", web::post().to(bare))
            .route("/analyze", web::get().to(analyze))
            .route("/healthz", web::get().to(healthz))
    };
    let (listen, workers) = (options.listen, options.workers);
    actix_web::rt::System::new().block_on(async move {
        let server = HttpServer::new(app).workers(workers).bind(listen)?;
        for address in server.addrs() {
            eprintln!("listening on {address}");
        }
        server.run().await
    })?;
    Ok(())
}

async fn ingest(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let since = sigmad_clock::start();
    let (status, answer) = match shared.keep(&body) {
        Ok(accepted) => {
            let status = if request.path() == "/ingest" { 202 } else { 200 };
            (status, respond(status).json(Accepted::of(accepted)))
        }
        Err((status, message)) => {
            (status, respond(status).json(json!({"error": {"message": message}})))
        }
    };
    let elapsed_ns = since.elapsed().as_nanos() as u64;
    shared.counters.with(|counters| counters.answered(request.path(), status, Some(elapsed_ns)));
    answer
}

/// What the framework alone costs: the same request and response, and no work between them.
async fn bare(_body: Bytes) -> HttpResponse {
    respond(202).json(Accepted::of(1))
}

fn respond(status: u16) -> actix_web::HttpResponseBuilder {
    HttpResponse::build(StatusCode::from_u16(status).expect("a status"))
}

async fn analyze(shared: Data<Shared>, query: Query<HashMap<String, String>>) -> HttpResponse {
    let device = query.get("device").map(String::as_str);
    HttpResponse::Ok().json(ask(&shared.messages, device).await.to_json(device))
}

async fn scrape(shared: Data<Shared>) -> HttpResponse {
    let text = shared.counters.scrape(&ask(&shared.messages, None).await);
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(text)
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}
