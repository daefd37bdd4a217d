#!/usr/bin/env python3
"""What did each rung of the ladder bring?

The rungs (`ladder --list`) lead from the server one would write first to sigmad, one change each. They
take turns, every round all of them, so that neighbours are compared within a round. Each writes to a
Redis, which shares core 1 with `sigmad load`; the server has core 0. Of each: CPU time of a request
with one sample and of a sample in batches of 100, the latter without Redis too; latency at a steady
1,000 requests a second; and once, for they do not depend on time, instructions, allocations and
system calls of a request.

Above them are flags of the shipped program, each beside the program without it, and without a Redis: more
than one shard is of batches, a Unix socket and io_uring are of single samples.

    benches/rungs.py
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bench
import contestants
import counts
import headline
from tables import rung_cells, switch_table

# The lowest rung answers 503 when Redis keeps it waiting for too long, as happens where both share cores
# with the load; the record has how many.
FAILED_MAX = 0.01


@dataclass(frozen=True)
class Step:
    """A rung as the ladder tells it."""

    number: int
    name: str
    title: str
    about: dict

    @property
    def slug(self) -> str:
        return f"{self.number:02}-{self.name}"

    def contestant(self, redis_port: int | None) -> contestants.Contestant:
        flags = [] if redis_port is None else ["--redis-url", f"redis://127.0.0.1:{redis_port}"]
        return contestants.rung(self.about, *flags)


@dataclass(frozen=True)
class Switch:
    """A rung that is a flag of the shipped program; one of `contestants.switched` has its name."""

    number: int
    name: str
    title: str
    hypothesis: str
    change: str
    # Samples of a request.
    batch: int = 1

    @property
    def slug(self) -> str:
        return f"{self.number:02}-{self.name}"

    @property
    def connections(self) -> int:
        return headline.CONNECTIONS if self.batch == 1 else headline.BATCH_CONNECTIONS


SWITCHES = (
    Switch(
        16,
        "unix",
        "A Unix socket instead of TCP",
        "A sender on the same host needs no TCP. Its segments, acknowledgements and checksums are most of what "
        "the kernel does for a small request.",
        "`--listen unix:PATH`; the sender connects to the file.",
    ),
    Switch(
        17,
        "io_uring",
        "io_uring instead of epoll",
        "One system call a round submits all responses, and waits for requests that were received meanwhile. The "
        "kernel does the same work for each of them, so little is saved.",
        "`--poller io_uring`.",
    ),
    Switch(
        18,
        "shards",
        "Two shards of analytics and the fleet's thread",
        "A sample is judged by two threads, its device's and the fleet's, and takes two queues. On one core that "
        "costs more; with several cores one thread is no longer the limit.",
        "`--analytics 2`.",
        batch=headline.BATCH,
    ),
)


def steps(wanted: list[str] | None = None) -> list[Step]:
    listed = [rung for rung in contestants.rungs() if rung["number"] is not None]
    listed = [rung for rung in listed if not wanted or rung["name"] in wanted]
    listed.sort(key=lambda rung: rung["number"])
    return [Step(rung["number"], rung["name"], rung["title"], rung) for rung in listed]


def switches(wanted: list[str] | None = None) -> list[Switch]:
    return [switch for switch in SWITCHES if not wanted or switch.name in wanted]


@contextlib.contextmanager
def surroundings():
    """A Redis for everybody: yields its port."""
    with (
        tempfile.TemporaryDirectory(prefix="sigmad-redis-") as folder,
        bench.redis(Path(folder), core=bench.LOAD_CORE) as port,
    ):
        yield port


def forget(redis_port: int) -> None:
    """So that no leg finds what another one wrote."""
    bench.exchange_redis(redis_port, b"*1\r\n$8\r\nFLUSHALL\r\n")


def leg(step: Step, redis_port: int, seconds: float, paced_seconds: float) -> dict:
    forget(redis_port)
    contestant = step.contestant(redis_port)
    with contestant.running() as (child, port):
        contestant.check(port)
        single = headline.closed(child, port, seconds, headline.CONNECTIONS, failed_share_max=FAILED_MAX)
        flags = ["--connections", str(headline.RATE_CONNECTIONS), "--rate", str(headline.RATE)]
        latency = bench.load(port, *flags, seconds=paced_seconds, failed_share_max=FAILED_MAX)["latency_us"]
        batch = headline.closed(child, port, seconds, headline.BATCH_CONNECTIONS, headline.BATCH, FAILED_MAX)
    alone = step.contestant(None)
    with alone.running() as (child, port):
        alone.check(port)
        batch_alone = headline.closed(child, port, seconds, headline.BATCH_CONNECTIONS, headline.BATCH, FAILED_MAX)
    return {
        "single": single,
        "batch": batch,
        "batch_alone": batch_alone,
        "paced": {f"{key}_us": latency[key] for key in ("p50", "p99")},
    }


def figures(step: Step, below: Step | None, rounds: dict[str, list[dict]], counted: dict | None) -> dict:
    """Of one rung: medians, how far the rounds lie apart, and the ratio to the rung below within a round."""
    mine = rounds[step.name]
    single = {"total_ns": bench.spread([one["single"]["total_ns"] for one in mine])}
    user, system = (sum(one["single"][f"{kind}_ticks"] for one in mine) for kind in ("user", "system"))
    share = user / max(1, user + system)
    single["user_ns"] = single["total_ns"]["median"] * share
    single["system_ns"] = single["total_ns"]["median"] * (1 - share)
    single["per_s"] = statistics.median(one["single"]["per_s"] for one in mine)
    found = {
        "number": step.number,
        "title": step.title,
        "hypothesis": step.about["hypothesis"],
        "change": step.about["change"],
        "single": single,
        "batch": {"sample_ns": bench.spread([one["batch"]["sample_ns"] for one in mine])},
        "batch_alone": {"sample_ns": bench.spread([one["batch_alone"]["sample_ns"] for one in mine])},
        "paced": {key: bench.spread([one["paced"][key] for one in mine]) for key in ("p50_us", "p99_us")},
    }
    if counted:
        found["counts"] = counted
    if below:
        pairs = list(zip(mine, rounds[below.name], strict=True))
        found["vs_below"] = {
            "single": bench.spread([one["single"]["total_ns"] / other["single"]["total_ns"] for one, other in pairs]),
            **{
                load: bench.spread([one[load]["sample_ns"] / other[load]["sample_ns"] for one, other in pairs])
                for load in ("batch", "batch_alone")
            },
        }
    return found


def switch_leg(contestant: contestants.Contestant, switch: Switch, seconds: float) -> dict:
    with contestant.running() as (child, port):
        contestant.check(port)
        return headline.closed(child, contestant.target(port), seconds, switch.connections, switch.batch)


def switched(chosen: list[Switch], arguments) -> dict[str, dict]:
    """Each flag beside the program without it, in turns."""
    plain, flagged = contestants.everyone()["sigmad"], contestants.switched()
    found = {}
    for switch in chosen:
        pair = {"before": plain, "after": flagged[switch.name]}
        rounds: list[dict[str, dict]] = []
        for number in range(arguments.rounds):
            order = pair if number % 2 == 0 else reversed(pair)
            rounds.append({name: switch_leg(pair[name], switch, arguments.seconds) for name in order})
        ratios = [one["after"]["sample_ns"] / one["before"]["sample_ns"] for one in rounds]
        found[switch.name] = {
            **{key: getattr(switch, key) for key in ("number", "title", "hypothesis", "change", "batch")},
            **{name: {"sample_ns": bench.spread([one[name]["sample_ns"] for one in rounds])} for name in pair},
            "ratio": bench.spread(ratios),
            "rounds": rounds,
        }
        print(f"{switch.slug:20} {statistics.median(ratios):.3f} x", flush=True)
    if not arguments.no_counts:
        before = {batch: counted_sample(plain, batch) for batch in {switch.batch for switch in chosen}}
        for switch in chosen:
            found[switch.name]["before"]["counts"] = before[switch.batch]
            found[switch.name]["after"]["counts"] = counted_sample(flagged[switch.name], switch.batch)
    return found


def counted_sample(contestant: contestants.Contestant, batch: int) -> dict:
    counted = counts.count(contestant, batch)
    print(f"{contestant.name:20} {counted['syscalls']:.2f} system calls", flush=True)
    return {key: counted[key] / batch for key in ("instructions", "allocations", "syscalls") if key in counted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a closed loop")
    parser.add_argument("--paced-seconds", type=float, default=3, help="length of the steady rate")
    parser.add_argument("--rung", action="append", help="only these; all unless given")
    parser.add_argument("--no-counts", action="store_true", help="no callgrind, no strace")
    arguments = parser.parse_args()
    if climbed := steps(arguments.rung):
        climb(climbed, arguments)
    if chosen := switches(arguments.rung):
        with bench.record("flags", arguments.rounds) as record:
            record["flags"] = switched(chosen, arguments)
            record["text"] = switch_table(record["flags"])
            print(record["text"])


def climb(climbed: list[Step], arguments: argparse.Namespace) -> None:
    with bench.record("ladder", arguments.rounds) as record, surroundings() as redis_port:
        rounds: dict[str, list[dict]] = {step.name: [] for step in climbed}
        for number in range(arguments.rounds):
            for step in climbed if number % 2 == 0 else reversed(climbed):
                one = leg(step, redis_port, arguments.seconds, arguments.paced_seconds)
                rounds[step.name].append(one)
                print(
                    f"round {number + 1} {step.slug:20} {one['single']['total_ns']:7.0f} ns/request "
                    f"{one['batch']['sample_ns']:6.0f} ns/sample  p50 {one['paced']['p50_us']:5.0f} us",
                    flush=True,
                )
        counted: dict[str, dict] = {}
        for step in climbed if not arguments.no_counts else []:
            forget(redis_port)
            counted[step.name] = counts.count(step.contestant(redis_port))
            print(f"{step.slug:20} {counted[step.name]['instructions']:.0f} instructions", flush=True)
        found = {}
        for below, step in zip([None, *climbed], climbed, strict=False):
            found[step.name] = figures(step, below, rounds, counted.get(step.name))
        record["rungs"], record["rounds"] = found, rounds
        record["text"] = table(found)
        print(record["text"])


def table(found: dict) -> str:
    rows = [[f"{rung['number']} {name}", *rung_cells(rung)] for name, rung in found.items()]
    header = [
        "rung",
        "user ns",
        "system ns",
        "total ns",
        "× below",
        "rounds",
        "ns/sample",
        "× below",
        "without Redis",
        "× below",
    ]
    return bench.table([*header, "instructions", "allocations", "system calls", "p50 µs", "p99 µs"], rows)


if __name__ == "__main__":
    main()
