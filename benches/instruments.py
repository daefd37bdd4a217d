#!/usr/bin/env python3
"""What do the instruments cost, and do they tell the truth?

- The CPU profiler, by engine and rate: CPU time of a request while a profile is taken, beside the same
  server without, in turns; and how much of the CPU time that the server used meanwhile the profile
  holds, by its samples and by its own account.
- The heap sampler: `cargo bench --bench heap`, whose findings go into the same record.

    benches/instruments.py
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import bench
import contestants
import headline

ENGINES = ("perf", "timer", "pprof")
RATES = (100, 999)
# A profile covers the whole of its leg.
MARGIN_S = 0.4
WARM_UP_S = 0.5


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data: bytes):
    """Of one protobuf message: number, and value or bytes."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
            yield key >> 3, value
        elif key & 7 == 2:
            length, at = varint(data, at)
            yield key >> 3, data[at : at + length]
            at += length
        else:
            sys.exit(f"a profile has no field of kind {key & 7}")


@dataclass
class Read:
    """What a profile says: CPU seconds of all samples, comments, and when it was (seconds since 1970)."""

    cpu_s: float
    comments: list[str]
    began_s: float
    ended_s: float


def read_profile(packed: bytes) -> Read:
    """From profile.proto of pprof."""
    strings, comments, samples, types = [], [], [], []
    began_ns = duration_ns = 0
    for number, value in fields(gzip.decompress(packed)):
        if number == 1:
            types.append(dict(fields(value)))
        elif number == 2:
            samples.append(value)
        elif number == 6:
            strings.append(value.decode())
        elif number == 9:
            began_ns = value
        elif number == 10:
            duration_ns = value
        elif number == 13:
            comments += unpacked(value)
    names = [(strings[kind.get(1, 0)], strings[kind.get(2, 0)]) for kind in types]
    place = names.index(("cpu", "nanoseconds"))
    total = 0
    for sample in samples:
        values = [one for number, value in fields(sample) if number == 2 for one in unpacked(value)]
        total += values[place]
    said = [strings[comment] for comment in comments]
    return Read(total / 1e9, said, began_ns / 1e9, (began_ns + duration_ns) / 1e9)


