#!/usr/bin/env python3
"""The live page in a real browser, and its stream, against the real binary.

Chromium without a display, driven over the WebDriver protocol. `make page` runs it; SIGMAD names the
binary. Pictures go into a temporary folder, or where `--pictures FOLDER` says.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib.util
import itertools
import json
import os
import random
import re
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))

import bench

# Debian's names.
CHROMIUM = "/usr/bin/chromium"
CHROMEDRIVER = "/usr/bin/chromedriver"
# A loaded machine is slow to paint; what has a limit of its own is measured.
WAIT_S = 20
PAGES = 200
PACKED_BYTES_MAX = 120_000
# Ten seconds of one event each, and some that were under way.
HEARTBEAT_EVENTS_MAX = 30
# Roles that say nothing without a name.
SPOKEN = {"button", "combobox", "dialog", "heading", "image", "link", "listbox", "option", "region", "textbox"}
# (width, height, is a phone)
SCREENS = {"1440": (1440, 900, False), "390": (390, 844, True)}
HOSTILE = [
    "<img src=x onerror='window.broken=1'>",
    '"><script>window.broken=1</script>',
    "javascript:window.broken=1",
    "' onmouseover=window.broken=1 x='",
    "&lt;b&gt;&#x27;",
    "%3Cscript%3E#?/&",
    "__proto__",
    "constructor",
    "\u202egnp.exe",
    "a\u0301\u0302" * 20,
    "\U0001f469\u200d\U0001f4bb \u2028 ${1} {{2}}",
    "x" * 128,
]


@contextlib.contextmanager
def browser(width: int = 1440, height: int = 900, phone: bool = False, scheme: str = "light"):
    with tempfile.TemporaryDirectory(prefix="sigmad-browser-", ignore_cleanup_errors=True) as folder:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            f"--user-data-dir={folder}",
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
        try:
            screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            yield driver
        finally:
            driver.quit()


def open_page(driver, port: int, place: str = "") -> None:
    driver.get(f"http://127.0.0.1:{port}/{place}")
    wait(driver, lambda: state(driver) == "live", "the page is live")


def leave(driver) -> None:
    """Before its server goes: the page would call for it, and complain in the next check's console."""
    driver.get("about:blank")


def wait(driver, condition, what: str, seconds: float = WAIT_S) -> float:
    """Seconds until the condition holds."""
    began = time.monotonic()
    WebDriverWait(driver, seconds, poll_frequency=0.02).until(lambda _: condition(), what)
    return time.monotonic() - began


def state(driver) -> str:
    return driver.find_element(By.ID, "live").get_attribute("data-state")


def text(driver, selector: str) -> str:
    """As it stands in the document, shown or not; empty without such an element."""
    return driver.execute_script("return document.querySelector(arguments[0])?.textContent.trim() ?? ''", selector)


def names(driver, table: str) -> list[str]:
    script = "return [...document.querySelectorAll(`#${arguments[0]} tr`)].map((row) => row.cells[%d].textContent)"
    return driver.execute_script(script % (1 if table == "anomalies" else 0), table)


def check_console(driver, expected: str = "$^") -> None:
    """Nothing but what is expected was complained of; a lost server always is, by the browser itself."""
    lines = [line for line in driver.get_log("browser") if line["level"] in ("WARNING", "SEVERE")]
    unexpected = [line["message"] for line in lines if not re.search(expected, line["message"])]
    assert not unexpected, unexpected


def post(port: int, samples: object, token: str | None = None) -> None:
    fields = {"Authorization": f"Bearer {token}"} if token else {}
    body = json.dumps(samples).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/ingest", body, fields)
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 202


def calm(device: str, metric: str = "rps", count: int = 20) -> list[dict]:
    return [{"device": device, metric: 100 + place % 2} for place in range(count)]


class Events:
    """One client of /events, without a browser."""

    def __init__(self, port: int, query: str = "", **fields: str) -> None:
        self.client = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        # HTTP/1.0: the stream as it is, without chunks.
        self.client.sendall(f"GET /events{query} HTTP/1.0\r\n{lines}\r\n".encode())
        self.file = self.client.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.fields = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            self.fields[name.lower()] = value

    def next(self) -> dict:
        """The next event, or comment."""
        found: dict = {"data": []}
        while (line := self.file.readline().decode().rstrip("\n")) != "":
            name, _, value = line.partition(":")
            if name == "data":
                found["data"].append(value.removeprefix(" "))
            else:
                found[name or "comment"] = value.strip()
        assert found["data"] or "comment" in found, "the stream has ended"
        found["data"] = json.loads("\n".join(found["data"]) or "null")
        return found

    def close(self) -> None:
        self.file.close()
        self.client.close()


def check_files(port: int) -> int:
    """What a browser loads: small, packed, from here alone, and without leave to do anything else."""
    total = 0
    for path in ("/", "/page.css", "/page.js"):
        for coding, accepted in (("br", "gzip, deflate, br, zstd"), ("gzip", "gzip"), (None, "identity")):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept-Encoding": accepted})
            with urllib.request.urlopen(request, timeout=5) as answer:
                body = answer.read()
                assert answer.headers["Content-Encoding"] == coding
                policy = answer.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none';") and "unsafe" not in policy, policy
                total += len(body) if coding == "br" else 0
    assert total < PACKED_BYTES_MAX, total
    return total


def check_stream(port: int) -> None:
    events = Events(port)
    assert events.status == 200
    assert events.fields["content-type"] == "text/event-stream"
    assert events.fields["x-accel-buffering"] == "no"
    hello = events.next()
    assert (hello["event"], hello["retry"]) == ("hello", "1000")
    assert hello["data"]["status"]["redis"] == "off" and not hello["data"]["resumed"]

    # At full load, at most four a second.
    began, seen, comments = time.monotonic(), [], 0
    while time.monotonic() - began < 3:
        post(port, calm("busy", count=5))
        events.client.setblocking(True)
        event = events.next()
        if "comment" in event:
            comments += 1
        else:
            seen.append(event)
    assert len(seen) <= 4 * (time.monotonic() - began) + 1, len(seen)
    assert all(event["event"] == "delta" for event in seen)
    # In silence one a second, and a heartbeat every ten seconds.
    silent = 0
    while comments == 0:
        comments += "comment" in events.next()
        silent += 1
        assert silent <= HEARTBEAT_EVENTS_MAX, f"{silent} events without a heartbeat"

    # Who comes back is told what it missed, and no more.
    last = seen[-1]["id"]
    events.close()
    post(port, [*calm("late"), {"device": "late", "rps": 9_000}])
    time.sleep(1.1)
    again = Events(port, Last_Event_ID=last)
    hello = again.next()["data"]
    assert hello["resumed"]
    assert all(at > seen[-1]["data"]["at"] - 0.1 for at in hello["history"]["at"])
    assert {anomaly["device"] for anomaly in hello["anomalies"]} == {"late"}
    again.close()
    for strange in ("1-1", "nonsense", ""):
        fresh = Events(port, Last_Event_ID=strange)
        assert not fresh.next()["data"]["resumed"]
        fresh.close()

    # One device alone.
    narrow = Events(port, "?device=late")
    hello = narrow.next()["data"]
    assert "fleet" not in hello and hello["device"]["device"] == "late"
    assert hello["samples"][-1]["rps"] == 9_000 and hello["anomalies"][-1]["value"] == 9_000
    post(port, [{"device": "late", "rps": 101}, {"device": "other", "rps": 5}])
    while "samples" not in (delta := narrow.next()["data"] or {}):
        pass
    assert [sample["rps"] for sample in delta["samples"]] == [101]
    narrow.close()
    refused = Events(port, "?device=")
    assert refused.status == 400
    refused.close()


