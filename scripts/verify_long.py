#!/usr/bin/env python3
"""Exhaustive runs of some suites, and a record of them in benches/record/<date>-<machine>/verify-long.

    scripts/verify_long.py [PART]...    # all parts unless some are named

The record names the commit, the machine, what each part ran and how long it took. A part that fails ends the run
after the others, and the record says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benches"))

import bench  # noqa: E402

# Name: the target of the Makefile or the command, and the variables that make it longer.
PARTS = {
    "fuzz": (["make", "fuzz"], {"FUZZ_SECONDS": "60"}),
    "pprof": (["make", "pprof"], {"PPROF_CYCLES": "1000"}),
    "told": (["make", "told"], {}),
    "silences": (["cargo", "test", "--release", "--locked", "-p", "sigmad-incidents", "--lib", "--", "--ignored"], {}),
    "nginx": (["make", "nginx"], {"NGINX_SECONDS": "60"}),
    "clients": (["make", "clients"], {"CLIENT_REQUESTS": "50000", "CLIENT_SECONDS": "30"}),
    "load": (["make", "load"], {"LOAD_SECONDS": "10", "LOAD_TOOLS": "hey ab wrk locust k6"}),
    "ladder": (["make", "ladder"], {}),
    "container": (["tests/container.py", "--shipped"], {}),
    "soak": (["cargo", "test", "--locked", "--test", "server", "soak::", "--", "--nocapture"], {"SOAK_SECONDS": "600"}),
    "kills": (["cargo", "test", "--locked", "--test", "server", "state::"], {"SIGMAD_KILL_ROUNDS": "200"}),
    "disk": (["cargo", "test", "--locked", "--package", "sigmad-state"], {"SIGMAD_DISK_CASES": "5000"}),
    "demo": (["cargo", "test", "--locked", "--lib", "a_demo_has_news"], {"SIGMAD_DEMO_STORIES": "72"}),
    "mutants": (["scripts/mutants.py"], {"SAMPLE": "400"}),
    "telegraf": (["make", "sender", "SENDER=telegraf"], {}),
    "collector": (["make", "sender", "SENDER=collector"], {}),
    "remote": (["make", "sender", "SENDER=remote"], {}),
    "simulation": (["make", "simulate"], {"SECONDS": "3600"}),
}


def run(name: str) -> dict:
    command, variables = PARTS[name]
    print(f"== {name}", flush=True)
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=False)
    seconds = time.monotonic() - began
    verdict = "passed" if done.returncode == 0 else "FAILED"
    print(f"== {name}: {verdict} in {seconds:.0f} s", flush=True)
    words = [f"{key}={value}" for key, value in variables.items()] + command
    return {"part": name, "command": " ".join(words), "verdict": verdict, "seconds": round(seconds)}


def main() -> None:
    wanted = sys.argv[1:] or list(PARTS)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    manifest = bench.manifest()
    found = [run(name) for name in wanted]
    header = ["part", "command", "verdict", "seconds"]
    text = bench.table(header, [[str(part[key]) for key in header] for part in found])
    print("record in", bench.write_record("verify-long", {"manifest": manifest, "parts": found}, text))
    if any(part["verdict"] == "FAILED" for part in found):
        sys.exit("== verify-long: FAILED")


if __name__ == "__main__":
    main()
