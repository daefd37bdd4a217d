#!/usr/bin/env python3
"""Makes PERF.md refer to one folder of records: its figures, its plots, and the flamegraphs.

    benches/publish.py benches/record/2026-01-31-some-machine-2c

The sentences stay: read them again, as they may no longer fit the figures.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import bench

FLAMEGRAPHS = bench.ROOT / "flamegraphs"


INDEX = """\
# Flamegraphs of the ladder

Each rung of the ladder (see [PERF.md](../PERF.md)) before, after, and the difference. The width of a picture is
the CPU time of a request. Hover over a frame for its ns, click to zoom, search with Ctrl-F.
Orange is the kernel, green Rust, red C and code without a name. In a difference, red is more than before and
blue less; it is as wide as the more expensive of both, so that removed functions are visible.

Commit {commit}, {cpu}, Linux {kernel}, {date}, `benches/{command}`, which `make perf` runs: perf with
cpu-clock at 999 Hz and stacks by DWARF; 64 connections, one sample a request, the server on core 0,
writing to a Redis. [The record]({record}) has the number of samples of each, and their share of the CPU time.

Each is from one round: use it to find functions, and the rounds of the ladder for their cost.

| rung | pictures | ns before | ns after | functions of the program with the largest change of own ns |
| --- | --- | ---: | ---: | --- |
{rows}
"""


def index(folder: Path) -> str:
    """The pictures of each rung, with the functions that changed the most."""
    record = json.loads((folder / "flamegraphs.json").read_text())
    rows = []
    for before, after in itertools.pairwise(record["rungs"].values()):
        slug = after["slug"]
        pictures = ", ".join(f"[{which}]({slug}-{which}.svg)" for which in ("before", "after", "diff"))
        # The cost of kernel functions varies between rounds by more than most rungs change it.
        own = [one for one in after["moved"] if "::" in one["function"] or "alloc" in one["function"]]
        moved = [f"`{one['function']}` {one['change_ns']:+,.0f}".replace("-", "−") for one in own[:3]]
        costs = [f"{one['ns_per_request']:,.0f}" for one in (before, after)]
        rows.append(f"| {after['title']} | {pictures} | {' | '.join(costs)} | {', '.join(moved)} |")
    manifest = record["manifest"]
    return INDEX.format(
        **{name: manifest[name] for name in ("commit", "cpu", "kernel", "command")},
        date=manifest["date"][:10],
        record=f"../{folder.relative_to(bench.ROOT)}/flamegraphs.md",
        rows="\n".join(rows),
    )


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    FLAMEGRAPHS.mkdir(exist_ok=True)
    for old in FLAMEGRAPHS.glob("*.svg"):
        old.unlink()
    for picture in sorted((folder / "flamegraphs").glob("*.svg")):
        shutil.copy(picture, FLAMEGRAPHS / picture.name)
    (FLAMEGRAPHS / "README.md").write_text(index(folder))
    subprocess.run([sys.executable, str(Path(__file__).with_name("draw.py")), str(folder)], check=True)
    command = [sys.executable, str(Path(__file__).with_name("figures.py")), "--write", str(folder)]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
