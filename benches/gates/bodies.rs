//! Bodies of the same values in every format, as those of `benches/bodies.py`: what values.rs counts the cost of.
//!
//! A body has rows, each the ten gauges of one host at one time. Formats with labels carry four of the host beside the
//! name of the metric; JSON of samples and Arrow have the host alone. Protobuf is written by hand: this program needs
//! no library for it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Float64Array, RecordBatch, TimestampMillisecondArray,
};
use arrow_ipc::writer::StreamWriter;

/// Values of a row.
pub const METRICS: usize = 10;

/// One host at one time.
pub struct Row {
    pub host: String,
    pub time_ms: u64,
    pub values: [f64; METRICS],
}

fn metric(index: usize) -> String {
    format!("node_gauge_{index}")
}

/// Writes what `each` gives for every value: host, name of the metric, value, and time.
fn text(rows: &[Row], each: impl Fn(&str, &str, f64, u64) -> String) -> Vec<u8> {
    let mut body = String::new();
    for row in rows {
        for (index, value) in row.values.iter().enumerate() {
            body.push_str(&each(&row.host, &metric(index), *value, row.time_ms));
        }
    }
    body.into_bytes()
}

pub fn json(rows: &[Row]) -> Vec<u8> {
    let sample = |row: &Row| {
        let values = row.values.iter().enumerate();
        let values: Vec<_> =
            values.map(|(index, value)| format!("\"{}\":{value}", metric(index))).collect();
        let (seconds, millis) = (row.time_ms / 1_000, row.time_ms % 1_000);
        let values = values.join(",");
        format!("{{\"timestamp\":{seconds}.{millis:03},\"device\":\"{}\",{values}}}", row.host)
    };
    let samples: Vec<_> = rows.iter().map(sample).collect();
    format!("[{}]", samples.join(",")).into_bytes()
}

/// As Telegraf's `outputs.http` sends it: an object of a row.
pub fn telegraf(rows: &[Row]) -> Vec<u8> {
    let object = |row: &Row| {
        let values = row.values.iter().enumerate();
        let fields: Vec<_> =
            values.map(|(index, value)| format!("\"gauge_{index}\":{value}")).collect();
        let (fields, seconds) = (fields.join(","), row.time_ms / 1_000);
        let tags = format!(
            "\"cluster\":\"production\",\"host\":\"{}\",\"job\":\"node\",\"zone\":\"eu-central-1\"",
            row.host
        );
        format!(
            "{{\"fields\":{{{fields}}},\"name\":\"node\",\"tags\":{{{tags}}},\"timestamp\":{seconds}}}"
        )
    };
    let objects: Vec<_> = rows.iter().map(object).collect();
    format!("{{\"metrics\":[{}]}}", objects.join(",")).into_bytes()
}

fn tags(host: &str) -> String {
    format!("cluster=production,host={host},job=node,zone=eu-central-1")
}

pub fn lines_of_one(rows: &[Row]) -> Vec<u8> {
    text(rows, |host, metric, value, time_ms| {
        format!("{metric},{} value={value} {time_ms}000000\n", tags(host))
    })
}

pub fn lines_of_ten(rows: &[Row]) -> Vec<u8> {
    let line = |row: &Row| {
        let values = row.values.iter().enumerate();
        let fields: Vec<_> =
            values.map(|(index, value)| format!("gauge_{index}={value}")).collect();
        format!("node,{} {} {}000000\n", tags(&row.host), fields.join(","), row.time_ms)
    };
    rows.iter().map(line).collect::<String>().into_bytes()
}

