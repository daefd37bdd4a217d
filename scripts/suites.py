#!/usr/bin/env python3
"""Runs suites of the Makefile: builds, beside each what mostly waits, and then what must be alone.

    scripts/suites.py test | verify | NAME...

A suite of kind `build` compiles or only computes; `waits` mostly sleeps between events; `alone` is judged by CPU
time, clocks or counts, and so nothing runs beside it. At most two suites run at once. The first failure ends the
run with the end of its log, and last with what failed in a few lines. Every log is kept in target/suites; a table at
the end names what each suite took.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "suites"
# Two cores: a build keeps both busy, and a suite that waits leaves them idle.
SIDE_BY_SIDE_MAX = 2
# A suite that takes longer hangs. A cold release build on two busy cores takes 15 minutes.
LIMIT_S = 40 * 60
LOOK_S = 0.2
TAIL_LINES = 200
# What is looked for in the whole log of a suite that failed.
TROUBLE = re.compile(r"^(test .* FAILED|error(\[|:)|thread '.*' \(?\d* ?\)?panicked|.*AssertionError|make.*\*\*\*)")

# The last lines say what failed: so many tests, so many lines of each before its panic and from it on, …
FAILED_TESTS_MAX = 8
LINES_BEFORE_PANIC = 10
LINES_OF_PANIC = 12
# … and a line is cut here: an assertion may print a whole log.
LINE_BYTES_MAX = 300
# What a failed test of cargo has printed begins with the one, and its panic with the other.
OUTPUT_OF = re.compile(r"^---- (.+) stdout ----$")
PANIC = re.compile(r"^thread '.*panicked at ")
BACKTRACE = re.compile(r"^(stack backtrace:|note: run with `RUST_BACKTRACE)")


@dataclasses.dataclass(frozen=True)
class Suite:
    name: str
    kind: str
    needs: tuple[str, ...] = ()
    in_test: bool = True


# They need cargo and a C++ compiler alone, and so compile while the tools of the others are downloaded.
BESIDE_SETUP = ("setup", "release", "unit-build", "loom")


def suites() -> list[Suite]:
    """In the order in which they start: what fails soonest comes first."""
    return [
        suite if suite.name in BESIDE_SETUP else dataclasses.replace(suite, needs=("setup", *suite.needs))
        for suite in in_order()
    ]


def in_order() -> list[Suite]:
    release, tests = ("release",), ("unit-build",)
    return [
        Suite("setup", "waits"),
        Suite("fmt", "build"),
        Suite("scripts", "build"),
        Suite("markdown", "build"),
        Suite("dockerfile", "build"),
        Suite("deny", "build"),
        Suite("perf-numbers", "build"),
        # Beside each other stands what uses different folders of target/: those of one folder wait for its lock.
        Suite("clippy", "build"),
        Suite("release", "build"),
        Suite("unit-build", "build"),
        # One at a time, as soon as there is a binary: beside two builds they would wait for the end of all builds.
        Suite("formats", "waits", release),
        Suite("manifests", "waits", release),
        Suite("alerts", "waits", release),
        Suite("nginx", "waits", release),
        Suite("replicas", "waits", release),
        Suite("affinity", "waits", release),
        Suite("senders", "waits", release),
        Suite("unit", "waits", tests),
        Suite("loom", "build"),
        Suite("doc", "build", ("clippy",)),
        Suite("simulation", "build", tests),
        Suite("container-image", "build", release, in_test=False),
        Suite("gates", "alone", release),
        Suite("syscalls", "alone", release),
        Suite("heap", "alone", release + tests),
        Suite("pprof", "alone", release + tests),
        Suite("page", "alone", release),
        Suite("clients", "alone", release),
        Suite("load", "alone", release),
        Suite("autoscaler", "alone", release, in_test=False),
        Suite("container", "alone", ("container-image",), in_test=False),
    ]


class Run:
    """One suite while it runs, in a process group of its own."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.path = LOGS / f"{suite.name}.log"
        self.began = time.monotonic()
        self.seconds = self.cpu_s = 0.0
        self.code: int | None = None
        with self.path.open("wb") as log:
            self.child = subprocess.Popen(
                ["make", suite.name],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def look(self) -> bool:
        """True once it has ended."""
        if time.monotonic() - self.began > LIMIT_S:
            with self.path.open("a") as log:
                log.write(f"error: ended after {LIMIT_S} s: it hangs\n")
            self.kill()
        pid, status, usage = os.wait4(self.child.pid, os.WNOHANG)
        if pid == 0:
            return False
        self.code = self.child.returncode = os.waitstatus_to_exitcode(status)
        self.seconds = time.monotonic() - self.began
        self.cpu_s = usage.ru_utime + usage.ru_stime
        return True

    def kill(self) -> None:
        try:
            os.killpg(self.child.pid, signal.SIGTERM)
            time.sleep(2)
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def summary(self) -> str:
        verdict = "passed" if self.code == 0 else "FAILED"
        return f"== {self.suite.name}: {verdict} in {self.seconds:.0f} s, {self.cpu_s:.0f} s of CPU"

    def show_failure(self) -> None:
        lines = self.path.read_text(errors="replace").splitlines()
        tail = lines[-TAIL_LINES:]
        above = [line for line in lines[:-TAIL_LINES] if TROUBLE.match(line)]
        print(f"== {self.suite.name}: the end of its log", *above, *tail, sep="\n", flush=True)

    def show_reason(self) -> None:
        """What failed, in a few lines."""
        lines = self.path.read_text(errors="replace").splitlines()
        tests = failed_tests(lines)
        # Of other suites, what looks like an error, or else the end.
        shown = tests or [line for line in lines if TROUBLE.match(line)] or lines
        shown = shown if tests else shown[-LINES_OF_PANIC:]
        print(f"== {self.suite.name} failed:", *(line[:LINE_BYTES_MAX] for line in shown), sep="\n", flush=True)


def failed_tests(lines: list[str]) -> list[str]:
    """The names of the failed tests of cargo, each with the lines around its panic."""
    starts = [number for number, line in enumerate(lines) if OUTPUT_OF.match(line)]
    shown = []
    for start in starts[:FAILED_TESTS_MAX]:
        output = []
        for line in lines[start + 1 :]:
            if OUTPUT_OF.match(line) or line == "failures:":
                break
            output.append(line)
        # The log of the server is long, and above.
        told = [line for line in output if line and not line.startswith("{")]
        panic = next((number for number, line in enumerate(told) if PANIC.match(line)), len(told))
        of_panic = []
        for line in told[panic : panic + LINES_OF_PANIC]:
            if BACKTRACE.match(line):
                break
            of_panic.append(line)
        shown += [lines[start], *told[max(0, panic - LINES_BEFORE_PANIC) : panic], *of_panic]
    if len(starts) > FAILED_TESTS_MAX:
        shown += [f"and: {OUTPUT_OF.match(lines[start]).group(1)}" for start in starts[FAILED_TESTS_MAX:]]
    return shown


def may_start(suite: Suite, running: list[Run], waiting: list[Suite], passed: set[str]) -> bool:
    if any(name not in passed for name in suite.needs):
        return False
    if suite.kind == "alone":
        # After all others, so that it has the machine for itself.
        return not running and all(each.kind == "alone" for each in waiting)
    if len(running) >= SIDE_BY_SIDE_MAX:
        return False
    # Two that wait may be busy at the same moment: one of them beside a build at most.
    return suite.kind == "build" or all(run.suite.kind == "build" for run in running)


def with_needs(names: list[str]) -> list[Suite]:
    known = {suite.name: suite for suite in suites()}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no such suite: {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = set(names)
    for suite in reversed(suites()):
        if suite.name in wanted:
            wanted.update(suite.needs)
    return [suite for suite in suites() if suite.name in wanted]


def run_all(wanted: list[Suite]) -> tuple[list[Run], list[Run]]:
    """What has ended, and those of it that failed."""
    waiting, running, ended = list(wanted), [], []
    try:
        return ended, start_and_watch(waiting, running, ended)
    finally:
        # After a failure, or an interrupt.
        for run in running:
            run.kill()


def start_and_watch(waiting: list[Suite], running: list[Run], ended: list[Run]) -> list[Run]:
    """The suites that failed; on return the lists hold how far it came."""
    passed: set[str] = set()
    while waiting or running:
        for suite in list(waiting):
            if may_start(suite, running, waiting, passed):
                waiting.remove(suite)
                print(f"== {suite.name}: begins", flush=True)
                running.append(Run(suite))
        over = [run for run in running if run.look()]
        for run in over:
            running.remove(run)
            ended.append(run)
            print(run.summary(), flush=True)
            if run.code == 0:
                passed.add(run.suite.name)
        failed = [run for run in over if run.code != 0]
        if failed:
            return failed
        time.sleep(LOOK_S)
    return []


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    LOGS.mkdir(parents=True, exist_ok=True)
    if sys.argv[1:] in (["test"], ["verify"]):
        with_containers = sys.argv[1] == "verify"
        wanted = [suite for suite in suites() if suite.in_test or with_containers]
        if with_containers:
            os.environ["SETUP"] = "containers"
    else:
        wanted = with_needs(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("== ended by a signal"))
    began = time.monotonic()
    ended, failed = run_all(wanted)
    print("\n| suite | seconds | CPU seconds |\n| --- | ---: | ---: |")
    for run in ended:
        print(f"| {run.suite.name} | {run.seconds:.0f} | {run.cpu_s:.0f} |")
    print(f"| all | {time.monotonic() - began:.0f} | {sum(run.cpu_s for run in ended):.0f} |\n")
    for run in failed:
        run.show_failure()
    for run in failed:
        run.show_reason()
    if failed:
        missing = {suite.name for suite in wanted} - {run.suite.name for run in ended}
        names = ", ".join(run.suite.name for run in failed)
        sys.exit(f"== FAILED: {names}; without a verdict: {', '.join(sorted(missing)) or 'none'}")
    print(f"== all suites passed: {' '.join(suite.name for suite in wanted)}")


if __name__ == "__main__":
    main()
