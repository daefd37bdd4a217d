"""The tables of PERF.md, each made of a record by the function of its name."""

from __future__ import annotations

from collections.abc import Callable

import bench
import contestants
import families
import scaling as scaled
import waits
from records import Records


def headline(records: Records) -> str:
    rows = []
    for server in records.of("headline")["servers"].values():
        single, batch, paced = server["single"], server["batch"], server["paced"]
        rows.append(
            [
                server["title"],
                f"{single['user_ns']:,.0f}",
                f"{single['system_ns']:,.0f}",
                f"{single['total_ns']['median']:,.0f}",
                f"{single['total_ns']['min']:,.0f}–{single['total_ns']['max']:,.0f}",
                f"{server['floor_ratio']['median']:.2f}",
                *(f"{paced[key]['median']:,.0f}" for key in ("p50_us", "p99_us", "p999_us")),
                f"{batch['samples_per_core_s'] / 1e6:.2f}",
                f"{contestants.VALUES * batch['samples_per_core_s'] / 1e6:.2f}",
                f"{server['binary_bytes'] / 2**20:.1f}",
                f"{server['rss_bytes'] / 2**20:.1f}",
            ]
        )
    header = ["server", "user ns", "system ns", "both", "rounds", "× floor", "p50 µs", "p99 µs", "p99.9 µs"]
    return bench.table([*header, "M samples/s/core", "M values/s/core", "binary MiB", "RSS MiB"], rows)


def stages_of(records: Records, load: str, keys: dict[str, str]) -> str:
    one = records.of("budget")["loads"][load]
    whole = one["whole"]
    rows = []
    for stage in [*one["stages"], whole, one["analytics"]]:
        # What comes after the answer is no share of it.
        share = f"{stage['mean_ns'] / whole['mean_ns']:.1%}" if stage is not one["analytics"] else ""
        figures = ["–" if stage[key] is None else f"{stage[key]:,.0f}" for key in keys.values()]
        rows.append([stage["name"], stage["covers"], figures[0], share, *figures[1:]])
    header = list(keys)
    return bench.table(["stage", "covers", header[0], "share", *header[1:]], rows)


def budget(records: Records) -> str:
    return stages_of(records, "paced", {"mean ns": "mean_ns", "p50 ns": "p50_ns", "p99 ns": "p99_ns"})


def budget_full(records: Records) -> str:
    keys = {"mean ns": "mean_ns", "p50 ns": "p50_ns", "p99 ns": "p99_ns", "p99.9 ns": "p999_ns"}
    return stages_of(records, "full", keys)


def latency(records: Records) -> str:
    """Seen from outside, beside the floor."""
    servers = records.of("headline")["servers"]
    rows = []
    for name in ("floor", "sigmad"):
        paced = servers[name]["paced"]
        rows.append(
            [
                servers[name]["title"],
                *(f"{paced[key]['median']:,.0f}" for key in ("p50_us", "p99_us", "p999_us")),
                f"{paced['own_p99_us']['median']:,.0f}",
                f"{paced['total_ns']['median'] / 1000:.1f}",
            ]
        )
    return bench.table(["server", "p50 µs", "p99 µs", "p99.9 µs", "generator's own lateness p99 µs", "CPU µs"], rows)


def points_of(records: Records, name: str, is_refusing: bool = False) -> str:
    one = records.of("curve")["curves"][name]
    rows = []
    for point in one["points"]:
        row = [f"{point['offered_per_s']:,.0f}", f"{point['good_per_s']:,.0f}"]
        if is_refusing:
            row.append(f"{point['refused_per_s']:,.0f}")
        row += [f"{point[key]:,.0f}" for key in ("p50_us", "p99_us")]
        if is_refusing:
            row += [f"{point[key]:,.0f}" if point[key] else "–" for key in ("refusal_p50_us", "refusal_p99_us")]
        row += [f"{point['server_cores']:.2f}", f"{point['generator_cores']:.2f}"]
        rows.append(row)
    refusing = (["503/s"], ["503: p50 µs", "503: p99 µs"]) if is_refusing else ([], [])
    header = ["offered/s", "202/s", *refusing[0], "p50 µs", "p99 µs", *refusing[1], "server cores", "generator cores"]
    return bench.table(header, rows)


def curve_single(records: Records) -> str:
    return points_of(records, "single")


def curve_batch(records: Records) -> str:
    return points_of(records, "batch")


def overload(records: Records) -> str:
    return points_of(records, "refusing", is_refusing=True)


