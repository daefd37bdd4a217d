#!/usr/bin/env python3
"""What does a replica cost when others share its Redis, how soon is one ready that reads a large fleet, and does one
end in time whose Redis is far away?

- CPU time of a replica alone, of three and of five, each at the same rate of samples, in turns; of its store thread,
  of its analytics thread, and of Redis. All replicas receive samples of all devices, as behind a balancer. At the end
  of a leg they must show the same window.
- Time until a replica is ready whose Redis has 20,000 devices and is 200 ms away, beside one without delay.
- Time from SIGTERM to the exit of a replica that has accepted 200,000 samples and whose Redis is 400 ms away. Each
  sample must be stored, coalesced or dropped, by the counts of its last log lines.

Several binaries may be compared, and several intervals between flushes: each leg is taken with each of them in turn.
With one of each it takes four minutes.

    cargo build --release && benches/sharing.py [--binary OLD --binary NEW] [--flush-interval 100ms --flush-interval 1s]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import bench

REPLICAS = (1, 3, 5)
# Samples a second of each replica, and of one request: a gateway that posts for its devices.
RATE = 600
BATCH = 20
DEVICES = 500
WARM_UP_S = 2.0
# A replica, and its threads that know of others.
PARTS = ("all", "store", "analytics")
FLEET = 20_000
FLEET_BATCH = 1_000
ONE_WAY_S = 0.1
READY_TIMEOUT_S = 300
# The drain: requests of so many samples, the round trip, and what --drain says.
DRAIN_REQUESTS, DRAIN_BATCH = 200, 1_000
DRAIN_ONE_WAY_S = 0.2
DRAINS = ("3s", "25s")
# Replicas show the same window a few flushes after the last sample.
AGREE_TIMEOUT_S = 20


def post(port: int, samples: list[dict]) -> None:
    fields = {"Content-Type": "application/json"}
    bench.get(f"http://127.0.0.1:{port}/ingest", "POST", json.dumps(samples).encode(), **fields)


def feed(ports: list[int], over: threading.Event, sent: list[int]) -> None:
    """Posts to all replicas at their rate; each device comes to each replica in turn. Counts the rounds in `sent`."""
    began, number = time.monotonic(), 0
    while not over.wait(max(0.0, began + number * BATCH / RATE - time.monotonic())):
        for at, port in enumerate(ports):
            devices = range((number + at) * BATCH, (number + at + 1) * BATCH)
            post(port, [{"device": f"d{d % DEVICES}", "cpu": d % 97 + 0.5, "rps": d % 1009} for d in devices])
        number += 1
        sent[0] = number


def agree(ports: list[int]) -> None:
    deadline = time.monotonic() + AGREE_TIMEOUT_S
    while True:
        # Sums of the same values in another order differ in their last digits.
        found = {round(bench.get_json(port, "/analyze")["metrics"]["rps"]["mean"], 6) for port in ports}
        if len(found) == 1:
            return
        if time.monotonic() > deadline:
            sys.exit(f"the replicas do not agree: {found}")
        time.sleep(0.1)


def thread_ns(pid: int) -> dict[str, int]:
    """Time on a core in nanoseconds, of all threads of a process and of each by its name."""
    found = {"all": bench.cpu_ns(pid)}
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[(task / "comm").read_text().strip()] = int((task / "schedstat").read_text().split()[0])
    return found


def cost_leg(binary: str, flush: str, replicas: int, seconds: float, scratch: Path) -> dict[str, list[float]]:
    """CPU time of each replica, of two of its threads, and of Redis, in thousandths of a core at the rate.

    On a busy machine the feeder is late: the time is that of a sample, times the rate.
    """
    with contextlib.ExitStack() as stack:
        url = f"redis://127.0.0.1:{stack.enter_context(bench.redis(scratch))}"
        flags = ("--redis-url", url, "--workers", "1", "--flush-interval", flush)
        servers = [stack.enter_context(bench.sigmad(*flags, binary=binary)) for _ in range(replicas)]
        ports = [port for _, port in servers]
        over, sent = threading.Event(), [0]
        feeder = threading.Thread(target=feed, args=(ports, over, sent))
        feeder.start()
        time.sleep(WARM_UP_S)
        pids = [child.pid for child, _ in servers]
        redis = int((scratch / "redis.pid").read_text())
        before, began = [thread_ns(pid) for pid in [*pids, redis]], sent[0]
        time.sleep(seconds)
        after, samples = [thread_ns(pid) for pid in [*pids, redis]], (sent[0] - began) * BATCH
        over.set()
        feeder.join()
        agree(ports)
        spent = [
            {name: (b[name] - a.get(name, 0)) / samples * RATE / 1e6 for name in b}
            for a, b in zip(before, after, strict=True)
        ]
        found = {part: [replica[part] for replica in spent[:-1]] for part in PARTS}
        return found | {"redis": [spent[-1]["all"]]}


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Delivers bytes that long after they came, in order."""
    waiting: asyncio.Queue = asyncio.Queue()
    clock = asyncio.get_running_loop()

    async def deliver() -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - clock.time()))
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    delivery = asyncio.create_task(deliver())
    data = b"-"
    while data:
        try:
            data = await reader.read(1 << 16)
        except OSError:
            data = b""
        waiting.put_nowait((clock.time() + delay_s, data))
    await delivery


