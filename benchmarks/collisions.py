"""Monolith's collision experiment: MovieLens with a row for every id, and with ids hashed into tables of several sizes.

Every contestant (``benchmarks/_contestants.py``) trains the same DeepFM with the same trainer and native table, on the
same examples in the same order; a hashed contestant's ids are first hashed into a table of M rows for each slot, as
users of fixed-size tables do. Like the paper (arXiv 2209.07663, section 4): two features, user and item, each hashed on
its own by MD5; a rating of 3.5 stars or more is positive. Unlike it: MovieLens-100k unless ``--data`` names another,
and sizes beside that of the paper.

Measured are the progressive AUC and log loss of one pass in time order, which is how this system trains, and the AUC of
a held-out tenth (the last in time; one by chance) after each of several epochs, which is how the paper does. A seed
stands for initial values, the hash function, the order of each epoch and the tenth by chance; all contestants get the
same seeds, so differences are paired. Their 95 % intervals are Student's t, for one comparison each.

    python -m benchmarks.collisions [--data folder-or-zip] [--seeds 5] [--epochs 5] [--out runs/collisions] [--quick]

Writes table.txt, figures.json (with the curves) and, where matplotlib is installed, collisions.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._collision_runs import Examples, Floats, Run, last_tenth, random_tenth, run, unseen
from benchmarks._contestants import BASELINE, CONTESTANTS, Contestant
from benchmarks._experiment import add_options, check_options, half_width
from examples.movielens.dataset import Ratings, read

QUICK = {"ratings": 1000, "seeds": 2, "epochs": 2}
CHECKPOINTS = 50

Figures = dict[str, Any]
Runs = Mapping[str, Sequence[Run]]


def measures(epochs: int) -> dict[str, str]:
    """What is compared: key of the JSON and heading of the table."""
    found = {"online_auc": "AUC, online", "online_log_loss": "log loss, online"}
    for split in ("last", "random"):
        for epoch in dict.fromkeys((1, epochs)):
            found[f"{split}_auc_epoch_{epoch}"] = f"AUC, {split} tenth, epoch {epoch}"
    return found


def value(done: Run, measure: str) -> float:
    """One measure of one run."""
    if measure == "online_auc":
        return float(done.online[-1])
    if measure == "online_log_loss":
        return done.online_log_loss
    split, _, _, epoch = measure.split("_")
    curve: Floats = getattr(done, split)
    return float(curve[int(epoch) - 1])


def summary(values: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds, and the paired difference from the baseline with its 95 % interval."""
    differences = np.subtract(values, baseline)
    half = half_width(differences)
    mean = float(differences.mean())
    found = {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "difference": mean,
        "low": mean - half,
        "high": mean + half,
    }
    return {name: round(number, 6) for name, number in found.items()}


def figures(runs: Runs, epochs: int) -> Figures:
    """Everything that was measured of every contestant."""
    base = runs[BASELINE.name]
    found: Figures = {}
    for name, done in runs.items():
        counts = ("ids_sharing", "ids_lost", "examples_sharing")
        found[name] = {"rows": round(float(np.mean([each.rows for each in done])), 1)}
        found[name] |= {count: round(float(np.mean([getattr(each, count) for each in done])), 6) for count in counts}
        for key in measures(epochs):
            ours, theirs = ([value(each, key) for each in some] for some in (done, base))
            found[name][key] = summary(ours, theirs)
    return found


def curves(runs: Runs) -> Figures:
    """By contestant and curve, mean and standard deviation over seeds at each point."""
    found: Figures = {}
    for name, done in runs.items():
        stacks = {curve: np.stack([getattr(each, curve) for each in done]) for curve in ("online", "last", "random")}
        found[name] = {
            curve: {"mean": stack.mean(0).round(6).tolist(), "sd": stack.std(0, ddof=1).round(6).tolist()}
            for curve, stack in stacks.items()
        }
    return found


def table(found: Figures, epochs: int) -> str:
    """The figures for people: what collides, then each measure with its difference from the baseline."""
    lines = [f"{'':24}{'rows':>8}{'ids that share a row':>22}{'ids lost':>10}{'examples with such an id':>26}"]
    lines += [
        f"{name:24}{of['rows']:8,.0f}{of['ids_sharing']:22.1%}{of['ids_lost']:10.1%}{of['examples_sharing']:26.1%}"
        for name, of in found.items()
    ]
    for key, heading in measures(epochs).items():
        lines += ["", f"{heading:32}{'mean ± sd':15}   difference from {BASELINE.name} [95 % interval]"]
        lines += [f"  {name:30}{_levels(of[key], name)}" for name, of in found.items()]
    return "\n".join([*lines, "", *verdicts(found, epochs)])