def rung_cells(rung: dict) -> list[str]:
    """A row of the ladder behind its name. The first rung has none below it, a quick run counts nothing."""
    single, batch, counted, below = rung["single"], rung["batch"], rung.get("counts"), rung.get("vs_below")
    return [
        f"{single['user_ns']:,.0f}",
        f"{single['system_ns']:,.0f}",
        f"{single['total_ns']['median']:,.0f}",
        f"{below['single']['median']:.3f}" if below else "",
        f"{below['single']['min']:.3f}–{below['single']['max']:.3f}" if below else "",
        f"{batch['sample_ns']['median']:,.0f}",
        f"{below['batch']['median']:.3f}" if below else "",
        f"{rung['batch_alone']['sample_ns']['median']:,.0f}",
        f"{below['batch_alone']['median']:.3f}" if below else "",
        f"{counted['instructions']:,.0f}" if counted else "",
        f"{counted['allocations']:.2f}" if counted else "",
        f"{counted['syscalls']:.2f}" if counted else "",
        f"{rung['paced']['p50_us']['median']:,.0f}",
        f"{rung['paced']['p99_us']['median']:,.0f}",
    ]


def ladder(records: Records) -> str:
    rungs = records.of("ladder")["rungs"].items()
    rows = [[f"{rung['number']} `{name}`", *rung_cells(rung)] for name, rung in rungs]
    header = [
        "rung",
        "user ns",
        "system ns",
        "both",
        "× below",
        "rounds",
        "ns/sample in batches",
        "× below",
        "the same without Redis",
        "× below",
    ]
    return bench.table([*header, "instructions", "allocations", "system calls", "p50 µs", "p99 µs"], rows)


def switch_table(found: dict) -> str:
    """Flags of the shipped program: one sample before and after, in CPU time and, but for a quick run, in counts."""
    header = ["rung", "samples a request", "ns before", "ns after", "×", "rounds"]
    counted = {"instructions": 0, "allocations": 2, "syscalls": 2}
    if not all("counts" in one["after"] for one in found.values()):
        counted = {}

    def change(before: dict, after: dict, key: str) -> str:
        if key not in after:
            return "–"
        return " → ".join(f"{side[key]:,.{counted[key]}f}" for side in (before, after))

    rows = []
    for name, one in found.items():
        before, after, ratio = one["before"], one["after"], one["ratio"]
        rows.append(
            [
                f"{one['number']} `{name}`",
                f"{one['batch']}",
                *(f"{side['sample_ns']['median']:,.0f}" for side in (before, after)),
                f"{ratio['median']:.3f}",
                f"{ratio['min']:.3f}–{ratio['max']:.3f}",
                *(change(before["counts"], after["counts"], key) for key in counted),
            ]
        )
    return bench.table([*header, *(key.replace("syscalls", "system calls") for key in counted)], rows)


def switches(records: Records) -> str:
    return switch_table(records.of("flags")["flags"])


def flamegraphs(records: Records) -> str:
    flags = records.of("flag-flamegraphs")["flags"].items()
    rows = [
        [
            f"`{name}`",
            f"{one['samples']:,}",
            f"{one['captured']:.1%}",
            f"{one['kernel_share']:.1%}",
            f"{one['hanging_share']:.1%}",
        ]
        for name, one in [*records.of("flamegraphs")["rungs"].items(), *((name, one["after"]) for name, one in flags)]
    ]
    return bench.table(["rung", "samples", "of the CPU time", "in the kernel", "stacks without a beginning"], rows)


def scaling(records: Records) -> str:
    rows = []
    for load, one in records.of("scaling")["loads"].items():
        for workers, cost in one["total_ns"].items():
            ratio = one["ratio"][workers]
            rows.append(
                [
                    {"single": "one sample", "batch": "100 samples"}[load],
                    workers,
                    f"{cost['median']:,.0f}",
                    f"{ratio['median']:.3f}",
                    f"{ratio['min']:.3f}–{ratio['max']:.3f}",
                    f"{one['worker_ns']:,.0f}" if workers == "1" else "",
                    f"{one['analytics_ns']:,.0f}" if workers == "1" else "",
                ]
            )
    return bench.table(["request of", "workers", "ns/request", "× one", "rounds", "worker ns", "analytics ns"], rows)


