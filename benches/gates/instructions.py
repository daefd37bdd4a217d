#!/usr/bin/env python3
"""Instructions of a request, and of a value in each format, counted by callgrind: no clock, so a busy machine counts
the same.

Runs `requests` (requests.rs beside it) for each case, and for each format with the streams that its cache expects
next (values.rs), and compares with instructions.json beside it: more than 3 % above what stands there fails.
Valgrind shows every program the same processor, whatever the machine has; another compiler or C library makes other
code, so a count is compared with one of the same compiler and library, or not at all: that is said, and fails where
`CI` is set, so that the gate never stays open unseen.

With `--values` it lists what a value costs in each format, also with more streams, and compares nothing. With
`--journal` it says what a journal adds to a sample of a batch: in instructions, and in CPU time of processes in turn.

`make gates` runs it; `make gates-update` writes what it counts into instructions.json, to be committed with
what explains it.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench

EXPECTED = Path(__file__).resolve().parent / "instructions.json"
CASES = ("single", "pipelined", "batch", "thousand", "incidents")
FORMATS = ("json", "telegraf", "lp_1", "lp_10", "rw_1", "rw_2", "otlp", "otlp_json", "text", "arrow")
# Of the formats; the first is that of the gate.
STREAMS = (100, 10_000)
MORE_MAX = 0.03
# Pairs of processes, and rounds of 100 samples in each: half a second.
JOURNAL_PAIRS = 41
JOURNAL_ROUNDS = 10_000
# Instructions of the cases, by request and sample; of the formats, by value.
Counts = dict[str, dict]
# Variables that change what cargo builds.
BUILD_VARIABLES = re.compile(r"(CARGO_ENCODED_)?RUSTFLAGS|CARGO_PROFILE_RELEASE_.*|CARGO_BUILD_.*")


def toolchain() -> dict[str, str]:
    """What two counts must have in common to be comparable."""
    rustc = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"^release: (.*)$", rustc, re.MULTILINE).group(1)
    host = re.search(r"^host: (.*)$", rustc, re.MULTILINE).group(1)
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True).stdout
    flags = sorted(f"{name}={value}" for name, value in os.environ.items() if BUILD_VARIABLES.fullmatch(name))
    return {
        "rustc": release,
        "host": host,
        "libc": " ".join(platform.libc_ver()),
        "valgrind": valgrind.strip(),
        "flags": " ".join(flags),
    }


def count(*case: str) -> dict[str, float]:
    """Instructions per request or body, and per sample or value."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "callgrind.out"
        measured = "requests::values::measured*" if case[0] == "values" else "requests::measured*"
        command = ["valgrind", "--tool=callgrind", f"--toggle-collect={measured}"]
        command += [f"--callgrind-out-file={out}", str(bench.target_dir() / "requests"), *case]
        # The size of the environment moves the stack, and with it how copies are aligned.
        run = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
        if run.returncode != 0:
            sys.exit(f"{case}: {run.stdout}{run.stderr}")
        requests, samples = map(int, run.stdout.split())
        total = int(re.search(r"^summary: (\d+)", out.read_text(), re.MULTILINE).group(1))
    if total < 100 * requests:
        sys.exit(f"{case}: {total} instructions for {requests} requests: nothing was counted")
    return {"request": round(total / requests, 1), "sample": round(total / samples, 1)}


def count_all() -> Counts:
    """Of each case and format."""
    return {
        "instructions": {case: count(case) for case in CASES},
        "values": {name: count("values", name, str(STREAMS[0]))["sample"] for name in FORMATS},
    }


def update(counted: Counts) -> None:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=bench.ROOT, capture_output=True, text=True, check=True
    )
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "command": "make gates-update",
        "toolchain": toolchain(),
        **counted,
    }
    EXPECTED.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {EXPECTED.relative_to(bench.ROOT)}")


def compare(counted: Counts) -> bool:
    """False when a case or a format costs too much."""
    expected = json.loads(EXPECTED.read_text())
    here = toolchain()
    if expected["toolchain"] != here:
        print("instructions.json was counted with another toolchain, so nothing can be compared:")
        for name, value in here.items():
            if expected["toolchain"].get(name) != value:
                print(f"  {name}: {expected['toolchain'].get(name)!r} there, {value!r} here")
        print("Run `make gates-update` on a commit whose counts are known to be right, then this again.")
        return "CI" not in os.environ
    good = True
    for case, now in counted["instructions"].items():
        good &= is_held(case, "request", now["request"], expected["instructions"][case]["request"])
    for name, now in counted["values"].items():
        if name in expected.get("values", {}):
            good &= is_held(name, "value", now, expected["values"][name])
        else:
            print(f"  {name:10} {now:10.1f} per value: NO RECORD, `make gates-update` makes one")
            good = False
    return good


def is_held(name: str, unit: str, now: float, before: float) -> bool:
    more = now / before - 1
    verdict = "TOO MANY" if more > MORE_MAX else ""
    if more < -MORE_MAX:
        verdict = "fewer: `make gates-update` holds on to it"
    print(f"  {name:10} {now:10.1f} per {unit}, {more:+.2%} {verdict}")
    return more <= MORE_MAX


def list_values() -> None:
    """What a value costs in each format; nothing is compared."""
    for name in FORMATS:
        for streams in STREAMS:
            each = count("values", name, str(streams))["sample"]
            print(f"  {name:10} {streams:6} streams {each:8.1f} per value", flush=True)


def journal() -> None:
    """What the journal of a state directory adds to a sample, with what the consumer does to give buffers back."""
    plain, journaled = (count("batch", "1", kind)["sample"] for kind in ("plain", "journal"))
    print(f"  {plain} instructions a sample, {journaled} with a journal: {journaled - plain:+.1f}")
    more = sorted(timed("journal") - timed("plain") for _ in range(JOURNAL_PAIRS))
    low, median, high = (more[len(more) * quarter // 4] for quarter in (1, 2, 3))
    print(f"  CPU time: {median:+.1f} ns a sample, quartiles {low:+.1f} and {high:+.1f}, {JOURNAL_PAIRS} pairs")


def timed(kind: str) -> float:
    """Nanoseconds of CPU for a sample, with what a start costs."""
    command = [str(bench.target_dir() / "requests"), "batch", "1", kind, str(JOURNAL_ROUNDS)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    samples = int(child.stdout.read().split()[1])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{command} ends with {child.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1e9 / samples


def main() -> None:
    if sys.argv[1:] == ["--journal"]:
        journal()
        return
    if sys.argv[1:] == ["--values"]:
        list_values()
        return
    counted = count_all()
    if sys.argv[1:] == ["--update"]:
        update(counted)
    elif not compare(counted):
        sys.exit(1)


if __name__ == "__main__":
    main()
