"""The demo's figures, for people and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

Figures = dict[str, Any]

COUNTERS = (
    "impressions examples negatives sampled_out pending impressions_duplicated impressions_rejected "
    "actions joined corrections actions_duplicated unmatched waiting actions_rejected"
)


def figures(
    counters: Mapping[str, int], ids: int, updates: int, stats: Figures, replayed: Figures, seconds: float
) -> Figures:
    """Everything the demo measured, under plain names: counts, AUC, milliseconds, seconds."""
    freshness, quality, replica = stats["freshness"], stats["quality"], stats["replica"]
    return {
        **{name: counters[name] for name in COUNTERS.split(" ")},
        "malformed_injected": replayed["malformed_injected"],
        "ids_in_log": ids,
        "updates_in_store": updates,
        "auc_online": quality["online_auc"],
        "auc_frozen": quality["frozen_auc"],
        "freshness_p50_ms": freshness["overall_p50_ms"],
        "freshness_p99_ms": freshness["overall_p99_ms"],
        "requests": replayed["requests"],
        "request_errors": replayed["request_errors"],
        "request_p50_ms": replayed["request_p50_ms"],
        "request_p99_ms": replayed["request_p99_ms"],
        "sync_events": replica["events"],
        "gaps": replica["gaps"],
        "table_rows": replica["rows"],
        "stretched_ms": replayed["stretched_ms"],
        "seconds": round(seconds, 1),
    }


def text(found: Figures, replayed: Figures, checks: Sequence[str]) -> str:
    """The summary for people."""
    impressions = "{examples:,} examples ({negatives:,} of them negatives), {sampled_out:,} sampled out, "
    impressions += "{impressions_duplicated:,} duplicates, {impressions_rejected:,} rejected, {pending:,} pending"
    actions = "{joined:,} joined, {corrections:,} corrections, {actions_duplicated:,} duplicates, "
    actions += "{unmatched:,} unmatched, {actions_rejected:,} rejected, {waiting:,} waiting"
    requests = "{request_errors:,} errors, p50 {request_p50_ms:.1f} ms, p99 {request_p99_ms:.1f} ms"
    rows = {
        "impressions": f"{found['impressions']:,} = {impressions.format(**found)}",
        "actions": f"{found['actions']:,} = {actions.format(**found)}",
        "quality": f"AUC {_auc(found['auc_online'])} online, {_auc(found['auc_frozen'])} frozen after the first fifth",
        "freshness": f"p50 {_ms(found['freshness_p50_ms'])}, p99 {_ms(found['freshness_p99_ms'])}, action to answer",
        "requests": f"{found['requests']:,}: {requests.format(**found)}",
        "sync": f"{found['sync_events']:,} events, {found['gaps']:,} gaps, {found['table_rows']:,} rows served",
        "time": f"{found['seconds']:.0f} s, of them {replayed['seconds']:.0f} s replay",
    }
    if found["stretched_ms"] > 1000:
        rows["time"] += f" (stretched by {found['stretched_ms'] / 1000:.1f} s: this machine was busy)"
    lines = [f"  {name:<12} {row}" for name, row in rows.items()]
    return "\n".join(["", *lines, "", *(f"  {check}" for check in checks), ""])


def progress(stats: Figures) -> str:
    """One line while the demo runs."""
    training, quality, freshness = stats["training"], stats["quality"], stats["freshness"]
    open_impressions = stats["conservation"]["impressions"]["pending"]
    open_actions = stats["conservation"]["actions"]["waiting"]
    replay = stats["replay"]
    done = 100 * replay["sent"] // replay["of"] if replay else 0
    return (
        f"replay {done:3.0f} %  trained {_count(training['examples']):>7} ({_count(training['examples_per_s'])}/s)  "
        f"AUC {_auc(quality['online_auc'])} / frozen {_auc(quality['frozen_auc'])}  "
        f"freshness {_ms(freshness['p50_ms'])} / {_ms(freshness['p99_ms'])}  "
        f"pending {_count(open_impressions)}  waiting {_count(open_actions)}"
    )


def _auc(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
