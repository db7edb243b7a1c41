"""What the join must make of records, one at a time in plain Python.

Records are dicts: id, time, log, partition, offset; impressions also have ``features``, actions type, value, arrival.
``due`` is the time from which the join knows a record: its time, or the watermark at its arrival if it was late.
"""

NAMES = ["impressions", "examples", "sampled_out", "pending", "impressions_duplicated", "impressions_rejected"]
NAMES += ["actions", "joined", "corrections", "actions_duplicated", "unmatched", "waiting", "actions_rejected"]
NAMES += ["negatives", "late_impressions", "late_actions"]


def position(record):
    return record["log"], record["partition"], record["offset"]


def order(record):
    return record["due"], "type" in record, record["time"], position(record)


def same(a, b):
    return (a["id"], a["type"], a["time"], a["value"]) == (b["id"], b["type"], b["time"], b["value"])


def join(records, settings, watermark, keeps):
    """(examples, unmatched actions as (when, position), counters) at a watermark; ``keeps(id)`` samples negatives."""
    watermark = settings.tick_start(watermark)
    if settings.until_us is not None:
        watermark = min(watermark, settings.tick_start(settings.until_us))
    since = -(2**62) if settings.since_us is None else settings.tick_start(settings.since_us)
    heads, outcomes = _match([r for r in records if r["due"] < watermark], settings, watermark)
    not_due = [r for r in records if r["due"] >= watermark]
    outcomes += [("waiting" if "type" in r else "pending", watermark, r) for r in not_due]

    examples = []
    for head in heads:
        _decide(head, settings, watermark, keeps, examples, outcomes)
    counters = dict.fromkeys(NAMES, 0)
    for outcome, when, record in outcomes:
        if when >= since:
            kind = "actions" if "type" in record else "impressions"
            counters[kind] += 1
            counters[outcome] += 1
    for record in records:
        counters["late_actions" if "type" in record else "late_impressions"] += record["due"] > record["time"]
    examples = [e for e in examples if e["decided"] >= since]
    counters["negatives"] = sum(e["kind"] == 1 for e in examples)
    unmatched = sorted((when, position(r)) for outcome, when, r in outcomes if outcome == "unmatched" and when >= since)
    return examples, unmatched, counters


def _match(due, settings, watermark):
    """Heads with the actions they met, and what became of all other records: (outcome, when, record)."""
    known, heads, waiting, early, outcomes = {}, [], [], [], []
    retention = settings.retention_us

    def meet(action, head, when):
        if any(same(action, other) for _, other in head["met"]) or any(
            same(action, other) and action["due"] == other["due"] for other in early
        ):
            outcomes.append(("actions_duplicated", action["due"], action))
        elif action["time"] < head["time"]:
            early.append(action)
            outcomes.append(("unmatched", when, action))
        else:
            head["met"].append((when, action))

    for record in sorted(due, key=order):
        head = known.get(record["id"])
        if head and record["due"] > head["leave"] + retention:
            head = None
        if "type" not in record:
            if head:
                outcomes.append(("impressions_duplicated", record["due"], record))
                continue
            leave = max(record["time"] + settings.window_us, record["due"])
            head = known[record["id"]] = {**record, "leave": leave, "met": []}
            heads.append(head)
            for action in [a for a in waiting if a["id"] == head["id"] and a["due"] + retention >= head["due"]]:
                waiting.remove(action)
                meet(action, head, head["due"])
        elif head:
            meet(record, head, record["due"])
        elif any(same(record, other) and other["due"] + retention >= record["due"] for other in waiting):
            outcomes.append(("actions_duplicated", record["due"], record))
        else:
            waiting.append(record)
    for action in waiting:
        ends = action["due"] + retention
        outcomes.append(("unmatched", ends, action) if ends < watermark else ("waiting", watermark, action))
    return heads, outcomes


def _decide(head, settings, watermark, keeps, examples, outcomes):
    """The example of a head and its corrections, and what became of it and its actions."""
    in_time = [
        (when, a) for when, a in head["met"] if a["time"] - head["time"] <= settings.window_us and when <= head["leave"]
    ]

    def gives(label, action):
        return action["type"] == label.action and (label.min_value is None or action["value"] >= label.min_value)

    firsts = [min((when for when, a in in_time if gives(lb, a)), default=2**62) for lb in settings.labels]
    decided = head["leave"]
    if settings.policy == "settled":
        decided = max(min(decided, max(firsts)), head["due"])
    elif settings.policy == "at_once":
        decided = head["due"]
    counted = [(when, a) for when, a in in_time if when <= decided]
    labels = tuple(first <= decided for first in firsts)
    common = {"id": head["id"], "features": head["features"]}
    if decided >= watermark:
        outcomes.append(("pending", watermark, head))
    elif not any(labels) and not keeps(head["id"]):
        outcomes.append(("sampled_out", decided, head))
    else:
        outcomes.append(("examples", decided, head))
        arrival = max((a["arrival"] for _, a in counted), default=0)
        rest = {"labels": labels, "arrival": arrival, "time": head["time"], "decided": decided}
        kind, rate = (0, 1.0) if any(labels) else (1, settings.negative_rate)
        examples.append({**common, **rest, "kind": kind, "rate": rate})

    outcomes += [("joined", when, action) for when, action in counted]
    later = [entry for entry in head["met"] if entry not in counted]
    for when, action in sorted(later, key=lambda e: (e[0], e[1]["due"], e[1]["time"], position(e[1]))):
        news = [gives(label, action) and not known for label, known in zip(settings.labels, labels, strict=True)]
        labels = [new or known for new, known in zip(news, labels, strict=True)]
        outcomes.append(("corrections" if any(news) else "joined", when, action))
        if any(news):
            rest = {"labels": tuple(new or None for new in news), "arrival": action["arrival"], "time": action["time"]}
            examples.append({**common, **rest, "decided": when, "kind": 2, "rate": 1.0})
