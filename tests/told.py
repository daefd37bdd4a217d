#!/usr/bin/env python3
"""Each incident's opening and end reach the real Alertmanager and a webhook, through restarts of all that they pass.

Two replicas share a Redis, and tell Alertmanager and a webhook. Each of five devices jumps and is well again. While its
opening or its end is on the way, one of these is restarted: the replica that tells, killed; the replica that hears
the device, killed; the replica that tells, terminated; Redis, which loses all its data; Alertmanager. At the end each
incident was opened once and has ended once at each receiver, counted by `id`. `make told` runs it; SIGMAD names the
binary.
"""

from __future__ import annotations

import collections
import contextlib
import json
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench
import proxy
from notify import ALERTMANAGER, Receiver, get, start_alertmanager

# A wait ends as soon as it is so; only what never comes true takes so long.
WAIT_S = 400.0
# One value in each interval. 150 of them are learned, and a level that stays is usual after 236: two minutes, which
# must be longer than the minute after which Alertmanager is told again.
INTERVAL_S = 0.5
USUAL, JUMPED = 1000.0, 5000.0
# Names that share no part: each is an incident of its own.
DEVICES = ["ams-router", "berlin", "cairo", "delhi", "essen"]


class Replica:
    """One process, begun again on its port."""

    def __init__(self, stack: contextlib.ExitStack, flags: list[str]) -> None:
        self.flags, self.port = flags, bench.free_port()
        self.own = stack.enter_context(contextlib.ExitStack())
        self.start()

    def start(self) -> None:
        listen = f"127.0.0.1:{self.port}"
        self.child, _ = self.own.enter_context(bench.sigmad(*self.flags, listen=listen))

    def restart(self, how: signal.Signals) -> None:
        self.child.send_signal(how)
        code = self.child.wait(timeout=WAIT_S)
        assert how == signal.SIGKILL or code == 0, f"exit {code}: {''.join(self.child.log)}"
        self.own.close()
        self.start()

    def has(self, line: str) -> bool:
        try:
            return f"\n{line}\n" in get(self.port, "/metrics")
        except OSError:
            return False

    def incidents(self) -> dict[str, list[dict]]:
        """Those of the cluster, by the device of the suspect; none while this replica does not know it."""
        found = json.loads(get(self.port, "/incidents?limit=1000"))
        if found["scope"] != "cluster" or found.get("degradedSince") is not None:
            return {}
        by_device = collections.defaultdict(list)
        for incident in found["incidents"]:
            by_device[incident["suspect"]["device"]].append(incident)
        return by_device


class Redis:
    """Without a file: begun again, it has nothing."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self.port, self.folder = bench.free_port(), folder
        self.own = stack.enter_context(contextlib.ExitStack())
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--dir", str(self.folder)]
        self.own.enter_context(bench.running(command, stdout=subprocess.DEVNULL))
        bench.wait_for_listener(self.port, 60)

    def restart(self) -> None:
        self.own.close()
        self.start()


class Fleet(proxy.Drivers):
    """Posts a value of each device in each interval, to its replica, or to the other one while that does not answer."""

    def __init__(self, replicas: list[Replica]) -> None:
        super().__init__(len(DEVICES))
        self.replicas, self.levels = replicas, dict.fromkeys(DEVICES, USUAL)

    def drive(self, place: int) -> None:
        device, draw = DEVICES[place], random.Random(place)
        while not self.stop.wait(INTERVAL_S):
            body = json.dumps({"device": device, "rps": draw.gauss(self.levels[device], 10)}).encode()
            for replica in (self.replicas[place % 2], self.replicas[1 - place % 2]):
                with contextlib.suppress(OSError):
                    with urllib.request.urlopen(
                        f"http://127.0.0.1:{replica.port}/ingest", body, timeout=WAIT_S
                    ) as answer:
                        assert answer.status == 202
                    break


class Stage:
    """All processes, and what the receivers have."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack, self.folder = stack, proxy.folder(stack, "told")
        self.hook, self.pager = Receiver(stack), Receiver(stack)
        (self.folder / "alertmanager.yml").write_text(ALERTMANAGER % self.pager.port)
        self.alerts = bench.free_port()
        self.alertmanager = start_alertmanager(stack, self.folder, self.alerts)
        self.redis = Redis(stack, self.folder)
        flags = ["--workers", "1", "--incident-interval", f"{INTERVAL_S * 1000:.0f}ms"]
        # A machine that stalls must not make a device a silent one.
        flags += ["--silence-ignore", "*", "--redis-url", f"redis://127.0.0.1:{self.redis.port}"]
        flags += [
            "--alertmanager",
            f"http://127.0.0.1:{self.alerts}",
            "--webhook",
            f"http://127.0.0.1:{self.hook.port}/",
        ]
        self.replicas = [Replica(stack, flags) for _ in range(2)]

    def wait_for(self, what: str, holds) -> None:
        def logs() -> str:
            return "".join("\n" + "".join(replica.child.log[-40:]) for replica in self.replicas)

        bench.until(what, holds, WAIT_S, logs)

    def holder(self) -> Replica:
        """The replica that tells."""
        found: list[Replica] = []

        def holds() -> bool:
            found[:] = [replica for replica in self.replicas if replica.has("sigmad_cluster_holder 1")]
            return len(found) == 1

        self.wait_for("one replica tells", holds)
        return found[0]

    def incidents(self, device: str) -> list[dict]:
        """As a replica that knows the cluster has them."""
        for replica in self.replicas:
            with contextlib.suppress(OSError):
                if found := replica.incidents():
                    return found.get(device, [])
        return []

    def state(self, device: str) -> set[str]:
        return {incident["state"] for incident in self.incidents(device)}

    def told(self, device: str, event: str) -> list[str]:
        """The ids of notifications of the webhook."""
        bodies = list(self.hook.bodies)
        is_it = [body for body in bodies if body["event"] == event]
        return [body["id"] for body in is_it if body["incident"]["suspect"]["device"] == device]

    def alerted(self, device: str, status: str) -> list[dict]:
        """Messages of Alertmanager about the device, whose group has that status."""
        bodies = list(self.pager.bodies)
        is_it = [body for body in bodies if body["status"] == status]
        return [body for body in is_it if body["alerts"][0]["labels"]["device"] == device]

    def restart_alertmanager(self) -> None:
        self.alertmanager.close()
        self.alertmanager = start_alertmanager(self.stack, self.folder, self.alerts)


