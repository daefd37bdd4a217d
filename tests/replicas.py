#!/usr/bin/env python3
"""Three replicas behind nginx share one Redis: all of them say the same, and what one process would say.

Samples of 50 devices go through nginx, which spreads them at random: first one after the other, so that
their order is known, then from many clients at once. Whenever the traffic has stopped all replicas must
answer alike; after the first stretch also like a single process without Redis that was given the same
samples in the same order. Then a replica starts late, one is killed, and a spike comes to a replica that
never heard of the device. `make replicas` runs it, SIGMAD names the binary.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench
import proxy

DEVICES = 50
# Each window of 50 is full after so many rounds, and turned over once.
ROUNDS = 110
CLIENTS = 8
CLIENT_ROUNDS = 100
# All replicas have read what all have written: two flushes of 100 ms. Only a replica that never does ends the wait.
SETTLE_S = 120.0
# Sums are added in another order; nothing else may differ.
TOLERANCE = 1e-9
# In the first tenth of a second a replica knows its own share alone: too few values of either kind to judge by.
FLAGS = ("--workers", "1", "--min-samples", "50")

HTTP = """
    upstream sigmad {{
        random;
        {servers}
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass http://sigmad;
        }}
    }}
"""


def body(index: int) -> bytes:
    """Two values in turn, for every device and for the fleet: no window, whole or in part, calls one odd."""
    offset = 2 if (index // DEVICES + index) % 2 else -2
    sample = {
        "timestamp": 1735100000 + index,
        "device": f"edge-{index % DEVICES}",
        "cpu": 50 + offset,
        "rps": 1000 + offset,
    }
    return json.dumps(sample).encode()


class Client:
    """Posts on one connection; anything but 202 ends the test."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, payload: bytes) -> None:
        self.connection.request("POST", "/ingest", payload)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 202:
            sys.exit(f"{answer.status}: {text!r}")


def figures(port: int, path: str) -> dict:
    """An answer without what depends on the moment or on who is asked."""
    personal = ("computedAt", "syncedAt", "synced_at", "scope")
    answer = bench.get_json(port, path)
    return {name: value for name, value in answer.items() if name not in personal}


def differences(one: object, other: object, path: str = "") -> list[str]:
    """Where two answers differ by more than the order in which sums were added."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(set(one) | set(other))
        return [found for name in names for found in differences(one.get(name), other.get(name), f"{path}.{name}")]
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers) and not isinstance(one, bool):
        near = abs(one - other) <= TOLERANCE * max(1.0, abs(one), abs(other))
        return [] if near else [f"{path}: {one} and {other}"]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]


def paths() -> list[str]:
    devices = [f"?device=edge-{device}" for device in range(DEVICES)]
    return ["/analyze", "/stats", *(f"/analyze{device}" for device in devices)]


def disagreements(asked: list[str], first: int, others: list[int], total: int) -> list[str]:
    seen = figures(first, "/analyze")["totalCount"]
    found = [] if seen == total else [f"{first} knows of {seen} samples, not of {total}"]
    for path in asked:
        wanted = figures(first, path)
        for port in others:
            found += [f"{path} of {port}{what}" for what in differences(wanted, figures(port, path))]
    return found


def check(what: str, asked: list[str], ports: list[int], total: int) -> bool:
    """Waits until all replicas have read what all have written, and no longer."""
    deadline = time.monotonic() + SETTLE_S
    while found := disagreements(asked, ports[0], ports[1:], total):
        if time.monotonic() > deadline:
            print(f"{what}: FAILED", *found[:10], sep="\n  ", flush=True)
            return False
        time.sleep(0.05)
    print(f"{what}: {len(asked)} answers of {len(ports)} processes alike", flush=True)
    return True


def in_turn(port: int, alone: int) -> None:
    """One sample after the other, to the replicas and to the single process."""
    clients = [Client(port), Client(alone)]
    for index in range(ROUNDS * DEVICES):
        for client in clients:
            client.post(body(index))


def at_once(port: int) -> None:
    def drive(number: int) -> None:
        client = Client(port)
        chosen = random.Random(number)
        for _ in range(CLIENT_ROUNDS * DEVICES // CLIENTS):
            client.post(body(chosen.randrange(ROUNDS * DEVICES)))

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def spike(ports: list[int], total: int) -> bool:
    """One replica hears of a device for the first time, and knows what is usual all the same."""
    first, second = Client(ports[0]), Client(ports[1])
    for index in range(60):
        first.post(json.dumps({"device": "lonely", "rps": 1000 + index % 2}).encode())
    lonely = ["/analyze?device=lonely"]
    good = check("a device that one replica hears", lonely, ports, total + 60)
    second.post(json.dumps({"device": "lonely", "rps": 1500}).encode())
    judged = bench.get_json(ports[1], "/analyze?device=lonely")
    anomaly = bench.get_json(ports[1], "/anomalies?device=lonely")["anomalies"]
    is_seen = judged["isAnomaly"] and abs(judged["zScore"] - 999) < TOLERANCE * 999 and len(anomaly) == 1
    print(f"a spike at a replica that never heard of its device: z = {judged['zScore']}", flush=True)
    if not is_seen:
        print("FAILED", judged, anomaly)
    return check("after the spike", lonely, ports, total + 61) and is_seen and good


def main() -> None:
    with contextlib.ExitStack() as stack:
        folder = proxy.folder(stack, "replicas")
        redis = stack.enter_context(bench.redis(folder))
        url = f"redis://127.0.0.1:{redis}"

        def replica():
            return stack.enter_context(bench.sigmad("--redis-url", url, *FLAGS))

        replicas = [replica() for _ in range(3)]
        ports = [port for _, port in replicas]
        _, alone = stack.enter_context(bench.sigmad(*FLAGS))
        port = bench.free_port()
        servers = "\n        ".join(f"server 127.0.0.1:{each};" for each in ports)
        proxy.start(stack, folder, HTTP.format(servers=servers, port=port), port)

        in_turn(port, alone)
        total = ROUNDS * DEVICES
        good = check("one after the other, as a single process", paths(), [alone, *ports], total)
        judged = [bench.get_json(each, "/analyze?scope=local")["totalCount"] for each in ports]
        print(f"samples of each replica: {judged}", flush=True)
        good = good and sum(judged) == total and min(judged) > 0

        at_once(port)
        total += CLIENT_ROUNDS * DEVICES // CLIENTS * CLIENTS
        good = check("many clients at once", paths(), ports, total) and good

        _, late = replica()
        good = check("a fourth that starts late", paths(), [late, *ports], total) and good
        replicas[1][0].kill()
        replicas[1][0].wait()
        left = [ports[0], ports[2], late]
        good = check("one killed", paths(), left, total) and good
        good = spike(left, total) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
