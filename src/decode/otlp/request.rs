//! `ExportMetricsServiceRequest`: resources, scopes, metrics and their points, read in place.
//!
//! The fields of a message may come in any order, and most senders write the name of a metric before its points, but
//! what decides about the points (temporality) after them. So each message is read twice: first what it says of its
//! points, then the points. Lengths are skipped over, which costs some nanoseconds.

use super::super::admission::Decoded;
use super::super::fault::{BodyError, PointFault};
use super::super::histograms::{Buckets, HistogramPoint, Temporality};
use super::super::labels::{SeriesDescription, ValueKind};
use super::super::points::PointReader;
use super::super::protobuf::{Fields, Malformed, take_part};
use super::super::series_cache::{EntryIndex, Scope, SeriesKey};
use super::attributes::Attribute;
use super::data_point::{self, Number, PointHead};
use super::key::{self, push_part};
use super::metric::{Data, Metric, POINT_KEY};
use super::resource::{IDENTITY_BYTES, ResourceHasher};
use sigmad_sample::timestamp::Stamp;

/// Of the keys of this format: first in those of histograms, and of all while the cache of series is full.
const KEY_TAG: u8 = b'O';
/// The field of `ScopeMetrics` that has a metric.
const METRICS: u32 = 2;
const METRICS_KEY: u8 = (METRICS as u8) << 3 | 2;
/// The scope of resources, within which the keys of other points are: the name of the metric alone, or with
/// [`ATTRIBUTES`] and its length behind them.
const RESOURCE: Scope = Scope::of_format(KEY_TAG, 0);
/// In the kind of a scope: the point has attributes.
const ATTRIBUTES: u16 = 1;
/// Attributes of the resource that are labels of its series: two services on one host have series of their own.
/// Others are not: an id of the process would make new series at each start.
const SERVICE_ATTRIBUTES: [&[u8]; 2] = [b"service.name", b"service.namespace"];
/// What SDKs call a service without a name; `:` and the program may follow.
const UNKNOWN_SERVICE: &[u8] = b"unknown_service";

const BUCKETS: PointFault =
    PointFault::Syntax("the buckets do not fit to their bounds, or are more than 2048");

/// Memory that is used again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The series of the point that is read: tag, kind, resource, name, and the attributes as they were sent.
    key: Vec<u8>,
    /// An attribute that is not a text.
    text: String,
    histogram: data_point::Histogram,
}

/// Reads one body.
pub(super) struct RequestReader<'p, 's> {
    points: PointReader<'p>,
    hasher: &'s ResourceHasher,
    scratch: &'s mut Scratch,
    index: usize,
}

/// Why reading ends.
enum End {
    Malformed,
    Body(BodyError),
}

impl From<Malformed> for End {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<BodyError> for End {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

/// What a `ResourceMetrics` says of its points.
struct Resource<'a> {
    /// The message, whose attributes are in its field `resource`.
    message: &'a [u8],
    identity: [u8; IDENTITY_BYTES],
    /// Its place in the cache of series, if there is room.
    index: Option<EntryIndex>,
}

impl<'p, 's> RequestReader<'p, 's> {
    pub(super) fn new(
        points: PointReader<'p>,
        hasher: &'s ResourceHasher,
        scratch: &'s mut Scratch,
    ) -> Self {
        Self { points, hasher, scratch, index: 0 }
    }

    /// Reads a whole body.
    pub(super) fn read(mut self, body: &[u8]) -> Result<Decoded, BodyError> {
        let mut fields = Fields::new(body);
        let mut offset = 0;
        let read = loop {
            match self.next_resource(&mut fields) {
                Ok(true) => offset = body.len() - fields.rest().len(),
                Ok(false) => break Ok(()),
                Err(End::Malformed) => break Err(BodyError::Malformed { offset }),
                Err(End::Body(error)) => break Err(error),
            }
        };
        self.points.end(read)
    }

    /// Reads the next field of the request; false at its end.
    fn next_resource(&mut self, request: &mut Fields<'_>) -> Result<bool, End> {
        let Some((number, value)) = request.next()? else { return Ok(false) };
        if number == 1 {
            self.resource_metrics(value.bytes()?)?;
        }
        Ok(true)
    }

    fn resource_metrics(&mut self, message: &[u8]) -> Result<(), End> {
        let mut identity = self.hasher.begin();
        each_part(message, |part| {
            identity.add(part);
            Ok::<_, Malformed>(())
        })?;
        let identity = identity.finish();
        let index = self.points.common(SeriesKey { scope: RESOURCE, bytes: &identity });
        let resource = Resource { message, identity, index };
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            if number == 2 {
                self.scope_metrics(value.bytes()?, &resource)?;
            }
        }
        Ok(())
    }

    fn scope_metrics(&mut self, message: &[u8], resource: &Resource<'_>) -> Result<(), End> {
        let mut rest = message;
        loop {
            while let Some((metric, after)) = take_part(rest, METRICS_KEY) {
                self.any_metric(metric, resource)?;
                rest = after;
            }
            let mut fields = Fields::new(rest);
            match fields.next()? {
                Some((METRICS, value)) => self.any_metric(value.bytes()?, resource)?,
                Some(_) => {}
                None => return Ok(()),
            }
            rest = fields.rest();
        }
    }

