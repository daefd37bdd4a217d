#!/usr/bin/env python3
"""How many years of a replica does the simulator run in an hour, and does any seed break a law?

cargo build --release --example simulate && benches/reliability.py
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import bench

HOURS_PER_YEAR = 8_766
# The last line of the simulator.
REPORT = re.compile(
    r"(?P<seeds>\d+) seeds \(\d+ kept, new ones from (?P<first>\d+)\) in (?P<seconds>[\d.]+) s: "
    r"(?P<events>\d+) events, (?P<samples>\d+) samples, "
    r"(?P<replica_hours>[\d.]+) replica-hours, .*; (?P<failed>\d+) failed"
)


def simulator() -> str:
    target = os.environ.get("CARGO_TARGET_DIR", Path(__file__).resolve().parent.parent / "target")
    return str(Path(target) / "release/examples/simulate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--binary", default=simulator())
    parser.add_argument("--seconds", type=int, default=300, help="for new seeds, after the kept ones")
    parser.add_argument("--first", type=int, default=1, help="the first of the new seeds")
    arguments = parser.parse_args()
    command = [arguments.binary, f"--seconds={arguments.seconds}", f"--first={arguments.first}"]
    with bench.record("reliability", 1) as record:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = REPORT.search(done.stdout)
        if done.returncode != 0 or found is None:
            sys.exit(f"a seed breaks a law:\n{done.stdout}{done.stderr}")
        record |= {name: float(text) if "." in text else int(text) for name, text in found.groupdict().items()}
        hours = record["seconds"] / 3_600
        record["replica_years_per_hour"] = record["replica_hours"] / HOURS_PER_YEAR / hours
        record["text"] = text(record)
        print(record["text"])


def text(record: dict) -> str:
    rows = [
        ["seeds, all without a violation", str(record["seeds"])],
        ["events", f"{record['events']:,}"],
        ["samples", f"{record['samples']:,}"],
        ["hours of one replica", f"{record['replica_hours']:.1f}"],
        ["seconds that it took", f"{record['seconds']:.0f}"],
        ["replica-years per hour", f"{record['replica_years_per_hour']:.3f}"],
    ]
    return bench.table(["simulated", ""], rows)


if __name__ == "__main__":
    main()
