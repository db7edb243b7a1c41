"""The ratios that the goals are about, out of the passes of all rounds.

A ratio is taken within a round, where both sides met the same machine, and its median over the rounds counts; over
batch sizes, and over distributions where a ratio has none in its name, the worst counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from benchmarks._table.measure import LIMIT, OURS, OURS_RESERVED, TFRA, TFRA_HUGE_PAGES, Cell, Results, Spent
from benchmarks._table.workload import DISTRIBUTIONS


@dataclass(frozen=True)
class Ratio:
    """A figure with a goal. ``ours`` and ``other`` are for people; without a value there is a ``reason``."""

    name: str
    value: float | None
    goal: float | None = None
    at_most: bool = False
    ours: str = ""
    other: str = ""
    reason: str = ""

    @property
    def met(self) -> bool | None:
        if self.value is None or self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def rate(spent: Spent) -> float:
    """Keys per CPU-second: of all threads together, so more threads do not raise it."""
    return spent["keys"] / spent["cpu"]


def all_ratios(results: Results, batches: Sequence[int]) -> list[Ratio]:
    def over(table: str, work: str, distributions: Iterable[str]) -> list[Cell]:
        return [Cell(table, work, distribution, batch) for distribution in distributions for batch in batches]

    def against(name: str, cells: list[Cell], others: Sequence[str], goal: float | None) -> Ratio:
        return worst(results, name, cells, others, goal)

    uniform, zipf = over("serving", "lookup", ["uniform"]), over("serving", "lookup", ["zipf"])
    limit, train = (LIMIT.name,), over("training", "train", DISTRIBUTIONS)
    return [
        against("lookup_uniform_to_tfra", uniform, (TFRA,), 7),
        against("lookup_zipf_to_tfra", zipf, (TFRA,), 7),
        against("lookup_uniform_to_tfra_with_huge_pages", uniform, (TFRA_HUGE_PAGES,), None),
        against("lookup_zipf_to_tfra_with_huge_pages", zipf, (TFRA_HUGE_PAGES,), None),
        against("lookup_uniform_to_limit", uniform, limit, 0.45),
        against("lookup_zipf_to_limit", zipf, limit, 0.33),
        *(
            against(f"lookup_{d}_to_limit_training_table", over("training", "lookup", [d]), limit, None)
            for d in DISTRIBUTIONS
        ),
        against("train_to_tfra", train, (TFRA,), 4),
        against("train_to_fbgemm", train, ("fbgemm",), 2),
        against("train_to_torch", train, ("torch",), None),
        *(
            against(f"train_to_{peer}_with_huge_pages", train, (f"{peer}_huge_pages",), None)
            for peer in (TFRA, "fbgemm", "torch")
        ),
        against("update_to_limit", over("training", "update", DISTRIBUTIONS), limit, 0.7),
        *(against(f"update_{d}_to_limit", over("training", "update", [d]), limit, None) for d in DISTRIBUTIONS),
        *build(results),
        memory(results),
        threads(results, batches),
        threads_of(results, OURS.name, "two_threads_cpu", "thread_cpu", batches),
        threads_of(results, LIMIT.name, "two_threads_of_limit", "elapsed", batches),
        file(results, "save", "write"),
        file(results, "load", "read"),
        *beside_save(results),
    ]


def worst(results: Results, name: str, cells: list[Cell], others: Sequence[str], goal: float | None) -> Ratio:
    """Our rate to the best of the others', in the cell where that is least."""
    passes = results.passes
    present = [other for other in others if passes.get((other, cells[0]))]
    if not present:
        return Ratio(name, None, goal, reason=f"{others[0]}: {_reason(results, others[0], cells[0].table)}")

    def of(cell: Cell, other: str) -> float:
        pairs = zip(passes[OURS.name, cell], passes[other, cell], strict=True)
        return median(rate(mine) / rate(theirs) for mine, theirs in pairs)

    value, cell, other = min((of(cell, other), cell, other) for cell in cells for other in present)
    where = f"{cell.distribution}, {cell.batch}"
    mine, theirs = (median(rate(spent) / 1e6 for spent in passes[side, cell]) for side in (OURS.name, other))
    return Ratio(name, value, goal, ours=f"{mine:.2f} M/s ({where})", other=f"{other} {theirs:.2f} M/s")


def _reason(results: Results, name: str, table: str) -> str:
    return results.absent.get(f"{name}, {table}", "left out (--peers)")


def build(results: Results) -> list[Ratio]:
    """Of the table with optimizer state, from empty: with the faults of its fresh pages, as TFRA's.

    Beside it what is left in memory that reserve() has made ready, without the CPU time that this takes: how long a
    fault is depends on the hypervisor. TFRA's table is one without state, which is given its rows.
    """
    theirs = results.builds.get((TFRA, "serving"))
    rates_beside = f"tfra {rate(theirs[0]) / 1e6:.2f} M/s" if theirs else ""
    longest_beside = f"tfra {theirs[0]['longest'] * 1e3:.0f} ms" if theirs else ""
    reserved = results.builds[OURS_RESERVED, "training"]
    reserving = f"after {median(spent['reserving'] for spent in reserved):.2f} CPU-s in reserve()"
    plain = results.builds[OURS.name, "training"]
    return [
        *_build(plain, "", goals=(7, 2), beside=(rates_beside, longest_beside)),
        *_build(reserved, "_reserved", goals=(None, None), beside=(reserving, reserving)),
    ]


