#!/usr/bin/env python3
"""Does every server that PERF.md compares do the work that it is measured by?

Each rung of the ladder, the servers beside it and both baselines get the same samples: in all the ways
in which a body may come, of devices and of none. The windows that /analyze then tells must be those
computed here; what is wrong must be refused, and be in no window.

    tests/ladder.py [NAME]...    # LADDER: where ladder and baseline lie; BASELINE_GO: where to build the Go server
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))
import bench

FOLDER = Path(os.environ.get("LADDER", bench.ROOT / "target" / "debug"))
BASELINE_GO = Path(os.environ.get("BASELINE_GO", bench.ROOT / "target" / "go" / "baseline")).absolute()
START_TIMEOUT_S = 30
# To fetch its modules, and to build.
GO_TIMEOUT_S = 600
WINDOW = 50


def sample(number: int, device: str | None) -> dict:
    fields = {"timestamp": 1735100000 + number, "cpu": 40 + number % 7 + 0.5, "rps": 2000 + number % 13}
    return fields if device is None else {**fields, "device": device}


class Client:
    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def close(self) -> None:
        self.connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        self.connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = self.connection.getresponse()
        return response.status, response.read()

    def post(self, path: str, body: object) -> tuple[int, dict]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answer = self.ask("POST", path, raw)
        return status, json.loads(answer)

    def analyze(self, device: str | None = None) -> dict:
        status, answer = self.ask("GET", "/analyze" + (f"?device={device}" if device else ""))
        assert status == 200, (status, answer)
        return json.loads(answer)


def check_window(found: dict, values: list[float], name: str) -> None:
    window = values[-WINDOW:]
    mean = math.fsum(window) / len(window)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in window) / len(window))
    assert found["count"] == len(window), (name, found, len(window))
    assert math.isclose(found["mean"], mean, rel_tol=1e-9), (name, found, mean)
    assert math.isclose(found["stdDev"], deviation, rel_tol=1e-6, abs_tol=1e-9), (name, found, deviation)
    assert found["last"] == window[-1], (name, found)


def check(client: Client) -> int:
    sent: list[dict] = []

    def good(path: str, samples: list[dict], body: object) -> None:
        status, answer = client.post(path, body)
        assert status == (202 if path == "/ingest" else 200), (path, status, answer)
        assert answer == {"status": "accepted", "accepted": len(samples)}, answer
        sent.extend(samples)

    status, answer = client.ask("GET", "/healthz")
    assert status == 200, (status, answer)
    assert client.analyze()["count"] == 0
    numbers = iter(range(1_000_000))
    for path in ("/ingest", "/metrics"):
        for device in (None, "edge-1"):
            one = sample(next(numbers), device)
            good(path, [one], one)
        many = [sample(next(numbers), ("edge-1", "edge-2", None)[n % 3]) for n in range(90)]
        good(path, many, many)
        good(path, many, {"metrics": many})
        lines = [sample(next(numbers), "edge-2") for _ in range(5)]
        good(path, lines, "\n".join(json.dumps(line) for line in lines).encode() + b"\n")
    good("/ingest", [{"rps": 2100, "device": "edge-3"}], {"rps": 2100, "device": "edge-3"})

    for body in (b"", b"{", b"[]", b'{"rps":"much"}', b'{"rps":-1}', b'{"timestamp":1735100000}', b"[1]", b'{"rps":1'):
        status, answer = client.post("/ingest", body)
        assert status == 400 and ("error" in answer or "errors" in answer), (body, status, answer)

    devices = [None, "edge-1", "edge-2", "edge-3"]
    for device in devices:
        of_device = [one for one in sent if device is None or one.get("device") == device]
        report = client.analyze(device)
        for metric in ("cpu", "rps"):
            values = [one[metric] for one in of_device if metric in one]
            if values:
                check_window(report["metrics"][metric], values, f"{device} {metric}")
            else:
                assert metric not in report["metrics"], report
        assert report["totalCount"] == len(of_device), (device, report)
        assert report["lastRps"] == of_device[-1]["rps"], report
        if device != "edge-3" and device is not None:
            assert report["lastTimestamp"] == of_device[-1]["timestamp"], report
    assert client.analyze("nobody")["count"] == 0

    # One that stands out, and another of no device, told by the fleet's window.
    for device in ("edge-1", None):
        before = client.analyze(device)["anomalyCount"]
        outlier = {**sample(next(numbers), device), "rps": 9000}
        good("/ingest", [outlier], outlier)
        report = client.analyze(device)
        assert report["isAnomaly"] and report["zScore"] > 2 and report["anomalyCount"] == before + 1, report

    status, text = client.ask("GET", "/metrics")
    assert status == 200
    counted = re.search(rb'^ingest_samples_total\{result="accepted"\} (\d+)', text, re.MULTILINE)
    assert counted and int(counted.group(1)) == len(sent), (counted, len(sent))
    requests = rb'^http_requests_total\{(?=[^}]*path="/ingest")(?=[^}]*code="202")(?=[^}]*method="POST")[^}]*\} (\d+)'
    counted = re.search(requests, text, re.MULTILINE)
    assert counted and int(counted.group(1)) == 8, counted
    return len(sent)


def send_thirty(client: Client) -> None:
    good = client.post("/ingest", [sample(n, f"edge-{n % 3}") for n in range(30)])
    assert good == (202, {"status": "accepted", "accepted": 30}), good


def start_line(child: subprocess.Popen) -> tuple[int, list[str]]:
    alarm = threading.Timer(START_TIMEOUT_S, child.kill)
    alarm.start()
    lines = []
    port = None
    for line in child.stderr:
        lines.append(line)
        found = re.search(r"listening on 127\.0\.0\.1:([1-9]\d*)", line)
        if found:
            port = int(found.group(1))
            break
    alarm.cancel()
    assert port, "did not start:\n" + "".join(lines)
    threading.Thread(target=lambda: lines.extend(child.stderr), daemon=True).start()
    return port, lines


def run(command: list[str], redis_port: int) -> str:
    with bench.running([*command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True) as child:
        port, _ = start_line(child)
        with contextlib.closing(Client(port)) as client:
            samples = check(client)
    command = [*command, "--listen", "127.0.0.1:0", "--redis-url", f"redis://127.0.0.1:{redis_port}"]
    subprocess.run(["redis-cli", "-p", str(redis_port), "FLUSHALL"], check=True, stdout=subprocess.DEVNULL)
    with bench.running(command, stderr=subprocess.PIPE, text=True) as child:
        port, _ = start_line(child)
        with contextlib.closing(Client(port)) as client:
            send_thirty(client)
        keys = wait_for_keys(redis_port)
    return f"{samples} samples; {keys} keys in Redis"


def wait_for_keys(port: int) -> int:
    """Three devices; sigmad's own layout has more keys."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        deadline = time.monotonic() + 20
        while True:
            client.sendall(b"*1\r\n$6\r\nDBSIZE\r\n")
            keys = int(client.recv(64)[1:].split(b"\r\n")[0])
            if keys >= 3:
                return keys
            assert time.monotonic() < deadline, f"{keys} keys in Redis"
            time.sleep(0.02)


