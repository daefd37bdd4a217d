#!/usr/bin/env python3
"""What the autoscaler will do in the demo, as far as that can be known without a cluster.

The algorithm of the HorizontalPodAutoscaler runs over the demo's load, with the manifest's own settings and the CPU
that a replica took when it was last measured, with Redis and beside others: from 2 replicas to 5 and back, each below
its CPU limit. Last, k8s/demo.sh itself walks through a simulated Minikube whose kubectl fails at times, and its table
must show what the simulation answered. `make autoscaler` runs it; SIGMAD names the binary. With --record it measures
that CPU, with the load that the Job sends, and leaves a record in benches/record.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "k8s"))

import bench
import watch
from manifests import K8S, VERSION, build, containers, find, pod_of, quantity

MEASURE_S = 6
# The median of so many spells: on a busy machine one alone says little.
SPELLS = 5
# A pod on the node of the cluster that benches/record has took 142m where the process alone took 75m: caches and cores
# are shared with everything else on the node.
NODE_FACTOR = 142 / 75
# Of a pod there that has nothing to do but flushes, probes and scrapes.
REST_CORES = 0.005
# A replica that needs more than this of its limit is throttled at times.
LIMIT_SHARE_MAX = 0.8
# As the manager of controllers has them.
SYNC_S = 15
TOLERANCE = 0.1
# metrics-server asks every 15 s, and what it knows is as old when it is asked.
METRICS_DELAY_S = 15
# From the end of one run's pod to the load of the next.
POD_START_S = 3
# After the last run: two minutes of stabilisation, three steps down, and some more.
QUIET_S = 400


def demo() -> dict:
    """What the manifests say."""
    minikube, loadgen = build(K8S / "overlays/minikube"), build(K8S / "loadgen")
    hpa = find(minikube, "HorizontalPodAutoscaler sigmad")["spec"]
    [server] = containers(pod_of(find(minikube, "Deployment sigmad")))
    job = find(loadgen, "Job sigmad-load")
    [load] = containers(pod_of(job))
    values = {each["name"]: each["value"] for each in load["env"]}
    return {
        "hpa": hpa,
        "request": quantity(server["resources"]["requests"]["cpu"]),
        "limit": quantity(server["resources"]["limits"]["cpu"]),
        "rate": int(values["RATE"]),
        "run_s": int(values["DURATION"].removesuffix("s")),
        "runs": job["spec"]["completions"],
        "flags": [each for each in load["args"] if re.match(r"--(profile|devices|connections)=", each)],
    }


def measure(replicas: int, rate: int, flags: list[str]) -> float:
    """Cores that each of some replicas takes at `rate` requests a second to each, with one Redis."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sigmad-autoscaler-")))
        redis = stack.enter_context(bench.redis(folder))
        servers = []
        for _ in range(replicas):
            settings = ["--workers", "1", "--pin", "off", "--redis-url", f"redis://127.0.0.1:{redis}"]
            servers.append(stack.enter_context(bench.sigmad(*settings)))
        before, start = [bench.cpu_ns(child.pid) for child, _ in servers], time.monotonic()
        loads = []
        for _, port in servers:
            command = [bench.sigmad_binary(), "load", f"--url=http://127.0.0.1:{port}/ingest", f"--rate={rate}"]
            command += [f"--duration={MEASURE_S}s", "--json=-", *flags]
            load = bench.running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            loads.append(stack.enter_context(load))
        for load in loads:
            requests = json.loads(load.communicate()[0])["requests"]
            assert requests["failed"] == 0, requests
        spent = [bench.cpu_ns(child.pid) - ns for (child, _), ns in zip(servers, before, strict=True)]
        return sum(spent) / replicas / 1e9 / (time.monotonic() - start)


class Costs:
    """The CPU of a replica: each one makes the others dearer, which read what it has changed."""

    def __init__(self, record: dict) -> None:
        self.rate: int = record["rate"]
        self.cores = {int(replicas): cores for replicas, cores in record["cores_by_replicas"].items()}

    def of(self, replicas: int, rate: float) -> float:
        """Cores of each of so many replicas, in a pod, at this rate to each."""
        counts = sorted(self.cores)
        low = max(count for count in counts if count <= replicas)
        high = min((count for count in counts if count >= replicas), default=low)
        share = (replicas - low) / (high - low) if high > low else 0
        cores = self.cores[low] + share * (self.cores[high] - self.cores[low])
        return REST_CORES + NODE_FACTOR * cores * rate / self.rate


def recorded() -> Costs:
    """Of the latest record: what this machine takes at this moment says nothing of the manifests."""
    latest = max(bench.RECORD.glob("*/autoscaler.json"))
    return Costs(json.loads(latest.read_text()))


