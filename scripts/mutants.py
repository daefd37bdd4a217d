#!/usr/bin/env python3
"""Mutants: changes the code that judges or parses, one place at a time, and asks the tests to notice.

    scripts/mutants.py [GROUP]...    # all groups unless some are named
    SAMPLE=400 SEED=7 scripts/mutants.py    # so many, each file in its share
    QUICK=1 scripts/mutants.py       # by the quick tests only

`cargo mutants` names the mutants. One build has them all, each behind a switch (scripts/switching.py); a mutant costs
only the tests that reach it, the quickest first. What was found is kept in target/mutants/, and in the newest record,
and what was noticed is not tried again until its function changes. What was never tried comes first. Writes a record
of all groups, whichever were tried, and a table by room: noticed, by the time limit, passed the quick tests, missed by
all, not reached by any, what has no switch (constants, fields of a struct, functions that return `impl`), and what does
not compile. A mutant that escapes fails the run: which ones need no test is in .cargo/mutants.toml, each with its
reason.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import switching
from switching import Mutant

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches"))

import bench  # noqa: E402

OUT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "mutants"
TREE = OUT / "tree"
PASSED_QUICK = "passed the quick tests"
NO_SWITCH, NOT_VIABLE = "no switch", "does not compile"
OUTCOMES = ("noticed", "time limit", PASSED_QUICK, "missed", "not reached", NO_SWITCH, NOT_VIABLE)
# These are not tried again while their function stays as it is: tests are only added.
SETTLED = ("noticed", "time limit")
# Of processor time. A test that needs more would make mutants take days.
TEST_SECONDS_MAX = 20
# Of processor time, which a busy machine does not take; and of the clock, for what waits for ever.
CPU_SECONDS_MIN, WALL_SECONDS = 3, 180
# Times of what its tests take without a mutant.
USUAL_TIMES = 5
MEMORY_MAX = 8 << 30
# Tests in one process, quickest first: most mutants end in the first.
BATCHES = (8, 64, 10_000)
# All mutants are tried by tests up to this before the others are: each that escapes them costs all the others.
QUICK_SECONDS_MAX = 0.05


@dataclasses.dataclass(frozen=True)
class Group:
    """Files of one package. Its unit tests must notice, and the integration tests that use it as a library."""

    what: str
    package: str
    files: tuple[str, ...]


# In the order in which they are tried: most mutants are of decoders, and a run that ends early has tried the others.
GROUPS = {
    "window": Group("window", "sigmad-detectors", ("crates/detectors/src/window.rs",)),
    "admission": Group("admission", "sigmad", ("src/decode/admission.rs",)),
    "http": Group(
        "heads, request lines, chunks",
        "sigmad",
        ("src/http/head.rs", "src/http/head_cache.rs", "src/http/chunked.rs", "src/http/request_line.rs"),
    ),
    "store": Group("store queue, windows from Redis", "sigmad", ("src/store/queue.rs", "src/store/windows.rs")),
    "tokens": Group("tokens", "sigmad", ("src/api/tokens.rs", "src/api/wrong_tokens.rs")),
    "decode": Group("decoders", "sigmad", ("src/decode/**/*.rs",)),
}
# Integration tests that use the library.
INTEGRATION = ("decoders",)
ROOTS = {"sigmad": Path("src/lib.rs"), "sigmad-detectors": Path("crates/detectors/src/lib.rs")}


@dataclasses.dataclass(frozen=True)
class Program:
    """A test binary, and the folder of its package."""

    name: str
    path: Path
    folder: Path


@dataclasses.dataclass
class Test:
    program: Program
    name: str
    seconds: float
    reached: set[int]


def list_mutants(groups: list[Group]) -> list[Mutant]:
    """In the order of their places; numbers are places in the list."""
    command = ["cargo", "mutants", "--list", "--json"]
    command += [word for package in {group.package for group in groups} for word in ("--package", package)]
    command += [word for group in groups for file in group.files for word in ("--file", file)]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    place = lambda at: (at["line"], at["column"])  # noqa: E731
    return [
        Mutant(
            number,
            of["name"],
            of["file"],
            of["genre"],
            of["replacement"],
            place(of["span"]["start"]),
            place(of["span"]["end"]),
            key(of),
        )
        for number, of in enumerate(found)
    ]


def key(of: dict) -> str:
    """A mutant by its place in its function and the digest of the function: what was found of it holds until that
    changes."""
    what = of["name"].split(": ", 1)[1]
    start, function = of["span"]["start"], of["function"]
    if function is None:
        return f"{of['file']}: {what} {start['line']}:{start['column']}"
    first, last = function["span"]["start"]["line"], function["span"]["end"]["line"]
    lines = (ROOT / of["file"]).read_bytes().splitlines()[first - 1 : last]
    digest = hashlib.sha256(b"\n".join(lines)).hexdigest()[:8]
    return f"{of['file']}: {what} +{start['line'] - first}:{start['column']} @{digest}"


def group_of(mutant: Mutant, groups: list[Group]) -> Group:
    return next(group for group in groups if any(mutant.file.startswith(file.split("*")[0]) for file in group.files))


def put(path: Path, content: bytes) -> None:
    """A file that is as it was keeps its time, so that cargo builds again only what changed."""
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class Build:
    """The packages with their mutants behind switches, and the tests that must notice."""

    def __init__(self, groups: list[Group], mutants: list[Mutant], outcomes: dict[str, str]):
        self.mutants = mutants
        self.packages = sorted({group.package for group in groups})
        # Those that the compiler refused before, so that it need not be asked again: the reason of each.
        self.refused_at = OUT / "refused.json"
        self.known_refused = {key: outcome for key, outcome in outcomes.items() if outcome == NOT_VIABLE}
        self.known_refused |= json.loads(self.refused_at.read_text()) if self.refused_at.exists() else {}
        self.refused = {m.number: self.known_refused[m.key] for m in mutants if m.key in self.known_refused}
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        known = {TREE / file for file in filter(None, files.split("\0")) if (ROOT / file).is_file()}
        for path in TREE.rglob("*.rs"):
            if path not in known and path.name != "mutants.rs":
                path.unlink()
        roots = [ROOTS[package] for package in self.packages]
        switched = {TREE / mutant.file for mutant in mutants} | {TREE / root for root in roots}
        for path in known - switched:
            put(path, (ROOT / path.relative_to(TREE)).read_bytes())
            path.chmod((ROOT / path.relative_to(TREE)).stat().st_mode)
        wrapper = OUT / "rustc.sh"
        # Optimised, with what a debug build checks: the tests are run thousands of times.
        wrapper.write_text(
            '#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec "$@" -C opt-level=1 -C debuginfo=0 '
            "-C debug-assertions=on -C overflow-checks=on\n"
        )
        wrapper.chmod(0o755)
        self.by_file: dict[str, list[Mutant]] = collections.defaultdict(list)
        for mutant in mutants:
            self.by_file[mutant.file].append(mutant)
        names = ["core_intrinsics", "const_eval_select"]
        features = f"#![allow(warnings, clippy::all)]\n#![feature({', '.join(names)})]\n"
        runtime = switching.RUNTIME.replace("COUNT", str(max(1, len(mutants))))
        for root in roots:
            text = (ROOT / root).read_text()
            put(TREE / root, f"{features}{text}\n#[doc(hidden)]\npub mod mutants;\n".encode())
            put((TREE / root).parent / "mutants.rs", runtime.encode())
        for file in self.by_file:
            self.write(file)
        self.programs = self.build()

    def write(self, file: str) -> None:
        source = switching.Source((ROOT / file).read_bytes())
        for mutant in self.by_file[file]:
            if mutant.number not in self.refused:
                try:
                    source.add(mutant)
                except switching.Refused as reason:
                    self.refused[mutant.number] = str(reason)
        put(TREE / file, source.switched())

    def build(self) -> list[Program]:
        """Takes out what does not compile, until all does."""
        # Of the whole workspace, with whose features the dependencies have been built.
        command = ["cargo", "test", "--locked", "--workspace", "--lib", "--no-run", "--message-format=json"]
        command += [word for name in INTEGRATION for word in ("--test", name)]
        environment = os.environ | {
            "CARGO_TARGET_DIR": str(OUT.parent),
            "RUSTC_WORKSPACE_WRAPPER": str(OUT / "rustc.sh"),
        }
        while True:
            done = subprocess.run(command, cwd=TREE, env=environment, check=False, capture_output=True)
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
            if done.returncode == 0:
                wanted = {*(package.replace("-", "_") for package in self.packages), *INTEGRATION}
                built = [line for line in lines if line.get("executable") and line["profile"]["test"]]
                programs = [
                    Program(line["target"]["name"], Path(line["executable"]), Path(line["manifest_path"]).parent)
                    for line in built
                ]
                return [program for program in programs if program.name in wanted]
            errors = [
                line["message"]
                for line in lines
                if line["reason"] == "compiler-message" and line["message"]["level"] == "error"
            ]
            changed = self.refuse(errors)
            print(f"{len(errors)} errors, {len(self.refused)} mutants without a switch", flush=True)
            if not changed:
                (OUT / "errors.json").write_text(json.dumps(errors, indent=1))
                sys.exit(
                    "== mutants: this does not compile:\n"
                    + "\n".join(e["rendered"] for e in errors[:5])
                    + done.stderr.decode()[-2000:]
                )
            for file in changed:
                self.write(file)
            self.known_refused |= {self.mutants[number].key: reason for number, reason in self.refused.items()}
            self.refused_at.write_text(json.dumps(self.known_refused, indent=1))

    def refuse(self, errors: list[dict]) -> set[str]:
        changed = set()
        for error in errors:
            for span in sorted(error["spans"], key=lambda span: not span["is_primary"]):
                file = span["file_name"]
                if file not in self.by_file:
                    continue
                number = switching.marked((TREE / file).read_bytes(), span["byte_start"])
                if number is None:
                    continue
                here = self.mutants[number]
                same = [m for m in self.by_file[file] if (m.start, m.genre) == (here.start, here.genre)]
                for mutant in same:
                    self.refused.setdefault(mutant.number, error["message"].splitlines()[0])
                changed.add(file)
                break
        return changed


def run(program: Program, tests: list[str], variables: dict[str, str], cpu_s: float) -> tuple[str, float]:
    """`passed`, `failed` or `time limit`, and the seconds of processor time."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_s), math.ceil(cpu_s) + 2))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    fixed = {
        "CARGO_MANIFEST_DIR": str(program.folder),
        "PROPTEST_MAX_SHRINK_ITERS": "0",
        "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1",
        "RUST_BACKTRACE": "0",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [str(program.path), "--exact", "--test-threads=1", "-q", *tests],
        cwd=program.folder,
        env=os.environ | fixed | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=limit,
        start_new_session=True,
    )
    try:
        code = process.wait(WALL_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        code = -24
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    verdict = "passed" if code == 0 else "time limit" if code in (-24, -9) else "failed"
    return verdict, spent


def learn(build: Build) -> list[Test]:
    """What each test reaches."""
    tests, left_out = [], []
    for program in build.programs:
        command = [str(program.path), "--list", "--format=terse"]
        listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=TREE).stdout
        names = [line.removesuffix(": test") for line in listed.splitlines() if line.endswith(": test")]
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                verdict, spent = run(program, [name], {"MUTANTS_REACHED": f"{folder}/of"}, TEST_SECONDS_MAX)
                if verdict != "passed":
                    left_out.append(f"{name} ({verdict})")
                    continue
                # Each package leaves a file of those that it has asked for.
                notes = [path.read_bytes() for path in Path(folder).iterdir()]
            reached = {number for note in notes for number, byte in enumerate(note) if byte}
            tests.append(Test(program, name, spent, reached))
    print(f"{len(tests)} tests; left out: {', '.join(left_out) or 'none'}", flush=True)
    return tests