def check_many(port: int) -> None:
    """200 pages at once, and posts are answered meanwhile."""
    pages = [Events(port) for _ in range(PAGES)]
    for page in pages:
        assert page.next()["event"] == "hello"
    for _ in range(20):
        post(port, calm("crowd"))
    for page in pages:
        assert "data" in page.next()
        page.close()


def dropped(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        found = re.search(r"^sigmad_events_clients_dropped_total (\d+)", answer.read().decode(), re.MULTILINE)
    return int(found.group(1))


def check_slow(port: int) -> None:
    """Who does not read is let go; who does is told on."""
    wide = [{"device": "wide", **{f"metric-{at}": 1_000 + place for at in range(8)}} for place in range(400)]
    post(port, wide[:1])
    lazy = socket.socket()
    # Little room on the way, so that what waits soon waits in the server.
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.connect(("127.0.0.1", port))
    lazy.sendall(b"GET /events?device=wide HTTP/1.0\r\n\r\n")
    keen = Events(port, "?device=wide")
    deadline = time.monotonic() + 2 * WAIT_S
    while dropped(port) == 0:
        assert time.monotonic() < deadline, "nobody lets go of it"
        post(port, wide)
        while "samples" not in (keen.next()["data"] or {}):
            pass
    assert keen.next() and dropped(port) == 1
    keen.close()
    lazy.close()


def check_wide(port: int) -> None:
    """A client that reads is not let go for what its device sends, however much that is."""
    sample = {f"metric-{at:02}-{'x' * 100}": 123_456.789 + at for at in range(32)}
    batch = [{"device": "broad", **sample}] * 1_000
    post(port, batch)
    before, keen = dropped(port), Events(port, "?device=broad")
    hello = keen.next()["data"]
    assert len(hello["device"]["metrics"]) == 32 and 20 < len(hello["samples"]) < 1_000
    for _ in range(5):
        post(port, batch)
        while "samples" not in (keen.next()["data"] or {}):
            pass
    assert dropped(port) == before
    keen.close()


def check_empty_then_alive(driver, port: int) -> None:
    open_page(driver, port)
    wait(driver, lambda: driver.find_element(By.ID, "empty").is_displayed(), "the empty page")
    script = "const live = document.getElementById('live'); return [live.dataset.state, live.textContent.trim()]"
    shown, said = driver.execute_script(script)
    assert shown != "live" or said.startswith("live"), f"the dot says {shown}, the text {said}"
    line = text(driver, "#curl")
    assert line.startswith(f"curl http://127.0.0.1:{port}/ingest -d '"), line
    # The line that newcomers paste works.
    post(port, json.loads(line.split("'")[1]))
    wait(driver, lambda: driver.find_element(By.ID, "fleet").is_displayed(), "the fleet")
    wait(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, "#charts canvas")) == 2, "two charts")
    wait(driver, lambda: names(driver, "devices") == ["edge-17"], "the device")
    assert text(driver, "#redis") == "off" and re.match(r"\d", text(driver, "#version"))
    check_console(driver)


def check_anomaly(driver, port: int) -> float:
    post(port, calm("pump-3"))
    wait(driver, lambda: "pump-3" in names(driver, "devices"), "the device")
    slowest = 0.0
    for turn in range(5):
        shown = len(names(driver, "anomalies"))
        post(port, {"device": "pump-3", "rps": 5_000 * 10**turn})
        seconds = wait(driver, lambda shown=shown: len(names(driver, "anomalies")) > shown, "the anomaly", 5)
        slowest = max(slowest, seconds)
        post(port, calm("pump-3", count=60))
    assert slowest < 1, f"an anomaly took {slowest:.2f} s to its page"
    assert "pump-3" in names(driver, "anomalies")[0]
    return slowest


def check_events_not_samples(driver, port: int) -> None:
    """Values flagged in a row are one row: where it was expected, by whom, since when, and how long."""
    post(port, calm("pump-4", count=60))
    wait(driver, lambda: "pump-4" in names(driver, "devices"), "the device")
    at = 1_735_100_000
    post(port, {"device": "pump-4", "rps": 900, "timestamp": at})
    row = "#anomalies tr:first-child"
    wait(driver, lambda: "pump-4" in text(driver, row), "the anomaly")
    cells = [text(driver, f"{row} td:nth-child({place})") for place in range(1, 7)]
    # A time of day would say that it was today.
    started = "Dec 2024"
    assert cells[:4] == [started, "pump-4rps", "900", "99.5 \u2013 101.5"], cells
    assert cells[5] == "open" and text(driver, "#anomalies-title .detector") == "zscore", cells
    shown = len(names(driver, "anomalies"))
    post(port, {"device": "pump-4", "rps": 5_000, "timestamp": at + 60})
    post(port, {"device": "pump-4", "rps": 101, "timestamp": at + 120})
    wait(driver, lambda: text(driver, f"{row} td:nth-child(6)") == "2 min", "its end")
    assert text(driver, f"{row} td:nth-child(1)") == started
    assert len(names(driver, "anomalies")) == shown, "the same row"


def check_copies(driver, port: int) -> None:
    """Pressed twice, a button says its own words again; what a page begins with does not look new.

    The table waits for the mouse to leave it, and no longer.
    """
    driver.refresh()
    wait(driver, lambda: len(names(driver, "anomalies")) > 1, "the anomalies")
    assert not driver.find_elements(By.CSS_SELECTOR, "#anomalies .new")
    for selector, label in (("#copy-anomalies", "Copy as JSON"), ("#anomalies .act button", "{ }")):
        button = driver.find_element(By.CSS_SELECTOR, selector)
        for _ in range(2):
            button.click()
            wait(driver, lambda button=button: button.text in ("Copied", "\u2713"), "it is copied")
        assert driver.switch_to.active_element == button, "the focus is lost"
        wait(driver, lambda button=button, label=label: button.text == label, "its label")
    before = names(driver, "anomalies")
    post(port, {"device": "pump-4", "rps": 7_000_000})
    wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, ".anomalies.held"), "it is held")
    assert names(driver, "anomalies") == before
    webdriver.ActionChains(driver).move_to_element(driver.find_element(By.CLASS_NAME, "brand")).perform()
    wait(driver, lambda: text(driver, "#anomalies td.n") == "7M", "the anomaly")
    assert not driver.find_elements(By.CSS_SELECTOR, ".anomalies.held")


