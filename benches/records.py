"""The records that a page names."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import bench

# One that the page's folder does not have: measured alone, on another day.
OTHER = re.compile(r"<!-- record ([a-z-]+): (\S+) -->\n*")


class Wrong(Exception):
    """A figure that is not in a record."""


@functools.cache
def read(path: Path) -> dict:
    return json.loads(path.read_text())


def element(rows: list, step: str) -> object:
    """By its load, where rows have one, for the next record may have more of them; else by its number."""
    if isinstance(rows[0], dict) and "load" in rows[0]:
        return next(row for row in rows if row["load"] == step)
    return rows[int(step)]


class Records:
    """The JSON files of one folder, and those that the page names from others."""

    def __init__(self, folder: Path, page: str = "") -> None:
        self.folder = folder
        # Those of the folder that were asked for.
        self.asked: set[str] = set()
        self.others = {name: bench.ROOT / other for name, other in OTHER.findall(page)}

    def of(self, name: str) -> dict:
        if name not in self.others:
            self.asked.add(name)
        path = self.folder_of(name) / f"{name}.json"
        if not path.exists():
            raise Wrong(f"there is no record {path}")
        return read(path)

    def folder_of(self, name: str) -> Path:
        return self.others.get(name, self.folder)

    def value(self, name: str, key: str) -> float:
        found = self.of(name)
        for step in key.split("."):
            try:
                found = element(found, step) if isinstance(found, list) else found[step]
            except (KeyError, IndexError, StopIteration, ValueError, TypeError):
                raise Wrong(f"{name}.json has no {key}: no {step}") from None
        if not isinstance(found, int | float):
            raise Wrong(f"{name}.json: {key} is no number")
        return found
