#!/usr/bin/env python3
"""What the real binary says, read by other people's parsers.

The scrape by prometheus_client, which must find the same in both formats; openapi.json by
openapi-spec-validator; and each answer of every route by the schema that the document gives for its
status. `make formats` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import gzip
import json
import struct
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from prometheus_client import openmetrics, parser

# The package binds its name to the exposition, not to the parser beside it.
from prometheus_client.openmetrics import parser as openmetrics_parser

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench

assert openmetrics
WAIT_S = 120
HOSTILE = 'a"} 1 \\n\\é☃{'
# What Prometheus 3 sends.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


class Client:
    """Checks every answer by the document."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.document = json.loads(self.fetch("GET", "/openapi.json")[2])
        self.seen: set[tuple[str, str, str]] = set()

    def fetch(self, method: str, target: str, body: bytes | None = None, **fields: str):
        fields = {name.replace("_", "-"): value for name, value in fields.items()}
        request = urllib.request.Request(self.base + target, body, fields, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            is_stream = answer.headers["Content-Type"] == "text/event-stream"
            # Of a stream without end, its beginning.
            payload = answer.read1() if is_stream else answer.read()
            if answer.headers["Content-Encoding"] == "gzip":
                payload = gzip.decompress(payload)
            return answer.status, answer.headers, payload

    def ask(self, method: str, target: str, expected: int, body: bytes | None = None, path: str = "", **fields: str):
        """`path` is as in the document, where it has parameters."""
        status, headers, payload = self.fetch(method, target, body, **fields)
        assert status == expected, f"{method} {target}: {status} {payload!r}"
        path = path or target.partition("?")[0]
        response = self.document["paths"][path][method.lower()]["responses"][str(status)]
        response = self.resolve(response)
        for name, header in response.get("headers", {}).items():
            # OpenAPI's default is False; here a header is left out only where the document says so.
            is_required = self.resolve(header).get("required", True)
            assert name in headers or not is_required, f"{method} {target}: no {name}"
        self.seen.add((method, path, str(status)))
        if status == 204 or "content" not in response:
            assert not payload, f"{method} {target}: a body"
            return ""
        content = response["content"][headers["Content-Type"]]
        if headers["Content-Type"] in ("application/octet-stream", "application/x-protobuf"):
            return payload
        if headers["Content-Type"] != "application/json":
            return payload.decode()
        value = json.loads(payload, parse_constant=lambda word: sys.exit(f"{word} in {target}"))
        schema = {**content["schema"], "components": self.document["components"]}
        Draft202012Validator(strict(schema)).validate(value)
        return value

    def resolve(self, part: dict) -> dict:
        if "$ref" not in part:
            return part
        for name in part["$ref"].removeprefix("#/").split("/"):
            part = (self.document if name == "components" else part)[name]
        return part


def strict(schema):
    """Objects may have no fields that the document does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(part) for name, part in schema.items()}
    if "properties" in closed and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    return closed


def samples(families) -> dict:
    """By name and labels; bounds of buckets as numbers, which the formats write differently."""

    def key(sample):
        labels = {name: float(value) if name == "le" else value for name, value in sample.labels.items()}
        return sample.name, tuple(sorted(labels.items()))

    return {key(sample): sample.value for family in families for sample in family.samples}


def check_answers(client: Client) -> None:
    for path in ("/analyze", "/stats", "/devices", "/anomalies", "/latest"):
        client.ask("GET", path, 200)
    calm = [{"device": "a", "rps": 9 + 2 * (i % 2), HOSTILE: -0.5, "arrivedAt": 1} for i in range(12)]
    wild = {"device": HOSTILE, "timestamp": "2024-12-25T04:13:20.125Z", "rps": 1e15, "cpu": 0}
    lone = {"cpu": 12}
    for path, status in (("/ingest", 202), ("/metrics", 200)):
        for body in (calm, calm, lone, wild, {"metrics": [{**wild, "device": "a"}]}, {"rps": 1e15}):
            client.ask("POST", path, status, json.dumps(body).encode())
        client.ask("POST", path, status, b'[{"rps":1},{"rps":-1}]')
        for body in (b"", b"{", b"[]", b'{"rps":-1}', b'[{"rps":-1},{"cpu":"x"}]', b'{"a":"b"}'):
            client.ask("POST", path, 400, body)
        client.ask("POST", path, 413, b"[" + b'{"rps":1},' * 65536 + b'{"rps":1}]')
        client.ask("POST", path, 415, b"x", Content_Encoding="br")
    # A fleet of equal values, and one that differs.
    for target in ("/analyze", "/analyze?device=a", "/analyze?device=nobody&scope=local", "/stats"):
        client.ask("GET", target, 200)
    check_series(client)
    check_incidents(client)
    assert client.ask("GET", "/anomalies?since=1735100000", 200)["anomalies"]
    assert len(client.ask("GET", "/devices?sort=last_seen&limit=1", 200)["devices"]) == 1
    check_pages(client)
    check_history(client)
    assert client.ask("GET", "/latest?limit=1000", 200)["count"] > 30
    for target in (
        "/analyze?scope=moon",
        "/analyze?limit=0",
        f"/analyze?search={'x' * 1_025}",
        "/stats?device=",
        "/devices?limit=0",
        "/anomalies?since=x",
        "/latest?limit=a",
    ):
        client.ask("GET", target, 400)
    for path in ("/", "/page.css", "/page.js"):
        client.ask("GET", path, 200, Accept_Encoding="gzip")
    assert client.ask("GET", "/events", 200).startswith("id: ")
    assert client.ask("GET", "/events?device=a&series=rps&series=x", 200).startswith("id: ")
    client.ask("GET", "/events?device=", 400)
    client.ask("GET", f"/events?{'series=a&' * 9}", 400)
    for path in ("/health", "/healthz", "/livez", "/readyz", "/openapi.json"):
        client.ask("GET", path, 200, Accept_Encoding="gzip")


def check_pages(client: Client) -> None:
    """All devices, page by page, are those of one answer."""
    every = [row["device"] for row in client.ask("GET", "/devices?sort=device&limit=1000", 200)["devices"]]
    paged: list[str] = []
    after = ""
    while rows := (page := client.ask("GET", f"/devices?sort=device&limit=1{after}", 200))["devices"]:
        paged += [row["device"] for row in rows]
        after = f"&after={quote(page['next'], safe='')}"
    assert paged == every and len(every) > 1, (paged, every)
    client.ask("GET", "/devices?sort=device&after=", 400)
    client.ask("GET", "/devices?after=x", 400)


def check_history(client: Client) -> None:
    """Columns of one length, for the fleet and for a device that is asked for the first time."""
    for target, has_load in (("/history?points=60", True), ("/history?device=edge-17", False)):
        answer = client.ask("GET", target, 200)
        columns = [column for one in answer["series"].values() for column in one.values()]
        assert all(len(column) == len(answer["at"]) for column in columns)
        assert ("accepted" in answer) == has_load
    means = [value for one in answer["series"].values() for value in one["mean"]]
    assert any(value is not None for value in means), answer
    assert client.ask("GET", "/history?device=nobody", 200)["series"] == {}
    for query in ("from=x", "to=x", "points=0", "from=2000000000&to=1000000000", "device="):
        client.ask("GET", f"/history?{query}", 400)
    client.ask("GET", "/incidents.html", 200)
    client.ask("GET", "/incidents.html?scope=moon", 400)


def check_series(client: Client) -> None:
    """Metrics of agents, as the document's own examples give them; each series is found by a part of its name."""
    for path, status in (("/ingest", 202), ("/metrics", 200)):
        content = client.document["paths"][path]["post"]["requestBody"]["content"]
        for kind in content.values():
            schema = {**kind["schema"], "components": client.document["components"]}
            for example in kind.get("examples", {}).values():
                Draft202012Validator(schema).validate(example["value"])
                client.ask("POST", path, status, json.dumps(example["value"]).encode())
    for search, series in (
        ("USAGE_IDLE", 'cpu_usage_idle{cpu="cpu0"}'),
        ("load1", "host_load1"),
        ("memory", 'memory{type_instance="used"}'),
    ):
        found = client.ask("GET", f"/analyze?device=edge-17&search={search}", 200)
        assert list(found["metrics"]) == [series], found
    every = client.ask("GET", "/analyze?device=edge-17", 200)["metrics"]
    first = client.ask("GET", "/analyze?device=edge-17&limit=2", 200)
    assert len(first["metrics"]) == 2 and first["otherMetrics"] == len(every) - 2, first


def check_incidents(client: Client) -> None:
    for target in ("/incidents?state=open&severity=critical&device=a&limit=1&scope=cluster", "/silences"):
        client.ask("GET", target, 200)
    for target in ("/incidents?state=x", "/incidents?severity=x", "/incidents?after=x", "/silences?scope=x"):
        client.ask("GET", target, 400)
    client.ask("GET", "/incidents/01JFY09SVVZZZZZZZZZW000007", 404, path="/incidents/{id}")
    client.ask("GET", "/incidents/x?scope=x", 400, path="/incidents/{id}")
    is_json = {"Content-Type": "application/json; charset=utf-8"}
    content = client.document["paths"]["/silences"]["post"]["requestBody"]["content"]["application/json"]
    wanted = json.dumps(content["example"]).encode()
    silence = client.ask("POST", "/silences", 201, wanted, **is_json)
    assert client.ask("GET", "/silences", 200)["silences"] == [silence]
    for status in (204, 404):
        client.ask("DELETE", f"/silences/{silence['id']}", status, path="/silences/{id}")
        client.ask("DELETE", "/devices/a", status, path="/devices/{id}")
    ack = {"path": "/incidents/{id}/ack", **is_json}
    client.ask("POST", "/incidents/x/ack", 404, b"", **ack)
    for path, target in (
        ("/silences", "/silences"),
        ("/incidents/{id}/ack", "/incidents/01JFY09SVVZZZZZZZZZW000007/ack"),
    ):
        client.ask("POST", target, 400, b"[", path=path, **is_json)
        client.ask("POST", target, 413, b" " * 16_385, path=path, **is_json)
        client.ask("POST", target, 415, b"{}", path=path, **{"Content-Type": "text/plain"})
    for _ in range(1_024):
        client.ask("POST", "/silences", 201, wanted, **is_json)
    client.ask("POST", "/silences", 429, wanted, **is_json)


def check_influx(client: Client) -> None:
    for path in ("/write", "/api/v2/write", "/api/v3/write_lp"):
        client.ask("POST", path, 204, b"m,host=a v=1,w=2i 1735100000000000000")
        client.ask("POST", path, 400, b"m v=1\nm v=\nbroken")
        client.ask("POST", f"{path}?precision=year", 400, b"m v=1")
        client.ask("POST", path, 413, b"".join(b"m v=1 %d000\n" % moment for moment in range(65_537)))
    client.ask("POST", "/api/v3/write_lp?accept_partial=false", 400, b"m v=1\nm v=")
    client.ask("GET", "/ping", 204)
    client.ask("GET", "/ping?verbose=true", 200)
    for statement, status in (("CREATE+DATABASE+x", 200), ("SHOW+DATABASES", 200), ("SELECT+1", 400)):
        client.ask("GET", f"/query?q={statement}", status)
        client.ask("POST", "/query", status, f"q={statement}".encode())


def remote_write_body(moments: int) -> bytes:
    """One series of remote_write 1.0: a label, and a sample at each moment."""

    def field(number: int, payload: bytes) -> bytes:
        length, size = len(payload), b""
        while length >= 0x80:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + payload

    label = field(1, field(1, b"__name__") + field(2, b"m"))
    # A double, and a varint of milliseconds in three bytes.
    value = struct.pack("<Bd", 9, 1.0)
    stamps = (bytes([0x10, at & 0x7F | 0x80, at >> 7 & 0x7F | 0x80, at >> 14]) for at in range(1, moments + 1))
    return field(1, label + b"".join(field(2, value + stamp) for stamp in stamps))


def check_remote_write(client: Client) -> None:
    fields = {"Content-Type": "application/x-protobuf"}
    for moments, status in ((2, 204), (65_537, 413)):
        client.ask("POST", "/api/v1/write", status, remote_write_body(moments), **fields)
    client.ask("POST", "/api/v1/write", 400, b"\n", **fields)
    client.ask("POST", "/api/v1/write", 415, b"x", **{"Content-Type": "text/plain"})


def check_otlp(client: Client) -> None:
    json_type, protobuf = {"Content-Type": "application/json"}, {"Content-Type": "application/x-protobuf"}
    points = [{"asDouble": 1, "timeUnixNano": f"{moment}000000"} for moment in range(1, 65_538)]
    for count, status in ((1, 200), (len(points), 413)):
        metric = {"name": "m", "gauge": {"dataPoints": points[:count]}}
        body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}
        client.ask("POST", "/v1/metrics", status, json.dumps(body).encode(), **json_type)
    client.ask("POST", "/v1/metrics", 200, b"", **protobuf)
    client.ask("POST", "/v1/metrics", 400, b"{", **json_type)
    client.ask("POST", "/v1/metrics", 400, b"\n", **protobuf)
    client.ask("POST", "/v1/metrics", 415, b"x", **{"Content-Type": "text/plain"})


