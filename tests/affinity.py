#!/usr/bin/env python3
"""Detector states follow their devices: replicas behind nginx judge as one process that never ends.

nginx sends each device to one replica by a consistent hash. Then every replica is restarted in turn, and their number
goes 2, 5, 2, while samples come. After each round the scores of the last value of every device must be those of a
single process with the same samples, and no value may have waited in vain. So no device moves on before its states
have come: what happens then stands in docs/RELIABILITY.md. Nothing is judged by elapsed time: replicas and nginx
listen on Unix sockets, and every wait is for a condition. `make affinity` runs it, SIGMAD names the binary.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench
import proxy

DEVICES = [f"edge-{number}" for number in range(12)]
# `pager` judges from the 150th value on.
PAST = 180
ROUNDS = 3
SLOTS = 5
FIRST_S = 1_767_225_600
# A wait ends as soon as its condition holds; only what never comes true takes so long.
LIMIT_S = 120.0
# `pager` says nothing of most values; `robust` has a score for each, which shows at once whether states are whole.
DETECTORS = ("pager", "robust")
FLAGS = ("--workers", "1", "--detector", ",".join(DETECTORS), "--handover-wait", "60s")

HTTP = """
    upstream sigmad {{
        hash $http_x_device consistent;
        {servers}
    }}
    server {{
        listen unix:{folder}/nginx.sock;
        location / {{
            proxy_pass http://sigmad;
            proxy_next_upstream_tries 0;
            proxy_next_upstream error timeout;
            add_header X-Upstream $upstream_addr always;
        }}
    }}
"""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("sigmad", timeout=LIMIT_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(str(self.path))


def ask(path: Path, method: str, target: str, body: bytes | None = None, device: str = ""):
    """The status, the body and the replicas that nginx tried."""
    connection = UnixConnection(path)
    with contextlib.closing(connection):
        connection.request(method, target, body, {"X-Device": device})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("X-Upstream", "")


class Replica:
    """One process on its socket."""

    def __init__(self, stack: contextlib.ExitStack, path: Path, *flags: str) -> None:
        self.path = path
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGMAD")}
        command = [bench.sigmad_binary(), "serve", "--listen", f"unix:{path}?mode=0666", *FLAGS, *flags]
        self.log = path.with_suffix(".log").open("ab")
        stack.callback(self.log.close)
        self.child = stack.enter_context(bench.running(command, stderr=self.log, env=environment))
        bench.until(f"{path.name} is ready", self.is_ready, LIMIT_S)

    def is_ready(self) -> bool:
        if self.child.poll() is not None:
            sys.exit(f"{self.path.name} did not start:\n{self.path.with_suffix('.log').read_text()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            return ask(self.path, "GET", "/readyz")[0] == 200
        return False

    def metric(self, name: str) -> float:
        status, body, _ = ask(self.path, "GET", "/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", body.decode(), re.MULTILINE)
        if status != 200 or found is None:
            sys.exit(f"{self.path.name}: no {name}")
        return float(found.group(1))

    def analyze(self, device: str, scope: str) -> dict:
        return json.loads(ask(self.path, "GET", f"/analyze?device={device}&scope={scope}")[1])

    def scores(self, device: str) -> list[float]:
        findings = self.analyze(device, "local")["metrics"]["rps"]["detectors"]
        return [findings[detector]["score"] for detector in DETECTORS]

    def in_vain(self) -> float:
        """Devices that waited in vain, or were taken for heard by several replicas."""
        late = sum(
            self.metric(f'sigmad_handover_waits_total{{outcome="{outcome}"}}') for outcome in ("late", "no_room")
        )
        return late + self.metric("sigmad_handover_contended_total")


class Fleet:
    """The replicas that run, by their slots, and the single process beside them."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.url = f"redis://127.0.0.1:{stack.enter_context(bench.redis(folder))}"
        self.alone = Replica(stack, folder / "alone.sock")
        self.replicas: dict[int, Replica] = {}
        self.ending: list[Replica] = []
        self.at = 0
        self.moved = self.compared = self.tried_again = 0
        self.owner: dict[str, str] = {}
        servers = "\n        ".join(f"server unix:{self.socket(slot)} max_fails=0;" for slot in range(SLOTS))
        config = proxy.FRAME.format(folder=folder, http=HTTP.format(servers=servers, folder=folder))
        (folder / "nginx.conf").write_text(config)
        nginx = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        stack.enter_context(bench.running(nginx, stderr=subprocess.DEVNULL))
        self.front = folder / "nginx.sock"

    def socket(self, slot: int) -> Path:
        return self.folder / f"replica-{slot}.sock"

    def begin(self, slot: int) -> None:
        self.replicas[slot] = Replica(self.stack, self.socket(slot), "--redis-url", self.url)

    def end(self, slot: int) -> None:
        """SIGTERM; samples come while it drains."""
        replica = self.replicas.pop(slot)
        if wasted := replica.in_vain():
            sys.exit(f"{replica.path.name}: {wasted} devices waited in vain")
        replica.child.terminate()
        self.ending.append(replica)

    def post(self, device: str, samples: list[dict]) -> None:
        body = json.dumps(samples).encode()
        if ask(self.alone.path, "POST", "/ingest", body)[0] != 202:
            sys.exit("the single process refuses a sample")
        for _ in range(100):
            # A replica that ends resets a connection that it has not accepted: nothing of that request was read.
            status, text, tried = ask(self.front, "POST", "/ingest", body, device)
            if status == 202:
                upstream = tried.split(",")[-1].strip()
                self.moved += self.owner.get(device, upstream) != upstream
                self.owner[device] = upstream
                return
            if status not in (502, 503):
                sys.exit(f"{status}: {text!r}")
            self.tried_again += 1
            time.sleep(0.05)
        sys.exit("no replica takes a sample")

    def round(self, count: int = 1) -> None:
        """Values of every device, then the verdicts on the last of each."""
        for device in DEVICES:
            values = range(self.at, self.at + count)
            self.post(device, [sample(device, at) for at in values])
        self.at += count
        for replica in self.ending:
            code = replica.child.wait(timeout=LIMIT_S)
            if code != 0:
                sys.exit(f"{replica.path.name} ends with {code}")
        self.ending.clear()
        for device in DEVICES:
            of_device = [r for r in self.replicas.values() if self.owner[device] == f"unix:{r.path}"]
            # None: it took its last samples and has ended. The next round shows whether its states were whole.
            for replica in of_device:
                expected = self.alone.scores(device)
                what = f"value {self.at} of {device}: {expected} at {replica.path.name}, as alone"
                # Until then its values may wait for their states.
                bench.until(
                    what,
                    lambda replica=replica, device=device, e=expected: replica.scores(device) == e,
                    LIMIT_S,
                    lambda replica=replica, device=device: self.explain(replica, device),
                )
                self.compared += 1

    def explain(self, replica: Replica, device: str) -> str:
        """Tells a value that is missing from one that was counted twice, and both from states that are not whole."""
        of_all, alone = replica.analyze(device, "cluster"), self.alone.analyze(device, "local")
        took = f"{of_all['totalCount']} samples were counted of {alone['totalCount']}"
        means = f"means {of_all['rollingAvg']} and {alone['rollingAvg']}"
        return f"; {took}, {self.tried_again} requests were sent again; {means}"

    def rounds(self, what: str) -> None:
        moved = self.moved
        for _ in range(ROUNDS):
            self.round()
        print(f"{what}: {self.moved - moved} moves, as one process", flush=True)


