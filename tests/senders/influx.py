#!/usr/bin/env python3
"""The Python clients of InfluxDB 1 and 2, which write line protocol, against the real binary.

Every value, device and time that arrives is what was sent, to the last one: read back from `/latest`.
`make senders` runs it, and `make verify-long` Telegraf (tests/senders/telegraf); SIGMAD names the binary.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benches"))

import bench

TOKEN = "a-token-of-senders"
# Divisible by neither 10 nor 1,000: a unit that is lost shows.
START_US = 1_735_100_000_123_457
POINTS = 600
TAGS = 'path="/var log"'

# Device or none, series, microseconds, value.
Value = tuple[str | None, str, int, float]


def points() -> list[dict]:
    """Points of three devices, in order, with every type of field."""
    made = []
    for index in range(POINTS):
        fields = {"load": index / 7, "cores": index % 64, "is_up": index % 2 == 0, "kernel": 'Linux "6", x=1'}
        tags = {"host": f"edge-{index % 3}", "path": "/var log"}
        made.append({"measurement": "sys tem", "tags": tags, "fields": fields, "time": (START_US + index) * 1_000})
    return made


def expected(made: list[dict]) -> Counter[Value]:
    values: Counter[Value] = Counter()
    for point in made:
        for name in ("load", "cores"):
            series = f'{{"{point["measurement"]}_{name}",{TAGS}}}'
            values[point["tags"]["host"], series, point["time"] // 1_000, float(point["fields"][name])] += 1
    return values


def arrived(port: int) -> Counter[Value]:
    latest = bench.get_json(port, "/latest?limit=1000")["samples"]
    values: Counter[Value] = Counter()
    for sample in latest:
        for series in sample.keys() - {"timestamp", "device", "arrivedAt"}:
            moment = round(sample["timestamp"] * 1_000_000)
            values[sample.get("device"), series, moment, float(sample[series])] += 1
    return values


def check(port: int, values: Counter[Value]) -> None:
    """Waits until as many values have arrived, and compares all of them."""
    deadline = time.monotonic() + 60
    while True:
        seen = arrived(port)
        if seen.total() >= values.total() or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert seen == values, f"missing {list((values - seen).items())[:3]}, extra {list((seen - values).items())[:3]}"


def influxdb_client(port: int) -> None:
    """The client of InfluxDB 2: one write, batches, gzip, and an error that it understands."""
    from influxdb_client import InfluxDBClient, Point, WritePrecision
    from influxdb_client.client.write_api import SYNCHRONOUS, WriteOptions
    from influxdb_client.rest import ApiException

    made = points()
    url = f"http://127.0.0.1:{port}"
    with InfluxDBClient(url=url, token=TOKEN, org="any", enable_gzip=True) as client:
        assert client.ping() and client.version().startswith("1.8"), client.version()
        assert client.build() == "OSS", client.build()
        with client.write_api(write_options=SYNCHRONOUS) as writer:
            writer.write(bucket="any", record=[Point.from_dict(point) for point in made[:200]])
            micros = [{**point, "time": point["time"] // 1_000} for point in made[200:300]]
            writer.write(bucket="any", record=micros, write_precision=WritePrecision.US)
            try:
                writer.write(bucket="any", record=["m v=", "broken"])
                raise AssertionError("lines that can't be read were taken")
            except ApiException as error:
                assert error.status == 400 and "dropped=2" in json.loads(error.body)["message"], error.body
        with client.write_api(write_options=WriteOptions(batch_size=50, flush_interval=200)) as writer:
            for point in made[300:]:
                writer.write(bucket="any", record=point)
    with InfluxDBClient(url=url, token="wrong", org="any") as client:
        try:
            client.write_api(write_options=SYNCHRONOUS).write(bucket="any", record="m v=1")
            raise AssertionError("a wrong token was taken")
        except ApiException as error:
            assert error.status == 403 and json.loads(error.body)["code"] == "forbidden", error.body
    check(port, expected(made))


def influxdb(port: int) -> None:
    """The client of InfluxDB 1: a database first, then writes of each precision."""
    from influxdb import InfluxDBClient
    from influxdb.exceptions import InfluxDBClientError

    made = points()
    login = {"host": "127.0.0.1", "port": port, "username": "telegraf", "password": TOKEN, "database": "any"}
    # With gzip it also marks requests without a body as compressed, and these are corrupt.
    client, gzip_client = InfluxDBClient(**login), InfluxDBClient(**login, gzip=True)
    assert client.ping() == "1.8.10-sigmad"
    client.create_database("any")
    assert client.get_list_database() == [{"name": "sigmad"}]
    assert gzip_client.write_points(made[:300], time_precision="n")
    micros = [{**point, "time": point["time"] // 1_000} for point in made[300:]]
    assert client.write_points(micros, time_precision="u", batch_size=100)
    for statement in ("SELECT * FROM cpu", "DROP DATABASE any"):
        with contextlib.suppress(InfluxDBClientError):
            client.query(statement)
            raise AssertionError(f"{statement} was answered")
    try:
        client.write_points(["m v=1 1735100000", "m v="], protocol="line", time_precision="s")
        raise AssertionError("a line that can't be read was taken")
    except InfluxDBClientError as error:
        assert error.code == 400 and "partial write" in str(error), error
    # Its good line was kept, for the fleet alone.
    check(port, expected(made) + Counter({(None, "m_v", 1_735_100_000_000_000, 1.0): 1}))
    client.close()
    gzip_client.close()


def line(point: dict) -> str:
    fields = point["fields"]
    text = f"load={fields['load']!r},cores={fields['cores']}i,is_up={fields['is_up']}"
    tags = f"sys\\ tem,host={point['tags']['host']},path=/var\\ log"
    return f'{tags} {text},kernel="Linux \\"6\\", x=1" {point["time"]}'


def write_v3(port: int) -> None:
    """The path of InfluxDB 3, for which there is no client here: lines as its documentation has them."""
    made = points()
    body = gzip.compress("\n".join(map(line, made)).encode())
    fields = {"Authorization": f"Bearer {TOKEN}", "Content-Encoding": "gzip"}
    url = f"http://127.0.0.1:{port}/api/v3/write_lp?db=any&precision=auto"
    with urllib.request.urlopen(urllib.request.Request(url, body, fields)) as answer:
        assert answer.status == 204, answer.status
    for query, kept in (("&accept_partial=false", 0), ("", 1)):
        try:
            urllib.request.urlopen(
                urllib.request.Request(
                    url + query, b"m,host=a v=1 1\nm v= 2", fields | {"Content-Encoding": "identity"}
                )
            )
            raise AssertionError("a line that can't be read was taken")
        except urllib.error.HTTPError as error:
            answer = json.load(error)
            data = answer["data"][0] if kept else answer["data"]
            assert (data["line_number"], data["original_line"]) == (2, "m v= 2"), answer
    check(port, expected(made) + Counter({("a", "m_v", 1_000_000, 1.0): 1}))


SENDERS = {
    "influxdb_client": influxdb_client,
    "influxdb": influxdb,
    "write_v3": write_v3,
}


def main() -> None:
    # Both clients are old: what their own dependencies say of them is no finding here.
    warnings.simplefilter("ignore")
    wanted = sys.argv[1:] or list(SENDERS)
    failures = 0
    for name in wanted:
        with bench.sigmad("--ingest-token", TOKEN) as (child, port):
            try:
                SENDERS[name](port)
                print(f"{name}: ok, {arrived(port).total()} values", flush=True)
            except Exception as error:
                failures += 1
                print(f"{name}: FAILED: {error!r}\n{''.join(child.log[-5:])}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
