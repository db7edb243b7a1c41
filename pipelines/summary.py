"""What a pipeline says at its end: figures for people, and as the last line one JSON object for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from monobeam.join.counters import ACTIONS_OUT, IMPRESSIONS_OUT, NAMES
from monobeam.transforms.train import COUNTED

Counters = Mapping[str, Mapping[str, int]]
"""By step (join | train), then by name."""

_NAMES = {"join": NAMES, "train": COUNTED}
_STEPS = {"join": ("join",), "train": ("train",), "online": ("join", "train"), "backfill": ("join", "train")}


def together(before: Counters, after: Counters) -> Counters:
    """Counters of a bounded run and of one that took over from it, which has met again what was not decided."""
    found = {step: dict(counts) for step, counts in before.items()}
    join = found.get("join", {})
    for kind, open_ones in (("impressions", "pending"), ("actions", "waiting")):
        join[kind] = join.get(kind, 0) - join.pop(open_ones, 0)
    for step, counts in after.items():
        kept = found.setdefault(step, {})
        for name, count in counts.items():
            kept[name] = kept.get(name, 0) + count
    return found


def show(command: str, seconds: float, found: Counters, advice: str, **more: object) -> None:
    """Print it; what nothing has counted is 0. Some runners tell no counters of a job that was cancelled.

    ``more`` is for scripts.
    """
    steps = _STEPS[command] if found else ()
    counters = {step: {name: found.get(step, {}).get(name, 0) for name in _NAMES[step]} for step in steps}
    print(f"{command}: {seconds:.1f} s")
    figures = [*_figures(counters)] if found else ["no counters from the runner: the metrics log has them"]
    for line in [*figures, advice]:
        if line:
            print(f"  {line}")
    print(json.dumps({"command": command, "seconds": round(seconds, 3), **counters, **more}), flush=True)


def show_submitted(command: str, job: Mapping[str, str]) -> None:
    """Print what is known of a job that goes on elsewhere."""
    print(f"{command}: submitted as {job['job_name']}" if "job_id" in job else f"{command}: {job['job_name']}: not run")
    if "page" in job:
        print(f"  {job['page']}")
    print(json.dumps({"command": command, **job}), flush=True)


def hand_over(window_us: int, until_us: int | None) -> str:
    """How to go on with streaming after a bounded join."""
    if until_us is None:
        return (
            f"the logs were taken as complete: impressions of their last {window_us / 1e6:g} s count as if nobody will "
            "act on them any more. To go on with streaming, end at a time that the logs have passed (--until=T) and "
            "start the streaming run with --since=T"
        )
    until = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=until_us)
    return (
        f"what was not decided by then is pending; a run with --since={until:%Y-%m-%dT%H:%M:%S.%f} goes on from there"
    )


def _figures(counters: Counters) -> Iterator[str]:
    if join := counters.get("join"):
        yield _law("impressions", join, IMPRESSIONS_OUT)
        yield _law("actions", join, ACTIONS_OUT)
    if train := counters.get("train"):
        others = [f"{train[name]:,} {_plain(name)}" for name in COUNTED[1:] if train[name]]
        yield ", ".join([f"{train['examples']:,} examples trained", *others])


def _law(kind: str, counts: Mapping[str, int], parts: Sequence[str]) -> str:
    became = " + ".join(f"{counts[part]:,} {_plain(part.removeprefix(f'{kind}_'))}" for part in parts if counts[part])
    return f"{counts[kind]:,} {kind} = {became or 0}"


def _plain(name: str) -> str:
    return name.replace("_", " ")
