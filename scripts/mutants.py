#!/usr/bin/env python3
"""Mutants: changes the code that judges or parses, one place at a time, and asks the unit tests to notice.

    scripts/mutants.py [GROUP]...    # all groups unless some are named
    SAMPLE=400 SEED=7 scripts/mutants.py    # so many, each file in its share

`cargo mutants` names the mutants. One build of each package has them all, each behind a switch (scripts/switching.py);
a mutant costs only the tests that reach it, the quickest first. What was found is kept in target/mutants/ and not tried
again until the code changes. Prints a table by file: noticed, by the time limit, missed, not reached by any unit test,
and what has no switch (constants, and what does not compile). A mutant that escapes fails the run: which ones need no
test is in .cargo/mutants.toml, each with its reason.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
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
OUT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "mutants"
TREE = OUT / "tree"
OUTCOMES = ("noticed", "time limit", "missed", "not reached", "no switch")
# Of processor time. A test that needs more would make mutants take days.
TEST_SECONDS_MAX = 20
# Of processor time, which a busy machine does not take; and of the clock, for what waits for ever.
CPU_SECONDS_MIN, WALL_SECONDS = 4, 180
MEMORY_MAX = 8 << 30
# Tests in one process, quickest first: most mutants end in the first.
BATCHES = (4, 16, 64, 10_000)
# All mutants are tried by tests up to this before the others are: each that escapes them costs all the others.
QUICK_SECONDS_MAX = 0.05


@dataclasses.dataclass(frozen=True)
class Group:
    """Files of one package whose unit tests must notice."""

    package: str
    files: tuple[str, ...]
    # Paths of the unit tests begin so.
    tests: str
    # An integration test that uses the library, if it must notice too.
    integration: str = ""


GROUPS = {
    "window": Group("sigmad-detectors", ("crates/detectors/src/window.rs",), "window::"),
    "http": Group(
        "sigmad",
        ("src/http/head.rs", "src/http/head_cache.rs", "src/http/chunked.rs", "src/http/request_line.rs"),
        "http::",
    ),
    "decode": Group("sigmad", ("src/decode/**/*.rs",), "decode::", "decoders"),
    "store": Group("sigmad", ("src/store/queue.rs", "src/store/windows.rs"), "store::"),
    "tokens": Group("sigmad", ("src/api/tokens.rs", "src/api/wrong_tokens.rs"), "api::"),
}
ROOTS = {"sigmad": Path("src/lib.rs"), "sigmad-detectors": Path("crates/detectors/src/lib.rs")}


@dataclasses.dataclass
class Test:
    program: Path
    name: str
    seconds: float
    reached: set[int]


def list_mutants(groups: list[Group]) -> list[Mutant]:
    """In the order of their places; numbers are places in the list."""
    command = ["cargo", "mutants", "--list", "--json", "--package", groups[0].package]
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
        )
        for number, of in enumerate(found)
    ]


def put(path: Path, content: bytes) -> None:
    """A file that is as it was keeps its time, so that cargo builds again only what changed."""
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@functools.cache
def digest(file: str) -> str:
    code, _, _ = (ROOT / file).read_bytes().partition(b"\n#[cfg(test)]\nmod ")
    return hashlib.sha256(code).hexdigest()[:12]


def key(mutant: Mutant) -> str:
    """What was found of it holds until the code of its file changes; tests are only added."""
    return f"{mutant.name} @{digest(mutant.file)}"


class Build:
    """One package with its mutants behind switches, and the tests that must notice."""

    def __init__(self, package: str, groups: list[Group], mutants: list[Mutant]):
        self.package, self.mutants = package, mutants
        self.integration = sorted({group.integration for group in groups} - {""})
        # Those that the compiler refused before, so that it need not be asked again: the reason of each.
        self.refused_at = OUT / f"{package}-refused.json"
        known = json.loads(self.refused_at.read_text()) if self.refused_at.exists() else {}
        self.refused = {mutant.number: known[key(mutant)] for mutant in mutants if key(mutant) in known}
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        known = {TREE / file for file in filter(None, files.split("\0")) if (ROOT / file).is_file()}
        for path in TREE.rglob("*.rs"):
            if path not in known and path.name != "mutants.rs":
                path.unlink()
        switched = {TREE / mutant.file for mutant in mutants} | {TREE / ROOTS[package]}
        for path in known - switched:
            put(path, (ROOT / path.relative_to(TREE)).read_bytes())
            path.chmod((ROOT / path.relative_to(TREE)).stat().st_mode)
        wrapper = OUT / "rustc.sh"
        wrapper.write_text('#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec "$@"\n')
        wrapper.chmod(0o755)
        self.by_file: dict[str, list[Mutant]] = collections.defaultdict(list)
        for mutant in mutants:
            self.by_file[mutant.file].append(mutant)
        root = TREE / ROOTS[package]
        text = (ROOT / ROOTS[package]).read_text()
        names = ["core_intrinsics", "const_eval_select"]
        features = f"#![allow(warnings, clippy::all)]\n#![feature({', '.join(names)})]\n"
        put(root, f"{features}{text}\n#[doc(hidden)]\npub mod mutants;\n".encode())
        runtime = switching.RUNTIME.replace("COUNT", str(max(1, len(mutants))))
        put(root.parent / "mutants.rs", runtime.encode())
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

    def build(self) -> dict[str, Path]:
        """Takes out what does not compile, until all does."""
        # Of the whole workspace, with whose features the dependencies have been built.
        command = ["cargo", "test", "--locked", "--workspace", "--lib", "--no-run", "--message-format=json"]
        command += [word for name in self.integration for word in ("--test", name)]
        environment = os.environ | {
            "CARGO_TARGET_DIR": str(OUT.parent),
            "RUSTC_WORKSPACE_WRAPPER": str(OUT / "rustc.sh"),
        }
        while True:
            done = subprocess.run(command, cwd=TREE, env=environment, check=False, capture_output=True)
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
            if done.returncode == 0:
                wanted = {self.package.replace("-", "_"), *self.integration}
                built = [line for line in lines if line.get("executable") and line["profile"]["test"]]
                programs = {line["target"]["name"]: Path(line["executable"]) for line in built}
                return {name: program for name, program in programs.items() if name in wanted}
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
            refused = {key(self.mutants[number]): reason for number, reason in self.refused.items()}
            self.refused_at.write_text(json.dumps(refused, indent=1))

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


def run(program: Path, package: str, tests: list[str], variables: dict[str, str], cpu_s: float) -> tuple[str, float]:
    """`passed`, `failed` or `time limit`, and the seconds of processor time."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_s), math.ceil(cpu_s) + 2))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    where = TREE / ROOTS[package].parent.parent
    fixed = {
        "CARGO_MANIFEST_DIR": str(where),
        "PROPTEST_MAX_SHRINK_ITERS": "0",
        "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1",
        "RUST_BACKTRACE": "0",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [str(program), "--exact", "--test-threads=1", "-q", *tests],
        cwd=where,
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


def learn(build: Build, paths: tuple[str, ...]) -> list[Test]:
    """What each test reaches: those unit tests, and all integration tests."""
    tests, left_out = [], []
    for target, program in build.programs.items():
        command = [str(program), "--list", "--format=terse"]
        listed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=TREE).stdout
        names = [line.removesuffix(": test") for line in listed.splitlines() if line.endswith(": test")]
        for name in names:
            if target not in build.integration and not name.startswith(paths):
                continue
            with tempfile.NamedTemporaryFile() as reached:
                where = {"MUTANTS_REACHED": reached.name}
                verdict, spent = run(program, build.package, [name], where, TEST_SECONDS_MAX)
                if verdict != "passed":
                    left_out.append(f"{name} ({verdict})")
                    continue
                bytes_ = Path(reached.name).read_bytes()
            tests.append(Test(program, name, spent, {number for number, byte in enumerate(bytes_) if byte}))
    print(f"{len(tests)} tests; left out: {', '.join(left_out) or 'none'}", flush=True)
    return tests


