#!/usr/bin/env python3
"""What does a memory that outlives its process cost?

- `journal`: CPU time of a sample in each thread without a state directory, with one, and with `--ack disk`; in turns.
- `ack`: samples a second and latency of closed loops that wait for the disk, beside the same that don't.
- `streams`: a server with a million streams is given values, takes snapshots, drains, starts again, is killed, and
  starts again. How long analytics pauses for a snapshot, how long the starts take, how much memory, how many bytes.

    cargo build --release && benches/snapshots.py
    benches/snapshots.py --only streams --detector pager --streams 400000

SIGMAD names another binary, --folder where the state is written. A million streams take 2 GB of memory, and of disk.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import statistics
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import bench

PARTS = ("journal", "ack", "streams")
# Samples of a device of the generator have two values.
SERIES_PER_DEVICE = 2
WINDOW = 50
BATCH = 1_000
# No snapshot falls into a leg.
NEVER = ("--snapshot-interval", "1h")
WAIT_S = 600.0
# What the journal has when the server is killed.
JOURNALED_S = 15
# A millisecond, as the nearest edge of the histogram: 2^20 ns.
PAUSE_AIM_S = 0.00105
WRITTEN = 'sigmad_state_snapshots_total{result="written"}'


def quartiles(values: list[float]) -> dict:
    low, median, high = statistics.quantiles(values, n=4)
    return {"low": low, "median": median, "high": high, "rounds": len(values)}


def scrape(port: int) -> dict[str, float]:
    _, _, body = bench.get(f"http://127.0.0.1:{port}/metrics")
    lines = (line.rsplit(" ", 1) for line in body.decode().splitlines() if line and line[0] != "#")
    return {name: float(value) for name, value in lines}


def is_ready(port: int) -> bool:
    return bench.get(f"http://127.0.0.1:{port}/readyz")[0] == 200


def legs_of(folder: Path) -> dict[str, tuple[str, ...]]:
    return {
        "none": (),
        "memory": ("--state-dir", str(folder / "memory"), *NEVER),
        "disk": ("--state-dir", str(folder / "disk"), "--ack", "disk", *NEVER),
    }


def journal(folder: Path, rounds: int, seconds: float) -> dict:
    """All servers run all the time, and each in turn is sent the same."""
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as servers:
        running = {}
        for name, flags in legs_of(folder).items():
            running[name] = servers.enter_context(bench.sigmad("--workers", "1", "--analytics", "1", *flags))
        for _, port in running.values():
            bench.until("ready", lambda port=port: is_ready(port), WAIT_S)
        for number in range(rounds + 1):
            for name, (child, port) in running.items():
                flags = ("--batch", str(BATCH), "--profile", "devices", "--connections", "8", "--rate", "100")
                before = bench.thread_ns(child.pid)
                summary = bench.offer(port, *flags, core=None, seconds=seconds)
                time.sleep(0.3)
                after = bench.thread_ns(child.pid)
                # The first round warms up.
                if number > 0:
                    samples = summary["samples"]["accepted"]
                    for kind in ("worker", "analytics", "journal"):
                        spent = after.get(kind, 0) - before.get(kind, 0)
                        found.setdefault(name, {}).setdefault(kind, []).append(spent / samples)
        lost = {
            name: scrape(port).get('sigmad_state_lost_samples_total{reason="queue"}')
            for name, (_, port) in running.items()
        }
    pairs = zip(found["memory"]["analytics"], found["none"]["analytics"], strict=True)
    difference = quartiles([journaled - plain for journaled, plain in pairs])
    threads = {name: {kind: quartiles(ns) for kind, ns in kinds.items()} for name, kinds in found.items()}
    return {"ns_per_sample": threads, "analytics_memory_minus_none_ns": difference, "lost": lost}


def ack(folder: Path, rounds: int, seconds: float) -> dict:
    """Closed loops: what waits for the disk has the most from many connections."""
    found: dict[str, list[dict]] = {}
    loops = {"64 x 1,000": ("64", "1000"), "16 x 100": ("16", "100"), "1 x 1,000": ("1", "1000")}
    with ExitStack() as servers:
        legs = {name: flags for name, flags in legs_of(folder).items() if name != "memory"}
        for name, flags in legs.items():
            _, port = servers.enter_context(bench.sigmad("--workers", "1", "--analytics", "1", *flags))
            legs[name] = port
            bench.until("ready", lambda port=port: is_ready(port), WAIT_S)
        for _ in range(rounds):
            for loop, (connections, batch) in loops.items():
                for name, port in legs.items():
                    flags = ("--connections", connections, "--batch", batch, "--profile", "devices")
                    summary = bench.offer(port, *flags, core=None, seconds=seconds)
                    latency = summary["latency_us"]
                    found.setdefault(f"{name} {loop}", []).append(
                        {
                            "samples_per_s": summary["samples"]["accepted_per_s"],
                            "p50_ms": latency["p50"] / 1_000,
                            "p99_ms": latency["p99"] / 1_000,
                            "refused": summary["requests"]["sent"] - summary["requests"]["good"],
                        }
                    )
        syncs = scrape(legs["disk"])
    mean_sync_ms = syncs["sigmad_state_sync_seconds_sum"] / syncs["sigmad_state_sync_seconds_count"] * 1_000
    loops = {
        leg: {field: bench.spread([one[field] for one in ones]) for field in ones[0]} for leg, ones in found.items()
    }
    return {"loops": loops, "mean_sync_ms": mean_sync_ms}


def pauses(before: dict[str, float], after: dict[str, float]) -> dict:
    """Of all turns that analytics had for snapshots: how many, their mean, and the bucket of the longest."""
    more = {name: value - before[name] for name, value in after.items() if name in before}
    found = {}
    for name, value in more.items():
        if edge := re.fullmatch(r'sigmad_state_pause_seconds_bucket\{le="(.+)"\}', name):
            found[float(edge[1])] = value
    count = more["sigmad_state_pause_seconds_count"]
    longest = min(edge for edge, below in found.items() if below == count)
    above = count - max(below for edge, below in found.items() if edge <= PAUSE_AIM_S)
    mean_us = more["sigmad_state_pause_seconds_sum"] / max(1, count) * 1e6
    return {"turns": count, "mean_us": mean_us, "longest_below_ms": longest * 1e3, "longer": above}


def status_bytes(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def start(flags: tuple[str, ...], stack: ExitStack) -> tuple[subprocess.Popen, int, dict]:
    """A server that is restored: how long that took from the start of the process, and with how much memory."""
    began = time.monotonic()
    child, port = stack.enter_context(bench.sigmad(*flags))
    bench.until("ready", lambda: is_ready(port), WAIT_S)
    took = time.monotonic() - began
    line = next(line for line in child.log if '"restored"' in line or " restored " in line)
    figures = {
        "seconds": took,
        "rss": status_bytes(child.pid, "VmRSS"),
        "highest_rss": status_bytes(child.pid, "VmHWM"),
        "log": line.strip(),
    }
    return child, port, figures


def end(child: subprocess.Popen, number: int) -> float:
    began = time.monotonic()
    child.send_signal(number)
    child.wait(timeout=WAIT_S)
    return time.monotonic() - began


def streams(folder: Path, detector: str, count: int, values: int) -> dict:
    devices = count // SERIES_PER_DEVICE
    directory = folder / "streams"
    flags = ("--workers", "1", "--analytics", "1", "--detector", detector, "--incidents", "off")
    flags += ("--max-streams", str(count + count // 10), "--state-dir", str(directory), "--state-max", "32GiB")
    flags += ("--drain", "120s")
    load = ("--batch", str(BATCH), "--profile", "devices", "--devices", str(devices), "--connections", "8")
    found: dict = {"streams": count, "detector": detector, "values_per_stream": values, "pauses": {}}

    def send(port: int, samples: int) -> int:
        sent = 0
        while sent < samples:
            sent += bench.offer(port, *load, core=None, seconds=10)["samples"]["accepted"]
        return sent

    with ExitStack() as stack:
        child, port, _ = start((*flags, "--snapshot-interval", "10s"), stack)
        sent = send(port, devices * values)
        # Snapshots of what is there now: with as much load as it can take, and with 50,000 samples a second.
        for name, pace in (("full", ()), ("paced", ("--rate", "50"))):
            before = scrape(port)
            # The first may have begun before.
            while (scraped := scrape(port))[WRITTEN] < before[WRITTEN] + 2:
                bench.offer(port, *load, *pace, core=None, seconds=2)
            found["pauses"][name] = pauses(before, scraped)
        found["sent"] = sent
        found["known_streams"] = scraped.get("sigmad_streams", 0)
        found["running_rss"] = status_bytes(child.pid, "VmRSS")
        found["given_up"] = scraped['sigmad_state_snapshots_total{result="given_up"}']
        found["snapshot_bytes"] = scraped["sigmad_state_snapshot_bytes"]
        found["directory_bytes"] = scraped["sigmad_state_bytes"]
        found["drain_s"] = end(child, signal.SIGTERM)
    with ExitStack() as stack:
        child, port, found["start_after_drain"] = start((*flags, *NEVER), stack)
        found["samples_after_drain"] = scrape(port)["sigmad_samples_judged_total"]
        # No more than the journal takes: after a gap there would be a snapshot.
        paced = bench.offer(port, *load, "--rate", "100", core=None, seconds=JOURNALED_S)
        found["journaled_samples"] = paced["samples"]["accepted"]
        found["journal_bytes"] = scrape(port)["sigmad_state_record_bytes_total"]
        time.sleep(1)
        end(child, signal.SIGKILL)
    with ExitStack() as stack:
        child, port, found["start_after_kill"] = start((*flags, *NEVER), stack)
        found["replayed_records"] = scrape(port)["sigmad_state_replayed_records_total"]
        end(child, signal.SIGKILL)
    shutil.rmtree(directory)
    return found


def text(found: dict) -> str:
    lines = []
    if of := found.get("journal"):
        rows = [
            [name, *(f"{one['median']:.1f} ({one['low']:.1f}–{one['high']:.1f})" for one in kinds.values())]
            for name, kinds in of["ns_per_sample"].items()
        ]
        lines += ["CPU ns a sample of two values, median and quartiles:", ""]
        lines += [bench.table(["state", "worker", "analytics", "journal"], rows), ""]
        more = of["analytics_memory_minus_none_ns"]
        spread = f"{more['median']:+.1f} ns ({more['low']:+.1f} to {more['high']:+.1f})"
        lines += [f"Analytics with a journal, less without, by rounds: {spread}.", ""]
    if of := found.get("ack"):
        rows = [
            [leg, *(f"{one[field]['median']:,.1f}" for field in ("samples_per_s", "p50_ms", "p99_ms", "refused"))]
            for leg, one in of["loops"].items()
        ]
        lines += [bench.table(["connections x batch", "samples/s", "p50 ms", "p99 ms", "refused"], rows), ""]
        lines += [f"A sync takes {of['mean_sync_ms']:.2f} ms on average.", ""]
    for of in found.get("streams", {}).values():
        lines += [f"{of['streams']:,.0f} streams of `{of['detector']}`, {of['values_per_stream']} values each:", ""]
        lines += [bench.table(["", ""], streams_rows(of)), ""]
    return "\n".join(lines)


def streams_rows(of: dict) -> list[list[str]]:
    def mebi(count: float) -> str:
        return f"{count / (1 << 20):,.0f} MiB"

    def start(figures: dict) -> str:
        part = figures["highest_rss"] / of["running_rss"]
        return f"{figures['seconds']:.1f} s, at most {mebi(figures['highest_rss'])}: {part:.0%} of running"

    def turns(pause: dict) -> str:
        mean, above = f"{pause['mean_us']:.0f} µs on average", f"{pause['longer']:,.0f} above 1.05 ms"
        return f"{pause['turns']:,.0f} turns, {mean}, {above}, all below {pause['longest_below_ms']:.2f} ms"

    return [
        ["snapshot", f"{mebi(of['snapshot_bytes'])}, {of['snapshot_bytes'] / of['streams']:,.0f} bytes a stream"],
        ["directory", mebi(of["directory_bytes"])],
        ["pauses under full load", turns(of["pauses"]["full"])],
        ["pauses, 50,000 samples/s", turns(of["pauses"]["paced"])],
        ["snapshots given up", f"{of['given_up']:.0f}"],
        ["running", mebi(of["running_rss"])],
        ["drain", f"{of['drain_s']:.1f} s"],
        ["start after it", start(of["start_after_drain"])],
        ["journal at the kill", f"{of['journaled_samples']:,.0f} samples, {mebi(of['journal_bytes'])}"],
        ["start after the kill", start(of["start_after_kill"])],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--detector", action="append")
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--values", type=int, default=WINDOW)
    parser.add_argument("--folder", type=Path, default=bench.ROOT / "target" / "snapshots")
    arguments = parser.parse_args()
    parts = arguments.only or PARTS
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    with bench.record("snapshots", arguments.rounds) as record:
        if "journal" in parts:
            record["journal"] = journal(arguments.folder, arguments.rounds, arguments.seconds)
        if "ack" in parts:
            record["ack"] = ack(arguments.folder / "ack", max(3, arguments.rounds // 3), arguments.seconds)
        if "streams" in parts:
            detectors = arguments.detector or ["zscore"]
            record["streams"] = {
                detector: streams(arguments.folder, detector, arguments.streams, arguments.values)
                for detector in detectors
            }
        record["text"] = text(record)
        print(record["text"])
    shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
