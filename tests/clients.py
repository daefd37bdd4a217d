#!/usr/bin/env python3
"""The clients that people use, against the real binary: curl, requests, ab, wrk, hey, Locust.

Each sends the seed bodies to /ingest and /metrics, and its own report must show no error and no
answer but 2xx. A client that is not installed fails the run: `make setup` installs them all.
`make clients` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench

SEEDS = [
    '{"timestamp":1735100000,"cpu":60.5,"rps":2000}',
    '{"cpu":12,"rps":120}',
    '{"timestamp":0,"cpu":50,"rps":1500}',
]
STATUS = {"/ingest": 202, "/metrics": 200}
REQUESTS = int(os.environ.get("CLIENT_REQUESTS", "5000"))
SECONDS = int(os.environ.get("CLIENT_SECONDS", "3"))
CONCURRENCY = 20
# Locust takes a second or two to bring up its users, and counts in steps as long.
LOCUST_SECONDS = SECONDS + 5


def output(*command: str, timeout: float = 60 + SECONDS) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{command[0]}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def total(port: int) -> int:
    return bench.get_json(port, "/analyze")["totalCount"]


def curl(port: int, _scratch: Path) -> None:
    for path, status in STATUS.items():
        for seed in SEEDS:
            url = f"http://127.0.0.1:{port}{path}"
            post = ["-H", "Content-Type: application/json", "-d", seed]
            for flags in (
                [],
                ["--http1.0"],
                ["-H", "Expect: 100-continue"],
                ["--compressed"],
                ["-H", "Connection: close"],
            ):
                code = output("curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", *flags, *post, url)
                assert code == str(status), f"{flags} {code}"
            chunked = output("curl", "-sS", "-H", "Transfer-Encoding: chunked", *post, url)
            assert json.loads(chunked) == {"status": "accepted", "accepted": 1}, chunked
    # Enough for curl to ask for 100-continue on its own.
    many = "[" + ",".join(SEEDS * 20_000) + "]"
    url = f"http://127.0.0.1:{port}/ingest"
    done = subprocess.run(
        ["curl", "-sS", "--data-binary", "@-", url], input=many, capture_output=True, text=True, check=True, timeout=30
    )
    assert json.loads(done.stdout)["accepted"] == 60_000, done.stdout


def python_requests(port: int, _scratch: Path) -> None:
    import requests

    base = f"http://127.0.0.1:{port}"
    with requests.Session() as session:
        for round_ in range(200):
            path = "/ingest" if round_ % 2 else "/metrics"
            answer = session.post(base + path, json=json.loads(SEEDS[round_ % 3]), timeout=60)
            assert answer.status_code == STATUS[path], answer.text
            assert answer.json()["accepted"] == 1
        lines = session.post(
            base + "/ingest",
            data=iter([f"{seed}\n".encode() for seed in SEEDS]),
            headers={"Content-Type": "application/x-ndjson"},
            timeout=60,
        )
        assert lines.json()["accepted"] == 3, lines.text
        assert session.get(base + "/analyze", timeout=60).json()["totalCount"] > 0
        assert session.head(base + "/stats", timeout=60).status_code == 200
        refused = session.post(base + "/ingest", data=b"{", timeout=60)
        assert refused.status_code == 400, refused.text
        assert session.get(base + "/metrics", timeout=60).text.startswith("#")


def ab(port: int, scratch: Path) -> None:
    for path in STATUS:
        for number, seed in enumerate(SEEDS):
            body = scratch / "body"
            body.write_text(seed)
            for flags in ([], ["-k"]):
                before = total(port)
                command = ["ab", "-q", *flags, "-n", str(REQUESTS), "-c", str(CONCURRENCY), "-p", str(body)]
                command += ["-T", "application/json", f"http://127.0.0.1:{port}{path}"]
                report = output(*command)
                assert f"Complete requests:      {REQUESTS}" in report, report
                assert re.search(r"Failed requests: +0\b", report), report
                assert "Non-2xx" not in report, report
                if flags:
                    kept = int(re.search(r"Keep-Alive requests: +(\d+)", report).group(1))
                    assert kept == REQUESTS, f"{kept} of {REQUESTS} kept alive"
                assert total(port) - before >= REQUESTS, f"seed {number}: samples are missing"


def wrk(port: int, scratch: Path) -> None:
    for path in STATUS:
        script = scratch / "seed.lua"
        bodies = ", ".join(f"'{seed}'" for seed in SEEDS)
        script.write_text(
            f"local bodies = {{{bodies}}}\nlocal turn = 0\n"
            "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\n"
            "request = function()\n  turn = turn % 3 + 1\n  return wrk.format(nil, nil, nil, bodies[turn])\nend\n"
        )
        url = f"http://127.0.0.1:{port}{path}"
        report = output("wrk", "-t1", f"-c{CONCURRENCY}", f"-d{SECONDS}s", "-s", str(script), url)
        assert "Non-2xx" not in report and "Socket errors" not in report, report
        assert int(re.search(r"(\d+) requests in", report).group(1)) > 0, report


def hey(port: int, _scratch: Path) -> None:
    for path, status in STATUS.items():
        for seed in SEEDS:
            command = ["hey", "-n", str(REQUESTS), "-c", str(CONCURRENCY), "-m", "POST", "-T", "application/json"]
            report = output(*command, "-d", seed, f"http://127.0.0.1:{port}{path}")
            counts = dict(re.findall(r"\[(\d+)\]\s+(\d+) responses", report))
            assert counts == {str(status): str(REQUESTS)}, report
            assert "Error distribution" not in report, report


LOCUSTFILE = """
import json
from locust import FastHttpUser, HttpUser, constant, task

