#!/usr/bin/env python3
"""Is a request at a steady 1,000 per second answered within a millisecond?

Starts sigmad as it is installed and drives it with `examples/openloop`, which counts latency from
the moment a request was due. Fails on any error, or on a p99 of a millisecond and more.

    cargo build --release --bins --examples && benches/openloop.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import bench

P99_US_MAX = 1000.0


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
        before = bench.cpu_ns(child.pid)
        command = [str(bench.target_dir() / "examples" / "openloop"), f"127.0.0.1:{port}"]
        command += [str(arguments.rate), str(arguments.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        result["cpu_ns_per_request"] = (bench.cpu_ns(child.pid) - before) / max(1, result["requests"])
        counted = bench.get_json(port, "/analyze")["totalCount"]
    record["result"] = result
    text = bench.table(
        ["rate", "requests", "errors", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us"],
        [
            [str(result[key]) for key in ("rate", "requests", "errors")]
            + [f"{result[key]:.0f}" for key in ("p50_us", "p90_us", "p99_us", "p999_us", "max_us")]
        ],
    )
    print(text)
    name = "openloop" if arguments.pin == "auto" else f"openloop-pin-{arguments.pin}"
    if not arguments.no_record:
        print("record in", bench.write_record(name, record, text))
    if result["errors"] or counted != result["requests"]:
        sys.exit(f"{result['errors']} errors; {counted} counted of {result['requests']}")
    if result["p99_us"] >= P99_US_MAX:
        sys.exit(f"p99 of {result['p99_us']:.0f} us")


if __name__ == "__main__":
    main()
