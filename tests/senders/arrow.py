#!/usr/bin/env python3
"""Tables of pyarrow against the real binary: every value, device and time that `/latest` has must be what the table
has, whatever the types of its columns. `make senders` runs it; SIGMAD names the binary.
"""

from __future__ import annotations

import io
import json
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benches"))

import bench
import pyarrow
from pyarrow import ipc

ROWS = 300
SECOND = 1_735_100_000
STREAM = "application/vnd.apache.arrow.stream"


def packed(table: pyarrow.Table, **options) -> bytes:
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema, options=ipc.IpcWriteOptions(**options)) as stream:
        stream.write_table(table, max_chunksize=100)
    return sink.getvalue()


def post(port: int, body: bytes) -> tuple[int, dict]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/ingest", body, {"Content-Type": STREAM})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def tables() -> dict[str, pyarrow.Table]:
    """The same samples by columns of other types."""
    devices = [f"edge-{row % 7}" for row in range(ROWS)]
    seconds = [SECOND + row for row in range(ROWS)]
    numbers = {
        "cpu": pyarrow.array([row / 4 for row in range(ROWS)], pyarrow.float64()),
        "rps": pyarrow.array([None if row % 5 == 0 else row for row in range(ROWS)], pyarrow.uint32()),
        "note": pyarrow.array(["x"] * ROWS),
    }

    def table(device_name, device_type, time_name, times) -> pyarrow.Table:
        device = pyarrow.array(devices).cast(device_type)
        return pyarrow.table({time_name: times, device_name: device, **numbers})

    text, dictionary = pyarrow.string(), pyarrow.dictionary(pyarrow.int16(), pyarrow.string())
    units = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
    made = {
        f"timestamp in {unit}": table(
            "device", text, "timestamp", pyarrow.array([second * per for second in seconds], pyarrow.timestamp(unit))
        )
        for unit, per in units.items()
    }
    zoned = pyarrow.array([second * 1_000 for second in seconds], pyarrow.timestamp("ms", "Europe/Zurich"))
    made["a zone, a dictionary"] = table("host", dictionary, "ts", zoned)
    made["large texts, seconds"] = table("device_id", pyarrow.large_string(), "time", pyarrow.array(seconds))
    made["views, nanoseconds"] = table(
        "hostname", pyarrow.string_view(), "date", pyarrow.array([second * 1_000_000_000 for second in seconds])
    )
    return made


def check(port: int, name: str, table: pyarrow.Table, body: bytes) -> None:
    status, answer = post(port, body)
    assert status == 202, f"{name}: {status} {answer}"
    assert answer == {"status": "accepted", "accepted": ROWS}, f"{name}: {answer}"
    samples = bench.get_json(port, f"/latest?limit={ROWS}")["samples"]
    for row, sample in enumerate(reversed(samples)):
        expected = {"timestamp": SECOND + row, "device": f"edge-{row % 7}", "cpu": row / 4}
        if row % 5:
            expected["rps"] = row
        sample.pop("arrivedAt")
        assert sample == expected, f"{name}, row {row}: {sample}, not {expected}"
    assert len(samples) == table.num_rows


def check_refusals(port: int) -> None:
    numbers = pyarrow.array([1.5])
    table = pyarrow.table({"cpu": numbers})
    whole = packed(table)
    nested = pyarrow.table({"cpu": numbers, "list": pyarrow.array([[1]])})
    for name, body in {
        "compressed": packed(table, compression="zstd"),
        "nested": packed(nested),
        "only texts": packed(pyarrow.table({"device": pyarrow.array(["a"])})),
        "no rows": packed(table.slice(0, 0)),
        "nothing": b"",
        "not a stream": b"hello, this is not a stream",
        "cut": whole[:-20],
    }.items():
        status, answer = post(port, body)
        assert status == 400, f"{name}: {status} {answer}"
    wrong = pyarrow.table({"timestamp": pyarrow.array([-1, 1], pyarrow.timestamp("s")), "cpu": pyarrow.array([1.5, 2])})
    status, answer = post(port, packed(wrong))
    assert (status, answer["accepted"], answer["rejected"]) == (202, 1, 1), answer
    assert answer["errors"][0]["index"] == 0, answer


def main() -> None:
    with bench.sigmad() as (_child, port):
        made = tables()
        for name, table in made.items():
            check(port, name, table, packed(table))
        check_refusals(port)
    print(f"arrow: {len(made)} tables of {ROWS} rows arrived as they were sent")


if __name__ == "__main__":
    main()
