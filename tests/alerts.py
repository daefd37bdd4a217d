#!/usr/bin/env python3
"""Rules, alerts and the dashboard, with the real Prometheus and Alertmanager.

First on paper: promtool and amtool read every file, and the rules are run over noise drawn at random and over
bursts. Then for real, on loopback: two replicas with one Redis behind nginx, scraped by Prometheus; noise at
1,000 samples a second raises nothing, a burst reaches the webhook within 30 s and is taken back; every query
of the dashboard gives data, and both replicas are replaced under load without a failed request.
`make alerts` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench
import proxy
from nginx import HTTP

MONITORING = bench.ROOT / "k8s" / "monitoring"
# Of values with normal noise, judged by the 50 before them, so many lie past two standard deviations.
NOISE = 0.056
STEP_S = 5
# Long enough that the noise fills every window of the rules that is used before the baseline is known.
CALM_S = 45.0
BURST_S = 6.0
# From the first wrong value to the webhook.
FIRING_S_MAX = 30.0
# The windows of 15 s empty, then Alertmanager's group_interval.
RESOLVED_S_MAX = 90.0
# Messages at the same time, and the alerts of each.
CROWD = 8
CROWD_ALERTS = 50
CROWD_S_MAX = 60.0
CLIENTS = 4
BATCH = 50
SAMPLES_PER_S = 1000
DEVICES = 100


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def check_files() -> None:
    for name in ("rules.yml", "seed-rules.yml"):
        run("promtool", "check", "rules", str(MONITORING / name))
    run("promtool", "test", "rules", str(MONITORING / "rules.test.yml"))
    run("amtool", "check-config", str(MONITORING / "alertmanager.yml"))
    with tempfile.TemporaryDirectory(prefix="sigmad-alerts-") as folder:
        for file in (bench.ROOT / "compose" / "prometheus.yml", MONITORING / "rules.yml"):
            shutil.copy(file, folder)
        run("promtool", "check", "config", str(Path(folder) / "prometheus.yml"))


def binomial(draw: random.Random, count: int, share: float) -> int:
    """Near enough: exact where few, normal where many."""
    if count * share < 30:
        return sum(draw.random() < share for _ in range(count))
    spread = math.sqrt(count * share * (1 - share))
    return max(0, round(draw.gauss(count * share, spread)))


def series(per_s: int, seed: int, burst_at_s: int | None, burst_share: float, minutes: int) -> list[dict]:
    """Two replicas that share `per_s` samples a second, as they would be scraped."""
    draw = random.Random(seed)
    rows = [{"series": 'up{job="sigmad", instance="a"}', "values": f"1x{minutes * 60 // STEP_S}"}]
    for instance in ("a", "b"):
        samples, anomalies = [0], [0]
        for at_s in range(STEP_S, minutes * 60 + 1, STEP_S):
            count = per_s * STEP_S // 2
            wrong = burst_at_s is not None and burst_at_s < at_s <= burst_at_s + 10
            samples.append(samples[-1] + count)
            anomalies.append(anomalies[-1] + binomial(draw, count, burst_share if wrong else NOISE))
        for name, values in (("sigmad_samples_judged_total", samples), ("anomalies_total", anomalies)):
            label = ', metric="rps"' if name == "anomalies_total" else ""
            row = f'{name}{{job="sigmad", instance="{instance}"{label}}}'
            rows.append({"series": row, "values": " ".join(map(str, values))})
    return rows


def check_noise() -> int:
    """Noise for a quarter of an hour raises nothing; a burst after it does, within 30 s."""
    tests = []
    silent = [{"expr": "count_over_time(ALERTS[15m])", "eval_time": "15m", "exp_samples": []}]
    for per_s in (1000, 100, 10, 2):
        for seed in range(5):
            rows = series(per_s, seed, None, 0, 15)
            name = f"noise, {per_s} samples/s, seed {seed}"
            tests.append({"name": name, "interval": f"{STEP_S}s", "input_series": rows, "promql_expr_test": silent})
    # Before the baseline is known, and after.
    for burst_at_s, share in ((300, 0.4), (780, 0.4), (780, 0.15)):
        for seed in range(5):
            fired = {
                "expr": 'count(max_over_time(ALERTS{alertname="SigmadAnomalyBurst", alertstate="firing"}[30s]))',
                "eval_time": f"{burst_at_s + 30}s",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
            before = {"expr": "count_over_time(ALERTS[15m])", "eval_time": f"{burst_at_s}s", "exp_samples": []}
            rows = series(1000, seed, burst_at_s, share, 15)
            name = f"a burst of {share} at {burst_at_s} s, seed {seed}"
            tests.append(
                {"name": name, "interval": f"{STEP_S}s", "input_series": rows, "promql_expr_test": [before, fired]}
            )
    with tempfile.TemporaryDirectory(prefix="sigmad-alerts-") as folder:
        document = {
            "rule_files": [str(MONITORING / "rules.yml")],
            "evaluation_interval": f"{STEP_S}s",
            "tests": tests,
        }
        path = Path(folder) / "noise.yml"
        path.write_text(yaml.safe_dump(document))
        run("promtool", "test", "rules", str(path))
    return len(tests)


def expressions_of_dashboard() -> dict[str, str]:
    """Every query of every panel and annotation, by where it stands."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    variables = [each["name"] for each in dashboard["templating"]["list"]]
    assert variables == ["datasource", "sigmad", "metric", "replica", "device", "page"], variables
    found = {}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            if target["datasource"]["uid"] == "${sigmad}":
                # Asked of sigmad itself.
                assert target["url"].startswith(("/devices?", "/incidents?")), target
                continue
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
            # The shortest that Grafana takes: four scrapes.
            expression = target["expr"].replace("$__rate_interval", f"{4 * STEP_S}s")
            expression = expression.replace("$metric", "rps").replace("$replica", ".*")
            assert "$" not in expression, expression
            found[f"{panel['title']}, {target['refId']}"] = expression
    return found


