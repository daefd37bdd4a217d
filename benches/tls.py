#!/usr/bin/env python3
"""What does HTTPS cost: CPU time of the server a request, and a connection?

The same binary with and without --tls-cert, in turn: requests on connections that stay (wrk), a connection for each
request (ab), and the same with a session that is resumed (openssl s_time, TLS 1.2). Every answer must be 2xx, and the
server is asked whether it has counted what the client has. The key is ECDSA P-256.

    cargo build --release && benches/tls.py
"""

from __future__ import annotations

import argparse
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import bench

CONNECTIONS = 16
# Connections of ab at once.
CONCURRENT = 8
SAMPLE = '{"timestamp":1735100000,"device":"a","cpu":60.5,"rps":2000}'
KINDS = {
    "POST of one sample": 1,
    "POST of 100 samples": 100,
    "a connection each": None,
    "a connection each, TLS 1.2": None,
    "a connection each, TLS 1.2 resumed": None,
}
LUA = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[%s]==]
"""


def certificate(folder: Path) -> list[str]:
    (folder / "openssl.cnf").write_text("[req]\ndistinguished_name = name\n[name]\n")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -config openssl.cnf"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName = IP:127.0.0.1"]
    files = ["-keyout", "server.key", "-out", "server.crt"]
    subprocess.run([*command.split(), *names, *files], cwd=folder, check=True, capture_output=True)
    return ["--tls-cert", str(folder / "server.crt"), "--tls-key", str(folder / "server.key")]


def answered(url: str) -> int:
    """Requests that the server has counted, all paths and codes but errors."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    text = urllib.request.urlopen(url + "/metrics", context=trusting).read().decode()
    return sum(int(count) for count in re.findall(r'^http_requests_total\{.*code="2\d\d"\} (\d+)', text, re.M))


def ask(kind: str, url: str, port: int, seconds: float, folder: Path) -> int:
    """Runs the client; returns how many requests it has completed."""
    samples = KINDS[kind]
    if samples is not None:
        body = SAMPLE if samples == 1 else "[" + ",".join([SAMPLE] * samples) + "]"
        (folder / "post.lua").write_text(LUA % body)
        line = [
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{max(1, round(seconds))}",
            "-s",
            str(folder / "post.lua"),
            url + "/ingest",
        ]
        found = re.compile(r"(\d+) requests in")
    elif "TLS 1.2" in kind:
        reuse = "-reuse" if "resumed" in kind else "-new"
        line = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-tls1_2", reuse, "-www", "/health"]
        line += ["-time", str(max(1, round(seconds)))]
        found = re.compile(r"^(\d+) connections in \d+ real", re.M)
    else:
        line = ["ab", "-q", "-c", str(CONCURRENT), "-t", str(max(1, round(seconds))), "-n", "1000000", url + "/health"]
        found = re.compile(r"Complete requests:\s+(\d+)")
    output = subprocess.run(bench.pinned(bench.LOAD_CORE, line), capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output:
        sys.exit(output)
    return int(found.search(output).group(1))


def measure(kind: str, tls: list[str], seconds: float, folder: Path) -> dict:
    flags = ["--workers", "1", "--pin", "off", *tls]
    with bench.sigmad(*flags, core=bench.SERVER_CORE) as (child, port):
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        ask(kind, url, port, 1, folder)
        answered_before, before = answered(url), bench.settled(child.pid)
        requests = ask(kind, url, port, seconds, folder)
        after, answered_after = bench.settled(child.pid), answered(url)
        counted = answered_after - answered_before
        # A client gives up the requests of its last moment; the scrape counts itself.
        assert requests <= counted <= requests + CONNECTIONS + 2, (kind, requests, counted)
        return {"requests": requests, "us_a_request": (after - before) / counted / 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, bench.record("tls", arguments.rounds) as found:
        folder = Path(name)
        pair = certificate(folder)
        runs = {(kind, flags): [] for kind in KINDS for flags in ((), tuple(pair)) if flags or "TLS" not in kind}
        for _ in range(arguments.rounds):
            for (kind, flags), rounds in runs.items():
                rounds.append(measure(kind, list(flags), arguments.seconds, folder))
        rows = []
        for (kind, flags), rounds in runs.items():
            quartiles = statistics.quantiles([one["us_a_request"] for one in rounds], n=4, method="inclusive")
            rows.append([kind, "HTTPS" if flags else "HTTP", *(f"{value:.1f}" for value in quartiles)])
        found["runs"] = [
            {"kind": kind, "is_tls": bool(flags), "rounds": rounds} for (kind, flags), rounds in runs.items()
        ]
        header = ["requests", "by", "lower quartile, µs of CPU", "median", "upper quartile"]
        found["text"] = bench.table(header, rows)
        print(found["text"])


if __name__ == "__main__":
    main()