async def cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextlib.contextmanager
def delayed(target: int, delay_s: float):
    """A port that leads to another one, with a delay each way."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        # The end cancels it, which asyncio would log.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(pump(reader, back, delay_s), pump(there, writer, delay_s))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    asyncio.run_coroutine_threadsafe(cancel_others(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    loop.close()


def is_ready(port: int) -> bool:
    try:
        return bench.get_json(port, "/readyz")["parts"]["redis"] == "ok"
    except (OSError, ValueError):
        # It does not listen yet, or answers 503.
        return False


def is_written(port: int) -> bool:
    _, _, text = bench.get(f"http://127.0.0.1:{port}/metrics")
    return b"\nsigmad_pending_samples 0\n" in text


def first_read_leg(binary: str, redis: int) -> float:
    began = time.monotonic()
    with bench.sigmad("--redis-url", f"redis://127.0.0.1:{redis}", "--workers", "1", binary=binary) as (_, port):
        bench.until("ready", lambda: is_ready(port), READY_TIMEOUT_S)
        took = time.monotonic() - began
        last = bench.get_json(port, f"/analyze?device=f{FLEET - 1}")["lastRps"]
        if last != FLEET - 1:
            sys.exit(f"the windows were not read: {last}")
        return took


def first_read(binaries: list[str], rounds: int, scratch: Path) -> list[dict]:
    with bench.redis(scratch) as redis, delayed(redis, ONE_WAY_S) as far:
        flags = ("--redis-url", f"redis://127.0.0.1:{redis}", "--workers", "1")
        with bench.sigmad(*flags, binary=binaries[-1]) as (_, port):
            for first in range(0, FLEET, FLEET_BATCH):
                post(port, [{"device": f"f{at}", "cpu": 1, "rps": at} for at in range(first, first + FLEET_BATCH)])
            bench.until("all are written", lambda: is_written(port), READY_TIMEOUT_S)
        legs = [(binary, name, where) for binary in binaries for name, where in (("0", redis), ("200 ms", far))]
        found: dict = {leg: [] for leg in legs}
        for _ in range(rounds):
            for leg in legs:
                found[leg].append(first_read_leg(leg[0], leg[2]))
    return [{"binary": b, "round_trip": n, "s": quartiles(found[b, n, w])} for b, n, w in legs]


def last_line(log: list[str], message: str) -> dict:
    lines = [json.loads(line) for line in log if line.startswith("{")]
    return next(line for line in reversed(lines) if line["message"] == message)


def drain_leg(binary: str, drain: str, scratch: Path) -> dict:
    """Terminates a replica whose Redis is far away, and adds up the outcomes of its samples."""
    with bench.redis(scratch) as redis, delayed(redis, DRAIN_ONE_WAY_S) as far:
        flags = (
            "--redis-url",
            f"redis://127.0.0.1:{far}",
            "--workers",
            "1",
            "--drain",
            drain,
            "--redis-queue",
            "512MiB",
        )
        with bench.sigmad(*flags, "--log-format", "json", binary=binary) as (child, port):
            for number in range(DRAIN_REQUESTS):
                time_s = 1_735_100_000 + number
                post(port, [{"timestamp": time_s, "device": f"d{d}", "rps": 1} for d in range(DRAIN_BATCH)])
            began = time.monotonic()
            child.terminate()
            code = child.wait(60)
            took = time.monotonic() - began
            bench.until("the log is read", lambda: any('"stopped"' in line for line in child.log), 10)
            outcomes = {
                name: last_line(child.log, "store stopped")[name] for name in ("stored", "coalesced", "dropped")
            }
            accepted = last_line(child.log, "stopped")["accepted"]
            if code != 0 or accepted != DRAIN_REQUESTS * DRAIN_BATCH or sum(outcomes.values()) != accepted:
                sys.exit(f"the drain lost count: exit {code}, {accepted} accepted, {outcomes}")
            return {"binary": binary, "drain": drain, "s": took, "accepted": accepted} | outcomes


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", action="append", help="may be given several times")
    parser.add_argument("--flush-interval", action="append", help="may be given several times; default: 100ms")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--first-read-rounds", type=int, default=2)
    arguments = parser.parse_args()
    binaries = arguments.binary or [bench.sigmad_binary()]
    with tempfile.TemporaryDirectory() as folder, bench.record("sharing", arguments.rounds) as record:
        scratch = Path(folder)
        flushes = arguments.flush_interval or ["100ms"]
        legs = list(itertools.product(binaries, flushes, REPLICAS))
        cost: dict = {leg: {part: [] for part in (*PARTS, "redis")} for leg in legs}
        for _ in range(arguments.rounds):
            for leg in legs:
                for part, millicores in cost_leg(*leg, arguments.seconds, scratch).items():
                    cost[leg][part] += millicores
        record["cost"] = [
            {"binary": binary, "flush": flush, "replicas": replicas}
            | {"millicores": {part: quartiles(of) for part, of in spent.items()}}
            for (binary, flush, replicas), spent in cost.items()
        ]
        record["first_read"] = first_read(binaries, arguments.first_read_rounds, scratch)
        record["drains"] = [drain_leg(binary, drain, scratch) for binary in binaries for drain in DRAINS]
        record["text"] = text(record)
        print(record["text"])


def text(record: dict) -> str:
    alone = {
        (leg["binary"], leg["flush"]): leg["millicores"]["all"][1] for leg in record["cost"] if leg["replicas"] == 1
    }
    cost = []
    for leg in record["cost"]:
        low, median, high = leg["millicores"]["all"]
        parts = [f"{leg['millicores'][part][1]:.1f}" for part in ("store", "analytics", "redis")]
        found = [
            f"{low:.1f}",
            f"{median:.1f}",
            f"{high:.1f}",
            *parts,
            f"{median / alone[leg['binary'], leg['flush']]:.2f}",
        ]
        cost.append([leg["binary"], leg["flush"], str(leg["replicas"]), *found])
    columns = ["binary", "flush interval", "replicas", "lower quartile", "median", "upper quartile"]
    reads = [[leg["binary"], leg["round_trip"], *(f"{s:.1f}" for s in leg["s"])] for leg in record["first_read"]]
    columns_of_drains = ["accepted", "stored", "coalesced", "dropped"]
    drains = [
        [leg["binary"], leg["drain"], f"{leg['s']:.2f}", *(f"{leg[name]:,}" for name in columns_of_drains)]
        for leg in record["drains"]
    ]
    return "\n\n".join(
        [
            f"CPU time of each replica at {RATE} samples/s, in thousandths of a core.",
            bench.table([*columns, "its store thread", "its analytics thread", "Redis", "to one"], cost),
            f"Time from the start until ready, with {FLEET:,} devices of two metrics in Redis, in seconds.",
            bench.table(["binary", "round trip", "lower quartile", "median", "upper quartile"], reads),
            f"From SIGTERM to the exit, with Redis {2 * DRAIN_ONE_WAY_S:.1f} s away. Each sample has one outcome.",
            bench.table(["binary", "--drain", "seconds", *columns_of_drains], drains),
        ]
    )


if __name__ == "__main__":
    main()
