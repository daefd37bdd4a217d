#!/usr/bin/env python3
"""What does an idle connection cost, and is the next client still served?

Opens connections from several loopback addresses, one request on each, and leaves them open.
The file limit bounds how many: the report says how many there were.

    cargo build --release && benches/idle.py
"""

from __future__ import annotations

import argparse
import resource
import socket
import subprocess
import sys
import time

import bench

BYTES_PER_CONNECTION_MAX = 4096
# One client process holds so many: below the usual file limit.
PER_CLIENT = 5000
REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Descriptors the server keeps for itself, and some more to be on the safe side.
RESERVE = 200


def hold(port: int, count: int, source: str) -> None:
    """Client: opens connections, asks once on each, waits until its standard input ends."""
    held = []
    for _ in range(count):
        client = socket.socket()
        client.settimeout(10)
        client.bind((source, 0))
        client.connect(("127.0.0.1", port))
        client.sendall(REQUEST)
        answer = client.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"connection {len(held)}: {answer[:100]!r}")
        held.append(client)
    print(len(held), flush=True)
    sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--hold", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        port, count, source = arguments.hold
        return hold(int(port), int(count), source)

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = min(arguments.connections, limit - RESERVE)
    record = {"manifest": bench.manifest()}
    record["manifest"]["file_limit"] = limit
    with bench.sigmad("--max-connections", str(arguments.connections)) as (child, port):
        # The first requests take what every process takes once.
        for _ in range(200):
            bench.exchange(port, REQUEST)
        before = bench.resident_bytes(child.pid)
        clients = []
        left = wanted
        while left:
            count = min(PER_CLIENT, left)
            left -= count
            source = f"127.0.0.{2 + len(clients)}"
            command = [sys.executable, __file__, "--hold", str(port), str(count), source]
            client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            clients.append(client)
        held = sum(int(client.stdout.readline() or 0) for client in clients)
        per_connection = (bench.resident_bytes(child.pid) - before) / max(1, held)
        latencies = []
        for _ in range(100):
            began = time.perf_counter()
            bench.exchange(port, REQUEST)
            latencies.append((time.perf_counter() - began) * 1e6)
        ticks = bench.cpu_ns(child.pid)
        time.sleep(2)
        at_rest = (bench.cpu_ns(child.pid) - ticks) / 2e9
        for client in clients:
            client.stdin.close()
            client.wait()
    latencies.sort()
    record["result"] = {
        "connections": held,
        "bytes_per_connection": per_connection,
        "new_client_p50_us": latencies[50],
        "new_client_max_us": latencies[-1],
        "cpu_at_rest": at_rest,
    }
    text = bench.table(
        ["idle connections", "resident bytes each", "new client p50 us", "max us", "CPU at rest"],
        [[str(held), f"{per_connection:.0f}", f"{latencies[50]:.0f}", f"{latencies[-1]:.0f}", f"{at_rest:.3%}"]],
    )
    print(text)
    if not arguments.no_record:
        print("record in", bench.write_record("idle", record, text))
    if held != wanted:
        sys.exit(f"{held} of {wanted} connections")
    if per_connection > BYTES_PER_CONNECTION_MAX:
        sys.exit(f"{per_connection:.0f} bytes each, more than {BYTES_PER_CONNECTION_MAX}")


if __name__ == "__main__":
    main()