def model(records: Records) -> str:
    record = records.of("scaling")
    rows = []
    for load in record["loads"]:
        for name, values in record["usl"].items():
            if name == "points":
                continue
            modelled = record["model"][load]
            rows.append(
                [
                    {"single": "one sample", "batch": "100 samples"}[load],
                    name.replace("_", " "),
                    f"{values['sigma']:.4f}",
                    f"{values['kappa']:.5f}",
                    f"{modelled['workers_per_s'][name] / 1e6:.2f}",
                    f"{modelled['analytics_bound_per_s'] / 1e6:.2f}",
                    f"{modelled['samples_per_s'][name] / 1e6:.1f}",
                    f"{contestants.VALUES * modelled['samples_per_s'][name] / 1e6:.1f}",
                ]
            )
    header = ["request of", "if all is", "σ", "κ", "workers, M requests/s", "analytics at most, M requests/s"]
    return bench.table([*header, "M samples/s", "M values/s"], rows)


def shards(records: Records) -> str:
    return scaled.shards_table(records.of("scaling")["shards"]["threads"])


def shards_model(records: Records) -> str:
    return scaled.shards_model_table(records.of("scaling")["shards"]["model"])


def scaling_counts(records: Records) -> str:
    return scaled.counts_table(records.of("scaling")["counts"])


def profiler(records: Records) -> str:
    rows = []
    for name, one in records.of("instruments")["profiler"].items():
        rows.append(
            [
                f"`{name}`",
                f"{one['ratio']['median']:.3f}",
                f"{one['ratio']['min']:.3f}–{one['ratio']['max']:.3f}",
                f"{one['apart_s']['median']:.2f}",
                f"{one['captured']['median']:.3f}",
                f"{one['captured']['min']:.3f}–{one['captured']['max']:.3f}",
                f"{one['claimed']['median']:.3f}" if "claimed" in one else "",
            ]
        )
    header = ["backend and Hz", "a request ×", "rounds", "apart, s", "captured ÷ true", "rounds", "as it says itself"]
    return bench.table(header, rows)


def builds(records: Records) -> str:
    rows = [
        [
            one["title"],
            f"{one['single_ratio']['median']:.3f}",
            f"{one['single_ratio']['min']:.3f}–{one['single_ratio']['max']:.3f}",
            f"{one['batch_ratio']['median']:.3f}",
            f"{one['batch_ratio']['min']:.3f}–{one['batch_ratio']['max']:.3f}",
        ]
        for one in records.of("builds")["builds"].values()
    ]
    return bench.table(["instrument", "single ×", "rounds", "batch ×", "rounds"], rows)


def heap(records: Records) -> str:
    rows = [
        [what, *(f"{one[key]:.2f}" for key in ("mimalloc", "sampled", "added"))]
        for what, one in records.of("instruments")["heap"]["pairs_ns"].items()
    ]
    return bench.table(["alloc and free of", "mimalloc ns", "sampled ns", "added ns"], rows)


def formats(records: Records) -> str:
    rows = []
    record = records.of("formats")
    for streams, found in record["streams"].items():
        for name, one in found.items():
            ours, theirs = one["sigmad"], one.get("victoria")
            reading, aim = ours["reading"], record["aims"].get(name)
            rows.append(
                [
                    one["title"],
                    f"{int(streams):,}",
                    f"{ours['bytes']:.0f}",
                    f"{ours['worker']['median']:.0f}",
                    f"{reading['median']:.0f}",
                    f"{reading['low']:.0f}–{reading['high']:.0f}",
                    f"{reading['min']:.0f}",
                    f"{aim}" if aim else "",
                    f"{ours['all']['median']:.0f}",
                    f"{theirs['all']['median']:,.0f}" if theirs else "–",
                ]
            )
    header = ["format", "streams", "bytes", "worker ns", "without HTTP", "quartiles", "least", "aim", "all threads"]
    return bench.table([*header, "VictoriaMetrics"], rows)


def families_of(record: dict) -> str:
    rows = record["families"]
    names = [key.removesuffix("_ns") for key in rows[0] if key.endswith("_ns")]
    return families.table(
        sorted(rows, key=lambda row: tuple(int(part) for part in row["load"].removesuffix("/s").split("x"))), names
    )


def small(records: Records) -> str:
    return families_of(records.of("small"))


def sockets(records: Records) -> str:
    return families_of(records.of("sockets"))


def arena(records: Records) -> str:
    return families_of(records.of("arena"))


def pipelined(records: Records) -> str:
    return families_of(records.of("pipelined"))


def waits_by_load(records: Records) -> str:
    return waits.table(records.of("waits")["waits"])


TABLES: dict[str, Callable[[Records], str]] = {
    made.__name__: made
    for made in (
        *(headline, budget, budget_full, latency, curve_single, curve_batch, overload, ladder, switches, flamegraphs),
        *(scaling, model, shards, shards_model, scaling_counts, profiler, builds, heap, formats, small),
        *(sockets, arena, pipelined, waits_by_load),
    )
}