def judge(mutant: Mutant, tests: list[Test]) -> str:
    """By those of the tests that reach it."""
    module = mutant.file.removesuffix(".rs").removesuffix("/mod").split("src/")[-1].replace("/", "::")
    reaching = sorted(
        (test for test in tests if mutant.number in test.reached),
        key=lambda test: test.seconds * (1 if test.name.startswith(f"{module}::") else 10),
    )
    for size in BATCHES:
        batch, reaching = reaching[:size], reaching[size:]
        if not batch:
            break
        # The program of the quickest first.
        for program in dict.fromkeys(test.program for test in batch):
            of_it = [test for test in batch if test.program == program]
            limit = max(CPU_SECONDS_MIN, USUAL_TIMES * sum(test.seconds for test in of_it))
            verdict, _ = run(program, [test.name for test in of_it], {"MUTANT": str(mutant.number)}, limit)
            if verdict != "passed":
                return "noticed" if verdict == "failed" else verdict
    return "missed"


def sample(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Of each file its share, and at least one."""
    by_file = collections.defaultdict(list)
    for mutant in mutants:
        by_file[mutant.file].append(mutant)
    chance = random.Random(seed)
    taken = []
    for _, of_file in sorted(by_file.items()):
        taken += chance.sample(of_file, min(len(of_file), math.ceil(len(of_file) * count / len(mutants))))
    chance.shuffle(taken)
    return taken


def known_outcomes(kept_at: Path) -> dict[str, str]:
    """Of the newest record, and of the runs here since then."""
    records = sorted((ROOT / "benches" / "record").glob("*/mutants.json"))
    known = json.loads(records[-1].read_text())["outcomes"] if records else {}
    return known | (json.loads(kept_at.read_text()) if kept_at.exists() else {})


def mutate(groups: list[Group]) -> dict[str, str]:
    """The outcomes by the keys of the mutants, those of earlier runs too."""
    mutants, kept_at = list_mutants(groups), OUT / "outcomes.json"
    began, outcomes = time.monotonic(), known_outcomes(kept_at)
    build = Build(groups, mutants, outcomes)
    tests = learn(build)
    print(f"{len(mutants)} mutants, ready after {time.monotonic() - began:.0f} s", flush=True)
    reached = set().union(*(test.reached for test in tests))

    def note(mutant: Mutant, outcome: str) -> None:
        outcomes[mutant.key] = outcome
        if outcome not in (*SETTLED, NO_SWITCH, NOT_VIABLE):
            print(f"{outcome}: {mutant.name}", flush=True)
        kept_at.write_text(json.dumps(outcomes, indent=0))

    quick = [test for test in tests if test.seconds <= QUICK_SECONDS_MAX]
    slow = [test for test in tests if test.seconds > QUICK_SECONDS_MAX]
    passed = []
    taken = sample(mutants, int(os.environ.get("SAMPLE", len(mutants))), int(os.environ.get("SEED", "1")))
    taken = [mutant for mutant in taken if outcomes.get(mutant.key) not in SETTLED]
    # One that escaped is tried again: a test may be new.
    for mutant in sorted(taken, key=lambda m: (m.key in outcomes, groups.index(group_of(m, groups)))):
        if mutant.number in build.refused:
            note(mutant, NO_SWITCH if build.refused[mutant.number] in switching.REASONS else NOT_VIABLE)
        elif mutant.number not in reached:
            note(mutant, "not reached")
        elif (outcome := judge(mutant, quick)) != "missed":
            note(mutant, outcome)
        else:
            passed.append(mutant)
            if outcomes.get(mutant.key) != "missed":
                note(mutant, PASSED_QUICK)
    print(f"{len(passed)} have passed the {len(quick)} quick tests; {len(slow)} are left", flush=True)
    if not os.environ.get("QUICK"):
        for mutant in passed:
            note(mutant, judge(mutant, slow))
    return outcomes


def report(groups: list[Group], outcomes: dict[str, str]) -> dict[str, collections.Counter]:
    """Writes the record of all groups: a table by room, and each mutant that escaped. Returns the counts by room."""
    mutants = list_mutants(groups)
    by_room: dict[str, collections.Counter] = {group.what: collections.Counter() for group in groups}
    for mutant in mutants:
        by_room[group_of(mutant, groups).what][outcomes.get(mutant.key, "")] += 1
    total = sum(by_room.values(), collections.Counter())
    rows = [
        [room, counts.total(), counts.total() - counts[""], *(counts[outcome] for outcome in OUTCOMES)]
        for room, counts in [*by_room.items(), ("all", total)]
    ]
    lines = ["| files | mutants | tried | " + " | ".join(OUTCOMES) + " |", "| --- |" + " ---: |" * (2 + len(OUTCOMES))]
    lines += ["| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) + " |" for row in rows]
    lines += ["", "| outcome | mutant |", "| --- | --- |"]
    escaped = [(outcomes.get(mutant.key), mutant.name) for mutant in mutants]
    for outcome in ("missed", "not reached", PASSED_QUICK):
        lines += ["| " + outcome + " | `" + name.replace("|", "\\|") + "` |" for is_, name in escaped if is_ == outcome]
    here = {mutant.key: outcomes[mutant.key] for mutant in mutants if mutant.key in outcomes}
    data = {"manifest": bench.manifest(), "of": len(mutants), "outcomes": here}
    print("record in", bench.write_record("mutants", data, "\n".join(lines) + "\n"))
    print("\n".join(lines[: 3 + len(by_room)]))
    return by_room


def main() -> None:
    wanted = sys.argv[1:] or list(GROUPS)
    if unknown := set(wanted) - set(GROUPS):
        sys.exit(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    groups = [group for name, group in GROUPS.items() if name in wanted]
    by_room = report(list(GROUPS.values()), mutate(groups))
    tried = sum((by_room[group.what] for group in groups), collections.Counter())
    if escaped := tried["missed"] + tried["not reached"] + tried[PASSED_QUICK]:
        sys.exit(f"== mutants: {escaped} escaped the tests")


if __name__ == "__main__":
    main()