def check_json_queries() -> int:
    """What the Infinity data source asks of sigmad: paths, lists and fields are those of the OpenAPI document."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    document = json.loads((bench.ROOT / "src" / "api" / "openapi.json").read_text())
    schemas = document["components"]["schemas"]

    def of(schema: dict) -> dict:
        return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    [incidents] = [one["target"] for one in dashboard["annotations"]["list"] if one["name"] == "Incidents"]
    # The one format that becomes annotations, and the columns that they are made of.
    assert incidents["format"] == "dataframe"
    assert {column["text"] for column in incidents["columns"]} >= {"time", "timeEnd", "title", "text", "tags"}
    asked = [target for panel in dashboard["panels"] for target in panel.get("targets", []) if "url" in target]
    asked += [each["query"]["infinityQuery"] for each in dashboard["templating"]["list"] if each["name"] == "device"]
    for target in [*asked, incidents]:
        path, _, fields = target["url"].partition("?")
        operation = document["paths"][path]["get"]
        parameters = [
            document["components"]["parameters"][one["$ref"].rpartition("/")[2]] for one in operation["parameters"]
        ]
        assert {field.partition("=")[0] for field in fields.split("&")} <= {one["name"] for one in parameters}, target[
            "url"
        ]
        answer = of(operation["responses"]["200"]["content"]["application/json"]["schema"])
        rows = of(answer["properties"][target["root_selector"]]["items"])
        selected = {column["selector"] for column in target["columns"]}
        assert selected <= set(rows["properties"]), f"{target['url']}: {selected - set(rows['properties'])}"
    return len(asked) + 1


def names_in(expression: str) -> set[str]:
    """Metric names, not those of labels, functions and rules of our own."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]', " ", expression)
    bare = re.sub(r"\b(?:by|on|group_left|without)\s*\([^)]*\)", " ", bare)
    words = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\w*\s*\()", bare))
    return {word for word in words if "_" in word or word in ("zscore", "up")}


