#!/usr/bin/env python3
"""What does a value cost in each format, on the worker and in all threads, beside VictoriaMetrics?

The same values in every format, for 100 and for 10,000 streams that are known: each body has 2,000 of them. A server
of its own for each format and count; they take turns, spell after spell, each with new values and times on one
connection that stays. CPU time by thread, for a value:

- the worker's, and in other spells what the same bytes cost it on a path that does not look at its body. That is the
  kernel and HTTP; the rest is decoding, admission, and the hand-over to the analytics thread. The body of remote_write
  is unpacked in the rest;
- that of all threads, until the last value is judged.

VictoriaMetrics gets the same bytes by the paths that it has; of it, all threads. It also merges later: what it has
used in the whole run, divided by all its values, is recorded beside.

    cargo build --release && .venv/bin/python benches/formats.py
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench
import bodies

STREAMS = [100, 10_000]
VALUES_A_BODY = 2_000
# Most that a worker may take for a value, as issue 14 asks.
AIMS = {"lp_1": 60, "lp_10": 35, "rw_2": 45, "otlp": 80, "arrow": 25}
# What VictoriaMetrics 1.79 reads: OTLP, remote_write 2.0 and Arrow are not among it.
READ_BY_VICTORIA = ["lp_1", "lp_10", "rw_1", "text"]
# Takes a body, and does not look at it.
UNREAD = "/metrics/job/floor"
# Between two values of a stream.
STEP_MS = 1_000
# The newest of a spell are this old at most: VictoriaMetrics refuses what is far in the future.
BEFORE_MS = 12 * 3600 * 1000
# A process that never rests is measured all the same.
SETTLE_LOOKS_MAX = 50


class Connection:
    """One that stays: sends a request as a whole, and reads its answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, method: str, path: str, fields: dict[str, str], body: bytes) -> int:
        """The status."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self.socket.sendall("\r\n".join([*lines, "\r\n"]).encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += bench.receive(self.socket)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        while length and len(body) < int(length.group(1)):
            body += bench.receive(self.socket)
        return int(head.split(b" ", 2)[1])


class Cell:
    """One server, for one format and count of streams."""

    def __init__(self, server: str, name: str, streams: int, pid: int, port: int) -> None:
        self.server, self.name, self.streams, self.pid, self.port = server, name, streams, pid, port
        _, self.path, self.fields, self.encode = bodies.FORMATS[name]
        # The same values and times for every cell.
        self.random = random.Random(streams)
        self.step = 0
        self.began_ms = int(time.time() * 1000) - BEFORE_MS
        self.sent = self.bytes = 0
        self.spells: dict[str, list[float]] = {"worker": [], "all": [], "http": [], "analytics": []}

    def rows(self) -> list[bodies.Row]:
        """Of the next body: whole rounds of all hosts, or the next part of one."""
        hosts = self.streams // len(bodies.METRICS)
        rows = []
        for _ in range(VALUES_A_BODY // len(bodies.METRICS)):
            host = self.step % hosts
            time_ms = self.began_ms + self.step // hosts * STEP_MS
            values = [round(self.random.uniform(0, 100), 2) for _ in bodies.METRICS]
            rows.append((f"host-{host:05}", time_ms, values))
            self.step += 1
        return rows

    def send(self, made: list[bytes], method: str, path: str, fields: dict[str, str]) -> dict[str, float]:
        """CPU time by kind of thread, for a value."""
        # One that stays for the spell; between two, servers close what is idle.
        connection = Connection(self.port)
        before = self.settled()
        for body in made:
            try:
                status = connection.send(method, path, fields, body)
            except OSError as error:
                sys.exit(f"{self.server} {self.name}: {method} {path} of {len(body)} bytes: {error}")
            if status not in (200, 202, 204):
                sys.exit(f"{self.server} {self.name}: {method} {path} answered {status}")
        after = self.settled()
        connection.socket.close()
        values = len(made) * VALUES_A_BODY
        return {kind: (used - before.get(kind, 0)) / values for kind, used in after.items()}

    def settled(self) -> dict[str, int]:
        before = bench.thread_ns(self.pid)
        for _ in range(SETTLE_LOOKS_MAX):
            time.sleep(0.05)
            now = bench.thread_ns(self.pid)
            if sum(now.values()) - sum(before.values()) < 500_000:
                return now
            before = now
        return before

    def spell(self, count: int, is_counted: bool) -> None:
        made = [self.encode(self.rows()) for _ in range(count)]
        used = self.send(made, "POST", self.path, self.fields)
        self.sent += count * VALUES_A_BODY
        self.bytes = sum(map(len, made)) / (count * VALUES_A_BODY)
        if not is_counted:
            return
        self.spells["all"].append(sum(used.values()))
        if self.server == "sigmad":
            self.spells["worker"].append(used["worker"])
            self.spells["analytics"].append(used["analytics"])
            self.spells["http"].append(self.send(made, "DELETE", UNREAD, {})["worker"])

    def check(self) -> None:
        """Every value must have been taken."""
        text = bench.get(f"http://127.0.0.1:{self.port}/metrics")[2].decode()
        if self.server == "sigmad":
            is_json = self.name == "json"
            kind = "samples" if is_json else "values"
            found = re.findall(rf'^ingest_{kind}_total\{{result="accepted"\}} (\d+)', text, re.M)
            expected = self.sent // (len(bodies.METRICS) if is_json else 1)
        else:
            found = re.findall(r"^vm_rows_inserted_total\{.*?\} (\d+)", text, re.M)
            expected = self.sent
        if sum(map(int, found)) != expected:
            sys.exit(f"{self.server} {self.name} {self.streams}: {found} of {expected}")


@contextlib.contextmanager
def victoria(folder: Path):
    """victoria-metrics on a free port, writing below `folder`: yields the process and the port."""
    port = bench.free_port()
    command = ["victoria-metrics", f"-storageDataPath={folder}", f"-httpListenAddr=127.0.0.1:{port}"]
    command += ["-loggerLevel=ERROR", "-memory.allowedBytes=256MB"]
    with bench.running(bench.pinned(bench.SERVER_CORE, command), stderr=subprocess.DEVNULL) as child:
        bench.wait_for_listener(port)
        yield child, port


def open_cells(stack: contextlib.ExitStack, folder: Path, names: list[str]) -> list[Cell]:
    cells = []
    for streams in STREAMS:
        for name in names:
            # The stream table is sized by the limit: room for all, and no more.
            flags = ["--workers", "1", "--pin", "off", "--max-streams", "20000", "--memory-limit", "1GiB"]
            child, port = stack.enter_context(bench.sigmad(*flags, core=bench.SERVER_CORE))
            cells.append(Cell("sigmad", name, streams, child.pid, port))
            if name in READ_BY_VICTORIA and shutil.which("victoria-metrics"):
                child, port = stack.enter_context(victoria(folder / f"{name}-{streams}"))
                cells.append(Cell("victoria", name, streams, child.pid, port))
    return cells


def quartiles(values: list[float]) -> dict:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "low": low, "high": high, "min": min(values), "spells": len(values)}


def figures(cell: Cell) -> dict:
    found = {kind: quartiles(values) for kind, values in cell.spells.items() if values}
    found["bytes"] = cell.bytes
    if cell.server == "sigmad":
        reading = [whole - http for whole, http in zip(cell.spells["worker"], cell.spells["http"], strict=True)]
        found["reading"] = quartiles(reading)
    else:
        found["whole_run"] = bench.cpu_ns(cell.pid) / cell.sent
    return found


def span(found: dict | None) -> list[str]:
    return [f"{found['median']:.0f}", f"{found['low']:.0f}–{found['high']:.0f}"] if found else ["–", ""]


def text_of(found: dict) -> str:
    rows = []
    for streams, formats in found["streams"].items():
        for name, one in formats.items():
            ours, theirs = one["sigmad"], one.get("victoria")
            aim = AIMS.get(name)
            rows.append(
                [
                    bodies.FORMATS[name][0],
                    f"{int(streams):,}",
                    f"{ours['bytes']:.0f}",
                    *span(ours["worker"]),
                    f"{ours['http']['median']:.0f}",
                    *span(ours["reading"]),
                    "" if aim is None else f"{aim}",
                    *span(ours["all"]),
                    *span(theirs and theirs["all"]),
                    f"{theirs['whole_run']:.0f}" if theirs else "",
                ]
            )
    header = ["format", "streams", "bytes", "worker ns", "quartiles", "of it HTTP", "decoding ns", "quartiles", "aim"]
    header += ["all threads", "quartiles", "VictoriaMetrics, all", "quartiles", "of the whole run"]
    return bench.table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=15, help="spells of each server")
    parser.add_argument("--bodies", type=int, default=50, help="bodies of a spell")
    parser.add_argument("--format", action="append", choices=bodies.FORMATS)
    parser.add_argument("--note", help="what else the record should say: what ran beside, which build it is")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("quartiles need two rounds")
    names = arguments.format or list(bodies.FORMATS)
    load_averages = []
    with (
        bench.record("formats", arguments.rounds) as found,
        tempfile.TemporaryDirectory(prefix="formats-") as folder,
        contextlib.ExitStack() as stack,
    ):
        os.sched_setaffinity(0, {bench.LOAD_CORE})
        cells = open_cells(stack, Path(folder), names)
        for cell in cells:
            # All names, and every buffer at its size.
            cell.spell(arguments.bodies, is_counted=False)
        for turn in range(arguments.rounds):
            load_averages.append(os.getloadavg()[0])
            at = turn * len(cells) // arguments.rounds
            for cell in cells[at:] + cells[:at]:
                cell.spell(arguments.bodies, is_counted=True)
        found["streams"] = {}
        for cell in cells:
            cell.check()
            formats = found["streams"].setdefault(str(cell.streams), {})
            one = formats.setdefault(cell.name, {"title": bodies.FORMATS[cell.name][0]})
            one[cell.server] = figures(cell)
        found["aims"] = AIMS
        found["manifest"]["load_average_of_rounds"] = bench.spread(load_averages)
        version = bench.output_of("dpkg-query", "-W", "-f", "${Version}", "victoria-metrics")
        found["manifest"]["victoria_metrics"] = version or "not installed"
        if arguments.note:
            found["manifest"]["note"] = arguments.note
        found["text"] = text_of(found)
        print(found["text"])


if __name__ == "__main__":
    main()
