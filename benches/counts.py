"""What a request costs in things that can be counted, and so come out the same on every machine:
instructions and allocations by callgrind, system calls by strace.

Requests are sent by the client below, 64 connections at a time: all ask, then all are answered, so
that the server meets them together, as it does under load. Misses are of caches that callgrind simulates: those of
one core, on which it runs all threads in turn.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import bench
import contestants

CONNECTIONS = 64
# What a connection costs once must not count.
WARM_UP_REQUESTS = 20 * CONNECTIONS
REQUESTS = 50 * CONNECTIONS
# Of batches, which have many samples: fewer by this.
BATCH_PART = 10
# Threads attach one by one.
ATTACH_TIMEOUT_S = 10.0

# The ways into an allocator, of Rust (System and mimalloc) and C. What one of them calls inside is not counted again.
ALLOCATORS = re.compile(r"(mi_)?(malloc|calloc|realloc|zalloc)(_aligned)?$|posix_memalign$|aligned_alloc$")
INSIDE = re.compile(r"_?mi_|malloc|calloc|realloc|posix_memalign|aligned_alloc|_int_|_mid_memalign|memalign")
SLEEPS = "sleep, ran out"
# Size, ways and line: fixed, so that machines with other caches count alike. A data cache of Zen 5, and its share of
# the last level.
CACHES = ("--cache-sim=yes", "--I1=32768,8,64", "--D1=49152,12,64", "--LL=33554432,16,64")
# callgrind's names of the events.
MISSES = {"d1_misses": ("D1mr", "D1mw"), "last_level_misses": ("ILmr", "DLmr", "DLmw")}


class Client:
    """64 connections that ask together."""

    def __init__(self, target: int | str, path: str, batch: int) -> None:
        bodies = [contestants.SEED] if batch == 1 else contestants.fleet(batch)
        self.requests = itertools.cycle([contestants.post(body, path) for body in bodies])
        self.part = 1 if batch == 1 else BATCH_PART
        self.sockets = [bench.connected(target) for _ in range(CONNECTIONS)]

    def ask(self, requests: int) -> int:
        """Asks so many times, or a part of them if they are batches: says how often."""
        rounds = requests // CONNECTIONS // self.part
        for request in itertools.islice(self.requests, rounds):
            for connection in self.sockets:
                connection.sendall(request)
            for connection in self.sockets:
                answer = b""
                while not answer.rstrip().endswith(b"}"):
                    answer += bench.receive(connection)
                if not answer.startswith(b"HTTP/1.1 202 "):
                    sys.exit(f"answered {answer!r}")
        return rounds * CONNECTIONS

    def close(self) -> None:
        for connection in self.sockets:
            connection.close()


@contextlib.contextmanager
def client(target: int | str, path: str, batch: int):
    opened = Client(target, path, batch)
    try:
        yield opened
    finally:
        opened.close()


# --- instructions and allocations ---


def callgrind(contestant, path: str = "/ingest", batch: int = 1, caches: tuple[str, ...] = ()) -> dict:
    """Instructions and allocations of a request to that path, and misses of the caches."""
    with tempfile.TemporaryDirectory(prefix="sigmad-callgrind-") as folder:
        out = Path(folder) / "out"
        under = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--error-exitcode=0", "-q", *caches)
        with (
            contestant.running(before=under) as (child, port),
            client(contestant.target(port), path, batch) as asking,
        ):
            asking.ask(WARM_UP_REQUESTS)
            control("--zero", child.pid)
            requests = asking.ask(REQUESTS)
            control("--dump", child.pid)
            dumps = sorted(Path(folder).glob("out.*"))
            if not dumps:
                sys.exit(f"{contestant.name}: callgrind left nothing")
            return read_callgrind(dumps[0].read_text(errors="replace"), requests)


def control(what: str, pid: int) -> None:
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True, timeout=60)


def read_callgrind(text: str, requests: int) -> dict:
    """Per request, from a dump: its totals, and the calls into the allocator from outside of it."""
    events = re.search(r"^events: (.+)", text, re.MULTILINE).group(1).split()
    totals = re.search(r"^(?:totals|summary): (.+)", text, re.MULTILINE).group(1).split()
    each = {event: int(total) / requests for event, total in zip(events, totals, strict=True)}
    misses = {name: sum(each[event] for event in of) for name, of in MISSES.items() if of[0] in each}
    names: dict[str, str] = {}

    def name(value: str) -> str:
        # "(12) malloc" the first time, "(12)" later.
        number, _, rest = value.partition(" ")
        if rest:
            names[number] = rest
        return names[number]

    calls: Counter[str] = Counter()
    caller = called = ""
    for line in text.splitlines():
        if line.startswith("fn="):
            caller = name(line[3:])
        elif line.startswith("cfn="):
            called = name(line[4:])
        elif line.startswith("calls=") and ALLOCATORS.match(plain(called)) and not INSIDE.match(plain(caller)):
            calls[plain(called)] += int(line[6:].split()[0])
    return {
        "instructions": each["Ir"],
        **misses,
        "allocations": sum(calls.values()) / requests,
        "allocators": {name: count / requests for name, count in sorted(calls.items())},
    }


def plain(function: str) -> str:
    """A recursion's level after ' is not part of the name, nor is a symbol's version."""
    return function.partition("'")[0].partition("@")[0]


# --- system calls ---


def syscalls(contestant, batch: int = 1) -> dict:
    """System calls of a request, by name; sleeps that ran out go by the clock and stand apart."""
    with tempfile.TemporaryDirectory(prefix="sigmad-strace-") as folder, contestant.running() as (child, port):
        calls = Path(folder) / "calls"
        with client(contestant.target(port), "/ingest", batch) as asking:
            asking.ask(WARM_UP_REQUESTS)
            tracer = subprocess.Popen(
                ["strace", "-f", "-qq", "-o", str(calls), "-p", str(child.pid)], stderr=subprocess.DEVNULL
            )
            attached(child.pid)
            requests = asking.ask(REQUESTS)
            tracer.send_signal(signal.SIGINT)
            tracer.wait(timeout=30)
        return read_strace(calls.read_text(errors="replace"), requests)


def attached(pid: int) -> None:
    """Waits until every thread has its tracer."""
    deadline = time.monotonic() + ATTACH_TIMEOUT_S
    while True:
        states = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        if all(not re.search(r"^TracerPid:\s*0$", state, re.MULTILINE) for state in states):
            return
        if time.monotonic() > deadline:
            sys.exit("strace did not attach")
        time.sleep(0.02)


def read_strace(text: str, requests: int) -> dict:
    """Per request, from the lines of strace -f: THREAD call(...) = result, or <... call resumed>."""
    calls: Counter[str] = Counter()
    for line in text.splitlines():
        found = re.match(r"\d+\s+(?:<\.\.\. )?(\w+)[ (]", line)
        if not found or "<unfinished" in line:
            continue
        name = found.group(1)
        if name == "clock_nanosleep" or (name == "futex" and "ETIMEDOUT" in line):
            name = SLEEPS
        calls[name] += 1
    each = {name: count / requests for name, count in calls.most_common()}
    return {"syscalls": sum(count for name, count in each.items() if name != SLEEPS), "by_name": each}


def count(contestant, batch: int = 1) -> dict:
    """Everything that can be counted of one server; without instructions and allocations if valgrind can't run it."""
    instructions = callgrind(contestant, batch=batch) if contestant.has_instructions else {}
    return instructions | syscalls(contestant, batch)