def check_device(driver, port: int) -> None:
    driver.find_element(By.CSS_SELECTOR, "#devices tr a[title='pump-3']").click()
    wait(driver, lambda: text(driver, "#device-name") == "pump-3", "its name")
    wait(driver, lambda: len(names(driver, "device-anomalies")) >= 5, "its anomalies")
    wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#device-charts canvas"), "its chart")
    assert not driver.find_element(By.ID, "fleet").is_displayed()
    post(port, {"device": "pump-3", "rps": 4_321})
    wait(driver, lambda: "4,321" in text(driver, "#device-charts .readout"), "its last value")
    wait(driver, lambda: text(driver, "#device-samples td.n") == "4,321", "its last sample")
    driver.find_element(By.CSS_SELECTOR, "#device .back a").click()
    wait(driver, lambda: driver.find_element(By.ID, "fleet").is_displayed(), "the fleet again")
    # By keyboard alone.
    body = driver.find_element(By.TAG_NAME, "body")
    body.send_keys("/")
    query = driver.switch_to.active_element
    assert query.get_attribute("id") == "query"
    query.send_keys("ump")
    wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#found [role=option]"), "a device found")
    query.send_keys(Keys.ENTER)
    wait(driver, lambda: text(driver, "#device-name") == "pump-3", "the device found")
    # Of a batch that came at one moment every value counts.
    post(port, calm("pump-5"))
    driver.get(f"http://127.0.0.1:{port}/#device=pump-5")
    wait(driver, lambda: "usual" in text(driver, "#device-charts .readout"), "its band")
    driver.get(f"http://127.0.0.1:{port}/#device=nobody")
    wait(driver, lambda: "No samples so far" in text(driver, "#device-line"), "a device unknown")
    driver.get(f"http://127.0.0.1:{port}/#")
    check_console(driver)


def check_search(driver) -> None:
    """Among more devices than a table or an answer has, the one whose name was typed; Escape leads out again."""
    with bench.sigmad() as (_, port):
        post(port, [{"device": f"edge-{place}", "rps": 100} for place in range(3_000)])
        open_page(driver, port)
        query = driver.find_element(By.ID, "query")
        query.send_keys("GE-299")
        wait(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, "#found [role=option]")) == 8, "eight of them")
        assert text(driver, "#found-0") == "edge-299"
        query.send_keys(Keys.ESCAPE)
        assert not driver.find_element(By.ID, "found").is_displayed() and query.get_property("value")
        query.send_keys(Keys.ESCAPE)
        assert query.get_property("value") == ""
        query.send_keys(Keys.ESCAPE)
        assert driver.switch_to.active_element != query
        # Who types on is not led to what was found before.
        for name in ("edge-2998", "edge-29"):
            query.send_keys(name, Keys.ENTER)
            wait(driver, lambda name=name: text(driver, "#device-name") == name, f"the page of {name}")
        check_console(driver)
        leave(driver)


def check_hostile(driver, port: int) -> None:
    for name in HOSTILE:
        wild = {"device": name, "rps": 7_777, name: 9_999}
        post(port, [*({"device": name, "rps": 100 + i % 2, name: 100 + i % 2} for i in range(20)), wild])
    open_page(driver, port)
    wait(driver, lambda: set(HOSTILE) <= set(names(driver, "devices")), "every name as it is")
    for name in HOSTILE:
        anchor = next(a for a in driver.find_elements(By.CSS_SELECTOR, "#devices a") if a.get_property("title") == name)
        driver.execute_script("arguments[0].click()", anchor)
        wait(driver, lambda name=name: text(driver, "#device-name") == name.strip(), f"the page of {name}")
        wait(driver, lambda name=name: driver.execute_script(TITLES) == ["rps", name], f"the charts of {name}")
        wait(driver, lambda name=name: driver.execute_script(COLUMNS) == ["at", "rps", name], f"the samples of {name}")
        driver.back()
        wait(driver, lambda: len(names(driver, "devices")) >= len(HOSTILE), "the fleet again")
    assert driver.execute_script("return window.broken") is None
    assert not driver.find_elements(By.CSS_SELECTOR, "main img, main script")
    width = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, f"{width} pixels too wide"
    check_console(driver)


def check_series(driver) -> None:
    """A device with more series than charts: the unusual first, each found by its name, and its chart by keyboard."""
    with bench.sigmad() as (_, port):
        series = [f'cpu_usage_idle{{core="{core % 2}",cpu="cpu{core}"}}' for core in range(29)]
        # As long as a series may be, and nothing to break it at.
        series.append(f'disk{{path="{"x" * 1_000}"}}')
        for place in range(20):
            post(port, {"device": "host-1", **{name: 90 + place % 2 for name in series}})
        post(port, {"device": "host-1", series[17]: 5})
        for place in (0, 1):
            post(port, {"device": "host-2", "cpu": 90 + place, "rps": 9})
        open_page(driver, port, "#device=host-1")
        listed = "return [...document.querySelectorAll('#series-rows button')].map((row) => row.textContent)"
        wait(driver, lambda: len(driver.execute_script(listed)) >= 20, "the list")
        assert driver.execute_script(listed)[0] == series[17], "the spike is first"
        wait(driver, lambda: len(driver.execute_script(TITLES)) == 4, "four charts")
        assert driver.execute_script(TITLES)[0] == series[17]
        wait(driver, lambda: text(driver, "#series-readout") == "20 of 30", "how many there are")
        query = driver.find_element(By.ID, "series-query")
        first = "#series-rows tr:first-child button"
        for name in series:
            part = name if len(name) < 256 else name[:200]
            driver.execute_script("arguments[0].value = ''", query)
            query.send_keys(part.upper())
            wait(driver, lambda name=name: text(driver, first) == name, f"the row of {name[:40]}")
        # By keyboard: from the field to the row, whose name is then shown whole, and whose chart is the last.
        query.send_keys(Keys.TAB)
        webdriver.ActionChains(driver).send_keys(Keys.SPACE).perform()
        wait(driver, lambda: driver.execute_script(TITLES)[-1:] == [series[-1]], "its chart")
        wait(driver, lambda: "last 91" in text(driver, "#device-charts figure:last-child .readout"), "its past")
        assert text(driver, "#device-line").startswith("5 of 30 series"), text(driver, "#device-line")
        pressed = driver.find_element(By.CSS_SELECTOR, "#series-rows [aria-pressed=true]")
        assert driver.execute_script(WHOLE, pressed), "its name is cut"
        for width, screen in SCREENS.items():
            metrics = {"width": screen[0], "height": screen[1], "deviceScaleFactor": 1, "mobile": screen[2]}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            too_wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert too_wide <= 0, f"{width}: {too_wide} pixels too wide"
        # The address keeps the charts, and the key takes one away again.
        driver.refresh()
        wait(driver, lambda: len(driver.execute_script(TITLES)) == 5, "the same charts")
        assert driver.execute_script(TITLES)[-1] == series[-1]
        query = driver.find_element(By.ID, "series-query")
        query.send_keys("disk{")
        wait(driver, lambda: driver.execute_script(listed) == [series[-1]], "the row")
        query.send_keys(Keys.TAB, Keys.NULL)
        webdriver.ActionChains(driver).send_keys(Keys.SPACE).perform()
        wait(driver, lambda: len(driver.execute_script(TITLES)) == 4, "the others' charts")
        query.send_keys("nothing")
        wait(driver, lambda: driver.find_element(By.ID, "no-series").is_displayed(), "nothing is found")
        # An anomaly leads to its series; the fleet has a list too.
        driver.get(f"http://127.0.0.1:{port}/#")
        wait(driver, lambda: names(driver, "anomalies"), "the anomaly")
        wait(driver, lambda: driver.find_element(By.ID, "series").is_displayed(), "the fleet's list")
        driver.find_element(By.ID, "series-query").send_keys("cpu21")
        wait(driver, lambda: driver.execute_script(listed) == [series[21]], "the fleet's series")
        driver.find_element(By.CSS_SELECTOR, first).click()
        wait(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, "#charts canvas")) == 5, "its chart")
        driver.execute_script("arguments[0].click()", driver.find_element(By.CSS_SELECTOR, "#anomalies a"))
        wait(driver, lambda: driver.execute_script(TITLES) == [series[17]], "the chart of the anomaly")
        # Who has two metrics has no list, and asks for nothing.
        driver.get(f"http://127.0.0.1:{port}/#device=host-2")
        wait(driver, lambda: driver.execute_script(TITLES) == ["rps", "cpu"], "two charts")
        assert not driver.find_element(By.ID, "series").is_displayed()
        check_console(driver)
        leave(driver)


