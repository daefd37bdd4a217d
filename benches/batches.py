#!/usr/bin/env python3
"""What does a sample cost in large bodies: JSON batches of 100 and of 1,000, and Arrow frames of 4,096?

A sample has two values, and each is judged in the window of its device and in that of the fleet. CPU time of the
server for one, by thread, from the socket to the verdict. JSON comes from `sigmad load`. Arrow comes over one
connection: frames made before of devices in no order, with 10,000 and with 1,000,000 streams whose windows are full.
The server has one core, the sender the other.

    cargo build --release && .venv/bin/python benches/batches.py [--binary OLD --binary NEW]

Several binaries take turns, round after round. With one it takes three minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import statistics
import time

import bench
import pyarrow
from formats import Connection
from pyarrow import ipc

# Samples of a body, and connections: as many as keep one worker busy.
JSON = {"json 100": (100, 16), "json 1,000": (1_000, 4)}
JSON_S = 1.5
FRAME = 4_096
# Streams of the fleet of each, and frames of a spell.
ARROW = {"arrow 10,000": (10_000, 480), "arrow 1,000,000": (1_000_000, 369)}
VALUES = 2
WINDOW = 50
# ns of all threads for a sample, as issue 15 asks.
AIMS = {"json 100": 100, "json 1,000": 60, "arrow 10,000": 40, "arrow 1,000,000": 95}
# Stream tables for a million, whatever the machine has.
FLAGS = ["--workers", "1", "--pin", "off", "--memory-limit", "8GiB", "--max-streams", "1100000"]
FIELDS = {"Content-Type": "application/vnd.apache.arrow.stream"}


class Json:
    """Spells of one load from `sigmad load`."""

    def __init__(self, name: str, pid: int, port: int) -> None:
        self.batch, self.connections = JSON[name]
        self.pid, self.port = pid, port

    def send(self) -> int:
        """Returns how many samples."""
        flags = ["--batch", str(self.batch), "--connections", str(self.connections), "--profile", "devices"]
        return bench.load(self.port, *flags, seconds=JSON_S)["requests"]["good"] * self.batch

    def warm(self) -> None:
        self.send()

    def check(self) -> None:
        """`sigmad load` has counted the responses."""


class Arrow:
    """Spells of frames that take turns."""

    def __init__(self, name: str, pid: int, port: int) -> None:
        streams, self.count = ARROW[name]
        self.pid, self.port = pid, port
        self.frames = frames(streams // VALUES)
        self.sent = self.refused = 0

    def send(self) -> int:
        return self.send_frames(self.count)

    def send_frames(self, count: int) -> int:
        connection = Connection(self.port)
        for _ in range(count):
            body = self.frames[self.sent % len(self.frames)]
            # Where others have the core, analytics is behind, and a worker refuses.
            while (status := connection.send("POST", "/ingest", FIELDS, body)) == 503:
                self.refused += 1
                time.sleep(0.01)
            if status != 202:
                raise SystemExit(f"a frame was answered {status}")
            self.sent += 1
        connection.socket.close()
        return count * FRAME

    def warm(self) -> None:
        self.send_frames(WINDOW * len(self.frames))

    def check(self) -> None:
        text = bench.get(f"http://127.0.0.1:{self.port}/metrics")[2].decode()
        found = re.findall(r'^ingest_values_total\{result="accepted"\} (\d+)', text, re.M)
        if sum(map(int, found)) != self.sent * FRAME * VALUES:
            raise SystemExit(f"{found} values of {self.sent} frames")
        if self.refused:
            print(f"{self.refused} frames were refused, and sent again: something else ran")


def frames(devices: int) -> list[bytes]:
    """Each device once in as many frames as that needs, and in the last one some again."""
    rng = random.Random(devices)
    order = list(range(devices))
    rng.shuffle(order)
    made = []
    for first in range(0, devices, FRAME):
        rows = [order[at % devices] for at in range(first, first + FRAME)]
        names = pyarrow.array([f"edge-{device:06}" for device in rows]).dictionary_encode()
        times = pyarrow.array([1_735_100_000_000_000 + first + at for at in range(FRAME)], pyarrow.timestamp("us"))
        values = {
            "cpu": [round(rng.gauss(50, 5), 2) for _ in rows],
            "rps": [float(rng.randrange(1_000, 2_000)) for _ in rows],
        }
        table = pyarrow.table({"device": names, "timestamp": times, **values})
        sink = io.BytesIO()
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        made.append(sink.getvalue())
    return made


def spell(source: Json | Arrow) -> dict[str, float]:
    """ns a sample, by kind of thread, until the last value is judged."""
    bench.settled(source.pid)
    before = bench.thread_ns(source.pid)
    samples = source.send()
    bench.settled(source.pid)
    after = bench.thread_ns(source.pid)
    used = {kind: (after[kind] - before.get(kind, 0)) / samples for kind in after}
    return {"worker": used["worker"], "analytics": used["analytics"], "all": sum(used.values())}


def figures(spells: list[dict[str, float]]) -> dict:
    found = {}
    for kind in spells[0]:
        low, median, high = statistics.quantiles([one[kind] for one in spells], n=4)
        found[kind] = {"median": median, "low": low, "high": high}
    return found


def text_of(loads: dict) -> str:
    rows = []
    for name, binaries in loads.items():
        for binary, found in binaries.items():
            each = found["all"]
            parts = [f"{found[kind]['median']:.0f}" for kind in ("worker", "analytics", "all")]
            rows.append([name, binary, *parts, f"{each['low']:.0f}–{each['high']:.0f}", str(AIMS[name])])
    return bench.table(["load", "build", "worker ns", "analytics ns", "all threads", "quartiles", "aim"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=12, help="spells of each load")
    parser.add_argument("--binary", action="append", help="another sigmad than the release build; may be repeated")
    parser.add_argument("--load", action="append", choices=AIMS, help="only that; may be repeated")
    parser.add_argument("--note", help="what else the record should say: what ran beside")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("quartiles need two rounds")
    binaries = {os.path.basename(path): path for path in arguments.binary or [bench.sigmad_binary()]}
    names = arguments.load or list(AIMS)
    load_averages = []
    with bench.record("batches", arguments.rounds) as found, contextlib.ExitStack() as stack:
        os.sched_setaffinity(0, {bench.LOAD_CORE})
        sources = []
        for name in names:
            for binary, path in binaries.items():
                child, port = stack.enter_context(bench.sigmad(*FLAGS, core=bench.SERVER_CORE, binary=path))
                kind = Json if name in JSON else Arrow
                sources.append((name, binary, kind(name, child.pid, port), []))
        for _, _, source, _ in sources:
            source.warm()
        for turn in range(arguments.rounds):
            load_averages.append(os.getloadavg()[0])
            at = turn % len(sources)
            for _, _, source, spells in sources[at:] + sources[:at]:
                spells.append(spell(source))
        found["loads"] = {}
        for name, binary, source, spells in sources:
            source.check()
            found["loads"].setdefault(name, {})[binary] = figures(spells)
        found["aims"] = AIMS
        found["manifest"]["load_average_of_rounds"] = bench.spread(load_averages)
        if arguments.note:
            found["manifest"]["note"] = arguments.note
        found["text"] = text_of(found["loads"])
        print(found["text"])


if __name__ == "__main__":
    main()