    #[inline(always)]
    fn any_metric(&mut self, message: &[u8], resource: &Resource<'_>) -> Result<(), End> {
        let metric = Metric::read(message)?;
        match (metric.data, resource.index) {
            (Some(data @ (Data::Gauge | Data::Sum)), Some(index)) => {
                let rest = self.expected_points(&metric, index)?;
                if rest.is_empty() && metric.fields.rest().is_empty() {
                    return Ok(());
                }
                self.metric(&Metric { points: rest, ..metric }, data, resource)
            }
            (Some(data), _) => self.metric(&metric, data, resource),
            (None, _) => Ok(()),
        }
    }

    /// Takes the points in front that are of the series which are expected next. Returns what follows.
    #[inline(always)]
    fn expected_points<'a>(
        &mut self,
        metric: &Metric<'a>,
        resource: EntryIndex,
    ) -> Result<&'a [u8], End> {
        let mut rest = metric.points;
        while let Some((message, after)) = take_part(rest, POINT_KEY) {
            let Some((head, value, attributes)) = Number::usual(message) else { break };
            let scope = numbers(resource, metric.kind(), !attributes.is_empty());
            let Some((index, key)) = self.points.cache().expected(scope) else { break };
            let Ok(time) = head.time() else { break };
            if !key::is_of(key, attributes, metric.name) {
                break;
            }
            self.points.set_index(self.index);
            if !self.points.value_at(index, time, value)? {
                break;
            }
            self.index += 1;
            rest = after;
        }
        Ok(rest)
    }

    fn metric(
        &mut self,
        metric: &Metric<'_>,
        data: Data,
        resource: &Resource<'_>,
    ) -> Result<(), End> {
        let key = &mut self.scratch.key;
        key.clear();
        if resource.index.is_none() || !matches!(data, Data::Gauge | Data::Sum) {
            key.extend_from_slice(&[KEY_TAG, data as u8, metric.kind() as u8]);
            key.extend_from_slice(&resource.identity);
            push_part(metric.name, key);
        }
        let prefix = key.len();
        let mut points = metric.points;
        while let Some((message, rest)) = take_part(points, POINT_KEY) {
            points = rest;
            self.point(metric, data, resource, message, prefix)?;
        }
        if !points.is_empty() {
            self.other_points(metric, data, resource, points, prefix)?;
        }
        let mut fields = metric.fields;
        while let Some((number, value)) = fields.next()? {
            if number == data as u32 {
                self.other_points(metric, data, resource, value.bytes()?, prefix)?;
            }
        }
        Ok(())
    }

    /// Reads the points among any fields.
    #[cold]
    fn other_points(
        &mut self,
        metric: &Metric<'_>,
        data: Data,
        resource: &Resource<'_>,
        message: &[u8],
        prefix: usize,
    ) -> Result<(), End> {
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            if number == 1 {
                self.point(metric, data, resource, value.bytes()?, prefix)?;
            }
        }
        Ok(())
    }

    fn point(
        &mut self,
        metric: &Metric<'_>,
        data: Data,
        resource: &Resource<'_>,
        message: &[u8],
        prefix: usize,
    ) -> Result<(), End> {
        self.scratch.key.truncate(prefix);
        self.points.set_index(self.index);
        self.index += 1;
        match data {
            Data::Gauge | Data::Sum => self.number(metric, resource, message),
            Data::Histogram | Data::ExponentialHistogram => {
                self.histogram(metric, data, resource, message)
            }
            Data::Summary => self.summary(metric, resource, message),
        }
    }
}

impl RequestReader<'_, '_> {
    /// Reads a `NumberDataPoint`.
    fn number(
        &mut self,
        metric: &Metric<'_>,
        resource: &Resource<'_>,
        message: &[u8],
    ) -> Result<(), End> {
        let Scratch { key, text, .. } = &mut *self.scratch;
        let start = key.len();
        let point = data_point::Number::read(message, key)?;
        let Some(time) = usable(&mut self.points, point.head) else { return Ok(()) };
        let Some(value) = point.value else {
            self.points.refuse(PointFault::Syntax("the data point has no value"));
            return Ok(());
        };
        let (kind, end) = (metric.kind(), key.len());
        let bytes = match resource.index {
            Some(_) if end == start => metric.name,
            Some(_) => {
                key::push_name(metric.name, key);
                &**key
            }
            None => &**key,
        };
        let scope = resource.index.map_or(Scope::TAGGED, |index| numbers(index, kind, end > start));
        let series = Series { resource, attributes: &key[start..end] };
        let key = SeriesKey { scope, bytes };
        self.points.keyed_value(key, time, value, |description| {
            description.kind(kind);
            description.name(metric.name);
            series.describe(description, text)
        })?;
        Ok(())
    }

