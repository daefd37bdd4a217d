//! One HTTP request to a target, and its answer.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::message::Request;
use crate::target::Target;

/// For a whole request with its answer: a slower receiver is as good as none.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// For a connection, TLS included: three round trips around the world, and two lost packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of an answer this much is read: its first words say what is wrong.
const ANSWER_BYTES_MAX: u64 = 512;
/// Names the sender in the logs of receivers.
const USER_AGENT: &str = concat!("sigmad/", env!("CARGO_PKG_VERSION"));

/// What a target has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The header Retry-After.
    pub retry_after: Option<String>,
    /// The first bytes of the body, as text.
    pub text: String,
}

/// Why there is no answer. Names no part of the URL: it can hold secrets.
#[derive(Debug)]
pub enum SendError {
    /// The authorities of the system can't be read.
    Roots(String),
    /// No connection, no answer in time, or an answer that is not HTTP.
    Http(ureq::Error),
}

impl std::error::Error for SendError {}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roots(reason) => {
                write!(f, "can't read the certificates of authorities: {reason}")
            }
            Self::Http(ureq::Error::BadUri(_)) => f.write_str("the URL can't be used"),
            Self::Http(ureq::Error::HostNotFound) => f.write_str("the name of the host is unknown"),
            Self::Http(error) => error.fmt(f),
        }
    }
}

/// Posts a request, over a connection of its own: notifications are rare. No redirect is followed, since it would
/// carry the message to a host that no setting names. `HTTPS_PROXY` and its like apply.
///
/// # Errors
/// When there is no answer within `timeout`.
pub fn post(target: &Target, request: &Request, timeout: Duration) -> Result<Answer, SendError> {
    let address = target.address();
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .user_agent(USER_AGENT)
        .timeout_global(Some(timeout))
        .timeout_connect(Some(timeout.min(CONNECT_TIMEOUT)));
    if address.starts_with("https:") {
        config = config.tls_config(tls()?);
    }
    let agent: Agent = config.build().into();
    let mut post = agent.post(address).header("Content-Type", "application/json");
    if let Some(authorization) = target.url.authorization() {
        post = post.header("Authorization", authorization);
    }
    if let Some(key) = &request.idempotency_key {
        post = post.header("Idempotency-Key", key);
    }
    let response = post.send(&request.body[..]).map_err(SendError::Http)?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut bytes = Vec::new();
    // The status has decided; a body that breaks off says less.
    let _ = response.into_body().into_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok(Answer { status, retry_after, text })
}

/// The roots are the system's, or those of `SSL_CERT_FILE`. They are read each time, as certificates are renewed.
fn tls() -> Result<TlsConfig, SendError> {
    let mut found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.pop() {
        return Err(SendError::Roots(error.to_string()));
    }
    let roots = found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .build())
}