def _build(
    built: Sequence[Spent], suffix: str, goals: tuple[float | None, float | None], beside: tuple[str, str]
) -> list[Ratio]:
    rates, longest = [rate(spent) / 1e6 for spent in built], [spent["longest"] * 1e3 for spent in built]
    return [
        Ratio(
            f"build_mkeys_per_cpu_second{suffix}",
            median(rates),
            goals[0],
            ours=f"{median(rates):.2f} [{min(rates):.2f}..{max(rates):.2f}] M/s",
            other=beside[0],
        ),
        Ratio(
            f"longest_call_ms{suffix}",
            median(longest),
            goals[1],
            at_most=True,
            ours=f"{median(longest):.2f} [{min(longest):.2f}..{max(longest):.2f}] ms",
            other=beside[1],
        ),
    ]


def memory(results: Results) -> Ratio:
    """Resident or reported, whichever is more, beyond the row and its optimizer state; the worse of both tables."""

    def overhead(table: str, spent: Spent) -> float:
        return max(spent["resident"], spent["reported"]) / spent["keys"] - results.row_bytes[table]

    each = {
        table: median(overhead(table, spent) for spent in results.builds[OURS.name, table])
        for table in results.row_bytes
    }
    ours = ", ".join(f"{value:.1f} {table}" for table, value in each.items())
    return Ratio("bytes_per_key_overhead", max(each.values()), 24, at_most=True, ours=ours)


def threads(results: Results, batches: Sequence[int]) -> Ratio:
    """By what has elapsed: a thread that waits for a lock needs no CPU time. Beside it what the limit loses as well."""
    mine = threads_of(results, OURS.name, "two_threads", "elapsed", batches)
    limits = threads_of(results, LIMIT.name, "", "elapsed", batches)
    return replace(mine, goal=1.8, other=f"limit {limits.ours}" if limits.ours else "")


def threads_of(results: Results, side: str, name: str, clock: str, batches: Sequence[int]) -> Ratio:
    """Time of one thread to that of the slower of two, median over batch sizes and rounds; the worse distribution."""

    def of(distribution: str) -> float:
        ratios = []
        for batch in batches:
            one, two = (
                results.passes.get((side, Cell("serving", "lookup", distribution, batch, count)), [])
                for count in (1, 2)
            )
            ratios += [a[clock] / b[clock] for a, b in zip(one, two, strict=True)]
        return median(ratios)

    if not results.passes.get((side, Cell("serving", "lookup", DISTRIBUTIONS[0], batches[0], 2))):
        return Ratio(name, None, reason=f"{side}: {_reason(results, side, 'serving')}")
    each = {distribution: of(distribution) for distribution in DISTRIBUTIONS}
    ours = ", ".join(f"{value:.2f} {distribution}" for distribution, value in each.items())
    return Ratio(name, min(each.values()), ours=ours)


def beside_save(results: Results) -> list[Ratio]:
    """What a save makes a train step of some keys wait at most (stops.py), and the longest of these steps as a whole.

    The whole has the hypervisor's time in it, and other programs' turns of the core of whoever saves.
    """
    saves = results.files["save"]

    def ms(what: str) -> float:
        return median(spent[what] * 1e3 for spent in saves)

    def spread(what: str) -> str:
        each = [spent[what] * 1e3 for spent in saves]
        return f"{median(each):.2f} [{min(each):.2f}..{max(each):.2f}] ms"

    parts = f"slept {ms('step_slept'):.2f}, CPU {ms('step_cpu'):.2f}, alone {ms('step_cpu_alone'):.2f} ms"
    alone = f"{ms('step_alone'):.2f} ms without a save"
    return [
        Ratio("save_stops_updates_ms", ms("stop"), 2, at_most=True, ours=spread("stop"), other=parts),
        Ratio("longest_step_during_save_ms", ms("step"), at_most=True, ours=spread("step"), other=alone),
    ]


def speed(spent: Spent) -> float:
    """GB per second that passed: a disk takes no CPU time."""
    return spent["bytes"] / spent["elapsed"] / 1e9


def file(results: Results, what: str, disk: str) -> Ratio:
    """To the slower of the disk and of memory; the goal is 1 GB/s, or the limit where that is below."""
    name, mine = f"{what}_to_limit", results.files[what]
    rates = [speed(spent) for spent in mine]
    cpu = median(spent["bytes"] / spent["cpu"] / 1e9 for spent in mine)
    ours = f"{median(rates):.2f} GB/s ({cpu:.2f} per CPU-s)"
    if not results.files[disk]:
        return Ratio(name, None, reason=f"limit: {_reason(results, 'limit', 'training')}", ours=ours)
    pairs = list(zip(results.files[disk], results.files["copy"], strict=True))
    limits = [min(speed(a), speed(b)) for a, b in pairs]
    value = median(a / b for a, b in zip(rates, limits, strict=True))
    goal = min(1.0, 1.0 / median(limits))
    names = f"{disk} {median(speed(a) for a, _ in pairs):.2f}, copy {median(speed(b) for _, b in pairs):.2f} GB/s"
    return Ratio(name, value, goal, ours=ours, other=names)
