#!/usr/bin/env python3
"""The real Prometheus: what it scrapes of fifty hosts arrives by remote_write, to the last value.

An exporter of this test plays the hosts, each with a gauge, a counter and a disk; one of them also serves what a real
node_exporter said (fixtures/node_exporter.txt, version 1.5.0). sigmad is killed and started again meanwhile:
Prometheus drops nothing, and every value is with the one process or the other. A spike in the rate of one host's
counter is an anomaly of that host and series; the reset of another's is none.
`make senders` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import signal
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benches"))

import arrival
import bench

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "node_exporter.txt"
HOSTS = [f"host-{number:02}" for number in range(50)]
SPIKING, RESET = HOSTS[17], HOSTS[31]
COUNTER = 'requests_total{job="demo"}'
GAUGE = 'temperature{job="demo"}'
# Per scrape; a spike adds as much at once as a hundred of them.
STEP = 100
# A bound for each condition that is waited for.
WAIT_S = 120.0


class Exporter:
    """Fifty hosts: /host-07 is what one of them says."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.scrapes = dict.fromkeys(HOSTS, 0)
        self.counters = dict.fromkeys(HOSTS, 0)
        self.is_down = False
        self.node_exporter = FIXTURE.read_text()

    def text(self, host: str) -> str | None:
        with self.lock:
            if self.is_down:
                return None
            self.scrapes[host] += 1
            scrape = self.scrapes[host]
            self.counters[host] += STEP + scrape * 7 % 11
            lines = [
                "# TYPE requests_total counter",
                f"requests_total {self.counters[host]}",
                "# TYPE temperature gauge",
                f"temperature {scrape + HOSTS.index(host) / 100}",
                "# TYPE disk_busy gauge",
                f'disk_busy{{device="sda"}} {scrape % 10}',
            ]
            return "\n".join(lines) + "\n" + (self.node_exporter if host == HOSTS[0] else "")

    @contextlib.contextmanager
    def serving(self):
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = exporter.text(self.path.strip("/"))
                # Prometheus gives up a scrape after a second.
                with contextlib.suppress(ConnectionError):
                    self.send_response(503 if text is None else 200)
                    self.send_header("Content-Type", "text/plain; version=0.0.4")
                    self.end_headers()
                    self.wfile.write((text or "").encode())

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def configuration(exporter: int, sigmad: int) -> str:
    targets = [
        {"targets": [f"127.0.0.1:{exporter}"], "labels": {"__metrics_path__": f"/{host}", "instance": host}}
        for host in HOSTS
    ]
    url = f"http://127.0.0.1:{sigmad}/api/v1/write"
    # YAML takes JSON.
    return json.dumps(
        {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "demo", "static_configs": targets}],
            "remote_write": [{"url": url, "queue_config": {"batch_send_deadline": "1s", "max_backoff": "1s"}}],
        }
    )


class Prometheus:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict]:
        url = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]["result"]

    def stored(self, metric: str) -> set[tuple[str, int, float]]:
        """Host, milliseconds and value of all that it has scraped."""
        return {
            (row["metric"]["instance"], round(seconds * 1000), float(value))
            for row in self.query(f"{metric}[1h]")
            for seconds, value in row["values"]
        }

    def counter(self, name: str) -> float:
        """The sum of one of its own counters."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert found, name
        return sum(map(float, found))


def arrived(port: int, series: str) -> set[tuple[str, int, float]]:
    """The same as sigmad has it."""
    found = set()
    for host in HOSTS:
        for sample in bench.get_json(port, f"/latest?device={host}&limit=1000")["samples"]:
            if series in sample:
                found.add((host, round(sample["timestamp"] * 1000), sample[series]))
    return found


def wait_for(what: str, condition: Callable[[], object]) -> object:
    return arrival.wait_for(what, condition, WAIT_S)


def check_all_arrive(prometheus: Prometheus, port: int, before: set) -> set:
    """All that Prometheus has stored is with sigmad or in `before`."""

    def complete() -> set | None:
        stored = prometheus.stored("temperature")
        missing = stored - before - arrived(port, GAUGE)
        return stored if stored and not missing else None

    return wait_for("every value of temperature arrives", complete)


def check_devices(port: int) -> None:
    devices = {row["device"] for row in bench.get_json(port, "/devices?limit=1000")["devices"]}
    assert devices == set(HOSTS), devices ^ set(HOSTS)


def anomalies(port: int, host: str) -> list[dict]:
    return [
        each
        for each in bench.get_json(port, f"/anomalies?device={host}&limit=1000")["anomalies"]
        if each["metric"] == COUNTER
    ]


def check_rates(exporter: Exporter, port: int) -> None:
    """A spike is an anomaly, a reset is none."""

    def warm() -> bool:
        wait_for_scrapes(exporter, 1)
        windows = bench.get_json(port, f"/analyze?device={SPIKING}")["metrics"]
        return windows.get(COUNTER, {}).get("count", 0) >= 15

    wait_for("15 rates of the counter", warm)
    with exporter.lock:
        exporter.counters[SPIKING] += 100 * STEP
        exporter.counters[RESET] = 0
    # A rate of the usual scrapes is about STEP, and at most STEP times the seconds of one that came late.
    spikes = wait_for(
        "the spike is an anomaly", lambda: [each for each in anomalies(port, SPIKING) if each["value"] > 20 * STEP]
    )
    assert len(spikes) == 1, spikes
    wait_for_scrapes(exporter, 3)
    for each in anomalies(port, RESET):
        assert 0 <= each["value"] <= 20 * STEP, each


def wait_for_scrapes(exporter: Exporter, count: int) -> None:
    before = dict(exporter.scrapes)
    wait_for(f"{count} scrapes", lambda: all(exporter.scrapes[host] >= before[host] + count for host in HOSTS))


def main() -> None:
    exporter = Exporter()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sigmad-prometheus-")))
        port, own = bench.free_port(), bench.free_port()
        scraped = stack.enter_context(exporter.serving())
        (folder / "prometheus.yml").write_text(configuration(scraped, port))
        first = contextlib.ExitStack()
        stack.push(first)
        child, _ = first.enter_context(bench.sigmad(listen=f"127.0.0.1:{port}"))
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
        command += [f"--web.listen-address=127.0.0.1:{own}"]
        stack.enter_context(bench.running(command, stderr=(folder / "prometheus.log").open("w")))
        bench.wait_for_listener(own, 60)
        prometheus = Prometheus(own)

        wait_for_scrapes(exporter, 5)
        exporter.is_down = True
        before = check_all_arrive(prometheus, port, set())
        child.send_signal(signal.SIGKILL)
        child.wait()
        first.close()
        exporter.is_down = False
        wait_for_scrapes(exporter, 3)
        stack.enter_context(bench.sigmad(listen=f"127.0.0.1:{port}"))
        check_all_arrive(prometheus, port, before)
        check_rates(exporter, port)
        exporter.is_down = True
        stored = check_all_arrive(prometheus, port, before)
        check_devices(port)
        for name in ("samples_failed_total", "samples_dropped_total", "metadata_failed_total"):
            assert prometheus.counter(f"prometheus_remote_storage_{name}") == 0, name
    print(f"prometheus: {len(stored)} values of {len(HOSTS)} hosts arrived, sigmad killed once; a spike found")


if __name__ == "__main__":
    main()
