"""Bodies of the same values in every format that sigmad reads: what benches/formats.py sends.

A body has rows, each the ten gauges of one host at one time. Formats with labels carry four of the host beside the
name of the metric; JSON and Arrow have the host alone.
"""

from __future__ import annotations

import functools
import io
import json
import struct
from collections.abc import Callable

import pyarrow
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from pyarrow import ipc

METRICS = [f"node_gauge_{index}" for index in range(10)]
SHARED = {"cluster": "production", "job": "node", "zone": "eu-central-1"}
# Of remote_write 2.0: METRIC_TYPE_GAUGE.
GAUGE = 2

# The host, the time in milliseconds, and the value of each metric.
Row = tuple[str, int, list[float]]


def json_samples(rows: list[Row]) -> bytes:
    """Compact, as most libraries for JSON write it."""
    samples = [
        {"timestamp": time_ms / 1000, "device": host, **dict(zip(METRICS, values, strict=True))}
        for host, time_ms, values in rows
    ]
    return json.dumps(samples, separators=(",", ":")).encode()


@functools.cache
def tags(host: str) -> str:
    """Of line protocol, sorted as Telegraf sends them."""
    return f"cluster={SHARED['cluster']},host={host},job={SHARED['job']},zone={SHARED['zone']}"


def lines_of_one(rows: list[Row]) -> bytes:
    """A line for each value, as Telegraf's Prometheus input makes them."""
    return "".join(
        f"{metric},{tags(host)} value={value} {time_ms}000000\n"
        for host, time_ms, values in rows
        for metric, value in zip(METRICS, values, strict=True)
    ).encode()


def lines_of_ten(rows: list[Row]) -> bytes:
    lines = []
    for host, time_ms, values in rows:
        fields = ",".join(f"gauge_{index}={value}" for index, value in enumerate(values))
        lines.append(f"node,{tags(host)} {fields} {time_ms}000000\n")
    return "".join(lines).encode()


def text(rows: list[Row]) -> bytes:
    labels = f'cluster="{SHARED["cluster"]}",instance="%s",job="{SHARED["job"]}",zone="{SHARED["zone"]}"'
    return "".join(
        f"{metric}{{{labels % host}}} {value} {time_ms}\n"
        for host, time_ms, values in rows
        for metric, value in zip(METRICS, values, strict=True)
    ).encode()


def varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def part(number: int, content: bytes) -> bytes:
    """A field of protobuf that has a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def labels(host: str, metric: str) -> dict[str, str]:
    """Sorted, as remote_write has them."""
    return dict(sorted({"__name__": metric, "instance": host, **SHARED}.items()))


def sample(value: float, time_ms: int) -> bytes:
    return part(2, b"\x09" + struct.pack("<d", value) + b"\x10" + varint(time_ms))


@functools.cache
def labels_1(host: str, metric: str) -> bytes:
    pairs = labels(host, metric).items()
    return b"".join(part(1, part(1, name.encode()) + part(2, value.encode())) for name, value in pairs)


def remote_write_1(rows: list[Row]) -> bytes:
    """`prometheus.WriteRequest`, in a block of snappy."""
    request = b"".join(
        part(1, labels_1(host, metric) + sample(value, time_ms))
        for host, time_ms, values in rows
        for metric, value in zip(METRICS, values, strict=True)
    )
    return pyarrow.compress(request, codec="snappy", asbytes=True)


def remote_write_2(rows: list[Row]) -> bytes:
    """`io.prometheus.write.v2.Request`, in a block of snappy."""
    symbols = {"": 0}
    metadata = part(5, b"\x08" + varint(GAUGE))
    series = []
    for host, time_ms, values in rows:
        for metric, value in zip(METRICS, values, strict=True):
            texts = (text for pair in labels(host, metric).items() for text in pair)
            refs = b"".join(varint(symbols.setdefault(text, len(symbols))) for text in texts)
            series.append(part(5, part(1, refs) + sample(value, time_ms) + metadata))
    request = b"".join(part(4, symbol.encode()) for symbol in symbols) + b"".join(series)
    return pyarrow.compress(request, codec="snappy", asbytes=True)


@functools.cache
def resource(host: str) -> Resource:
    attributes = {"host.name": host, **SHARED}.items()
    return Resource(attributes=[KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in attributes])


def otlp(rows: list[Row]) -> bytes:
    """A resource for each row, a metric for each value."""
    resources = []
    for host, time_ms, values in rows:
        metrics = [
            Metric(
                name=metric,
                gauge=Gauge(data_points=[NumberDataPoint(time_unix_nano=time_ms * 1_000_000, as_double=value)]),
            )
            for metric, value in zip(METRICS, values, strict=True)
        ]
        resources.append(ResourceMetrics(resource=resource(host), scope_metrics=[ScopeMetrics(metrics=metrics)]))
    return ExportMetricsServiceRequest(resource_metrics=resources).SerializeToString()


def otlp_json(rows: list[Row]) -> bytes:
    resources = []
    for host, time_ms, values in rows:
        attributes = {"host.name": host, **SHARED}.items()
        metrics = [
            {"name": metric, "gauge": {"dataPoints": [{"timeUnixNano": f"{time_ms}000000", "asDouble": value}]}}
            for metric, value in zip(METRICS, values, strict=True)
        ]
        resources.append(
            {
                "resource": {
                    "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes]
                },
                "scopeMetrics": [{"metrics": metrics}],
            }
        )
    return json.dumps({"resourceMetrics": resources}, separators=(",", ":")).encode()


def arrow(rows: list[Row]) -> bytes:
    """One table: the device as a dictionary, a column for each metric."""
    hosts, times, values = zip(*rows, strict=True)
    columns = {
        "device": pyarrow.array(hosts).dictionary_encode(),
        "timestamp": pyarrow.array(times, pyarrow.timestamp("ms")),
        **dict(zip(METRICS, map(pyarrow.array, zip(*values, strict=True)), strict=True)),
    }
    table = pyarrow.table(columns)
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


SNAPPY = {"Content-Encoding": "snappy"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
V2 = {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}

# Title, path, header fields, encoder. VictoriaMetrics has the same paths for those that it reads.
FORMATS: dict[str, tuple[str, str, dict[str, str], Callable[[list[Row]], bytes]]] = {
    "json": ("JSON", "/ingest", {"Content-Type": "application/json"}, json_samples),
    "lp_1": ("line protocol, one field a line", "/write", {}, lines_of_one),
    "lp_10": ("line protocol, ten fields a line", "/write", {}, lines_of_ten),
    "rw_1": ("remote_write 1.0", "/api/v1/write", {**PROTOBUF, **SNAPPY}, remote_write_1),
    "rw_2": ("remote_write 2.0", "/api/v1/write", {**V2, **SNAPPY}, remote_write_2),
    "otlp": ("OTLP protobuf", "/v1/metrics", PROTOBUF, otlp),
    "otlp_json": ("OTLP JSON", "/v1/metrics", {"Content-Type": "application/json"}, otlp_json),
    "text": ("text exposition", "/api/v1/import/prometheus", {}, text),
    "arrow": ("Arrow IPC", "/ingest", {"Content-Type": "application/vnd.apache.arrow.stream"}, arrow),
}
