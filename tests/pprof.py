#!/usr/bin/env python3
"""/debug/pprof/ read by the real `go tool pprof`, from a live server under load.

Every profile as a list, a picture, a page and a difference; profiles of threads that spin for a known
share held against their own clocks; who may ask; what is refused; profiles that are given up, over and
over, without a crash, a leak or a lost request. `make pprof` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench

PPROF = str(bench.ROOT / ".tools" / "bin" / "pprof")
CYCLES = int(os.environ.get("PPROF_CYCLES", "100"))
# Of a share of the CPU that is known.
TOLERANCE = 0.10
# What a profile holds of the CPU time that the process had; and how far a profile of few seconds may be off
# besides: getrusage knows of running threads what was at their last tick, and threads are found one by one.
AIM = 0.05
SHORT = 0.02
# The samples of perf alone, each for a period, miss the switches to a thread, which are charged to it: the more,
# the more others there are on its core. What a hypervisor takes they count, without a bound.
SWITCHES = 0.5
PATIENCE_S = 60.0
# A load that is stopped when its work is done; a machine that is busy takes longer.
LOAD_S_MAX = 600
# What profiles make the process keep: tables read once, pages of threads that have ended.
KEPT_BYTES_MAX = 32 * 1024 * 1024


def base(port: int) -> str:
    return f"http://127.0.0.1:{port}/debug/pprof/"


def save(url: str, file: Path) -> Path:
    """A profile, with the head that scrapers ask for."""
    status, headers, payload = bench.get(url)
    assert status == 200, f"{url}: {status} {payload!r}"
    assert headers["Content-Type"] == "application/octet-stream", headers
    assert headers["Content-Disposition"].startswith("attachment; filename="), headers
    file.write_bytes(payload)
    return file


def pprof(scratch: Path, *arguments: object, fails: bool = False) -> str:
    environment = {**os.environ, "PPROF_TMPDIR": str(scratch), "HOME": str(scratch)}
    command = [PPROF, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert (done.returncode != 0) == fails, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stderr if fails else done.stdout


def listed(text: str) -> dict[str, tuple[float, float]]:
    """What -top says: flat and cumulative shares, by function."""
    rows = {}
    for line in text.splitlines():
        found = re.match(r"\s*\S+\s+([\d.]+)%\s+[\d.]+%\s+\S+\s+([\d.]+)%\s+(.*)", line)
        if found:
            flat, cumulative, name = found.groups()
            rows[name.removesuffix(" (inline)")] = (float(flat) / 100, float(cumulative) / 100)
    return rows


def share(rows: dict, part: str) -> float:
    return max((cumulative for name, (_, cumulative) in rows.items() if part in name), default=0.0)


def comment(scratch: Path, file: Path) -> dict[str, str]:
    text = pprof(scratch, "-comments", file)
    assert "backend=" in text, text
    return dict(re.findall(r"(\w+)=(\S+)", text)) | {"text": text}


def held(said: dict[str, str]) -> float:
    """The share of the CPU time that the profile holds; the samples alone must account for most of it."""
    captured = float(said["captured"])
    if said["backend"] != "perf":
        return captured
    assert captured >= 1 - SWITCHES, said["text"]
    return float(said["scaled"])


@contextlib.contextmanager
def under_load(port: int, *flags: str):
    """A load until the block ends; every request must be answered well."""
    command = [bench.sigmad_binary(), "load", "--url", f"http://127.0.0.1:{port}/ingest", "--json", "-"]
    command += ["--duration", f"{LOAD_S_MAX}s", "--connections", "8", *flags]
    with bench.running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        yield
        assert load.poll() is None, load.communicate()
        load.terminate()
        out, err = load.communicate(timeout=60)
    assert load.returncode == 0, err
    requests = json.loads(out)["requests"]
    assert requests["good"] > 0, requests
    lost = {key: requests[key] for key in ("failed", "lost", "timeouts", "malformed") if requests[key]}
    assert not lost, f"{lost} of {requests}"


def without_rights() -> list[str] | None:
    """What a command begins with so that the kernel refuses it perf events; None where it allows everyone."""
    paranoid = Path("/proc/sys/kernel/perf_event_paranoid")
    if paranoid.exists() and int(paranoid.read_text()) < 2:
        return None
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


def check_known_shares(scratch: Path) -> list[str]:
    """Threads that spin for a quarter and a half of the time, and some that are born meanwhile."""
    found = []
    spin = bench.example("spin")
    for case in ("perf", "timer", "auto", "fallback"):
        file = scratch / f"spin-{case}"
        backend = "auto" if case == "fallback" else case
        prefix = without_rights() if case == "fallback" else []
        if prefix is None:
            found.append("everyone may use perf here, so nothing falls back")
            continue
        command = [*prefix, spin, backend, "250", "4", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        truth = json.loads(done.stdout)
        if "refused" in truth:
            assert backend == "perf", truth
            found.append(f"perf refused: {truth['refused']}")
            continue
        said = comment(scratch, file)
        refused = any(line.startswith("perf refused") for line in found)
        expected = {"perf": "perf", "timer": "timer", "auto": "timer" if refused else "perf", "fallback": "timer"}
        assert said["backend"] == expected[case], said["text"]
        assert ("perf can't" in said["text"]) == (backend == "auto" and said["backend"] == "timer"), said["text"]
        captured = held(said)
        # Of the youngest threads the first milliseconds are not seen.
        assert 0.80 <= captured <= 1 + TOLERANCE, said["text"]
        for function, thread in (("spin_a_quarter", "quarter"), ("spin_half", "half"), ("spin_while_young", "young")):
            top = pprof(
                scratch, "-top", "-nodefraction=0", "-unit=ms", "-sample_index=cpu", f"-focus={function}$", file
            )
            spun = re.search(r"Showing nodes accounting for ([\d.]+)ms", top) or sys.exit(top)
            ratio = float(spun.group(1)) * 1e6 / truth[thread]
            # A thread is seen some milliseconds after its birth, later on a machine that is busy.
            low = 0.5 if thread == "young" else 1 - TOLERANCE
            assert low <= ratio <= 1 + TOLERANCE, f"{case} {thread}: {ratio:.3f} of its own clock\n{top}"
            tags = pprof(scratch, "-tags", f"-focus={function}$", file)
            total, *rest = (float(part) for part in re.findall(r"([\d.]+)%\)", tags))
            named = dict(zip(re.findall(r"%\): (\S+)", tags), rest, strict=True))
            assert named.get(thread, 0) >= 0.9 * total, tags
            found.append(f"{case}/{thread} {ratio:.3f}")
        found.append(f"{case} held {captured:.3f}, captured {said['captured']}")
    return found


def check_tool(scratch: Path, port: int, backends: list[str]) -> list[str]:
    """Everything that the tool can do, on everything that there is."""
    url = base(port)
    names = {
        "profile": ("profile?seconds=2&hz=1000", "sigmad::http::worker"),
        "threads": ("threads", "sigmad::"),
        "goroutine": ("goroutine", "sigmad::"),
    }
    for name, (target, function) in names.items():
        top = pprof(scratch, "-top", "-nodecount=2000", url + target)
        assert function in top, f"{name}: {function} is not in\n{top}"
        file = save(url + target, scratch / name)
        other = save(url + target, scratch / f"{name}-2")
        svg = scratch / f"{name}.svg"
        pprof(scratch, "-svg", "-output", svg, file)
        assert "</svg>" in svg.read_text() and "sigmad" in svg.read_text()
        pprof(scratch, "-top", "-diff_base", file, other)
        same = pprof(scratch, "-top", "-diff_base", file, file)
        assert not [row for row in listed(same).values() if row[0] != 0], same
        check_page(scratch, file, function)
    found = []
    for backend in backends:
        target = f"{url}profile?seconds=3&hz=1000&backend={backend}"
        said = comment(scratch, save(target, scratch / f"often-{backend}"))
        assert abs(held(said) - 1) <= AIM + SHORT, said["text"]
        found.append(f"{backend} held {held(said):.3f}, captured {said['captured']}, {said['samples']} samples")
    share_of_worker = share(
        listed(pprof(scratch, "-top", "-nodecount=2000", scratch / "profile")), "sigmad::http::worker"
    )
    # Most of the work of the process; what profiles it is in there too.
    assert share_of_worker > 0.15, share_of_worker
    found.append(f"worker {share_of_worker:.0%}")
    tags = pprof(scratch, "-tags", scratch / "profile")
    for thread in ("worker-0", "analytics"):
        assert thread in tags, tags
    threads = pprof(scratch, "-tags", scratch / "threads")
    for thread in ("worker-0", "analytics", "reader-0", "reader-1", "events", "debug", "profile", "signals", "log"):
        assert thread in threads, threads
    raw = pprof(scratch, "-raw", scratch / "profile")
    mapping = re.search(r"^\d+: 0x\w+/0x\w+/0x\w+ \S*sigmad ([0-9a-f]{16,})", raw, re.M)
    assert mapping, "no build id\n" + raw[-2000:]
    return found


def check_page(scratch: Path, file: Path, function: str) -> None:
    """What `go tool pprof -http` shows."""
    port = bench.free_port()
    command = [PPROF, f"-http=127.0.0.1:{port}", "-no_browser", str(file)]
    environment = {**os.environ, "PPROF_TMPDIR": str(scratch), "HOME": str(scratch)}
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    with bench.running(command, **options):
        bench.wait_for_listener(port)
        for page in ("top", "flamegraph", ""):
            status, _, payload = bench.get(f"http://127.0.0.1:{port}/ui/{page}")
            assert status == 200, page
            assert page != "flamegraph" or function.encode() in payload, page


def check_texts(port: int) -> None:
    url = base(port)
    for path in (url, url.removesuffix("/")):
        status, headers, page = bench.get(path)
        assert status == 200 and headers["Content-Type"].startswith("text/html"), headers
        for link in re.findall(r'href="([^"?]+)', page.decode()):
            target = urllib.parse.urljoin(path, link)
            assert bench.get(target, "HEAD")[0] == 200, target
    assert b"\0serve" in bench.get(url + "cmdline")[2]
    text = bench.get(url + "threads?debug=1")[2].decode()
    for thread in ("worker-0", "analytics", "signals"):
        assert f'"{thread}"' in text, text
    assert "sigmad::" in text and "did not answer" not in text, text
    address = re.search(r"(0x[0-9a-f]{16}) <?sigmad::", text).group(1)
    for answer in (
        bench.get(f"{url}symbol?{address}+0x1"),
        bench.get(url + "symbol", "POST", f"{address}+0x1".encode()),
    ):
        assert answer[2].startswith(b"num_symbols: 1\n0x") and b"sigmad" in answer[2], answer
    status, headers, svg = bench.get(url + "flamegraph?seconds=1")
    assert (status, headers["Content-Type"]) == (200, "image/svg+xml")
    assert b"</svg>" in svg and b"worker-0" in svg, svg[:500]


def check_refusals(scratch: Path, port: int) -> None:
    url = base(port)
    wrong = ["profile?seconds=x", "profile?hz=", "flamegraph?backend=magic", "profile?seconds=1.5"]
    wrong += ["profile?seconds=0", "profile?seconds=301", "flamegraph?seconds=-3", "profile?hz=0", "profile?hz=99999"]
    for target in [*wrong, "heap?seconds=0", "allocs?seconds=301"]:
        status, headers, payload = bench.get(url + target)
        assert status == 400 and json.loads(payload)["error"]["code"] == "bad_parameter", payload
        assert headers["Content-Type"].startswith("text/plain"), headers
    for target in ("profile", "heapish", "mutex", "block"):
        assert bench.get(url + target, "POST", b"")[0] == (405 if target == "profile" else 404), target
    status, headers, payload = bench.get(url + "profile?seconds=300", "HEAD")
    assert (status, payload, headers["Content-Type"]) == (200, b"", "application/octet-stream")
    for target in ("mutex", "block", "trace"):
        refused = pprof(scratch, "-top", url + target, fails=True)
        assert "404" in refused and "/debug/pprof/heap" in refused, refused
    with began(port, "profile?seconds=30"):
        status, headers, payload = bench.get(url + "profile?seconds=1")
        assert status == 409 and 1 <= int(headers["Retry-After"]) <= 30, (status, payload)
        assert bench.get(url + "flamegraph?seconds=1")[0] == 409
        refused = pprof(scratch, "-top", url + "profile?seconds=1", fails=True)
        assert "409" in refused and "another profile" in refused, refused
        # Others are not held up.
        assert bench.get(url + "threads")[0] == 200
    # A second profile of the crate as well.
    for target in ("profile?seconds=1&hz=1&backend=pprof", "profile?seconds=1&hz=200&backend=pprof"):
        said = comment(scratch, save(eventually(url + target), scratch / "crate"))
        assert said["backend"] == "pprof", said
    status, headers, payload = bench.get(url + "threads", X_Forwarded_For="192.0.2.1")
    assert status == 403 and b"--debug-token" in payload, (status, payload)


def eventually(url: str) -> str:
    """Once no other profile is taken: that a client has gone is noticed in milliseconds, not at once."""
    deadline = time.monotonic() + PATIENCE_S
    with_no_effect = re.sub(r"seconds=\d+", "seconds=1", url)
    while bench.get(with_no_effect)[0] == 409:
        assert time.monotonic() < deadline, "the profile of a client that has gone goes on"
        time.sleep(0.01)
    return url


@contextlib.contextmanager
def began(port: int, target: str):
    """A profile that is being taken; its client goes when the block ends."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            client.sendall(f"GET /debug/pprof/{target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = bench.receive(client)
            if head.startswith(b"HTTP/1.1 200 "):
                yield client
                return
            assert head.startswith(b"HTTP/1.1 409 "), head
        assert time.monotonic() < deadline, "the profile of a client that has gone goes on"
        time.sleep(0.002)


def count(pid: int, folder: str) -> int:
    return len(list(Path(f"/proc/{pid}/{folder}").iterdir()))


def check_cycles(scratch: Path, backends: list[str], *flags: str) -> list[str]:
    """Profiles that are given up, over and over, while requests are answered."""
    found = []
    with bench.sigmad(*flags) as (child, port):
        for backend in backends:
            # What is made once is made before the count begins.
            save(eventually(base(port) + f"profile?seconds=1&backend={backend}"), scratch / "first")
            assert bench.get(base(port) + "threads")[0] == 200
            at_rest = count(child.pid, "fd"), count(child.pid, "task")
            before = bench.resident_bytes(child.pid)
            began_at = time.monotonic()
            with under_load(port, "--rate", "500", "--batch", "20"):
                for cycle in range(CYCLES):
                    with began(port, f"profile?seconds=30&hz=1000&backend={backend}"):
                        if cycle % 10 == 0:
                            assert bench.get(base(port) + "threads")[0] == 200
            took = time.monotonic() - began_at
            deadline = time.monotonic() + PATIENCE_S
            while count(child.pid, "fd") > at_rest[0] or count(child.pid, "task") > at_rest[1]:
                now = count(child.pid, "fd"), count(child.pid, "task")
                assert time.monotonic() < deadline, f"{at_rest} descriptors and threads before, {now} after"
                time.sleep(0.02)
            # The allocator gives back what was freed a while ago, when it is next asked for something.
            while (grown := bench.resident_bytes(child.pid) - before) >= KEPT_BYTES_MAX:
                assert time.monotonic() < deadline, f"{grown} bytes more after {CYCLES} cycles"
                assert bench.get(base(port) + "threads")[0] == 200
                time.sleep(0.1)
            found.append(f"{backend} {CYCLES} cycles in {took:.1f} s, {grown / 2**20:+.1f} MiB")
        assert child.poll() is None
    return found


def check_seccomp(scratch: Path) -> list[str]:
    """A kernel that refuses, as in containers: another sampler, shorter stacks, and the profile says so."""
    found = []
    refusing = str(Path(__file__).parent / "refusing.py")
    for error, words in (("EPERM", "not permitted"), ("ENOSYS", "not implemented"), ("EACCES", "denied")):
        prefix = [sys.executable, refusing, f"perf_event_open={error}", "--"]
        with bench.sigmad(prefix=prefix) as (_, port), under_load(port):
            said = comment(scratch, save(base(port) + "profile?seconds=1&hz=1000", scratch / error))
            assert said["backend"] == "timer" and re.search(f"perf can't: .*{words}", said["text"]), said["text"]
            assert int(said["samples"]) > 0, said["text"]
            status, _, payload = bench.get(base(port) + "profile?seconds=1&backend=perf")
            assert status == 500 and b"backend=perf is not available" in payload, (status, payload)
            check_texts(port)
            assert bench.get(base(port) + "heap")[0] == 200
        found.append(f"perf {error}")
    with bench.sigmad(prefix=[sys.executable, refusing, "process_vm_readv=EPERM", "--"]) as (_, port), under_load(port):
        file = save(base(port) + "profile?seconds=2&hz=1000&backend=timer", scratch / "cut")
        said = comment(scratch, file)
        assert "process_vm_readv is refused" in said["text"], said["text"]
        # What was running is right all the same, with its weight.
        assert abs(held(said) - 1) <= AIM + SHORT, said["text"]
        assert "worker-0" in pprof(scratch, "-tags", file)
        assert "sigmad::" in pprof(scratch, "-top", "-nodecount=2000", file)
        text = bench.get(base(port) + "threads?debug=1")[2].decode()
        assert '"worker-0"' in text and "process_vm_readv is refused" in text, text
        assert "process_vm_readv is refused" in pprof(scratch, "-comments", base(port) + "threads")
        assert bench.get(base(port) + "heap")[0] == 200
        found.append(f"process_vm_readv: held {held(said):.3f}")
    return found


def check_redis(scratch: Path) -> str:
    """Signals interrupt system calls: no connection to Redis ends by that, and no sample is dropped."""
    with bench.redis(scratch) as store, bench.sigmad("--redis-url", f"redis://127.0.0.1:{store}") as (_, port):
        with under_load(port, "--rate", "2000", "--batch", "20"):
            said = comment(scratch, save(base(port) + "profile?seconds=3&hz=1000&backend=timer", scratch / "redis"))
        assert said["backend"] == "timer" and int(said["samples"]) > 0, said["text"]
        metrics = bench.get(f"http://127.0.0.1:{port}/metrics")[2].decode()
        told = re.findall(r"^sigmad_store_(dropped|errors)_total\{\S+ (\S+)$", metrics, re.M)
        assert {name for name, _ in told} == {"dropped", "errors"}, metrics
        assert not [value for _, value in told if float(value) != 0], metrics
        stored = re.search(r'^sigmad_samples_total\{outcome="stored"\} (\S+)$', metrics, re.M)
        assert float(stored.group(1)) > 0, metrics
        return f"{said['samples']} signals, nothing dropped, no error"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        shares = check_known_shares(scratch)
        print("pprof: shares:", "; ".join(shares))
        refused = shares[0].startswith("perf refused")
        backends = ["timer"] if refused else ["perf", "timer"]
        # A closed loop: the server has all that its core can give.
        with bench.sigmad() as (_, port), under_load(port):
            print("pprof: tool:", "; ".join(check_tool(scratch, port, backends)))
            check_texts(port)
        with bench.sigmad("--debug-token", "s3cret") as (_, port):
            for fields, status in (
                ({}, 401),
                ({"X_Forwarded_For": "127.0.0.1"}, 401),
                ({"Authorization": "Bearer 0ther"}, 403),
                ({"X_Real_IP": "127.0.0.1", "Authorization": "Bearer s3cret"}, 200),
            ):
                assert bench.get(base(port) + "cmdline", **fields)[0] == status, fields
            assert b"s3cret" not in bench.get(base(port) + "cmdline", Authorization="Bearer s3cret")[2]
        with bench.sigmad() as (_, port):
            check_refusals(scratch, port)
        print("pprof: refused:", "; ".join(check_seccomp(scratch)))
        print("pprof: redis:", check_redis(scratch))
        for flags in ([], ["--engine", "may"]):
            print("pprof:", *flags, "; ".join(check_cycles(scratch, backends, *flags)))
    print("pprof: ok")


if __name__ == "__main__":
    main()