SEEDS = %r

class Client(HttpUser):
    wait_time = constant(0.01)

    @task
    def ingest(self):
        for seed in SEEDS:
            self.client.post("/ingest", json=json.loads(seed))

    @task
    def metrics(self):
        self.client.post("/metrics", data=SEEDS[0], headers={"Content-Type": "application/json"})

    @task
    def read(self):
        self.client.get("/analyze")
        self.client.get("/stats")
        self.client.get("/metrics")
        self.client.get("/health")

class Fast(FastHttpUser):
    wait_time = constant(0.01)

    @task
    def ingest(self):
        self.client.post("/ingest", data=SEEDS[0], headers={"Content-Type": "application/json"})
"""


def locust(port: int, scratch: Path) -> None:
    file = scratch / "locustfile.py"
    file.write_text(LOCUSTFILE % SEEDS)
    command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--only-summary", "-u", "20", "-r", "20"]
    command += ["-t", f"{LOCUST_SECONDS}s", "--host", f"http://127.0.0.1:{port}", "--csv", str(scratch / "locust")]
    # Locust exits 1 when any request has failed.
    output(*command, timeout=60 + SECONDS)
    with open(scratch / "locust_stats.csv", newline="") as rows:
        totals = next(row for row in csv.DictReader(rows) if row["Name"] == "Aggregated")
    assert int(totals["Request Count"]) > 0 and totals["Failure Count"] == "0", totals


CLIENTS = {"curl": curl, "requests": python_requests, "ab": ab, "wrk": wrk, "hey": hey, "locust": locust}
PROGRAMS = ["curl", "ab", "wrk", "hey"]


def main() -> None:
    wanted = sys.argv[1:] or list(CLIENTS)
    missing = [program for program in PROGRAMS if program in wanted and not shutil.which(program)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)} (`make setup` does that)")
    failures = 0
    for name in wanted:
        with bench.sigmad() as (child, port), tempfile.TemporaryDirectory(prefix="sigmad-clients-") as folder:
            try:
                CLIENTS[name](port, Path(folder))
                print(f"{name}: ok, {total(port)} samples", flush=True)
            except (AssertionError, ConnectionError, KeyError, ValueError, subprocess.SubprocessError) as error:
                failures += 1
                print(f"{name}: FAILED: {error}\n{''.join(child.log[-5:])}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
