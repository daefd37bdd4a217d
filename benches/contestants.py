"""The servers that are compared: how each is started, on one core, and how its answers are checked.

All speak sigmad's API as far as a POST of samples and `GET /analyze` go, except the floor, which reads
nothing and always answers the same. They are built by `benches/perf.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bench

SEED = b'{"timestamp":1735100000,"cpu":60.5,"rps":2000}'
# Of a sample of `sigmad load`: cpu and rps.
VALUES = 2
# Enough that no value is always that of the window's mean.
FLEET_BODIES = 7
LADDER = bench.ROOT / "benches" / "ladder"
GO = bench.ROOT / "benches" / "baseline" / "go"


def ladder_dir() -> Path:
    """Where the ladder's crate is built: beside sigmad's, for its dependencies are others."""
    return bench.target_dir().parent / "ladder" / "release"


def ladder_binary() -> str:
    return str(ladder_dir() / "ladder")


def go_binary() -> str:
    return str(bench.target_dir().parent / "go" / "baseline")


@dataclass(frozen=True)
class Contestant:
    """One server. `command` is what starts it, with {listen} for its address."""

    name: str
    title: str
    command: tuple[str, ...]
    # For the table's reader.
    built_on: str
    # As taskset takes them.
    cores: str = str(bench.SERVER_CORE)
    # Where the load goes instead of the TCP port, with {port}.
    socket: str | None = None
    # Whether valgrind can run it.
    has_instructions: bool = True

    @property
    def binary(self) -> str:
        return self.command[0]

    def target(self, port: int) -> int | str:
        """What `bench.load` is given: the port, or a Unix socket. Checks take the port of both."""
        return port if self.socket is None else self.socket.format(port=port)

    @contextlib.contextmanager
    def running(self, before: tuple[str, ...] = (), **options) -> Iterator[tuple[subprocess.Popen, int]]:
        """Started on its core, perhaps under another program, and answering: the process and the port."""
        port = bench.free_port()
        command = [*before, *(word.format(listen=f"127.0.0.1:{port}", port=port) for word in self.command)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGMAD")}
        # Go and tokio take as many threads as there are cores; they see one.
        line = bench.pinned(self.cores, command)
        with bench.running(
            line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
        ) as child:
            # Several listeners do not begin at once.
            for target in {port, self.target(port)}:
                bench.wait_for_listener(target, 60 if before else bench.START_TIMEOUT_S)
            yield child, port

    def check(self, port: int) -> None:
        """One sample must be accepted, and be found in the window."""
        before = self.counted(port)
        answer = bench.exchange(port, post(SEED))
        if not answer.startswith(b"HTTP/1.1 202 ") or json.loads(answer.partition(b"\r\n\r\n")[2])["accepted"] != 1:
            sys.exit(f"{self.name} answers {answer!r}")
        if self.counted(port) != before + 1:
            sys.exit(f"{self.name} does not count what it accepts")

    def counted(self, port: int) -> int:
        """Samples in its windows since it started."""
        return bench.get_json(port, "/analyze")["totalCount"]


class Floor(Contestant):
    """Answers by counting bytes, so it must know how long a request is."""

    @contextlib.contextmanager
    def running(self, before: tuple[str, ...] = (), batch: int = 1, **options):
        with tempfile.TemporaryDirectory(prefix="sigmad-bench-") as folder:
            answer = Path(folder) / "answer"
            answer.write_bytes(accepted(batch))
            command = [*before, self.binary, str(request_bytes(batch)), str(answer)]
            line = bench.pinned(self.cores, command)
            with bench.running(line, stdout=subprocess.PIPE, text=True, **options) as child:
                yield child, int(child.stdout.readline())

    def check(self, port: int) -> None:
        """Nothing: it does not read."""

    def counted(self, port: int) -> int:
        raise NotImplementedError


class OverUring(Contestant):
    """sigmad with `--poller io_uring`. Where that is forbidden the program takes epoll, and the bench ends."""

    @contextlib.contextmanager
    def running(self, before: tuple[str, ...] = (), **options):
        with super().running(before, **options) as (child, port):
            # A worker has its ring before it answers.
            self.counted(port)
            if not any("io_uring" in os.readlink(file) for file in Path(f"/proc/{child.pid}/fd").iterdir()):
                sys.exit("io_uring can't be used here")
            yield child, port


def post(body: bytes, path: str = "/ingest") -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def fleet(batch: int) -> list[bytes]:
    """Bodies with a sample of each of as many devices, whose values vary a little."""
    chance = random.Random(1)

    def sample(number: int) -> dict:
        cpu, rps = 40 + chance.randrange(2_000) / 100, 2_000 + chance.randrange(100)
        return {"timestamp": 1735100000, "device": f"edge-{number:03}", "cpu": cpu, "rps": rps}

    samples = [[sample(number) for number in range(batch)] for _ in range(FLEET_BODIES)]
    return [json.dumps(one, separators=(",", ":")).encode() for one in samples]


def accepted(batch: int) -> bytes:
    """sigmad's answer to a request of so many samples."""
    sigmad = everyone()["sigmad"]
    with sigmad.running() as (_, port):
        body = b"[" + b",".join([SEED] * batch) + b"]"
        return bench.exchange(port, post(body))


