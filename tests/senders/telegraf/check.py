#!/usr/bin/env python3
"""Telegraf (its agent and plugins, built from main.go) against the real binary.

It loads the recipes of examples/connect and runs with them: the gauges that arrive are those that its own file of the
same run has. With each output it writes points once, and points that go on while sigmad is killed and started again:
every value, device and time is what was sent, to the last one. `make sender SENDER=telegraf` runs it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent.parent / "benches"))

import arrival
import bench
import golang
import influx

HERE = Path(__file__).resolve().parent
CONNECT = bench.ROOT / "examples" / "connect"
ONCE_TIMEOUT_S = 120
AGENT = """
[agent]
  interval = "1s"
  precision = "1ns"
  flush_interval = "1s"
  metric_batch_size = 100
  omit_hostname = true
"""
INPUT_ONCE = """
[[inputs.file]]
  files = ["{file}"]
  data_format = "influx"
"""
INPUT_ON = """
[[inputs.tail]]
  files = ["{file}"]
  initial_read_offset = "beginning"
  max_undelivered_lines = 10000
  path_tag = ""
  data_format = "influx"
"""
INFLUXDB = """
[[outputs.influxdb]]
  urls = ["{url}"]
  database = "any"
  username = "telegraf"
  password = "{token}"
"""
OUTPUTS = {
    "influxdb_v2": """
[[outputs.influxdb_v2]]
  urls = ["{url}"]
  token = "{token}"
  organization = "any"
  bucket = "any"
""",
    "influxdb": INFLUXDB,
    "influxdb-unix": INFLUXDB.replace("{url}", "{unix}"),
    "http": """
[[outputs.http]]
  url = "{url}/write"
  data_format = "influx"
  username = "telegraf"
  password = "{token}"
""",
    "http-json": """
[[outputs.http]]
  url = "{url}/ingest"
  data_format = "json"
  json_timestamp_units = "1us"
  content_encoding = "gzip"
  username = "telegraf"
  password = "{token}"
  [outputs.http.headers]
    Content-Type = "application/json"
""",
}
# What the recipes' inputs give as gauges; those of inputs.net are counters.
GAUGES = ("cpu", "mem", "disk")


def configured(folder: Path, output: str, source: str, port: int) -> tuple[Path, Path]:
    """The configuration, and the file of points that it reads."""
    file, config = folder / "points", folder / "telegraf.conf"
    addresses = {"url": f"http://127.0.0.1:{port}", "unix": f"unix://{folder / 'socket'}"}
    chosen = OUTPUTS[output].format(**addresses, token=influx.TOKEN)
    config.write_text(AGENT + source.format(file=file) + chosen)
    return config, file


def flags(folder: Path) -> tuple[str, ...]:
    return ("--ingest-token", influx.TOKEN, "--listen", f"unix:{folder / 'socket'}")


def run_once(program: str, config: Path) -> None:
    done = subprocess.run(
        [program, str(config), "--once"], capture_output=True, text=True, timeout=ONCE_TIMEOUT_S, check=False
    )
    assert done.returncode == 0 and " E! " not in done.stderr, done.stderr


def once(program: str, output: str) -> None:
    made = influx.points()
    with tempfile.TemporaryDirectory() as name, bench.sigmad(*flags(Path(name))) as (_, port):
        config, file = configured(Path(name), output, INPUT_ONCE, port)
        file.write_text("\n".join(map(influx.line, made)) + "\n")
        run_once(program, config)
        influx.check(port, influx.expected(made))
    print(f"  {output}: {influx.expected(made).total()} values, written once", flush=True)


def wait_for_all(port: int, points: list[dict], before: set[influx.Value]) -> set[influx.Value]:
    return arrival.wait_for_all(set(influx.expected(points)), before, lambda: set(influx.arrived(port)))


def restarted(program: str, output: str) -> None:
    """sigmad is killed, points go on, and it is started again."""
    made = influx.points()
    third = len(made) // 3
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        listen = f"127.0.0.1:{bench.free_port()}"
        port = int(listen.rpartition(":")[2])
        config, file = configured(folder, output, INPUT_ON, port)

        def add(points: list[dict]) -> None:
            with file.open("a") as lines:
                lines.write("".join(influx.line(point) + "\n" for point in points))

        add(made[:third])
        with bench.sigmad(*flags(folder), listen=listen) as (child, _):
            log = stack.enter_context((folder / "log").open("w+"))
            telegraf = stack.enter_context(bench.running([program, str(config)], stderr=log))
            before = wait_for_all(port, made[:third], set())
            child.send_signal(signal.SIGKILL)
            child.wait()
        add(made[third : 2 * third])

        def refused() -> bool:
            return " E! " in (folder / "log").read_text()

        arrival.wait_for("Telegraf notices that nobody listens", refused)
        with bench.sigmad(*flags(folder), listen=listen):
            add(made[2 * third :])
            after = wait_for_all(port, made, before)
        assert telegraf.poll() is None, (folder / "log").read_text()
    print(f"  {output}: {len(before)} values before sigmad was killed, {len(after)} after", flush=True)


def recipe(program: str, name: str) -> None:
    """The file of examples/connect as it is, with the address of this test."""
    with bench.sigmad() as (_, port), tempfile.TemporaryDirectory() as scratch:
        said, config = Path(scratch) / "said", Path(scratch) / name
        text = (CONNECT / name).read_text()
        assert "http://localhost:8080" in text
        text = text.replace("http://localhost:8080", f"http://127.0.0.1:{port}")
        beside = f'[[outputs.file]]\n  files = ["{said}"]\n  data_format = "json"\n  json_timestamp_units = "1ms"\n'
        # Before the first plugin: a table that follows an output is one of its own.
        config.write_text(text.replace("[[outputs.", f"{beside}\n[[outputs.", 1))
        run_once(program, config)
        sent = {
            (point["tags"]["host"], f"{point['name']}_{field}", point["timestamp"], value)
            for point in map(json.loads, said.read_text().splitlines())
            if point["name"] in GAUGES
            for field, value in point["fields"].items()
            if not isinstance(value, str | bool)
        }
        assert any(series == "cpu_usage_idle" for _, series, _, _ in sent), sent

        def arrived() -> set:
            # Without labels: two disks may say the same, and a set has it once on both sides.
            return {
                (device, series.partition("{")[0], moment // 1000, value)
                for device, series, moment, value in influx.arrived(port)
                if series.partition("_")[0] in GAUGES
            }

        arrival.wait_for(f"{len(sent)} gauges of {name}", lambda: arrived() >= sent)
        assert arrived() == sent, sorted(arrived() - sent)[:3]
    print(f"  {name}: {len(sent)} gauges of this machine", flush=True)


def main() -> None:
    program = golang.build(HERE)
    for name in ("telegraf.conf", "telegraf-json.conf"):
        recipe(program, name)
    for output in OUTPUTS:
        once(program, output)
        restarted(program, output)


if __name__ == "__main__":
    main()
