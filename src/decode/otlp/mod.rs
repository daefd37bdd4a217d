//! Metrics of OpenTelemetry: `ExportMetricsServiceRequest` as protobuf, or as its JSON.
//!
//! [`request`] reads protobuf in place. [`json`] writes a JSON body again as protobuf, so that one reader decides
//! what a point means (<https://opentelemetry.io/docs/specs/otlp/>, "OTLP/HTTP"; the messages are those of
//! opentelemetry-proto 1.x).
//!
//! A gauge and a sum that is not monotonic are judged by their values, a cumulative monotonic sum by its rate, and
//! a delta as it is. Histograms and summaries become the rate of their count, their mean and quantiles. The device
//! is looked for among the attributes of the resource, then among those of the point.

mod attributes;
mod data_point;
mod json;
mod key;
mod metric;
mod request;
mod resource;
mod schema;

use super::admission::Decoded;
use super::fault::BodyError;
use super::points::PointReader;
use request::{RequestReader, Scratch};
use resource::ResourceHasher;

/// One worker's memory for OTLP, used again for each body.
#[derive(Debug, Default)]
pub(super) struct OtlpReader {
    hasher: ResourceHasher,
    scratch: Scratch,
    /// A body of JSON as protobuf.
    transcoded: Vec<u8>,
}

impl OtlpReader {
    /// Reads a body of protobuf.
    pub(super) fn read_protobuf(
        &mut self,
        points: PointReader<'_>,
        body: &[u8],
    ) -> Result<Decoded, BodyError> {
        RequestReader::new(points, &self.hasher, &mut self.scratch).read(body)
    }

    /// Reads a body of JSON.
    pub(super) fn read_json(
        &mut self,
        points: PointReader<'_>,
        body: &[u8],
    ) -> Result<Decoded, BodyError> {
        self.transcoded.clear();
        if let Err(error) = json::transcode(body, &mut self.transcoded) {
            return points.end(Err(error));
        }
        let reader = RequestReader::new(points, &self.hasher, &mut self.scratch);
        let decoded = reader.read(&self.transcoded);
        // A large body is rare; its memory is not kept for the small ones.
        self.transcoded.shrink_to(TRANSCODED_BYTES_KEPT);
        decoded
    }
}

/// Kept between bodies of JSON: a thousand points with their attributes.
const TRANSCODED_BYTES_KEPT: usize = 256 * 1024;

#[cfg(test)]
mod tests;
