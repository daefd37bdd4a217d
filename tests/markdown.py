#!/usr/bin/env python3
"""The documents name only what exists: links, headings, paths, make targets and metrics.

`make markdown` runs it on every Markdown file of the project, except generated ones and those of others.
A page with one fault of each kind comes first: each must be found.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Written by programs, or copied with data.
SKIPPED = ("benches/record/", "tests/detection/", "docs/detection/")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)|(?:src|srcset)=\"([^\"]+)\"")
CODE = re.compile(r"`([^`\n]+)`")
CRATES = "|".join(path.name for path in (ROOT / "crates").iterdir())
SCRIPT = re.compile(r"^[\w-]+\.(?:py|sh|rs|bt)\b", re.MULTILINE)
METRIC = re.compile(rf"\b(?!sigmad_(?:{CRATES})\b)(?:sigmad|http|ingest)_[a-z_]+")
# Names of older versions stand beside the new ones.
OLD_METRICS_IN = "CHANGELOG.md"
MAKE = re.compile(r"(?:^|[`$\s])make ([a-z][a-z-]*)\b")
# A path from the root of the repository: one of its folders, then more.
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"target"}
PATH = re.compile(rf"(?<![\w/.-])((?:{'|'.join(sorted(map(re.escape, FOLDERS)))})/[\w./*{{}},-]*)")


FAULTY = """
[a](nosuch.md) [b](#nosuch) [c](README.md#nosuch) `src/nosuch.rs` `tests/nosuch*.py` `src/{lib,nosuch}.rs` `nosuch.py`

```console
$ make nosuch && curl localhost:8080/metrics | grep sigmad_nosuch_total
```
"""

# In capitals in the sources too: options, words of replies, and AUTH, which needs no permission.
NO_COMMANDS = {"ASK", "AUTH", "EX", "MAXLEN", "MOVED", "PX"}


@functools.cache
def files() -> list[Path]:
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
    return [ROOT / name for name in listed if not name.startswith(SKIPPED) and (ROOT / name).exists()]


def any_file(name: str) -> bool:
    return any(path.name == name for path in files())


def anchors(text: str) -> set[str]:
    """Those that GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title)).strip().lower().replace(" ", "-") for title in titles}


def broken_links(text: str, folder: Path) -> list[str]:
    bad = []
    for found in LINK.finditer(FENCE.sub("", text)):
        target = found.group(1) or found.group(2)
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        to = folder / name
        if name and not to.exists():
            bad.append(f"{target} does not exist")
        elif anchor and anchor not in anchors(to.read_text() if name else text):
            bad.append(f"{target}: no such heading")
    return bad


def code_of(text: str) -> str:
    return "\n".join([*CODE.findall(FENCE.sub("", text)), *FENCE.findall(text)])


def missing_paths(text: str, folder: Path) -> list[str]:
    """Paths in code, inline or in blocks, that exist neither from the root nor from the page's folder.

    A script that is named without a folder exists in some folder.
    """
    inline = "\n".join(CODE.findall(FENCE.sub("", text)))
    bad = [f"`{name}` does not exist" for name in sorted(set(SCRIPT.findall(inline))) if not any_file(name)]
    for path in sorted(set(PATH.findall(code_of(text)))):
        # `src/http/{head,worker}.rs` is two paths, and `tests/*.py` is at least one.
        braces = re.search(r"\{([^}]*)\}", path)
        names = [path.replace(braces.group(), one) for one in braces.group(1).split(",")] if braces else [path]
        for name in (one.rstrip(".,") for one in names):
            if not any(any(start.glob(name)) if "*" in name else (start / name).exists() for start in (ROOT, folder)):
                bad.append(f"`{name}` does not exist")
    return bad


def unknown_targets(text: str, targets: set[str]) -> list[str]:
    return [f"make {name}: no such target" for name in sorted(set(MAKE.findall(code_of(text))) - targets)]


def unknown_metrics(text: str, metrics: set[str]) -> list[str]:
    named = {re.sub(r"_(?:bucket|count|sum)$", "", name) for name in METRIC.findall(code_of(text))}
    return [f"`{name}` is not in docs/METRICS.md" for name in sorted(named - metrics)]


def make_targets() -> set[str]:
    """Everything that `make` knows by name, whether a rule or a list declares it."""
    printed = subprocess.run(
        ["make", "-qprR", "--no-builtin-variables", "help"], cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE
    ).stdout
    return {name for line in re.findall(r"^([\w -]+):", printed, re.MULTILINE) for name in line.split()}


def faults(text: str, folder: Path, targets: set[str], metrics: set[str]) -> list[str]:
    return [
        *broken_links(text, folder),
        *missing_paths(text, folder),
        *unknown_targets(text, targets),
        *unknown_metrics(text, metrics),
    ]


def redis_words() -> set[str]:
    """Commands and subcommands that are sent to Redis, by the sources; words of errors are beside them."""
    words: set[str] = set()
    for folder in ("store", "replicas"):
        for path in (ROOT / "src" / folder).rglob("*"):
            if path.suffix == ".lua":
                words |= set(re.findall(r"redis\.p?call\('([A-Z]+)'", path.read_text()))
            elif path.suffix == ".rs" and path.name != "error.rs" and "tests" not in path.stem:
                words |= set(re.findall(r'"([A-Z]{2,})"', path.read_text().split("#[cfg(test)]")[0]))
    return words - NO_COMMANDS


def permissions(page: str) -> list[str]:
    """The list of what a user of Redis may do is that of the commands in the sources."""
    section = page.partition("\n## Permissions of the Redis user\n")[2].partition("\n## ")[0]
    listed = {word for code in CODE.findall(section) for word in re.findall(r"\b[A-Z]{2,}\b", code)}
    used = redis_words()
    bad = [f"`{word}` is used and not in the permissions" for word in sorted(used - listed)]
    return bad + [f"`{word}` is in the permissions and not used" for word in sorted(listed - used)]


def main() -> None:
    targets = make_targets()
    assert {"run", "test"} <= targets, f"make knows only {sorted(targets)}"
    metrics = set(METRIC.findall((ROOT / "docs" / "METRICS.md").read_text()))
    found = faults(FAULTY, ROOT, targets, metrics)
    assert len(found) == 9, f"of the faulty page: {found}"
    redis = (ROOT / "docs" / "REDIS.md").read_text()
    assert permissions(redis.replace("`INFO`", "`NOSUCH`")) == [
        "`INFO` is used and not in the permissions",
        "`NOSUCH` is in the permissions and not used",
    ]
    bad = [f"docs/REDIS.md: {fault}" for fault in permissions(redis)]
    pages = [path for path in files() if path.suffix == ".md"]
    for page in pages:
        text, name = page.read_text(), str(page.relative_to(ROOT))
        known = metrics | set(METRIC.findall(text)) if name == OLD_METRICS_IN else metrics
        bad += [f"{name}: {fault}" for fault in faults(text, page.parent, targets, known)]
    if bad:
        sys.exit("\n".join(bad))
    print(f"{len(pages)} documents name only what exists")


if __name__ == "__main__":
    main()
