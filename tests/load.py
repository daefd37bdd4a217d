#!/usr/bin/env python3
"""Every script in load/, once, for a second or two: it ends well, and the server counts what it sent.

What asks as fast as it can may be answered 503 where the server gets no core for long; what keeps a
rate may not.

`make load` runs it; SIGMAD names the binary, LOAD_TOOLS the tools. k6 has no Debian package and takes minutes to build,
so only `make verify-long` runs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench

LOAD = bench.ROOT / "load"
SECONDS = int(os.environ.get("LOAD_SECONDS", "1"))
CONNECTIONS = 4
RATE = 200
# Locust takes a second or two to bring up its users.
LOCUST_SECONDS = SECONDS + 3
BATCHES = (1, 10)


def run(command: list[str], port: int, **variables: int) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "URL": f"http://127.0.0.1:{port}/ingest",
        "DURATION": str(SECONDS),
        "CONNECTIONS": str(CONNECTIONS),
        **{name: str(value) for name, value in variables.items()},
    }
    return subprocess.run(command, capture_output=True, text=True, timeout=60 + SECONDS, check=False, env=environment)


def output(command: list[str], port: int, **variables: int) -> str:
    done = run(command, port, **variables)
    assert done.returncode == 0, f"{command[0]}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def counter(scrape: str, family: str, **labels: str) -> int:
    total = 0
    for line in scrape.splitlines():
        found = re.match(rf"{family}\{{(.*)\}} (\d+)$", line)
        if found and all(f'{name}="{value}"' in found.group(1) for name, value in labels.items()):
            total += int(found.group(2))
    return total


def counts(port: int) -> tuple[int, int, int, int]:
    """POSTs to /ingest answered with 202, with 503, with anything else; samples accepted."""
    answer = bench.exchange(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").decode()
    posts = {"method": "POST", "path": "/ingest"}
    good, busy = (counter(answer, "http_requests_total", code=code, **posts) for code in ("202", "503"))
    every = counter(answer, "http_requests_total", **posts)
    return good, busy, every - good - busy, counter(answer, "ingest_samples_total", result="accepted")


def hey(port: int, batch: int) -> None:
    for rate in ({}, {"RATE": RATE}):
        report = output([str(LOAD / "hey.sh")], port, BATCH=batch, **rate)
        codes = set(re.findall(r"\[(\d+)\]\s+\d+ responses", report))
        assert "202" in codes and codes <= {"202", "503"}, report
        assert "Error distribution" not in report, report
        if rate:
            assert codes == {"202"}, report
            per_s = float(re.search(r"Requests/sec:\s+([\d.]+)", report).group(1))
            assert per_s < 1.5 * RATE, report


def ab(port: int, batch: int) -> None:
    report = output([str(LOAD / "ab.sh")], port, BATCH=batch)
    assert re.search(r"Failed requests: +0\b", report), report


def wrk(port: int, batch: int) -> None:
    script, url = str(LOAD / "wrk.lua"), f"http://127.0.0.1:{port}/ingest"
    for pipeline in (1, 4):
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", script, url]
        report = output(command, port, BATCH=batch, PIPELINE=pipeline)
        assert re.search(r"good: [1-9]\d*, \d+/s; other answers: \d+; lost: 0", report), report


def locust(port: int, batch: int) -> None:
    command = [sys.executable, "-m", "locust", "-f", str(LOAD / "locustfile.py"), "--headless", "--only-summary"]
    command += ["-u", str(CONNECTIONS), "-r", str(CONNECTIONS), "-t", f"{LOCUST_SECONDS}s"]
    # Locust exits 1 when any request has failed.
    output([*command, "--host", f"http://127.0.0.1:{port}"], port, BATCH=batch, RATE=RATE)


def k6(port: int, batch: int) -> None:
    for rate in (0, RATE):
        options = {"URL": f"http://127.0.0.1:{port}/ingest", "DURATION": SECONDS, "CONNECTIONS": CONNECTIONS}
        options |= {"BATCH": batch, "RATE": rate}
        flags = [flag for name, value in options.items() for flag in ("-e", f"{name}={value}")]
        command = ["k6", "run", "--quiet", "--no-usage-report", *flags, str(LOAD / "k6.js")]
        done = run(command, port)
        # k6 exits 99 when a threshold of the script was crossed: a busy machine misses the rate, and is told so.
        crossed = re.findall(r"thresholds on metrics '([^']*)' have been crossed", done.stderr)
        assert (done.returncode, crossed) in ((0, []), (99, ["dropped_iterations"])), done.stdout + done.stderr


KEEP_A_RATE = {"locust"}
TOOLS = {"hey": hey, "ab": ab, "wrk": wrk, "locust": locust, "k6": k6}


def main() -> None:
    wanted = os.environ.get("LOAD_TOOLS", "hey ab wrk locust").split()
    missing = [program for program in wanted if not shutil.which(program)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)} (`scripts/setup.sh long` does that)")
    for name in wanted:
        for batch in BATCHES:
            with bench.sigmad() as (_child, port):
                TOOLS[name](port, batch)
                good, busy, bad, samples = counts(port)
            refused = f", {busy} answered with 503" if busy else ""
            print(f"{name}: {good} requests with {batch} sample(s) each{refused}", flush=True)
            assert good > 0 and bad == 0, f"{name}: {good} answered with 202, {bad} with neither 202 nor 503"
            assert name not in KEEP_A_RATE or busy == 0, f"{name}: {busy} answered with 503"
            assert samples == good * batch, f"{name}: {samples} samples in {good} requests"
    print(f"load: {', '.join(wanted)} ran and were counted")


if __name__ == "__main__":
    main()
