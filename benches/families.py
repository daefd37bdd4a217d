#!/usr/bin/env python3
"""What does a request cost over a Unix socket, beside TCP?

One sigmad listens on both. It has core 0, `sigmad load` core 1; bursts over either family and over TCP against the
epoll floor take turns, each family first in every second round. Of each number of connections: CPU time of a request
with one sample in a closed loop, and its quotients in the same round.

    benches/families.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import bench
import contestants

CONNECTIONS = (64, 4, 1)
WARM_UP_S = 0.2


def burst(target: int | str, pid: int, connections: int, seconds: float) -> float:
    """CPU time of the server for a request, in nanoseconds."""
    flags = ["--connections", str(connections)]
    bench.load(target, *flags, seconds=WARM_UP_S)
    return bench.load(target, *flags, pid=pid, seconds=seconds)["server_cpu"]["ns_per_request"]


def quartiles(values: list[float]) -> dict:
    """Of an odd or even number of rounds, without interpolation."""
    ordered = sorted(values)
    last = len(ordered) - 1
    names = {"q1": 1, "median": 2, "q3": 3}
    return {name: ordered[round(last * part / 4)] for name, part in names.items()} | {"values": values}


def measured(arguments) -> list[dict]:
    everyone = contestants.everyone()
    floor, sigmad = everyone["floor"], everyone["sigmad"]
    with tempfile.TemporaryDirectory(prefix="sigmad-bench-") as folder, floor.running() as (below, floor_port):
        path = f"unix:{Path(folder) / 'socket'}"
        both = contestants.Contestant("sigmad", "sigmad", (*sigmad.command, "--listen", path), sigmad.built_on)
        with both.running() as (child, port):
            both.check(port)
            targets = {"tcp": (port, child.pid), "unix": (path, child.pid), "floor": (floor_port, below.pid)}
            rows = []
            for connections in CONNECTIONS:
                rounds = []
                for number in range(arguments.rounds):
                    order = list(targets) if number % 2 == 0 else list(reversed(targets))
                    rounds.append({name: burst(*targets[name], connections, arguments.seconds) for name in order})
                row = {"connections": connections}
                for name in targets:
                    row[f"{name}_ns"] = quartiles([one[name] for one in rounds])
                for above, under in (("unix", "tcp"), ("tcp", "floor"), ("unix", "floor")):
                    row[f"{above}_by_{under}"] = quartiles([one[above] / one[under] for one in rounds])
                rows.append(row)
                print(
                    f"{connections:2} connections: tcp {row['tcp_ns']['median']:6.0f} ns, "
                    f"unix {row['unix_ns']['median']:6.0f}, floor {row['floor_ns']['median']:6.0f}",
                    flush=True,
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=1, help="length of a burst")
    arguments = parser.parse_args()

    def shown(figures: dict) -> str:
        return f"{figures['median']:.2f} ({figures['q1']:.2f}–{figures['q3']:.2f})"

    with bench.record("families", arguments.rounds) as record:
        record["families"] = measured(arguments)
        rows = [
            [
                str(row["connections"]),
                *(f"{row[f'{name}_ns']['median']:,.0f}" for name in ("tcp", "unix", "floor")),
                *(shown(row[name]) for name in ("unix_by_tcp", "tcp_by_floor", "unix_by_floor")),
            ]
            for row in record["families"]
        ]
        header = ["connections", "TCP ns", "Unix ns", "floor ns", "Unix ÷ TCP", "TCP ÷ floor", "Unix ÷ floor"]
        record["text"] = bench.table(header, rows)
        print(record["text"])


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s")
