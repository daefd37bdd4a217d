#!/usr/bin/env python3
"""Everything under k8s/: what a schema sees, and what only an API server would refuse.

Each kustomization is built with kubectl (or kustomize) and held against the schemas of two versions of
Kubernetes. Those accept a request above its limit, a Service without pods, a Secret that nobody makes; so the
laws below are our own. Settings are read by the real binary, Redis is started with the real configuration,
and the rest (Prometheus' rules, Alertmanager, dashboard, Compose) must name what is there.
`make manifests` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench

ROOT = bench.ROOT
K8S = ROOT / "k8s"
KUSTOMIZATIONS = ("base", "overlays/minikube", "overlays/production", "monitoring", "loadgen", "sidecar", "stateful")
# The oldest with everything that is used here (sleep before the end), and the newest there is a schema for.
VERSIONS = ("1.32", "1.37")
# Kinds of others, for which Kubernetes has no schema.
FOREIGN = {"HTTPRoute", "ServiceMonitor", "PrometheusRule", "Issuer", "Certificate"}
# Never deleted by a rollout, so anything that is rolled by a changed setting must name them by their hash.
WORKLOADS = {"Deployment", "StatefulSet", "Job"}
# Probes and what is read by tools and people with a port-forward: not for the world. Nor is whatever looks into
# the process.
# The last one: controllers refuse a path with `@`.
INSIDE = {"/health", "/healthz", "/livez", "/readyz", "/openapi.json", "/metrics/job@base64/{rest}"}
INSIDE_PREFIX = "/debug/"
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]

Objects = list[dict]


def build(folder: Path) -> Objects:
    # scripts/setup.sh installs kustomize where kubectl has none, or too old a one.
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def name_of(item: dict) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def of_kind(objects: Objects, *kinds: str) -> Objects:
    return [item for item in objects if item["kind"] in kinds]


def pod_of(workload: dict) -> dict:
    return workload["spec"]["template"]


def containers(pod: dict) -> list[dict]:
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def quantity(text: str | int) -> float:
    """A number of Kubernetes: 250m, 64Mi, 2."""
    number, suffix = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text)).groups()
    powers = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return float(number) * powers[suffix]


def matches(selector: dict, labels: dict) -> bool:
    return selector.items() <= labels.items()


def check_schemas(objects: Objects) -> None:
    for item in objects:
        if item["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise AssertionError(f"{name_of(item)}, {version}: {error.message}") from None


def check_names(objects: Objects) -> None:
    """Each object once, and in its namespace."""
    seen = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
    assert len(seen) == len(set(seen)), seen
    namespaces = {item["metadata"]["name"] for item in of_kind(objects, "Namespace")}
    for item in objects:
        namespace = item["metadata"].get("namespace")
        if item["kind"] == "Namespace":
            continue
        assert namespace, f"{name_of(item)} has no namespace"
        assert not namespaces or namespace in namespaces, f"{name_of(item)}: nobody makes {namespace}"
        labels = item["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/part-of") == "sigmad", name_of(item)
    for namespace in namespaces & {"sigmad"}:
        labels = of_kind(objects, "Namespace")[0]["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted", namespace


def check_resources(workload: dict) -> None:
    for container in containers(pod_of(workload)):
        place = f"{name_of(workload)}, {container['name']}"
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys(), f"{place}: requests"
        assert "memory" in resources["limits"], f"{place}: without a limit one pod takes the node's memory"
        for resource, limit in resources["limits"].items():
            request = resources["requests"][resource]
            assert quantity(request) <= quantity(limit), f"{place}: requests more {resource} than its limit"


def check_images(workload: dict) -> None:
    for container in containers(pod_of(workload)):
        image = container["image"]
        name, _, tag = image.rpartition(":")
        assert name and tag and "/" not in tag, f"{name_of(workload)}: {image} has no tag"
        assert tag != "latest", f"{name_of(workload)}: {image}"
        assert "bitnami" not in name, f"{name_of(workload)}: {image} can no longer be pulled"
        if name.rpartition("/")[2] == "sigmad":
            assert tag == VERSION, f"{name_of(workload)}: {image}, and this is {VERSION}"


def check_security(workload: dict) -> None:
    """The restricted profile of pod security, and a read-only root besides."""
    spec = pod_of(workload)["spec"]
    context = spec["securityContext"]
    place = name_of(workload)
    assert context["runAsNonRoot"] is True and context["runAsUser"] > 0, place
    assert context["seccompProfile"]["type"] == "RuntimeDefault", place
    assert spec["automountServiceAccountToken"] is False, place
    for shared in ("hostNetwork", "hostPID", "hostIPC"):
        assert not spec.get(shared), place
    for container in containers(pod_of(workload)):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True, place
        assert own["capabilities"] == {"drop": ["ALL"]} and not own.get("privileged"), place
        assert not any("hostPort" in port for port in container.get("ports", [])), place
    kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "secret", "emptyDir", "projected"}, f"{place}: {kinds}"
    assert spec.get("enableServiceLinks") is False, f"{place}: a Service would set variables of its own"


def check_references(objects: Objects, by_hand: dict[str, set[str]]) -> None:
    """ConfigMaps, Secrets, their keys and ServiceAccounts are there; volumes too."""
    maps = {item["metadata"]["name"]: set(item.get("data", {})) for item in of_kind(objects, "ConfigMap")}
    secrets = {name: set(keys) for name, keys in by_hand.items()}
    for item in of_kind(objects, "Secret"):
        secrets[item["metadata"]["name"]] = set(item.get("data", {})) | set(item.get("stringData", {}))
    for item in of_kind(objects, "Certificate"):
        secrets[item["spec"]["secretName"]] = {"tls.crt", "tls.key", "ca.crt"}
    accounts = {item["metadata"]["name"] for item in of_kind(objects, "ServiceAccount")} | {"default"}
    for workload in of_kind(objects, *WORKLOADS):
        spec, place = pod_of(workload)["spec"], name_of(workload)
        assert spec.get("serviceAccountName", "default") in accounts, place
        volumes = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for volume in spec.get("volumes", []):
            volumes.add(volume["name"])
            for source, keys_by_name, name_field in (("configMap", maps, "name"), ("secret", secrets, "secretName")):
                if source in volume:
                    name = volume[source][name_field]
                    assert name in keys_by_name, f"{place}: nobody makes the {source} {name}"
                    wanted = {each["key"] for each in volume[source].get("items", [])}
                    assert wanted <= keys_by_name[name], f"{place}: {name} has no {wanted - keys_by_name[name]}"
        for container in containers(pod_of(workload)):
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= volumes, f"{place}: no volume {mounted - volumes}"
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(paths) == len(set(paths)), f"{place}: {paths}"
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in maps, f"{place}: {source}"
            known: list[str] = []
            if workload["spec"].get("completionMode") == "Indexed":
                known.append("JOB_COMPLETION_INDEX")
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    assert reference["key"] in secrets.get(reference["name"], ()), f"{place}: {reference}"
                # Only names that stand above are expanded; others stay as they are written.
                for used in re.findall(r"\$\(([A-Z_]+)\)", variable.get("value", "")):
                    assert used in known, f"{place}: {variable['name']} uses {used}, which stands below it or nowhere"
                known.append(variable["name"])
            for argument in container.get("args", []) + container.get("command", []):
                for used in re.findall(r"\$\(([A-Z_]+)\)", argument):
                    assert used in known, f"{place}: {argument}"


def check_selectors(objects: Objects) -> None:
    """What selects pods finds some, and ports are those of the pods."""
    workloads = of_kind(objects, *WORKLOADS)
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        labels = pod_of(workload)["metadata"]["labels"]
        assert matches(workload["spec"]["selector"]["matchLabels"], labels), name_of(workload)
        for constraint in pod_of(workload)["spec"].get("topologySpreadConstraints", []):
            assert matches(constraint["labelSelector"]["matchLabels"], labels), name_of(workload)
        for other in workloads:
            if other is not workload:
                selected = matches(workload["spec"]["selector"]["matchLabels"], pod_of(other)["metadata"]["labels"])
                assert not selected, f"{name_of(workload)} takes the pods of {name_of(other)}"

    def selected(selector: dict) -> Objects:
        return [each for each in workloads if matches(selector, pod_of(each)["metadata"]["labels"])]

    for service in of_kind(objects, "Service"):
        found = selected(service["spec"]["selector"])
        assert len(found) == 1, f"{name_of(service)} finds {[name_of(each) for each in found]}"
        ports = {port["name"]: port for each in containers(pod_of(found[0])) for port in each.get("ports", [])}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports, f"{name_of(service)}: no port {port['targetPort']}"
            if "nodePort" in port:
                assert 30000 <= port["nodePort"] <= 32767 and service["spec"]["type"] == "NodePort"
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert selected(budget["spec"]["selector"]["matchLabels"]), name_of(budget)
        assert budget["spec"].get("maxUnavailable", 1) >= 1, f"{name_of(budget)}: no node could be drained"
    for workload in of_kind(objects, "StatefulSet"):
        services = {each["metadata"]["name"] for each in of_kind(objects, "Service")}
        assert workload["spec"]["serviceName"] in services, name_of(workload)
    for monitor in of_kind(objects, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [each for each in of_kind(objects, "Service") if matches(wanted, each["metadata"]["labels"])]
        assert len(found) == 1, name_of(monitor)
        assert found[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "sigmad", "the rules speak of this job"
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["port"] in {port["name"] for port in found[0]["spec"]["ports"]}, name_of(monitor)


def check_autoscalers(objects: Objects) -> None:
    workloads = {name_of(item): item for item in of_kind(objects, *WORKLOADS)}
    for hpa in of_kind(objects, "HorizontalPodAutoscaler"):
        spec = hpa["spec"]
        target = workloads.get(f"{spec['scaleTargetRef']['kind']} {spec['scaleTargetRef']['name']}")
        assert target, f"{name_of(hpa)}: no {spec['scaleTargetRef']}"
        assert spec["scaleTargetRef"]["apiVersion"] == target["apiVersion"]
        assert 1 <= spec["minReplicas"] <= spec["maxReplicas"], name_of(hpa)
        assert "replicas" not in target["spec"], f"{name_of(target)}: each apply would undo {name_of(hpa)}"
        for metric in spec["metrics"]:
            resource = metric["resource"]
            assert 0 < resource["target"]["averageUtilization"] <= 100
            for container in containers(pod_of(target)):
                # Of a container without a request there is no share, and the autoscaler says <unknown>.
                assert resource["name"] in container["resources"]["requests"], name_of(hpa)
        for budget in of_kind(objects, "PodDisruptionBudget"):
            assert budget["spec"].get("minAvailable", 0) < spec["minReplicas"], name_of(budget)


def check_probes(objects: Objects, routes: dict[str, set[str]]) -> None:
    """Paths are routes, ports are named; who ends has time to."""
    for workload in of_kind(objects, *WORKLOADS):
        spec, place = pod_of(workload)["spec"], name_of(workload)
        for container in containers(pod_of(workload)):
            ports = {port["name"] for port in container.get("ports", [])}
            is_sigmad = container["image"].rpartition(":")[0].endswith("sigmad")
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if workload["kind"] == "Job" or probe not in container:
                    continue
                way = container[probe].get("httpGet") or container[probe].get("tcpSocket")
                if way:
                    assert way["port"] in ports, f"{place}: {probe}"
                if way and "path" in way and is_sigmad:
                    assert "get" in routes.get(way["path"], ()), f"{place}: {probe} asks for {way['path']}"
            if not ports:
                continue
            assert "readinessProbe" in container and "livenessProbe" in container, place
            if is_sigmad:
                assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", place
                assert container["livenessProbe"]["httpGet"]["path"] == "/livez", f"{place}: without dependencies"
                sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
                settings = settings_of(objects, container)
                drain = int(settings["SIGMAD_DRAIN"].removesuffix("s"))
                grace = spec["terminationGracePeriodSeconds"]
                assert sleep + drain < grace, f"{place}: {sleep} s + {drain} s of {grace} s"
                # Endpoints are known everywhere within a few seconds.
                assert sleep >= 5, place


def settings_of(objects: Objects, container: dict) -> dict[str, str]:
    """The environment of a container of sigmad, as Kubernetes would make it."""
    settings: dict[str, str] = {}
    for source in container.get("envFrom", []):
        [config] = [each for each in objects if name_of(each) == f"ConfigMap {source['configMapRef']['name']}"]
        settings.update(config["data"])
    values: dict[str, str] = {}
    for variable in container.get("env", []):
        value = variable.get("value", "0123456789abcdef")
        values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda found: values[found.group(1)], value)
    return settings | values


def check_settings(objects: Objects) -> None:
    """The binary takes every setting, and none is unknown to it."""
    for workload in of_kind(objects, "Deployment"):
        for container in containers(pod_of(workload)):
            settings = settings_of(objects, container)
            if not any(name.startswith("SIGMAD_") for name in settings):
                continue
            check_secret_files(name_of(workload), workload, container, settings)
            done = printed_config(settings)
            assert done.returncode == 0, f"{name_of(workload)}: {done.stderr}"
            known = set(re.findall(r"^(?:# )?(SIGMAD_\w+)", done.stdout, re.MULTILINE))
            unknown = {name for name in settings if name.startswith("SIGMAD_")} - known
            assert not unknown, f"{name_of(workload)}: no settings: {unknown}"
            if "SIGMAD_REDIS_URL" in settings:
                host = urlsplit(settings["SIGMAD_REDIS_URL"])
                services = {
                    (each["metadata"]["name"], port["port"])
                    for each in of_kind(objects, "Service")
                    for port in each["spec"]["ports"]
                }
                assert (host.hostname, host.port) in services, f"{name_of(workload)}: no Service {host.hostname}"
            check_memory_plan(name_of(workload), container, settings)


def printed_config(settings: dict[str, str]) -> subprocess.CompletedProcess:
    """What the binary makes of these variables; the files of secrets are not those of a pod."""
    with tempfile.NamedTemporaryFile("w", prefix="sigmad-secret-") as secret:
        secret.write("0123456789abcdef")
        secret.flush()
        values = {name: f"@{secret.name}" if value.startswith("@") else value for name, value in settings.items()}
        return subprocess.run(
            [bench.sigmad_binary(), "--print-config"],
            capture_output=True,
            text=True,
            env=values | {"PATH": os.environ["PATH"]},
            check=False,
            timeout=10,
        )


def check_secret_files(place: str, workload: dict, container: dict, settings: dict[str, str]) -> None:
    """A secret is a file of a mounted Secret, which follows it while the pod runs; a variable does not."""
    if "SIGMAD_REDIS_URL" in settings:
        url = urlsplit(settings["SIGMAD_REDIS_URL"])
        assert not url.password, f"{place}: a password in a variable needs a restart to change"
        assert settings["SIGMAD_REDIS_PASSWORD"].startswith("@"), f"{place}: no file has the password of Redis"
    volumes = {volume["name"]: volume for volume in pod_of(workload)["spec"].get("volumes", [])}
    for name, value in settings.items():
        if not value.startswith("@"):
            continue
        path = Path(value.removeprefix("@"))
        mounts = [each for each in container["volumeMounts"] if Path(each["mountPath"]) == path.parent]
        assert mounts, f"{place}: {name} names {path}, where nothing is mounted"
        assert "subPath" not in mounts[0], f"{place}: a file by subPath never changes"
        items = volumes[mounts[0]["name"]]["secret"]["items"]
        assert path.name in {each["path"] for each in items}, f"{place}: {name} names {path}, which is no file"


def memory_plan(container: dict, settings: dict[str, str]) -> list[dict]:
    """How the binary divides the memory limit of the container, and what it warns of: the lines of its log."""
    limit = str(int(quantity(container["resources"]["limits"]["memory"])))
    values = settings | {"SIGMAD_MEMORY_LIMIT": limit, "SIGMAD_LISTEN": "127.0.0.1:0", "SIGMAD_LOG_FORMAT": "json"}
    # Nobody is there, and no password is sent.
    values |= {"SIGMAD_REDIS_URL": "redis://127.0.0.1:1", "PATH": os.environ["PATH"]}
    values.pop("SIGMAD_REDIS_PASSWORD", None)
    found = []
    with bench.running([bench.sigmad_binary()], stderr=subprocess.PIPE, text=True, env=values) as child:
        for text in child.stderr:
            assert text.startswith("{"), f"sigmad does not start with {settings}: {text}"
            line = json.loads(text)
            if line["message"] == "listening":
                return found
            if line["target"].endswith("::memory"):
                found.append(line)
    raise AssertionError(f"sigmad does not start with {settings}")


def check_memory_plan(place: str, container: dict, settings: dict[str, str]) -> None:
    """What the settings may take fits into its share of the container's memory limit (section 4 of the contract)."""
    plan, *warnings = memory_plan(container, settings)
    assert plan["message"] == "memory" and plan["limit_from"] == "--memory-limit", plan
    assert not warnings, f"{place}: {warnings}"
    limit = quantity(container["resources"]["limits"]["memory"])
    body = quantity(settings["SIGMAD_MAX_BODY"].removesuffix("B"))
    assert body <= plan["bodies_bytes"] <= limit / 8, f"{place}: bodies of {body:.0f} bytes, {plan}"


