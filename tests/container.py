#!/usr/bin/env python3
"""The container image, made as the Dockerfile says and run without rights.

No registry is needed: what the Dockerfile is FROM is made here under the same names, the toolchain's base from
Debian packages and the Rust of this machine, the other from what a static binary finds in its own (certificates,
users). The suite compiles nothing twice: the Dockerfile's last stage takes the server of the release build, which
is static. Whether the first stage is given every source is checked against what that build has read. With
--shipped, which verify-long uses, and with --record the first stage runs too.

Then the image is run as Kubernetes would: read-only, as nobody, without capabilities, 128 MiB, a quarter of a core.
It must answer, take load, drain on SIGTERM and exit 0. `make container` runs it, as root; everything stays in
target/container. With --record it leaves what it measured in benches/record.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench

ROOT = bench.ROOT
FOLDER = bench.target_dir().parent.absolute() / "container"
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
IMAGE = f"localhost/sigmad:{VERSION}"
# With the base, unpacked: 15.4 MB with incidents, notifications and state, and 2.6 MB for what comes next. A node pulls
# that in a second; a doubled image is a mistake, such as debug information that was not stripped.
IMAGE_BYTES_MAX = 18_000_000
MEMORY = "128m"
CPUS = "0.25"
RATE = 1000
LOAD_S = 8
START_S_MAX = 60.0
# What podman gives without being asked is more than may be had where it runs in a container itself.
ULIMITS = ["--ulimit=nofile=4096:4096", "--ulimit=nproc=1024:1024"]


def has_group(root: Path, files: dict[str, str]) -> bool:
    """A control group below it is made, and takes these limits."""
    group = root / f"sigmad-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        return False
    try:
        for name, value in files.items():
            (group / name).write_text(value)
    except OSError:
        return False
    finally:
        group.rmdir()
    return True


def refused() -> list[str]:
    """What a container needs and this machine does not allow."""
    found = [] if os.geteuid() == 0 else ["root"]
    for flag, what in (("--mount", "mount namespaces"), ("--pid", "process namespaces"), ("--ipc", "IPC namespaces")):
        done = subprocess.run(["unshare", flag, "--fork", "true"], capture_output=True, check=False)
        if done.returncode != 0:
            found.append(f"{what} (unshare {flag})")
    groups = Path("/sys/fs/cgroup")
    if (groups / "cgroup.controllers").exists():
        # Limits are written by podman, which hands the controllers down first.
        controllers = (groups / "cgroup.controllers").read_text().split()
        found += [f"the control group {name}" for name in ("cpu", "memory") if name not in controllers]
        if not has_group(groups, {}):
            found.append(f"a control group of its own below {groups}")
    else:
        for name, file, value in (("cpu", "cpu.cfs_quota_us", "25000"), ("memory", "memory.limit_in_bytes", "128M")):
            if not has_group(groups / name, {file: value}):
                found.append(f"the control group {name} ({groups / name}: {file})")
    return found


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-6000:]}")
    return done.stdout


def storage() -> list[str]:
    """Images of our own, apart from those of the machine."""
    return [f"--root={FOLDER}/storage", f"--runroot={FOLDER}/run"]


def buildah(*arguments: str, **options) -> str:
    environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
    return run("buildah", *storage(), *arguments, env=environment, **options)


def podman_command(*arguments: str) -> list[str]:
    return ["podman", *storage(), "--cgroup-manager=cgroupfs", "--runtime=runc", *arguments]


def podman(*arguments: str) -> str:
    return run(*podman_command(*arguments))


def exists(image: str) -> bool:
    command = ["buildah", *storage(), "inspect", "--type", "image", image]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def bases() -> list[str]:
    """What the Dockerfile is FROM."""
    return re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def import_tree(tree: Path, image: str, *config: str) -> None:
    container = buildah("from", "scratch").strip()
    buildah("add", "--quiet", container, str(tree), "/")
    if config:
        buildah("config", *config, container)
    buildah("commit", "--quiet", "--rm", container, image)


def make_toolchain_base(image: str) -> None:
    """rust:…-slim: Debian with a C compiler, and the toolchain."""
    suite = image.rpartition("-")[2]
    sysroot = Path(run("rustc", "--print", "sysroot").strip())
    found = re.search(r"(\d+\.\d+)", run("rustc", "--version")).group(1)
    wanted = re.search(r":(\d+\.\d+)-", image).group(1)
    assert tuple(map(int, found.split("."))) >= tuple(map(int, wanted.split("."))), f"Rust {found}, not {wanted}"
    with tempfile.TemporaryDirectory(prefix="base-", dir=FOLDER) as folder:
        tree = Path(folder) / "tree"
        packages = "--include=gcc,libc6-dev,ca-certificates"
        run("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", packages, suite, str(tree))
        shutil.rmtree(tree / "dev")
        for part in ("bin", "lib", "libexec"):
            if (sysroot / part).exists():
                shutil.copytree(sysroot / part, tree / "usr/local" / part, symlinks=True, dirs_exist_ok=True)
        import_tree(tree, image, "--env=CARGO_HOME=/usr/local/cargo", "--env=PATH=/usr/local/bin:/usr/bin:/bin")


def make_static_base(image: str) -> None:
    """distroless/static: certificates, users, and a place for temporary files."""
    with tempfile.TemporaryDirectory(prefix="base-", dir=FOLDER) as folder:
        tree = Path(folder)
        (tree / "etc/ssl/certs").mkdir(parents=True)
        (tree / "tmp").mkdir(mode=0o1777)
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", tree / "etc/ssl/certs")
        (tree / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532::/:/sbin/nologin\n"
        )
        (tree / "etc/group").write_text("root:x:0:\nnonroot:x:65532:\n")
        import_tree(tree, image, "--user=65532")


def stripped() -> Path:
    """A folder with the release binary as the Dockerfile's first stage leaves it."""
    folder = FOLDER / "static"
    folder.mkdir(parents=True, exist_ok=True)
    run("strip", "-o", str(folder / "sigmad"), str(bench.target_dir() / "sigmad"))
    return folder


