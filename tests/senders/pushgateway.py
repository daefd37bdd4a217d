#!/usr/bin/env python3
"""prometheus_client as to a Pushgateway: what it pushes arrives, under the labels of its group.

`make senders` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import sys
import urllib.error
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benches"))

import bench
from prometheus_client import CollectorRegistry, Counter, Gauge, Summary, delete_from_gateway, push_to_gateway
from prometheus_client import pushadd_to_gateway as add_to_gateway

# A slash makes the client code the value in base64.
GROUP = {"instance": "web-1", "path": "/var/tmp"}
TAG = '{job="backup",path="/var/tmp"}'


def samples(port: int) -> list[dict]:
    return bench.get_json(port, "/latest?device=web-1&limit=1000")["samples"]


def values(port: int, name: str) -> list[float]:
    """Oldest first."""
    return [sample[name + TAG] for sample in reversed(samples(port)) if name + TAG in sample]


def main() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("backup_seconds", "Length of a backup.", registry=registry)
    counter = Counter("backup_files", "Files of all backups.", registry=registry)
    summary = Summary("backup_size", "Bytes.", ["path"], registry=registry)
    with bench.sigmad() as (_, port):
        gateway = f"127.0.0.1:{port}"
        sent = []
        for push in (push_to_gateway, add_to_gateway, push_to_gateway):
            gauge.set(40.5 + len(sent))
            counter.inc(1000)
            summary.labels("overridden").observe(7)
            push(gateway, job="backup", grouping_key=GROUP, registry=registry)
            sent.append(40.5 + len(sent))
        assert values(port, "backup_seconds") == sent, samples(port)
        rates = values(port, "backup_files_total")
        assert len(rates) == 2 and min(rates) > 0, rates
        names = {name for sample in samples(port) for name in sample}
        assert not any("overridden" in name for name in names), names
        delete_from_gateway(gateway, job="backup", grouping_key=GROUP)
        try:
            push_to_gateway(gateway, job="", registry=registry)
        except urllib.error.HTTPError as error:
            assert error.code == 400, error
        else:
            sys.exit("a group without a job is taken")
    print("pushgateway: what prometheus_client pushes arrives")


if __name__ == "__main__":
    main()
