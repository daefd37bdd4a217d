#!/usr/bin/env python3
"""The metric exporter of OpenTelemetry's Python SDK against the real binary: protobuf over HTTP, with and without
gzip. Every value, device, series and time that `/latest` has must be what was recorded.

The times are those that the SDK gives its points; the test takes them from what the exporter sends. `make senders`
runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benches"))

import bench
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

DEVICES = 5
ROUNDS = 10
CPUS = 4


class KeepingExporter(OTLPMetricExporter):
    """Keeps the time of each gauge's point, and the result of each export."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.sent: list[tuple[str, str, float, int]] = []
        self.results: list[MetricExportResult] = []

    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        for resource in metrics_data.resource_metrics:
            device = resource.resource.attributes["host.name"]
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                if metric.name != "load":
                    continue
                for point in metric.data.data_points:
                    series = f'load{{cpu="{point.attributes["cpu"]}",service.name="judge"}}'
                    self.sent.append((device, series, point.value, point.time_unix_nano // 1_000))
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self.results.append(result)
        return result


def send(port: int, device: str, compression: Compression) -> KeepingExporter:
    """Ten exports of four gauges, a counter and a histogram."""
    exporter = KeepingExporter(f"http://127.0.0.1:{port}/v1/metrics", compression=compression)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    resource = Resource.create({"host.name": device, "service.name": "judge"})
    provider = MeterProvider([reader], resource=resource)
    meter = provider.get_meter("judge")
    state = {"round": 0}

    def observe(_options):
        return [Observation(state["round"] + cpu / 8, {"cpu": str(cpu)}) for cpu in range(CPUS)]

    meter.create_observable_gauge("load", [observe])
    requests = meter.create_counter("requests")
    durations = meter.create_histogram("duration", unit="s")
    for round_ in range(ROUNDS):
        state["round"] = round_
        requests.add(10)
        durations.record(0.25)
        assert reader.force_flush(30_000)
    provider.shutdown()
    return exporter


def latest(port: int) -> list[tuple[str, str, float, int]]:
    """Every value of `/latest`, oldest first."""
    values = []
    for sample in reversed(bench.get_json(port, "/latest?limit=1000")["samples"]):
        time_us = round(sample.pop("timestamp") * 1_000_000)
        device = sample.pop("device", "")
        sample.pop("arrivedAt")
        values += [(device, series, value, time_us) for series, value in sample.items()]
    return values


def check_values(port: int) -> None:
    sent = []
    for number in range(DEVICES):
        compression = Compression.Gzip if number % 2 else Compression.NoCompression
        exporter = send(port, f"host-{number}", compression)
        assert exporter.results, "nothing was exported"
        assert all(result == MetricExportResult.SUCCESS for result in exporter.results), exporter.results
        sent += exporter.sent
    # The last flush is that of the shutdown.
    assert len(sent) >= DEVICES * ROUNDS * CPUS, len(sent)
    found = [value for value in latest(port) if value[1].startswith("load{")]
    assert sorted(found) == sorted(sent), f"{len(found)} of {len(sent)}\n{found[:3]}\n{sent[:3]}"
    devices = {row["device"] for row in bench.get_json(port, "/devices")["devices"]}
    assert devices == {f"host-{number}" for number in range(DEVICES)}, devices


def post(port: int, body: bytes, kind: str) -> tuple[int, str, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/metrics", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def check_answers(port: int) -> None:
    """In the coding of the request."""
    point = {"attributes": [], "timeUnixNano": "1735100000000000000", "asDouble": 1.5}
    no_value = {"timeUnixNano": "1735100000000000000"}
    metric = {"name": "x", "gauge": {"dataPoints": [point, no_value]}}
    body = json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}).encode()
    status, kind, answer = post(port, body, "application/json")
    assert (status, kind) == (200, "application/json"), (status, kind)
    assert json.loads(answer)["partialSuccess"]["rejectedDataPoints"] == "1", answer
    assert post(port, b"{}", "application/json") == (200, "application/json", b"{}")
    assert post(port, b"", "application/x-protobuf") == (200, "application/x-protobuf", b"")
    status, kind, answer = post(port, b"\xff", "application/x-protobuf")
    assert (status, kind, answer[:2]) == (400, "application/x-protobuf", b"\x08\x03"), answer
    status, kind, answer = post(port, b"{", "application/json")
    assert (status, json.loads(answer)["code"]) == (400, 3), answer
    assert post(port, b"x", "text/plain")[0] == 415


def main() -> None:
    with bench.sigmad() as (_child, port):
        check_values(port)
        check_answers(port)
    print(f"otlp: {DEVICES * ROUNDS * CPUS} values of {DEVICES} hosts arrived as they were sent")


if __name__ == "__main__":
    main()
