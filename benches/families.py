#!/usr/bin/env python3
"""What does a request cost over TCP and over a Unix socket, with few connections, with many, and at a low rate?

One sigmad listens on both; beside it are may_minihttp, the epoll floor, sigmad over io_uring and, if need be, other
builds. All have core 0, `sigmad load` has core 1. Bursts take turns, in one order in every second round, in the other
in the rest. Of each load: CPU time of a request with one sample, and its quotients in the same round.

    benches/families.py
    benches/families.py --load 4 --load 1000/s --server tcp --server floor --build "other=/tmp/sigmad --window 100"
    benches/families.py --load 64x16 --server tcp --foreign "theirs=/path=server 127.0.0.1:{port}"
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import subprocess
import time

import bench
import contestants

# Closed loops of so many connections, perhaps with so many open requests each (64x16), or so many requests a second.
LOADS = ("1", "4", "16", "64", "512", "4096", "100/s", "1000/s", "10000/s")
RATE_CONNECTIONS = 16
SERVERS = ("tcp", "unix", "may", "floor", "io_uring")
WARM_UP_S = 0.1
# What takes a burst at a low rate, so that its requests are enough to divide by.
PACED_REQUESTS_MIN = 200


def flags_of(load: str) -> list[str]:
    if load.endswith("/s"):
        return ["--connections", str(RATE_CONNECTIONS), "--rate", load.removesuffix("/s")]
    connections, _, pipeline = load.partition("x")
    return ["--connections", connections, "--pipeline", pipeline or "1"]


def burst(target: int | str, pid: int, load: str, seconds: float) -> float:
    """CPU time of the server for a request, in nanoseconds."""
    flags = flags_of(load)
    if "/" in load:
        seconds = max(seconds, PACED_REQUESTS_MIN / int(load.removesuffix("/s")))
    bench.load(target, *flags, seconds=WARM_UP_S)
    return bench.load(target, *flags, pid=pid, seconds=seconds)["server_cpu"]["ns_per_request"]


def quartiles(values: list[float]) -> dict:
    """Of an odd or even number of rounds, without interpolation."""
    ordered = sorted(values)
    last = len(ordered) - 1
    names = {"q1": 1, "median": 2, "q3": 3}
    return {name: ordered[round(last * part / 4)] for name, part in names.items()} | {"values": values}


def foreign(command: str, stack: contextlib.ExitStack) -> tuple[str, int]:
    """A program of others, as PATH=COMMAND. It answers a POST to PATH with 2xx; no more is asked of it."""
    path, _, line = command.partition("=")
    port = bench.free_port()
    words = shlex.split(line.format(port=port))
    child = stack.enter_context(bench.running(bench.pinned(str(bench.SERVER_CORE), words), stderr=subprocess.DEVNULL))
    bench.wait_for_listener(port, bench.START_TIMEOUT_S)
    return f"http://127.0.0.1:{port}{path}", child.pid


@contextlib.contextmanager
def targets(names: list[str], builds: dict[str, list[str]], foreigners: dict[str, str]):
    """Where each server answers, and its process."""
    everyone = contestants.everyone()
    sigmad, switched = everyone["sigmad"], contestants.switched()
    with contextlib.ExitStack() as stack:

        def started(one: contestants.Contestant) -> tuple[int, int]:
            child, port = stack.enter_context(one.running())
            one.check(port)
            return port, child.pid

        found: dict[str, tuple[int | str, int]] = {}
        port, pid = found["tcp"] = started(switched["unix"])
        found["unix"] = (switched["unix"].target(port), pid)
        if "may" in names:
            found["may"] = started(everyone["may"])
        found["floor"] = started(everyone["floor"])
        if "io_uring" in names:
            found["io_uring"] = started(switched["io_uring"])
        for name, (binary, *flags) in builds.items():
            command = (binary, *sigmad.command[1:], *flags)
            found[name] = started(dataclasses.replace(sigmad, name=name, command=command))
        for name, command in foreigners.items():
            found[name] = foreign(command, stack)
        yield {name: found[name] for name in [*names, *builds, *foreigners]}


def quotients(names: list[str]) -> list[tuple[str, str]]:
    """All by TCP over epoll and by the floor, as far as they are there."""
    pairs = [(name, under) for under in ("tcp", "floor") for name in names if name not in (under, "floor")]
    return [(name, under) for name, under in pairs if under in names]


def measured(arguments, names: list[str], builds: dict[str, list[str]], foreigners: dict[str, str]) -> list[dict]:
    rows = []
    with targets(names, builds, foreigners) as chosen:
        everyone = list(chosen)
        for load in arguments.load or LOADS:
            rounds = []
            for number in range(arguments.rounds):
                order = everyone if number % 2 == 0 else list(reversed(everyone))
                one = {name: burst(*chosen[name], load, arguments.seconds) for name in order}
                rounds.append(one)
            row = {"load": load}
            for name in everyone:
                row[f"{name}_ns"] = quartiles([one[name] for one in rounds])
            for above, under in quotients(everyone):
                row[f"{above}_by_{under}"] = quartiles([one[above] / one[under] for one in rounds])
            rows.append(row)
            medians = ", ".join(f"{name} {row[f'{name}_ns']['median']:.0f}" for name in everyone)
            print(f"{load:>7}: {medians} ns", flush=True)
    return rows


def table(rows: list[dict], everyone: list[str]) -> str:
    def shown(figures: dict) -> str:
        return f"{figures['median']:.2f} ({figures['q1']:.2f}–{figures['q3']:.2f})"

    pairs = quotients(everyone)
    header = ["load", *(f"{name} ns" for name in everyone), *(f"{above} ÷ {under}" for above, under in pairs)]
    lines = [
        [
            row["load"],
            *(f"{row[f'{name}_ns']['median']:,.0f}" for name in everyone),
            *(shown(row[f"{above}_by_{under}"]) for above, under in pairs),
        ]
        for row in rows
    ]
    return bench.table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=1, help="length of a burst; of a low rate it is longer")
    parser.add_argument("--load", action="append", help=f"connections, CONNECTIONSxPIPELINE or N/s: {', '.join(LOADS)}")
    parser.add_argument("--server", action="append", choices=SERVERS, help="all unless given")
    parser.add_argument("--build", action="append", default=[], help="NAME=BINARY FLAGS: another build, over TCP")
    parser.add_argument("--foreign", action="append", default=[], help="NAME=PATH=COMMAND with {port}: no sigmad")
    parser.add_argument("--record", default="families", help="its name")
    arguments = parser.parse_args()
    names = arguments.server or list(SERVERS)
    builds = {name: shlex.split(command) for name, _, command in (one.partition("=") for one in arguments.build)}
    foreigners = {name: command for name, _, command in (one.partition("=") for one in arguments.foreign)}
    with bench.record(arguments.record, arguments.rounds) as record:
        record["families"] = measured(arguments, names, builds, foreigners)
        record["text"] = table(record["families"], [*names, *builds, *foreigners])
        print(record["text"])


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s")
