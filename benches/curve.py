#!/usr/bin/env python3
"""What becomes of latency and goodput as the load grows, up to twice what the server can do?

First the peak: the goodput of a closed loop, of requests with one sample and of batches of 100. Then an
open loop at shares of that peak, past the knee, where latency counts from the moment a request was due.
The server has core 0, `sigmad load` core 1; both are nearly full at the peak of single requests, so the
record says of each rate how busy either was, and whether the generator kept its own timetable.

Nothing is refused there: worker and analytics thread share a core, and what is not read waits in the sockets.
So then the overload that refuses: with `--detector pager` the analytics thread is the bottleneck, on core 1 beside
the load, while the worker has time on core 0; the queue fills, and what does not fit is answered 503. Goodput
counts what was answered with 202 alone.

    benches/curve.py
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics

import bench
import contestants

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
OVERLOAD_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0)
WARM_UP_S = 0.5


@dataclasses.dataclass(frozen=True)
class Load:
    name: str
    title: str
    batch: int
    # Of the closed loop that finds the peak, and of the open one: enough that the generator never waits
    # for a free one below the knee, and that past it the server always has something to do.
    peak_connections: int
    connections: int


LOADS = (Load("single", "one sample a request", 1, 64, 256), Load("batch", "100 samples a request", 100, 16, 64))


def point(port: int, pid: int, load: Load, rate: float, seconds: float) -> dict:
    """One rate of the open loop."""
    flags = ["--connections", str(load.connections), "--rate", str(max(1, round(rate)))]
    summary = bench.offer(port, *flags, *contestants.batch_flags(load.batch), pid=pid, seconds=seconds)
    requests, latency, refused = summary["requests"], summary["latency_us"], summary["refusal_latency_us"]
    return {
        "offered_per_s": round(rate),
        "good_per_s": requests["good"] / summary["elapsed_s"],
        "refused_per_s": summary["status"].get("503", 0) / summary["elapsed_s"],
        "other_failures": requests["failed"] - summary["status"].get("503", 0),
        "unsent": requests["unsent"],
        **{f"{key}_us": latency[key] for key in ("p50", "p90", "p99", "p999", "max")},
        "refusal_p50_us": refused["p50"] if refused else None,
        "refusal_p99_us": refused["p99"] if refused else None,
        "own_p99_us": summary["own_lateness_us"]["p99"],
        "server_cores": summary["server_cpu"]["cores"],
        "generator_cores": summary["generator_cpu"]["cores"],
        "samples_per_request": load.batch,
    }


def peak(port: int, load: Load, seconds: float) -> float:
    flags = ["--connections", str(load.peak_connections), *contestants.batch_flags(load.batch)]
    bench.offer(port, *flags, seconds=WARM_UP_S)
    summary = bench.offer(port, *flags, seconds=seconds)
    return summary["requests"]["good"] / summary["elapsed_s"]


def across(rounds: list[list[dict]]) -> list[dict]:
    """The median of each figure of each rate."""
    found = []
    for points in zip(*rounds, strict=True):
        merged = {}
        for key in points[0]:
            values = [one[key] for one in points if one[key] is not None]
            merged[key] = statistics.median(values) if values else None
        found.append(merged)
    return found


def curve(contestant, load: Load, shares: tuple[float, ...], arguments) -> dict:
    peaks, rounds = [], []
    for number in range(arguments.rounds):
        with contestant.running() as (child, port):
            contestant.check(port)
            # All rounds offer the same rates, those of the first peak.
            peaks.append(peak(port, load, arguments.seconds))
            points = [point(port, child.pid, load, share * peaks[0], arguments.seconds) for share in shares]
            rounds.append(points)
        print(f"round {number + 1} {contestant.name} {load.name}: peak {peaks[-1]:.0f}/s", flush=True)
    points = across(rounds)
    top = max(statistics.median(peaks), *(one["good_per_s"] for one in points))
    last = points[-1]
    return {
        "title": load.title,
        "peak_per_s": bench.spread(peaks),
        "points": points,
        "overload_goodput_share": last["good_per_s"] / top,
        "best_per_s": top,
        "rounds": rounds,
    }


def table(found: dict) -> str:
    parts = []
    for name, one in found.items():
        rows = [
            [
                f"{point['offered_per_s']:,.0f}",
                f"{point['good_per_s']:,.0f}",
                f"{point['refused_per_s']:,.0f}",
                *(f"{point[key]:,.0f}" for key in ("p50_us", "p99_us", "p999_us")),
                f"{point['refusal_p50_us']:,.0f}" if point["refusal_p50_us"] else "",
                f"{point['refusal_p99_us']:,.0f}" if point["refusal_p99_us"] else "",
                f"{point['own_p99_us']:,.0f}",
                f"{point['server_cores']:.2f}",
                f"{point['generator_cores']:.2f}",
            ]
            for point in one["points"]
        ]
        header = ["offered/s", "good/s", "503/s", "p50 µs", "p99 µs", "p99.9 µs", "503 p50 µs", "503 p99 µs"]
        parts.append(
            f"{name}: {one['title']}; peak {one['peak_per_s']['median']:,.0f}/s; "
            f"goodput in overload {one['overload_goodput_share']:.1%} of the best\n\n"
            + bench.table([*header, "own lateness p99 µs", "server cores", "generator cores"], rows)
        )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one rate")
    arguments = parser.parse_args()
    sigmad = contestants.everyone()["sigmad"]
    command = (*sigmad.command, "--detector", "pager")
    pager = dataclasses.replace(sigmad, name="pager", command=command, cores=f"{bench.SERVER_CORE},{bench.LOAD_CORE}")
    with bench.record("curve", arguments.rounds) as record:
        found = {load.name: curve(sigmad, load, SHARES, arguments) for load in LOADS}
        refusing = dataclasses.replace(LOADS[1], title="100 samples a request, --detector pager", connections=256)
        found["refusing"] = curve(pager, refusing, OVERLOAD_SHARES, arguments)
        record["curves"] = found
        record["text"] = table(found)
        print(record["text"])


if __name__ == "__main__":
    main()
