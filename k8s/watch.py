#!/usr/bin/env python3
"""Watches the autoscaler while the load Job runs and until it is back at its minimum; ends with a table.

k8s/demo.sh calls it. It reads the cluster through kubectl only: replicas and CPU from the autoscaler, results of the
load from the pods of the Job, latencies from the scrape of each replica.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

# Between two polls. The autoscaler and metrics-server each poll every 15 s.
STEP_S = float(os.environ.get("WATCH_STEP_S", "5"))
# One run takes about half a minute; all runs and pod starts take far less than this.
JOB_S_MAX = 1800
# Two minutes of stabilisation, three replicas at one per 15 s, and a margin.
DOWN_S_MAX = 420
# Time for metrics-server to measure a new pod.
READY_S_MAX = 300
# A busy API server answers late, and a call that hangs must not end the watch.
CALL_S_MAX = 60
# So many polls in a row that fail: the cluster is gone.
FAILED_POLLS_MAX = 12
BUCKET = re.compile(r'^http_request_duration_seconds_bucket\{path="/ingest",le="([^"]+)"\} (\S+)$', re.MULTILINE)


T = TypeVar("T")


class KubectlError(RuntimeError):
    """A call that failed or took too long."""


class Cluster:
    """kubectl, in one context."""

    def __init__(self, context: str) -> None:
        self.context = context

    def ask(self, *arguments: str, namespace: str = "sigmad") -> str:
        command = ["kubectl", "--context", self.context, "--namespace", namespace, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_S_MAX, check=False)
        except subprocess.TimeoutExpired as error:
            raise KubectlError(str(error)) from error
        if done.returncode:
            raise KubectlError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> dict:
        return json.loads(self.ask("get", *arguments, "--output", "json"))

    def pods(self, component: str) -> list[str]:
        selector = f"app.kubernetes.io/name=sigmad,app.kubernetes.io/component={component}"
        return [pod["metadata"]["name"] for pod in self.get("pods", "--selector", selector)["items"]]


def millicores(quantity: str) -> float:
    """Of a quantity as Kubernetes writes it."""
    scale = {"n": 1e-6, "u": 1e-3, "m": 1.0}.get(quantity[-1:])
    return float(quantity) * 1000 if scale is None else float(quantity[:-1]) * scale


def autoscaler(cluster: Cluster) -> tuple[int, float | None, int | None]:
    """Replicas, millicores of each and their share of the request; None while they are unknown."""
    hpa = cluster.get("hpa", "sigmad")
    status = hpa["status"]
    current = [metric["resource"]["current"] for metric in status.get("currentMetrics") or [] if metric.get("resource")]
    if not current or "averageValue" not in current[0]:
        return status.get("currentReplicas", 0), None, None
    used = millicores(current[0]["averageValue"])
    return status["currentReplicas"], used, current[0].get("averageUtilization")


def buckets(cluster: Cluster) -> dict[str, Counter[float]]:
    """Cumulative buckets of the duration of /ingest, by upper edge, of each replica that answers."""
    found = {}
    for pod in cluster.pods("server"):
        try:
            scrape = cluster.ask("get", "--raw", f"/api/v1/namespaces/sigmad/pods/{pod}:8080/proxy/metrics")
        except KubectlError:
            # It is terminating, or has not started yet. What it said before still counts.
            continue
        found[pod] = Counter({float(edge): float(count) for edge, count in BUCKET.findall(scrape)})
    return found


def quantile(share: float, cumulative: Counter[float]) -> float | None:
    """The upper edge of its bucket, in seconds."""
    edges = sorted(cumulative)
    if not edges or cumulative[edges[-1]] <= 0:
        return None
    rank = share * cumulative[edges[-1]]
    return next(edge for edge in edges if cumulative[edge] >= rank)


def summaries(cluster: Cluster) -> list[dict]:
    """The summary of each finished run: one JSON object in its log, after a table for people."""
    found = []
    for pod in cluster.pods("load"):
        log = cluster.ask("logs", pod)
        start = re.search(r"^\{", log, re.MULTILINE)
        if start:
            found.append(json.JSONDecoder().raw_decode(log[start.start() :])[0])
    return found


def job_state(cluster: Cluster) -> str:
    conditions = cluster.get("job", "sigmad-load")["status"].get("conditions", [])
    states = {condition["type"] for condition in conditions if condition["status"] == "True"}
    return "failed" if "Failed" in states else "complete" if "Complete" in states else "running"


def until_ready(cluster: Cluster) -> None:
    """Waits until the autoscaler has its minimum of replicas, all ready, and their CPU metrics."""
    deadline = time.monotonic() + READY_S_MAX
    least = persistent(lambda: cluster.get("hpa", "sigmad")["spec"]["minReplicas"])
    while True:
        replicas, used, _ = persistent(lambda: autoscaler(cluster))
        deployment = persistent(lambda: cluster.get("deployment", "sigmad"))
        ready = deployment["status"].get("readyReplicas", 0)
        print(f"replicas {replicas}, ready {ready}, CPU {'unknown' if used is None else f'{used:.0f}m'}", flush=True)
        if used is not None and replicas >= least and ready >= replicas:
            return
        if time.monotonic() > deadline:
            sys.exit('the autoscaler has no CPU metrics; see "<unknown>" in docs/DEPLOY.md')
        time.sleep(STEP_S)


@dataclass
class Seen:
    """What the polls have shown so far."""

    state: str = "running"
    # Seconds from the start to the end of the Job.
    ended: float | None = None
    replicas: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    # Of each replica, as it last answered.
    before: dict[str, Counter[float]] = field(default_factory=dict)
    latencies: dict[str, Counter[float]] = field(default_factory=dict)
    runs: list[dict] = field(default_factory=list)


def poll(cluster: Cluster, seen: Seen, now: float) -> None:
    """One look at the cluster, and a line about it. Nothing is noted of a look that fails."""
    replicas, used, share = autoscaler(cluster)
    if seen.state == "running":
        state, latencies = job_state(cluster), buckets(cluster)
        seen.state, seen.latencies = state, seen.latencies | latencies
        if used is not None:
            seen.cpu.append(used * replicas)
        if state != "running":
            seen.ended = now
    seen.replicas.append(replicas)
    cpu = "unknown" if used is None else f"{used:4.0f}m each, {share} % of the request"
    print(f"{now:4.0f} s  load {seen.state:8}  replicas {replicas}  CPU {cpu}", flush=True)


def watch(cluster: Cluster) -> Seen:
    least = persistent(lambda: cluster.get("hpa", "sigmad")["spec"]["minReplicas"])
    start = time.monotonic()
    before = persistent(lambda: buckets(cluster))
    seen = Seen(before=before, latencies=before)
    while seen.ended is None or (seen.replicas[-1] > least and time.monotonic() - start < seen.ended + DOWN_S_MAX):
        if time.monotonic() - start > JOB_S_MAX:
            sys.exit("the load Job did not finish in time")
        persistent(lambda: poll(cluster, seen, time.monotonic() - start))
        time.sleep(STEP_S)
    seen.runs = persistent(lambda: summaries(cluster))
    return seen


def persistent(call: Callable[[], T]) -> T:
    """The result of a call, which is repeated when kubectl fails: an API server is busy at times."""
    for attempt in range(FAILED_POLLS_MAX):
        if attempt:
            time.sleep(STEP_S)
        try:
            return call()
        except KubectlError as error:
            print(f"        {error}", flush=True)
    sys.exit(f"kubectl failed {FAILED_POLLS_MAX} times in a row")


def table(seen: Seen) -> list[tuple[str, str]]:
    requests = [run["requests"] for run in seen.runs]
    # `unsent` were due and never sent: the generator was late, and sigmad never saw them.
    sent, good, unsent = (sum(each[name] for each in requests) for name in ("sent", "good", "unsent"))
    seconds = sum(run["elapsed_s"] for run in seen.runs)
    latencies: Counter[float] = Counter()
    for pod, counts in seen.latencies.items():
        latencies.update(counts)
        latencies.subtract(seen.before.get(pod, {}))
    p95 = quantile(0.95, latencies)
    replicas, cpu = seen.replicas, seen.cpu
    return [
        ("runs of the generator", f"{len(seen.runs)}, {seen.state}"),
        ("2xx responses per second", f"{good / seconds:.0f}" if seconds else "unknown"),
        ("p95, measured by the replicas", "unknown" if p95 is None else f"at most {p95 * 1e3:.3g} ms"),
        ("errors", f"{sent - good} of {sent} requests sent"),
        ("due, and not sent", f"{unsent}, as the generator was late" if unsent else "0"),
        ("replicas, minimum and maximum", f"{min(replicas)}, {max(replicas)}; at the end {replicas[-1]}"),
        ("average CPU of all replicas", f"{sum(cpu) / len(cpu):.0f}m" if cpu else "unknown"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--context", default="sigmad")
    parser.add_argument("--until-ready", action="store_true", help="wait until the autoscaler has metrics, then exit")
    parser.add_argument("--alerts", action="store_true", help="print the alerts that reached the webhook")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.context)
    if arguments.until_ready:
        return until_ready(cluster)
    seen = watch(cluster)
    rows = table(seen)
    if arguments.alerts:
        webhook = ("logs", "deployment/alert-webhook", "--tail=20")
        lines = persistent(lambda: cluster.ask(*webhook, namespace="monitoring")).splitlines()
        rows.append(("alerts at the webhook", str(len(lines))))
        print("\n".join(lines))
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:{width}}  {value}")
    if seen.state != "complete":
        sys.exit("a run of the generator failed: kubectl -n sigmad logs job/sigmad-load")


if __name__ == "__main__":
    main()
