#!/usr/bin/env python3
"""Where does the time of a request go, stage by stage?

sigmad times the stages of one read in so many and tells them at /debug/latency. Asked here after a steady
1,000 requests a second, and after as many as 64 connections can ask; a fresh process for each. The server
has core 0, `sigmad load` core 1.

    benches/budget.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

import bench
import contestants

LOADS = {
    "paced": ("1,000 requests a second", ["--connections", "16", "--rate", "1000"]),
    "full": ("64 connections, closed loop", ["--connections", "64"]),
}
FIELDS = {"meanNs": "mean_ns", "p50Ns": "p50_ns", "p99Ns": "p99_ns", "p99.9Ns": "p999_ns"}
# Not part of what a client waits for one after the other: the sum, and what comes after the answer.
WHOLE, AFTER = "whole", "analytics"


def stages(port: int) -> dict:
    request = b"GET /debug/latency HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"
    head, _, body = bench.exchange(port, request).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        sys.exit(head.decode())
    return json.loads(body)


def leg(flags: list[str], seconds: float) -> dict:
    sigmad = contestants.everyone()["sigmad"]
    with sigmad.running() as (_, port):
        sigmad.check(port)
        summary = bench.load(port, *flags, seconds=seconds)
        return {"told": stages(port), "latency_us": summary["latency_us"]}


def across(rounds: list[dict]) -> list[dict]:
    """The median of each figure of each stage; a stage that was never timed has none."""
    found = []
    for stage in rounds[0]["told"]["stages"]:
        same = [next(one for one in leg["told"]["stages"] if one["stage"] == stage["stage"]) for leg in rounds]
        merged = {"name": stage["stage"], "covers": stage["covers"]}
        for field, name in FIELDS.items():
            values = [one[field] for one in same if one[field] is not None]
            merged[name] = statistics.median(values) if values else None
        merged["count"] = sum(one["count"] or 0 for one in same) or None
        found.append(merged)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    with bench.record("budget", arguments.rounds) as record:
        rounds: dict[str, list[dict]] = {name: [] for name in LOADS}
        for _ in range(arguments.rounds):
            for name, (_, flags) in LOADS.items():
                rounds[name].append(leg(flags, arguments.seconds))
        record["loads"] = {}
        for name, (title, _) in LOADS.items():
            told = across(rounds[name])
            outside = statistics.median(one["latency_us"]["p50"] for one in rounds[name])
            record["loads"][name] = {
                "title": title,
                "timed_one_in": rounds[name][0]["told"]["timedOneIn"],
                "stages": [one for one in told if one["name"] not in (WHOLE, AFTER)],
                **{one["name"]: one for one in told if one["name"] in (WHOLE, AFTER)},
                "outside_p50_us": outside,
            }
        record["text"] = text(record["loads"])
        print(record["text"])


def text(loads: dict) -> str:
    parts = []
    for one in loads.values():
        rows = [
            [stage["name"], str(stage["count"] or ""), *(shown(stage[key]) for key in FIELDS.values()), stage["covers"]]
            for stage in [*one["stages"], one[WHOLE], one[AFTER]]
        ]
        header = ["stage", "timed", "mean ns", "p50 ns", "p99 ns", "p99.9 ns", "covers"]
        parts.append(f"{one['title']}: p50 from outside {one['outside_p50_us']:.1f} µs\n\n{bench.table(header, rows)}")
    return "\n\n".join(parts)


def shown(ns: float | None) -> str:
    return "" if ns is None else f"{ns:,.0f}"


if __name__ == "__main__":
    main()
