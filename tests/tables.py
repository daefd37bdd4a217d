#!/usr/bin/env python3
"""The tables of docs/DETECTION.md, held against what `sigmad eval` prints. `make eval` runs it.

What eval prints for both halves, for each half, and for `pager` at a score of 2 is docs/detection/tables.md,
line by line; `--write` writes it anew. Every figure in the tables of docs/DETECTION.md must stand there,
rounded: those of one row in one row of the same detector. SIGMAD names the binary.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRINTED = ROOT / "docs/detection/tables.md"
TABLES = ROOT / "docs/DETECTION.md"
# The first cells of the heads of the tables that hold figures of eval.
HEADS = ("| detector | best", "| scenario |", "| | NAB", "| noise |")
PUBLIC = ["--data", "nab", "--data", "mscloud/data"]
RUNS = {
    "Both halves, and scenarios": [*PUBLIC, "--synthetic"],
    "Half A": ["--half", "a", *PUBLIC],
    "Half B": ["--half", "b", *PUBLIC],
    "At a score of 2": ["--synthetic", "--detector", "pager", "--threshold", "2"],
}
NUMBER = re.compile(r"-?(?:\d[\d,]*)?\.?\d+")


def evaluate(binary: str, data: Path) -> str:
    """Everything, as Markdown."""
    parts = ["# What `sigmad eval` prints\n\nWritten by `tests/tables.py --write`; `make eval` compares.\n"]
    for title, arguments in RUNS.items():
        command = [binary, "eval", *arguments]
        printed = subprocess.run(command, cwd=data, check=True, text=True, stdout=subprocess.PIPE).stdout
        parts.append(f"\n# {title}\n{printed}")
    return "".join(parts)


def numbers(text: str) -> list[tuple[float, int]]:
    """Each with the digits behind its point."""
    found = NUMBER.findall(text.replace("\u2212", "-"))
    return [(float(one.replace(",", "")), len(one.partition(".")[2])) for one in found]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def stands_in(figures: list[tuple[float, int]], row: list[tuple[float, int]]) -> bool:
    """True if each is one of the row's, rounded."""
    return all(
        any(abs(abs(value) - abs(other)) <= 0.501 * 10**-digits for other, _ in row) for value, digits in figures
    )


def rows_of(printed: str) -> dict[str, list[list[tuple[float, int]]]]:
    rows: dict[str, list[list[tuple[float, int]]]] = {}
    for line in printed.splitlines():
        if line.startswith("| ") and (name := cells(line)[0]).isalpha():
            rows.setdefault(name, []).append(numbers(line))
    return rows


def not_printed(tables: str, printed: str) -> list[str]:
    """Rows of the tables with a figure that eval does not print."""
    rows = rows_of(printed)
    wrong, checked, head = [], 0, ""
    for line in tables.splitlines():
        if not line.startswith("|"):
            head = ""
        elif not head:
            head = line
        elif head.startswith(HEADS) and "---" not in line:
            named = re.search(r"`(\w+)`", line)
            figures = numbers("|".join(cells(line)[2 if head.startswith(("| noise", "| scenario")) else 1 :]))
            of_detector = rows[named[1] if named else "pager"]
            # What names no detector takes its figures from several rows of `pager`.
            candidates = of_detector if named else [[figure for row in of_detector for figure in row]]
            checked += 1
            if not any(stands_in(figures, row) for row in candidates):
                wrong.append(line)
    assert checked > 50, f"only {checked} rows: have the heads of the tables changed?"
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="where nab/ and mscloud/ lie")
    parser.add_argument("--write", action="store_true", help="write what is printed, in place of comparing with it")
    arguments = parser.parse_args()
    printed = evaluate(str(Path(os.environ["SIGMAD"]).resolve()), arguments.data)
    print(printed)
    if arguments.write:
        PRINTED.write_text(printed)
    elif printed != PRINTED.read_text():
        sys.exit(f"{PRINTED.relative_to(ROOT)} says otherwise")
    if wrong := not_printed(TABLES.read_text(), printed):
        sys.exit("\n".join([f"{TABLES.relative_to(ROOT)} has figures that are not printed:", *wrong]))


if __name__ == "__main__":
    main()