def built_in_go() -> Path:
    """The Go server, built here."""
    sources = bench.ROOT / "benches" / "baseline" / "go"
    if not shutil.which("go"):
        sys.exit("go is missing: scripts/setup.sh installs it")
    command = ["go", "build", "-buildvcs=false", "-o", str(BASELINE_GO), "."]
    if subprocess.run(command, cwd=sources, check=False, timeout=GO_TIMEOUT_S).returncode != 0:
        sys.exit("baseline-go does not build, or its modules can't be had from here")
    return BASELINE_GO


def main() -> None:
    listed = subprocess.run([FOLDER / "ladder", "--list"], check=True, capture_output=True, text=True)
    rungs = json.loads(listed.stdout)
    numbers = [rung["number"] for rung in rungs if rung["number"] is not None]
    assert numbers == list(range(len(numbers))) and len(numbers) >= 9, numbers
    servers = {rung["name"]: [str(FOLDER / "ladder"), "--rung", rung["name"]] for rung in rungs}
    servers["baseline-alone"] = [str(FOLDER / "baseline")]
    servers["baseline-go"] = [str(built_in_go())]
    wanted = sys.argv[1:] or list(servers)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="sigmad-ladder-") as folder, bench.redis(Path(folder)) as redis_port:
        for name in wanted:
            try:
                print(f"{name}: ok, {run(servers[name], redis_port)}", flush=True)
            except (AssertionError, OSError, KeyError, ValueError, http.client.HTTPException) as error:
                failures += 1
                print(f"{name}: FAILED: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
