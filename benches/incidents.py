#!/usr/bin/env python3
"""What incidents cost a running server: CPU time of the analytics thread by value, and memory by device.

    cargo build --release && benches/incidents.py

The same server with incidents on and off, in turns, under the same samples; fleets whose streams have 2,000, 100 and 10
values an interval. Intervals have 2 s and not 10, so that each run has several; the rate is five times as high as it
would be with 10. A value of a device is judged twice, by its device and by the fleet. CPU time is that of the thread,
so a busy machine changes caches alone. Memory is compared after each stream has its second interval, and divided by
the devices.
"""

from __future__ import annotations

import argparse
import statistics

import bench
from judging import analytics_thread, judged

FLEETS = (100, 2_000, 20_000)
INTERVAL_S = 2
# cpu and rps of each sample.
VALUES = 2
BATCH = 100
DEVICES_HELD = 20_000


def flags(is_on: bool, interval: str) -> list[str]:
    incidents = "on" if is_on else "off"
    return [
        "--workers",
        "1",
        "--analytics",
        "1",
        "--pin",
        "off",
        "--incidents",
        incidents,
        "--incident-interval",
        interval,
    ]


def samples(devices: int, rate: int) -> list[str]:
    fleet = ["--profile", "devices", "--devices", str(devices), "--batch", str(BATCH), "--timeout", "60s"]
    return [*fleet, "--connections", "4", "--rate", str(rate // BATCH)]


def ns_a_value(is_on: bool, devices: int, arguments: argparse.Namespace) -> float:
    with bench.sigmad(*flags(is_on, f"{INTERVAL_S}s")) as (child, port):
        # A stream takes its memory with its second interval, and is judged from its third one on.
        bench.load(port, *samples(devices, arguments.rate), core=None, seconds=3.5 * INTERVAL_S)
        schedule = analytics_thread(child.pid) / "schedstat"

        def now() -> tuple[int, int]:
            count = judged(port)  # first judges what was sent before
            return count, int(schedule.read_text().split()[0])

        before = now()
        bench.load(port, *samples(devices, arguments.rate), core=None, seconds=arguments.intervals * INTERVAL_S)
        after = now()
        return (after[1] - before[1]) / (after[0] - before[0]) / VALUES


def bytes_a_device(is_on: bool) -> float:
    with bench.sigmad(*flags(is_on, "1s")) as (child, port):
        empty = bench.resident_bytes(child.pid)
        while judged(port) < 4 * DEVICES_HELD:
            bench.load(port, *samples(DEVICES_HELD, 10_000), core=None, seconds=8)
        return (bench.resident_bytes(child.pid) - empty) / DEVICES_HELD


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=100_000, help="samples a second")
    parser.add_argument("--intervals", type=int, default=2, help="measured in each run")
    arguments = parser.parse_args()
    with bench.record("incidents", arguments.rounds) as found:
        runs: dict[int, dict[bool, list[float]]] = {devices: {True: [], False: []} for devices in FLEETS}
        for turn in range(arguments.rounds):
            for devices, sides in runs.items():
                # Which side comes first changes, so that a drift is no difference.
                for is_on in (True, False) if turn % 2 else (False, True):
                    sides[is_on].append(ns_a_value(is_on, devices, arguments))
        held = {is_on: bytes_a_device(is_on) for is_on in (True, False)}
        rows = []
        for devices, sides in runs.items():
            more = [on - off for on, off in zip(sides[True], sides[False], strict=True)]
            values = arguments.rate * INTERVAL_S // devices
            case = f"{devices} devices, {values} values an interval: ns a value"
            rows.append([case, *map(quartiles, (sides[False], sides[True], more))])
        cells = [f"{held[False]:.0f}", f"{held[True]:.0f}", f"{held[True] - held[False]:.0f}"]
        rows.append([f"{DEVICES_HELD} devices of two streams, bytes a device", *cells])
        found["runs"] = {devices: {"on": sides[True], "off": sides[False]} for devices, sides in runs.items()}
        found["bytes_a_device"] = {"on": held[True], "off": held[False]}
        found["text"] = bench.table(["", "off", "on", "more"], rows)
        print(found["text"])


if __name__ == "__main__":
    main()
