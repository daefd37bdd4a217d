#!/usr/bin/env python3
"""The recipes of docs/CONNECT.md that can run here, against the real binary, and bodies of those that cannot.

The programs of examples/connect in Python, Go and sh run as they are; collectd runs with its snippet, and promtool
checks that of Prometheus. Telegraf and the Collector load theirs in `make verify-long`. The bodies in fixtures/connect
are as the agents' documentation gives them, and curl replays them.
`make senders` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benches"))

import arrival
import bench
import golang

CONNECT = bench.ROOT / "examples" / "connect"
FIXTURES = Path(__file__).resolve().parent / "fixtures" / "connect"
HOST = socket.gethostname()
# Device, milliseconds, series, value: all that a body must bring.
EXPECTED = {
    "vector.json": [
        ("edge-17", 1735100000123, 'host_load1{collector="load"}', 0.75),
        ("edge-17", 1735100000123, 'host_memory_free_bytes{collector="memory"}', 1234567168.0),
    ],
    "fluent-bit.ndjson": [
        ("edge-17", 1735100000250, "cpu_p", 1.75),
        ("edge-17", 1735100000250, "cpu0.p_cpu", 2.0),
        ("edge-17", 1735100001250, "cpu_p", 2.25),
    ],
    "powershell.json": [("edge-17", 1735100000123, "cpu", 12.5)],
    "telegraf.json": [
        ("edge-17", 1735100000000, 'cpu_usage_idle{cpu="cpu-total"}', 91.5),
        ("edge-17", 1735100000000, 'cpu_usage_user{cpu="cpu-total"}', 4.25),
        ("edge-17", 1735100000000, 'disk_free{device="sda1",path="/"}', 7),
    ],
}


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def latest(port: int) -> list[dict]:
    return bench.get_json(port, "/latest?limit=1000")["samples"]


def replayed(port: int) -> None:
    """Bodies of agents that cannot run here."""
    for name, expected in EXPECTED.items():
        url = f"http://127.0.0.1:{port}/ingest"
        answer = run("curl", "-sS", "--fail-with-body", url, "--data-binary", f"@{FIXTURES / name}")
        assert '"accepted"' in answer, f"{name}: {answer}"
        seen = {
            (sample.get("device"), round(sample["timestamp"] * 1000), series, value)
            for sample in latest(port)
            for series, value in sample.items()
            if series not in ("timestamp", "device", "arrivedAt")
        }
        missing = [value for value in expected if value not in seen]
        assert not missing, f"{name}: {missing} not in {sorted(seen, key=str)}"
        print(f"  {name}: as sent")


def programs(port: int) -> None:
    """The programs of examples/connect."""
    url = f"http://127.0.0.1:{port}/ingest"
    with tempfile.TemporaryDirectory() as scratch:
        zone = Path(scratch) / "temp"
        zone.write_text("48312\n")
        for command, series in (
            ([sys.executable, str(CONNECT / "sample.py"), url, "2"], "load1"),
            ([golang.go(), "run", str(CONNECT / "go" / "sample.go"), url], "goroutines"),
            ([str(CONNECT / "raspberry-pi.sh"), url, str(zone)], "temperature"),
        ):
            print(f"  {Path(command[-2]).name}: {run(*command).strip()}")
            found = [sample for sample in latest(port) if series in sample and sample["device"] == HOST]
            assert found, f"{series} of {HOST} has not arrived"
    assert any(sample.get("temperature") == 48.312 for sample in latest(port))


def collectd(port: int) -> None:
    """collectd with its snippet, at a shorter interval; its plugin csv says which values it has sent."""
    program = shutil.which("collectd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "collectd is missing: scripts/setup.sh installs it (Debian package collectd-core)"
    with tempfile.TemporaryDirectory() as scratch:
        csv = f'LoadPlugin csv\n<Plugin csv>\n  DataDir "{scratch}/csv"\n</Plugin>'
        config = (CONNECT / "collectd.conf").read_text()
        for before, after in (
            ("Interval 10", f'Interval 1\nHostname "collectd-host"\nBaseDir "{scratch}"\nPIDFile "{scratch}/pid"'),
            ("LoadPlugin write_http", f"LoadPlugin write_http\n{csv}"),
            ("http://localhost:8080", f"http://127.0.0.1:{port}"),
            ('    Format "JSON"', '    Format "JSON"\n    BufferSize 1024'),
        ):
            assert before in config
            config = config.replace(before, after)
        path = Path(scratch) / "collectd.conf"
        path.write_text(config)
        log = Path(scratch) / "log"
        command = [program, "-f", "-C", str(path)]
        with log.open("w") as file, bench.running(command, stdout=file, stderr=file) as child:
            rates = 'cpu{plugin_instance="0",type_instance="idle"}'

            def three() -> bool:
                assert child.poll() is None, f"collectd ended: {log.read_text()}"
                return len(of_collectd(port, rates)) >= 3

            arrival.wait_for("three rates of collectd arrive", three)
        # It sends what it has before it ends.
        for series, folder in (("load_shortterm", "load/load"), ('memory{type_instance="free"}', "memory/memory-free")):
            sent = csv_values(Path(scratch), folder)
            assert len(sent) >= 3, sent
            arrival.wait_for(f"{series}: {sent}", lambda sent=sent, series=series: of_collectd(port, series) == sent)
    print("  collectd: gauges as sent, and rates")


def of_collectd(port: int, series: str) -> list[tuple[int, float]]:
    """Milliseconds and values to six decimals, as the plugin csv writes them; oldest first."""
    samples = bench.get_json(port, "/latest?device=collectd-host&limit=1000")["samples"]
    return sorted(
        (round(sample["timestamp"] * 1000), round(sample[series], 6)) for sample in samples if series in sample
    )


def csv_values(scratch: Path, prefix: str) -> list[tuple[int, float]]:
    """The same as collectd has written it: a head, then a line a value; a file a day."""
    lines = [
        line.split(",")
        for path in (scratch / "csv" / "collectd-host").glob(f"{prefix}-20*")
        for line in path.read_text().splitlines()[1:]
    ]
    return sorted((round(float(line[0]) * 1000), float(line[1])) for line in lines)


def prometheus(_port: int) -> None:
    said = run("promtool", "check", "config", str(CONNECT / "prometheus.yml"))
    print(f"  prometheus.yml:{said.split('prometheus.yml')[-1].rstrip()}")


def main() -> None:
    for check in (replayed, programs, collectd, prometheus):
        with bench.sigmad() as (_, port):
            check(port)


if __name__ == "__main__":
    main()