def sample(device: str, at: int) -> dict:
    """Noise, and an event from time to time, at another time for each device."""
    number = DEVICES.index(device)
    noise = (at * 2_654_435_761 + number * 40_503) % 65_536 / 65_536
    event = 40 if (at + 3 * number) % 31 < 2 and at > 100 else 0
    return {"timestamp": FIRST_S + 60 * at, "device": device, "rps": 100 + noise + event}


def main() -> None:
    with contextlib.ExitStack() as stack:
        folder = proxy.folder(stack, "affinity")
        fleet = Fleet(stack, folder)
        for slot in range(3):
            fleet.begin(slot)
        bench.until("nginx listens", fleet.front.exists, LIMIT_S)
        fleet.round(PAST)
        fleet.rounds("three replicas")
        for slot in range(3):
            fleet.end(slot)
            fleet.rounds(f"replica {slot} ends")
            fleet.begin(slot)
            fleet.rounds(f"replica {slot} is back")
        fleet.end(2)
        fleet.rounds("two replicas")
        for slot in range(2, SLOTS):
            fleet.begin(slot)
        fleet.rounds("five replicas")
        for slot in range(2, SLOTS):
            fleet.end(slot)
        fleet.rounds("two replicas")
        if wasted := sum(replica.in_vain() for replica in fleet.replicas.values()):
            sys.exit(f"{wasted} devices waited in vain")
        print(f"{fleet.compared} verdicts alike, {fleet.moved} moves, {fleet.tried_again} requests sent again")
        if fleet.moved < len(DEVICES):
            sys.exit("too few moves to show anything")


if __name__ == "__main__":
    main()
