//! What settings mean together, and whether they go together.

use rustls::ServerConfig;

use super::choices::{Ack, Engine, PollerKind};
use super::error::SettingsError;
use super::settings::ServerSettings;
use crate::decode::SeriesRules;
use crate::http::tls::server_config;
use crate::store::url::{LoginError, Target};

impl ServerSettings {
    /// `--redis-url` with the password of `--redis-password`.
    ///
    /// # Errors
    /// When the two contradict each other. Settings in force never do.
    pub fn redis_target(&self) -> Result<Option<Target>, LoginError> {
        let password = self.redis_password.clone();
        self.redis_url.clone().map(|target| target.with_password(password)).transpose()
    }

    /// The rules for series.
    pub fn series_rules(&self) -> SeriesRules {
        SeriesRules {
            device_labels: self.device_labels.clone(),
            keep: self.keep.clone(),
            drop: self.drop.clone(),
            counters: self.counters.clone(),
            gauges: self.gauges.clone(),
        }
    }

    /// Checks what no single value shows, and reads the tokens.
    pub(super) fn checked(mut self) -> Result<Self, SettingsError> {
        let Self { window, min_samples, .. } = self;
        if min_samples > window {
            return Err(SettingsError::MinSamplesAboveWindow { min_samples, window });
        }
        let has_tcp = self.listen.iter().any(|address| address.tcp().is_some());
        if self.engine == Engine::May && self.listen.len() > 1 {
            return Err(SettingsError::SeveralAddresses);
        }
        if self.engine == Engine::May && !has_tcp {
            return Err(SettingsError::UnixWithMay);
        }
        if self.engine == Engine::May && self.poller == PollerKind::IoUring {
            return Err(SettingsError::PollerWithMay);
        }
        if self.tls_cert.is_some() && !has_tcp {
            return Err(SettingsError::TlsWithUnix);
        }
        if self.ack == Ack::Disk && self.state_dir.is_none() {
            return Err(SettingsError::AckWithoutState);
        }
        for (place, kind) in self.detector.iter().enumerate() {
            if self.detector[..place].contains(kind) {
                return Err(SettingsError::DetectorTwice(kind.name()));
            }
        }
        self.notify.check().map_err(SettingsError::Notify)?;
        self.read_tokens()?;
        self.tls()?;
        if let Some(password) = &self.redis_password {
            // Its file may change later; now it shows whether the flag is right.
            password.read().map_err(SettingsError::RedisPassword)?;
        }
        self.redis_target().map_err(SettingsError::RedisLogin)?;
        Ok(self)
    }

    /// Reads the certificate and its key; None without them.
    ///
    /// # Errors
    /// When there is one without the other, or when they can't be used.
    pub fn tls(&self) -> Result<Option<ServerConfig>, SettingsError> {
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) if self.engine == Engine::May => Err(SettingsError::TlsWithMay),
            (Some(certificate), Some(key)) => {
                server_config(certificate, key).map(Some).map_err(SettingsError::Tls)
            }
            (Some(_), None) => Err(SettingsError::TlsHalf { given: "tls-cert", absent: "tls-key" }),
            (None, Some(_)) => Err(SettingsError::TlsHalf { given: "tls-key", absent: "tls-cert" }),
        }
    }

    /// Reads the tokens that are in files, also those that have been read before.
    ///
    /// # Errors
    /// When a file can't be read, or when its token can't be used.
    pub fn read_tokens(&mut self) -> Result<(), SettingsError> {
        for (flag, token) in [
            ("ingest-token", &mut self.ingest_token),
            ("read-token", &mut self.read_token),
            ("debug-token", &mut self.debug_token),
            ("operator-token", &mut self.operator_token),
        ] {
            if let Some(token) = token {
                token.read(flag).map_err(SettingsError::Token)?;
            }
        }
        Ok(())
    }
}