def pass_through(stage: Stage, fleet: Fleet, device: str, on_opening, on_end) -> None:
    """A device jumps, and something restarts before it is told; then it is well, and the same again."""
    fleet.levels[device] = JUMPED
    stage.wait_for(f"{device} is wrong", lambda: "open" in stage.state(device))
    on_opening()
    stage.wait_for(f"the webhook knows of {device}", lambda: stage.told(device, "opened"))
    stage.wait_for(f"Alertmanager knows of {device}", lambda: stage.alerted(device, "firing"))
    fleet.levels[device] = USUAL
    on_end()
    stage.wait_for(f"{device} is well", lambda: stage.state(device) == {"resolved"})
    stage.wait_for(f"the webhook knows the end of {device}", lambda: stage.told(device, "resolved"))
    stage.wait_for(f"Alertmanager knows the end of {device}", lambda: stage.alerted(device, "resolved"))


def judged(replica: Replica) -> int:
    """Streams with a past."""
    [line] = [line for line in get(replica.port, "/metrics").splitlines() if 'streams{state="judged"}' in line]
    return int(line.split()[-1])


def events_of(stage: Stage) -> dict[str, set[str]]:
    """What each receiver has of each incident, by its id."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for body in list(stage.hook.bodies):
        found[body["incident"]["id"]].add(body["event"])
    for body in list(stage.pager.bodies):
        found[body["groupLabels"]["incident"]].add(f"alert {body['status']}")
    return found


def is_whole(stage: Stage) -> bool:
    """Every incident has ended, and both receivers know that it began and ended."""
    known = [incident for device in DEVICES for incident in stage.incidents(device)]
    all_of_one = {"opened", "resolved", "alert firing", "alert resolved"}
    events = events_of(stage)
    is_told = all(all_of_one <= events[incident["id"]] for incident in known)
    return len(known) >= len(DEVICES) and is_told and all(one["state"] == "resolved" for one in known)


def count(stage: Stage) -> str:
    """Nothing is told of what is no incident, and nothing twice."""
    known = {incident["id"] for device in DEVICES for incident in stage.incidents(device)}
    assert set(events_of(stage)) == known, (events_of(stage), known)
    bodies = list(stage.hook.bodies)
    ids = {body["id"] for body in bodies}
    assert len({(body["incident"]["id"], body["event"]) for body in bodies}) == len(ids), ids
    # One that grows worse is another alert of the same group: each message says something new.
    groups = list(stage.pager.bodies)
    said = collections.Counter(
        frozenset((alert["fingerprint"], alert["status"]) for alert in body["alerts"]) for body in groups
    )
    assert max(said.values()) == 1, said
    ends = collections.Counter(body["groupLabels"]["incident"] for body in groups if body["status"] == "resolved")
    assert ends == dict.fromkeys(known, 1), (ends, known)
    repeated = len(bodies) - len(ids)
    again = f"{repeated} more with the id of an earlier one"
    return f"{len(known)} incidents, {len(ids)} notifications, {again}, {len(groups)} messages of Alertmanager"


def main() -> None:
    with contextlib.ExitStack() as stack:
        stage = Stage(stack)
        with Fleet(stage.replicas) as fleet:
            every = len(DEVICES)

            def learned() -> None:
                # A replica that was restarted learns its devices anew.
                stage.wait_for("all are judged", lambda: sum(map(judged, stage.replicas)) >= every)

            def kill_holder() -> None:
                stage.holder().restart(signal.SIGKILL)

            def end_holder() -> None:
                stage.holder().restart(signal.SIGTERM)

            plan = [
                (kill_holder, stage.redis.restart),
                (stage.redis.restart, stage.restart_alertmanager),
                (stage.restart_alertmanager, kill_holder),
                (end_holder, stage.restart_alertmanager),
                (stage.restart_alertmanager, end_holder),
            ]
            for device, (on_opening, on_end) in zip(DEVICES, plan, strict=True):
                learned()
                pass_through(stage, fleet, device, on_opening, on_end)
                print(
                    f"told: {device} opened through {on_opening.__name__}, ended through {on_end.__name__}", flush=True
                )
            stage.wait_for("all incidents are told whole", lambda: is_whole(stage))
        outcome = count(stage)
        for replica in stage.replicas:
            replica.child.terminate()
            assert replica.child.wait(timeout=WAIT_S) == 0, "".join(replica.child.log)
    print(f"told: ok, {outcome}")


if __name__ == "__main__":
    main()
