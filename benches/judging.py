#!/usr/bin/env python3
"""What does a judgement cost the analytics thread of a running server, by the detectors that run?

A fleet of devices with two metrics each sends batches in no order, as from a network. The CPU time of that
thread alone is divided by the values it judged: a sample of two metrics is four judgements, of its
device and of the fleet. Streams have hundreds of values each before it is measured.

    cargo build --release && benches/judging.py

`--binary`, given again, compares builds: they take turns, and any has the machine as the others had it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import bench

LISTS = ("zscore", "zscore,pager", "zscore,robust,residual,novelty,pager")
DEVICES = 2_000
# cpu and rps of each sample, against its device and the fleet.
JUDGEMENTS = 4
BATCH = 100
# Samples a second: of what the thread can take a part, so that none wait.
RATE = 200_000
WARM_S = 6.0
MEASURED_S = 3.0


def analytics_thread(pid: int) -> Path:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith("analytics"):
            return task
    raise LookupError("no thread is called analytics")


def judged(port: int) -> int:
    answer = bench.exchange(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").decode()
    return int(float(re.search(r"^sigmad_samples_judged_total (\S+)", answer, re.M).group(1)))


def measure(binary: str, detectors: str) -> dict:
    flags = ["--workers", "1", "--pin", "off", "--detector", detectors]
    with bench.sigmad(*flags, core=bench.SERVER_CORE, binary=binary) as (child, port):
        fleet = ["--profile", "devices", "--devices", str(DEVICES), "--batch", str(BATCH)]
        fleet += ["--connections", "4", "--rate", str(RATE // BATCH)]
        schedule = analytics_thread(child.pid) / "schedstat"

        def now() -> tuple[int, int]:
            samples = judged(port)  # first judges what was sent before
            return samples, int(schedule.read_text().split()[0])

        bench.load(port, *fleet, seconds=WARM_S)
        before = now()
        bench.load(port, *fleet, seconds=MEASURED_S)
        after = now()
        samples = after[0] - before[0]
        return {
            "samples": samples,
            "values_a_stream_before": before[0] / DEVICES,
            "ns_a_judgement": (after[1] - before[1]) / samples / JUDGEMENTS,
            "resident_bytes": bench.resident_bytes(child.pid),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", action="append", help="default: the release build, or SIGMAD")
    parser.add_argument("--detectors", action="append", help=f"lists; default: {' '.join(LISTS)}")
    arguments = parser.parse_args()
    binaries = arguments.binary or [bench.sigmad_binary()]
    lists = arguments.detectors or LISTS
    with bench.record("judging", arguments.rounds) as found:
        runs = {(detectors, binary): [] for detectors in lists for binary in binaries}
        for _ in range(arguments.rounds):
            for (detectors, binary), rounds in runs.items():
                rounds.append(measure(binary, detectors))
                print(detectors, Path(binary).name, rounds[-1], flush=True)
        rows = []
        for (detectors, binary), rounds in runs.items():
            spread = bench.spread([one["ns_a_judgement"] for one in rounds])
            figures = [f"{spread[key]:.0f}" for key in ("median", "min", "max")]
            rows.append([detectors, Path(binary).name, *figures])
        found["runs"] = [
            {"detectors": detectors, "binary": Path(binary).name, "rounds": rounds}
            for (detectors, binary), rounds in runs.items()
        ]
        found["text"] = bench.table(["detectors", "build", "ns a judgement", "least", "most"], rows)
        print(found["text"])


if __name__ == "__main__":
    main()
