#!/usr/bin/env python3
"""What does a wait of the worker cost beside the wait: timers that the kernel starts, and interrupted rounds?

sigmad and other builds have core 0 in turns, `sigmad load` has core 1. `perf stat` counts the timers that the worker's
thread starts. A wait is a voluntary context switch, and an interruption an involuntary one, as the kernel counts
them. Both are divided by the waits: a busy machine has fewer of them, not others.

    benches/waits.py --build before=/tmp/sigmad
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import bench
import contestants
import families

LOADS = ("1", "100/s", "1000/s", "10000/s")
TIMERS = "timer:hrtimer_start"


def worker_of(pid: int) -> Path:
    """Its thread, in /proc."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return next(thread for thread in threads if (thread / "comm").read_text().startswith("worker-"))


def switches(thread: Path) -> tuple[int, int]:
    """Voluntary and involuntary context switches so far."""
    found = re.findall(r"^(?:non)?voluntary_ctxt_switches:\s*(\d+)", (thread / "status").read_text(), re.MULTILINE)
    return int(found[0]), int(found[1])


def burst(binary: str, load: str, seconds: float) -> dict[str, int]:
    """One process, one load."""
    sigmad = contestants.everyone()["sigmad"]
    one = contestants.Contestant("sigmad", "sigmad", (binary, *sigmad.command[1:]), sigmad.built_on)
    with one.running() as (child, port):
        worker = worker_of(child.pid)
        bench.load(port, *families.flags_of(load), seconds=families.WARM_UP_S)
        command = ["perf", "stat", "-t", worker.name, "-x", ";", "-e", TIMERS]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as counter:
            # Until it has attached; what it misses it misses of all builds.
            time.sleep(0.5)
            before = switches(worker)
            requests = bench.load(port, *families.flags_of(load), seconds=seconds)["requests"]["good"]
            after = switches(worker)
            counter.send_signal(signal.SIGINT)
            counted = counter.communicate()[1]
        timers = int(re.search(rf"^(\d+);.*{TIMERS}", counted, re.MULTILINE).group(1))
    waits, interruptions = (now - then for now, then in zip(after, before, strict=True))
    return {"requests": requests, "waits": waits, "interruptions": interruptions, "timers": timers}


def total(bursts: list[dict[str, int]]) -> dict:
    """Of all rounds."""
    found = {name: sum(one[name] for one in bursts) for name in bursts[0]}
    by_wait = {f"{name}_by_wait": found[name] / found["waits"] for name in ("timers", "interruptions")}
    return found | by_wait


def table(rows: list[dict]) -> str:
    builds = [name for name in rows[0] if name != "load"]
    whats = ("timers", "interruptions")
    header = ["load", *(f"{name}: {what} a wait" for name in builds for what in whats)]
    lines = [
        [row["load"], *(f"{row[name][f'{what}_by_wait']:.2f}" for name in builds for what in whats)] for row in rows
    ]
    return bench.table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--load", action="append", help=f"as families.py has them: {', '.join(LOADS)}")
    parser.add_argument("--build", action="append", default=[], help="NAME=BINARY: another build")
    arguments = parser.parse_args()
    builds = {"sigmad": bench.sigmad_binary()} | dict(one.split("=", 1) for one in arguments.build)
    with bench.record("waits", arguments.rounds) as record:
        rows = []
        for load in arguments.load or LOADS:
            found = {name: [] for name in builds}
            for _ in range(arguments.rounds):
                for name, binary in builds.items():
                    found[name].append(burst(binary, load, arguments.seconds))
            rows.append({"load": load, **{name: total(bursts) for name, bursts in found.items()}})
            print(rows[-1], flush=True)
        record["waits"] = rows
        record["manifest"]["load_average_at_end"] = os.getloadavg()[0]
        record["text"] = table(rows)
        print(record["text"])


if __name__ == "__main__":
    main()