def unpacked(value: int | bytes) -> list[int]:
    """Repeated numbers come packed, or one by one."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        found.append(number)
    return found


class Profile:
    """A profile that is being taken; `result` waits for it."""

    def __init__(self, port: int, pid: int, engine: str, hz: int, seconds: float) -> None:
        self.url = f"http://127.0.0.1:{port}/debug/pprof/profile?seconds={seconds:.0f}&hz={hz}&backend={engine}"
        self.pid = pid
        self.packed = b""
        self.thread = threading.Thread(target=self.take)
        self.thread.start()

    def take(self) -> None:
        watch = bench.Watch(self.pid)
        done = subprocess.run(["curl", "-sS", "--fail", self.url], capture_output=True, check=False)
        watch.end()
        self.watch, self.packed, self.complaint = watch, done.stdout, done.stderr.decode()

    def result(self) -> dict:
        self.thread.join()
        if not self.packed:
            sys.exit(f"{self.url}: {self.complaint}")
        profile = read_profile(self.packed)
        # The profile says when it was; the server went on before and after.
        true_s = self.watch.used(profile.began_s, profile.ended_s)
        found = {"captured": profile.cpu_s / true_s, "true_cpu_s": true_s, "comments": profile.comments}
        claims = [re.search(r"captured\D*(\d+\.\d+)", comment) for comment in profile.comments]
        if any(claims):
            found["claimed"] = float(next(claim for claim in claims if claim).group(1))
        return found


# What a request goes through; the others serve the profile, and are counted apart.
PATH = ("worker", "analytics")


def cost(child, port: int, seconds: float) -> tuple[float, float]:
    """ns of a request on its path, and CPU seconds of everybody else meanwhile."""
    flags = ["--connections", str(headline.CONNECTIONS)]
    before, all_before = bench.thread_ns(child.pid), process_ns(child.pid)
    summary = bench.load(port, *flags, seconds=seconds)
    after, all_after = bench.thread_ns(child.pid), process_ns(child.pid)
    on_path = sum(after[kind] - before[kind] for kind in PATH)
    return on_path / summary["requests"]["good"], (all_after - all_before - on_path) / 1e9


def process_ns(pid: int) -> int:
    """Of all threads, those that have ended included."""
    return time.clock_gettime_ns(~pid << 3 | 2)


def profiler(arguments) -> dict:
    """In each round, for each way to profile: without, with."""
    found: dict[str, list[dict]] = {}
    sigmad = contestants.everyone()["sigmad"]
    ways = [(engine, hz) for hz in arguments.hz for engine in ENGINES]
    whole = max(2, round(arguments.seconds))
    with sigmad.running() as (child, port):
        sigmad.check(port)
        cost(child, port, WARM_UP_S)
        for number in range(arguments.rounds):
            for engine, hz in ways:
                without, _ = cost(child, port, arguments.seconds)
                profile = Profile(port, child.pid, engine, hz, whole)
                # Under load all along: before the profile has begun, and after it has ended.
                with_it, apart_s = cost(child, port, whole + MARGIN_S)
                one = {"without_ns": without, "with_ns": with_it, "apart_s": apart_s, **profile.result()}
                found.setdefault(f"{engine} {hz}", []).append(one)
                print(
                    f"round {number + 1} {engine} {hz} Hz: {with_it / without:.3f} x, captured {one['captured']:.3f}",
                    flush=True,
                )
    return {
        way: {
            "ratio": bench.spread([one["with_ns"] / one["without_ns"] for one in ones]),
            "apart_s": bench.spread([one["apart_s"] for one in ones]),
            "captured": bench.spread([one["captured"] for one in ones]),
            **({"claimed": bench.spread([one["claimed"] for one in ones])} if "claimed" in ones[0] else {}),
            "comments": ones[0]["comments"],
            "rounds": ones,
        }
        for way, ones in found.items()
    }


def heap() -> dict:
    """What `cargo bench --bench heap` finds: ns for a pair of alloc and free, and its account of what was allocated."""
    done = subprocess.run(
        ["cargo", "bench", "--locked", "--bench", "heap"], capture_output=True, text=True, cwd=bench.ROOT, check=False
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    errors = {
        size: float(percent.replace(" ", ""))
        for size, percent in re.findall(r"(\d+) bytes: the samples account for ([+-] ?[\d.]+) %", done.stdout)
    }
    pairs: dict[str, dict] = {}
    target = Path(os.environ.get("CARGO_TARGET_DIR", bench.ROOT / "target")) / "criterion"
    for estimate in sorted(target.glob("pair*/*/*/new/estimates.json")):
        size, allocator, group = (estimate.parents[level].name for level in (1, 2, 3))
        held = group.replace("pair_", "").replace("pair,", "").replace("_", " ").strip()
        ns = json.loads(estimate.read_text())["median"]["point_estimate"]
        pairs.setdefault(f"{size} bytes, {held}", {})[allocator] = ns
    for one in pairs.values():
        one["added"] = one["sampled"] - one["mimalloc"]
    return {"pairs_ns": pairs, "error_percent": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--hz", type=int, nargs="*", default=list(RATES))
    parser.add_argument("--no-heap", action="store_true")
    arguments = parser.parse_args()
    with bench.record("instruments", arguments.rounds) as record:
        record["profiler"] = profiler(arguments)
        if not arguments.no_heap:
            record["heap"] = heap()
        record["text"] = text(record)
        print(record["text"])


def text(record: dict) -> str:
    rows = [
        [
            way,
            f"{one['ratio']['median']:.3f} ({one['ratio']['min']:.3f}–{one['ratio']['max']:.3f})",
            f"{one['apart_s']['median']:.2f}",
            f"{one['captured']['median']:.3f} ({one['captured']['min']:.3f}–{one['captured']['max']:.3f})",
            f"{one['claimed']['median']:.3f}" if "claimed" in one else "",
        ]
        for way, one in record["profiler"].items()
    ]
    parts = [
        bench.table(
            [
                "engine, Hz",
                "CPU of a request × without",
                "threads of the profile, s",
                "in the profile ÷ true",
                "samples alone, by its own account",
            ],
            rows,
        )
    ]
    for what, one in record.get("heap", {}).get("pairs_ns", {}).items():
        measured = (f"{name} {one[name]:.2f} ns" for name in ("mimalloc", "unsampled", "sampled"))
        parts.append(f"{what}: {', '.join(measured)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
