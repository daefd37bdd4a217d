#!/usr/bin/env python3
"""What does a second worker bring, and what would limit sixteen?

Two figures, which cannot be read off the throughput of a machine with two cores, for there the load
generator needs one of them:

- what a request with one sample costs with 1, 2, … workers on as many cores, up to all of them, which
  the generator then shares: the rise is what workers, and here the generator, cost each other;
- what each thread costs by itself, worker and analytics, of a request with one sample and with 100: the
  analytics thread is one, so it bounds the whole.

From both follow the parameters of the Universal Scalability Law (Gunther): C(N) = N / (1 + σ(N−1) + κN(N−1)),
fitted where there are more than two points; with two, only σ + 2κ is known, and both extremes are given.

    benches/scaling.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess

import bench
import contestants

WARM_UP_S = 0.5
# By workers. Batches are asked of one alone: closed loops of several workers overtake the analytics thread
# where all share two cores, and a 503 is not measured here.
CONNECTIONS = {"single": 64, "batch": 16}
BATCHES = {"single": 1, "batch": 100}
# What a box that one might buy has.
MODELLED_CORES = 16


def leg(workers: int, load: str, seconds: float) -> dict:
    """That many workers on that many cores. Beside one, the generator has a core of its own if there is one."""
    cores = os.cpu_count()
    server = f"0-{workers - 1}"
    generator = cores - 1 if workers < cores else None
    batch = BATCHES[load]
    flags = ["--connections", str(CONNECTIONS[load] * workers), *contestants.batch_flags(batch)]
    port = bench.free_port()
    command = ["taskset", "-c", server, bench.sigmad_binary(), "serve", "--listen", f"127.0.0.1:{port}"]
    command += ["--workers", str(workers), "--pin", "off"]
    with bench.running(command, stderr=subprocess.DEVNULL) as child:
        bench.wait_for_port(port)
        bench.load(port, *flags, core=generator, seconds=WARM_UP_S)
        before = bench.thread_ns(child.pid)
        summary = bench.load(port, *flags, core=generator, pid=child.pid, seconds=seconds)
        after = bench.thread_ns(child.pid)
    requests = summary["requests"]["good"]
    return {
        "total_ns": summary["server_cpu"]["ns_per_request"],
        "per_s": summary["requests"]["good_per_s"],
        "server_cores": summary["server_cpu"]["cores"],
        "generator_cores": summary["generator_cpu"]["cores"],
        "threads_ns": {kind: (ns - before.get(kind, 0)) / requests for kind, ns in after.items()},
    }


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
    """What MODELLED_CORES would give: a model, from this machine's figures, and no measurement.

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    arguments = parser.parse_args()
    counts = [workers for workers in (1, 2, 4, 8, 12, 16, 24, 32) if workers <= os.cpu_count()]
    with bench.record("scaling", arguments.rounds) as record:
        legs: dict[str, dict[int, list[dict]]] = {"single": {n: [] for n in counts}, "batch": {1: []}}
        for number in range(arguments.rounds):
            for load in BATCHES:
                for workers in counts if load == "single" else counts[:1]:
                    one = leg(workers, load, arguments.seconds)
                    legs[load][workers].append(one)
                    print(
                        f"round {number + 1} {load} {workers} worker(s): {one['total_ns']:.0f} ns/request", flush=True
                    )
        found = {}
        for load, by_workers in legs.items():
            costs = {n: bench.spread([one["total_ns"] for one in ones]) for n, ones in by_workers.items()}
            alone = by_workers[1]
            # Within a round: slow spells of the machine strike both.
            ratios = {
                n: bench.spread([one["total_ns"] / other["total_ns"] for one, other in zip(ones, alone, strict=True)])
                for n, ones in by_workers.items()
            }
            found[load] = {
                "total_ns": costs,
                "ratio": ratios,
                "per_s": {n: statistics.median(one["per_s"] for one in ones) for n, ones in by_workers.items()},
                "worker_ns": statistics.median(one["threads_ns"]["worker"] for one in alone),
                "analytics_ns": statistics.median(one["threads_ns"]["analytics"] for one in alone),
            }
        # What workers cost each other is a matter of requests, and of cache lines of the counters and queues.
        law = usl({n: ratio["median"] for n, ratio in found["single"]["ratio"].items()})
        record["loads"], record["usl"] = found, law
        record["model"] = {"cores": MODELLED_CORES, **modelled(found, law)}
        record["rounds"] = legs
        record["text"] = table(found, record["model"])
        print(record["text"])


def table(found: dict, model: dict) -> str:
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
    text = bench.table(
        ["load", "workers", "ns/request", "× one worker", "requests/s", "worker ns", "analytics ns"], rows
    )
    for load in found:
        speeds = ", ".join(f"{key} {speed:,.0f}/s" for key, speed in model[load]["per_s"].items())
        bound = f"{model[load]['analytics_bound_per_s']:,.0f}/s"
        text += f"\n\n{load}, model of {model['cores']} cores: {speeds}; analytics at most {bound}"
    return text


if __name__ == "__main__":
    main()
