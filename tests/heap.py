#!/usr/bin/env python3
"""/debug/pprof/heap, /debug/pprof/allocs and /debug/latency, held against what is known.

A program that allocates a known pattern, read by the real `go tool pprof`: within 5 %. A live server whose
streams take memory of a known size. Stages of requests against the requests sent. `make heap` runs it;
SIGMAD names the binary.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench

PPROF = Path(os.environ.get("PPROF", bench.ROOT / ".tools" / "bin" / "pprof"))
VALUES = ("alloc_objects", "alloc_space", "inuse_objects", "inuse_space")
TOLERANCE = 0.05
DEVICES = 100_000
# Each device sends two metrics. A stream is a record, a ring of 50 values and, for incidents, a fold.
WINDOW_BYTES = 8 * 50
# A hundred chunks, each of which is one sample or none: four standard deviations.
CHUNKS_TOLERANCE = 0.25
BATCH = 1_000
# Of a profile of what has changed: it takes a tenth of that to send the streams.
SPAN_S = 8
# One read in 64 is timed, and a connection's first read may come before its bytes.
TIMED_EVERY = 64
REQUESTS = 100 * TIMED_EVERY


def size_of(name: str, file: str) -> int:
    """As the compiler has checked it."""
    found = re.search(rf"assert!\(size_of::<{name}>\(\) == (\d+)\)", (bench.ROOT / file).read_text())
    assert found, f"{file} asserts no size of {name}"
    return int(found.group(1))


STREAM_BYTES = (
    size_of("StreamRecord", "src/analytics/arena.rs") + WINDOW_BYTES + size_of("Fold", "crates/incidents/src/fold.rs")
)


def get(port: int, path: str, **fields: str):
    return bench.get(f"http://127.0.0.1:{port}{path}", **fields)


def pprof(scratch: Path, *arguments: object) -> str:
    environment = {**os.environ, "PPROF_TMPDIR": str(scratch), "HOME": str(scratch)}
    tool = [str(PPROF)] if PPROF.exists() else ["go", "tool", "pprof"]
    if not PPROF.exists():
        environment["HOME"] = os.environ["HOME"]
    command = [*tool, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def below(scratch: Path, profile: object, function: str, value: str) -> float:
    """What stands under a function: objects, or bytes."""
    unit = [] if value.endswith("objects") else ["-unit=B"]
    top = pprof(scratch, "-top", "-nodecount=5000", "-nodefraction=0", *unit, f"-sample_index={value}", profile)
    amounts = [0.0]
    for line in top.splitlines():
        row = re.match(r"\s*\S+\s+\S+%\s+\S+%\s+([\d.]+)B?\s+\S+%\s+(.*)", line)
        if row and function in row.group(2):
            amounts.append(float(row.group(1)))
    return max(amounts)


def check_pattern(scratch: Path) -> str:
    """The estimate of each value, by function, against the truth."""
    file = scratch / "pattern"
    command = [bench.example("allocate"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    worst = 0.0
    for function, truth in json.loads(done.stdout).items():
        for value in VALUES:
            estimate = below(scratch, file, function, value)
            if truth[value] == 0:
                assert estimate == 0, f"{function} {value}: {estimate} of nothing"
                continue
            error = estimate / truth[value] - 1
            assert abs(error) < TOLERANCE, f"{function} {value}: {estimate} of {truth[value]}, {error:+.1%}"
            worst = max(worst, error, key=abs)
    return f"at worst {worst:+.1%}"


def post(port: int, bodies: list[bytes]) -> None:
    """All on one connection, one after the other; again where analytics was behind and kept nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        for body in bodies:
            head = f"POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            status = b"503"
            while status == b"503":
                client.sendall(head.encode() + body)
                answer = b""
                while not answer.endswith(b"}"):
                    answer += bench.receive(client)
                status = answer.split(b" ", 2)[1]
            assert status == b"202", answer


def post_devices(port: int, prefix: str) -> None:
    """A sample of each device, judged before it returns."""
    samples = [f'{{"device":"{prefix}{device}","cpu":1,"rps":2}}' for device in range(DEVICES)]
    batches = [samples[first : first + BATCH] for first in range(0, DEVICES, BATCH)]
    post(port, [f"[{','.join(batch)}]".encode() for batch in batches])
    # A read sees every sample before it.
    assert bench.get_json(port, "/stats")["count"] > 0


def check_tool(scratch: Path, port: int) -> None:
    for name, shown in (("heap", "inuse_space"), ("allocs", "alloc_space")):
        path = f"/debug/pprof/{name}"
        status, headers, payload = get(port, path)
        assert (status, headers["Content-Type"]) == (200, "application/octet-stream"), (status, headers)
        assert payload.startswith(b"\x1f\x8b"), payload[:20]
        url = f"http://127.0.0.1:{port}{path}"
        top = pprof(scratch, "-top", url)
        assert f"Type: {shown}" in top and "sigmad" in top, top
        for value in VALUES:
            assert f"Type: {value}" in pprof(scratch, "-top", f"-sample_index={value}", url)
        raw = pprof(scratch, "-raw", url)
        assert "space bytes" in raw and "Period: 524288" in raw, raw[:500]
        for own in ("heap::Sampled<", "__rust_alloc"):
            assert own not in raw, f"the allocator itself is in the stacks: {own}"
        status, headers, text = get(port, f"{path}?debug=1")
        assert status == 200 and headers["Content-Type"].startswith("text/plain"), headers
        assert text.startswith(b"heap profile: ") and b"#\t0x" in text, text[:500]
        legacy = scratch / f"{name}.txt"
        legacy.write_bytes(text)
        assert "inuse_space" in pprof(scratch, "-raw", legacy)
        assert get(port, path, X_Forwarded_For="192.0.2.1")[0] == 403


