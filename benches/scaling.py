#!/usr/bin/env python3
"""What do another worker and another shard of analytics bring, and what would limit sixteen cores?

- Workers: CPU time of a request with one sample by 1, 2, … workers, each on a core of its own, beside as many threads
  of the generator. With two cores the generator shares those of two workers. The rise is what workers cost each other.
- Shards: CPU time of a sample in each kind of thread by shards of analytics, in batches of 100, all threads on core 0.
- Counts: instructions of a sample, and misses of simulated caches, by workers and by shards. callgrind runs all threads
  in turn, as one core would. Without valgrind they are left out.
- Divisions, with four cores and more: samples a second by how the cores are divided between workers and shards. A
  quarter of them is the generator's. What is refused (503) is not counted.

The law of the workers is the Universal Scalability Law (Gunther): C(N) = N / (1 + σ(N−1) + κN(N−1)), fitted where there
are more than two points; with two, only σ + 2κ is known, and both extremes are given. The model of sixteen cores
follows from it and from the threads' CPU time.

    benches/scaling.py

It takes 5 minutes on sixteen cores, without valgrind, and 3 on two. It needs the program, Python and taskset.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics

import bench
import contestants
import counts
import headline

WARM_UP_S = 0.5
# Connections of each worker, and samples of a request.
CONNECTIONS = {"single": headline.CONNECTIONS, "batch": headline.BATCH_CONNECTIONS}
BATCHES = {"single": 1, "batch": headline.BATCH}
WORKERS = (1, 2, 4, 8, 16, 32)
SHARDS = (1, 2, 4)
# Of the divisions: enough that each worker always has a request.
DIVIDED_BATCHES = (100, 1_000)
DIVIDED_CONNECTIONS = 8
DIVIDED_SHARDS = (1, 2, 3, 4, 5, 6)
DIVIDED_CORES_MIN = 4
GENERATOR_PART = 4
# Workers and shards of the counts.
COUNTED = {"single": [(1, 1), (2, 1), (4, 1)], "batch": [(1, shards) for shards in SHARDS]}
# Threads by name, without their number.
KINDS = ("worker", "analytics", "fleet")
# What a box that one might buy has.
MODELLED_CORES = 16


def threads_of(shards: int) -> int:
    """With several shards the fleet has a thread of its own."""
    return 1 if shards == 1 else shards + 1


def server(workers: int, shards: int, cores: int, *flags: str) -> contestants.Contestant:
    """sigmad with so many threads on the first cores."""
    command = (bench.sigmad_binary(), "serve", "--listen", "{listen}", "--workers", str(workers))
    command += ("--analytics", str(shards), *flags)
    return contestants.Contestant("sigmad", "sigmad", command, "own epoll engine", cores=f"0-{cores - 1}")


def leg(
    one: contestants.Contestant,
    cores: int,
    workers: int,
    connections: int,
    batch: int,
    seconds: float,
    has_refusals: bool = False,
) -> dict:
    """What a server on the first cores answers and needs, with the generator on the others, if there are any."""
    free = os.cpu_count() - cores
    generator = f"{cores}-{os.cpu_count() - 1}" if free else None
    flags = ["--connections", str(connections * workers), "--threads", str(max(1, min(workers, free)))]
    flags += contestants.batch_flags(batch)
    # A division may be one that has to refuse.
    ask = bench.offer if has_refusals else bench.load
    with one.running() as (child, port):
        one.check(port)
        ask(port, *flags, core=generator, seconds=WARM_UP_S)
        before = bench.thread_ns(child.pid)
        summary = ask(port, *flags, core=generator, pid=child.pid, seconds=seconds)
        after = bench.thread_ns(child.pid)
    requests = summary["requests"]
    return {
        "total_ns": summary["server_cpu"]["ns_per_request"],
        "per_s": requests["good_per_s"],
        "refused": requests["sent"] - requests["good"],
        "server_cores": summary["server_cpu"]["cores"],
        "generator_cores": summary["generator_cpu"]["cores"],
        "threads_ns": {kind: (after.get(kind, 0) - before.get(kind, 0)) / requests["good"] for kind in KINDS},
    }


def by_workers(workers: int, seconds: float) -> dict:
    one = server(workers, 1, workers, "--pin", "off")
    return leg(one, workers, workers, CONNECTIONS["single"], BATCHES["single"], seconds)


def by_shards(shards: int, seconds: float) -> dict:
    return leg(server(1, shards, 1), 1, 1, CONNECTIONS["batch"], BATCHES["batch"], seconds)


def divisions() -> list[tuple[int, int, int, int]]:
    """Batch, workers, shards and cores of the server."""
    cores = os.cpu_count()
    if cores < DIVIDED_CORES_MIN:
        return []
    ours = cores - cores // GENERATOR_PART
    return [
        (batch, ours - threads_of(shards), shards, ours)
        for batch in DIVIDED_BATCHES
        for shards in DIVIDED_SHARDS
        if threads_of(shards) < ours
    ]


def divided(batch: int, workers: int, shards: int, cores: int, seconds: float) -> dict:
    one = server(workers, shards, cores)
    return leg(one, cores, workers, DIVIDED_CONNECTIONS, batch, seconds, has_refusals=True)


def counted() -> list[dict]:
    """Of a sample, by callgrind."""
    if not shutil.which("valgrind"):
        print("no valgrind: nothing is counted")
        return []
    found = []
    for load, pairs in COUNTED.items():
        for workers, shards in pairs:
            each = counts.callgrind(server(workers, shards, 1), batch=BATCHES[load], caches=counts.CACHES)
            figures = {key: each[key] / BATCHES[load] for key in ("instructions", *counts.MISSES)}
            found.append({"load": load, "workers": workers, "shards": shards, **figures})
            print(f"{load}, {workers} worker(s), {shards} shard(s): {figures['instructions']:.0f} instructions")
    return found


def usl(costs: dict[int, float]) -> dict:
    """σ and κ from CPU time per request by number of workers: C(N) = N · cost(1) / cost(N)."""
    one = costs[1]
    inflation = {workers: cost / one - 1 for workers, cost in costs.items() if workers > 1}
    if len(inflation) == 1:
        # One point: 1 + σ + 2κ = cost(2)/cost(1). Noise may put it below.
        ((workers, extra),) = inflation.items()
        extra = max(0.0, extra)
        contention = {"sigma": extra / (workers - 1), "kappa": 0.0}
        coherency = {"sigma": 0.0, "kappa": extra / (workers * (workers - 1))}
        return {"points": len(costs), "contention_only": contention, "coherency_only": coherency}
    # Least squares of extra = σ(N−1) + κN(N−1).
    rows = [(n - 1, n * (n - 1), extra) for n, extra in inflation.items()]
    aa, ab, bb = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ay, by = (sum(r[i] * r[2] for r in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    fitted = {
        "sigma": max(0.0, (ay * bb - by * ab) / determinant),
        "kappa": max(0.0, (by * aa - ay * ab) / determinant),
    }
    return {"points": len(costs), "fitted": fitted}


def capacity(n: int, sigma: float, kappa: float) -> float:
    return n / (1 + sigma * (n - 1) + kappa * n * (n - 1))


def modelled(found: dict, law: dict) -> dict:
    """What MODELLED_CORES would give with one shard: a model, from this machine's figures, and no measurement.

    One core is the analytics thread's, the others' workers do what one does here, less what they cost
    each other; the analytics thread bounds them all.
    """
    answer = {}
    for load, one in found.items():
        worker, analytics = one["worker_ns"], one["analytics_ns"]
        workers = MODELLED_CORES - 1
        models = {key: value for key, value in law.items() if key != "points"}
        speeds = {key: 1e9 / worker * capacity(workers, **value) for key, value in models.items()}
        bound = 1e9 / analytics
        answer[load] = {
            "workers": workers,
            "workers_per_s": speeds,
            "analytics_bound_per_s": bound,
            "workers_per_analytics": worker / analytics,
            "per_s": {key: min(speed, bound) for key, speed in speeds.items()},
            "samples_per_s": {key: min(speed, bound) * BATCHES[load] for key, speed in speeds.items()},
        }
    return answer


def modelled_shards(threads: dict[int, dict], law: dict) -> list[dict]:
    """The same for batches by shards, in samples a second: the slowest of workers, shards and fleet bounds the rest."""
    rows = []
    for shards, each in threads.items():
        workers = MODELLED_CORES - threads_of(shards)
        for name, values in law.items():
            if name == "points":
                continue
            bounds = {
                "workers": 1e9 / each["worker"] * capacity(workers, **values),
                "shards": shards * 1e9 / each["analytics"],
            }
            if each["fleet"]:
                bounds["fleet"] = 1e9 / each["fleet"]
            limit = min(bounds, key=bounds.get)
            rows.append(
                {"shards": shards, "workers": workers, "law": name, "bounds_per_s": bounds}
                | {"limit": limit, "samples_per_s": bounds[limit]}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--no-counts", action="store_true", help="no callgrind")
    parser.add_argument("--record", default="scaling", help="its name")
    arguments = parser.parse_args()
    # As many cores for the generator as for the workers; with two cores they share both.
    numbers = [workers for workers in WORKERS if workers <= max(2, os.cpu_count() // 2)]
    with bench.record(arguments.record, arguments.rounds) as record:
        single: dict[int, list[dict]] = {workers: [] for workers in numbers}
        batch: dict[int, list[dict]] = {shards: [] for shards in SHARDS}
        legs: dict[tuple[int, int, int, int], list[dict]] = {division: [] for division in divisions()}
        for number in range(arguments.rounds):
            for workers, ones in single.items():
                ones.append(by_workers(workers, arguments.seconds))
                print(f"round {number + 1}, {workers} worker(s): {ones[-1]['total_ns']:.0f} ns/request", flush=True)
            for shards, ones in batch.items():
                ones.append(by_shards(shards, arguments.seconds))
                print(f"round {number + 1}, {shards} shard(s): {ones[-1]['total_ns']:.0f} ns/request", flush=True)
            for division, ones in legs.items():
                ones.append(divided(*division, arguments.seconds))
                rate = ones[-1]["per_s"] * division[0]
                print(
                    f"round {number + 1}, batch, workers, shards, cores {division}: {rate:,.0f} samples/s", flush=True
                )
        found = {"single": figures(single), "batch": figures({1: batch[1]})}
        threads = {shards: threads_figures(ones) for shards, ones in batch.items()}
        # What workers cost each other is a matter of requests, and of cache lines of the counters and queues.
        law = usl({n: ratio["median"] for n, ratio in found["single"]["ratio"].items()})
        record["loads"], record["usl"] = found, law
        record["model"] = {"cores": MODELLED_CORES, **modelled(found, law)}
        record["shards"] = {"threads": threads, "model": modelled_shards(threads, law)}
        record["divisions"] = [division_figures(division, ones) for division, ones in legs.items()]
        record["counts"] = [] if arguments.no_counts else counted()
        record["rounds"] = {"single": single, "batch": batch}
        record["text"] = "\n\n".join(texts(record))
        print(record["text"])


def figures(legs: dict[int, list[dict]]) -> dict:
    """Of a load, by workers."""
    alone = legs[1]
    return {
        "total_ns": {n: bench.spread([one["total_ns"] for one in ones]) for n, ones in legs.items()},
        # Within a round: slow spells of the machine strike both.
        "ratio": {
            n: bench.spread([one["total_ns"] / other["total_ns"] for one, other in zip(ones, alone, strict=True)])
            for n, ones in legs.items()
        },
        "per_s": {n: statistics.median(one["per_s"] for one in ones) for n, ones in legs.items()},
        "worker_ns": statistics.median(one["threads_ns"]["worker"] for one in alone),
        "analytics_ns": statistics.median(one["threads_ns"]["analytics"] for one in alone),
    }


def threads_figures(legs: list[dict]) -> dict:
    """CPU time of a sample in each kind of thread: medians."""
    return {kind: statistics.median(one["threads_ns"][kind] for one in legs) / BATCHES["batch"] for kind in KINDS}


def division_figures(division: tuple[int, int, int, int], legs: list[dict]) -> dict:
    batch, workers, shards, cores = division
    return {
        **{"batch": batch, "workers": workers, "shards": shards, "cores": cores},
        "samples_per_s": bench.spread([one["per_s"] * batch for one in legs]),
        "threads_ns": {kind: statistics.median(one["threads_ns"][kind] for one in legs) / batch for kind in KINDS},
        "refused": statistics.median(one["refused"] for one in legs),
        "generator_cores": statistics.median(one["generator_cores"] for one in legs),
    }


def texts(record: dict) -> list[str]:
    """For the reader of the record: its tables."""
    found, model = record["loads"], record["model"]
    parts = [workers_table(found)]
    for load in found:
        speeds = ", ".join(f"{key} {speed:,.0f}/s" for key, speed in model[load]["per_s"].items())
        bound = f"{model[load]['analytics_bound_per_s']:,.0f}/s"
        parts.append(f"{load}, model of {model['cores']} cores: {speeds}; analytics at most {bound}")
    parts += ["By shards, all threads on one core, of a sample:", shards_table(record["shards"]["threads"])]
    parts += [f"By shards, model of {model['cores']} cores:", shards_model_table(record["shards"]["model"])]
    if record["counts"]:
        parts += ["Counts of a sample, by callgrind:", counts_table(record["counts"])]
    if record["divisions"]:
        parts += ["Divisions of the server's cores:", divisions_table(record["divisions"])]
    return parts


def workers_table(found: dict) -> str:
    rows = []
    for load, one in found.items():
        for workers, cost in one["total_ns"].items():
            ratio = one["ratio"][workers]
            rows.append(
                [
                    load,
                    str(workers),
                    f"{cost['median']:,.0f}",
                    f"{ratio['median']:.3f} ({ratio['min']:.3f}–{ratio['max']:.3f})",
                    f"{one['per_s'][workers]:,.0f}",
                    f"{one['worker_ns']:,.0f}" if workers == 1 else "",
                    f"{one['analytics_ns']:,.0f}" if workers == 1 else "",
                ]
            )
    header = ["load", "workers", "ns/request", "× one worker", "requests/s", "worker ns", "analytics ns"]
    return bench.table(header, rows)


def shards_table(threads: dict) -> str:
    rows = []
    for shards, each in threads.items():
        total = sum(each.values())
        rows.append([str(shards), *(f"{each[kind]:.1f}" if each[kind] else "–" for kind in KINDS), f"{total:.1f}"])
    return bench.table(["shards", "worker ns", "shards ns", "fleet ns", "all ns"], rows)


def shards_model_table(model: list[dict]) -> str:
    rows = []
    for one in model:
        bounds = [one["bounds_per_s"].get(kind) for kind in ("workers", "shards", "fleet")]
        rows.append(
            [
                str(one["shards"]),
                str(one["workers"]),
                one["law"].replace("_", " "),
                *(f"{bound / 1e6:.1f}" if bound else "–" for bound in bounds),
                f"{one['samples_per_s'] / 1e6:.1f}",
                f"{contestants.VALUES * one['samples_per_s'] / 1e6:.1f}",
                one["limit"],
            ]
        )
    header = ["shards", "workers", "if all is", "workers, M samples/s", "shards, M samples/s", "fleet, M samples/s"]
    return bench.table([*header, "M samples/s", "M values/s", "limit"], rows)


def counts_table(counted: list[dict]) -> str:
    rows = [
        [
            {"single": "one sample", "batch": f"{BATCHES['batch']} samples"}[one["load"]],
            str(one["workers"]),
            str(one["shards"]),
            f"{one['instructions']:,.0f}",
            *(f"{one[key]:.2f}" for key in counts.MISSES),
        ]
        for one in counted
    ]
    header = ["request of", "workers", "shards", "instructions", "misses of the data cache", "of the last level"]
    return bench.table(header, rows)


def divisions_table(divisions: list[dict]) -> str:
    rows = []
    for one in divisions:
        rate = one["samples_per_s"]
        rows.append(
            [
                *(str(one[key]) for key in ("batch", "workers", "shards")),
                f"{rate['median']:,.0f} ({rate['min']:,.0f}–{rate['max']:,.0f})",
                *(f"{one['threads_ns'][kind]:.1f}" for kind in KINDS),
                f"{one['refused']:,.0f}",
                f"{one['generator_cores']:.1f}",
            ]
        )
    header = ["batch", "workers", "shards", "samples/s", "worker ns", "shards ns", "fleet ns", "refused"]
    return bench.table([*header, "generator cores"], rows)


if __name__ == "__main__":
    main()
