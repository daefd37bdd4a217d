#!/usr/bin/env python3
"""What does Redis cost, and how much goes through it?

Three questions, one record:

1. CPU time of a request with and without Redis, thread by thread, in turns. Batches are of a hundred devices that
   report once a second: nearly all their samples coalesce.
2. Samples a second that reach Redis, and Redis' own CPU time per sample, from fleets of 1 to 100,000
   devices pushed as hard as one client can.
3. How long after its 202 a sample can be read in Redis.

sigmad has core 0; `sigmad load` or the pushing client, and Redis, share core 1.

Several binaries may be compared: the first question is asked of each of them in turn, and the others of none.

    cargo build --release && benches/store.py [--binary OLD --binary NEW]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import random
import re
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import bench
import contestants


@dataclasses.dataclass(frozen=True)
class Load:
    name: str
    connections: int
    batch: int


LOADS = [Load("single", 64, 1), Load("batch-100", 4, 100)]
# Requests a second of batches, at most.
BATCHES_PER_S = 10_000
FLEETS = [1, 100, 10_000, 100_000]
BATCH = 100
# A fleet reports once a second: that many different timestamps are sent.
SECONDS_APART = 10
PROBES = 300
# The background of the third question.
PROBE_RATE = 1000


class Resp:
    """One connection to Redis that speaks just enough."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def ask(self, *words: str) -> bytes | None:
        parts = [f"*{len(words)}\r\n"] + [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        self.socket.sendall("".join(parts).encode())
        line = self.file.readline()
        if line.startswith(b"$"):
            length = int(line[1:])
            return None if length < 0 else self.file.read(length + 2)[:-2]
        return line.strip()


def scrape(port: int) -> dict[str, float]:
    text = bench.exchange(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").decode()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:7] == "sigmad_"
    }


def outcome(scraped: dict[str, float], name: str) -> float:
    return scraped[f'sigmad_samples_total{{outcome="{name}"}}']


# --- 1. what a request costs ---


def requests_of(port: int, load: Load, seconds: float) -> int:
    if load.batch > 1:
        accepted, others = push(port, bodies(100), time.monotonic() + seconds, BATCHES_PER_S)
        if others:
            raise ValueError(f"{others} answers were not 202")
        return accepted
    flags = ["--connections", str(load.connections), *contestants.batch_flags(load.batch)]
    return bench.load(port, *flags, seconds=seconds)["requests"]["good"]


def cost_leg(binary: str, load: Load, seconds: int, scratch: Path, with_redis: bool) -> dict:
    with contextlib.ExitStack() as stack:
        flags = ["--workers", "1"]
        if with_redis:
            redis = stack.enter_context(bench.redis(scratch, core=bench.LOAD_CORE))
            # So much that a store thread that waits for its turn drops nothing: what is dropped costs nothing.
            flags += ["--redis-url", f"redis://127.0.0.1:{redis}", "--redis-queue", "1GiB"]
        child, port = stack.enter_context(bench.sigmad(*flags, binary=binary, core=bench.SERVER_CORE))
        requests_of(port, load, 1)
        bench.settled(child.pid)
        before = bench.thread_ns(child.pid)
        requests = requests_of(port, load, seconds)
        bench.settled(child.pid)
        after = bench.thread_ns(child.pid)
        if with_redis and (dropped := outcome(scrape(port), "dropped")) and load.batch > 1:
            raise ValueError(f"{dropped:.0f} samples were dropped")
        spent = {kind: (after[kind] - before.get(kind, 0)) / requests for kind in after}
        return spent | {"all threads": sum(spent.values())}


def cost(arguments, scratch: Path) -> list[dict]:
    legs = []
    for number in range(1, arguments.rounds + 1):
        for load, binary in itertools.product(LOADS, arguments.binary):
            # Neither is always the first.
            for with_redis in (False, True) if number % 2 else (True, False):
                figures = cost_leg(binary, load, arguments.seconds, scratch, with_redis)
                leg = {"binary": Path(binary).name, "round": number, "load": load.name, "redis": with_redis}
                legs.append(leg | {"ns": figures})
                shown = ", ".join(f"{kind} {ns:.0f}" for kind, ns in sorted(figures.items()) if ns >= 1)
                print(
                    f"{binary} {number} {load.name} {'with' if with_redis else 'without'} Redis: {shown} ns", flush=True
                )
    return legs


def cost_table(legs: list[dict]) -> str:
    rows = []
    for binary, load in dict.fromkeys((leg["binary"], leg["load"]) for leg in legs):
        medians = {}
        for with_redis in (False, True):
            of = (binary, load, with_redis)
            chosen = [leg["ns"] for leg in legs if (leg["binary"], leg["load"], leg["redis"]) == of]
            kinds = sorted({kind for ns in chosen for kind in ns})
            medians[with_redis] = {k: statistics.median(ns.get(k, 0) for ns in chosen) for k in kinds}
        for kind in ("worker", "analytics", "store", "all threads"):
            without, with_it = medians[False].get(kind, 0), medians[True].get(kind, 0)
            more = f"{(with_it / without - 1) * 100:+.1f} %" if without else ""
            rows.append([binary, load, kind, f"{without:.0f}", f"{with_it:.0f}", more])
    return bench.table(["binary", "load", "thread", "ns per request without", "with Redis", "difference"], rows)


# --- 2. how much goes through ---


def bodies(devices: int) -> list[bytes]:
    chosen = random.Random(devices)
    order = list(range(devices))
    chosen.shuffle(order)
    requests = []
    count = max(1, devices // BATCH) * SECONDS_APART
    for number in range(min(count, 10_000)):
        second = number * BATCH // devices if devices > 1 else number
        samples = [
            {
                "timestamp": 1735100000 + second,
                "device": f"edge-{order[(number * BATCH + at) % devices]}",
                "cpu": round(chosen.uniform(20, 80), 1),
                "rps": chosen.randrange(1800, 2200),
            }
            for at in range(BATCH)
        ]
        requests.append(contestants.post(json.dumps(samples, separators=(",", ":")).encode()))
    return requests


def push(port: int, requests: list[bytes], until: float, rate: float = math.inf) -> tuple[int, int]:
    """Pushes requests, four on their way at a time and no more than `rate` a second; (202s, others)."""
    accepted = others = 0
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    answers = client.makefile("rb")
    at, began = 0, time.monotonic()
    while time.monotonic() < until:
        time.sleep(max(0.0, began + at / rate - time.monotonic()))
        for _ in range(4):
            client.sendall(requests[at % len(requests)])
            at += 1
        for _ in range(4):
            line = answers.readline()
            length = 0
            while (field := answers.readline()) != b"\r\n":
                if field.lower().startswith(b"content-length:"):
                    length = int(field.split(b":")[1])
            answers.read(length)
            accepted, others = (accepted + 1, others) if b" 202 " in line else (accepted, others + 1)
    return accepted, others


def throughput_leg(devices: int, seconds: int, scratch: Path) -> dict:
    with bench.redis(scratch, core=bench.LOAD_CORE) as redis:
        flags = ["--workers", "1", "--redis-url", f"redis://127.0.0.1:{redis}"]
        with bench.sigmad(*flags, core=bench.SERVER_CORE) as (child, port):
            redis_pid = int((scratch / "redis.pid").read_text())
            requests = bodies(devices)
            # All streams exist, here and in Redis, before the clock runs.
            push(port, requests, time.monotonic() + max(2.0, devices / 50_000))
            before, cpu = scrape(port), (bench.cpu_ns(redis_pid), bench.thread_ns(child.pid))
            start = time.monotonic()
            accepted, others = push(port, requests, start + seconds)
            after, elapsed = scrape(port), time.monotonic() - start
            redis_ns = bench.cpu_ns(redis_pid) - cpu[0]
            threads = bench.thread_ns(child.pid)
            delta = {name: outcome(after, name) - outcome(before, name) for name in ("stored", "coalesced", "dropped")}
            written = delta["stored"] + delta["coalesced"]
            info = Resp(redis).ask("INFO", "memory").decode()
            streams = 2 * devices + 2
            return {
                "devices": devices,
                "offered_per_s": accepted * BATCH / elapsed,
                "answers_not_202": others,
                "written_per_s": written / elapsed,
                "coalesced_share": delta["coalesced"] / max(1, written),
                "dropped_per_s": delta["dropped"] / elapsed,
                "queued_at_end": after["sigmad_pending_samples"],
                "redis_us_per_sample": redis_ns / 1_000 / max(1, written),
                "store_us_per_sample": (threads["store"] - cpu[1]["store"]) / 1_000 / max(1, written),
                "commands_per_sample": (after["sigmad_store_commands_total"] - before["sigmad_store_commands_total"])
                / max(1, written),
                "flushes_per_s": (after["sigmad_store_flushes_total"] - before["sigmad_store_flushes_total"]) / elapsed,
                "redis_bytes_per_stream": int(re.search(r"used_memory:(\d+)", info).group(1)) / streams,
            }


def throughput_table(legs: list[dict]) -> str:
    header = ["devices", "offered/s", "written/s", "of it coalesced", "dropped/s", "queued at the end"]
    header += ["Redis µs/sample", "store µs/sample", "commands/sample", "Redis bytes/stream"]
    rows = [
        [
            f"{leg['devices']:,}",
            f"{leg['offered_per_s']:,.0f}",
            f"{leg['written_per_s']:,.0f}",
            f"{leg['coalesced_share'] * 100:.0f} %",
            f"{leg['dropped_per_s']:,.0f}",
            f"{leg['queued_at_end']:,.0f}",
            f"{leg['redis_us_per_sample']:.2f}",
            f"{leg['store_us_per_sample']:.2f}",
            f"{leg['commands_per_sample']:.2f}",
            f"{leg['redis_bytes_per_stream']:,.0f}",
        ]
        for leg in legs
    ]
    return bench.table(header, rows)


# --- 3. how soon it is there ---


def delay(scratch: Path) -> dict:
    with bench.redis(scratch, core=bench.LOAD_CORE) as redis:
        flags = ["--workers", "1", "--redis-url", f"redis://127.0.0.1:{redis}"]
        with bench.sigmad(*flags, core=bench.SERVER_CORE) as (_, port):
            over = threading.Event()
            background = threading.Thread(target=trickle, args=(port, over))
            background.start()
            found = []
            resp, chosen = Resp(redis), random.Random(1)
            for number in range(PROBES):
                # At no fixed point between two flushes.
                time.sleep(chosen.uniform(0, 0.1))
                body = json.dumps({"timestamp": 1736000000 + number, "device": "probe", "rps": number}).encode()
                if not bench.exchange(port, contestants.post(body)).startswith(b"HTTP/1.1 202 "):
                    raise ValueError("a probe was refused")
                answered = time.monotonic()
                while resp.ask("GET", f"metric:probe:{1736000000 + number}") is None:
                    time.sleep(0.0005)
                found.append((time.monotonic() - answered) * 1_000)
            over.set()
            background.join()
    found.sort()
    return {"p50_ms": found[len(found) // 2], "p99_ms": found[len(found) * 99 // 100], "max_ms": found[-1]}


def trickle(port: int, over: threading.Event) -> None:
    """PROBE_RATE samples a second of a hundred devices."""
    requests, at = bodies(100), 0
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    while not over.is_set():
        client.sendall(requests[at % len(requests)])
        client.recv(65536)
        at += 1
        over.wait(BATCH / PROBE_RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of the first question")
    parser.add_argument("--seconds", type=int, default=5, help="length of each leg")
    parser.add_argument("--binary", action="append", help="may be given several times")
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    manifest = bench.manifest()
    with tempfile.TemporaryDirectory(prefix="sigmad-bench-") as folder:
        scratch = Path(folder)
        is_comparison = arguments.binary is not None
        arguments.binary = arguments.binary or [bench.sigmad_binary()]
        costs = cost(arguments, scratch)
        text, record = cost_table(costs), {"manifest": manifest, "cost": costs}
        if not is_comparison:
            legs = [throughput_leg(devices, 2 * arguments.seconds, scratch) for devices in FLEETS]
            soon = delay(scratch)
            text += f"\n\n{throughput_table(legs)}\n\n"
            text += f"From a 202 to the sample in Redis: p50 {soon['p50_ms']:.0f} ms, p99 {soon['p99_ms']:.0f} ms, "
            text += f"at most {soon['max_ms']:.0f} ms ({PROBES} probes beside {PROBE_RATE} samples a second)."
            record |= {"throughput": legs, "delay": soon}
    print(text)
    if not arguments.no_record:
        print("record in", bench.write_record("store", record, text))


if __name__ == "__main__":
    main()
