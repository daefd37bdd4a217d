#!/usr/bin/env python3
"""What does a request cost, and how long does it take, beside other servers that do the same work?

Every server has core 0 to itself and is asked by `sigmad load` from core 1; they take turns, each a
fresh process, for some rounds. Three questions of each: CPU time of a request with one sample (64
connections), of a sample in batches of 100 from 100 devices (16 connections), and latency at a steady
1,000 requests a second. Its answers are checked before, and what it counted after.

    benches/headline.py
    benches/headline.py --build frame-pointers=target/frame-pointers/release/sigmad

With --build another build takes turns with the usual one instead, and the record is `builds`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench
import contestants

CONNECTIONS = 64
# Fewer: what is sent while the analytics thread waits for its turn on the shared core must not fill
# its queue, for a 503 is not measured here.
BATCH, BATCH_CONNECTIONS = 100, 16
RATE = 1000
RATE_CONNECTIONS = 16
WARM_UP_S = 0.5
TITLES = {"frame-pointers": "frame pointers", "every-stage": "the stages of every read timed, not of one in 64"}


def closed(child, port: int, seconds: float, connections: int, batch: int = 1, failed_share_max: float = 0.0) -> dict:
    """CPU time of a closed loop, by request and by sample."""
    flags = ["--connections", str(connections), *contestants.batch_flags(batch)]
    bench.load(port, *flags, seconds=WARM_UP_S, failed_share_max=failed_share_max)
    before = bench.cpu_ticks(child.pid)
    summary = bench.load(port, *flags, pid=child.pid, seconds=seconds, failed_share_max=failed_share_max)
    ticks = [after - before for after, before in zip(bench.cpu_ticks(child.pid), before, strict=True)]
    cpu = summary["server_cpu"]
    return {
        "user_ticks": ticks[0],
        "system_ticks": ticks[1],
        "requests": summary["requests"]["good"],
        "failed": summary["requests"]["failed"],
        "per_s": summary["requests"]["good_per_s"],
        "total_ns": cpu["ns_per_request"],
        "sample_ns": cpu["ns_per_sample"],
        "server_cores": cpu["cores"],
        "generator_cores": summary["generator_cpu"]["cores"],
        "p50_us": summary["latency_us"]["p50"],
        "p99_us": summary["latency_us"]["p99"],
    }


def paced(child, port: int, seconds: float) -> dict:
    """Latency from the moment a request was due."""
    flags = ["--connections", str(RATE_CONNECTIONS), "--rate", str(RATE)]
    bench.load(port, *flags, seconds=WARM_UP_S)
    summary = bench.load(port, *flags, pid=child.pid, seconds=seconds)
    latency = {f"{key}_us": summary["latency_us"][key] for key in ("p50", "p99", "p999", "max")}
    own = {f"own_{key}_us": summary["own_lateness_us"][key] for key in ("p50", "p99", "p999")}
    return {
        "requests": summary["requests"]["good"],
        "total_ns": summary["server_cpu"]["ns_per_request"],
        **latency,
        **own,
    }


def counted_all(contestant, port: int, before: int, expected: int) -> None:
    counted = contestant.counted(port) - before
    if counted < expected:
        sys.exit(f"{contestant.name}: {expected} accepted, {counted} counted")


def stripped_bytes(binary: str) -> int:
    """Of the program without its debug information, as one would ship it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stripped"
        subprocess.run(["strip", "-o", str(copy), binary], check=True)
        return copy.stat().st_size


def legs_of(contestant, arguments) -> dict:
    """All that is asked of one server in one round."""
    with contestant.running() as (child, port):
        contestant.check(port)
        idle_bytes = bench.resident_bytes(child.pid)
        single = closed(child, port, arguments.seconds, CONNECTIONS)
        if contestant.name != "floor":
            counted_all(contestant, port, 0, single["requests"])
        latency = paced(child, port, arguments.paced_seconds)
    options = {"batch": BATCH} if contestant.name == "floor" else {}
    # Afresh: what it allocated for many small requests is not what it needs for few large ones.
    with contestant.running(**options) as (child, port):
        contestant.check(port)
        batch = closed(child, port, arguments.seconds, BATCH_CONNECTIONS, BATCH)
        rss = bench.resident_bytes(child.pid)
    return {"single": single, "batch": batch, "paced": latency, "idle_bytes": idle_bytes, "rss_bytes": rss}


def medians(rounds: list[dict]) -> dict:
    """Of one server's rounds. Ticks are few, so the share of user time is that of all rounds together."""

    def over(part: str, field: str) -> dict:
        return bench.spread([leg[part][field] for leg in rounds])

    single = {
        field: over("single", field)
        for field in ("total_ns", "per_s", "p50_us", "p99_us", "server_cores", "generator_cores")
    }
    user, system = (sum(leg["single"][f"{kind}_ticks"] for leg in rounds) for kind in ("user", "system"))
    share = user / max(1, user + system)
    single["user_share"] = share
    single["user_ns"] = single["total_ns"]["median"] * share
    single["system_ns"] = single["total_ns"]["median"] * (1 - share)
    batch = {field: over("batch", field) for field in ("sample_ns", "per_s")}
    batch["samples_per_core_s"] = 1e9 / batch["sample_ns"]["median"]
    paced_figures = {
        field: over("paced", field)
        for field in ("p50_us", "p99_us", "p999_us", "total_ns", "own_p99_us", "own_p999_us")
    }
    return {
        "single": single,
        "batch": batch,
        "paced": paced_figures,
        "idle_bytes": statistics.median(leg["idle_bytes"] for leg in rounds),
        "rss_bytes": statistics.median(leg["rss_bytes"] for leg in rounds),
    }


