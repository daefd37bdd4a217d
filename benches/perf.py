#!/usr/bin/env python3
"""Everything that PERF.md rests on, once more, on this machine: builds, then one part after the other.

Each part is a bench of its own, with a record of its own in benches/record/<date>-<machine>; flamegraphs
and plots lie beside them. PERF.md stays as it is until `benches/figures.py --publish FOLDER` makes that folder the one
it speaks of.

    benches/perf.py                    all of it: the builds, then 40 minutes of a machine that does nothing else
    benches/perf.py --quick            the builds, then 6 minutes: one short round of everything, for a first look
    benches/perf.py --part ladder      one part; --list names them

Comparisons with older builds and with programs of others run alone: families.py, waits.py, batches.py.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import bench
import contestants

FRAME_POINTERS = bench.target_dir().parent / "frame-pointers"
# sigmad with one line changed: the stages of every read are timed, not those of one in 64.
EVERY_STAGE = bench.target_dir().parent / "every-stage"
EVERY_STAGE_LINE = ("src/http/stages.rs", "pub const TIMED_EVERY: u64 = 64;", "pub const TIMED_EVERY: u64 = 1;")

# The bench, what it is told for the whole, and for a first look.
PARTS: dict[str, tuple[str, list[str], list[str]]] = {
    "headline": (
        "headline.py",
        ["--rounds", "3", "--seconds", "1.5", "--paced-seconds", "6"],
        ["--rounds", "1", "--seconds", "0.5", "--paced-seconds", "1"],
    ),
    "budget": ("budget.py", ["--rounds", "3", "--seconds", "5"], ["--rounds", "1", "--seconds", "1"]),
    "curve": ("curve.py", ["--rounds", "3", "--seconds", "1.5"], ["--rounds", "1", "--seconds", "0.4"]),
    "sockets": (
        "families.py",
        [
            *("--rounds", "12", "--seconds", "0.5", "--record", "sockets"),
            *(word for load in ("1", "4", "16", "64", "512", "4096", "64x16") for word in ("--load", load)),
        ],
        ["--rounds", "1", "--seconds", "0.3", "--record", "sockets", "--load", "16", "--load", "64"],
    ),
    "frameworks": ("frameworks.py", [], []),
    "ladder": (
        "rungs.py",
        ["--rounds", "3", "--seconds", "1", "--paced-seconds", "1.5"],
        ["--rounds", "1", "--seconds", "0.4", "--paced-seconds", "0.5", "--no-counts"],
    ),
    "flamegraphs": (
        "flamegraphs.py",
        ["--seconds", "3"],
        [
            *("--seconds", "1", "--rung", "baseline", "--rung", "epoll", "--rung", "sigmad"),
            *("--rung", "unix", "--rung", "shards"),
        ],
    ),
    "scaling": (
        "scaling.py",
        ["--rounds", "5", "--seconds", "1.5"],
        ["--rounds", "1", "--seconds", "0.5", "--no-counts"],
    ),
    "instruments": ("instruments.py", ["--rounds", "3"], ["--rounds", "1", "--hz", "100", "--no-heap"]),
    "builds": (
        "headline.py",
        [
            *("--rounds", "3", "--seconds", "1.5"),
            *("--build", f"frame-pointers={FRAME_POINTERS}/release/sigmad"),
            *("--build", f"every-stage={EVERY_STAGE}/sigmad"),
        ],
        [],
    ),
    "formats": ("formats.py", ["--rounds", "14"], ["--rounds", "2", "--bodies", "10", "--format", "json"]),
    "snapshots": (
        "snapshots.py",
        ["--rounds", "15", "--seconds", "1.2"],
        ["--rounds", "3", "--seconds", "0.5", "--only", "journal", "--only", "ack"],
    ),
}


def build(is_quick: bool) -> None:
    """All that is compared. Nothing here is measured. sigmad is built last, as `make binary` does for the image."""
    release = ["cargo", "build", "--release", "--locked"]
    at_home = {name: value for name, value in os.environ.items() if not name.startswith("SIGMAD")}
    ladder = ["--manifest-path", str(contestants.LADDER / "Cargo.toml")]
    ladder += ["--target-dir", str(contestants.ladder_dir().parent)]
    steps = [
        ([*release, "--package", "sigmad-gates", "--bin", "floor"], at_home),
        ([*release, *ladder, "--workspace", "--bins"], at_home),
        (["go", "build", "-C", str(contestants.GO), "-trimpath", "-o", contestants.go_binary(), "."], at_home),
    ]
    if not is_quick:
        build_every_stage(at_home)
        flags = at_home.get("RUSTFLAGS", "") + " -C force-frame-pointers=yes"
        pointed = at_home | {"RUSTFLAGS": flags.strip(), "CFLAGS": "-fno-omit-frame-pointer"}
        steps.append((shipped(FRAME_POINTERS), pointed))
    steps.append((shipped(bench.target_dir().parent), at_home))
    for command, environment in steps:
        print("$", " ".join(command), flush=True)
        subprocess.run(command, env=environment, cwd=bench.ROOT, check=True)


def shipped(folder: Path) -> list[str]:
    command = ["cargo", "rustc", "--release", "--locked", "--package", "sigmad", "--bin", "sigmad"]
    return [*command, "--target-dir", str(folder), "--", "-Ctarget-feature=+crt-static"]


def build_every_stage(environment: dict[str, str]) -> None:
    """In a copy of the sources; first, for it uses the folder and the dependencies of the usual build."""
    sources = EVERY_STAGE / "sources"
    shutil.rmtree(sources, ignore_errors=True)
    for name in ("Cargo.toml", "Cargo.lock", "build.rs", "src", "benches", "crates", "tests"):
        copy = shutil.copytree if (bench.ROOT / name).is_dir() else shutil.copy
        sources.mkdir(parents=True, exist_ok=True)
        copy(bench.ROOT / name, sources / name)
    name, before, after = EVERY_STAGE_LINE
    text = (sources / name).read_text()
    if before not in text:
        sys.exit(f"{name} does not say {before}")
    (sources / name).write_text(text.replace(before, after))
    command = shipped(bench.target_dir().parent)
    print("$", " ".join(command), "# of", sources, flush=True)
    subprocess.run(command, env=environment, cwd=sources, check=True)
    shutil.copy(bench.target_dir() / "sigmad", EVERY_STAGE / "sigmad")
    # Cargo takes what the copy has left for the crates here, and would not see that these change.
    subprocess.run(["cargo", "clean", "--release", "--workspace"], env=environment, cwd=bench.ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--no-build", action="store_true", help="it is built already")
    parser.add_argument("--only-build", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        for name, (script, *_) in PARTS.items():
            print(f"{name:12} benches/{script}")
        return
    if os.cpu_count() < 2:
        sys.exit("one core for the server and one for the load: this machine has too few")
    if not arguments.no_build:
        build(arguments.quick)
    if arguments.only_build:
        return
    folder = bench.record_folder({"date": datetime.datetime.now(datetime.UTC).isoformat()})
    if arguments.quick:
        # Beside what the same day may have measured in full.
        folder = folder.with_name(f"{folder.name}-quick")
        folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.part or PARTS:
        script, whole, quick = PARTS[name]
        if arguments.quick and not quick:
            continue
        print(f"== {name}", flush=True)
        began = time.monotonic()
        command = [sys.executable, str(Path(__file__).with_name(script)), *(quick if arguments.quick else whole)]
        # One folder, even when midnight comes between.
        subprocess.run(command, env=os.environ | {"BENCH_RECORD": str(folder)}, check=True)
        print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name("draw.py")), str(folder)], check=True)
    print(f"records, plots and flamegraphs in {folder}")


if __name__ == "__main__":
    main()
