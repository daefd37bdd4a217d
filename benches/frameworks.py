#!/usr/bin/env python3
"""How much of what axum and actix-web cost is theirs, and how much the handler's that we wrote?

Instructions and allocations of a request by callgrind, in user space: once of a sample that is parsed, judged and
counted, and once of the same request to a handler that reads the body and answers. The analytics thread counts too.

    benches/frameworks.py
"""

from __future__ import annotations

import bench
import contestants
import counts

FRAMEWORKS = ("axum", "actix")
PATHS = ("bare", "ingest")


def main() -> None:
    everyone = contestants.everyone()
    with bench.record("frameworks", 1) as record:
        counted = {"sigmad": {"ingest": counts.callgrind(everyone["sigmad"])}}
        for name in FRAMEWORKS:
            counted[name] = {path: counts.callgrind(everyone[name], f"/{path}") for path in PATHS}
        record["servers"] = counted
        rows = [
            [name, f"/{path}", f"{count['instructions']:,.0f}", f"{count['allocations']:.1f}"]
            for name, paths in counted.items()
            for path, count in paths.items()
        ]
        record["text"] = bench.table(["server", "path", "instructions", "allocations"], rows)
        print(record["text"])


if __name__ == "__main__":
    main()
