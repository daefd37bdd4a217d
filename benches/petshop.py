#!/usr/bin/env python3
"""Which of PetShop's injected root causes are the suspects of incidents, and of two plain rules.

    benches/petshop.py --data DIR    # DIR: the folder `dataset` of amazon-science/petshop-root-cause-analysis

A component is a device, each of its metrics with each statistic a series, a value in five minutes; the past is the
scenario without issues, moved by whole days to end before the issue begins. The answer is read from the incident
with the component whose users complain, or else from the largest one that begins in the issue's time. Devices of an
incident are in its order. The rules know no incidents: "earliest" has the components in the order in which any of
their series first deviates, "z" by the largest distance from their mean in the past, in standard deviations. Nothing
was chosen by these data. Leaves a record.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import bench

INTERVAL_S = 300
DAY_S = 86_400
REPLAY = ["cargo", "run", "--release", "--locked", "--quiet", "-p", "sigmad-incidents", "--example", "replay"]

Rows = dict[tuple[str, str], list[tuple[float, float]]]


def read(path: Path) -> Rows:
    """Values by component and series."""
    with path.open(newline="") as file:
        names, metrics, statistic, _, *lines = csv.reader(file)
    rows: Rows = defaultdict(list)
    for line in lines:
        for place in range(1, len(line)):
            if line[place]:
                key = (names[place], f"{metrics[place]}_{statistic[place]}")
                rows[key].append((float(line[0]), float(line[place])))
    return rows


def moved(past: Rows, issue: Rows) -> Rows:
    """By whole days, so that hours of the day stay, to the latest days before the issue."""
    last_s = max(values[-1][0] for values in past.values())
    first_s = min(values[0][0] for values in issue.values())
    by_s = math.floor((first_s - last_s) / DAY_S) * DAY_S
    return {key: [(at_s + by_s, value) for at_s, value in values] for key, values in past.items()}


def incidents(past: Rows, issue: Rows) -> list[list[list[str]]]:
    """The members of each incident, in their order."""
    every = [(at_s, *key, value) for rows in (past, issue) for key, values in rows.items() for at_s, value in values]
    every.sort(key=lambda row: row[0])
    text = "".join(f"{device}\t{series}\t{at_s}\t{value!r}\n" for at_s, device, series, value in every)
    done = subprocess.run([*REPLAY, "--", str(INTERVAL_S)], input=text, capture_output=True, text=True, check=True)
    found: dict[str, list[list[str]]] = defaultdict(list)
    for line in done.stdout.splitlines():
        incident, *member = line.split("\t")
        found[incident].append(member)
    return list(found.values())


def ordered(names) -> list[str]:
    return list(dict.fromkeys(names))


def by_incident(found: list[list[list[str]]], target: str) -> list[str]:
    with_target = [one for one in found if any(member[0] == target for member in one)]
    chosen = max(with_target or found, key=len, default=[])
    return ordered(member[0] for member in chosen)


def by_earliest(found: list[list[list[str]]]) -> list[str]:
    return ordered(member[0] for member in sorted((m for one in found for m in one), key=lambda m: float(m[2])))


def by_z(past: Rows, issue: Rows) -> list[str]:
    largest: dict[str, float] = defaultdict(float)
    for (device, series), values in issue.items():
        before = [value for _, value in past.get((device, series), [])]
        spread = statistics.pstdev(before) if len(before) > 1 else 0.0
        if spread > 0:
            mean = statistics.fmean(before)
            largest[device] = max(largest[device], *(abs(value - mean) / spread for _, value in values))
    return sorted(largest, key=lambda device: -largest[device])


def measure(data: Path) -> dict[str, list[dict]]:
    outcome: dict[str, list[dict]] = {}
    for scenario in sorted(folder for folder in data.iterdir() if folder.is_dir()):
        if not (scenario / "noissue" / "metrics.csv").exists():
            print(f"{scenario.name}: no metrics without issues", file=sys.stderr)
            continue
        normal = read(scenario / "noissue" / "metrics.csv")
        outcome[scenario.name] = []
        for folder in sorted(scenario.glob("*/issue_*")):
            target = json.loads((folder / "target.json").read_text())
            issue = read(folder / "metrics.csv")
            past = moved(normal, issue)
            first_s = min(values[0][0] for values in issue.values())
            found = incidents(past, issue)
            found = [one for one in found if float(one[0][2]) >= first_s]
            ranks = {
                "incident": by_incident(found, target["target"]["node"]),
                "earliest": by_earliest(found),
                "z": by_z(past, issue),
            }
            cause = target["root_cause"]["node"]
            place = {name: rank.index(cause) + 1 if cause in rank else None for name, rank in ranks.items()}
            outcome[scenario.name].append(
                {"issue": folder.name, "cause": cause, "incidents": len(found), "place": place}
            )
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    outcome = measure(parser.parse_args().data)
    rows = []
    for scenario, issues in outcome.items():
        for name in ("incident", "earliest", "z"):
            places = [issue["place"][name] for issue in issues]
            part = [sum(place is not None and place <= k for place in places) / len(places) for k in (1, 3)]
            told = sum(issue["incidents"] > 0 for issue in issues)
            rows.append([scenario, str(len(issues)), str(told), name, f"{part[0]:.2f}", f"{part[1]:.2f}"])
    text = bench.table(["scenario", "issues", "with an incident", "rank", "precision@1", "precision@3"], rows)
    print(text)
    print("record in", bench.write_record("petshop", {"manifest": bench.manifest(), "issues": outcome}, text))


if __name__ == "__main__":
    main()