def check_cut(driver) -> None:
    """What is very large, very small or very long is shown whole, and of which metric it is."""
    with bench.sigmad() as (_, port):
        for usual, spread, wild in (
            (8e9, 1e-3, 9.123456789e14),
            (-12_345.678, 1e-3, -39_876.54),
            (6e-7, 0.1, 4.2e-4),
            (8_765.4, 1e-3, 9_999.9),
        ):
            metric = f"of {usual} and then some"
            samples = [{"device": "x" * 128, metric: usual * (1 + spread * (place % 2))} for place in range(20)]
            post(port, [*samples, {"device": "x" * 128, metric: wild, "timestamp": 1_735_100_000}])
            post(port, [{**samples[0], "timestamp": 1_735_100_000 + 4_000}])
        for place, table in (("", "anomalies"), (f"#device={'x' * 128}", "device-anomalies")):
            open_page(driver, port, place)
            wait(driver, lambda table=table: len(names(driver, table)) == 4, "the anomalies")
            assert driver.execute_script(CUT) == []
        check_console(driver)
        leave(driver)


def check_third_parties(driver, port: int) -> None:
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded and all(name.startswith((f"http://127.0.0.1:{port}/", "data:")) for name in loaded), loaded


def member(name: str, at: float, **other: object) -> dict:
    usual = {"kind": "deviation", "series": "rps", "value": 2_512.0, "usual": 1_000.0, "score": 2.4, "endedAt": None}
    own = {"device": name, "startedAt": at, "expected": {"low": 900.0, "high": 1_100.0}, "isGone": False}
    return own | usual | other


def incident(number: int, began_s: float, **other: object) -> dict:
    """As GET /incidents has it: one of a site, which began so many seconds ago."""
    at = time.time() - began_s
    first = member(f"ams-{number}-edge-05", at)
    usual = {
        "kind": "deviation",
        "state": "open",
        "severity": "critical",
        "score": 2.4,
        "title": f"12 of 14 devices of ams-{number} within 9 s, first ams-{number}-edge-05 rps",
        "because": f"their names share ams-{number}, as 14 of 300 devices do",
        "suspect": first,
        "site": f"ams-{number}",
        "memberCount": 12,
        "openCount": 12,
        "deviceCount": 12,
        "resolvedAt": None,
        "ack": None,
        "mergedInto": None,
        "members": [first, *(member(f"ams-{number}-edge-{at:02}", first["startedAt"] + at) for at in range(6, 17))],
    }
    return {"id": f"01JFY09SR{number:017}", "startedAt": at, "openedAt": at, "updatedAt": at} | usual | other


def show_own_incidents(driver) -> None:
    """From the next load on the page gets the server's again."""
    for script in getattr(driver, "stubs", []):
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": script})
    driver.stubs = []


def show_incidents(driver, incidents: list[dict], **other: object) -> None:
    """From the next load on the page gets these instead of the server's, and what it asks to change is kept."""
    show_own_incidents(driver)
    source = STUB % (json.dumps(incidents), json.dumps({"silences": [], **other}))
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    driver.stubs = [added["identifier"]]


def check_incidents(driver) -> None:
    """What is wrong comes first, with its members; an operator's keys reach the server."""
    with bench.sigmad() as (_, port):
        post(port, calm("pump"))
        open_page(driver, port)
        wait(driver, lambda: text(driver, "#incidents-title") == "No open incident", "nothing is wrong")
        is_new = re.compile("learning what|no series is judged")
        wait(driver, lambda: is_new.match(text(driver, "#incidents-since")), "it is new")
        assert not driver.find_elements(By.CSS_SELECTOR, "#open-incidents li")
        hostile = HOSTILE[0]
        ended = {"state": "resolved", "resolvedAt": time.time() - 60, "openCount": 0, "severity": "warning"}
        ack = {"at": time.time() - 20, "by": "mia", "comment": None}
        silence = member("lyo-9", time.time() - 100, kind="silence", series=None, value=31.0, usual=10.0)
        listed = [
            incident(1, 90, severity="warning", state="acknowledged", ack=ack),
            incident(2, 30),
            incident(3, 100, kind="silence", suspect=silence, memberCount=2, openCount=2, deviceCount=2, title=hostile),
            incident(4, 4_000, **ended),
            incident(5, 50, state="silenced"),
        ]
        ends = {"startsAt": time.time() - 9, "endsAt": time.time() + 900}
        rule = {"id": "9f86", "device": "*ams-5*", "series": None, "createdBy": "ann", "comment": hostile, **ends}
        show_incidents(driver, listed, silences=[rule], degradedSince=time.time() - 600)
        driver.refresh()
        wait(driver, lambda: text(driver, "#incidents-title") == "3 open incidents", "the incidents")
        assert ", 10 min: " in text(driver, "#incidents-alone"), text(driver, "#incidents-alone")
        shown = [row.text for row in driver.find_elements(By.CSS_SELECTOR, "#open-incidents a")]
        assert shown == [listed[2]["title"], listed[1]["title"], listed[0]["title"]], shown
        first = driver.find_element(By.CSS_SELECTOR, "#open-incidents li")
        assert "lyo-9, usually every 10 s" in first.text and "critical" in first.text, first.text
        assert "acknowledged by mia at " in text(driver, "#open-incidents li:last-child")
        assert text(driver, "#past-title") == "1 silenced, 1 resolved"
        assert driver.title == "(3) sigmad"
        assert driver.execute_script("return window.broken") is None
        for width, screen in SCREENS.items():
            metrics = {"width": screen[0], "height": screen[1], "deviceScaleFactor": 1, "mobile": screen[2]}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            last = driver.find_element(By.CSS_SELECTOR, "#open-incidents li:last-child").rect
            assert last["y"] + last["height"] <= screen[1], f"{width}: below the fold"
            assert driver.execute_script(SMALL) == [], width
            assert driver.execute_script(CONTRAST)[0][0] >= 4.5
        desk = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", desk)
        driver.find_element(By.CSS_SELECTOR, "#open-incidents li:nth-child(2) a").click()
        wait(driver, lambda: text(driver, "#incident-title") == listed[1]["title"], "one of them")
        assert len(names(driver, "members")) == 12
        assert "their names share ams-2" in text(driver, "#incident-because")
        assert not driver.find_element(By.ID, "fleet").is_displayed()
        for key in ("ack", "silence"):
            driver.find_element(By.ID, key).click()
        wait(driver, lambda: len(driver.execute_script("return window.posted")) == 2, "two requests")
        (ack, _), (silences, asked) = driver.execute_script("return window.posted")
        assert (ack, silences) == (f"/incidents/{listed[1]['id']}/ack", "/silences")
        assert json.loads(asked)["device"] == "ams-2-edge-05"
        driver.find_element(By.CSS_SELECTOR, "#incident .back a").click()
        wait(driver, lambda: driver.find_element(By.ID, "fleet").is_displayed(), "the fleet")
        # What is silenced is said with its times, and can be ended.
        wait(driver, lambda: text(driver, "#silences-title") == "1 silence", "the silence")
        driver.find_element(By.ID, "silences-title").click()
        assert re.match(r"\*ams-5\*: from .* to .*, by ann, ", text(driver, "#silence-rows li"))
        driver.find_element(By.CSS_SELECTOR, "#silence-rows button").click()
        wait(driver, lambda: ["/silences/9f86", None] in driver.execute_script("return window.posted"), "its end")
        # The page of a device says what is wrong with it, and leads there.
        driver.get(f"http://127.0.0.1:{port}/#device=ams-2-edge-05")
        wait(driver, lambda: listed[1]["title"] in text(driver, "#device-incidents li"), "its incident")
        assert "critical" in text(driver, "#device-incidents li")
        driver.find_element(By.CSS_SELECTOR, "#device-incidents a").click()
        wait(driver, lambda: text(driver, "#incident-title") == listed[1]["title"], "the incident")
        driver.get(f"http://127.0.0.1:{port}/#incident=01JFY09SR00000000000000009")
        wait(driver, lambda: text(driver, "#incident-title") == "No such incident", "an unknown one")
        check_console(driver, "status of 404")
        show_incidents(driver, [])
        leave(driver)