    /// Reads a point of a histogram of either kind.
    fn histogram(
        &mut self,
        metric: &Metric<'_>,
        data: Data,
        resource: &Resource<'_>,
        message: &[u8],
    ) -> Result<(), End> {
        let Scratch { key, text, histogram } = &mut *self.scratch;
        let start = key.len();
        if data == Data::Histogram {
            histogram.read(message, key)?;
        } else {
            histogram.read_exponential(message, key)?;
        }
        let Some(time) = usable(&mut self.points, histogram.head) else { return Ok(()) };
        let (count, sum) = (histogram.count as f64, histogram.sum);
        let Some(buckets) = histogram.buckets() else {
            self.points.refuse(BUCKETS);
            return Ok(());
        };
        let temporality = metric.temporality();
        let point = HistogramPoint { temporality, count, sum, buckets };
        let series = Series { resource, attributes: &key[start..] };
        self.points.histogram(key, time, &point, |description| {
            description.kind(ValueKind::Gauge);
            description.name(metric.name);
            series.describe(description, text)
        })?;
        Ok(())
    }

    /// Reads a `SummaryDataPoint`: its quantiles are gauges.
    fn summary(
        &mut self,
        metric: &Metric<'_>,
        resource: &Resource<'_>,
        message: &[u8],
    ) -> Result<(), End> {
        let Scratch { key, text, .. } = &mut *self.scratch;
        let start = key.len();
        let point = data_point::Summary::read(message, key)?;
        let Some(time) = usable(&mut self.points, point.head) else { return Ok(()) };
        let end = key.len();
        let total = HistogramPoint {
            temporality: Temporality::Cumulative,
            count: point.count as f64,
            sum: Some(point.sum),
            buckets: Buckets::None,
        };
        let series = Series { resource, attributes: &key[start..] };
        self.points.histogram(key, time, &total, |description| {
            description.kind(ValueKind::Gauge);
            description.name(metric.name);
            series.describe(description, text)
        })?;
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            const QUANTILE_VALUES: u32 = 6;
            if number != QUANTILE_VALUES {
                continue;
            }
            let (quantile, value) = data_point::read_quantile(value.bytes()?)?;
            key.truncate(end);
            key.extend_from_slice(&quantile.to_bits().to_ne_bytes());
            let attributes = &key[start..end];
            let series = Series { resource, attributes };
            self.points.value(key, time, value, |description| {
                description.kind(ValueKind::Gauge);
                description.name(metric.name);
                series.describe(description, text)?;
                description.label(b"quantile", quantile.to_string().as_bytes());
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Calls `each` with the messages in field 1: the resource of a `ResourceMetrics`, and the attributes of a resource.
pub(super) fn each_part<'a, E: From<Malformed>>(
    message: &'a [u8],
    mut each: impl FnMut(&'a [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            each(value.bytes()?)?;
        }
    }
    Ok(())
}

/// The time of a point; None if it has no value, or one that cannot be kept.
#[inline]
fn usable(points: &mut PointReader<'_>, head: PointHead) -> Option<Stamp> {
    if head.is_without_value() {
        points.skip();
        return None;
    }
    match head.time() {
        Ok(time) => Some(time),
        Err(_) => {
            points.refuse(PointFault::Time);
            None
        }
    }
}

/// The scope of numbers of one kind.
#[inline(always)]
fn numbers(resource: EntryIndex, kind: ValueKind, has_attributes: bool) -> Scope {
    let attributes = if has_attributes { ATTRIBUTES } else { 0 };
    Scope::within(resource, (kind as u16) << 1 | attributes)
}

/// What names a series.
struct Series<'a> {
    resource: &'a Resource<'a>,
    /// The attributes of the point, as in its key.
    attributes: &'a [u8],
}

impl Series<'_> {
    /// Describes all but the name of the metric.
    fn describe(
        &self,
        description: &mut SeriesDescription,
        text: &mut String,
    ) -> Result<(), PointFault> {
        each_part(self.resource.message, |resource| {
            each_part(resource, |attribute| self.resource_attribute(attribute, description, text))
        })?;
        let mut rest = self.attributes;
        while let Some(message) = key::take_part(&mut rest) {
            let attribute = Attribute::read(message)?;
            description.label(attribute.key, attribute.value(text)?);
        }
        Ok(())
    }

    fn resource_attribute(
        &self,
        message: &[u8],
        description: &mut SeriesDescription,
        text: &mut String,
    ) -> Result<(), PointFault> {
        let attribute = Attribute::read(message)?;
        let is_service = SERVICE_ATTRIBUTES.contains(&attribute.key);
        if description.is_device(attribute.key) {
            let value = attribute.value(text)?;
            description.resource_label(attribute.key, value);
        } else if is_service {
            let value = attribute.value(text)?;
            if !value.starts_with(UNKNOWN_SERVICE) && !self.has(attribute.key) {
                description.label(attribute.key, value);
            }
        }
        Ok(())
    }

    /// Whether the point has an attribute of that name, which is nearer than that of the resource.
    fn has(&self, key: &[u8]) -> bool {
        let mut rest = self.attributes;
        std::iter::from_fn(|| key::take_part(&mut rest))
            .any(|message| Attribute::read(message).is_ok_and(|attribute| attribute.key == key))
    }
}