def check_routes(objects: Objects, routes: dict[str, set[str]]) -> None:
    """What is let in from outside is every route that is for the world, and nothing else."""
    public = {path for path in set(routes) - INSIDE if not f"{path}/".startswith(INSIDE_PREFIX)}
    # A path that goes on with a name lets in what is below it, too.
    prefixes = {path.partition("/{")[0] for path in public if "/{" in path}
    public = {path.partition("/{")[0] for path in public}
    services = {each["metadata"]["name"]: each for each in of_kind(objects, "Service")}
    for ingress in of_kind(objects, "Ingress"):
        paths = [path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
        for path in paths:
            is_prefix = path["path"] in prefixes
            assert path["pathType"] == ("Prefix" if is_prefix else "Exact"), f"{path}: lets in what nobody named"
            backend = path["backend"]["service"]
            ports = {port["name"] for port in services[backend["name"]]["spec"]["ports"]}
            assert backend["port"]["name"] in ports, path
        assert {path["path"] for path in paths} == public, public ^ {path["path"] for path in paths}
    for route in of_kind(objects, "HTTPRoute"):
        found = set()
        for rule in route["spec"]["rules"]:
            # As its schema says.
            assert len(rule["matches"]) <= 64 and len(route["spec"]["rules"]) <= 16
            for match in rule["matches"]:
                is_prefix = match["path"]["value"] in prefixes
                assert match["path"]["type"] == ("PathPrefix" if is_prefix else "Exact"), match
                found.add(match["path"]["value"])
            for backend in rule["backendRefs"]:
                ports = {port["port"] for port in services[backend["name"]]["spec"]["ports"]}
                assert backend["port"] in ports, backend
        assert found == public, found ^ public
    ways = of_kind(objects, "Ingress", "HTTPRoute")
    assert len(ways) == 1, "one way in"


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod, by its namespace and labels, or an address."""

    namespace: str = ""
    labels: dict = field(default_factory=dict)
    address: str = ""


STRANGER = Peer(address="203.0.113.7")
# Of a cloud: the address of its DNS, with credentials on another port.
METADATA = Peer(address="169.254.169.254")
NEIGHBOUR = Peer("default", {"app": "other"})
# Where clusters have their DNS. The last two are addresses of the node: no selector finds them.
RESOLVERS = {
    "DNS in kube-system": (Peer("kube-system", {"k8s-app": "kube-dns"}), 53),
    "DNS of OpenShift": (Peer("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}), 5353),
    "NodeLocal DNSCache": (Peer(address="169.254.20.10"), 53),
    "Cloud DNS of GKE": (METADATA, 53),
}


def selects(selector: dict, labels: dict) -> bool:
    """A selector with matchLabels and matchExpressions; an empty one selects everything."""
    for wanted in selector.get("matchExpressions", []):
        is_in = labels.get(wanted["key"]) in wanted["values"]
        if is_in != {"In": True, "NotIn": False}[wanted["operator"]]:
            return False
    return matches(selector.get("matchLabels", {}), labels)


def is_peer(listed: dict, own_namespace: str, peer: Peer) -> bool:
    """Whether an entry of `from` or `to` means this peer."""
    if "ipBlock" in listed:
        assert not listed["ipBlock"].get("except"), "not modelled"
        return bool(peer.address) and ip_address(peer.address) in ip_network(listed["ipBlock"]["cidr"])
    if peer.address:
        return False
    is_near = peer.namespace == own_namespace
    if "namespaceSelector" in listed:
        is_near = selects(listed["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace})
    return is_near and selects(listed.get("podSelector", {}), peer.labels)


def allows(policies: Objects, direction: str, pod: Peer, other: Peer, port: int, protocol: str) -> bool:
    """Whether the policies that select this pod let it send to, or receive from, the other one."""
    rules_name, peers_name = {"Egress": ("egress", "to"), "Ingress": ("ingress", "from")}[direction]
    own = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], pod.labels)
    ]
    for rule in (rule for policy in own for rule in policy["spec"].get(rules_name, [])):
        ports = rule.get("ports", [{"port": port, "protocol": protocol}])
        is_port = any(each["port"] == port and each.get("protocol", "TCP") == protocol for each in ports)
        peers = rule.get(peers_name)
        if is_port and (peers is None or any(is_peer(each, pod.namespace, other) for each in peers)):
            return True
    return not own


def passes(policies: Objects, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    return allows(policies, "Egress", source, target, port, protocol) and allows(
        policies, "Ingress", target, source, port, protocol
    )


def check_network(objects: Objects) -> None:
    """Who reaches whom, by the rules of Kubernetes: what is needed passes, everything else does not."""
    policies = of_kind(objects, "NetworkPolicy")
    for policy in policies:
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            for port in rule["ports"]:
                # The API server adds an absent one, and every apply finds a difference.
                assert "protocol" in port, f"{name_of(policy)}: port {port['port']} has no protocol"
    pods = {
        pod_of(each)["metadata"]["labels"]["app.kubernetes.io/component"]: Peer(
            each["metadata"]["namespace"], pod_of(each)["metadata"]["labels"]
        )
        for each in of_kind(objects, *WORKLOADS)
    }
    server, store = pods["server"], pods["store"]
    clients = [pods[each] for each in ("server", "load") if each in pods]
    for client in clients:
        for name, (resolver, port) in RESOLVERS.items():
            for protocol in ("UDP", "TCP"):
                is_open = passes(policies, client, resolver, port, protocol)
                assert is_open, f"{client.labels}: {name} is cut off, {port} {protocol}"
        for target in (STRANGER, NEIGHBOUR, METADATA):
            for port in (80, 443, 6379, 8080):
                assert not passes(policies, client, target, port), f"{client.labels} reaches {target} {port}"
    assert passes(policies, server, store, 6379), "sigmad does not reach Redis"
    for source in (STRANGER, NEIGHBOUR, *clients):
        # Gateways, scrapes and clients; a replica has nothing to say to another.
        assert source is server or passes(policies, source, server, 8080), f"{source} does not reach sigmad"
        assert source is server or not passes(policies, source, store, 6379), f"{source} reaches Redis"
        assert not passes(policies, store, source, 8080), f"Redis reaches {source}"


def seconds(text: str) -> int:
    """A duration of Prometheus: 15s, 1m."""
    number, unit = re.fullmatch(r"(\d+)([smh])", text).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def check_alerts(objects: Objects) -> None:
    """A replica that ends as it should is no alert: its listener closes, and it is a target until its pod is gone."""
    for resource in of_kind(objects, "PrometheusRule"):
        grace = max(pod_of(each)["spec"]["terminationGracePeriodSeconds"] for each in of_kind(objects, "Deployment"))
        rules = [rule for group in resource["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
        watching = [rule for rule in rules if re.search(r"\bup\{", rule["expr"])]
        assert watching, f"{name_of(resource)}: no alert watches the targets"
        for rule in watching:
            assert seconds(rule.get("for", "0s")) > grace, f"{rule['alert']} fires within the grace of {grace} s"


def check_certificates(objects: Objects) -> None:
    for certificate in of_kind(objects, "Certificate"):
        issuers = {each["metadata"]["name"] for each in of_kind(objects, "Issuer")}
        assert certificate["spec"]["issuerRef"]["name"] in issuers, name_of(certificate)
    for deployment in of_kind(objects, "Deployment"):
        for container in containers(pod_of(deployment)):
            url = urlsplit(settings_of(objects, container).get("SIGMAD_REDIS_URL", ""))
            if url.scheme == "rediss":
                names = [name for each in of_kind(objects, "Certificate") for name in each["spec"].get("dnsNames", [])]
                assert url.hostname in names, f"{url.hostname} is in no certificate"


def check(objects: Objects, routes: dict[str, set[str]], by_hand: dict[str, set[str]]) -> None:
    """All laws of one whole kustomization."""
    check_schemas(objects)
    check_names(objects)
    for workload in of_kind(objects, *WORKLOADS):
        check_resources(workload)
        check_images(workload)
        check_security(workload)
    check_references(objects, by_hand)
    check_selectors(objects)
    check_autoscalers(objects)
    check_probes(objects, routes)
    check_settings(objects)
    check_certificates(objects)
    check_alerts(objects)
    if of_kind(objects, "Ingress", "HTTPRoute"):
        check_routes(objects, routes)
        check_network(objects)


def find(objects: Objects, name: str) -> dict:
    [found] = [item for item in objects if name_of(item) == name]
    return found


def wrongs() -> dict:
    """Mistakes that schemas let pass, each by what is done to the objects of the base."""

    def deployment(objects: Objects) -> dict:
        return find(objects, "Deployment sigmad")

    def container(objects: Objects) -> dict:
        return pod_of(deployment(objects))["spec"]["containers"][0]

    def limit_memory(objects: Objects, memory: str) -> None:
        for resources in container(objects)["resources"].values():
            resources["memory"] = memory

    def hpa(objects: Objects) -> dict:
        return find(objects, "HorizontalPodAutoscaler sigmad")["spec"]

    def settings(objects: Objects) -> dict:
        [found] = [item for item in of_kind(objects, "ConfigMap") if "SIGMAD_DRAIN" in item["data"]]
        return found["data"]

    def way_in(objects: Objects) -> list[dict]:
        return find(objects, "Ingress sigmad")["spec"]["rules"][0]["http"]["paths"]

    def egress(objects: Objects) -> list[dict]:
        """Of sigmad: to Redis, and to DNS."""
        return find(objects, "NetworkPolicy sigmad")["spec"]["egress"]

    def drop(objects: Objects, kind: str) -> None:
        objects[:] = [item for item in objects if item["kind"] != kind]

    return {
        "a request above its limit": lambda o: container(o)["resources"]["requests"].update(cpu="2"),
        "more replicas at least than at most": lambda o: hpa(o).update(minReplicas=6),
        "an autoscaler of nothing": lambda o: hpa(o)["scaleTargetRef"].update(name="sigma"),
        "an autoscaler without a request": lambda o: container(o)["resources"]["requests"].pop("cpu"),
        "a count beside the autoscaler": lambda o: deployment(o)["spec"].update(replicas=2),
        "a pathType that is none": lambda o: way_in(o)[0].update(pathType="exact"),
        "a prefix that lets everything in": lambda o: way_in(o)[0].update(pathType="Prefix"),
        "profiles for the world": lambda o: way_in(o).append(way_in(o)[0] | {"path": "/debug/pprof/profile"}),
        "a path that is no route": lambda o: way_in(o)[0].update(path="/ingset"),
        "a selector that misses its own pods": lambda o: pod_of(deployment(o))["metadata"]["labels"].update(
            {"app.kubernetes.io/name": "x"}
        ),
        "a Service that finds nobody": lambda o: find(o, "Service sigmad")["spec"]["selector"].update(x="y"),
        "a port that no container has": lambda o: find(o, "Service sigmad")["spec"]["ports"][0].update(
            targetPort="https"
        ),
        "a probe of no route": lambda o: container(o)["livenessProbe"]["httpGet"].update(path="/alive"),
        "readiness that does not drain": lambda o: container(o)["readinessProbe"]["httpGet"].update(path="/livez"),
        "less grace than the drain": lambda o: pod_of(deployment(o))["spec"].update(terminationGracePeriodSeconds=30),
        "a Secret that nobody makes": lambda o: drop(o, "Secret"),
        "a ConfigMap that nobody makes": lambda o: drop(o, "ConfigMap"),
        "an account that nobody makes": lambda o: drop(o, "ServiceAccount"),
        "an unknown setting": lambda o: settings(o).update(SIGMAD_WINDOWS="50"),
        "a bad value": lambda o: settings(o).update(SIGMAD_MAX_BODY="lots"),
        "more streams than half of the memory": lambda o: settings(o).update(SIGMAD_MAX_STREAMS="100000"),
        "a limit too small for its settings": lambda o: [
            settings(o).update(SIGMAD_MAX_STREAMS="80000"),
            limit_memory(o, "128Mi"),
        ],
        "a body above its share": lambda o: settings(o).update(SIGMAD_MAX_BODY="64MiB"),
        "a store queue above its share": lambda o: settings(o).update(SIGMAD_REDIS_QUEUE="64MiB"),
        "a port without a protocol": lambda o: egress(o)[0]["ports"][0].pop("protocol"),
        "no DNS at all": lambda o: egress(o).pop(1),
        "DNS of pods alone": lambda o: egress(o)[1].update(to=egress(o)[1]["to"][:1]),
        "DNS of kube-system alone": lambda o: egress(o)[1]["to"][0]["namespaceSelector"]["matchExpressions"][0].update(
            values=["kube-system"]
        ),
        "no DNS over TCP": lambda o: egress(o)[1].update(
            ports=[port for port in egress(o)[1]["ports"] if port["protocol"] == "UDP"]
        ),
        "a way to the whole world": lambda o: egress(o)[0].pop("to"),
        "Redis for everybody": lambda o: find(o, "NetworkPolicy sigmad-redis")["spec"]["ingress"][0].pop("from"),
        "a password in a variable": lambda o: settings(o).update(SIGMAD_REDIS_URL="redis://:secret@sigmad-redis:6379"),
        "a password that never changes": lambda o: container(o)["volumeMounts"][0].update(subPath="password"),
        "a password where nothing is mounted": lambda o: settings(o).update(SIGMAD_REDIS_PASSWORD="@/etc/password"),
        "a password before it is known": lambda o: containers(pod_of(find(o, "StatefulSet sigmad-redis")))[0].pop(
            "env"
        ),
        "the latest image": lambda o: container(o).update(image="sigmad:latest"),
        "an image without a tag": lambda o: container(o).update(image="sigmad"),
        "a way to root": lambda o: container(o)["securityContext"].update(allowPrivilegeEscalation=True),
        "service links": lambda o: pod_of(deployment(o))["spec"].pop("enableServiceLinks"),
        "a budget that holds every node": lambda o: find(o, "PodDisruptionBudget sigmad")["spec"].update(
            maxUnavailable=0
        ),
        "a field that is none": lambda o: container(o).update(imagePullPolice="Never"),
    }


def wrongs_of_production() -> dict:
    """The same, of what only the production overlay has."""

    def target_down(objects: Objects) -> dict:
        [group] = find(objects, "PrometheusRule sigmad")["spec"]["groups"]
        [rule] = [rule for rule in group["rules"] if rule.get("alert") == "SigmadTargetDown"]
        return rule

    return {
        "an alert on each replica that ends": lambda o: target_down(o).update({"for": "15s"}),
        "an alert without a delay": lambda o: target_down(o).pop("for"),
    }


def check_wrongs(objects: Objects, routes: dict[str, set[str]], by_hand: dict[str, set[str]], cases: dict) -> int:
    """The laws see what they are there for."""
    for what, spoil in cases.items():
        spoilt = copy.deepcopy(objects)
        spoil(spoilt)
        try:
            check(spoilt, routes, by_hand)
        except (AssertionError, KeyError, ValueError):
            continue
        raise AssertionError(f"nobody sees {what}")
    return len(cases)


@contextlib.contextmanager
def redis_of(objects: Objects, folder: Path):
    """Redis as its pod starts it, with the files of the pod in `folder`: yields its port, and redis-cli as the probes
    call it."""
    stateful = find(objects, "StatefulSet sigmad-redis")
    [container] = containers(pod_of(stateful))
    volume = {each["name"]: each for each in pod_of(stateful)["spec"]["volumes"]}["conf"]
    files = find(objects, f"ConfigMap {volume['configMap']['name']}")["data"]

    def here(text: str) -> str:
        return re.sub(r"/etc/redis(-tls|-auth)?\b|/data\b", str(folder), text)

    for name, text in files.items():
        (folder / name).write_text(here(text))
    (folder / "password").write_text(PASSWORD)
    arguments = [here(each).replace("$(REDISCLI_AUTH)", PASSWORD) for each in container["args"]]
    if "--tls-port" in arguments:
        request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        request += ["-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        request += ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
        subprocess.run(request, check=True, capture_output=True)
        shutil.copy(folder / "tls.crt", folder / "ca.crt")
    # Only the port is another: it may be taken.
    port = bench.free_port()
    arguments = [str(port) if each == "6379" else each for each in arguments]
    if str(port) not in arguments:
        arguments += ["--port", str(port)]
    [*cli, _, _] = [here(each) for each in container["readinessProbe"]["exec"]["command"]]
    with bench.running(arguments, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if "ready to accept connections" in line.lower():
                break
        yield port, [*cli, "-p", str(port)]


PASSWORD = "secret"
# A key and a stream by docs/REDIS.md, which wants a quarter more for the keys.
KEY_BYTES, STREAM_BYTES_IN_REDIS = 1.25 * 214, 2200
KEYS_PER_SAMPLE, TTL_S = 2, 300


def check_redis(objects: Objects, samples_per_s: int) -> None:
    """Redis takes its configuration, is what sigmad is told to look for, and has room for so many samples."""
    [container] = containers(pod_of(find(objects, "StatefulSet sigmad-redis")))
    [server] = containers(pod_of(find(objects, "Deployment sigmad")))
    with tempfile.TemporaryDirectory(prefix="sigmad-redis-") as name, redis_of(objects, Path(name)) as (port, cli):

        def said(*words: str, password: str = PASSWORD) -> str:
            (Path(name) / "password").write_text(password)
            done = subprocess.run([*cli, *words], capture_output=True, text=True, check=False, timeout=10)
            return (done.stdout + done.stderr).strip()

        assert said("ping") == "PONG", said("ping")
        assert "PONG" not in said("ping", password="other"), "the password is asked for"
        assert said("config", "get", "maxmemory-policy").endswith("allkeys-lru")
        most = int(said("config", "get", "maxmemory").split()[-1])
        limit = quantity(container["resources"]["limits"]["memory"])
        assert 0 < most < 0.8 * limit, f"maxmemory {most} of {limit:.0f}"
        streams = memory_plan(server, settings_of(objects, server))[0]["max_streams"]
        needed = samples_per_s * TTL_S * KEYS_PER_SAMPLE * KEY_BYTES + streams * STREAM_BYTES_IN_REDIS
        assert needed <= most, f"{samples_per_s} samples/s of {streams} streams need {needed:.0f} bytes of {most}"
        assert said("config", "get", "save") == "save"
        plain = subprocess.run(
            ["redis-cli", "-p", str(port), "ping"], capture_output=True, text=True, check=False, timeout=10
        )
        assert "PONG" not in plain.stdout


# Plays kubectl for k8s/rotate-password.sh: its exec is the Redis of this test. The kubelet writes the changed Secret
# once its file was read twice.
KUBECTL = """#!/usr/bin/env python3
import base64, json, os, subprocess, sys
from pathlib import Path
folder = Path(os.environ["PLAY"])
arguments = sys.argv[1:]
password, pending, asked = folder / "password", folder / "pending", folder / "asked"
if "get" in arguments:
    print(base64.b64encode(password.read_bytes()).decode(), end="")
elif "create" in arguments:
    print(sys.stdin.read(), end="")
elif "apply" in arguments:
    pending.write_text(sys.stdin.read())
elif arguments[arguments.index("--") + 1] == "cat":
    asked.open("a").write(".")
    if len(asked.read_text()) > 2:
        password.write_text(pending.read_text())
    print(password.read_text(), end="")
else:
    words = arguments[arguments.index("--") + 3 :]
    sys.exit(subprocess.run([*json.loads(os.environ["CLI"]), *words]).returncode)
"""


def check_rotation(objects: Objects) -> None:
    """k8s/rotate-password.sh changes the password under a replica, which reads the file again and loses nothing."""
    with tempfile.TemporaryDirectory(prefix="sigmad-rotation-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        redis, cli = stack.enter_context(redis_of(objects, folder))
        flags = ["--redis-url", f"redis://127.0.0.1:{redis}", "--redis-password", f"@{folder / 'password'}"]
        _, port = stack.enter_context(bench.sigmad(*flags))
        (folder / "bin").mkdir()
        (folder / "bin" / "kubectl").write_text(KUBECTL)
        (folder / "bin" / "kubectl").chmod(0o755)
        environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PLAY": name}
        environment |= {"CLI": json.dumps(cli), "ROTATE_STEP_S": "0.1"}

        def post() -> None:
            status, _, body = bench.get(f"http://127.0.0.1:{port}/ingest", "POST", b'{"device":"edge","rps":1}')
            assert status == 202, body

        post()
        script = [str(K8S / "rotate-password.sh")]
        done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        new = (folder / "password").read_text()
        assert len(new) == 48 and new not in done.stdout + done.stderr, "the password is new, and not shown"
        for password, answer in ((PASSWORD, "WRONGPASS"), (new, "PONG")):
            ask = ["redis-cli", "-p", str(redis), "-a", password, "--no-auth-warning", "ping"]
            heard = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=10)
            assert answer in heard.stdout + heard.stderr, f"{password}: {heard}"
        # The connection of the replica is from before; the next one needs the new password.
        subprocess.run([*cli, "client", "kill", "type", "normal"], check=True, capture_output=True, timeout=10)
        post()
        deadline = time.monotonic() + 30
        while True:
            scrape = bench.get(f"http://127.0.0.1:{port}/metrics")[2].decode()
            outcomes = dict(re.findall(r'^sigmad_samples_total\{outcome="(\w+)"\} (\d+)', scrape, re.MULTILINE))
            assert outcomes["dropped"] == "0", outcomes
            if int(outcomes["stored"]) + int(outcomes["coalesced"]) == 2:
                break
            assert time.monotonic() < deadline, outcomes
            time.sleep(0.1)


def check_sidecar(objects: Objects) -> None:
    """The agent writes to the socket that sigmad listens on, in a volume that both have and may write to."""
    workload = find(objects, "Deployment sigmad-sidecar")
    agent, server = containers(pod_of(workload))
    listen = settings_of(objects, server)["SIGMAD_LISTEN"].split(",")
    [path] = [Path(each.removeprefix("unix:")) for each in listen if each.startswith("unix:")]
    for container in (agent, server):
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volume = mounts.get(str(path.parent))
        assert volume, f"{container['name']} has no volume at {path.parent}"
        [source] = [each for each in pod_of(workload)["spec"]["volumes"] if each["name"] == volume]
        assert "emptyDir" in source, f"{volume} outlives the pod, or is on no other"
    context = pod_of(workload)["spec"]["securityContext"]
    assert context["fsGroup"] == context["runAsGroup"], "the socket's group is not that of the containers"
    [config] = [each["data"] for each in of_kind(objects, "ConfigMap") if "telegraf.conf" in each["data"]]
    assert f'"unix://{path}"' in config["telegraf.conf"], f"the agent does not write to {path}"


def check_stateful(objects: Objects) -> None:
    """The state directory is the volume that stays, the limit fits it, and sigmad may write to it."""
    workload = find(objects, "StatefulSet sigmad-stateful")
    [container] = containers(pod_of(workload))
    settings = settings_of(objects, container)
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    [claim] = workload["spec"]["volumeClaimTemplates"]
    assert mounts[settings["SIGMAD_STATE_DIR"]] == claim["metadata"]["name"], mounts
    most = quantity(settings["SIGMAD_STATE_MAX"].removesuffix("B"))
    assert most <= 0.9 * quantity(claim["spec"]["resources"]["requests"]["storage"]), "the file system needs some of it"
    context = pod_of(workload)["spec"]["securityContext"]
    assert context["fsGroup"] == context["runAsGroup"], "sigmad may not write to the volume"
    done = printed_config(settings)
    assert done.returncode == 0, done.stderr
    known = set(re.findall(r"^(?:# )?(SIGMAD_\w+)", done.stdout, re.MULTILINE))
    assert settings.keys() <= known, settings.keys() - known


def check_load_job(objects: Objects) -> None:
    """The generator takes its flags."""
    job = find(objects, "Job sigmad-load")
    [container] = containers(pod_of(job))
    values = {each["name"]: each["value"] for each in container["env"]} | {"JOB_COMPLETION_INDEX": "0"}
    arguments = [re.sub(r"\$\((\w+)\)", lambda found: values[found.group(1)], each) for each in container["args"]]
    # Nobody listens there; flags are read before.
    arguments[1] = "--url=http://127.0.0.1:1/ingest"
    done = subprocess.run([bench.sigmad_binary(), *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, f"{arguments}: {done.returncode}, {done.stderr}"


def check_load_runs_again(job: dict, guide: str, demo: str) -> None:
    """A second run needs a new Job: `apply` of one that has ended changes nothing, for its name is the same."""
    assert "generateName" not in job["metadata"], "kubectl apply takes no generateName"
    assert "replace --force -k k8s/loadgen" in guide, "DEPLOY.md does not say how to run the load again"
    assert "apply -k k8s/loadgen" not in guide, "DEPLOY.md runs the load with apply, which works once"
    deleted, made = demo.find(f"delete job {job['metadata']['name']}"), demo.find("kustomize k8s/loadgen")
    assert 0 <= deleted < made, "demo.sh does not delete the Job of the run before"


def check_rule_copies(production: Objects) -> None:
    """Rules and the routes of alerts stand in one place each, and their copies follow."""
    monitoring = K8S / "monitoring"
    rules = yaml.safe_load((monitoring / "rules.yml").read_text())
    [rule] = of_kind(production, "PrometheusRule")
    assert rule["spec"] == rules, "production/prometheusrule.yaml differs from rules.yml: make prometheusrule"
    values = yaml.safe_load((monitoring / "prometheus-values.yaml").read_text())
    alertmanager = yaml.safe_load((monitoring / "alertmanager.yml").read_text())
    assert values["alertmanager"]["config"] == alertmanager, "prometheus-values.yaml differs from alertmanager.yml"


def check_monitoring(objects: Objects) -> None:
    """What the values files name is made by the kustomization, and the webhook is where alerts go."""
    values = yaml.safe_load((K8S / "monitoring" / "prometheus-values.yaml").read_text())
    config = find(objects, "ConfigMap sigmad-prometheus")
    files = [*values["serverFiles"]["prometheus.yml"]["rule_files"], *values["scrapeConfigFiles"]]
    for mounts in (
        values["server"]["extraConfigmapMounts"],
        values["configmapReload"]["prometheus"]["extraConfigmapMounts"],
    ):
        [mount] = mounts
        assert mount["configMap"] == config["metadata"]["name"]
        for file in files:
            assert Path(file).parent == Path(mount["mountPath"]) and Path(file).name in config["data"], file
    scrape = yaml.safe_load(config["data"]["scrape.yml"])
    [job] = scrape["scrape_configs"]
    assert job["job_name"] == "sigmad", "the rules speak of this job"
    [server] = of_kind(build(K8S / "base"), "Deployment")
    labels = pod_of(server)["metadata"]["labels"]
    wanted = [labels[f"app.kubernetes.io/{name}"] for name in ("name", "component")]
    wanted.append(containers(pod_of(server))[0]["ports"][0]["name"])
    assert job["relabel_configs"][0]["regex"] == ";".join(wanted), wanted
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == ["sigmad"]
    webhook = urlsplit(
        values["alertmanager"]["config"]["receivers"][0]["webhook_configs"][0]["url"],
    )
    service = find(objects, f"Service {webhook.hostname}")
    assert webhook.port == service["spec"]["ports"][0]["port"]
    grafana = yaml.safe_load((K8S / "monitoring" / "grafana-values.yaml").read_text())
    dashboard = find(objects, "ConfigMap sigmad-dashboard")
    wanted = grafana["sidecar"]["dashboards"]
    assert dashboard["metadata"]["labels"][wanted["label"]] == wanted["labelValue"]
    json.loads(dashboard["data"]["sigmad.json"])


def check_compose() -> None:
    """docker-compose.yml: what is mounted is there, who is named runs, and images are pinned."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    for name, service in services.items():
        image = service["image"]
        assert ":" in image and not image.endswith(":latest"), image
        if name == "sigmad":
            assert image == f"sigmad:{VERSION}", image
        for other in service.get("depends_on", []):
            assert other in services, f"{name}: {other}"
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source} to {target}"
    folder = ROOT / "compose"
    prometheus = yaml.safe_load((folder / "prometheus.yml").read_text())
    [job] = prometheus["scrape_configs"]
    assert job["job_name"] == "sigmad"
    named = [target for part in job.get("static_configs", []) for target in part["targets"]]
    named += [f"{name}:{part['port']}" for part in job.get("dns_sd_configs", []) for name in part["names"]]
    alerting = prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    datasources = yaml.safe_load((folder / "grafana" / "datasources.yml").read_text())["datasources"]
    named += alerting + [urlsplit(each["url"]).netloc for each in datasources]
    alertmanager = yaml.safe_load((K8S / "monitoring" / "alertmanager.yml").read_text())
    named += [urlsplit(alertmanager["receivers"][0]["webhook_configs"][0]["url"]).netloc]
    for address in named:
        assert address.partition(":")[0] in services, f"{address} is no service"
    environment = services["sigmad"]["environment"]
    done = subprocess.run(
        [bench.sigmad_binary(), "--print-config"],
        capture_output=True,
        text=True,
        check=False,
        env={name: str(value) for name, value in environment.items()},
    )
    assert done.returncode == 0, done.stderr
    known = set(re.findall(r"^(?:# )?(SIGMAD_\w+)", done.stdout, re.MULTILINE))
    assert set(environment) <= known, set(environment) - known


