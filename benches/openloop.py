#!/usr/bin/env python3
"""Is a request at a steady 1,000 per second answered within a millisecond?

Starts sigmad as it is installed and drives it with `sigmad load`, which counts latency from the
moment a request was due. Fails on any error, on a count that is not the server's, or on a p99 of a
millisecond and more; the generator's own lateness stands beside it, and is part of it.

    cargo build --release --bins && benches/openloop.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import bench

P99_US_MAX = 1000.0
# Enough that one late answer delays few of the others.
CONNECTIONS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--engine", choices=["native", "may"], default="native")
    parser.add_argument("--pin", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()

    record = {"manifest": bench.manifest()}
    with bench.sigmad("--engine", arguments.engine, "--pin", arguments.pin) as (child, port):
        command = [bench.sigmad_binary(), "load", "--url", f"http://127.0.0.1:{port}/ingest", "--json", "-"]
        command += ["--rate", str(arguments.rate), "--duration", f"{arguments.seconds}s", "--pid", str(child.pid)]
        command += ["--connections", str(CONNECTIONS)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stdout)
        counted = bench.get_json(port, "/analyze")["totalCount"]
    record["result"] = result
    requests, latency, own = result["requests"], result["latency_us"], result["own_lateness_us"]
    text = bench.table(
        [
            "rate",
            "requests",
            "failed",
            "p50 us",
            "p90 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "own lateness p99 us",
            "CPU ns",
        ],
        [
            [str(arguments.rate), str(requests["good"]), str(requests["failed"])]
            + [f"{latency[key]:.0f}" for key in ("p50", "p90", "p99", "p999", "max")]
            + [f"{own['p99']:.0f}", f"{result['server_cpu']['ns_per_request']:.0f}"]
        ],
    )
    print(text)
    name = "openloop" if arguments.pin == "auto" else f"openloop-pin-{arguments.pin}"
    if not arguments.no_record:
        print("record in", bench.write_record(name, record, text))
    if requests["failed"] or requests["unsent"] or counted != requests["good"]:
        sys.exit(f"{requests['failed']} failed, {requests['unsent']} never left; {counted} counted")
    if latency["p99"] >= P99_US_MAX:
        sys.exit(f"p99 of {latency['p99']:.0f} us, {own['p99']:.0f} of lateness")


if __name__ == "__main__":
    main()
