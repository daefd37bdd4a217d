//! The certificate of the listener and its key, from PEM files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The only protocol behind TLS (RFC 7301).
const HTTP11: &[u8] = b"http/1.1";

/// Why TLS can't be used; names the setting and the file.
#[derive(Debug)]
pub enum TlsError {
    /// The certificates can't be read.
    Certificate(PathBuf, PemError),
    /// There is no certificate in the file.
    NoCertificate(PathBuf),
    /// The private key can't be read.
    Key(PathBuf, PemError),
    /// The certificate and the key can't be used together.
    Pair(PathBuf, PathBuf, rustls::Error),
    /// There are no random numbers for session tickets.
    Tickets(rustls::Error),
}

impl std::error::Error for TlsError {}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(file, error) => {
                write!(f, "--tls-cert: can't read {}: {}", file.display(), reason(error))
            }
            Self::NoCertificate(file) => {
                write!(f, "--tls-cert: {} has no certificate in PEM", file.display())
            }
            Self::Key(file, error) => {
                write!(f, "--tls-key: can't read {}: {}", file.display(), reason(error))
            }
            Self::Pair(certificate, key, error) => {
                let (certificate, key) = (certificate.display(), key.display());
                match error {
                    rustls::Error::InconsistentKeys(_) => {
                        write!(f, "--tls-key {key} is not that of --tls-cert {certificate}")
                    }
                    error => write!(f, "--tls-cert {certificate} and --tls-key {key}: {error}"),
                }
            }
            Self::Tickets(error) => write!(f, "no keys for session tickets: {error}"),
        }
    }
}

/// The library prints some errors as Rust code.
fn reason(error: &PemError) -> String {
    match error {
        PemError::Io(error) => error.to_string(),
        PemError::NoItemsFound => "it has no such item in PEM".to_owned(),
        error => error.to_string(),
    }
}

/// Reads the certificate chain and its key. TLS 1.2 and 1.3, HTTP/1.1, tickets instead of sessions in memory.
///
/// # Errors
/// When a file can't be read, or when the two files don't belong together.
pub fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let of_certificate = |error| TlsError::Certificate(certificate.to_path_buf(), error);
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(of_certificate)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.to_path_buf()));
    }
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsError::Key(key.to_path_buf(), error))?;
    let pair = |error| TlsError::Pair(certificate.to_path_buf(), key.to_path_buf(), error);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(pair)?;
    config.alpn_protocols = vec![HTTP11.to_vec()];
    // Resumption without memory for each client, and without a lock that workers share.
    config.ticketer = ring::Ticketer::new().map_err(TlsError::Tickets)?;
    Ok(config)
}