def judge(build: Build, mutant: Mutant, tests: list[Test]) -> str:
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
            limit = max(CPU_SECONDS_MIN, 10 * sum(test.seconds for test in of_it))
            switch = {"MUTANT": str(mutant.number)}
            verdict, _ = run(program, build.package, [test.name for test in of_it], switch, limit)
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


def mutate(package: str, groups: list[Group]) -> list[tuple[Mutant, str]]:
    """The mutants that were tried, and their outcomes."""
    mutants, kept_at = list_mutants(groups), OUT / f"{package}.json"
    began = time.monotonic()
    build = Build(package, groups, mutants)
    tests = learn(build, tuple(group.tests for group in groups))
    outcomes: dict[str, str] = json.loads(kept_at.read_text()) if kept_at.exists() else {}
    print(f"{package}: {len(mutants)} mutants, ready after {time.monotonic() - began:.0f} s", flush=True)
    count = int(os.environ.get("SAMPLE", len(mutants)))
    reached = set().union(*(test.reached for test in tests))

    def note(mutant: Mutant, outcome: str) -> None:
        outcomes[key(mutant)] = outcome
        if outcome not in ("noticed", "no switch"):
            print(f"{outcome}: {mutant.name}", flush=True)
        kept_at.write_text(json.dumps(outcomes, indent=1))

    quick = [test for test in tests if test.seconds <= QUICK_SECONDS_MAX]
    slow = [test for test in tests if test.seconds > QUICK_SECONDS_MAX]
    passed = []
    first = [name for group in groups if group.tests != "decode::" for name in group.files] + [
        "src/decode/admission.rs"
    ]
    taken = sample(mutants, count, int(os.environ.get("SEED", "1")))
    # Four fifths are of decoders: a run that ends early has tried the others.
    for mutant in sorted(taken, key=lambda mutant: mutant.file not in first):
        # One that escaped is tried again: a test may be new.
        if outcomes.get(key(mutant)) in ("noticed", "time limit"):
            continue
        if mutant.number in build.refused:
            note(mutant, "no switch")
        elif mutant.number not in reached:
            note(mutant, "not reached")
        elif (outcome := judge(build, mutant, quick)) == "missed":
            passed.append(mutant)
        else:
            note(mutant, outcome)
    print(f"{len(passed)} have passed the {len(quick)} quick tests; {len(slow)} are left", flush=True)
    for mutant in passed:
        note(mutant, judge(build, mutant, slow))
    return [(mutant, outcomes[key(mutant)]) for mutant in mutants if key(mutant) in outcomes]


def main() -> None:
    wanted = sys.argv[1:] or list(GROUPS)
    if unknown := set(wanted) - set(GROUPS):
        sys.exit(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    by_package = collections.defaultdict(list)
    for name in wanted:
        by_package[GROUPS[name].package].append(GROUPS[name])
    table: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for package, groups in by_package.items():
        for mutant, outcome in mutate(package, groups):
            table[mutant.file][outcome] += 1
    print(f"\n| file | {' | '.join(OUTCOMES)} |\n| --- |{' ---: |' * len(OUTCOMES)}")
    for file, counts in sorted(table.items()):
        print(f"| `{file}` | {' | '.join(str(counts[outcome]) for outcome in OUTCOMES)} |")
    total = sum(table.values(), collections.Counter())
    print(f"| all | {' | '.join(str(total[outcome]) for outcome in OUTCOMES)} |")
    if escaped := total["missed"] + total["not reached"]:
        sys.exit(f"== mutants: {escaped} escaped the tests")


if __name__ == "__main__":
    main()
