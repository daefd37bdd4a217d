"""What a request costs in things that can be counted, and so come out the same on every machine:
instructions and allocations by callgrind, system calls by strace.

Requests are sent by the client below, 64 connections at a time: all ask, then all are answered, so
that the server meets them together, as it does under load.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
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
# Threads attach one by one.
ATTACH_TIMEOUT_S = 10.0

# The ways into an allocator, of Rust (System and mimalloc) and C. What one of them calls inside is not counted again.
ALLOCATORS = re.compile(r"(mi_)?(malloc|calloc|realloc|zalloc)(_aligned)?$|posix_memalign$|aligned_alloc$")
INSIDE = re.compile(r"_?mi_|malloc|calloc|realloc|posix_memalign|aligned_alloc|_int_|_mid_memalign|memalign")
SLEEPS = "sleep, ran out"


class Client:
    """64 connections that ask together."""

    def __init__(self, port: int, path: str = "/ingest") -> None:
        self.request = contestants.post(contestants.SEED, path)
        self.sockets = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(CONNECTIONS)]

    def ask(self, requests: int) -> None:
        for _ in range(requests // CONNECTIONS):
            for connection in self.sockets:
                connection.sendall(self.request)
            for connection in self.sockets:
                answer = b""
                while not answer.rstrip().endswith(b"}"):
                    answer += bench.receive(connection)
                if not answer.startswith(b"HTTP/1.1 202 "):
                    sys.exit(f"answered {answer!r}")

    def close(self) -> None:
        for connection in self.sockets:
            connection.close()


@contextlib.contextmanager
def client(port: int, path: str = "/ingest"):
    opened = Client(port, path)
    try:
        yield opened
    finally:
        opened.close()


# --- instructions and allocations ---


def callgrind(contestant, path: str = "/ingest") -> dict:
    """Instructions and allocations of a request to that path; a server that callgrind cannot run has neither."""
    with tempfile.TemporaryDirectory(prefix="sigmad-callgrind-") as folder:
        out = Path(folder) / "out"
        under = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--error-exitcode=0", "-q")
        with contestant.running(before=under) as (child, port), client(port, path) as asking:
            asking.ask(WARM_UP_REQUESTS)
            control("--zero", child.pid)
            asking.ask(REQUESTS)
            control("--dump", child.pid)
            dumps = sorted(Path(folder).glob("out.*"))
            if not dumps:
                sys.exit(f"{contestant.name}: callgrind left nothing")
            return read_callgrind(dumps[0].read_text(errors="replace"))


def control(what: str, pid: int) -> None:
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True, timeout=60)


def read_callgrind(text: str) -> dict:
    """Per request, from a dump: its total, and the calls into the allocator from outside of it."""
    total = int(re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE).group(1))
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
        "instructions": total / REQUESTS,
        "allocations": sum(calls.values()) / REQUESTS,
        "allocators": {name: count / REQUESTS for name, count in sorted(calls.items())},
    }


def plain(function: str) -> str:
    """A recursion's level after ' is not part of the name, nor is a symbol's version."""
    return function.partition("'")[0].partition("@")[0]


# --- system calls ---


def syscalls(contestant) -> dict:
    """System calls of a request, by name; sleeps that ran out go by the clock and stand apart."""
    with tempfile.TemporaryDirectory(prefix="sigmad-strace-") as folder, contestant.running() as (child, port):
        calls = Path(folder) / "calls"
        with client(port) as asking:
            asking.ask(WARM_UP_REQUESTS)
            tracer = subprocess.Popen(
                ["strace", "-f", "-qq", "-o", str(calls), "-p", str(child.pid)], stderr=subprocess.DEVNULL
            )
            attached(child.pid)
            asking.ask(REQUESTS)
            tracer.send_signal(signal.SIGINT)
            tracer.wait(timeout=30)
        return read_strace(calls.read_text(errors="replace"))


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


def read_strace(text: str) -> dict:
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
    each = {name: count / REQUESTS for name, count in calls.most_common()}
    return {"syscalls": sum(count for name, count in each.items() if name != SLEEPS), "by_name": each}


def count(contestant) -> dict:
    """Everything that can be counted of one server."""
    return callgrind(contestant) | syscalls(contestant)
