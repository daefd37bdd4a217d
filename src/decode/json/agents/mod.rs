//! JSON of agents on the paths of samples: Telegraf, Vector and collectd, told apart by their shape.
//!
//! The first object of a body decides for the whole of it. Each object is parsed by simd-json, like an unusual sample,
//! and gives its values to a [`PointReader`]; one that is wrong is refused alone, by its index.

mod collectd;
mod object;
mod telegraf;
#[cfg(test)]
mod tests;
mod vector;

use self::object::{ObjectError, SeriesKey};
use super::skip::{SkippedValue, key, skip_space, skip_value, start_of};
use super::tape::{Parser, VALUES_MAX};
use crate::decode::admission::Decoded;
use crate::decode::fault::{BodyError, PointFault};
use crate::decode::points::PointReader;

/// Longer keys are not kept from body to body.
const KEY_BYTES_KEPT: usize = 16 * 1024;

/// The agent that has written a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agent {
    Telegraf,
    Collectd,
    Vector,
}

/// The agent whose shape the object at `at` has, or the first one in its array `metrics`.
#[cold]
pub(super) fn agent_of(body: &mut [u8], at: usize) -> Option<Agent> {
    let (mut name, mut fields, mut plugin, mut values, mut vector) =
        (false, false, false, false, false);
    let mut next = skip_space(body, at + 1);
    loop {
        let (range, value_at) = key(body, next).ok()?;
        let first = *body.get(value_at)?;
        match (&body[range], first) {
            (b"metrics", b'[') => {
                let inner = skip_space(body, value_at + 1);
                let is_object = body.get(inner) == Some(&b'{');
                return if is_object { agent_of(body, inner) } else { None };
            }
            (b"name", b'"') => name = true,
            (b"fields", b'{') => fields = true,
            (b"plugin", b'"') => plugin = true,
            (b"values", b'[') => values = true,
            (kind, b'{') if vector::KINDS.contains(&kind) => vector = true,
            (b"timestamp" | b"time" | b"interval" | b"interval_ms", _) => {}
            // A number of its own makes it a sample.
            (_, b'-' | b'0'..=b'9') => return None,
            _ => {}
        }
        let end = skip_value(body, value_at).ok()?.end;
        next = skip_space(body, end);
        match body.get(next) {
            Some(b',') => next = skip_space(body, next + 1),
            _ => break,
        }
    }
    let shapes = [
        (name && fields, Agent::Telegraf),
        (plugin && values, Agent::Collectd),
        (name && vector, Agent::Vector),
    ];
    shapes.into_iter().find_map(|(has_shape, agent)| has_shape.then_some(agent))
}

/// Reads a body of which [`agent_of`] knows the agent: an object, an array, `{"metrics":[…]}`, or lines.
pub(super) fn read(
    parser: &mut Parser,
    points: PointReader<'_>,
    body: &mut [u8],
    agent: Agent,
) -> Result<Decoded, BodyError> {
    let mut reader = AgentReader { parser, points, agent, index: 0, are_rates: false };
    let read = reader.body(body);
    let AgentReader { parser, points, .. } = reader;
    if parser.key.capacity() > KEY_BYTES_KEPT {
        parser.key = Vec::new();
    }
    points.end(read)
}

struct AgentReader<'p> {
    parser: &'p mut Parser,
    points: PointReader<'p>,
    agent: Agent,
    /// Of the object that is read.
    index: usize,
    /// collectd has turned counters into rates.
    are_rates: bool,
}

impl AgentReader<'_> {
    fn body(&mut self, body: &mut [u8]) -> Result<(), BodyError> {
        let mut at = skip_space(body, start_of(body));
        if body.get(at) == Some(&b'[') {
            at = self.array(body, at)?;
        } else {
            // One object, or one a line.
            while at < body.len() {
                at = match metrics_of(body, at)? {
                    Some(metrics) => self.wrapper(body, metrics)?,
                    None => self.object(body, at)?,
                };
                at = skip_space(body, at);
            }
        }
        let offset = skip_space(body, at);
        if offset < body.len() { Err(BodyError::Malformed { offset }) } else { Ok(()) }
    }

    /// Reads the array at `metrics` of an object; returns the end of the object.
    fn wrapper(&mut self, body: &mut [u8], metrics: usize) -> Result<usize, BodyError> {
        let mut at = self.array(body, metrics)?;
        loop {
            at = skip_space(body, at);
            match body.get(at) {
                Some(b'}') => return Ok(at + 1),
                Some(b',') => {
                    let name_at = skip_space(body, at + 1);
                    let (_, value_at) = key(body, name_at)?;
                    at = skip_value(body, value_at)?.end;
                }
                _ => return Err(BodyError::Malformed { offset: at }),
            }
        }
    }

    fn array(&mut self, body: &mut [u8], at: usize) -> Result<usize, BodyError> {
        let mut at = skip_space(body, at + 1);
        if body.get(at) == Some(&b']') {
            return Ok(at + 1);
        }
        loop {
            let end = self.object(body, at)?;
            at = skip_space(body, end);
            match body.get(at) {
                Some(b',') => at = skip_space(body, at + 1),
                Some(b']') => return Ok(at + 1),
                _ => return Err(BodyError::Malformed { offset: at }),
            }
        }
    }

    /// Reads the object at `at`; returns its end.
    fn object(&mut self, body: &mut [u8], at: usize) -> Result<usize, BodyError> {
        let SkippedValue { end, values } = skip_value(body, at)?;
        self.points.set_index(self.index);
        self.index += 1;
        if body.get(at) != Some(&b'{') || values > VALUES_MAX {
            self.points
                .refuse(PointFault::Syntax("an object of at most 16384 values was expected"));
            return Ok(end);
        }
        let Ok(tape) = self.parser.parse(&mut body[at..end]) else {
            self.points.refuse(PointFault::Syntax("the object is not valid JSON"));
            return Ok(end);
        };
        let tag: &[u8] = match self.agent {
            Agent::Telegraf => b"Jt",
            Agent::Collectd => b"Jc",
            Agent::Vector => b"Jv",
        };
        let mut key = SeriesKey::new(&mut self.parser.key, tag);
        let read = match self.agent {
            Agent::Telegraf => telegraf::read(&tape.0, &mut key, &mut self.points),
            Agent::Collectd => {
                collectd::read(&tape.0, &mut self.are_rates, &mut key, &mut self.points)
            }
            Agent::Vector => vector::read(&tape.0, &mut key, &mut self.points),
        };
        self.parser.recycle(tape);
        match read {
            Ok(()) => Ok(end),
            Err(ObjectError::Point(fault)) => {
                self.points.refuse(fault);
                Ok(end)
            }
            Err(ObjectError::Body(error)) => Err(error),
        }
    }
}

/// The place of the array in `{"metrics":[…]}`; None if the object at `at` has none.
fn metrics_of(body: &mut [u8], at: usize) -> Result<Option<usize>, BodyError> {
    if body.get(at) != Some(&b'{') {
        return Err(BodyError::Malformed { offset: at });
    }
    let mut next = skip_space(body, at + 1);
    while let Ok((range, value_at)) = key(body, next) {
        if &body[range] == b"metrics" && body.get(value_at) == Some(&b'[') {
            return Ok(Some(value_at));
        }
        let end = skip_value(body, value_at)?.end;
        next = skip_space(body, end);
        if body.get(next) != Some(&b',') {
            break;
        }
        next = skip_space(body, next + 1);
    }
    Ok(None)
}