def check_metric_names(scrape: str) -> int:
    """Whatever rules and dashboard speak of is in the scrape, or recorded by a rule."""
    rules = yaml.safe_load((MONITORING / "rules.yml").read_text())
    listed = [rule for group in rules["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in listed if "record" in rule}
    shown = set(re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)[ {]", scrape, re.MULTILINE)) | {"up"}
    used = set()
    for expression in [rule["expr"] for rule in listed] + list(expressions_of_dashboard().values()):
        used |= names_in(expression)
    own = {name for name in used if name.startswith("sigmad:")}
    functions = {"histogram_quantile", "clamp_min", "group_left", "group_right"}
    missing = used - own - shown - functions
    assert not missing, f"in no scrape: {missing}"
    assert own <= recorded, f"recorded by no rule: {own - recorded}"
    return len(used)


class Feed(proxy.Clients):
    """Clients that post a fleet's noise through nginx, or worse when told to; counts what fails."""

    def __init__(self, port: int) -> None:
        super().__init__(port, CLIENTS)
        self.burst = threading.Event()

    def drive(self, number: int) -> None:
        draw = random.Random(number)
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        gap = BATCH * CLIENTS / SAMPLES_PER_S
        due = time.monotonic()
        while not self.stop.is_set():
            samples = []
            for _ in range(BATCH):
                # A burst: everybody is asked for three times as much.
                value = draw.gauss(1000, 50) * (3 if self.burst.is_set() else 1)
                # Each client has devices of its own, so that the order of their values is its own.
                device = f"edge-{number}-{draw.randrange(DEVICES // CLIENTS)}"
                samples.append({"device": device, "rps": max(0, value), "cpu": min(100, max(0, draw.gauss(50, 5)))})
            try:
                client.request("POST", "/ingest", json.dumps(samples), {"Content-Type": "application/json"})
                answer = client.getresponse()
                answer.read()
                code = str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                code = type(error).__name__
                client.close()
            with self.lock:
                self.codes[code] += 1
            due += gap
            self.stop.wait(max(0, due - time.monotonic()))


class Webhook:
    """k8s/monitoring/webhook.py, and the alerts that it has shown."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.port = bench.free_port()
        self.alerts: list[dict] = []
        command = [sys.executable, str(MONITORING / "webhook.py")]
        environment = os.environ | {"WEBHOOK_LISTEN": f"127.0.0.1:{self.port}"}
        self.child = stack.enter_context(
            bench.running(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, env=environment)
        )
        threading.Thread(target=self.read, daemon=True).start()
        bench.wait_for_listener(self.port)

    def read(self) -> None:
        for line in self.child.stdout:
            self.alerts.append(json.loads(line))

    def check_crowd(self) -> None:
        """Messages that arrive at the same time are printed line by line: `read` ends at a line that is no JSON."""
        alert = {
            "status": "firing",
            "labels": {"alertname": "Crowd"},
            "annotations": {},
            "startsAt": "2026-01-01T00:00:00Z",
        }
        body = json.dumps({"alerts": [alert] * CROWD_ALERTS})

        def post() -> None:
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            client.request("POST", "/", body)
            assert client.getresponse().status == 200
            client.close()

        with concurrent.futures.ThreadPoolExecutor(CROWD) as crowd:
            for answer in [crowd.submit(post) for _ in range(CROWD * 4)]:
                answer.result()
        bench.until(
            "all lines are printed whole",
            lambda: len(self.alerts) >= CROWD * 4 * CROWD_ALERTS,
            CROWD_S_MAX,
            lambda: f", but {len(self.alerts)} are",
        )
        self.alerts.clear()

    def wait_for(self, status: str, name: str, seconds: float) -> float:
        """How long it took."""

        def is_shown() -> bool:
            return any(alert["status"] == status and alert["alertname"] == name for alert in list(self.alerts))

        return bench.until(f"{name} is {status}", is_shown, seconds, lambda: f": {self.alerts}")

    def check_hostile(self) -> None:
        """What is no message of Alertmanager ends with an answer, and nobody else waits."""
        for body, expected in ((b"{", 400), (b'{"alerts":[{}]}', 400), (b'{"alerts":1}', 400), (b"[]", 400)):
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            client.request("POST", "/", body)
            assert client.getresponse().status == expected, body
            client.close()


def query(port: int, expression: str) -> list[dict]:
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)["data"]["result"]


def check_dashboard(port: int) -> int:
    """Every query gives a number."""
    expressions = expressions_of_dashboard()
    for place, expression in expressions.items():
        values = [float(row["value"][1]) for row in query(port, expression)]
        assert any(math.isfinite(value) for value in values), f"{place}: {expression}: {values}"
    return len(expressions)


def config_of_prometheus(folder: Path, replicas: list[int], alertmanager: int) -> Path:
    """compose/prometheus.yml, with the addresses of here."""
    config = yaml.safe_load((bench.ROOT / "compose" / "prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    assert job["scrape_interval"] == f"{STEP_S}s"
    job["static_configs"][0]["targets"] = [f"127.0.0.1:{port}" for port in replicas]
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    shutil.copy(MONITORING / "rules.yml", folder)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def start_monitoring(stack: contextlib.ExitStack, folder: Path, replicas: list[int], webhook: int) -> int:
    """The port of Prometheus."""
    alerts, prometheus = bench.free_port(), bench.free_port()
    text = (MONITORING / "alertmanager.yml").read_text()
    assert "http://alert-webhook:9095/" in text
    (folder / "alertmanager.yml").write_text(text.replace("alert-webhook:9095", f"127.0.0.1:{webhook}"))
    command = ["prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/am"]
    command += [f"--web.listen-address=127.0.0.1:{alerts}", "--cluster.listen-address="]
    stack.enter_context(bench.running(command, stderr=(folder / "alertmanager.log").open("w")))
    config = config_of_prometheus(folder, replicas, alerts)
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb"]
    command += [f"--web.listen-address=127.0.0.1:{prometheus}"]
    stack.enter_context(bench.running(command, stderr=(folder / "prometheus.log").open("w")))
    bench.wait_for_listener(alerts, 30)
    bench.wait_for_listener(prometheus, 30)
    return prometheus


def replace(replicas: dict, ports: dict, flags: list[str]) -> None:
    """One after the other, as a rollout would."""
    for name in ("first", "second"):
        child = replicas[name].child
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 0, f"the {name} replica exits {child.returncode}"
        replicas[name].close()
        child, _ = replicas[name].enter_context(bench.sigmad(*flags, listen=f"127.0.0.1:{ports[name]}"))
        replicas[name].child = child
        time.sleep(2)


def check_live() -> str:
    with contextlib.ExitStack() as stack:
        folder = proxy.folder(stack, "alerts")
        redis = stack.enter_context(bench.redis(folder))
        ports = {name: bench.free_port() for name in ("first", "second", "port", "stock")}
        flags = ["--redis-url", f"redis://127.0.0.1:{redis}", "--workers", "1"]
        replicas = {}
        for name in ("first", "second"):
            replicas[name] = stack.enter_context(contextlib.ExitStack())
            child, _ = replicas[name].enter_context(bench.sigmad(*flags, listen=f"127.0.0.1:{ports[name]}"))
            replicas[name].child = child
        proxy.start(stack, folder, HTTP.format(**ports), ports["port"])
        webhook = Webhook(stack)
        webhook.check_hostile()
        webhook.check_crowd()
        prometheus = start_monitoring(stack, folder, [ports["first"], ports["second"]], webhook.port)

        with Feed(ports["port"]) as feed:
            time.sleep(CALM_S)
            firing = query(prometheus, "ALERTS")
            assert not webhook.alerts and not firing, f"noise raises {webhook.alerts} {firing}"
            share = query(prometheus, 'sigmad:anomalies:ratio15s{metric="rps"}')
            noise = float(share[0]["value"][1])
            rate = float(query(prometheus, "sum(rate(sigmad_samples_judged_total[15s]))")[0]["value"][1])
            scrape = urllib.request.urlopen(f"http://127.0.0.1:{ports['first']}/metrics", timeout=60).read().decode()
            names = check_metric_names(scrape)
            panels = check_dashboard(prometheus)

            start = time.monotonic()
            feed.burst.set()
            stop = threading.Timer(BURST_S, feed.burst.clear)
            stop.start()
            fired = webhook.wait_for("firing", "SigmadAnomalyBurst", FIRING_S_MAX)
            stop.join()
            ended = time.monotonic()
            webhook.wait_for("resolved", "SigmadAnomalyBurst", RESOLVED_S_MAX)
            resolved = time.monotonic() - ended
            replace(replicas, ports, flags)
            # On the same addresses, as a container that was killed.
            webhook.wait_for("firing", "SigmadRestarted", FIRING_S_MAX)
        codes = dict(feed.codes)
        assert set(codes) == {"202"}, f"requests failed: {codes}"
        assert time.monotonic() - start < 300
        expected = {"SigmadAnomalyBurst", "SigmadAnomalies", "SigmadRestarted"}
        others = {alert["alertname"] for alert in webhook.alerts} - expected
        assert not others, others
    return (
        f"{rate:.0f} samples/s of noise, {noise:.1%} anomalies, silent; a burst known after {fired:.1f} s, "
        f"taken back {resolved:.0f} s after its end; {panels} queries of the dashboard give data, {names} metric names "
        f"are there; {codes['202']} requests through two restarts, none failed"
    )


def main() -> None:
    check_files()
    check_json_queries()
    count = check_noise()
    print(f"alerts: on paper ok, {count} random histories", flush=True)
    print("alerts: ok,", check_live())


if __name__ == "__main__":
    main()
