"""What the whole-server benches share: processes, their CPU time, the record of a run."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benches" / "record"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# The server has one core, whoever asks it the other: what one does is not charged to the other.
SERVER_CORE = 0
LOAD_CORE = 1
# A start takes 50 ms; a loaded machine takes longer.
START_TIMEOUT_S = 60.0
# For servers of a test; tests/redis_server/mod.rs says why they end there.
PORTS = (10_000, 32_000)
# Between two looks at what a process has used.
LOOK_S = 0.02


def target_dir() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def example(name: str) -> str:
    """One that suites run: of the build of the tests, for the release build does without their dependencies."""
    return str(target_dir().parent / "debug" / "examples" / name)


def sigmad_binary() -> str:
    return os.environ.get("SIGMAD", str(target_dir() / "sigmad"))


def pinned(core: int | str | None, command: list[str]) -> list[str]:
    return command if core is None else ["taskset", "-c", str(core), *command]


@contextlib.contextmanager
def running(command: list[str], **options):
    """A child that is gone when the block ends."""
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextlib.contextmanager
def sigmad(
    *flags: str,
    core: int | None = None,
    binary: str | None = None,
    listen: str = "127.0.0.1:0",
    command: str = "serve",
    prefix: list[str] | None = None,
):
    """sigmad on a free port, started through `prefix`: yields the process and the port."""
    line = pinned(core, [*(prefix or []), binary or sigmad_binary(), command, "--listen", listen, *flags])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGMAD")}
    with running(line, stderr=subprocess.PIPE, text=True, env=environment) as child:
        port = None
        alarm = threading.Timer(START_TIMEOUT_S, child.kill)
        alarm.start()
        lines = []
        for line in child.stderr:
            lines.append(line)
            found = re.search(r"127\.0\.0\.1:([1-9]\d*)", line) if "listening" in line else None
            if found:
                port = int(found.group(1))
                break
        alarm.cancel()
        if port is None:
            sys.exit("sigmad did not start:\n" + "".join(lines))
        # The rest of the log is read so that the pipe never fills, and kept.
        child.log = lines
        reader = threading.Thread(target=lambda: lines.extend(child.stderr), daemon=True)
        reader.start()
        yield child, port


def free_port() -> int:
    """Below the ports of outgoing connections: one of those could take it before its server does."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(what: str, holds: Callable[[], bool], seconds: float, explain: Callable[[], str] = lambda: "") -> float:
    """Seconds until the condition holds. Where it never does, the program ends."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            sys.exit(f"not within {seconds:g} s: {what}{explain()}")
        time.sleep(0.02)
    return time.monotonic() - began


def wait_for_listener(target: int | str, seconds: float = START_TIMEOUT_S) -> None:
    """Of a port, or of a Unix socket as `connected` has it."""

    def listens() -> bool:
        with contextlib.suppress(OSError), connected(target):
            return True
        return False

    until(f"something listens on {target}", listens, seconds)


@contextlib.contextmanager
def redis(folder: Path, *flags: str, core: int | None = None):
    """redis-server on a free port, without a file: yields the port; its process id is in redis.pid."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    command += ["--appendonly", "no", "--pidfile", str(folder / "redis.pid"), *flags]
    with running(pinned(core, command), stdout=subprocess.DEVNULL) as child:
        (folder / "redis.pid").write_text(str(child.pid))
        wait_for_listener(port)
        yield port


def cpu_ns(pid: int) -> int:
    """Time on a core of all threads, in nanoseconds."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def settled(pid: int) -> int:
    """CPU time once the process has nothing left to do."""
    before = cpu_ns(pid)
    while True:
        time.sleep(0.1)
        now = cpu_ns(pid)
        # A sleeping server wakes up now and then.
        if now - before < 1_000_000:
            return now
        before = now


class Watch:
    """Looks at the CPU time of a process again and again: what it had used at any moment since, on either clock."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.looks: list[tuple[float, float, float]] = []
        self.is_over = threading.Event()
        self.look()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def look(self) -> None:
        self.looks.append((time.monotonic(), time.time(), cpu_ns(self.pid) / 1e9))

    def watch(self) -> None:
        while not self.is_over.wait(LOOK_S):
            self.look()
        self.look()

    def end(self) -> None:
        self.is_over.set()
        self.thread.join()

    def used(self, began: float, ended: float, is_monotonic: bool = False) -> float:
        """CPU seconds between two moments."""
        clock = 0 if is_monotonic else 1

        def until(moment: float) -> float:
            after = next((at for at, look in enumerate(self.looks) if look[clock] >= moment), len(self.looks) - 1)
            before, now = self.looks[max(0, after - 1)], self.looks[after]
            if now[clock] == before[clock]:
                return now[2]
            part = (moment - before[clock]) / (now[clock] - before[clock])
            return before[2] + (now[2] - before[2]) * min(1.0, max(0.0, part))

        return until(ended) - until(began)