pub fn exposition(rows: &[Row]) -> Vec<u8> {
    text(rows, |host, metric, value, time_ms| {
        let labels = format!(
            "cluster=\"production\",instance=\"{host}\",job=\"node\",zone=\"eu-central-1\""
        );
        format!("{metric}{{{labels}}} {value} {time_ms}\n")
    })
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A field of protobuf that has a length.
fn part(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    varint(content.len() as u64, &mut field);
    field.extend_from_slice(content);
    field
}

fn parts(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

fn labels<'s>(host: &'s str, metric: &'s str) -> [(&'s str, &'s str); 5] {
    [
        ("__name__", metric),
        ("cluster", "production"),
        ("instance", host),
        ("job", "node"),
        ("zone", "eu-central-1"),
    ]
}

fn sample(value: f64, time_ms: u64) -> Vec<u8> {
    let mut sample = vec![0x09];
    sample.extend_from_slice(&value.to_le_bytes());
    sample.push(0x10);
    varint(time_ms, &mut sample);
    part(2, &sample)
}

pub fn remote_write_1(rows: &[Row]) -> Vec<u8> {
    let mut body = Vec::new();
    for row in rows {
        for (index, value) in row.values.iter().enumerate() {
            let metric = metric(index);
            let label = |(name, value): (&str, &str)| {
                part(1, &parts(&[part(1, name.as_bytes()), part(2, value.as_bytes())]))
            };
            let labels: Vec<_> = labels(&row.host, &metric).into_iter().map(label).collect();
            let series = parts(&[parts(&labels), sample(*value, row.time_ms)]);
            body.extend(part(1, &series));
        }
    }
    body
}

pub fn remote_write_2(rows: &[Row]) -> Vec<u8> {
    const GAUGE: u8 = 2;
    let mut places = HashMap::from([(String::new(), 0)]);
    let mut symbols = part(4, b"");
    let mut body = Vec::new();
    for row in rows {
        for (index, value) in row.values.iter().enumerate() {
            let metric = metric(index);
            let mut refs = Vec::new();
            for symbol in
                labels(&row.host, &metric).into_iter().flat_map(|(name, value)| [name, value])
            {
                let next = places.len() as u64;
                let place = *places.entry(symbol.to_owned()).or_insert_with(|| {
                    symbols.extend(part(4, symbol.as_bytes()));
                    next
                });
                varint(place, &mut refs);
            }
            let metadata = part(5, &[0x08, GAUGE]);
            let series = parts(&[part(1, &refs), sample(*value, row.time_ms), metadata]);
            body.extend(part(5, &series));
        }
    }
    [symbols, body].concat()
}

pub fn otlp(rows: &[Row]) -> Vec<u8> {
    let attribute = |(name, value): (&str, &str)| {
        let value = part(1, value.as_bytes());
        part(1, &parts(&[part(1, name.as_bytes()), part(2, &value)]))
    };
    let mut body = Vec::new();
    for row in rows {
        let attributes = [
            ("host.name", &*row.host),
            ("cluster", "production"),
            ("job", "node"),
            ("zone", "eu-central-1"),
        ];
        let resource = part(1, &parts(&attributes.map(attribute)));
        let metric = |(index, value): (usize, &f64)| {
            let mut point = vec![0x19];
            point.extend_from_slice(&(row.time_ms * 1_000_000).to_le_bytes());
            point.push(0x21);
            point.extend_from_slice(&value.to_le_bytes());
            let gauge = part(5, &part(1, &point));
            part(2, &parts(&[part(1, metric(index).as_bytes()), gauge]))
        };
        let metrics: Vec<_> = row.values.iter().enumerate().map(metric).collect();
        let scope = part(2, &parts(&metrics));
        body.extend(part(1, &parts(&[resource, scope])));
    }
    body
}

pub fn otlp_json(rows: &[Row]) -> Vec<u8> {
    let resource = |row: &Row| {
        let attribute = |(name, value): (&str, &str)| {
            format!("{{\"key\":\"{name}\",\"value\":{{\"stringValue\":\"{value}\"}}}}")
        };
        let attributes = [
            ("host.name", &*row.host),
            ("cluster", "production"),
            ("job", "node"),
            ("zone", "eu-central-1"),
        ];
        let attributes = attributes.map(attribute).join(",");
        let metric = |(index, value): (usize, &f64)| {
            let (name, time_ms) = (metric(index), row.time_ms);
            let point = format!("{{\"timeUnixNano\":\"{time_ms}000000\",\"asDouble\":{value}}}");
            format!("{{\"name\":\"{name}\",\"gauge\":{{\"dataPoints\":[{point}]}}}}")
        };
        let metrics: Vec<_> = row.values.iter().enumerate().map(metric).collect();
        let scope = format!("[{{\"metrics\":[{}]}}]", metrics.join(","));
        format!("{{\"resource\":{{\"attributes\":[{attributes}]}},\"scopeMetrics\":{scope}}}")
    };
    let resources: Vec<_> = rows.iter().map(resource).collect();
    format!("{{\"resourceMetrics\":[{}]}}", resources.join(",")).into_bytes()
}

pub fn arrow(rows: &[Row]) -> Vec<u8> {
    let devices: DictionaryArray<Int32Type> = rows.iter().map(|row| &*row.host).collect();
    let times = rows.iter().map(|row| row.time_ms as i64).collect::<Vec<_>>();
    let times = TimestampMillisecondArray::from(times);
    let mut columns: Vec<(String, ArrayRef)> =
        vec![("device".to_owned(), Arc::new(devices)), ("timestamp".to_owned(), Arc::new(times))];
    for index in 0..METRICS {
        let values: Float64Array = rows.iter().map(|row| Some(row.values[index])).collect();
        columns.push((metric(index), Arc::new(values)));
    }
    let table = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let mut writer = StreamWriter::try_new(Vec::new(), &table.schema()).expect("into memory");
    writer.write(&table).expect("into memory");
    writer.into_inner().expect("into memory")
}