def request_bytes(batch: int) -> int:
    """How long a request of `sigmad load` is: it is the same for all of a run, and for every port of five digits."""
    with socket.socket() as listener:
        while True:
            listener.bind(("127.0.0.1", bench.free_port()))
            if listener.getsockname()[1] >= 10_000:
                break
        listener.listen()
        listener.settimeout(bench.START_TIMEOUT_S)
        lengths = []

        def serve() -> None:
            while not lengths:
                client, _ = listener.accept()
                # It looks whether anybody listens before it begins, with a connection of its own.
                with client, contextlib.suppress(ConnectionError):
                    data = b""
                    while b"\r\n\r\n" not in data:
                        data += bench.receive(client)
                    head, _, body = data.partition(b"\r\n\r\n")
                    length = int(re.search(rb"(?i)content-length: *(\d+)", head).group(1))
                    while len(body) < length:
                        body += bench.receive(client)
                    lengths.append(len(head) + 4 + length)
                    client.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        port = listener.getsockname()[1]
        # What comes of the run does not matter.
        bench.offer(port, "--connections", "1", *batch_flags(batch), seconds=0.1)
        server.join(bench.START_TIMEOUT_S)
    if not lengths:
        sys.exit("sigmad load sent nothing")
    return lengths[0]


def batch_flags(batch: int) -> tuple[str, ...]:
    """One sample is the seed's body; more of them are of a fleet of 100 devices."""
    return () if batch == 1 else ("--batch", str(batch), "--profile", "devices")


def everyone() -> dict[str, Contestant]:
    """By name, in the order of the table."""
    sigmad, ladder = bench.sigmad_binary(), str(ladder_dir() / "ladder-mimalloc")
    serve = ("serve", "--listen", "{listen}", "--workers", "1")
    listed = [
        Contestant("sigmad", "sigmad", (sigmad, *serve), "own epoll engine"),
        Floor("floor", "floor", (str(bench.target_dir() / "floor"),), "epoll, constant answer"),
        Contestant("may", "sigmad `--engine may`", (sigmad, *serve, "--engine", "may"), "may_minihttp"),
        Contestant("baseline", "Rust baseline", (str(ladder_dir() / "baseline"), "--listen", "{listen}"), "axum"),
        Contestant("axum", "axum", (ladder, "--rung", "axum", "--listen", "{listen}"), "axum"),
        Contestant("actix", "actix-web", (ladder, "--rung", "actix", "--listen", "{listen}"), "actix-web"),
        Contestant("go", "Go", (go_binary(), "--listen", "{listen}"), "net/http"),
    ]
    return {contestant.name: contestant for contestant in listed}


def switched() -> dict[str, Contestant]:
    """sigmad with one more flag each, by name."""
    sigmad = everyone()["sigmad"]
    # Abstract, so that no file is left.
    unix = "unix:@sigmad-bench-{port}"
    return {
        "unix": Contestant(
            "unix",
            "sigmad `--listen unix:`",
            (*sigmad.command, "--listen", unix),
            sigmad.built_on,
            socket=unix,
        ),
        "io_uring": OverUring(
            "io_uring",
            "sigmad `--poller io_uring`",
            (*sigmad.command, "--poller", "io_uring"),
            "own io_uring engine",
            # While a thread waits in io_uring_enter, valgrind lets no other one run.
            has_instructions=False,
        ),
        "shards": Contestant(
            "shards",
            "sigmad `--analytics 2`",
            (*sigmad.command, "--analytics", "2"),
            sigmad.built_on,
        ),
    }


def rungs() -> list[dict]:
    """The ladder as its binary tells it."""
    return json.loads(bench.output_of(ladder_binary(), "--list"))


def rung(about: dict, *flags: str) -> Contestant:
    """One of `rungs`, in the program with its allocator."""
    program = str(ladder_dir() / about["allocator"])
    command = (program, "--rung", about["name"], "--listen", "{listen}", *flags)
    return Contestant(about["name"], about["title"], command, "ladder")
