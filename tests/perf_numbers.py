#!/usr/bin/env python3
"""Every figure in PERF.md is in a record: benches/figures.py finds none that is not.

And it would: each figure and each cell of a table is made wrong in turn, and a figure without a record
is put in; every one must be found. Whatever the pages link to is there, and no flamegraph is too large.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches"))

import figures  # noqa: E402

FLAMEGRAPH_BYTES_MAX = 150_000


def other_digit(text: str) -> str:
    """The same with its last digit changed."""
    at = max(place for place, letter in enumerate(text) if letter.isdigit())
    return f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}"


def excerpts(page: str):
    """Each table and each paragraph that has figures, below the lines that say where the records are."""
    head = "\n\n".join(found.group(0) for found in (figures.FOLDER.search(page), *figures.OTHER.finditer(page)))
    for table in figures.TABLE.finditer(page):
        yield f"{head}\n\n{table.group(0)}"
    for paragraph in figures.TABLE.sub("", page).split("\n\n"):
        if figures.FIGURE.search(paragraph):
            yield f"{head}\n\n{paragraph}\n"


def wrong_pages(page: str):
    """Each with one figure that is wrong: what it was, and the page."""
    for found in figures.FIGURE.finditer(page):
        number = found.group(1)
        yield number, page[: found.start(1)] + other_digit(number) + page[found.end(1) :]
    for table in figures.TABLE.finditer(page):
        for found in re.finditer(figures.NUMBER, table.group(3)):
            start, end = table.start(3) + found.start(), table.start(3) + found.end()
            yield f"{table.group(2)}: {found.group()}", page[:start] + other_digit(found.group()) + page[end:]


def pages_without_record(page: str):
    """Each with a figure that is in no record: what it was, and the page."""
    yield "nothing", page + "\nIt takes 7,777 ns.\n"
    yield "a missing record", page + "\nIt takes 7,777<!-- nosuch key --> ns.\n"
    yield "a missing key", page + "\nIt takes 7,777<!-- headline servers.nobody.total_ns --> ns.\n"


def broken_links(name: str) -> list[str]:
    page = ROOT / name
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text())
    assert targets, f"{name} links to nothing"
    return [f"{name}: {target} is not there" for target in targets if not (page.parent / target).exists()]


def main() -> None:
    page = figures.PERF.read_text()
    records = figures.Records(figures.folder_of(page), page)
    bad = figures.faults(page)
    bad += broken_links("PERF.md") + broken_links("flamegraphs/README.md")
    if (ROOT / "flamegraphs" / "README.md").read_text() != figures.index(records):
        bad.append("flamegraphs/README.md is not what benches/figures.py makes of the record")
    pictures = sorted((ROOT / "flamegraphs").glob("*.svg"))
    bad += [
        f"{picture.name}: {picture.stat().st_size} bytes"
        for picture in pictures
        if picture.stat().st_size > FLAMEGRAPH_BYTES_MAX
    ]
    tried = 0
    # The whole page once for each figure would take a minute.
    for excerpt in excerpts(page):
        bad += [f"in a part of PERF.md alone: {fault}" for fault in figures.faults(excerpt)]
        for what, wrong in wrong_pages(excerpt):
            tried += 1
            if not figures.faults(wrong):
                bad.append(f"{what} was made wrong, and nothing was said")
    for what, wrong in pages_without_record(page):
        tried += 1
        if not figures.faults(wrong):
            bad.append(f"a figure of {what} was put in, and nothing was said")
    for one in bad:
        print(one)
    if bad:
        sys.exit(f"{len(bad)} faults")
    print(f"PERF.md agrees with its records; {tried} wrong figures were all found; {len(pictures)} flamegraphs")


if __name__ == "__main__":
    main()
