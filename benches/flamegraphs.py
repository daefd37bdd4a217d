#!/usr/bin/env python3
"""Where do the nanoseconds of a request go, before and after each rung?

Profiles every rung under the same load (64 connections, one sample a request; the server has core 0)
with perf: cpu-clock at 999 Hz, stacks by DWARF, the kernel's frames included. The widths are scaled
so that a picture is as wide as its request costs, in ns of CPU time. Draws for each rung the one
before it, itself, and the difference. A flag of the shipped program has the program without it before, and no Redis.

    benches/flamegraphs.py && ls benches/record/*/flamegraphs
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import bench
import contestants
import headline
import rungs

HZ = 999
STACK_BYTES = 16_384
WARM_UP_S = 0.5
# perf attaches before the load is at its height and ends before it does.
MARGIN_S = 0.6
# Legible at this width, and below BYTES_MAX: what is narrower than this share of the picture is left out.
WIDTH = 1200
MIN_WIDTH_PERCENT = 0.25
BYTES_MAX = 150_000
# Stacks are counted in tenths of a ns, for folded files hold whole numbers.
TENTHS = 10
# What DWARF could not follow to a thread's start hangs in the air.
ROOTS = ("clone3", "__clone3", "_start", "__clone", "runtime.goexit", "ret_from_fork_asm")
# In a static program the first of them have no name.
UNKNOWN = "[unknown]"
BEGINNINGS = re.compile(r"clone3|__clone|start_thread|_start$|__libc_start|main$|std::|core::ops::function")
# Marks a stack that was followed to its thread's start, until they are counted.
STARTED = "\0"


def profile(contestant, seconds: float, connections: int, batch: int = 1) -> tuple[Counter[str], dict]:
    """Folded stacks of one server, in tenths of a ns of a request, and what is known of them."""
    with tempfile.TemporaryDirectory(prefix="sigmad-perf-") as folder, contestant.running() as (child, port):
        load_flags = ["--connections", str(connections), *contestants.batch_flags(batch)]
        target = contestant.target(port)
        bench.load(target, *load_flags, seconds=WARM_UP_S)
        data = Path(folder) / "perf.data"
        command = [
            "perf",
            "record",
            "--quiet",
            "-k",
            "CLOCK_MONOTONIC",
            "-e",
            "cpu-clock",
            "-F",
            str(HZ),
            "-o",
            str(data),
        ]
        command += ["--call-graph", f"dwarf,{STACK_BYTES}", "-p", str(child.pid), "--", "sleep", str(seconds)]
        watch = bench.Watch(child.pid)
        recorder = subprocess.Popen(bench.pinned(bench.LOAD_CORE, command), stderr=subprocess.PIPE, text=True)
        summary = bench.load(target, *load_flags, pid=child.pid, seconds=seconds + MARGIN_S)
        _, errors = recorder.communicate(timeout=60)
        watch.end()
        if recorder.returncode:
            sys.exit(f"perf record: {errors}")
        script = subprocess.run(
            ["perf", "script", "--no-inline", "-i", str(data)],
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
        )
    folded = subprocess.run(
        ["inferno-collapse-perf", "--kernel"], input=script.stdout, capture_output=True, text=True, check=True
    )
    moments = [float(moment) for moment in re.findall(r"(\d+\.\d+): +\d+ cpu-clock", script.stdout)]
    used_s = watch.used(min(moments), max(moments), is_monotonic=True)
    return scaled(folded.stdout, summary["server_cpu"]["ns_per_request"], used_s)


def scaled(folded: str, ns_per_request: float, cpu_s: float) -> tuple[Counter[str], dict]:
    stacks: Counter[str] = Counter()
    started = 0
    for line in folded.splitlines():
        stack, _, weight = line.rpartition(" ")
        stack = short(stack)
        started += int(weight) if stack.startswith(STARTED) else 0
        stacks[stack.removeprefix(STARTED)] += int(weight)
    total = sum(stacks.values())
    if not total:
        sys.exit("perf saw nothing")
    samples = total * HZ / 1e9
    kernel = sum(weight for stack, weight in stacks.items() if stack.endswith("_[k]"))
    known = {
        "ns_per_request": ns_per_request,
        "samples": round(samples),
        "captured": samples / HZ / cpu_s,
        "kernel_share": kernel / total,
        "hanging_share": 1 - started / total,
    }
    factor = ns_per_request * TENTHS / total
    return Counter({stack: round(weight * factor) for stack, weight in stacks.items()}), known


def short(stack: str) -> str:
    """Names as one reads them: without type parameters, hashes and Rust's disambiguators; and without what
    every thread of Rust begins with, which says nothing and differs between ways to start one."""
    thread, *frames = stack.split(";")
    frames = [short_name(frame) for frame in frames]
    is_nameless = len(frames) > 1 and frames[0] == UNKNOWN and BEGINNINGS.match(frames[1])
    if frames and (frames[0] in ROOTS or is_nameless):
        # The first frame is one of a beginning, named or not.
        own = next((at for at, frame in enumerate(frames) if at and not BEGINNINGS.match(frame)), len(frames) - 1)
        frames = frames[own:]
        thread = STARTED + thread
    return ";".join([thread, *frames])


def short_name(frame: str) -> str:
    frame = re.sub(r"\[[0-9a-f]{16}\]|::h[0-9a-f]{16}\b", "", frame)
    frame = frame.replace("{{closure}}", "{closure}").replace("{{vtable.shim}}", "{shim}")
    # <T as Trait>::f is T::f; f::<T> and Name<T> are f and Name.
    while True:
        shorter = re.sub(r"^<([^<>]+?) as [^<>]+>", r"\1", frame)
        shorter = re.sub(r"^<([^<>]+)>::", r"\1::", shorter)
        shorter = re.sub(r"(?<=[\w:])(::)?<[^<>]*>", "", shorter)
        if shorter == frame:
            return frame
        frame = shorter


def folded_text(stacks: Counter[str]) -> str:
    return "".join(f"{stack} {weight}\n" for stack, weight in sorted(stacks.items()) if weight)


def draw(folded: str, out: Path, title: str, subtitle: str, *flags: str) -> None:
    """An SVG, on white, the same bytes for the same stacks; narrower frames go until it is small enough."""
    narrowest = MIN_WIDTH_PERCENT
    while True:
        command = [
            "inferno-flamegraph",
            "--deterministic",
            "--colors",
            "java",
            "--bgcolors",
            "#ffffff",
            "--width",
            str(WIDTH),
        ]
        command += [f"--title={title}", f"--subtitle={subtitle}", "--countname", "ns per request", "--nametype", ""]
        command += ["--factor", str(1 / TENTHS), "--minwidth", f"{narrowest:.2f}", "--fontsize", "11", *flags]
        svg = subprocess.run(command, input=folded, capture_output=True, text=True, check=True).stdout
        if len(svg.encode()) < BYTES_MAX:
            out.write_text(svg)
            return
        narrowest *= 1.5


def pictures(folder: Path, slug: str, before: Counter[str], after: Counter[str], names: tuple[str, str]) -> None:
    """before, after and diff of one rung; the difference has the widths of what came after."""
    for which, stacks, name in (("before", before, names[0]), ("after", after, names[1])):
        total = sum(stacks.values()) / TENTHS
        draw(folded_text(stacks), folder / f"{slug}-{which}.svg", name, f"{total:,.0f} ns of CPU time a request")
    change = (sum(after.values()) - sum(before.values())) / TENTHS
    # What went away is seen only with the widths of before, what came only with those of after.
    is_less = change < 0
    with tempfile.TemporaryDirectory(prefix="sigmad-diff-") as scratch:
        files = []
        for which, stacks in (("before", before), ("after", after)):
            files.append(Path(scratch) / which)
            files[-1].write_text(folded_text(stacks))
        if is_less:
            files.reverse()
        command = ["inferno-diff-folded", *map(str, files)]
        difference = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    draw(
        difference,
        folder / f"{slug}-diff.svg",
        f"{names[0]} → {names[1]}",
        f"{change:+,.0f} ns a request; red: more, blue: less; as wide as {'before' if is_less else 'after'}",
        *(["--negate"] if is_less else []),
    )


def moved(before: Counter[str], after: Counter[str], count: int = 8) -> list[dict]:
    """Functions whose own ns changed the most."""
    change: Counter[str] = Counter()
    for stacks, sign in ((after, 1), (before, -1)):
        for stack, weight in stacks.items():
            change[stack.rpartition(";")[2].removesuffix("_[k]")] += sign * weight
    by_size = sorted(change.items(), key=lambda item: -abs(item[1]))
    return [{"function": name, "change_ns": weight / TENTHS} for name, weight in by_size[:count]]


def heaviest(stacks: Counter[str], count: int = 12) -> list[dict]:
    """Functions by what they cost themselves, in ns of a request."""
    own: Counter[str] = Counter()
    for stack, weight in stacks.items():
        own[stack.rpartition(";")[2]] += weight
    return [{"function": name, "ns": weight / TENTHS} for name, weight in own.most_common(count)]


def told(name: str, known: dict) -> None:
    print(
        f"{name}: {known['samples']} samples, {known['captured']:.0%} of the CPU time, "
        f"{known['kernel_share']:.0%} kernel, {known['hanging_share']:.1%} without a beginning",
        flush=True,
    )


def switched(folder: Path, chosen: list[rungs.Switch], seconds: float) -> dict[str, dict]:
    """The pictures of each flag, and what is known of both sides."""
    plain, flagged = contestants.everyone()["sigmad"], contestants.switched()
    before = {}
    for switch in chosen:
        if switch.batch not in before:
            before[switch.batch] = profile(plain, seconds, switch.connections, switch.batch)
    found = {}
    for switch in chosen:
        stacks, known = profile(flagged[switch.name], seconds, switch.connections, switch.batch)
        told(switch.slug, known)
        before_stacks, before_known = before[switch.batch]
        load = "one sample" if switch.batch == 1 else f"{switch.batch} samples"
        names = (f"sigmad, {load} a request", f"{switch.title}, {load} a request")
        pictures(folder, switch.slug, before_stacks, stacks, names)
        found[switch.name] = {
            "slug": switch.slug,
            "title": switch.title,
            "batch": switch.batch,
            "before": before_known,
            "after": known,
            "moved": moved(before_stacks, stacks),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rung", action="append", help="only these; all unless given")
    arguments = parser.parse_args()
    # Where scripts/setup.sh puts inferno.
    os.environ["PATH"] = f"{bench.ROOT / '.tools' / 'bin'}:{os.environ['PATH']}"
    if steps := rungs.steps(arguments.rung):
        with bench.record("flamegraphs", 1) as record:
            found = climbed(pictures_folder(record), steps, arguments.seconds)
            record["rungs"] = found
            record["text"] = table(list(found.items()))
    if chosen := rungs.switches(arguments.rung):
        with bench.record("flag-flamegraphs", 1) as record:
            found = switched(pictures_folder(record), chosen, arguments.seconds)
            record["flags"] = found
            sides = [(f"{name}, {side}", one[side]) for name, one in found.items() for side in ("before", "after")]
            record["text"] = table(sides)


def pictures_folder(record: dict) -> Path:
    folder = bench.record_folder(record["manifest"]) / "flamegraphs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def climbed(folder: Path, steps: list[rungs.Step], seconds: float) -> dict[str, dict]:
    """The pictures of each rung beside the one below, and what is known of it."""
    stacks, found = {}, {}
    with rungs.surroundings() as around:
        for step in steps:
            stacks[step.name], known = profile(step.contestant(around), seconds, headline.CONNECTIONS)
            found[step.name] = known | {
                "slug": step.slug,
                "title": step.title,
                "heaviest": heaviest(stacks[step.name]),
            }
            told(step.slug, known)
    for before, after in itertools.pairwise(steps):
        pictures(folder, after.slug, stacks[before.name], stacks[after.name], (before.title, after.title))
        found[after.name]["moved"] = moved(stacks[before.name], stacks[after.name])
    return found


def table(rows: list[tuple[str, dict]]) -> str:
    return bench.table(
        ["rung", "ns/request", "samples", "captured", "kernel", "without a beginning"],
        [
            [
                name,
                f"{known['ns_per_request']:,.0f}",
                str(known["samples"]),
                f"{known['captured']:.1%}",
                f"{known['kernel_share']:.1%}",
                f"{known['hanging_share']:.1%}",
            ]
            for name, known in rows
        ],
    )


if __name__ == "__main__":
    main()