def thread_ns(pid: int) -> dict[str, int]:
    """CPU time by kind of thread: worker-0 and worker-1 are both `worker`."""
    kinds: dict[str, int] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            kind = re.sub(r"-\d+$", "", (task / "comm").read_text().strip())
            kinds[kind] = kinds.get(kind, 0) + int((task / "schedstat").read_text().split()[0])
    return kinds


def cpu_ticks(pid: int) -> tuple[int, int]:
    """User and system time in ticks, for the split between them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return int(fields[11]), int(fields[12])


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def connected(target: int | str) -> socket.socket:
    """A connection to a port, or to `unix:` and the name of a socket."""
    if isinstance(target, int):
        return socket.create_connection(("127.0.0.1", target), timeout=60)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    # The kernel's form of an abstract name.
    client.connect(re.sub("^@", "\0", target.removeprefix("unix:")))
    return client


def exchange(port: int, request: bytes) -> bytes:
    """One request on a connection of its own: the raw answer, by its Content-Length."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += receive(client)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(re.search(rb"(?i)\r\ncontent-length: *(\d+)", head).group(1))
        while len(body) < length:
            body += receive(client)
        return head + b"\r\n\r\n" + body


def exchange_redis(port: int, command: bytes) -> bytes:
    """One command that is answered in one line."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(command)
        answer = b""
        while not answer.endswith(b"\r\n"):
            answer += receive(client)
        return answer


def receive(client: socket.socket) -> bytes:
    part = client.recv(65536)
    if not part:
        raise ConnectionError("closed in the middle of an answer")
    return part


def get(url: str, method: str = "GET", body: bytes | None = None, **fields: str):
    """Status, head and body of an answer, whatever the status; `_` in the name of a field is `-`."""
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    request = urllib.request.Request(url, body, fields, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers, answer.read()


def get_json(port: int, path: str):
    answer = exchange(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"{path}: {head.decode()}")
    return json.loads(body)


def load(
    target: int | str,
    *flags: str,
    core: int | None = LOAD_CORE,
    pid: int | None = None,
    seconds: float,
    failed_share_max: float = 0.0,
) -> dict:
    """One run of `sigmad load` against a port or a URL: its summary.

    A request that failed ends the bench, unless few may.
    """
    summary = offer(target, *flags, core=core, pid=pid, seconds=seconds)
    requests = summary["requests"]
    if requests["failed"] > failed_share_max * requests["sent"] or not requests["good"]:
        sys.exit(f"{' '.join(flags)}: {requests}, {summary['status']}")
    return summary


def offer(target: int | str, *flags: str, core: int | None = LOAD_CORE, pid: int | None = None, seconds: float) -> dict:
    """The same, where refusals are what is looked for."""
    url = target if isinstance(target, str) else f"http://127.0.0.1:{target}/ingest"
    command = [str(target_dir() / "sigmad"), "load", "--url", url, "--json", "-"]
    command += ["--duration", f"{round(seconds * 1000)}ms", *flags]
    if pid is not None:
        command += ["--pid", str(pid)]
    done = subprocess.run(
        pinned(core, command), capture_output=True, text=True, check=False, timeout=seconds + START_TIMEOUT_S
    )
    if not done.stdout:
        sys.exit(f"sigmad load: {done.stderr}")
    return json.loads(done.stdout)


def output_of(*command: str) -> str:
    """Nothing where there is no such program: a lent machine has neither git nor rustc."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip()


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def machine_name() -> str:
    """A short name for the folder of the record."""
    words = re.sub(r"\(.*?\)|cpu|processor|@.*", " ", cpu_model().lower())
    slug = "-".join(re.findall(r"[a-z0-9]+", words)[:3])
    return os.environ.get("BENCH_MACHINE", f"{slug}-{os.cpu_count()}c")


def steal_ticks() -> int:
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])


def manifest() -> dict:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": output_of("git", "describe", "--always", "--dirty"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "rustc": output_of("rustc", "--version"),
        "load_average_at_start": os.getloadavg()[0],
    }


def spread(values: list[float]) -> dict:
    """What the rounds found: the median, and the smallest and the largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": len(values)}


@contextlib.contextmanager
def record(name: str, rounds: int):
    """The record of one part of `make perf`: yields it to be filled, and writes it at the end with what
    the machine did meanwhile."""
    found: dict = {"manifest": manifest() | {"rounds": rounds}}
    stolen, began = steal_ticks(), time.monotonic()
    yield found
    found["manifest"]["stolen_s"] = (steal_ticks() - stolen) / TICKS_PER_S
    found["manifest"]["seconds"] = round(time.monotonic() - began)
    print("record in", write_record(name, found, found.pop("text")))


def record_folder(manifest: dict) -> Path:
    """Of the day and the machine, or BENCH_RECORD; made if need be."""
    folder = Path(os.environ.get("BENCH_RECORD", RECORD / f"{manifest['date'][:10]}-{machine_name()}"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_record(name: str, record: dict, text: str) -> Path:
    """Leaves NAME.json and NAME.md in the folder of the day and the machine."""
    folder = record_folder(record["manifest"])
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [f"# {name}", "", text.strip(), "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {value} |" for key, value in record["manifest"].items()]
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n")
    return folder


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)
