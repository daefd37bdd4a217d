#!/usr/bin/env python3
"""Imports between modules go one way.

Reads `use` items and qualified paths of every Rust file in src/ and crates/, without comments, strings and test
modules, and resolves them to modules by `crate::`, `super::`, `self::` and the names of child modules. It fails when

- the top-level modules of a crate import one another in a circle, or the files of one module do;
- one of http, decode, analytics and store imports another;
- a crate imports the server.

Declarations and re-exports of children (`mod`, `pub use`) are no imports.
`make scripts` runs it.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Rooms that share words and no code.
APART = ("http", "decode", "analytics", "store")
SERVER = "sigmad"

TOKENS = re.compile(
    r"""
      (?P<comment>//[^\n]*|/\*.*?\*/)
    | (?P<raw>b?r(?P<hashes>\#*)".*?"(?P=hashes))
    | (?P<string>b?"(?:\\.|[^"\\])*")
    | (?P<char>b?'(?:\\.[^']*|[^'\\])')
    """,
    re.VERBOSE | re.DOTALL,
)
VISIBILITY = re.compile(r"\bpub\(in [^)]*\)")
TEST_MODULE = re.compile(
    r"#\[cfg\((?:test|all\(test[^\]]*)\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?mod\s+\w+\s*\{"
)
TEST_FILE = re.compile(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+);")
TEST_ITEM = re.compile(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))?\s+)?(?:mod\s+\w+|use\s[^;]*);")
USE = re.compile(r"\b(?P<public>pub(?:\([^)]*\))?\s+)?use\s+(?P<tree>[^;]+);")
PATH = re.compile(r"(?<![\w:])(?P<path>(?:crate|super|self|\w+)(?:::\w+)+)")


def blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def without_words(text: str) -> str:
    """Comments, strings, characters and the scopes of `pub(in ...)` become blanks."""
    return VISIBILITY.sub("pub", TOKENS.sub(lambda found: blank(found.group()), text))


def without_tests(text: str) -> str:
    while found := TEST_MODULE.search(text):
        depth, at = 1, found.end()
        while depth and at < len(text):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        text = text[: found.start()] + blank(text[found.start() : at]) + text[at:]
    return TEST_ITEM.sub(lambda found: blank(found.group()), text)


def flat(tree: str) -> list[str]:
    """The paths of a use tree: `a::{b, c::d}` names a::b and a::c::d."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        return [re.sub(r"\s+as\s+\w+$", "", tree).replace(" ", "")]
    prefix, inner = tree[:brace].replace(" ", "").replace("\n", ""), tree[brace + 1 : tree.rfind("}")]
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(inner):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(inner[start:at])
            start = at + 1
    parts.append(inner[start:])
    return [prefix + path for part in parts if part.strip() for path in flat(part)]


class Crate:
    """The files of one crate by module path: () is lib.rs or main.rs."""

    def __init__(self, name: str, source: Path) -> None:
        self.name = name
        self.files: dict[tuple[str, ...], Path] = {}
        for path in sorted(source.rglob("*.rs")):
            parts = path.relative_to(source).with_suffix("").parts
            if parts == ("main",):
                continue
            if parts[-1] in ("mod", "lib"):
                parts = parts[:-1]
            self.files[parts] = path
        for at in self.test_modules():
            for parts in [parts for parts in self.files if parts[: len(at)] == at]:
                del self.files[parts]

    def test_modules(self) -> list[tuple[str, ...]]:
        """Those that are compiled for tests alone."""
        found = []
        for at, path in self.files.items():
            found += [(*at, name) for name in TEST_FILE.findall(without_words(path.read_text()))]
        return found

    def module(self, segments: tuple[str, ...]) -> tuple[str, ...]:
        """The deepest file that a path names."""
        while segments not in self.files and segments:
            segments = segments[:-1]
        return segments

    def imports(self, at: tuple[str, ...]) -> set[tuple[str, ...]]:
        text = without_tests(without_words(self.files[at].read_text()))
        paths = []
        for found in USE.finditer(text):
            targets = [self.resolve(at, path) for path in flat(found.group("tree"))]
            # A re-export of a child.
            paths += [t for t in targets if t is not None and not (found.group("public") and t[: len(at)] == at)]
        rest = USE.sub(lambda found: blank(found.group()), text)
        paths += [t for found in PATH.finditer(rest) if (t := self.resolve(at, found.group("path"))) is not None]
        return {target for target in map(self.module, paths) if target != at}

    def resolve(self, at: tuple[str, ...], path: str) -> tuple[str, ...] | None:
        """Segments from the crate's root; None: of another crate, or of an item in scope."""
        first, *rest = path.split("::")
        here = list(at)
        if first == "crate":
            return tuple(rest)
        if first == "super":
            here = here[:-1]
            while rest and rest[0] == "super":
                here, rest = here[:-1], rest[1:]
            return tuple(here + rest)
        if first == "self":
            return tuple(here + rest)
        # A child module by its bare name.
        return (*at, first, *rest) if (*at, first) in self.files else None

    def foreign(self, at: tuple[str, ...]) -> set[str]:
        """Names of other crates of the workspace."""
        text = without_tests(without_words(self.files[at].read_text()))
        return set(re.findall(r"(?<![\w:])(sigmad(?:_\w+)?)::", text))


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(edges.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            part = [stack.pop()]
            while part[-1] != node:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    sys.setrecursionlimit(10_000)
    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def shown(module: tuple[str, ...]) -> str:
    return "::".join(module) or "lib"


def faults(crate: Crate) -> list[str]:
    bad = []
    of_top: dict[str, set[str]] = defaultdict(set)
    why: dict[tuple[str, str], list[str]] = defaultdict(list)
    of_files: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for at in crate.files:
        for target in crate.imports(at):
            if not at or not target:
                continue
            if at[0] != target[0]:
                of_top[at[0]].add(target[0])
                why[at[0], target[0]].append(f"{shown(at)} -> {shown(target)}")
            else:
                of_files[at[0]][shown(at)].add(shown(target))
        if crate.name != SERVER and SERVER in crate.foreign(at):
            bad.append(f"{crate.name}: {shown(at)} imports the server")
    for circle in circles(of_top):
        edges = [f"    {line}" for one in circle for other in circle for line in sorted(why.get((one, other), []))]
        bad.append("\n".join([f"{crate.name}: a circle of modules: {', '.join(circle)}", *edges]))
    for edges in of_files.values():
        for circle in circles(edges):
            lines = [f"    {one} -> {other}" for one in circle for other in sorted(edges[one]) if other in circle]
            bad.append("\n".join([f"{crate.name}: a circle of files: {', '.join(circle)}", *lines]))
    if crate.name == SERVER:
        for one in APART:
            for other in sorted(of_top[one] & set(APART)):
                bad.append("\n".join([f"{one} imports {other}", *(f"    {line}" for line in why[one, other])]))
    return bad


def main() -> None:
    crates = [Crate(SERVER, ROOT / "src")]
    crates += [Crate(folder.name, folder / "src") for folder in sorted((ROOT / "crates").iterdir()) if folder.is_dir()]
    bad = [fault for crate in crates for fault in faults(crate)]
    print(*bad, sep="\n")
    if bad:
        sys.exit(f"imports: {len(bad)} faults")
    files = sum(len(crate.files) for crate in crates)
    print(f"imports: {files} files of {len(crates)} crates, no circle")


if __name__ == "__main__":
    main()