def builds(arguments) -> dict:
    """Other builds beside the usual one, which comes before and after in turn."""
    usual = contestants.everyone()["sigmad"]
    found = {}
    for given in arguments.build:
        name, _, path = given.partition("=")
        other = contestants.Contestant(name, name, (path, *usual.command[1:]), usual.built_on)
        rounds = []
        for number in range(arguments.rounds):
            legs = {}
            for contestant in (usual, other) if number % 2 == 0 else (other, usual):
                with contestant.running() as (child, port):
                    contestant.check(port)
                    single = closed(child, port, arguments.seconds, CONNECTIONS)
                    batch = closed(child, port, arguments.seconds, BATCH_CONNECTIONS, BATCH)
                    legs[contestant.name] = {"single": single["total_ns"], "batch": batch["sample_ns"]}
            rounds.append(legs)
            ratio = legs[name]["single"] / legs["sigmad"]["single"]
            print(f"round {number + 1} {name}: {ratio:.3f} x", flush=True)
        found[name] = {"title": TITLES.get(name, name)} | {
            f"{load}_ratio": bench.spread([legs[name][load] / legs["sigmad"][load] for legs in rounds])
            for load in ("single", "batch")
        }
    return found


def compare_builds(arguments) -> None:
    with bench.record("builds", arguments.rounds) as record:
        record["builds"] = builds(arguments)
        rows = [
            [one["title"], f"{one['single_ratio']['median']:.3f}", f"{one['batch_ratio']['median']:.3f}"]
            for one in record["builds"].values()
        ]
        record["text"] = bench.table(["build", "single ×", "batch ×"], rows)
        print(record["text"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="length of a closed loop")
    parser.add_argument("--paced-seconds", type=float, default=8, help="length of the steady rate")
    parser.add_argument("--server", action="append", help="one of them; all unless given")
    parser.add_argument("--build", action="append", help="NAME=BINARY: another build beside the usual one")
    arguments = parser.parse_args()
    if arguments.build:
        return compare_builds(arguments)
    everyone = contestants.everyone()
    chosen = [everyone[name] for name in arguments.server or everyone]

    with bench.record("headline", arguments.rounds) as record:
        rounds: dict[str, list[dict]] = {contestant.name: [] for contestant in chosen}
        for number in range(arguments.rounds):
            # Each follows another one every round.
            for contestant in chosen if number % 2 == 0 else reversed(chosen):
                leg = legs_of(contestant, arguments)
                rounds[contestant.name].append(leg)
                print(
                    f"round {number + 1} {contestant.name:9} {leg['single']['total_ns']:7.0f} ns/request "
                    f"{leg['batch']['sample_ns']:6.0f} ns/sample  "
                    f"p50 {leg['paced']['p50_us']:5.0f} p99 {leg['paced']['p99_us']:6.0f} us",
                    flush=True,
                )
        servers = {}
        for contestant in chosen:
            figures = medians(rounds[contestant.name])
            figures |= {"title": contestant.title, "built_on": contestant.built_on}
            figures["binary_bytes"] = stripped_bytes(contestant.binary)
            if "floor" in rounds:
                ratios = [
                    mine["single"]["total_ns"] / floor["single"]["total_ns"]
                    for mine, floor in zip(rounds[contestant.name], rounds["floor"], strict=True)
                ]
                figures["floor_ratio"] = bench.spread(ratios)
                over = [
                    mine["single"]["total_ns"] - floor["single"]["total_ns"]
                    for mine, floor in zip(rounds[contestant.name], rounds["floor"], strict=True)
                ]
                figures["over_floor_ns"] = bench.spread(over)
            servers[contestant.name] = figures
        record["servers"], record["rounds"] = servers, rounds
        if "floor" in rounds:
            floor = servers["floor"]["single"]["total_ns"]
            record["noise"] = {"floor_spread": (floor["max"] - floor["min"]) / floor["median"]}
        record["text"] = table(servers)
        print(record["text"])


def table(servers: dict) -> str:
    """For the reader of the record."""
    rows = []
    for figures in servers.values():
        single, batch, latency = figures["single"], figures["batch"], figures["paced"]
        rows.append(
            [
                figures["title"],
                f"{single['user_ns']:,.0f}",
                f"{single['system_ns']:,.0f}",
                f"{single['total_ns']['median']:,.0f}",
                f"{single['total_ns']['min']:,.0f}–{single['total_ns']['max']:,.0f}",
                f"{figures['floor_ratio']['median']:.2f}" if "floor_ratio" in figures else "–",
                *(f"{latency[key]['median']:,.0f}" for key in ("p50_us", "p99_us", "p999_us")),
                f"{batch['samples_per_core_s'] / 1e6:.2f}",
                f"{contestants.VALUES * batch['samples_per_core_s'] / 1e6:.2f}",
                f"{figures['binary_bytes'] / 2**20:.1f}",
                f"{figures['rss_bytes'] / 2**20:.1f}",
            ]
        )
    header = ["server", "user ns", "system ns", "total ns", "rounds", "× floor", "p50 µs", "p99 µs", "p99.9 µs"]
    return bench.table([*header, "million samples/s/core", "million values/s/core", "binary MiB", "RSS MiB"], rows)


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s")
