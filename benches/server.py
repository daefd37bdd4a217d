#!/usr/bin/env python3
"""What does a request cost sigmad in CPU time, beside a server that does nothing?

Floor and sigmad are loaded one after the other, in turns, for some rounds; each has core 0 to
itself while wrk has core 1. CPU time is of all threads of the server, user and system, divided by
the requests that its own count and wrk's agree on. Every answer is checked.

    cargo build --release --bins --examples && benches/server.py
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import bench

SERVER_CORE = 0
LOAD_CORE = 1
# wrk stops in the middle of things: what the server served and what wrk saw differ by that much.
COUNT_DIFFERENCE_MAX = 0.02

SEED = b'{"timestamp":1735100000,"cpu":60.5,"rps":2000}'

# Sends the bytes of a file again and again, and reports what came back.
LUA = """
local file = io.open("%s", "rb")
local bytes = file:read("*a")
file:close()
request = function() return bytes end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('RESULT {"requests":%%d,"us":%%d,"failed":%%d,"p50_us":%%d,"p99_us":%%d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass
class Load:
    name: str
    request: bytes
    pipeline: int
    samples: int
    connections: int


@dataclass
class Leg:
    load: str
    server: str
    round: int
    requests: int
    requests_per_s: float
    user_ns: float
    system_ns: float
    total_ns: float
    p50_us: int
    p99_us: int


def post(body: bytes) -> bytes:
    head = f"POST /ingest HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def batch(count: int) -> bytes:
    """Samples of a hundred devices: each moves both metrics of its device and of the fleet."""
    samples = [
        {"timestamp": 1735100000 + i, "device": f"edge-{i % 100}", "cpu": 40 + i % 17 + 0.5, "rps": 1900 + i % 201}
        for i in range(count)
    ]
    return json.dumps(samples, separators=(",", ":")).encode()


# Fewer connections for batches: what is sent while the analytics thread waits for its turn on the
# shared core must not fill the queue of 65,536 samples, for an answer of 503 is not measured here.
LOADS = [
    Load("single", post(SEED), 1, 1, 64),
    Load("pipelined-16", post(SEED), 16, 1, 64),
    Load("batch-100", post(batch(100)), 1, 100, 16),
    Load("batch-1000", post(batch(1000)), 1, 1000, 4),
]


def wrk(port: int, load: Load, seconds: int, scratch: Path) -> dict:
    data = scratch / "request"
    data.write_bytes(load.request * load.pipeline)
    script = scratch / "load.lua"
    script.write_text(LUA % data)
    command = bench.pinned(
        LOAD_CORE,
        ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}"],
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    found = re.search(r"RESULT (\{.*\})", done.stdout)
    if not found:
        sys.exit(f"wrk failed:\n{done.stdout}\n{done.stderr}")
    result = json.loads(found.group(1))
    if result["failed"] or "Non-2xx" in done.stdout:
        sys.exit(f"wrk saw failures:\n{done.stdout}")
    return result


def settled(pid: int) -> int:
    """CPU time once the server has nothing left to do: what wrk left in flight has been served."""
    before = bench.cpu_ns(pid)
    while True:
        time.sleep(0.1)
        now = bench.cpu_ns(pid)
        # A sleeping server still looks up now and then.
        if now - before < 1_000_000:
            return now
        before = now


def measure(pid: int, port: int, load: Load, seconds: int, scratch: Path, served) -> dict:
    """One leg: a short warm-up, then CPU time and requests of the same span."""
    wrk(port, load, 1, scratch)
    settled(pid)
    count_before = served()
    ticks_before, ns_before = bench.cpu_ticks(pid), bench.cpu_ns(pid)
    result = wrk(port, load, seconds, scratch)
    ns = settled(pid) - ns_before
    user, system = (after - before for after, before in zip(bench.cpu_ticks(pid), ticks_before, strict=True))
    requests = result["requests"]
    if count_before is not None:
        counted = (served() - count_before) / load.samples
        if abs(counted - requests) > COUNT_DIFFERENCE_MAX * requests + load.connections * load.pipeline:
            sys.exit(f"{load.name}: wrk counts {requests} requests, the server {counted}")
        requests = counted
    per_request = ns / requests
    share = user / max(1, user + system)
    return {
        "requests": int(requests),
        "requests_per_s": requests / (result["us"] / 1e6),
        "user_ns": per_request * share,
        "system_ns": per_request * (1 - share),
        "total_ns": per_request,
        "p50_us": result["p50_us"],
        "p99_us": result["p99_us"],
    }


def floor_leg(load: Load, seconds: int, scratch: Path, answer: bytes) -> dict:
    (scratch / "answer").write_bytes(answer)
    command = [str(bench.target_dir() / "examples" / "floor"), str(len(load.request)), str(scratch / "answer")]
    with bench.running(bench.pinned(SERVER_CORE, command), stdout=subprocess.PIPE, text=True) as child:
        port = int(child.stdout.readline())
        return measure(child.pid, port, load, seconds, scratch, lambda: None)


def sigmad_leg(child, port: int, load: Load, seconds: int, scratch: Path) -> dict:
    def served() -> int:
        return bench.get_json(port, "/analyze")["totalCount"]

    return measure(child.pid, port, load, seconds, scratch, served)


def run(arguments, loads: list[Load]) -> list[Leg]:
    legs = []
    scratch_folder = tempfile.TemporaryDirectory(prefix="sigmad-bench-")
    with scratch_folder as folder:
        scratch = Path(folder)
        for number in range(1, arguments.rounds + 1):
            for load in loads:
                # A fresh process each time, so that no leg inherits another's state or memory.
                for engine in arguments.engine:
                    flags = ["--workers", "1", "--engine", engine, *arguments.flags]
                    with bench.sigmad(*flags, core=SERVER_CORE) as (child, port):
                        answer = bench.exchange(port, load.request)
                        if not answer.startswith(b"HTTP/1.1 202 "):
                            sys.exit(f"{engine} answers {answer[:200]!r}")
                        figures = sigmad_leg(child, port, load, arguments.seconds, scratch)
                    legs.append(Leg(load.name, engine, number, **figures))
                figures = floor_leg(load, arguments.seconds, scratch, answer)
                legs.append(Leg(load.name, "floor", number, **figures))
                for leg in legs[-1 - len(arguments.engine) :]:
                    show(leg, load, legs[-1].total_ns)
    return legs


def show(leg: Leg, load: Load, floor_ns: float) -> None:
    print(
        f"round {leg.round} {leg.load:13} {leg.server:7} user {leg.user_ns:8.0f} system {leg.system_ns:8.0f} "
        f"total {leg.total_ns:8.0f} ns/request, {leg.total_ns / load.samples:7.1f} ns/sample, "
        f"{leg.total_ns / floor_ns:5.3f} x floor, {leg.requests_per_s:9.0f}/s",
        flush=True,
    )


def medians(legs: list[Leg], loads: list[Load], servers: list[str]) -> list[dict]:
    rows = []
    for load in loads:
        floors = {leg.round: leg.total_ns for leg in legs if (leg.load, leg.server) == (load.name, "floor")}
        for server in servers:
            mine = [leg for leg in legs if (leg.load, leg.server) == (load.name, server)]
            if not mine:
                continue
            row = {"load": load.name, "server": server, "samples": load.samples}
            for field in ("user_ns", "system_ns", "total_ns", "requests_per_s", "p50_us", "p99_us"):
                row[field] = statistics.median(getattr(leg, field) for leg in mine)
            row["sample_ns"] = row["total_ns"] / load.samples
            # The ratio within a round: slow spells of the machine strike both.
            row["floor_ratio"] = statistics.median(leg.total_ns / floors[leg.round] for leg in mine)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="length of a leg")
    parser.add_argument("--engine", action="append", choices=["native", "may"], help="default: native")
    parser.add_argument("--load", action="append", choices=[load.name for load in LOADS])
    parser.add_argument("--flags", nargs="*", default=[], help="further flags of sigmad")
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    arguments.engine = arguments.engine or ["native"]
    loads = [load for load in LOADS if not arguments.load or load.name in arguments.load]

    record = {"manifest": bench.manifest()}
    stolen, began = bench.steal_ticks(), time.monotonic()
    legs = run(arguments, loads)
    record["manifest"]["stolen_s"] = (bench.steal_ticks() - stolen) / bench.TICKS_PER_S
    record["manifest"]["seconds"] = round(time.monotonic() - began)
    rows = medians(legs, loads, [*arguments.engine, "floor"])
    record["manifest"]["noise"] = noise(legs, loads)
    record["medians"] = rows
    record["legs"] = [asdict(leg) for leg in legs]
    text = bench.table(
        ["load", "server", "user ns", "system ns", "total ns", "ns/sample", "x floor", "requests/s"],
        [
            [
                row["load"],
                row["server"],
                f"{row['user_ns']:.0f}",
                f"{row['system_ns']:.0f}",
                f"{row['total_ns']:.0f}",
                f"{row['sample_ns']:.1f}",
                f"{row['floor_ratio']:.3f}",
                f"{row['requests_per_s']:.0f}",
            ]
            for row in rows
        ],
    )
    print(text)
    if not arguments.no_record:
        print("record in", bench.write_record("server", record, text))


def noise(legs: list[Leg], loads: list[Load]) -> str:
    """How far the rounds of the floor lie apart: differences below it mean nothing."""
    parts = []
    for load in loads:
        floors = [leg.total_ns for leg in legs if (leg.load, leg.server) == (load.name, "floor")]
        spread = (max(floors) - min(floors)) / statistics.median(floors)
        parts.append(f"{load.name} {spread:.1%}")
    return "floor, largest to smallest round: " + ", ".join(parts)


if __name__ == "__main__":
    main()
