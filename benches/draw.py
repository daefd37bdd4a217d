#!/usr/bin/env python3
"""Draws the plots of PERF.md from the records of one machine and day: SVG, on white, the same bytes for the
same records.

    benches/draw.py benches/record/2026-01-31-some-machine-2c
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import scaling

WIDTH = 1000
INK, GRID = "#222222", "#dddddd"
BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#2265a8", "#d9730d", "#2e8540", "#c0392b", "#888888", "#7d4bb0"


class Canvas:
    """Shapes, and what they make up at the end."""

    def __init__(self, height: int, title: str) -> None:
        self.height = height
        self.parts: list[str] = []
        self.text(WIDTH / 2, 24, title, size=17, anchor="middle")

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> None:
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.parts.append(f'<line {ends} stroke="{colour}" stroke-width="{width}"{extra}/>')

    def path(self, points: list[tuple[float, float]], colour: str, dash: str = "") -> None:
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"{extra}/>')

    def dot(self, x: float, y: float, colour: str) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}" fill="{colour}"/>'
        )

    def text(self, x: float, y: float, words: str, size: int = 13, anchor: str = "start", colour: str = INK) -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
        self.parts.append(f'<text {place} fill="{colour}">{escape(words)}</text>')

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" '
            f'width="{WIDTH}" height="{self.height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif">'
        )
        return "\n".join(
            [head, f'<rect width="{WIDTH}" height="{self.height}" fill="#ffffff"/>', *self.parts, "</svg>"]
        )


class Axes:
    """One panel: a rectangle of the canvas with a scale on either side."""

    def __init__(self, canvas: Canvas, x: int, y: int, width: int, height: int) -> None:
        self.canvas, self.x, self.y, self.width, self.height = canvas, x, y, width, height
        self.to_x: Callable[[float], float] = float
        self.to_y: Callable[[float], float] = float

    def scale(self, across: tuple[float, float], up: tuple[float, float], is_log: bool = False) -> None:
        def linear(low: float, high: float) -> Callable[[float], float]:
            return lambda value: (value - low) / (high - low)

        def log(low: float, high: float) -> Callable[[float], float]:
            return lambda value: math.log(max(value, low) / low) / math.log(high / low)

        part_x, part_y = linear(*across), (log if is_log else linear)(*up)
        self.to_x = lambda value: self.x + part_x(value) * self.width
        self.to_y = lambda value: self.y + self.height - part_y(value) * self.height

    def grid(self, across: list[float], up: list[float], label_x: str, label_y: str) -> None:
        for value in across:
            x = self.to_x(value)
            self.canvas.line(x, self.y, x, self.y + self.height, GRID)
            self.canvas.text(x, self.y + self.height + 18, short(value), anchor="middle")
        for value in up:
            y = self.to_y(value)
            self.canvas.line(self.x, y, self.x + self.width, y, GRID)
            self.canvas.text(self.x - 6, y + 4, short(value), anchor="end")
        self.canvas.text(self.x + self.width / 2, self.y + self.height + 38, label_x, anchor="middle")
        self.canvas.text(self.x - 45, self.y - 10, label_y)

    def series(self, points: list[tuple[float, float]], colour: str, dash: str = "", dots: bool = True) -> None:
        placed = [(self.to_x(x), self.to_y(y)) for x, y in points]
        self.canvas.path(placed, colour, dash)
        for x, y in placed if dots else []:
            self.canvas.dot(x, y, colour)

    def legend(self, entries: list[tuple[str, str, str]], is_low: bool = False) -> None:
        """In the upper left corner, or the lower right one, on a ground of its own."""
        wide = 50 + 7 * max(len(words) for words, _, _ in entries)
        high = 18 * len(entries) + 8
        x = self.x + self.width - wide - 4 if is_low else self.x + 4
        y = self.y + self.height - high - 4 if is_low else self.y + 4
        self.canvas.box(x, y, wide, high, "#ffffff")
        for place, (words, colour, dash) in enumerate(entries):
            base = y + 17 + 18 * place
            self.canvas.line(x + 6, base - 4, x + 32, base - 4, colour, 2, dash)
            self.canvas.text(x + 38, base, words)


def short(value: float) -> str:
    for factor, letter in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"


def ticks(high: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to past `high`."""
    rough = high / count
    base = 10 ** math.floor(math.log10(rough))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= rough)
    return [step * place for place in range(math.ceil(high / step) + 1)]


def decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def curve(one: dict, title: str) -> str:
    """Goodput on the left, latency on the right, against what was offered."""
    points = one["points"]
    canvas = Canvas(420, title)
    offered = [point["offered_per_s"] for point in points]
    across = ticks(max(offered))
    left = Axes(canvas, 70, 70, 390, 280)
    top = ticks(max(one["best_per_s"], *(point["refused_per_s"] for point in points)) * 1.05)
    left.scale((0, across[-1]), (0, top[-1]))
    left.grid(across, top, "offered, requests/s", "answered, requests/s")
    ideal_to = min(across[-1], top[-1])
    left.series([(0, 0), (ideal_to, ideal_to)], GREY, "4 4", dots=False)
    left.series([(point["offered_per_s"], point["good_per_s"]) for point in points], BLUE)
    entries = [("goodput: answered 202", BLUE, ""), ("what was offered", GREY, "4 4")]
    if any(point["refused_per_s"] for point in points):
        left.series([(point["offered_per_s"], point["refused_per_s"]) for point in points], RED)
        entries.append(("refused: answered 503", RED, ""))
    right = Axes(canvas, 570, 70, 390, 280)
    keys = [("p50_us", "p50", GREEN), ("p99_us", "p99", ORANGE), ("p999_us", "p99.9", RED)]
    if any(point["refusal_p99_us"] for point in points):
        keys = [*keys[:2], ("refusal_p50_us", "503: p50", PURPLE), ("refusal_p99_us", "503: p99", RED)]
    values = [point[key] for point in points for key, _, _ in keys if point[key]]
    up = decades(min(values), max(values))
    right.scale((0, across[-1]), (up[0], up[-1]), is_log=True)
    right.grid(across, up, "offered, requests/s", "latency from the moment due, µs")
    for key, _, colour in keys:
        right.series([(point["offered_per_s"], point[key]) for point in points if point[key]], colour)
    right.legend([(words, colour, "") for _, words, colour in keys])
    # Refusals are low on the right.
    left.legend(entries, is_low=len(entries) == 2)
    return canvas.svg()


def bars(rows: list[tuple[str, list[float], str]], names: list[tuple[str, str]], title: str, unit: str) -> str:
    """Horizontal, each made of parts, with the sum written behind."""
    canvas = Canvas(90 + 26 * len(rows), title)
    left, width = 330, 560
    most = max(sum(parts) for _, parts, _ in rows)
    for place, (words, parts, behind) in enumerate(rows):
        y = 66 + 26 * place
        canvas.text(left - 8, y + 13, words, anchor="end")
        x = float(left)
        for part, (_, colour) in zip(parts, names, strict=True):
            canvas.box(x, y, part / most * width, 18, colour)
            x += part / most * width
        canvas.text(x + 6, y + 13, behind)
    x = float(left)
    for words, colour in names:
        canvas.box(x, 40, 12, 12, colour)
        canvas.text(x + 18, 51, words)
        x += 34 + 8 * len(words)
    canvas.text(left, 78 + 26 * len(rows), unit)
    return canvas.svg()


def ladder(record: dict) -> str:
    rows = []
    for rung in record["rungs"].values():
        single = rung["single"]
        total = single["user_ns"] + single["system_ns"]
        rows.append(
            (f"{rung['number']}  {rung['title'][:44]}", [single["user_ns"], single["system_ns"]], f"{total:,.0f}")
        )
    names = [("user", BLUE), ("system", ORANGE)]
    return bars(rows, names, "The ladder: CPU time of a request with one sample", "ns, with Redis")


def ladder_batch(record: dict) -> str:
    rows = []
    for rung in record["rungs"].values():
        ns = rung["batch_alone"]["sample_ns"]["median"]
        rows.append((f"{rung['number']}  {rung['title'][:44]}", [ns], f"{ns:,.0f}"))
    return bars(
        rows, [("user and system", BLUE)], "The ladder: CPU time of a sample in batches of 100", "ns, with Redis"
    )