def check_sources() -> None:
    """The Dockerfile copies every source that cargo has read for the server."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    copied = [ROOT / name for line in lines for name in line.split()[:-1]]
    admitted = [ROOT / name for name in re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)]
    _, _, read = (bench.target_dir() / "sigmad.d").read_text().partition(": ")
    # What build.rs has written is made again in the image, and another program of `make perf` has sources there.
    built = bench.target_dir().parent
    sources = [path for path in map(Path, read.split()) if path.is_relative_to(ROOT) and not path.is_relative_to(built)]
    metadata = json.loads(run("cargo", "metadata", "--locked", "--no-deps", "--format-version=1", cwd=ROOT))
    sources += [Path(package["manifest_path"]) for package in metadata["packages"]]
    assert ROOT / "src/lib.rs" in sources, sources[:5]
    for names, what in ((copied, "the Dockerfile"), (admitted, ".dockerignore")):
        missing = [path for path in sources if not any(path.is_relative_to(name) for name in names)]
        assert not missing, f"{what} leaves out {', '.join(map(str, missing))}"


def build(as_shipped: bool) -> None:
    toolchain, static = bases()
    # Made once: their names carry their versions.
    if as_shipped and not exists(toolchain):
        make_toolchain_base(toolchain)
    if not exists(static):
        make_static_base(static)
    registry = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry"
    # Layers are kept: the next build compiles dependencies only when they have changed.
    arguments = ["--layers", "--pull=never", "--network=host", "--format=docker", "--isolation=chroot"]
    if registry.exists():
        # Crates that this machine has need no second download.
        arguments.append(f"--volume={registry}:/usr/local/cargo/registry")
    if not as_shipped:
        # In place of the stage of that name, which is then not run.
        arguments.append(f"--build-context=build={stripped()}")
        check_sources()
    arguments += [f"--build-arg=VERSION={VERSION}", "--build-arg=REVISION=test", f"--tag={IMAGE}", str(ROOT)]
    buildah("build", *arguments)


def check_image() -> int:
    """Small, and what the manifests take it for."""
    [image] = json.loads(podman("image", "inspect", IMAGE))
    size = image["Size"]
    assert size < IMAGE_BYTES_MAX, f"the image takes {size} bytes"
    config = image["Config"]
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION
    manifest = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
    context = manifest["spec"]["template"]["spec"]["securityContext"]
    assert config["User"] == f"{context['runAsUser']}:{context['runAsGroup']}", config["User"]
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert config["Entrypoint"] == ["/sigmad"]
    shell = subprocess.run(
        podman_command("run", "--rm", *ULIMITS, "--network=host", "--entrypoint=/bin/sh", IMAGE, "-c", "true"),
        capture_output=True,
        check=False,
    )
    assert shell.returncode == 127, "there is a shell"
    return size


class Container:
    """The server, as little as it may have."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.port = bench.free_port()
        # Requests that the generator saw accepted.
        self.answered = 0
        self.name = f"sigmad-{os.getpid()}"
        rights = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        limits = [f"--memory={MEMORY}", f"--memory-swap={MEMORY}", f"--cpus={CPUS}", "--network=host"]
        flags = [f"--listen=127.0.0.1:{self.port}", "--log-format=json", "--drain=25s"]
        podman("run", "--detach", f"--name={self.name}", *ULIMITS, *rights, *limits, IMAGE, *flags)
        stack.callback(podman, "rm", "--force", self.name)
        self.pid = int(podman("inspect", "--format={{.State.Pid}}", self.name))
        deadline = time.monotonic() + START_S_MAX
        while True:
            with contextlib.suppress(OSError), self.get("/readyz") as answer:
                assert answer.status == 200
                return
            assert time.monotonic() < deadline, f"it does not start: {self.log()}"
            time.sleep(0.05)

    def get(self, path: str):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60)

    def log(self) -> str:
        done = subprocess.run(podman_command("logs", self.name), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def check_rights(self) -> None:
        status = Path(f"/proc/{self.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(fields["Uid"].split()) == {"65532"}, fields["Uid"]
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0, "it has capabilities"
        assert fields["NoNewPrivs"] == "1"
        mounts = Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        [root] = [line.split() for line in mounts if line.split()[4] == "/"]
        assert "ro" in root[5].split(","), root

    def check_layout(self) -> None:
        """One worker, and because of the quota: that is what a quarter of a core is for."""
        [start] = [line for line in map(json.loads, self.log().splitlines()) if line["message"] == "listening"]
        assert start["workers"] == 1 and start["workers_because"] == f"CPU quota of {CPUS} cores", start
        workers = set(re.findall(r'^sigmad_analytics_queue_samples\{worker="(\d+)"\}', self.scrape(), re.MULTILINE))
        assert workers == {"0"}, f"workers {workers}"

    def scrape(self) -> str:
        return self.get("/metrics").read().decode()

    def gauge(self, name: str) -> float:
        return float(re.search(rf"^{name} (\S+)", self.scrape(), re.MULTILINE).group(1))

    def load(self, *flags: str) -> dict:
        """The generator of the same image, as the Job runs it."""
        command = ["run", "--rm", *ULIMITS, "--network=host", "--read-only", "--cap-drop=ALL", IMAGE]
        command += ["load", f"--url=http://127.0.0.1:{self.port}/ingest", "--json=-", *flags]
        seen = json.loads(podman(*command))
        self.answered += seen["requests"]["good"]
        return seen


def check_load(container: Container) -> tuple[str, dict]:
    """1,000 requests a second of a quarter of a core; in words, and as the generator saw it."""
    before, start = container.gauge("process_cpu_seconds_total"), time.monotonic()
    seen = container.load(f"--rate={RATE}", f"--duration={LOAD_S}s", "--profile=devices")
    used = (container.gauge("process_cpu_seconds_total") - before) / (time.monotonic() - start)
    requests, latency = seen["requests"], seen["latency_us"]
    # How quick the answers are is for the record: a busy machine makes them slow.
    assert requests["failed"] == 0 and requests["good"] > 0, requests
    resident = container.gauge("process_resident_memory_bytes")
    text = (
        f"{RATE} requests/s, p50 {latency['p50'] / 1e3:.2f} ms, p99 {latency['p99'] / 1e3:.2f} ms, "
        f"{used * 1e3:.0f}m of {float(CPUS) * 1e3:.0f}m CPU, {resident / 2**20:.0f} MiB"
    )
    return text, seen


def check_profile(container: Container) -> None:
    """It can be looked into, without rights too."""
    thread = threading.Thread(target=container.load, args=(f"--rate={RATE}", "--duration=4s"))
    thread.start()
    with container.get("/debug/pprof/profile?seconds=3") as answer:
        profile = gzip.decompress(answer.read())
    thread.join()
    assert b"nanoseconds" in profile and b"/sigmad" in profile, profile[:200]


def check_drain(container: Container) -> None:
    """SIGTERM under load: what was accepted was answered, and the exit is clean."""
    found: list[dict] = []

    def drive() -> None:
        with contextlib.suppress(SystemExit):
            found.append(container.load("--rate=200", "--duration=4s", "--connections=8"))

    thread = threading.Thread(target=drive)
    thread.start()
    time.sleep(2)
    os.kill(container.pid, signal.SIGTERM)
    code = int(podman("wait", container.name))
    thread.join()
    assert code == 0, f"exit {code}: {container.log()[-2000:]}"
    assert found and found[0]["requests"]["malformed"] == 0, found
    [end] = [line for line in map(json.loads, container.log().splitlines()) if line["message"] == "stopped"]
    assert end["accepted"] == end["judged"] == container.answered, f"{end}, and {container.answered} answered"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--build", action="store_true", help="build the image and end")
    parser.add_argument("--shipped", action="store_true", help="compile in the image, as the Dockerfile does")
    arguments = parser.parse_args()
    missing = refused()
    if missing:
        sys.exit(f"container: this machine does not allow {', '.join(missing)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    build(as_shipped=arguments.record or arguments.shipped)
    seconds = time.monotonic() - start
    size = check_image()
    print(f"container: built in {seconds:.0f} s, {size / 1e6:.1f} MB", flush=True)
    if arguments.build:
        return
    with contextlib.ExitStack() as stack:
        container = Container(stack)
        container.check_rights()
        container.check_layout()
        load, seen = check_load(container)
        check_profile(container)
        check_drain(container)
    if arguments.record:
        record = {"manifest": bench.manifest(), "image_bytes": size, "build_s": seconds, "load": seen}
        text = f"An image of {size / 1e6:.1f} MB, with {CPUS} cores and {MEMORY} of memory: {load}."
        print(bench.write_record("container", record, text))
    print(f"container: ok, as nobody, read-only, without capabilities: {load}; drained, exit 0")


if __name__ == "__main__":
    main()
