#!/usr/bin/env python3
"""The figures of PERF.md: each stands in a record, or the check fails.

PERF.md names its folder of records in its first lines, and below it each record that is in another. A figure
in a sentence is followed by a comment, which a reader of the page does not see, with the record and the key
that it is from:

    4,812<!-- headline servers.sigmad.single.total_ns.median --> ns
    4.8<!-- headline servers.sigmad.single.total_ns.median /1000 --> µs

A table whose figures are from a record is made from it as a whole, below a line `<!-- table NAME -->`,
by the function of that name below. Any other digit, outside of code and links, must be part of one of
the phrases of GIVEN: what was set, not found.

    benches/figures.py             check
    benches/figures.py --write     put in what the records say, with as many decimals as stand there
    benches/figures.py --publish benches/record/2026-01-31-some-machine-2c

The last one makes PERF.md refer to another folder: its figures, its plots, and the flamegraphs. The sentences stay:
read them again, as they may no longer fit the figures.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bench
import families
import waits

PERF = bench.ROOT / "PERF.md"
FLAMEGRAPHS = bench.ROOT / "flamegraphs"

FOLDER = re.compile(r"<!-- records: (\S+) -->")
# A record that the folder does not have: measured alone, on another day.
OTHER = re.compile(r"<!-- record ([a-z]+): (\S+) -->\n*")
NUMBER = r"[+−]?\d[\d,]*(?:\.\d+)?"
FIGURE = re.compile(rf"({NUMBER})<!-- ([a-z]+) ([^*/>]+?)(?: ([*/])([\d.]+))? -->")
TABLE = re.compile(r"(<!-- table (\w+) -->\n\n)((?:\|.*\n)+)")

# What is a setting, a name or a law, and so stands in no record. Each as it is written.
GIVEN = [
    r"^#+ \d+\. |^\d\. ",
    r"\bp50\b|\bp90\b|\bp99\.9\b|\bp99\b",
    r"\bcore [01]\b|\b2 (?:cores|workers)\b|\b16 cores\b|\b16-core\b",
    r"1,000 requests a second|\b(?:16|64|256) connections|batches of 100\b|\b100 (?:samples|devices)\b",
    r"\b(?:100|999) Hz|\bnot 1,000 so as\b|16,384 bytes|perf_event_paranoid` at 1\b| at 1\.$",
    r"\b(?:503|202)s?\b|HTTP/1\.1",
    r"\brung \d+\b|\brungs \d+(?: to | and )\d+\b",
    r"C\(N\) = N / \(1 \+ σ\(N − 1\) \+ κN\(N − 1\)\)|σ \+ 2κ",
    # The hypotheses and changes of the ladder.
    r"\b50 (?:values|bytes)\b|\b512 SETs\b|\b128 samples\b|\b0\.9 ms\b|\b4 ms\b|\b10 ms\b",
    r"remote_write [12]\.0|\b100 and 10,000 streams|\b(?:100|10,000) streams|\b2,000 values\b",
    # What was asked for.
    r"the old target of 50 ms|be 50 ms at|\b25 minutes\b|\bin 3 minutes\b|\bin 5 minutes\b",
    r"blocks of 64 bytes|those of 1,024 bytes: one in 512|for 1,024 and|for 100,000\b|a profile of 2 s\b",
    r"\b(?:The|the) aim of (?:0\.58|0\.97|1\.08|1\.10|1\.25)\b|\b[Pp]ipelined by 16\b",
    r"\b90 %|\b1 ns a pair\b|\b0\.95 to 1\.05\b",
]


class Wrong(Exception):
    """A figure that is not in a record."""


@functools.cache
def read(path: Path) -> dict:
    return json.loads(path.read_text())


class Records:
    """The JSON files of one folder, and those that the page names from others."""

    def __init__(self, folder: Path, page: str = "") -> None:
        self.folder = folder
        self.others = {name: bench.ROOT / other for name, other in OTHER.findall(page)}

    def of(self, name: str) -> dict:
        path = self.others.get(name, self.folder) / f"{name}.json"
        if not path.exists():
            raise Wrong(f"there is no record {path}")
        return read(path)

    def value(self, name: str, key: str) -> float:
        found = self.of(name)
        for step in key.split("."):
            try:
                found = found[int(step)] if isinstance(found, list) else found[step]
            except (KeyError, IndexError, ValueError, TypeError):
                raise Wrong(f"{name}.json has no {key}: no {step}") from None
        if not isinstance(found, int | float):
            raise Wrong(f"{name}.json: {key} is no number")
        return found


def like(shown: str, value: float) -> str:
    """The value with the decimals, separators and sign of what is shown."""
    decimals = len(shown.partition(".")[2])
    # Numbers below 1,000 do not tell whether separators are wanted: they are.
    text = f"{abs(value):,.{decimals}f}"
    sign = "−" if value < 0 and float(text.replace(",", "")) else ""
    return ("+" if shown.startswith("+") and not sign else sign) + text


# --- tables ---


def headline(records: Records) -> str:
    rows = []
    for server in records.of("headline")["servers"].values():
        single, batch, paced = server["single"], server["batch"], server["paced"]
        rows.append(
            [
                server["title"],
                f"{single['user_ns']:,.0f}",
                f"{single['system_ns']:,.0f}",
                f"{single['total_ns']['median']:,.0f}",
                f"{single['total_ns']['min']:,.0f}–{single['total_ns']['max']:,.0f}",
                f"{server['floor_ratio']['median']:.2f}",
                *(f"{paced[key]['median']:,.0f}" for key in ("p50_us", "p99_us", "p999_us")),
                f"{batch['samples_per_core_s'] / 1e6:.2f}",
                f"{server['binary_bytes'] / 2**20:.1f}",
                f"{server['rss_bytes'] / 2**20:.1f}",
            ]
        )
    header = ["server", "user ns", "system ns", "both", "rounds", "× floor", "p50 µs", "p99 µs", "p99.9 µs"]
    return bench.table([*header, "M samples/s/core", "binary MiB", "RSS MiB"], rows)


def stages_of(records: Records, load: str, keys: dict[str, str]) -> str:
    one = records.of("budget")["loads"][load]
    whole = one["whole"]
    rows = []
    for stage in [*one["stages"], whole, one["analytics"]]:
        # What comes after the answer is no share of it.
        share = f"{stage['mean_ns'] / whole['mean_ns']:.1%}" if stage is not one["analytics"] else ""
        figures = ["–" if stage[key] is None else f"{stage[key]:,.0f}" for key in keys.values()]
        rows.append([stage["name"], stage["covers"], figures[0], share, *figures[1:]])
    header = list(keys)
    return bench.table(["stage", "covers", header[0], "share", *header[1:]], rows)


def budget(records: Records) -> str:
    return stages_of(records, "paced", {"mean ns": "mean_ns", "p50 ns": "p50_ns", "p99 ns": "p99_ns"})


def budget_full(records: Records) -> str:
    keys = {"mean ns": "mean_ns", "p50 ns": "p50_ns", "p99 ns": "p99_ns", "p99.9 ns": "p999_ns"}
    return stages_of(records, "full", keys)


def latency(records: Records) -> str:
    """Seen from outside, beside the floor."""
    servers = records.of("headline")["servers"]
    rows = []
    for name in ("floor", "sigmad"):
        paced = servers[name]["paced"]
        rows.append(
            [
                servers[name]["title"],
                *(f"{paced[key]['median']:,.0f}" for key in ("p50_us", "p99_us", "p999_us")),
                f"{paced['own_p99_us']['median']:,.0f}",
                f"{paced['total_ns']['median'] / 1000:.1f}",
            ]
        )
    return bench.table(["server", "p50 µs", "p99 µs", "p99.9 µs", "generator's own lateness p99 µs", "CPU µs"], rows)


def points_of(records: Records, name: str, is_refusing: bool = False) -> str:
    one = records.of("curve")["curves"][name]
    rows = []
    for point in one["points"]:
        row = [f"{point['offered_per_s']:,.0f}", f"{point['good_per_s']:,.0f}"]
        if is_refusing:
            row.append(f"{point['refused_per_s']:,.0f}")
        row += [f"{point[key]:,.0f}" for key in ("p50_us", "p99_us")]
        if is_refusing:
            row += [f"{point[key]:,.0f}" if point[key] else "–" for key in ("refusal_p50_us", "refusal_p99_us")]
        row += [f"{point['server_cores']:.2f}", f"{point['generator_cores']:.2f}"]
        rows.append(row)
    refusing = (["503/s"], ["503: p50 µs", "503: p99 µs"]) if is_refusing else ([], [])
    header = ["offered/s", "202/s", *refusing[0], "p50 µs", "p99 µs", *refusing[1], "server cores", "generator cores"]
    return bench.table(header, rows)


def curve_single(records: Records) -> str:
    return points_of(records, "single")


def curve_batch(records: Records) -> str:
    return points_of(records, "batch")


def overload(records: Records) -> str:
    return points_of(records, "refusing", is_refusing=True)


def rung_cells(rung: dict) -> list[str]:
    """A row of the ladder behind its name. The first rung has none below it, a quick run counts nothing."""
    single, batch, counted, below = rung["single"], rung["batch"], rung.get("counts"), rung.get("vs_below")
    return [
        f"{single['user_ns']:,.0f}",
        f"{single['system_ns']:,.0f}",
        f"{single['total_ns']['median']:,.0f}",
        f"{below['single']['median']:.3f}" if below else "",
        f"{below['single']['min']:.3f}–{below['single']['max']:.3f}" if below else "",
        f"{batch['sample_ns']['median']:,.0f}",
        f"{below['batch']['median']:.3f}" if below else "",
        f"{rung['batch_alone']['sample_ns']['median']:,.0f}",
        f"{below['batch_alone']['median']:.3f}" if below else "",
        f"{counted['instructions']:,.0f}" if counted else "",
        f"{counted['allocations']:.2f}" if counted else "",
        f"{counted['syscalls']:.2f}" if counted else "",
        f"{rung['paced']['p50_us']['median']:,.0f}",
        f"{rung['paced']['p99_us']['median']:,.0f}",
    ]


def ladder(records: Records) -> str:
    rungs = records.of("ladder")["rungs"].items()
    rows = [[f"{rung['number']} `{name}`", *rung_cells(rung)] for name, rung in rungs]
    header = [
        "rung",
        "user ns",
        "system ns",
        "both",
        "× below",
        "rounds",
        "ns/sample in batches",
        "× below",
        "the same without Redis",
        "× below",
    ]
    return bench.table([*header, "instructions", "allocations", "system calls", "p50 µs", "p99 µs"], rows)


def flamegraphs(records: Records) -> str:
    rows = [
        [
            f"`{name}`",
            f"{one['samples']:,}",
            f"{one['captured']:.1%}",
            f"{one['kernel_share']:.1%}",
            f"{one['hanging_share']:.1%}",
        ]
        for name, one in records.of("flamegraphs")["rungs"].items()
    ]
    return bench.table(["rung", "samples", "of the CPU time", "in the kernel", "stacks without a beginning"], rows)


def scaling(records: Records) -> str:
    rows = []
    for load, one in records.of("scaling")["loads"].items():
        for workers, cost in one["total_ns"].items():
            ratio = one["ratio"][workers]
            rows.append(
                [
                    {"single": "one sample", "batch": "100 samples"}[load],
                    workers,
                    f"{cost['median']:,.0f}",
                    f"{ratio['median']:.3f}",
                    f"{ratio['min']:.3f}–{ratio['max']:.3f}",
                    f"{one['worker_ns']:,.0f}" if workers == "1" else "",
                    f"{one['analytics_ns']:,.0f}" if workers == "1" else "",
                ]
            )
    return bench.table(["request of", "workers", "ns/request", "× one", "rounds", "worker ns", "analytics ns"], rows)


def model(records: Records) -> str:
    record = records.of("scaling")
    rows = []
    for load in record["loads"]:
        for name, values in record["usl"].items():
            if name == "points":
                continue
            modelled = record["model"][load]
            rows.append(
                [
                    {"single": "one sample", "batch": "100 samples"}[load],
                    name.replace("_", " "),
                    f"{values['sigma']:.4f}",
                    f"{values['kappa']:.5f}",
                    f"{modelled['workers_per_s'][name] / 1e6:.2f}",
                    f"{modelled['analytics_bound_per_s'] / 1e6:.2f}",
                    f"{modelled['samples_per_s'][name] / 1e6:.1f}",
                ]
            )
    header = ["request of", "if all is", "σ", "κ", "workers, M requests/s", "analytics at most, M requests/s"]
    return bench.table([*header, "M samples/s"], rows)


def profiler(records: Records) -> str:
    rows = []
    for name, one in records.of("instruments")["profiler"].items():
        rows.append(
            [
                f"`{name}`",
                f"{one['ratio']['median']:.3f}",
                f"{one['ratio']['min']:.3f}–{one['ratio']['max']:.3f}",
                f"{one['apart_s']['median']:.2f}",
                f"{one['captured']['median']:.3f}",
                f"{one['captured']['min']:.3f}–{one['captured']['max']:.3f}",
                f"{one['claimed']['median']:.3f}" if "claimed" in one else "",
            ]
        )
    header = ["backend and Hz", "a request ×", "rounds", "apart, s", "captured ÷ true", "rounds", "as it says itself"]
    return bench.table(header, rows)


def builds(records: Records) -> str:
    rows = [
        [
            one["title"],
            f"{one['single_ratio']['median']:.3f}",
            f"{one['single_ratio']['min']:.3f}–{one['single_ratio']['max']:.3f}",
            f"{one['batch_ratio']['median']:.3f}",
            f"{one['batch_ratio']['min']:.3f}–{one['batch_ratio']['max']:.3f}",
        ]
        for one in records.of("builds")["builds"].values()
    ]
    return bench.table(["instrument", "single ×", "rounds", "batch ×", "rounds"], rows)


def heap(records: Records) -> str:
    rows = [
        [what, *(f"{one[key]:.2f}" for key in ("mimalloc", "sampled", "added"))]
        for what, one in records.of("instruments")["heap"]["pairs_ns"].items()
    ]
    return bench.table(["alloc and free of", "mimalloc ns", "sampled ns", "added ns"], rows)


def formats(records: Records) -> str:
    rows = []
    record = records.of("formats")
    for streams, found in record["streams"].items():
        for name, one in found.items():
            ours, theirs = one["sigmad"], one.get("victoria")
            reading, aim = ours["reading"], record["aims"].get(name)
            rows.append(
                [
                    one["title"],
                    f"{int(streams):,}",
                    f"{ours['bytes']:.0f}",
                    f"{ours['worker']['median']:.0f}",
                    f"{reading['median']:.0f}",
                    f"{reading['low']:.0f}–{reading['high']:.0f}",
                    f"{reading['min']:.0f}",
                    f"{aim}" if aim else "",
                    f"{ours['all']['median']:.0f}",
                    f"{theirs['all']['median']:,.0f}" if theirs else "–",
                ]
            )
    header = ["format", "streams", "bytes", "worker ns", "without HTTP", "quartiles", "least", "aim", "all threads"]
    return bench.table([*header, "VictoriaMetrics"], rows)


def families_of(record: dict) -> str:
    rows = record["families"]
    names = [key.removesuffix("_ns") for key in rows[0] if key.endswith("_ns")]
    return families.table(
        sorted(rows, key=lambda row: tuple(int(part) for part in row["load"].removesuffix("/s").split("x"))), names
    )


def pollers(records: Records) -> str:
    return families_of(records.of("pollers"))


def small(records: Records) -> str:
    return families_of(records.of("small"))


def sockets(records: Records) -> str:
    return families_of(records.of("sockets"))


def arena(records: Records) -> str:
    return families_of(records.of("arena"))


def pipelined(records: Records) -> str:
    return families_of(records.of("pipelined"))


def waits_by_load(records: Records) -> str:
    return waits.table(records.of("waits")["waits"])


TABLES: dict[str, Callable[[Records], str]] = {
    made.__name__: made
    for made in (
        *(headline, budget, budget_full, latency, curve_single, curve_batch, overload, ladder, flamegraphs),
        *(scaling, model, profiler, builds, heap, formats, pollers, small),
        *(sockets, arena, pipelined, waits_by_load),
    )
}


# --- the page ---


def folder_of(page: str) -> Path:
    found = FOLDER.search(page)
    if not found:
        raise Wrong("PERF.md does not say where its records are")
    return bench.ROOT / found.group(1)


def refreshed(page: str, records: Records) -> str:
    """The page as the records have it."""

    def figure(found: re.Match) -> str:
        shown, name, key, operator, factor = found.groups()
        value = records.value(name, key)
        if operator:
            value = value / float(factor) if operator == "/" else value * float(factor)
        return like(shown, value) + found.group(0)[len(shown) :]

    def table(found: re.Match) -> str:
        if found.group(2) not in TABLES:
            raise Wrong(f"no table is called {found.group(2)}")
        return found.group(1) + TABLES[found.group(2)](records) + "\n"

    return TABLE.sub(table, FIGURE.sub(figure, page))


def unfounded(page: str) -> list[str]:
    """Digits that are neither from a record nor given."""
    bare = TABLE.sub("", page)
    bare = FIGURE.sub("", bare)
    # What is left of comments, and what is no claim: code, where links lead, pictures.
    for pattern in (r"```.*?```", r"<!--.*?-->", r"`[^`\n]*`", r"\]\([^)]*\)", *GIVEN):
        bare = re.sub(pattern, " ", bare, flags=re.DOTALL | re.MULTILINE)
    return [line.strip() for line in bare.splitlines() if re.search(r"\d", line)]


def faults(page: str) -> list[str]:
    """What is wrong with the page; nothing, as it should be."""
    try:
        right = refreshed(page, Records(folder_of(page), page))
    except Wrong as wrong:
        return [str(wrong)]
    found = [
        f"stands: {stands}\nrecord: {should}"
        for stands, should in zip(page.splitlines(), right.splitlines(), strict=False)
        if stands != should
    ]
    if len(page.splitlines()) != len(right.splitlines()):
        found.append("a table has more or fewer rows than its record")
    return found + [f"in no record: {line}" for line in unfounded(page)]


# --- publication ---

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


def publish(folder: Path) -> None:
    """Pictures and plots of that folder, and the page's reference to it."""
    FLAMEGRAPHS.mkdir(exist_ok=True)
    for old in FLAMEGRAPHS.glob("*.svg"):
        old.unlink()
    for picture in sorted((folder / "flamegraphs").glob("*.svg")):
        shutil.copy(picture, FLAMEGRAPHS / picture.name)
    (FLAMEGRAPHS / "README.md").write_text(index(folder))
    subprocess.run([sys.executable, str(Path(__file__).with_name("draw.py")), str(folder)], check=True)
    page = PERF.read_text()
    name, before = str(folder.relative_to(bench.ROOT)), str(folder_of(page).relative_to(bench.ROOT))
    page = FOLDER.sub(f"<!-- records: {name} -->", page).replace(before, name)
    page = OTHER.sub(lambda other: "" if (folder / f"{other[1]}.json").exists() else other[0], page)
    PERF.write_text(refreshed(page, Records(folder, page)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--publish", metavar="FOLDER", type=Path)
    arguments = parser.parse_args()
    if arguments.publish:
        publish(arguments.publish.resolve())
    elif arguments.write:
        page = PERF.read_text()
        PERF.write_text(refreshed(page, Records(folder_of(page), page)))
    for fault in faults(PERF.read_text()):
        print(fault)
    if faults(PERF.read_text()):
        sys.exit("PERF.md does not agree with its records")


if __name__ == "__main__":
    main()