class Autoscaler:
    """The algorithm, of what it needs here: one metric, policies by pods and percent."""

    def __init__(self, spec: dict) -> None:
        self.spec = spec
        [metric] = spec["metrics"]
        self.target = metric["resource"]["target"]["averageUtilization"] / 100
        self.recommended: list[tuple[float, int]] = []
        self.changes: list[tuple[float, int]] = []

    def most(self, policies: list[dict], now: float, replicas: int, direction: int, choose) -> int:
        """How far the policies let it go."""
        ends = []
        for policy in policies:
            recent = sum(by for at, by in self.changes if now - at < policy["periodSeconds"] and by * direction > 0)
            start = replicas - recent
            by = policy["value"] if policy["type"] == "Pods" else math.ceil(start * policy["value"] / 100)
            ends.append(start + direction * by)
        return choose(ends)

    def decide(self, now: float, replicas: int, share: float) -> int:
        ratio = share / self.target
        wanted = replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(replicas * ratio)
        wanted = min(max(wanted, self.spec["minReplicas"]), self.spec["maxReplicas"])
        self.recommended.append((now, wanted))
        up, down = self.spec["behavior"]["scaleUp"], self.spec["behavior"]["scaleDown"]
        lately = [each for at, each in self.recommended if now - at <= down["stabilizationWindowSeconds"]]
        # Down no further than the highest of late; up to what is asked for now.
        wanted = max(wanted, min(replicas, max(lately)))
        if wanted > replicas:
            wanted = min(wanted, self.most(up["policies"], now, replicas, 1, max))
        elif wanted < replicas:
            wanted = max(wanted, self.most(down["policies"], now, replicas, -1, min))
        if wanted != replicas:
            self.changes.append((now, wanted - replicas))
        return wanted


def simulate(what: dict, costs: Costs) -> list[tuple[float, int, float]]:
    """Second by second: at each decision the time, the replicas after it, and the CPU in shares of the request."""
    autoscaler = Autoscaler(what["hpa"])
    replicas = what["hpa"]["minReplicas"]
    each_s = what["run_s"] + POD_START_S
    used: list[float] = []
    loaded = replicas
    history = [(0.0, replicas, 0.0)]
    for now in range(what["runs"] * each_s + QUIET_S):
        run, within = divmod(now, each_s)
        if within == POD_START_S:
            # Connections are opened here, and stay with those that are there.
            loaded = replicas
        is_on = run < what["runs"] and within >= POD_START_S
        rate = what["rate"] / loaded if is_on else 0
        cores = loaded * min(costs.of(replicas, rate), what["limit"])
        used.append(cores + (replicas - loaded) * REST_CORES)
        if now % SYNC_S == 0 and now >= METRICS_DELAY_S * 2:
            window = used[now - 2 * METRICS_DELAY_S : now - METRICS_DELAY_S]
            share = sum(window) / len(window) / replicas / what["request"]
            replicas = autoscaler.decide(now, replicas, share)
            loaded = min(loaded, replicas)
            history.append((now, replicas, share))
    return history


def check_algorithm() -> None:
    """By hand: doubling or three more, tolerance, one down in 15 s after the window."""
    spec = demo()["hpa"]
    scaler = Autoscaler(spec)
    assert scaler.decide(0, 2, 0.76) == 2, "within a tenth"
    assert scaler.decide(15, 2, 1.0) == 3
    assert Autoscaler(spec).decide(0, 2, 9.0) == 5, "three pods are more than double"
    assert scaler.decide(30, 3, 9.0) == 5, "and no more than at most"
    assert scaler.decide(45, 5, 0.0) == 5, "two minutes are not over"
    assert scaler.decide(140, 5, 0.0) == 5
    assert scaler.decide(165, 5, 0.0) == 4
    assert scaler.decide(180, 4, 0.0) == 3
    assert scaler.decide(195, 3, 0.0) == 2
    assert scaler.decide(210, 2, 0.0) == 2


