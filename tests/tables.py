#!/usr/bin/env python3
"""The tables of docs/DETECTION.md, held against what `sigmad eval` prints. `make eval` runs it.

What eval prints for four sets, for each half of them, for usual values and for scenarios is docs/detection/tables.md,
line by line; `--write` writes it anew. Every figure in the tables of docs/DETECTION.md must stand there,
rounded: those of one row in one row of the same detector. SIGMAD names the binary.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRINTED = ROOT / "docs/detection/tables.md"
TABLES = ROOT / "docs/DETECTION.md"
# The first cells of the heads of the tables that hold figures of eval.
HEADS = ("| detector | best", "| scenario |", "| | NAB", "| kind of noise |", "| mean")
# The row of a detector in these takes its figures from several rows.
SEVERAL = ("| mean",)
# The rules of an event are those of the set: rows to skip, tolerance, and runs that are one event.
MINUTES = ["--tolerance", "5", "--merge", "60"]
SETS = (
    ["--data", "nab"],
    ["--data", "mscloud/data", "--skip", "150", "--tolerance", "2", "--merge", "5"],
    ["--data", "wsd", "--skip", "150", *MINUTES],
    ["--data", "aiops", "--skip", "15%", *MINUTES],
)
MEANS = ["--starts", "--baselines"]
RUNS = {
    "Both halves": [[*chosen, *MEANS] for chosen in SETS],
    "Half A": [["--half", "a", *chosen, *MEANS] for chosen in SETS],
    "Half B": [["--half", "b", *chosen, *MEANS] for chosen in SETS],
    "Usual values": [["--ghosts", "--baselines"]],
    "Noise": [["--noise"]],
    "Scenarios": [["--synthetic"]],
    "Scenarios, at a score of 2": [["--synthetic", "--detector", "pager", "--threshold", "2"]],
}
NUMBER = re.compile(r"-?(?:\d[\d,]*)?\.?\d+")


def evaluate(binary: str, data: Path) -> str:
    """Everything, as Markdown."""

    def printed(arguments: list[str]) -> str:
        command = [binary, "eval", *arguments]
        return subprocess.run(command, cwd=data, check=True, text=True, stdout=subprocess.PIPE).stdout

    parts = ["# What `sigmad eval` prints\n\nWritten by `tests/tables.py --write`; `make eval` compares.\n"]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        # All start at once, and are read in their order.
        runs = {title: [pool.submit(printed, one) for one in every] for title, every in RUNS.items()}
        for title, every in runs.items():
            parts.append(f"\n# {title}\n{''.join(one.result() for one in every)}")
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
        if line.startswith("| ") and (name := cells(line)[0]).isalnum():
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
            figures = numbers("|".join(cells(line)[2 if head.startswith(("| kind of noise", "| scenario")) else 1 :]))
            of_detector = rows[named[1] if named else "pager"]
            # What names no detector takes its figures from several rows of `pager`.
            is_of_one = named and not head.startswith(SEVERAL)
            candidates = of_detector if is_of_one else [[figure for row in of_detector for figure in row]]
            if head.startswith("| kind of noise"):
                figures = numbers("|".join(cells(line)[1:]))
                of_kind = [row for row in printed.splitlines() if row.startswith(f"| {cells(line)[0]} | ")]
                candidates = [numbers("|".join(cell for row in of_kind for cell in cells(row)[3:]))]
            checked += 1
            if not any(stands_in(figures, row) for row in candidates):
                wrong.append(line)
    assert checked > 50, f"only {checked} rows: have the heads of the tables changed?"
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="where nab/, mscloud/, wsd/ and aiops/ lie")
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