def secrets_by_hand() -> dict[str, set[str]]:
    """Secrets that DEPLOY.md tells how to make, with their keys."""
    text = (ROOT / "docs" / "DEPLOY.md").read_text().replace("\\\n", " ")
    found: dict[str, set[str]] = {}
    for name, rest in re.findall(r"kubectl -n sigmad create secret generic (\S+)(.*)", text):
        found[name] = set(re.findall(r"--from-literal=(\w+)=", rest))
    return found


def check_one_liner() -> None:
    """The pod of DEPLOY.md's busybox loop is taken by the namespace, and its body by sigmad."""
    [text] = re.findall(r"--overrides '(.*)'", (ROOT / "docs" / "DEPLOY.md").read_text())
    spec = json.loads(text)["spec"]
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    [body] = re.findall(r'--post-data "(.*)" http://sigmad:8080/ingest', container["command"][-1])
    assert json.loads(body.replace('\\"', '"'))["rps"]


def routes_of_binary() -> dict[str, set[str]]:
    with bench.sigmad() as (_, port):
        return {path: set(item) for path, item in bench.get_json(port, "/openapi.json")["paths"].items()}


def main() -> None:
    routes = routes_of_binary()
    built = {name: build(K8S / name) for name in KUSTOMIZATIONS}
    folders = {path.parent.relative_to(K8S).as_posix() for path in K8S.rglob("kustomization.yaml")}
    assert folders == {*KUSTOMIZATIONS, "components/gateway"}, folders
    for name, objects in built.items():
        # The Job lands in the namespace, and beside the pods, of the overlay.
        whole = [*built["overlays/minikube"], *objects] if name == "loadgen" else objects
        check(whole, routes, secrets_by_hand() if name == "overlays/production" else {})
    assert not of_kind(built["overlays/production"], "Secret"), "a password in a repository"
    wrong = check_wrongs(built["base"], routes, {}, wrongs())
    wrong += check_wrongs(built["overlays/production"], routes, secrets_by_hand(), wrongs_of_production())
    # As the comments of redis.conf and of production/redis.yaml say, and as the load of the demo needs.
    job = containers(pod_of(find(built["loadgen"], "Job sigmad-load")))[0]
    demo_rate = next(int(each["value"]) for each in job["env"] if each["name"] == "RATE")
    for name, samples_per_s in (("base", 3000), ("overlays/minikube", demo_rate), ("overlays/production", 20000)):
        check_redis(built[name], samples_per_s)
    check_rotation(built["base"])
    check_load_job(built["loadgen"])
    check_sidecar(built["sidecar"])
    check_stateful(built["stateful"])
    guide, demo = (bench.ROOT / "docs" / "DEPLOY.md").read_text(), (K8S / "demo.sh").read_text()
    check_load_runs_again(find(built["loadgen"], "Job sigmad-load"), guide, demo)
    check_rule_copies(built["overlays/production"])
    check_monitoring(built["monitoring"])
    check_compose()
    check_one_liner()
    count = sum(map(len, built.values()))
    print(f"manifests: ok, {count} objects by Kubernetes {' and '.join(VERSIONS)}, {wrong} mistakes seen")


if __name__ == "__main__":
    main()