def check_streams(scratch: Path, port: int) -> str:
    """Memory of a known size, under the function that takes it."""
    # The name without its path: with full debug information it has one.
    function, value = "arena::Arena", "inuse_space"
    url = f"http://127.0.0.1:{port}/debug/pprof/heap"
    before = scratch / "before"
    before.write_bytes(get(port, "/debug/pprof/heap")[2])
    post_devices(port, "d")
    truth = 2 * DEVICES * STREAM_BYTES
    grown = below(scratch, url, function, value) - below(scratch, before, function, value)
    error = grown / truth - 1
    assert abs(error) < CHUNKS_TOLERANCE, f"{grown} of {truth} bytes, {error:+.1%}"
    difference = pprof(scratch, "-top", "-nodecount=5000", "-diff_base", before, url)
    assert function in difference, difference
    return f"{DEVICES} devices: {grown / 1e6:.0f} of {truth / 1e6:.0f} MB under {function}"


def check_span(scratch: Path, port: int) -> str:
    """What has changed in some seconds: streams that came meanwhile, and nothing of those before."""
    url = f"http://127.0.0.1:{port}/debug/pprof"
    top = pprof(scratch, "-top", "-seconds", 1, f"{url}/allocs")
    assert "Type: alloc_space" in top and re.search(r"Duration: 1(\.\d+)?s", top), top
    file = scratch / "span"
    # The head says that it has begun.
    with urllib.request.urlopen(f"{url}/heap?seconds={SPAN_S}", timeout=60) as running:
        assert running.headers["Content-Disposition"] == 'attachment; filename="heap-delta"', running.headers
        post_devices(port, "later")
        status, headers, payload = get(port, "/debug/pprof/allocs?seconds=1")
        assert status == 409 and 1 <= int(headers["Retry-After"]) <= SPAN_S, (status, payload)
        # Others are not held up.
        assert get(port, "/debug/pprof/heap")[0] == 200
        file.write_bytes(running.read())
    truth = 2 * DEVICES * STREAM_BYTES
    for value in ("inuse_space", "alloc_space"):
        found = below(scratch, file, "arena::Arena", value)
        assert abs(found / truth - 1) < CHUNKS_TOLERANCE, f"{value}: {found} of {truth} bytes"
    # A client that goes away ends it.
    urllib.request.urlopen(f"{url}/heap?seconds=300", timeout=60).close()
    deadline = time.monotonic() + 10
    while get(port, "/debug/pprof/heap?seconds=1")[0] == 409:
        assert time.monotonic() < deadline, "the profile of a client that has gone goes on"
        time.sleep(0.02)
    return f"{found / 1e6:.0f} of {truth / 1e6:.0f} MB came in {SPAN_S} s"


def check_latency() -> str:
    with bench.sigmad("--workers", "1") as (_, port):
        status, headers, payload = get(port, "/debug/latency")
        assert (status, headers["Content-Type"]) == (200, "application/json"), (status, headers)
        assert json.loads(payload)["timedOneIn"] == TIMED_EVERY
        post(port, [b'{"timestamp":1735100000,"cpu":60.5,"rps":2000}'] * REQUESTS)
        bench.get_json(port, "/stats")
        stages = {row["stage"]: row for row in json.loads(get(port, "/debug/latency")[2])["stages"]}
        path = ["queue_wait", "read", "parse", "decode", "enqueue", "write"]
        assert list(stages) == [*path, "rest", "whole", "analytics"], list(stages)
        timed = REQUESTS // TIMED_EVERY
        for name in [*path, "whole", "analytics"]:
            row = stages[name]
            # Reads of other requests are timed too, but answered by others.
            assert timed - 1 <= row["count"] <= timed + 1, row
            assert row["p50Ns"] <= row["p99Ns"] <= row["p99.9Ns"], row
            # A percentile is the upper edge of its bucket.
            assert 0 < row["meanNs"] <= row["p99.9Ns"], row
        for name in path:
            assert stages[name]["meanNs"] < stages["whole"]["meanNs"], stages
        total = sum(stages[name]["share"] for name in [*path, "rest"])
        assert abs(total - 1) < 1e-6, total
        assert stages["whole"]["share"] == 1 and stages["analytics"]["share"] is None
        # The system calls are most of a small request, on any machine.
        assert stages["read"]["share"] + stages["write"]["share"] > 0.3, stages
        for target, fields in (("?format=text", {}), ("", {"Accept": "text/plain"})):
            status, headers, text = get(port, "/debug/latency" + target, **fields)
            assert headers["Content-Type"].startswith("text/plain"), headers
            lines = text.decode().splitlines()
            assert [line.split()[0] for line in lines[1:10]] == list(stages), lines
            assert int(lines[2].split()[1]) >= stages["read"]["count"], lines
        assert get(port, "/debug/latency?format=xml")[0] == 400
        assert get(port, "/debug/latency", X_Real_IP="127.0.0.1")[0] == 403
        shares = ", ".join(f"{name} {stages[name]['share']:.0%}" for name in [*path, "rest"])
        return f"{stages['whole']['meanNs'] / 1e3:.1f} µs: {shares}"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        print("heap: pattern:", check_pattern(scratch))
        with bench.sigmad() as (_, port):
            check_tool(scratch, port)
            print("heap: streams:", check_streams(scratch, port))
            print("heap: span:", check_span(scratch, port))
    print("heap: latency:", check_latency())
    print("heap: ok")


if __name__ == "__main__":
    main()
