#!/usr/bin/env python3
"""What do open pages cost a server at full load?

Posts 100,000 samples a second from 1,000 devices and counts the server's CPU time by thread: with no
page open, with one, with fifty, each in turn. Every page must have been told something all along, and
every sample must have been accepted.

    cargo build --release && benches/pages.py
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time

import bench

DEVICES = 1_000
BATCH = 500
PAGES = (0, 1, 50)


def post(port: int, per_second: int) -> None:
    """Client: posts at that rate until it is stopped, and complains of anything but 202."""
    bodies = []
    for first in range(0, DEVICES, BATCH):
        samples = [
            {"device": f"device-{first + place}", "rps": 2000 + place % 7, "cpu": 50 + place % 5}
            for place in range(BATCH)
        ]
        bodies.append(json.dumps(samples, separators=(",", ":")).encode())
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    heads = [f"POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() for body in bodies]
    began, sent = time.monotonic(), 0
    while True:
        turn = sent % len(bodies)
        client.sendall(heads[turn] + bodies[turn])
        answer = client.recv(4096)
        if not answer.startswith(b"HTTP/1.1 202 "):
            sys.exit(answer.decode())
        sent += 1
        time.sleep(max(0.0, began + sent * BATCH / per_second - time.monotonic()))


class Pages:
    """Open pages, read by a thread of their own."""

    def __init__(self, port: int, count: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.received = {}
        self.is_over = False
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
            self.selector.register(client, selectors.EVENT_READ)
            self.received[client] = 0
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self) -> None:
        while not self.is_over:
            for key, _ in self.selector.select(0.1):
                part = key.fileobj.recv(1 << 20)
                assert part, "a page was let go"
                self.received[key.fileobj] += part.count(b"event: delta")

    def close(self) -> list[int]:
        self.is_over = True
        self.thread.join()
        for client in self.received:
            client.close()
        return list(self.received.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rate", type=int, default=100_000, help="samples a second")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--post", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.post:
        return post(arguments.post, arguments.rate)

    record = {"manifest": bench.manifest()}
    spent: dict[int, list[dict[str, float]]] = {count: [] for count in PAGES}
    with bench.sigmad() as (child, port):
        command = [sys.executable, __file__, "--post", str(port), "--rate", str(arguments.rate)]
        with bench.running(command, stderr=subprocess.PIPE, text=True) as poster:
            time.sleep(2)
            for _ in range(arguments.rounds):
                for count in PAGES:
                    pages = Pages(port, count)
                    time.sleep(1)
                    before, began = bench.thread_ns(child.pid), time.monotonic()
                    time.sleep(arguments.seconds)
                    after, elapsed = bench.thread_ns(child.pid), time.monotonic() - began
                    told = pages.close()
                    assert all(deltas >= arguments.seconds for deltas in told), told
                    shares = {name: (ns - before.get(name, 0)) / elapsed / 1e7 for name, ns in after.items()}
                    spent[count].append(shares)
                    assert poster.poll() is None, poster.stderr.read()
        judged = bench.get_json(port, "/analyze")["totalCount"]
    names = sorted({name for rounds in spent.values() for shares in rounds for name in shares})
    lines = [f"{judged} samples; percent of one core, medians of {arguments.rounds} interleaved rounds", ""]
    lines += ["| pages | " + " | ".join(names) + " | all |", "| ---: |" + " ---: |" * (len(names) + 1)]
    for count, rounds in spent.items():
        medians = [statistics.median(shares.get(name, 0) for shares in rounds) for name in names]
        total = statistics.median(sum(shares.values()) for shares in rounds)
        lines.append(f"| {count} | " + " | ".join(f"{share:.1f}" for share in [*medians, total]) + " |")
    text = "\n".join(lines)
    print(text)
    record["percent_of_a_core"] = {str(count): rounds for count, rounds in spent.items()}
    if not arguments.no_record:
        print(bench.write_record("pages", record, text))


if __name__ == "__main__":
    main()