def drag(driver, selector: str, begin: float, end: float) -> None:
    """Over a chart, from one part of its width to another."""
    over = driver.find_element(By.CSS_SELECTOR, f"{selector} .u-over")
    driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", over)
    width = over.size["width"]
    actions = webdriver.ActionChains(driver).move_to_element_with_offset(over, int((begin - 0.5) * width), 0)
    actions.click_and_hold().move_by_offset(int((end - begin) * width), 0).release().perform()


def axis(driver) -> list[float]:
    """The ends of the time axis, in seconds, as the address has them; none for the stream's."""
    return [float(part) for part in re.findall(r"(?:from|to)=(\d+)", driver.execute_script("return location.hash"))]


def check_ranges(driver) -> None:
    """Longer ranges come from the server; what is dragged over is zoomed to, kept by the address, and left again."""
    with bench.sigmad() as (_, port):
        post(port, calm("pump", count=60))
        open_page(driver, port, "#device=pump")
        wait(driver, lambda: "value" in text(driver, "#device-charts .key-line"), "its chart")
        driver.find_element(By.ID, "range-3600").click()
        wait(driver, lambda: text(driver, "#device-charts .key-line").startswith("mean,"), "the recorded past")
        wait(driver, lambda: "mean 100.5" in text(driver, "#device-charts .readout"), "the values of the recording")
        pressed = "return document.querySelector('#ranges [aria-pressed=true]')?.id"
        assert driver.execute_script(pressed) == "range-3600"
        drag(driver, "#device-charts", 0.25, 0.75)
        wait(driver, lambda: driver.find_element(By.ID, "zoomed").is_displayed(), "it is zoomed")
        begin, end = axis(driver)
        assert 1_500 < end - begin < 2_100, (begin, end)
        driver.refresh()
        wait(driver, lambda: driver.find_element(By.ID, "zoomed").is_displayed(), "the same part after a reload")
        assert axis(driver) == [begin, end]
        driver.find_element(By.ID, "unzoom").click()
        wait(driver, lambda: driver.execute_script(pressed) == "range-600", "the stream again")
        assert axis(driver) == []
        # The fleet has its own, with the anomalies of each point.
        driver.get(f"http://127.0.0.1:{port}/#")
        wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#charts canvas"), "the fleet's chart")
        driver.find_element(By.ID, "range-86400").click()
        wait(driver, lambda: text(driver, "#charts .key-band") == "smallest to largest value", "a day")
        wait(driver, lambda: text(driver, "#charts .readout") != "", "its values")
        check_console(driver)
        leave(driver)


def check_dots(driver) -> None:
    """A dot says whose it is, and opens it."""
    with bench.sigmad() as (_, port):
        post(port, [*calm("pump-7", count=60), {"device": "pump-7", "rps": 104}])
        open_page(driver, port)
        wait(driver, lambda: names(driver, "anomalies"), "the anomaly")
        over = driver.find_element(By.CSS_SELECTOR, "#charts .u-over")
        driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", over)
        size = over.size

        def point_at(action: str) -> None:
            # It moves with the time: a slow machine points beside it, and tries again.
            spots = driver.execute_script(DOTS)
            if spots:
                (x, y), actions = spots[0], webdriver.ActionChains(driver)
                place = (int(x - size["width"] / 2), int(y - size["height"] / 2))
                getattr(actions.move_to_element_with_offset(over, *place), action)().perform()

        def is_named() -> bool:
            point_at("release")
            return "pump-7" in text(driver, "#charts .readout")

        def is_opened() -> bool:
            if text(driver, "#device-name") != "pump-7":
                point_at("click")
            return text(driver, "#device-name") == "pump-7"

        wait(driver, is_named, "the name of the device", 60)
        wait(driver, is_opened, "its page", 60)
        check_console(driver)
        leave(driver)


def check_filters(driver) -> None:
    """Of many incidents those of a site or a series; what the filters hide is counted."""
    with bench.sigmad() as (_, port):
        post(port, calm("pump"))
        show_incidents(driver, [incident(number, 10 * number) for number in range(1, 13)])
        open_page(driver, port)
        shown = "#open-incidents li"
        wait(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, shown)) == 12, "all")
        driver.find_element(By.ID, "filter-site").send_keys("AMS-7")
        wait(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, shown)) == 1, "one site's")
        assert text(driver, "#filtered") == "1 of 12 shown" and text(driver, "#incidents-title") == "12 open incidents"
        driver.find_element(By.ID, "filter-series").send_keys("cpu")
        wait(driver, lambda: not driver.find_elements(By.CSS_SELECTOR, shown), "none of that series")
        # On a phone nothing of the list is cut.
        for id in ("filter-site", "filter-series"):
            driver.execute_script("arguments[0].value = ''", driver.find_element(By.ID, id))
        driver.find_element(By.ID, "filter-site").send_keys("ams")
        wait(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, shown)) == 12, "all again")
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        assert driver.execute_script(WHOLE, driver.find_element(By.ID, "open-incidents")), "the list is cut"
        desk = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", desk)
        show_incidents(driver, [])
        check_console(driver)
        leave(driver)


def check_all_devices(driver) -> None:
    """The list of devices has all of them, 2,000 at a time; a device is pinned above the incidents."""
    with bench.sigmad() as (_, port):
        post(port, [{"device": f"edge-{place}", "rps": 100} for place in range(2_100)])
        open_page(driver, port)
        wait(driver, lambda: driver.find_element(By.ID, "all").is_displayed(), "the list")
        driver.find_element(By.CSS_SELECTOR, "#all summary").click()
        wait(driver, lambda: text(driver, "#all-readout").startswith("1 to 2,000"), "the first")
        first = set(names(driver, "all-rows"))
        driver.execute_script("document.getElementById('all-next').click()")
        wait(driver, lambda: text(driver, "#all-readout").startswith("2,001 to 2,100"), "the rest")
        second = set(names(driver, "all-rows"))
        assert first | second == {f"edge-{place}" for place in range(2_100)} and not first & second
        assert not driver.find_element(By.ID, "all-next").is_enabled()
        driver.get(f"http://127.0.0.1:{port}/#device=edge-9")
        wait(driver, lambda: text(driver, "#device-name") == "edge-9", "a device")
        driver.find_element(By.ID, "pin").click()
        driver.refresh()
        wait(driver, lambda: text(driver, "#pins a") == "edge-9", "it is pinned after a reload")
        driver.find_element(By.ID, "pin").click()
        wait(driver, lambda: not driver.find_element(By.ID, "pins").is_displayed(), "no more")
        check_console(driver)
        leave(driver)