def verdicts(found: Figures, epochs: int) -> list[str]:
    """For each measure, which contestants its interval puts below and above the baseline, and which it does not."""
    lines, others = [], [name for name in found if name != BASELINE.name]
    for key, heading in measures(epochs).items():
        groups: dict[str, list[str]] = {"worse": [], "better": [], "undecided": []}
        for name in others:
            groups[_verdict(found[name][key], falls=key.endswith("log_loss"))].append(name)
        said = [
            f"{group}: {'all' if len(names) == len(others) else '; '.join(names)}"
            for group, names in groups.items()
            if names
        ]
        lines.append(f"{heading}, against {BASELINE.name}: {' | '.join(said)}")
    return lines


def _verdict(of: Mapping[str, float], falls: bool) -> str:
    """Where the whole interval lies; ``falls``: smaller is better."""
    if of["low"] <= 0 <= of["high"]:
        return "undecided"
    return "better" if (of["difference"] < 0) == falls else "worse"


def _levels(of: Mapping[str, float], name: str) -> str:
    level = f"{of['mean']:.4f} ± {of['sd']:.4f}"
    return (
        level if name == BASELINE.name else f"{level}   {of['difference']:+.4f} [{of['low']:+.4f}, {of['high']:+.4f}]"
    )


def measure(
    ratings: Ratings, seeds: int, epochs: int, contestants: Sequence[Contestant] = CONTESTANTS
) -> tuple[Runs, Figures]:
    """Run every contestant with every seed; gives the runs, and what the last line of the output says."""
    if BASELINE not in contestants:
        raise ValueError(f"contestants {[c.name for c in contestants]}: {BASELINE.name!r} must be one of them")
    examples = Examples.of(ratings)
    runs: dict[str, list[Run]] = {contestant.name: [] for contestant in contestants}
    for seed in range(1, seeds + 1):
        for contestant in contestants:
            began = time.process_time()
            runs[contestant.name].append(run(contestant, examples, seed, epochs, CHECKPOINTS))
            done, took = runs[contestant.name][-1], time.process_time() - began
            print(f"seed {seed}: {contestant.name:24} AUC {done.online[-1]:.4f} online, {took:5.1f} CPU-s", flush=True)
    return runs, {
        "data": ratings.layout,
        "examples": len(examples),
        "positives": round(float(examples.labels.mean()), 6),
        "users": len(examples.ids["user"]),
        "items": len(examples.ids["item"]),
        "seeds": seeds,
        "epochs": epochs,
        "last_tenth_unseen": _rounded(unseen(examples, last_tenth(len(examples)))),
        "random_tenth_unseen": _rounded(unseen(examples, random_tenth(len(examples), 1))),
        "contestants": figures(runs, epochs),
    }


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: round(share, 6) for name, share in shares.items()}


def introduction(found: Figures) -> str:
    """What the table is about."""
    new = {name: found[f"{name}_tenth_unseen"] for name in ("last", "random")}
    shares = "; ".join(f"{of['user']:.0%} and {of['item']:.0%} of the {name} tenth" for name, of in new.items())
    return (
        f"MovieLens: {found['examples']:,} ratings, {found['positives']:.1%} of them positive, "
        f"{found['users']:,} users, {found['items']:,} items; {found['seeds']} seeds, {found['epochs']} epochs.\n"
        f"Examples whose user, and whose item, was never trained on: {shares}.\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = _options(argv)
    ratings = read(options.data)
    runs, found = measure(ratings.head(options.ratings or len(ratings)), options.seeds, options.epochs)
    drawn = curves(runs)
    text = introduction(found) + "\n" + table(found["contestants"], options.epochs)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.txt").write_text(text + "\n")
    (options.out / "figures.json").write_text(json.dumps({**found, "curves": drawn}, indent=1) + "\n")
    print(f"\n{text}\n\n{_plot(found, drawn, options.out / 'collisions.png')}")
    print(json.dumps(found))


def _plot(found: Figures, drawn: Figures, path: Path) -> str:
    try:
        from benchmarks._collision_plot import plot
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return f"no {path.name}: matplotlib is not installed (make setup, or pip install -c constraints.txt matplotlib)"
    plot(found, drawn, path)
    return f"plot: {path}"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, default_seeds="5")
    parser.add_argument("--epochs", type=int, help="of the held-out figures (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("runs/collisions"), help="folder (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"a trial of seconds: {QUICK}")
    options = parser.parse_args(argv)
    defaults = QUICK if options.quick else {"ratings": None, "seeds": 5, "epochs": 5}
    for name, default in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    check_options(parser, options)
    if options.epochs < 1:
        parser.error(f"--epochs {options.epochs}: must be at least 1")
    return options


if __name__ == "__main__":
    main()