def headline(record: dict) -> str:
    rows = []
    for server in record["servers"].values():
        single = server["single"]
        words = server["title"].replace("`", "")
        rows.append((words, [single["user_ns"], single["system_ns"]], f"{single['total_ns']['median']:,.0f}"))
    return bars(rows, [("user", BLUE), ("system", ORANGE)], "CPU time of a request with one sample", "ns")


def scaled(record: dict) -> str:
    """Measured points, and the model's lines through them."""
    canvas = Canvas(420, f"Workers: measured, and a model up to {record['model']['cores']} cores")
    for place, (load, one) in enumerate(record["loads"].items()):
        panel = Axes(canvas, 70 + 500 * place, 70, 390, 280)
        workers = record["model"][load]["workers"]
        across = ticks(workers)
        panel.scale((0, across[-1]), (0, across[-1]))
        panel.grid(across, across, f"{load}: workers", "× one worker")
        panel.series([(0, 0), (across[-1], across[-1])], GREY, "4 4", dots=False)
        entries = [("linear", GREY, "4 4")]
        colours = {"contention_only": ORANGE, "coherency_only": GREEN, "fitted": ORANGE}
        for name, values in record["usl"].items():
            if name == "points":
                continue
            model = [(n, scaling.capacity(n, values["sigma"], values["kappa"])) for n in range(1, workers + 1)]
            panel.series(model, colours[name], "8 4", dots=False)
            words = name.replace("_", " ")
            entries.append((f"model: {words}, σ {values['sigma']:.3f}, κ {values['kappa']:.4f}", colours[name], "8 4"))
        bound = record["model"][load]["analytics_bound_per_s"] / (1e9 / one["worker_ns"])
        if bound < across[-1]:
            panel.series([(1, bound), (workers, bound)], RED, "2 3", dots=False)
            entries.append(("model: one analytics thread", RED, "2 3"))
        measured = [(int(n), int(n) / ratio["median"]) for n, ratio in one["ratio"].items()]
        panel.series(measured, BLUE)
        panel.legend([*entries, ("measured: workers ÷ cost of a request", BLUE, "")])
    return canvas.svg()


def budget(record: dict) -> str:
    """The timed stages of a request, at the median: of the mean, the few that were interrupted would be most."""
    colours = [GREY, BLUE, GREEN, PURPLE, RED, ORANGE, "#b08d57", "#4aa3a2"]
    stages = [stage for stage in record["loads"]["paced"]["stages"] if stage["p50_ns"] is not None]
    names = [(stage["name"], colours[place % len(colours)]) for place, stage in enumerate(stages)]
    rows = []
    for one in record["loads"].values():
        parts = [stage["p50_ns"] for stage in one["stages"] if stage["p50_ns"] is not None]
        rows.append((one["title"], parts, f"{sum(parts):,.0f}"))
    return bars(rows, names, "Where the time of a request goes inside sigmad", "median ns, by stage")


def main() -> None:
    folder = Path(sys.argv[1])

    def draw(name: str, record: str, make: Callable[[dict], str]) -> None:
        source = folder / f"{record}.json"
        if source.exists():
            (folder / f"{name}.svg").write_text(make(json.loads(source.read_text())) + "\n")
            print(folder / f"{name}.svg")

    draw("headline", "headline", headline)
    draw("curve-single", "curve", lambda r: curve(r["curves"]["single"], "One sample a request, one core"))
    draw("curve-batch", "curve", lambda r: curve(r["curves"]["batch"], "100 samples a request, one core"))
    draw(
        "overload",
        "curve",
        lambda r: curve(r["curves"]["refusing"], "100 samples a request, --detector pager, both cores"),
    )
    draw("ladder", "ladder", ladder)
    draw("ladder-batch", "ladder", ladder_batch)
    draw("scaling", "scaling", scaled)
    draw("budget", "budget", budget)


if __name__ == "__main__":
    main()