def check_demo_load(is_recorded: bool) -> str:
    what = demo()
    least, most = what["hpa"]["minReplicas"], what["hpa"]["maxReplicas"]
    record: dict = {}
    if is_recorded:
        record = {"manifest": bench.manifest() | {"spells": SPELLS}, "rate": what["rate"] // most}
        cores = {
            count: statistics.median(measure(count, record["rate"], what["flags"]) for _ in range(SPELLS))
            for count in range(1, most + 1)
        }
        record["cores_by_replicas"] = cores
    costs = Costs(record) if is_recorded else recorded()
    each = costs.of(most, what["rate"] / most)
    share = each / what["limit"]
    assert share <= LIMIT_SHARE_MAX, f"{most} replicas need {each * 1e3:.0f}m each of a limit of {what['limit']} cores"
    history = simulate(what, costs)
    counts = [replicas for _, replicas, _ in history]
    assert counts[0] == least and max(counts) == most and counts[-1] == least, history
    grown = next(at for at, replicas, _ in history if replicas == most)
    on_s = what["runs"] * (what["run_s"] + POD_START_S)
    shrunk = next(at for at, replicas, _ in history if at > on_s and replicas == least)
    steps = [counts[0], *(after for before, after in itertools.pairwise(counts) if before != after)]
    assert grown < on_s / 2, "five long before the load ends"
    # Up without a step down as long as the load is on; down without a step up.
    peak = steps.index(most)
    assert steps == sorted(steps[: peak + 1]) + sorted(steps[peak + 1 :], reverse=True), steps
    if is_recorded:
        rows = [[str(count), f"{cores * 1e3:.0f}m"] for count, cores in costs.cores.items()]
        lines = [f"One replica of several that share a Redis, {costs.rate} requests/s to each:", ""]
        lines += [bench.table(["replicas", "CPU of each"], rows)]
        print(bench.write_record("autoscaler", record, "\n".join(lines)))
    figures = ", ".join(f"{cores * 1e3:.0f}m of {count}" for count, cores in costs.cores.items())
    way = " -> ".join(map(str, steps))
    times = f"{most} after {grown} s, {least} again {shrunk - on_s} s after the end"
    return (
        f"at {costs.rate}/s a replica takes {figures}; as a pod of the demo {each * 1e3:.0f}m, {share:.0%} of its "
        f"limit; {what['rate']} requests/s: {way}, {times}"
    )


# Plays minikube, helm and kubectl. Its state is how often the autoscaler was asked for.
PLAY = """#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
folder = Path(os.environ["PLAY"])
tool, arguments = Path(sys.argv[0]).name, sys.argv[1:]
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps([tool, *arguments]) + "\\n")
words = " ".join(arguments)
def state(name, by=0):
    path = folder / name
    count = int(path.read_text()) if path.exists() else 0
    path.write_text(str(count + by))
    return count
if tool == "minikube":
    if words.startswith("status"):
        print("Running" if state("started") else "Stopped")
    elif words.startswith("start"):
        state("started", 1)
    elif words.startswith("image ls"):
        print("docker.io/library/sigmad:VERSION")
elif tool == "kubectl":
    # An API server is busy at times: every fourth call of watch.py fails.
    is_watch = "--output json" in words or "--raw" in words or " logs " in words
    if is_watch and state("watched", 1) % 4 == 3:
        sys.exit("Unable to connect to the server: net/http: TLS handshake timeout")
    if "get hpa" in words:
        # Unknown, ready; then under load, and after it.
        seen = [(2, None), (2, 1), (2, 90), (4, 60), (5, 41), (5, 1), (3, 1), (2, 1)]
        replicas, used = seen[min(state("hpa", 0), len(seen) - 1)]
        if "currentReplicas" not in words:
            state("hpa", 1)
        status = {"currentReplicas": replicas}
        if used is not None:
            current = {"averageValue": f"{used}m", "averageUtilization": used * 5}
            status["currentMetrics"] = [{"type": "Resource", "resource": {"name": "cpu", "current": current}}]
        print(json.dumps({"spec": {"minReplicas": 2}, "status": status}))
    elif "get deployment sigmad --output json" in words:
        print(json.dumps({"status": {"readyReplicas": 2}}))
    elif "get job" in words:
        done = state("hpa") > 8
        conditions = [{"type": "Complete", "status": "True"}] if done else []
        print(json.dumps({"status": {"conditions": conditions}}))
    elif "get pods" in words:
        names = ["load-0", "load-1"] if "component=load" in words else ["server-0", "server-1"]
        print(json.dumps({"items": [{"metadata": {"name": name}} for name in names]}))
    elif "get --raw" in words:
        print((folder / "scrape").read_text() if state("hpa") > 5 else "")
    elif "logs deployment/alert-webhook" in words:
        print(json.dumps({"status": "firing", "alertname": "SigmadAnomalyBurst"}))
    elif " logs load-" in words:
        print((folder / "load").read_text())
    elif "kustomize" in words:
        os.execv(os.environ["KUSTOMIZE"].split()[0], [*os.environ["KUSTOMIZE"].split(), arguments[-1]])
    elif "apply -f -" in words:
        (folder / "applied").write_text(sys.stdin.read())
"""


def check_walk() -> str:
    """demo.sh from nothing, again, and down: what it calls, in which order, and what it says."""
    with tempfile.TemporaryDirectory(prefix="sigmad-walk-") as name:
        folder = Path(name)
        (folder / "bin").mkdir()
        for tool in ("minikube", "kubectl", "helm"):
            path = folder / "bin" / tool
            path.write_text(PLAY.replace("VERSION", VERSION))
            path.chmod(0o755)
        # What the replicas and the generator say is real.
        with bench.sigmad() as (_, port):
            command = [bench.sigmad_binary(), "load", f"--url=http://127.0.0.1:{port}", "--rate=200", "--duration=1s"]
            done = subprocess.run([*command, "--json=-"], capture_output=True, text=True, check=True)
            # As a pod's log has both.
            (folder / "load").write_text(done.stderr + done.stdout)
            scrape = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
            (folder / "scrape").write_text(scrape)
        own = shutil.which("kustomize")
        kustomize = f"{own} build" if own else f"{shutil.which('kubectl')} kustomize"
        environment = os.environ | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PLAY": name,
            "KUSTOMIZE": kustomize,
            "RATE": "4321",
            "DURATION": "7s",
            "RUNS": "2",
            "WATCH_STEP_S": "0.2",
        }

        def walk(*flags: str) -> tuple[str, list[list[str]]]:
            (folder / "calls").write_text("")
            command = [str(K8S / "demo.sh"), *flags]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env=environment,
                check=False,
                timeout=120,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            return done.stdout, [json.loads(line) for line in (folder / "calls").read_text().splitlines()]

        text, calls = walk()
        said = [" ".join(call) for call in calls]

        def place(part: str) -> int:
            found = [number for number, each in enumerate(said) if part in each]
            assert found, f"never called: {part}"
            return found[0]

        order = ["minikube start", "addons enable metrics-server", "image build", "apply -k k8s/monitoring"]
        order += ["upgrade --install prometheus", "apply -k k8s/overlays/minikube", "delete job", "apply -f -"]
        places = [place(part) for part in order]
        assert places == sorted(places), list(zip(order, places, strict=True))
        for call in calls:
            wanted = {"kubectl": "--context", "helm": "--kube-context", "minikube": "--profile"}[call[0]]
            assert call[call.index(wanted) + 1] == "sigmad", f"another cluster than its own: {call}"
        applied = (folder / "applied").read_text()
        for part in ('value: "4321"', 'value: "7s"', "completions: 2", "kind: NetworkPolicy"):
            assert part in applied, f"{part} is not in {applied}"
        rows = dict(re.findall(r"^  (\S.*?)  +(\S.*)$", text, re.MULTILINE))
        assert rows["replicas, minimum and maximum"] == "2, 5; at the end 2", rows
        assert rows["runs of the generator"] == "2, complete", rows
        assert re.fullmatch(r"0 of \d+ requests sent", rows["errors"]), rows
        assert "TLS handshake timeout" in text, "no call failed"
        assert 0 < int(rows["2xx responses per second"]) <= 210, rows
        assert re.fullmatch(r"at most [0-9.e-]+ ms", rows["p95, measured by the replicas"]), rows
        assert rows["average CPU of all replicas"].endswith("m"), rows
        assert rows["alerts at the webhook"] == "1", rows

        (folder / "hpa").unlink()
        _, again = walk("--no-monitoring")
        assert not any(call[:2] == ["minikube", "start"] for call in again), "it runs"
        assert not any(call[0] == "helm" for call in again)
        _, down = walk("--down")
        assert down == [["minikube", "delete", "--profile", "sigmad"]], down
        for flags, missing in (["--down"], "minikube"), ([], "helm"), (["--no-monitoring"], "kubectl"):
            check_missing_tool(flags, missing, folder / "bin", environment)
        return f"the walk: {len(calls)} calls in order"


