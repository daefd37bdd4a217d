#!/usr/bin/env python3
"""Makes one folder of records the one that PERF.md speaks of: its figures, its plots, and the flamegraphs.

    benches/publish.py benches/record/2026-01-31-some-machine-2c

The sentences stay: read them once more, for what they say of the figures may no longer be so.
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

Each rung of the ladder (see [PERF.md](../PERF.md)) before, after, and the difference. A picture is as
wide as a request costs in CPU time; hover over a frame for its ns, click to zoom, search with Ctrl-F.
Orange is the kernel, green Rust, red C and what has no name. In a difference red is more than before,
blue less; it is drawn as wide as the dearer of both, so that what went away can be seen.

Commit {commit}, {cpu}, Linux {kernel}, {date}, `benches/{command}`, which `make perf` runs: perf with
cpu-clock at 999 Hz and stacks by DWARF; 64 connections, one sample a request, the server on core 0,
writing to a Redis. [The record]({record}) says how many samples each has, and how much of the CPU time.

These are one round each: read them for what a function is, and the ladder's rounds for what it costs.

| rung | pictures | ns before | ns after | look at: the program's functions whose own ns changed most |
| --- | --- | ---: | ---: | --- |
{rows}
"""


def index(folder: Path) -> str:
    """What each picture is, and what to look at first: what rose and fell the most."""
    record = json.loads((folder / "flamegraphs.json").read_text())
    rows = []
    for before, after in itertools.pairwise(record["rungs"].values()):
        slug = after["slug"]
        pictures = ", ".join(f"[{which}]({slug}-{which}.svg)" for which in ("before", "after", "diff"))
        # What the kernel's functions cost differs from round to round by more than most rungs bring.
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