def check_plain(driver) -> None:
    """Without JavaScript there is a table, which needs none; links to Grafana follow the template."""
    template = "https://grafana.example/d/x?var-device={device}&from={from}&to={to}"
    with bench.sigmad("--grafana-url", template) as (_, port):
        post(port, calm("pump/1"))
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        driver.get(f"http://127.0.0.1:{port}/")
        driver.find_element(By.CSS_SELECTOR, "noscript a, a[href='/incidents.html']").click()
        wait(driver, lambda: driver.find_element(By.TAG_NAME, "h1").text == "No open incident", "the table")
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        open_page(driver, port, "#device=pump%2F1")
        grafana = driver.find_element(By.ID, "device-grafana")
        wait(driver, grafana.is_displayed, "the link")
        wanted = r"https://grafana\.example/d/x\?var-device=pump%2F1&from=\d{13}&to=\d{13}"
        assert re.fullmatch(wanted, grafana.get_property("href")), grafana.get_property("href")
        check_console(driver)
        leave(driver)


def check_axe(driver) -> None:
    """What axe-core finds, in every view and both schemes."""
    source = (Path(importlib.util.find_spec("axe_core_python").origin).parent / "axe.min.js").read_text()
    with bench.sigmad() as (_, port):
        post(port, [*calm("pump", count=60), {"device": "pump", "rps": 5_000}])
        listed = [incident(1, 90, severity="warning"), incident(2, 30)]
        show_incidents(driver, listed)
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            for place, shown in (
                ("", "#open-incidents li"),
                ("#device=pump", "#device-charts canvas"),
                (f"#incident={listed[0]['id']}", "#members tr"),
                ("incidents.html", "h1"),
            ):
                driver.get("about:blank")
                driver.get(f"http://127.0.0.1:{port}/{place}")
                wait(driver, lambda shown=shown: driver.find_elements(By.CSS_SELECTOR, shown), f"{place} is there")
                # By the debugger, which the page's own policy does not hold.
                driver.execute_cdp_cmd("Runtime.evaluate", {"expression": source})
                found = driver.execute_async_script(AXE)
                assert not found, f"{scheme} {place}: {found}"
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        show_incidents(driver, [])
        check_console(driver)
        leave(driver)


def check_restart(driver) -> None:
    with bench.sigmad() as (_, port):
        post(port, calm("before"))
        open_page(driver, port)
        wait(driver, lambda: names(driver, "devices") == ["before"], "a device")
        driver.execute_script("window.stays = true")
    wait(driver, lambda: state(driver) == "lost", "the loss is seen")
    assert "showing data from" in text(driver, "#notice")
    assert text(driver, "#trouble-what") == "The server does not answer"
    assert text(driver, "#trouble-since").startswith("since ")
    with bench.sigmad(listen=f"127.0.0.1:{port}"):
        post(port, calm("after"))
        wait(driver, lambda: state(driver) == "live", "the page is live again")
        assert not driver.find_element(By.ID, "trouble").is_displayed()
        wait(driver, lambda: names(driver, "devices") == ["after"], "the new device")
        assert "restarted" in text(driver, "#notice"), text(driver, "#notice")
        assert driver.execute_script("return window.stays"), "without loading the page again"
        check_console(driver, "/events .*(net::ERR|status of 503)")
        leave(driver)


def check_degraded(driver) -> None:
    """Without Redis: said large and with its time, and so is whose incidents these are."""
    with (
        tempfile.TemporaryDirectory(prefix="sigmad-page-") as folder,
        bench.redis(Path(folder)) as redis,
        bench.sigmad("--redis-url", f"redis://127.0.0.1:{redis}") as (_, port),
    ):
        post(port, calm("pump"))
        show_own_incidents(driver)
        open_page(driver, port)
        wait(driver, lambda: text(driver, "#redis") == "ok", "Redis", 60)
        assert "; redis ok since " in text(driver, "#health-since")
        os.kill(int((Path(folder) / "redis.pid").read_text()), signal.SIGKILL)
        wait(driver, lambda: text(driver, "#trouble-what") == "Redis does not answer", "it is away", 60)
        wait(driver, lambda: "not heard since " in text(driver, "#incidents-alone"), "the list says so", 60)
        assert driver.find_element(By.ID, "trouble").is_displayed()
        assert text(driver, "#trouble-since").startswith("since ")
        check_console(driver)
        leave(driver)


def check_silence(driver) -> None:
    """A server that is stopped in its tracks, as one looks to a laptop that slept.

    Told everything anew, the page shows nothing twice.
    """
    with bench.sigmad() as (child, port):
        post(port, calm("pump-3", count=3))
        open_page(driver, port, "#device=pump-3")
        wait(driver, lambda: len(names(driver, "device-samples")) == 3, "its samples")
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"Last-Event-ID": "forgotten"}})
        child.send_signal(signal.SIGSTOP)
        try:
            seconds = wait(driver, lambda: state(driver) == "lost", "the silence is noticed")
        finally:
            child.send_signal(signal.SIGCONT)
        assert seconds < 8, seconds
        wait(driver, lambda: state(driver) == "live", "the page is live again")
        post(port, calm("pump-3", count=1))
        wait(driver, lambda: len(names(driver, "device-samples")) > 3, "another sample")
        assert len(names(driver, "device-samples")) == 4
        driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {}})
        check_console(driver, "/events .*net::ERR")
        leave(driver)


def check_sleep(driver) -> None:
    """A laptop that sleeps while its server is replaced; awake again, the page goes on with the new one."""
    with bench.sigmad() as (_, port):
        post(port, calm("before"))
        open_page(driver, port)
        wait(driver, lambda: names(driver, "devices") == ["before"], "a device")
        driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "frozen"})
    with bench.sigmad(listen=f"127.0.0.1:{port}"):
        post(port, calm("after"))
        time.sleep(1)
        assert state(driver) == "live" and names(driver, "devices") == ["before"], "it does not sleep"
        driver.execute_cdp_cmd("Page.setWebLifecycleState", {"state": "active"})
        # A frozen page is a hidden one, until somebody looks at it.
        driver.switch_to.new_window("tab")
        driver.close()
        driver.switch_to.window(driver.window_handles[0])
        wait(driver, lambda: driver.execute_script("return !document.hidden"), "it is seen again")
        wait(driver, lambda: names(driver, "devices") == ["after"], "the new server's device")
        assert state(driver) == "live"
        check_console(driver, "/events .*net::ERR")
        leave(driver)


def check_access(driver) -> None:
    """What a keyboard and a screen reader find: names, an order, a focus that is seen and stays."""
    with bench.sigmad() as (_, port):
        for name, rps in (("strange", 5_000), ("odd", 500)):
            post(port, [*calm(name), {"device": name, "rps": rps}])
        open_page(driver, port)
        wait(driver, lambda: names(driver, "devices") == ["strange", "odd"], "the devices")
        wait(driver, lambda: len(names(driver, "anomalies")) == 2, "their anomalies")
        check_names(driver)
        check_keyboard(driver, port)
        check_console(driver)
        leave(driver)


