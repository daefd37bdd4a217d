#!/usr/bin/env python3
"""The figures of PERF.md: each stands in a record, or the check fails.

PERF.md names its folder of records in its first lines, and below it each record that is in another. A figure
in a sentence is followed by a comment, which a reader of the page does not see, with the record and the key
that it is from:

    4,812<!-- headline servers.sigmad.single.total_ns.median --> ns
    4.8<!-- headline servers.sigmad.single.total_ns.median /1000 --> µs

A table whose figures are from a record is made from it as a whole, below a line `<!-- table NAME -->`,
by the function of that name in tables.py. Any other digit, outside of code and links, must be part of one of
the phrases of GIVEN: what was set, not found.

    benches/figures.py             check
    benches/figures.py --write     put in what the records say, with as many decimals as stand there
    benches/figures.py --publish benches/record/2026-01-31-some-machine-2c

The last one makes PERF.md refer to another folder: its figures, its plots, and the flamegraphs. The sentences stay:
read them again, as they may no longer fit the figures.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bench
from records import OTHER, Records, Wrong
from tables import TABLES

PERF = bench.ROOT / "PERF.md"
FLAMEGRAPHS = bench.ROOT / "flamegraphs"

FOLDER = re.compile(r"<!-- records: (\S+) -->")
NUMBER = r"[+−]?\d[\d,]*(?:\.\d+)?"
FIGURE = re.compile(rf"({NUMBER})<!-- ([a-z-]+) ([^*>]+?)(?: ([*/])([\d.]+))? -->")
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
    r"the old target of 50 ms|be 50 ms at|\bin 40 minutes\b|\bin 6 minutes\b|\bin 5 minutes\b",
    r"blocks of 64 bytes|those of 1,024 bytes: one in 512|for 1,024 and|for 100,000\b|a profile of 2 s\b",
    r"\b(?:The|the) aim of (?:0\.58|0\.97|1\.08|1\.10|1\.25)\b|\b[Pp]ipelined by 16\b",
    r"\b90 %|\b1 ns a pair\b|\b0\.95 to 1\.05\b",
]


def like(shown: str, value: float) -> str:
    """The value with the decimals, separators and sign of what is shown."""
    decimals = len(shown.partition(".")[2])
    # Numbers below 1,000 do not tell whether separators are wanted: they are.
    text = f"{abs(value):,.{decimals}f}"
    sign = "−" if value < 0 and float(text.replace(",", "")) else ""
    return ("+" if shown.startswith("+") and not sign else sign) + text


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
Rungs from 16 on are flags of the shipped program at {flags_commit} on {flags_date}, without a Redis, and that of shards
has 100 samples a request ([record]({flags_record})).

Each is from one round: use it to find functions, and the rounds of the ladder for their cost.

| rung | pictures | ns before | ns after | functions of the program with the largest change of own ns |
| --- | --- | ---: | ---: | --- |
{rows}
"""


def index(records: Records) -> str:
    """The pictures of each rung, with the functions that changed the most."""
    record = records.of("flamegraphs")
    pairs = [(after, before, after) for before, after in itertools.pairwise(record["rungs"].values())]
    pairs += [(one, one["before"], one["after"]) for one in records.of("flag-flamegraphs")["flags"].values()]
    rows = []
    for rung, before, after in pairs:
        slug = rung["slug"]
        pictures = ", ".join(f"[{which}]({slug}-{which}.svg)" for which in ("before", "after", "diff"))
        # The cost of kernel functions varies between rounds by more than most rungs change it.
        own = [one for one in rung["moved"] if "::" in one["function"] or "alloc" in one["function"]]
        moved = [f"`{one['function']}` {one['change_ns']:+,.0f}".replace("-", "−") for one in own[:3]]
        costs = [f"{one['ns_per_request']:,.0f}" for one in (before, after)]
        rows.append(f"| {rung['title']} | {pictures} | {' | '.join(costs)} | {', '.join(moved)} |")
    manifest, of_flags = record["manifest"], records.of("flag-flamegraphs")["manifest"]
    return INDEX.format(
        **{name: manifest[name] for name in ("commit", "cpu", "kernel", "command")},
        date=manifest["date"][:10],
        flags_commit=of_flags["commit"],
        flags_date=of_flags["date"][:10],
        record=link(records, "flamegraphs"),
        flags_record=link(records, "flag-flamegraphs"),
        rows="\n".join(rows),
    )


def link(records: Records, name: str) -> str:
    return f"../{records.folder_of(name).relative_to(bench.ROOT)}/{name}.md"


def publish(folder: Path) -> None:
    """Pictures and plots of that folder, and the page's reference to it."""
    page = moved(PERF.read_text(), folder)
    records = Records(folder, page)
    FLAMEGRAPHS.mkdir(exist_ok=True)
    for picture in sorted((folder / "flamegraphs").glob("*.svg")):
        shutil.copy(picture, FLAMEGRAPHS / picture.name)
    rungs = [*records.of("flamegraphs")["rungs"].values(), *records.of("flag-flamegraphs")["flags"].values()]
    slugs = {rung["slug"] for rung in rungs}
    for picture in FLAMEGRAPHS.glob("*.svg"):
        if picture.stem.rpartition("-")[0] not in slugs:
            picture.unlink()
    (FLAMEGRAPHS / "README.md").write_text(index(records))
    subprocess.run([sys.executable, str(Path(__file__).with_name("draw.py")), str(folder)], check=True)
    PERF.write_text(refreshed(page, records))


def moved(page: str, folder: Path) -> str:
    """The page with that folder as its own. Records that the folder does not have stay where they are."""
    records = Records(folder_of(page), page)
    refreshed(page, records)
    name, before = str(folder.relative_to(bench.ROOT)), str(records.folder.relative_to(bench.ROOT))

    def link(found: re.Match) -> str:
        return f"]({name}{found[1]})" if (folder / found[1].removeprefix("/")).exists() else found[0]

    page = re.sub(rf"\]\({re.escape(before)}([^)]*)\)", link, page)
    page = OTHER.sub(lambda other: "" if (folder / f"{other[1]}.json").exists() else other[0], page)
    missing = sorted(record for record in records.asked if not (folder / f"{record}.json").exists())
    lines = [f"<!-- records: {name} -->", *(f"<!-- record {record}: {before} -->" for record in missing)]
    return FOLDER.sub("\n".join(lines), page)


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