def check_exposition(client: Client) -> None:
    too_many = b"".join(b"m 1 %d\n" % moment for moment in range(65_537))
    for path in ("/metrics/job/{rest}", "/metrics/job@base64/{rest}"):
        name = path.replace("{rest}", "am9i")
        for method in ("POST", "PUT"):
            client.ask(method, name, 200, b"m 1\n", path)
            client.ask(method, name, 400, b"m\n", path)
            client.ask(method, name, 413, too_many, path)
        client.ask("DELETE", name, 202, path=path)
        client.ask("DELETE", f"{name}/a", 400, path=path)
        for method in ("POST", "PUT", "DELETE"):
            client.ask(method, name, 415, b"x", path, Content_Type="image/png")
    for query, status, body in (("", 204, b"m 1\n"), ("?extra_label=x", 400, b"m 1\n"), ("", 413, too_many)):
        client.ask("POST", f"/api/v1/import/prometheus{query}", status, body)
    client.ask("POST", "/api/v1/import/prometheus", 415, b"x", Content_Type="image/png")


def check_debug(client: Client) -> None:
    for path in ("/debug/pprof", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/threads?debug=1"):
        client.ask("GET", path, 200)
    for path in ("/debug/latency", "/debug/latency?format=text", "/debug/pprof/heap?debug=1"):
        client.ask("GET", path, 200)
    client.ask("GET", "/debug/latency?format=xml", 400)
    for path in ("/debug/pprof/threads", "/debug/pprof/goroutine", "/debug/pprof/heap", "/debug/pprof/allocs"):
        assert client.ask("GET", path, 200).startswith(b"\x1f\x8b"), "not gzip"
    for path in ("/debug/pprof/heap", "/debug/pprof/allocs"):
        client.ask("GET", f"{path}?seconds=1&debug=1", 400)
        with urllib.request.urlopen(f"{client.base}/debug/pprof/heap?seconds=1", timeout=60) as running:
            client.ask("GET", f"{path}?seconds=1", 409)
            assert running.read().startswith(b"\x1f\x8b"), "not gzip"
    for method, target, body in (("GET", "?0x1", None), ("POST", "", b"0x1")):
        client.ask(method, f"/debug/pprof/symbol{target}", 200, body)
    for path in ("/debug/pprof/profile", "/debug/pprof/flamegraph"):
        client.ask("GET", f"{path}?hz=x", 400)
        # One at a time, until its time is over.
        with urllib.request.urlopen(f"{client.base}/debug/pprof/profile?seconds=2", timeout=60) as running:
            client.ask("GET", path, 409)
            assert running.read().startswith(b"\x1f\x8b"), "not gzip"
        client.ask("GET", f"{path}?seconds=1", 200)


def check_scrape(client: Client) -> int:
    # A worker counts a response after it has sent it; this was the last one before.
    last = ("http_requests_total", (("code", "200"), ("method", "GET"), ("path", "/debug/pprof/flamegraph")))
    deadline = time.monotonic() + WAIT_S
    while last not in samples(parser.text_string_to_metric_families(client.ask("GET", "/metrics", 200))):
        assert time.monotonic() < deadline, f"{last} is not in /metrics"
    count = 0
    for path in ("/metrics", "/metrics/prometheus"):
        plain = samples(parser.text_string_to_metric_families(client.ask("GET", path, 200)))
        packed = client.ask("GET", path, 200, Accept=ACCEPT, Accept_Encoding="gzip")
        open_metrics = samples(openmetrics_parser.text_string_to_metric_families(packed))
        differing = plain.keys() ^ open_metrics.keys()
        assert not differing, f"{path}: only in one format: {differing}"
        assert open_metrics["anomalies_total", (("metric", HOSTILE),)] >= 0
        count = len(plain)
    return count


def guarded(document: dict) -> list[tuple[str, str]]:
    """Methods and paths that require a token when it is set."""
    paths = document["paths"].items()
    return [(method.upper(), path) for path, item in paths for method in item if "security" in item[method]]


def main() -> None:
    with bench.sigmad() as (_, port):
        client = Client(port)
        validate(client.document)
        check_answers(client)
        check_influx(client)
        check_remote_write(client)
        check_otlp(client)
        check_exposition(client)
        check_debug(client)
        count = check_scrape(client)
    with bench.sigmad(
        "--ingest-token", "w", "--read-token", "r", "--debug-token", "d", "--operator-token", "o", "--max-streams", "1"
    ) as (
        _,
        port,
    ):
        client_with_tokens = Client(port)
        client_with_tokens.seen = client.seen
        for method, path in guarded(client.document):
            client_with_tokens.ask(method, path, 401)
        for path, status in (("/ingest", 202), ("/metrics", 200)):
            fields = {"Authorization": "Bearer w"}
            client_with_tokens.ask("POST", path, status, b'{"device":"a","rps":1}', **fields)
            client_with_tokens.ask("POST", path, 429, b'{"device":"b","rps":1}', **fields)
            client_with_tokens.ask("POST", path, 429, b'[{"device":"b","rps":1}]', **fields)
    # Past ten wrong tokens of one address the answer is 429: a process for each ten.
    operations = guarded(client.document)
    for first in range(0, len(operations), 10):
        with bench.sigmad(
            "--ingest-token", "w", "--read-token", "r", "--debug-token", "d", "--operator-token", "o"
        ) as (_, port):
            client_with_tokens = Client(port)
            client_with_tokens.seen = client.seen
            for method, path in operations[first : first + 10]:
                client_with_tokens.ask(method, path, 403, Authorization="Bearer x")
    described = {
        (method.upper(), path, status)
        for path, item in client.document["paths"].items()
        for method, operation in item.items()
        for status in operation["responses"]
        # Of overload, slow clients and draining: other suites see to those.
        if status not in ("503", "408", "default")
    }
    # An incident needs 150 intervals of past: tests/server/incidents.rs sees to it.
    described -= {("GET", "/incidents/{id}", "200")} | {
        ("POST", "/incidents/{id}/ack", code) for code in ("200", "409")
    }
    assert described <= client.seen, f"described and never seen: {described - client.seen}"
    print(f"formats: ok, {count} samples in both formats, {len(client.seen)} kinds of answers")


if __name__ == "__main__":
    main()