def check_names(driver) -> None:
    tree = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    spoken = [node for node in tree if not node["ignored"] and node["role"]["value"] in SPOKEN]
    assert {node["role"]["value"] for node in spoken} >= {"button", "combobox", "heading", "image", "link"}, spoken
    nameless = [node["role"]["value"] for node in spoken if not node.get("name", {}).get("value")]
    assert not nameless, nameless
    assert driver.execute_script(DOUBLE_IDS) == []
    levels = driver.execute_script(HEADINGS)
    assert levels[0] == 1 and levels.count(1) == 1, levels
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels


def check_keyboard(driver, port: int) -> None:
    """From the start to the devices by the tab key; the first stop leads past all that."""
    driver.execute_script("document.activeElement.blur(); getSelection().removeAllRanges()")
    stops = []
    while "odd" not in stops and len(stops) < 16:
        webdriver.ActionChains(driver).send_keys(Keys.TAB).perform()
        name, is_seen = driver.execute_script(FOCUS)
        assert is_seen, f"nobody sees that {name} has the focus"
        stops.append(name)
    ranges = [f"range-{seconds}" for seconds in (600, 3_600, 21_600, 86_400)]
    assert stops == ["skip", "brand", "query", "theme", "health-line", *ranges, "strange", "odd"], stops
    # The row moves up, and the focus with it.
    post(port, {"device": "odd", "rps": 5_000_000})
    wait(driver, lambda: names(driver, "devices") == ["odd", "strange"], "another order")
    assert driver.execute_script(FOCUS) == ["odd", True], "the focus is lost"
    webdriver.ActionChains(driver).send_keys(Keys.ENTER).perform()
    wait(driver, lambda: text(driver, "#device-name") == "odd", "its page")


def check_demo(driver) -> float:
    """From the command to a page that is alive, in seconds."""
    began = time.monotonic()
    with bench.sigmad(command="demo") as (_, port):
        open_page(driver, port)
        wait(
            driver,
            lambda: len(names(driver, "devices")) == 20 and names(driver, "anomalies"),
            "a fleet with anomalies",
            60,
        )
        wait(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, "#charts canvas")) == 2, "two charts")
        seconds = time.monotonic() - began
        check_console(driver)
        leave(driver)
    return seconds


def check_tokens(driver) -> None:
    with bench.sigmad("--read-token", "s3cret", "--ingest-token", "wr1te") as (_, port):
        assert Events(port).status == 401
        assert Events(port, Authorization="Bearer other").status == 403
        post(port, calm("guarded"), "wr1te")
        driver.get(f"http://127.0.0.1:{port}/")
        field = driver.find_element(By.ID, "token-value")
        wait(driver, field.is_displayed, "the token is asked for")
        field.send_keys(Keys.ESCAPE)
        wait(driver, lambda: "load the page again" in text(driver, "#notice"), "a way back")
        driver.refresh()
        field = driver.find_element(By.ID, "token-value")
        for secret in ("wrong", "s3cret"):
            wait(driver, field.is_displayed, "the token is asked for")
            field.send_keys(secret, Keys.ENTER)
            wait(driver, lambda: not field.get_property("value"), "it is taken")
        wait(driver, lambda: names(driver, "devices") == ["guarded"], "the fleet")
        check_console(driver, "status of 40[13]")
        leave(driver)


