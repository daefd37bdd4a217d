#!/usr/bin/env python3
"""The OpenTelemetry Collector (built from main.go) between Python's exporter and sigmad.

It runs with the recipe of examples/connect, but for the ports. Its receiver takes what Python's exporter sends, and
`otlphttp` passes it on, in each coding and compression, while sigmad is killed and started again: every value, device
and time is what was sent, to the last one.
`make sender SENDER=collector` runs it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent.parent / "benches"))

import arrival
import bench
import golang
import otlp
from opentelemetry.exporter.otlp.proto.http import Compression

HERE = Path(__file__).resolve().parent
RECIPE = bench.ROOT / "examples" / "connect" / "otel-collector.yaml"
# Coding and compression, as the exporter calls them.
WAYS = [("proto", "gzip"), ("proto", "zstd"), ("proto", "none"), ("json", "gzip"), ("json", "zstd")]
WAIT_S = 60
# Its own metrics are served on a fixed port unless they are off.
QUIET = {"metrics": {"level": "none"}}


def changes(receiver: int, port: int, encoding: str, compression: str) -> dict:
    """What is other than in the recipe."""
    exporter = {
        "metrics_endpoint": f"http://127.0.0.1:{port}/v1/metrics",
        "encoding": encoding,
        "compression": compression,
        "retry_on_failure": {"initial_interval": "100ms", "max_interval": "500ms"},
    }
    return {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{receiver}"}}}},
        "exporters": {"otlphttp": exporter},
        "service": {"telemetry": QUIET},
    }


def arrived(port: int) -> set[tuple[str, str, float, int]]:
    return {value for value in otlp.latest(port) if value[1].startswith("load{")}


def passed_on(program: str, encoding: str, compression: str) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        receiver, port = bench.free_port(), bench.free_port()
        (folder / "changes.yaml").write_text(json.dumps(changes(receiver, port, encoding, compression)))
        log = (folder / "log").open("w")
        sent: set[tuple[str, str, float, int]] = set()

        def send(name: str) -> None:
            exporter = otlp.send(receiver, name, Compression.Gzip)
            assert all(result.name == "SUCCESS" for result in exporter.results), exporter.results
            sent.update(exporter.sent)

        def wait_for_all(before: set) -> set:
            return arrival.wait_for_all(sent, before, lambda: arrived(port))

        with bench.sigmad(listen=f"127.0.0.1:{port}") as (child, _):
            command = [program, f"--config={RECIPE}", f"--config={folder / 'changes.yaml'}"]
            collector = stack.enter_context(bench.running(command, stderr=log))
            bench.wait_for_listener(receiver, WAIT_S)
            send("host-0")
            before = wait_for_all(set())
            child.send_signal(signal.SIGKILL)
            child.wait()
        send("host-1")

        def retried() -> bool:
            return "Will retry the request" in (folder / "log").read_text()

        arrival.wait_for("the Collector retries", retried)
        with bench.sigmad(listen=f"127.0.0.1:{port}"):
            send("host-2")
            after = wait_for_all(before)
        assert collector.poll() is None, (folder / "log").read_text()
    print(f"  {encoding}, {compression}: {len(before)} values before sigmad was killed, {len(after)} after", flush=True)


def main() -> None:
    program = golang.build(HERE)
    for encoding, compression in WAYS:
        passed_on(program, encoding, compression)


if __name__ == "__main__":
    main()
