"""Figures for people, and the same as one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks._table import last
from benchmarks._table.measure import OURS, Results
from benchmarks._table.ratios import Ratio, rate, speed


def show(results: Results, ratios: Sequence[Ratio], seconds: float) -> None:
    _show_passes(results)
    _show_builds(results)
    _show_files(results)
    for who, why in results.absent.items():
        print(f"\n{who}: {why}")
    _show_last(results)
    _show_ratios(ratios)
    print(f"\n{seconds / 60:.1f} minutes")


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):7.2f} [{min(values):.2f}..{max(values):.2f}]"


def _show_passes(results: Results) -> None:
    kinds = list(dict.fromkeys((cell.table, cell.work) for _, cell in results.passes))
    for table, work in kinds:
        sides = list(dict.fromkeys(name for name, cell in results.passes if (cell.table, cell.work) == (table, work)))
        print(f"\n{work}, {table} table: million keys per CPU-second, median [least..most] of the rounds")
        print(f"{'':26}" + "".join(f"{side:26}" for side in sides))
        found = list(dict.fromkeys(c for _, c in results.passes if (c.table, c.work) == (table, work)))
        for cell in sorted(found, key=lambda c: (c.threads, c.distribution, c.batch)):
            line = f"{cell.distribution:8}{cell.batch:6} {'x 2 threads' if cell.threads == 2 else '':11}"
            for side in sides:
                rates = [rate(spent) / 1e6 for spent in results.passes.get((side, cell), [])]
                line += f"{_spread(rates) if rates else '-':26}"
            print(line.rstrip())


def _show_builds(results: Results) -> None:
    print("\nbuild from empty: keys, million keys per CPU-second, longest call of 4096 keys (CPU time)")
    for (name, table), built in results.builds.items():
        if built and "longest" in built[0]:
            rates, longest = [rate(b) / 1e6 for b in built], [b["longest"] * 1e3 for b in built]
            print(f"{name + ', ' + table:26}{int(built[0]['keys']):11,} {_spread(rates)} {_spread(longest)} ms")


def _show_files(results: Results) -> None:
    names = {
        "save": "save, until the disk has it",
        "write": "  as many bytes to the disk, by direct writes",
        "load": "load, from the page cache",
        "read": "  as many bytes from it",
        "copy": "  memory to memory",
    }
    print("\nfiles: GB, GB/s, seconds without those of other programs, seconds of CPU")
    for what, name in names.items():
        if passes := results.files.get(what):
            elapsed, cpu = (median(spent[clock] for spent in passes) for clock in ("elapsed", "cpu"))
            speeds = _spread([speed(spent) for spent in passes])
            print(f"{name:46}{passes[0]['bytes'] / 1e9:6.2f} {speeds:22} {elapsed:6.2f} {cpu:6.2f}")


def _show_last(results: Results) -> None:
    missing = _missing(results)
    if missing:
        print(f"\nnot measured in this run; on {last.DATE}, on one machine with as many keys, it was (M/CPU-s):")
    for (name, table, work, distribution), mkeys in missing.items():
        each = ", ".join(f"{value} ({batch})" for batch, value in zip(last.BATCHES, mkeys, strict=True))
        print(f"  {name}, {work}, {table} table, {distribution}: {each}")


def _missing(results: Results) -> dict[tuple[str, str, str, str], tuple[float, ...]]:
    """Nothing in a run of other sizes, where it says nothing."""
    if (results.keys, results.dim) != (last.KEYS, last.DIM):
        return {}
    return {key: mkeys for key, mkeys in last.MKEYS.items() if not _measured(results, *key)}


def _measured(results: Results, name: str, table: str, work: str, distribution: str) -> bool:
    return any(
        side == name and (cell.table, cell.work, cell.distribution) == (table, work, distribution)
        for side, cell in results.passes
    )


def _show_ratios(ratios: Sequence[Ratio]) -> None:
    print(f"\n{'':44}{'value':>8} {'goal':>8}  {'met':5}{'ours':32}beside")
    for r in ratios:
        value = "-" if r.value is None else f"{r.value:.2f}"
        goal = "" if r.goal is None else f"{'<=' if r.at_most else '>='} {r.goal:.2g}"
        met = {True: "yes", False: "NO", None: ""}[r.met]
        print(f"{r.name:44}{value:>8} {goal:>8}  {met:5}{r.ours:32}{r.other or r.reason}".rstrip())


def as_json(results: Results, ratios: Sequence[Ratio]) -> dict[str, Any]:
    return {
        "ratios": {r.name: None if r.value is None else round(r.value, 4) for r in ratios},
        "reasons": {r.name: r.reason for r in ratios if r.value is None},
        "goals": {
            r.name: {"at_most" if r.at_most else "at_least": round(r.goal, 4), "met": r.met}
            for r in ratios
            if r.goal is not None
        },
        "beside": {r.name: [r.ours, r.other] for r in ratios if r.value is not None},
        "mkeys_per_cpu_second": _passes(results),
        "builds": [
            {
                "who": name,
                "table": table,
                "keys": built[0]["keys"],
                **_of([rate(spent) / 1e6 for spent in built]),
                "longest_ms": [round(spent["longest"] * 1e3, 3) for spent in built if "longest" in spent],
            }
            for (name, table), built in results.builds.items()
            if built
        ],
        "memory": {table: {"row_bytes": size, **_memory(results, table)} for table, size in results.row_bytes.items()},
        "files": {
            what: {
                "bytes": passes[0]["bytes"],
                **{clock: round(median(spent[clock] for spent in passes), 3) for clock in ("elapsed", "cpu")},
            }
            for what, passes in results.files.items()
            if passes
        },
        "absent": results.absent,
        "last_measured": {
            "date": last.DATE,
            "keys": last.KEYS,
            "dim": last.DIM,
            "batches": last.BATCHES,
            **{"/".join(key): mkeys for key, mkeys in _missing(results).items()},
        },
    }


def _passes(results: Results) -> dict[str, dict[str, list[float]]]:
    """Of every cell and contestant the median, the least and the most of the rounds."""
    found: dict[str, dict[str, list[float]]] = {}
    for (name, cell), passes in results.passes.items():
        place = f"{cell.table}/{cell.work}/{cell.distribution}/{cell.batch}/{cell.threads}"
        found.setdefault(place, {})[name] = list(_of([rate(spent) / 1e6 for spent in passes]).values())
    return found


def _of(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def _memory(results: Results, table: str) -> dict[str, float]:
    built = results.builds[OURS.name, table]
    return {
        f"{kind}_bytes_per_key": round(median(spent[kind] / spent["keys"] for spent in built), 2)
        for kind in ("resident", "reported")
    }
