#!/usr/bin/env python3
"""Mutants: changes the code that judges or parses, one place at a time, and asks the unit tests to notice.

    scripts/mutants.py [GROUP]... [-- FLAGS]    # all groups unless some are named; flags of `cargo mutants`

Prints a table per file: mutants caught, missed, ended by the time limit, and those that do not compile. A missed one
fails the run, as does a time limit: which mutants need no test is in .cargo/mutants.toml, each with its reason.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "mutants"
# As cargo-mutants names them, and in the order of the table.
OUTCOMES = {"CaughtMutant": "caught", "MissedMutant": "missed", "Timeout": "time limit", "Unviable": "no build"}


@dataclasses.dataclass(frozen=True)
class Group:
    """Files of one package, and the unit tests that must notice: each mutant is judged within seconds."""

    package: str
    files: tuple[str, ...]
    tests: tuple[str, ...] = ()


GROUPS = {
    # Without the millions of updates, which take a minute unoptimised.
    "window": Group(
        "sigmad-detectors",
        ("crates/detectors/src/window.rs",),
        ("--lib", "window::", "--", "--skip", "no_drift"),
    ),
    "http": Group(
        "sigmad",
        ("src/http/head.rs", "src/http/head_cache.rs", "src/http/chunked.rs", "src/http/request_line.rs"),
        ("--lib", "http::"),
    ),
    "decode": Group("sigmad", ("src/decode/**/*.rs",), ("--lib", "decode::")),
    "store": Group("sigmad", ("src/store/queue.rs", "src/store/windows.rs"), ("--lib", "store::")),
    "tokens": Group("sigmad", ("src/api/tokens.rs", "src/api/wrong_tokens.rs"), ("--lib", "api::")),
}


def mutate(name: str, flags: list[str]) -> dict[str, collections.Counter]:
    """Counts of outcomes by file."""
    group, out = GROUPS[name], OUT / name
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "mutants.out", ignore_errors=True)
    command = ["cargo", "mutants", "--no-shuffle", "--colors=never", "--package", group.package, "--output", str(out)]
    for file in group.files:
        command += ["--file", file]
    print("$", *command, *flags, "--", *group.tests, flush=True)
    # What it found is read below; 2 and 3 say that something was missed, or took too long.
    code = subprocess.run([*command, *flags, "--", *group.tests], cwd=ROOT, check=False).returncode
    if code not in (0, 2, 3):
        sys.exit(f"== mutants {name}: cargo mutants ended with {code}")
    found: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for outcome in json.loads((out / "mutants.out/outcomes.json").read_text())["outcomes"]:
        if isinstance(outcome["scenario"], dict):
            mutant = outcome["scenario"]["Mutant"]
            found[mutant["file"]][outcome["summary"]] += 1
            if outcome["summary"] != "CaughtMutant":
                print(f"{OUTCOMES[outcome['summary']]}: {mutant['name']}")
    return found


def main() -> None:
    wanted, flags = sys.argv[1:], []
    if "--" in wanted:
        split = wanted.index("--")
        wanted, flags = wanted[:split], wanted[split + 1 :]
    unknown = set(wanted) - set(GROUPS)
    if unknown:
        sys.exit(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    rows, escaped = [], 0
    for name in wanted or GROUPS:
        for file, counts in sorted(mutate(name, flags).items()):
            rows.append([f"`{file}`", *(str(counts[summary]) for summary in OUTCOMES)])
            escaped += counts["MissedMutant"] + counts["Timeout"]
    print(f"\n| file | {' | '.join(OUTCOMES.values())} |\n| --- |{' ---: |' * len(OUTCOMES)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if escaped:
        sys.exit(f"== mutants: {escaped} escaped the tests")


if __name__ == "__main__":
    main()