def check_missing_tool(flags: list[str], missing: str, tools: Path, environment: dict[str, str]) -> None:
    """A tool that is not installed is named, before anything is done."""
    with tempfile.TemporaryDirectory(prefix="sigmad-tools-") as name:
        for tool in ("bash", "dirname", "sed", "python3", "cat", "env"):
            (Path(name) / tool).symlink_to(shutil.which(tool))
        for tool in {"minikube", "kubectl", "helm"} - {missing}:
            (Path(name) / tool).symlink_to(tools / tool)
        calls = tools.parent / "calls"
        calls.write_text("")
        command = [str(K8S / "demo.sh"), *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=environment | {"PATH": name}, check=False)
        assert done.returncode == 1 and done.stderr == f"demo: {missing} is not installed\n", done
        assert not calls.read_text()


def check_unsent() -> None:
    """Requests that the generator never sent are no errors of sigmad."""
    run = {"elapsed_s": 30.0, "requests": {"sent": 90, "good": 89, "unsent": 10}}
    rows = dict(watch.table(watch.Seen(state="complete", replicas=[2], runs=[run])))
    assert rows["errors"] == "1 of 90 requests sent", rows
    assert rows["due, and not sent"].startswith("10,"), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    check_algorithm()
    print("autoscaler:", check_demo_load(arguments.record), flush=True)
    check_unsent()
    print("autoscaler: ok,", check_walk())


if __name__ == "__main__":
    main()
