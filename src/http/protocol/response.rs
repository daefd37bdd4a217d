//! Where a service puts its response to one request of a native connection.

use std::sync::Arc;

use crate::http::encode::{self, BodyLength, DateLine, LastHead, ResponseOptions};
use crate::http::message::{CompletionSink, HeaderField, Responder, ResponseWriter};

/// Low bits of a responder's id: the key of its connection. The others number the responders.
pub(super) const KEY_BITS: u32 = 24;

/// The key of the connection to which a responder belongs.
pub fn connection_key(responder_id: u64) -> usize {
    (responder_id & ((1 << KEY_BITS) - 1)) as usize
}

/// What a service has done with a request.
#[derive(Clone, Copy)]
pub(super) enum ResponseState {
    Pending,
    Sent,
    /// It has taken the responder with this id.
    Deferred(u64),
}

/// Writes a response behind those of the same round.
pub(super) struct NativeResponseWriter<'a> {
    pub out: &'a mut Vec<u8>,
    pub date: &'a DateLine,
    pub last_head: &'a mut LastHead,
    pub options: ResponseOptions,
    pub sink: &'a Arc<dyn CompletionSink>,
    /// Responders that the worker has given out.
    pub deferred_total: &'a mut u64,
    pub key: usize,
    pub state: ResponseState,
}

impl ResponseWriter for NativeResponseWriter<'_> {
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    ) {
        debug_assert!(matches!(self.state, ResponseState::Pending), "one response a request");
        let Self { out, date, last_head, options, .. } = self;
        if fields.is_empty() {
            last_head.write(out, *options, date, status, content_type, body.len());
        } else {
            let length = BodyLength::Known(body.len());
            encode::head(out, *options, date, status, content_type, fields, length);
        }
        if !options.is_head {
            out.extend_from_slice(body);
        }
        self.state = ResponseState::Sent;
    }

    fn defer(&mut self) -> Responder {
        debug_assert!(matches!(self.state, ResponseState::Pending), "one response a request");
        *self.deferred_total += 1;
        let responder_id = (*self.deferred_total << KEY_BITS) | self.key as u64;
        self.state = ResponseState::Deferred(responder_id);
        Responder::new(responder_id, self.sink.clone())
    }
}
