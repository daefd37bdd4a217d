#!/usr/bin/env python3
"""How should the cores of a machine be divided between workers and shards of analytics?

The generator has a quarter of the cores, the server the others. Each leg divides those: N shards, their thread of the
fleet, and workers on the rest. Batches of 100 and of 1,000 samples come over closed loops; what the server refuses
(503) is not counted. The leg with the most samples a second says what `--analytics auto` should choose.

    cargo build --release && benches/shards.py

SIGMAD names another binary. With 16 cores it takes some 6 minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess

import bench
import contestants

WARM_UP_S = 1.0
SHARDS = (1, 2, 3, 4, 5, 6)
BATCHES = (100, 1_000)
# Closed loops for each worker: enough that it always has one to serve.
CONNECTIONS_PER_WORKER = 8
GENERATOR_PART = 4


def threads_of(shards: int) -> int:
    return 1 if shards == 1 else shards + 1


def leg(shards: int, workers: int, batch: int, server: int, seconds: float) -> dict:
    """That division of the first `server` cores; the generator has the others."""
    cores = os.cpu_count()
    generator = f"{server}-{cores - 1}" if server < cores else None
    connections = CONNECTIONS_PER_WORKER * workers
    flags = ["--connections", str(connections), "--threads", str(max(1, cores - server))]
    flags += contestants.batch_flags(batch)
    port = bench.free_port()
    command = ["taskset", "-c", f"0-{server - 1}", bench.sigmad_binary(), "serve", "--listen", f"127.0.0.1:{port}"]
    command += ["--workers", str(workers), "--analytics", str(shards)]
    with bench.running(command, stderr=subprocess.DEVNULL) as child:
        bench.wait_for_port(port)
        bench.offer(port, *flags, core=generator, seconds=WARM_UP_S)
        before = bench.thread_ns(child.pid)
        summary = bench.offer(port, *flags, core=generator, pid=child.pid, seconds=seconds)
        after = bench.thread_ns(child.pid)
    samples = summary["requests"]["good"] * batch
    return {
        "samples_per_s": summary["requests"]["good_per_s"] * batch,
        "refused": summary["requests"]["sent"] - summary["requests"]["good"],
        "threads_ns": {kind: (ns - before.get(kind, 0)) / max(1, samples) for kind, ns in after.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    cores = os.cpu_count()
    server = max(1, cores - cores // GENERATOR_PART)
    divisions = [(n, max(1, server - threads_of(n))) for n in SHARDS if n == 1 or threads_of(n) < server]
    with bench.record("shards", arguments.rounds) as record:
        legs: dict[str, list[dict]] = {}
        for number in range(arguments.rounds):
            for batch in BATCHES:
                for shards, workers in divisions:
                    one = leg(shards, workers, batch, server, arguments.seconds)
                    legs.setdefault(f"{batch} {shards} {workers}", []).append(one)
                    print(
                        f"round {number + 1}: {batch} a batch, {shards} shards, {workers} workers:"
                        f" {one['samples_per_s']:,.0f}/s",
                        flush=True,
                    )
        record["cores"] = {"all": cores, "server": server}
        record["legs"] = legs
        record["text"] = table(legs)
        print(record["text"])


def table(legs: dict[str, list[dict]]) -> str:
    rows = []
    for key, ones in legs.items():
        spread = bench.spread([one["samples_per_s"] for one in ones])
        kinds = ("worker", "analytics", "fleet")
        threads = [statistics.median(one["threads_ns"].get(kind, 0) for one in ones) for kind in kinds]
        refused = statistics.median(one["refused"] for one in ones)
        rate = f"{spread['median']:,.0f} ({spread['min']:,.0f}–{spread['max']:,.0f})"
        rows.append([*key.split(), rate, *(f"{ns:.1f}" for ns in threads), f"{refused:,.0f}"])
    header = ["batch", "shards", "workers", "samples/s", "workers ns", "analytics ns", "fleet ns", "refused"]
    return bench.table(header, rows)


if __name__ == "__main__":
    main()
