//! The answer to a request that the engine refuses itself.

use crate::http::Limits;
use crate::http::client_address::ClientAddress;
use crate::http::counters::HttpCounters;
use crate::http::encode::{self, DateLine, ResponseOptions};
use crate::http::message::{Method, Service};
use crate::http::request_error::RequestError;
use crate::http::request_line;

/// Where a refusal is written, counted and told.
pub struct RefusalWriter<'a, S> {
    /// Counts it as a request.
    pub service: &'a mut S,
    /// Takes the response.
    pub out: &'a mut Vec<u8>,
    /// The date of the response.
    pub date: &'a DateLine,
    /// Has the pages of other origins that may read it.
    pub limits: &'a Limits,
    /// Counts it by its reason.
    pub counters: &'a HttpCounters,
}

impl<S: Service> RefusalWriter<'_, S> {
    /// Answers the request of `client` of which `data` has arrived.
    #[cold]
    pub(super) fn write(self, error: RequestError, data: &[u8], client: ClientAddress) {
        let line = request_line::parse(data).ok().flatten();
        let (method, path) = line.map_or((Method::Other, ""), |line| (line.method, line.path));
        self.counters.refusals[error as usize].add(1);
        error.log(client);
        self.service.refused(method, path, error.status());
        let options = ResponseOptions::refusing(data, self.limits);
        encode::refusal(self.out, options, self.date, error, error.message());
    }
}
