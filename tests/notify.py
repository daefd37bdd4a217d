#!/usr/bin/env python3
"""Incidents reach the real Alertmanager and a webhook, opened and resolved, though Alertmanager is restarted.

One stream learns what is usual, jumps, and is well again. Each receiver gets each change once, counted by its id;
a target that never answers delays nothing. `make alerts` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import random
import sys
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench
import proxy

# A noisy machine is slow; what is measured here is whether, not when.
WAIT_S = 120.0
# One value in each interval, and 150 of them are learned.
INTERVAL_S = 0.1
ALERTMANAGER = """
route: {receiver: webhook, group_by: [incident], group_wait: 0s, group_interval: 1s, repeat_interval: 4h}
receivers: [{name: webhook, webhook_configs: [{url: 'http://127.0.0.1:%d/', send_resolved: true}]}]
"""


class Receiver:
    """Keeps the bodies of all POSTs."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        bodies: list[dict] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silent."""

        self.bodies = bodies
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        stack.callback(self.server.shutdown)


class Stream:
    """Posts a value each interval until it ends."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.value = 1000.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.drive)

    def drive(self) -> None:
        draw = random.Random(7)
        while not self.stop.wait(INTERVAL_S):
            body = json.dumps({"device": "ams-1-edge-05", "rps": draw.gauss(self.value, 10)}).encode()
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ingest", body, timeout=WAIT_S) as answer:
                assert answer.status == 202

    def __enter__(self) -> Stream:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_S) as answer:
        return answer.read().decode()


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def start_alertmanager(stack: contextlib.ExitStack, folder: Path, port: int) -> contextlib.ExitStack:
    """On its own stack, so that it can end first."""
    own = stack.enter_context(contextlib.ExitStack())
    command = ["prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/am"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    own.enter_context(bench.running(command, stderr=(folder / "alertmanager.log").open("a")))
    bench.wait_for_listener(port, 30)
    return own


def main() -> None:
    with contextlib.ExitStack() as stack:
        folder = proxy.folder(stack, "notify")
        hook, pager = Receiver(stack), Receiver(stack)
        (folder / "alertmanager.yml").write_text(ALERTMANAGER % pager.port)
        port = bench.free_port()
        alertmanager = start_alertmanager(stack, folder, port)
        # A target that takes connections and never answers.
        mute = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        stack.callback(mute.server_close)
        flags = ["--incident-interval", f"{INTERVAL_S * 1000:.0f}ms", "--alertmanager", f"http://127.0.0.1:{port}"]
        hooks = f"http://127.0.0.1:{hook.port}/,http://127.0.0.1:{mute.server_address[1]}/"
        child, sigmad = stack.enter_context(bench.sigmad(*flags, "--webhook", hooks))

        def alerts(status: str) -> list[dict]:
            return [alert for body in pager.bodies for alert in body["alerts"] if alert["status"] == status]

        def events(name: str) -> list[dict]:
            return [body for body in hook.bodies if body["event"] == name]

        with Stream(sigmad) as stream:
            judged = 'sigmad_incidents_streams{state="judged"} 0'
            wait_for(lambda: judged not in get(sigmad, "/metrics"), "nothing is judged")
            stream.value = 5000.0
            wait_for(lambda: events("opened"), "the webhook is not told of the opening")
            wait_for(lambda: alerts("firing"), "Alertmanager is not told of the opening")
            alertmanager.close()
            start_alertmanager(stack, folder, port)
            stream.value = 1000.0
            wait_for(lambda: events("resolved"), "the webhook is not told of the end")
            wait_for(lambda: alerts("resolved"), "Alertmanager is not told of the end")
        incidents = json.loads(get(sigmad, "/incidents"))["incidents"]
        ids = {incident["id"] for incident in incidents}
        sent = [body["id"] for body in hook.bodies]
        assert len(sent) == len(set(sent)), f"told twice: {sent}"
        assert {alert["labels"]["incident"] for alert in alerts("firing")} <= ids
        assert {body["incident"]["id"] for body in hook.bodies} <= ids
        waits = [line for line in get(sigmad, "/metrics").splitlines() if line.startswith("sigmad_notifications_")]
        assert f'target="webhook 127.0.0.1:{mute.server_address[1]}",result="sent"}} 0' in "\n".join(waits)
        child.terminate()
        assert child.wait(timeout=60) == 0
    print(f"notify: ok, {len(ids)} incidents, {len(sent)} messages, {len(alerts('firing'))} alerts fired")


if __name__ == "__main__":
    main()
