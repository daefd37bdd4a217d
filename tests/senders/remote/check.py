#!/usr/bin/env python3
"""The remote storage of Prometheus (its agent's log and queues, built from main.go) by remote_write 2.0.

Gauges, counters that only their metadata call so, and native histograms of integers and floats, of ten hosts. sigmad is
killed and started again meanwhile. Every gauge arrives with its host and time; rates and means are computed here; and
nothing is failed or dropped. `make sender SENDER=remote` runs it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent.parent / "benches"))

import arrival
import bench
import golang

HERE = Path(__file__).resolve().parent
HOSTS = [f"host-{number}" for number in range(10)]
ROUNDS = 15
STEP_MS = 1000
# Rates and means are of doubles, and each side divides once or twice.
TOLERANCE = 1e-9

# Device, series, milliseconds.
Key = tuple[str, str, int]


def histogram(round_: int) -> dict:
    """All that is observed by the end of a round, in the buckets (0.5, 1] and (1, 2]."""
    spans = [{"Offset": 0, "Length": 2}]
    whole = {"CounterResetHint": 0, "Schema": 0, "ZeroThreshold": 0.001, "ZeroCount": 0, "PositiveSpans": spans}
    return whole | {"Count": 3 * (round_ + 1), "Sum": 4.5 * (round_ + 1) ** 2}


def points(round_: int, time_ms: int) -> list[dict]:
    made = []
    for number, host in enumerate(HOSTS):

        def point(name: str, host: str = host, **more) -> dict:
            return {"labels": {"__name__": name, "instance": host, "job": "demo"}, "timeMs": time_ms, **more}

        shared = histogram(round_)
        # Integers come as differences from bucket to bucket.
        integers = shared | {"PositiveBuckets": [2 * (round_ + 1), -(round_ + 1)]}
        floats = shared | {"PositiveBuckets": [2.0 * (round_ + 1), 1.0 * (round_ + 1)]}
        made += [
            point("temperature", value=round_ + number / 100),
            point("work_done", value=round_ * (number + 1) * 10.0, metadata={"type": "counter", "help": "Work."}),
            point("latency", histogram=integers, metadata={"type": "histogram", "unit": "seconds"}),
            point("weight", floats=floats, metadata={"type": "histogram"}),
        ]
    return made


class Remote:
    """The program, and the times of what it was given."""

    def __init__(self, child: subprocess.Popen, began_ms: int) -> None:
        self.child = child
        self.began_ms = began_ms
        self.rounds = 0

    def time_ms(self, round_: int) -> int:
        return self.began_ms + round_ * STEP_MS

    def add(self, count: int) -> None:
        for _ in range(count):
            for point in points(self.rounds, self.time_ms(self.rounds)):
                self.child.stdin.write(json.dumps(point) + "\n")
            self.rounds += 1
            self.counted()

    def counted(self) -> dict[str, float]:
        """Commits, and says what was counted."""
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)

    def gauges(self) -> dict[Key, float]:
        return {
            (host, 'temperature{job="demo"}', self.time_ms(round_)): round_ + number / 100
            for round_ in range(self.rounds)
            for number, host in enumerate(HOSTS)
        }

    def computed(self, after: int) -> dict[Key, float]:
        """Rates and means of the rounds after this one, which the same process had."""
        found = {}
        for round_ in range(after + 1, self.rounds):
            moment = self.time_ms(round_)
            for number, host in enumerate(HOSTS):
                found[host, 'work_done{job="demo"}', moment] = (number + 1) * 10.0
                for name in ("latency", "weight"):
                    found[host, f'{name}_count{{job="demo"}}', moment] = 3.0
                    mean = 4.5 * ((round_ + 1) ** 2 - round_**2) / 3
                    found[host, f'{name}_mean{{job="demo"}}', moment] = mean
        return found


def arrived(port: int) -> dict[Key, float]:
    found = {}
    for host in HOSTS:
        for sample in bench.get_json(port, f"/latest?device={host}&limit=1000")["samples"]:
            for series in sample.keys() - {"timestamp", "device", "arrivedAt"}:
                found[host, series, round(sample["timestamp"] * 1000)] = sample[series]
    return found


def has(found: dict[Key, float], expected: dict[Key, float]) -> bool:
    return all(key in found and abs(found[key] - value) <= TOLERANCE * abs(value) for key, value in expected.items())


def wait_until_all(remote: Remote, port: int, before: dict[Key, float]) -> dict[Key, float]:
    """All gauges have arrived now or before."""
    wanted = remote.gauges()

    def complete() -> bool:
        return has(before | arrived(port), wanted)

    arrival.wait_for(f"{len(wanted)} gauges", complete)
    found = arrived(port)
    strange = {key for key in found if key[1].startswith("temperature") and key not in wanted}
    assert not strange, sorted(strange)[:3]
    return found


def check_computed(remote: Remote, port: int, after: int) -> int:
    wanted = remote.computed(after)

    def complete() -> bool:
        found = arrived(port)
        return has(found, wanted)

    try:
        arrival.wait_for("rates and means", complete)
    except AssertionError:
        found = arrived(port)
        wrong = [(key, value, found.get(key)) for key, value in wanted.items() if not has(found, {key: value})]
        raise AssertionError(
            f"{len(wrong)} of {len(wanted)}: {wrong[:5]}; {sorted({key[1] for key in found})}"
        ) from None
    quantiles = {key[1] for key in arrived(port) if key[1].startswith(("latency_p", "weight_p"))}
    assert len(quantiles) == 4, quantiles
    return len(wanted)


def configuration(port: int) -> dict:
    write = {
        "url": f"http://127.0.0.1:{port}/api/v1/write",
        "protobuf_message": "io.prometheus.write.v2.Request",
        "send_native_histograms": True,
        "queue_config": {"batch_send_deadline": "200ms", "max_backoff": "500ms", "max_shards": 4},
    }
    return {"remote_write": [write]}


def main() -> None:
    program = golang.build(HERE)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sigmad-remote-")))
        port = bench.free_port()
        listen = f"127.0.0.1:{port}"
        # YAML takes JSON.
        (folder / "config.yml").write_text(json.dumps(configuration(port)))
        command = [program, str(folder / "config.yml"), str(folder / "log")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with bench.sigmad(listen=listen) as (sigmad, _):
            child = stack.enter_context(bench.running(command, stderr=(folder / "stderr").open("w"), **pipes))
            # Its queue sends what is newer than its own start; the times of all rounds are.
            remote = Remote(child, round(time.time() * 1000) + 10_000)
            remote.add(ROUNDS)
            before = wait_until_all(remote, port, {})
            rates = check_computed(remote, port, 0)
            sigmad.send_signal(signal.SIGKILL)
            sigmad.wait()
        remote.add(ROUNDS)
        arrival.wait_for("a retry", lambda: remote.counted()["samples_retried_total"] > 0)
        with bench.sigmad(listen=listen):
            wait_until_all(remote, port, before)
            remote.add(ROUNDS)
            after = wait_until_all(remote, port, before)
            rates += check_computed(remote, port, 2 * ROUNDS)
            counted = remote.counted()
        # Dropped ones are counted where something was.
        bad = [name for name, count in counted.items() if count and ("failed" in name or "dropped" in name)]
        assert not bad, counted
        for kind in ("samples", "histograms"):
            # The total has every try.
            taken = counted[f"{kind}_total"] - counted[f"{kind}_retried_total"]
            assert taken == 2 * len(HOSTS) * remote.rounds, counted
        child.stdin.close()
        assert child.wait(timeout=120) == 0, (folder / "stderr").read_text()[-2000:]
    gauges = len(remote.gauges())
    print(f"remote_write 2.0: {gauges} gauges as sent, {rates} rates and means, {len(after)} values after a restart")


if __name__ == "__main__":
    main()
