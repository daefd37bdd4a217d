#!/usr/bin/env python3
"""What does another build cost, beside the one that is shipped?

The two take turns, and change places every round: single requests and batches, as the headline has them.

    benches/builds.py --build frame-pointers=target/frame-pointers/release/sigmad
"""

from __future__ import annotations

import argparse

import bench
import contestants
import headline

TITLES = {"frame-pointers": "frame pointers", "every-stage": "the stages of every read timed, not of one in 64"}


def builds(arguments) -> dict:
    """Other builds beside the usual one, which comes before and after in turn."""
    usual = contestants.everyone()["sigmad"]
    found = {}
    for given in arguments.build:
        name, _, path = given.partition("=")
        other = contestants.Contestant(name, name, (path, *usual.command[1:]), usual.built_on)
        rounds = []
        for number in range(arguments.rounds):
            legs = {}
            for contestant in (usual, other) if number % 2 == 0 else (other, usual):
                with contestant.running() as (child, port):
                    contestant.check(port)
                    single = headline.closed(child, port, arguments.seconds, headline.CONNECTIONS)
                    batch = headline.closed(child, port, arguments.seconds, headline.BATCH_CONNECTIONS, headline.BATCH)
                    legs[contestant.name] = {"single": single["total_ns"], "batch": batch["sample_ns"]}
            rounds.append(legs)
            ratio = legs[name]["single"] / legs["sigmad"]["single"]
            print(f"round {number + 1} {name}: {ratio:.3f} x", flush=True)
        found[name] = {"title": TITLES.get(name, name)} | {
            f"{load}_ratio": bench.spread([legs[name][load] / legs["sigmad"][load] for legs in rounds])
            for load in ("single", "batch")
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--build", action="append", required=True, help="NAME=BINARY")
    arguments = parser.parse_args()
    with bench.record("builds", arguments.rounds) as record:
        record["builds"] = builds(arguments)
        rows = [
            [one["title"], f"{one['single_ratio']['median']:.3f}", f"{one['batch_ratio']['median']:.3f}"]
            for one in record["builds"].values()
        ]
        record["text"] = bench.table(["build", "single ×", "batch ×"], rows)
        print(record["text"])


if __name__ == "__main__":
    main()
