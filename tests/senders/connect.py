#!/usr/bin/env python3
"""The recipes of docs/CONNECT.md that can run here, against the real binary, and bodies of those that cannot.

The programs of examples/connect in Python, Go and sh run as they are; collectd runs with its snippet, where it is
installed. The bodies in fixtures/connect are as the agents' documentation gives them, and curl replays them.
`make senders` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benches"))

import bench

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
    go = shutil.which("go") or str(bench.ROOT / ".venv" / "bin" / "go")
    with tempfile.TemporaryDirectory() as scratch:
        zone = Path(scratch) / "temp"
        zone.write_text("48312\n")
        for command, series in (
            ([sys.executable, str(CONNECT / "sample.py"), url, "2"], "load1"),
            ([go, "run", str(CONNECT / "go" / "sample.go"), url], "goroutines"),
            ([str(CONNECT / "raspberry-pi.sh"), url, str(zone)], "temperature"),
        ):
            print(f"  {Path(command[-2]).name}: {run(*command).strip()}")
            found = [sample for sample in latest(port) if series in sample and sample["device"] == HOST]
            assert found, f"{series} of {HOST} has not arrived"
    assert any(sample.get("temperature") == 48.312 for sample in latest(port))


def collectd(port: int) -> None:
    """collectd with its snippet, at a shorter interval."""
    program = shutil.which("collectd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        print("  collectd is not installed: left out")
        return
    with tempfile.TemporaryDirectory() as scratch:
        config = (CONNECT / "collectd.conf").read_text()
        for before, after in (
            ("Interval 10", f'Interval 1\nHostname "collectd-host"\nBaseDir "{scratch}"\nPIDFile "{scratch}/pid"'),
            ("http://localhost:8080", f"http://127.0.0.1:{port}"),
            ('    Format "JSON"', '    Format "JSON"\n    BufferSize 1024'),
        ):
            assert before in config
            config = config.replace(before, after)
        path = Path(scratch) / "collectd.conf"
        path.write_text(config)
        tested = subprocess.run([program, "-t", "-C", str(path)], capture_output=True, text=True, timeout=60)
        if tested.returncode != 0:
            # Debian's collectd-core only suggests the libraries of write_http.
            print(f"  collectd is left out: {tested.stderr.strip()}")
            return
        with bench.running([program, "-f", "-C", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            deadline = time.monotonic() + 60
            wanted = {"load_shortterm", 'memory{type_instance="free"}', 'cpu{plugin_instance="0",type_instance="idle"}'}
            while True:
                found = {
                    series
                    for sample in latest(port)
                    if sample.get("device") == "collectd-host"
                    for series, value in sample.items()
                }
                if wanted <= found:
                    break
                assert time.monotonic() < deadline, f"{wanted - found} of collectd have not arrived: {sorted(found)}"
                time.sleep(0.1)
    print("  collectd: gauges and rates")


def main() -> None:
    for check in (replayed, programs, collectd):
        with bench.sigmad() as (_, port):
            check(port)


if __name__ == "__main__":
    main()