# Figures without room for all of their digits, and names of metrics that are out of their cells.
CUT = """
const figures = [...document.querySelectorAll("td.n, td.at")].filter((cell) => cell.scrollWidth > cell.clientWidth);
const ends = (small) => small.getBoundingClientRect().right - small.closest("td").getBoundingClientRect().right;
const metrics = [...document.querySelectorAll("td.name small")].filter((small) => small.clientWidth && ends(small) > 1);
return [...figures, ...metrics].map((node) => node.textContent);
"""
WHOLE = "return arguments[0].scrollHeight <= arguments[0].clientHeight + 1"
COLUMNS = "return [...document.querySelectorAll('#device-metrics th')].map((cell) => cell.textContent)"
TITLES = "return [...document.querySelectorAll('#device-charts h2')].map((title) => title.textContent)"
# Answers for incidents that a page gets instead of the server's.
STUB = """
const incidents = %s;
const { silences, ...other } = %s;
const before = window.fetch;
window.posted = [];
window.fetch = (path, options) => {
  const json = (value, status = 200) => Promise.resolve(new Response(JSON.stringify(value), { status }));
  if (options?.method === "POST" || options?.method === "DELETE") {
    window.posted.push([path, options.body]);
    return json({});
  }
  if (path === "/silences") return json({ silences });
  const id = path.match(/^\\/incidents\\/(.*)/)?.[1];
  const found = incidents.find((one) => one.id === id);
  if (id) return found ? json(found) : json({}, 404);
  const list = { scope: "local", computedAt: 0, incidents, next: null, ...other };
  return path.startsWith("/incidents?") ? json(list) : before(path, options);
};
"""
AXE = """
const done = arguments[arguments.length - 1];
axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }).then(
  ({ violations }) => done(violations.map(({ id, nodes }) => [id, ...nodes.slice(0, 3).map(({ html }) => html)])),
  (error) => done([String(error)]),
);
"""
# Where the dots of the first chart are, in pixels: found by their colour, as people do.
DOTS = """
const canvas = document.querySelector("#charts canvas");
const { width, height } = canvas;
const blank = Object.assign(document.createElement("canvas"), { width, height });
const copy = blank.getContext("2d", { willReadFrequently: true });
copy.drawImage(canvas, 0, 0);
const { data } = copy.getImageData(0, 0, width, height);
const over = document.querySelector("#charts .u-over").getBoundingClientRect();
const own = canvas.getBoundingClientRect();
const found = [];
for (let at = 0; at < data.length; at += 4) {
  const [red, green, blue] = [data[at], data[at + 1], data[at + 2]];
  if (red > 150 && green < 90 && blue < 90) found.push([(at / 4) % width, Math.floor(at / 4 / width)]);
}
if (!found.length) return [];
const [x, y] = found[Math.floor(found.length / 2)];
return [[(x * own.width) / width + own.left - over.left, (y * own.height) / height + own.top - over.top]];
"""
# What is hard to hit (WCAG 2.2, 2.5.8): below 24 pixels, and not in a line of text.
SMALL = """
const targets = [...document.querySelectorAll("button, summary, .incident, input, .pins a, a.button")];
const found = targets.filter((node) => node.checkVisibility()).map((node) => [node, node.getBoundingClientRect()]);
return found.filter(([, { width, height }]) => width < 24 || height < 24).map(([node]) => node.id || node.className);
"""
# The contrast of every text with what is behind it (WCAG 2.2, 1.4.3), the worst first.
CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgb(colour) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data;
}
function luminance([r, g, b]) {
  const part = (value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
}
function ground(node) {
  for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return rgb("white");
}
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.checkVisibility({ opacityProperty: true })) continue;
  if (node.closest(".new, .unseen")) continue;
  const [one, other] = [luminance(rgb(getComputedStyle(node).color)), luminance(ground(node))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  found.push([Math.round(ratio * 100) / 100, walker.currentNode.data.trim().slice(0, 30)]);
}
return found.sort((one, other) => one[0] - other[0]);
"""
DOUBLE_IDS = """
const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
return ids.filter((id, place) => ids.indexOf(id) !== place);
"""
HEADINGS = """
const found = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")];
return found.filter((node) => node.checkVisibility()).map((node) => Number(node.tagName[1]));
"""
# What has the focus, and whether it is in sight, with a ring around it that nothing cuts.
FOCUS = """
const node = document.activeElement;
const { outlineStyle, outlineWidth } = getComputedStyle(node);
const { top, bottom, left, right, width } = node.getBoundingClientRect();
const isInside = width > 0 && top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth;
let isCut = false;
for (let box = node.parentElement; box; box = box.parentElement) {
  const around = box.getBoundingClientRect();
  isCut ||= getComputedStyle(box).overflow !== "visible" && (around.left > left - 3 || around.right < right + 3);
}
const isRinged = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 && !isCut;
return [node.id || node.className || node.title, isRinged && isInside];
"""
SHIFTS = """
new PerformanceObserver((list) => {
  // Rows move within their table when another goes before them; nothing else may.
  const isRow = ({ node }) => (node?.nodeType === Node.TEXT_NODE ? node.parentElement : node)?.closest("tbody");
  const own = list.getEntries().filter((entry) => !entry.hadRecentInput && !entry.sources.every(isRow));
  window.shifted = own.reduce((sum, entry) => sum + entry.value, window.shifted ?? 0);
}).observe({ type: "layout-shift" });
"""


def check_looks(port: int, pictures: Path) -> None:
    """Every screen in both schemes: nothing too wide, nothing too faint, nothing that jumps."""
    for width, screen in SCREENS.items():
        for scheme in ("light", "dark"):
            with browser(*screen, scheme=scheme) as driver:
                open_page(driver, port)
                wait(driver, lambda driver=driver: len(names(driver, "devices")) == 20, "twenty devices")
                shifted = layout_shift(driver)
                assert shifted < 0.02, f"{width} {scheme}: the layout jumps by {shifted}"
                faint = driver.execute_script(CONTRAST)
                assert faint[0][0] >= 4.5, f"{width} {scheme}: {faint[:5]}"
                too_wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
                assert too_wide <= 0, f"{width} {scheme}: {too_wide} pixels too wide"
                picture(driver, pictures / f"page-{width}-{scheme}.png")
                driver.get(f"http://127.0.0.1:{port}/#device=fra-3-edge-02")
                wait(driver, lambda driver=driver: len(names(driver, "device-anomalies")) >= 1, "its anomalies", 60)
                assert driver.execute_script(CONTRAST)[0][0] >= 4.5
                time.sleep(1)
                picture(driver, pictures / f"device-{width}-{scheme}.png")
                check_console(driver)


def incidents_of(port: int) -> list[dict]:
    return bench.get_json(port, "/incidents?limit=1000")["incidents"]


def storm(port: int) -> None:
    """300 devices of twelve sites that were usual, and all at once are not."""
    dice = random.Random(3)
    devices = [
        f"{site}-{rack}-edge-{n:02}" for site in ("ams", "fra", "sgp", "sao") for rack in "123" for n in range(25)
    ]
    for turn in range(220):
        factor = 1 if turn < 200 else 4
        post(port, [{"device": name, "rps": factor * dice.uniform(95, 105)} for name in devices])
        # Longer than the interval into which values are folded.
        time.sleep(0.12)


def take_states(pictures: Path) -> None:
    """What an operator looks at: nothing so far, one incident, all well, a storm, a server that is gone."""
    with browser(*SCREENS["1440"]) as driver:
        with bench.sigmad() as (_, port):
            open_page(driver, port)
            wait(driver, lambda: driver.find_element(By.ID, "empty").is_displayed(), "the empty page")
            picture(driver, pictures / "empty-1440-light.png")
            leave(driver)
        with bench.sigmad(command="demo") as (_, port):
            open_page(driver, port)
            found: list[dict] = []

            def is_found() -> bool:
                found[:] = [one for one in incidents_of(port) if one["deviceCount"] > 3]
                return bool(found)

            wait(driver, is_found, "the outage of a site", 120)
            driver.get(f"http://127.0.0.1:{port}/#incident={found[0]['id']}")
            wait(driver, lambda: len(names(driver, "members")) == 4, "its members")
            wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#members path"), "their timelines")
            time.sleep(3)
            picture(driver, pictures / "incident-1440-light.png")
            driver.get(f"http://127.0.0.1:{port}/#")
            wait(driver, lambda: text(driver, "#incidents-title").startswith("All well for"), "the end of all", 180)
            time.sleep(3)
            picture(driver, pictures / "well-1440-light.png")
            leave(driver)
        with bench.sigmad("--incident-interval", "100ms", "--silence-ignore", "*") as (_, port):
            storm(port)

            def members() -> int:
                return sum(one["memberCount"] for one in incidents_of(port) if not one["mergedInto"])

            open_page(driver, port)
            wait(driver, lambda: members() >= 250, "most of the storm", 60)
            wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#open-incidents path"), "the sparklines", 60)
            time.sleep(5)
            picture(driver, pictures / "storm-1440-light.png")
        wait(driver, lambda: driver.find_element(By.ID, "trouble").is_displayed(), "the server is gone")
        time.sleep(2)
        picture(driver, pictures / "down-1440-light.png")


def layout_shift(driver) -> float:
    """How far the layout moves within three seconds in which no incident opens or ends, since these make room."""
    driver.execute_script(SHIFTS)
    deadline = time.monotonic() + WAIT_S
    while True:
        driver.execute_script("window.shifted = 0")
        before = driver.find_element(By.ID, "incidents").size
        time.sleep(3)
        shifted = driver.execute_script("return window.shifted")
        if driver.find_element(By.ID, "incidents").size == before:
            return shifted
        assert time.monotonic() < deadline, "the incidents change all the time"


def picture(driver, path: Path) -> None:
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="where to keep the pictures")
    parser.add_argument("--after", type=float, default=0, help="seconds that the fleet runs before they are taken")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.pictures or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sigmad-page-")))
        folder.mkdir(parents=True, exist_ok=True)
        with bench.sigmad() as (_, port), browser() as driver:
            packed = check_files(port)
            check_empty_then_alive(driver, port)
            seconds = check_anomaly(driver, port)
            check_events_not_samples(driver, port)
            check_copies(driver, port)
            check_device(driver, port)
            check_hostile(driver, port)
            check_third_parties(driver, port)
            leave(driver)
            check_cut(driver)
            check_search(driver)
            check_series(driver)
            check_access(driver)
            check_incidents(driver)
            check_ranges(driver)
            check_dots(driver)
            check_filters(driver)
            check_all_devices(driver)
            check_plain(driver)
            check_axe(driver)
            check_restart(driver)
            check_degraded(driver)
            check_silence(driver)
            check_sleep(driver)
            check_tokens(driver)
            demo = check_demo(driver)
        with bench.sigmad() as (_, port):
            check_stream(port)
            check_many(port)
            check_slow(port)
            check_wide(port)
        with bench.sigmad(command="demo") as (_, port):
            time.sleep(arguments.after)
            check_looks(port, folder)
        if arguments.pictures:
            take_states(folder)
        pictures = len(list(folder.glob("*.png")))
        print(
            f"page: ok, {packed} bytes packed, an anomaly shown within {seconds:.2f} s, the demo's fleet within "
            f"{demo:.1f} s of its command, {pictures} pictures"
        )


if __name__ == "__main__":
    try:
        main()
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.url}: {error.code} {error.read()!r}")
