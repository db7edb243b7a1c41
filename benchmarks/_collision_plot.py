"""The plot of ``benchmarks.collisions``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks._contestants import BASELINE

Figures = dict[str, Any]

HASHED = "hashed"
SPLITS = {"last": "last tenth in time", "random": "random tenth"}


def plot(found: Figures, curves: Figures, path: Path) -> None:
    """Three panels on the course of training, one on what a table of which size costs; a PNG file."""
    colours = _colours(list(curves))
    figure = Figure(figsize=(13, 9.2), layout="constrained")
    axes = figure.subplots(2, 2)
    _online(axes[0, 0], found["examples"], curves, colours)
    _epochs(axes[1, 0], "last", curves, colours)
    _epochs(axes[1, 1], "random", curves, colours)
    _sizes(axes[0, 1], found, colours)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"MovieLens, {found['examples']:,} ratings, DeepFM: a row for every id against hashed ids. "
        f"Bands: ± 1 standard deviation over {found['seeds']} seeds"
    )
    figure.savefig(path, dpi=130)


def _colours(names: list[str]) -> dict[str, Any]:
    """The baseline black, hashed contestants from dark to light with the size of their table, others each its own."""
    hashed = [name for name in names if name.startswith(HASHED)]
    others = [name for name in names if name not in hashed and name != BASELINE.name]
    scale, spare = matplotlib.colormaps["plasma"], matplotlib.colormaps["Dark2"]
    colours = {name: scale(0.1 + 0.8 * place / max(1, len(hashed) - 1)) for place, name in enumerate(hashed)}
    return {BASELINE.name: "black", **colours, **{name: spare(place) for place, name in enumerate(others)}}


def _online(axes: Axes, examples: int, curves: Figures, colours: dict[str, Any]) -> None:
    settled: list[float] = []  # the AUC of the very first examples may be anything
    for name, of in curves.items():
        points = len(of["online"]["mean"])
        _band(axes, examples / 1000 * np.arange(1, points + 1) / points, of["online"], name, colours[name])
        settled += of["online"]["mean"][points // 10 :]
    margin = 0.1 * (max(settled) - min(settled))
    axes.set_ylim(min(settled) - margin, max(settled) + margin)
    axes.set(xlabel="examples seen (thousands)", ylabel="progressive AUC of all of them")
    axes.set_title("One pass in time order, each example scored before it is learnt")
    axes.grid(alpha=0.25)


def _epochs(axes: Axes, split: str, curves: Figures, colours: dict[str, Any]) -> None:
    for name, of in curves.items():
        epochs = np.arange(1, len(of[split]["mean"]) + 1)
        _band(axes, epochs, of[split], name, colours[name], marker="o", markersize=4)
    axes.set(xlabel="epochs", ylabel="AUC", xticks=epochs)
    axes.set_title(f"Held out: {SPLITS[split]}")
    axes.grid(alpha=0.25)


def _sizes(axes: Axes, found: Figures, colours: dict[str, Any]) -> None:
    """AUC against rows of the table; contestants of one kind are joined by a line."""
    last = f"auc_epoch_{found['epochs']}"
    measures = {"online_auc": "online", f"random_{last}": "random tenth", f"last_{last}": "last tenth"}
    contestants = found["contestants"]
    for (measure, label), marker in zip(measures.items(), "osD", strict=True):
        points = {name: (of["rows"], of[measure]["mean"], of[measure]["sd"]) for name, of in contestants.items()}
        joined = sorted(point for name, point in points.items() if name.startswith(HASHED))
        axes.plot([x for x, *_ in joined], [y for _, y, _ in joined], color="0.75", zorder=1)
        for name, (rows, mean, sd) in points.items():
            axes.errorbar(rows, mean, sd, fmt=marker, color=colours[name], markersize=6, capsize=3, zorder=2)
        axes.plot([], [], marker, color="0.4", label=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.set(xlabel="rows in the table (log scale)", ylabel="AUC")
    axes.set_title(f"AUC against table size: online, and held out after epoch {found['epochs']}")
    axes.legend(loc="upper left", frameon=False)
    axes.grid(alpha=0.25)


def _band(axes: Axes, x: Any, of: dict[str, list[float]], name: str, colour: Any, **style: Any) -> None:
    mean, sd = np.array(of["mean"]), np.array(of["sd"])
    axes.plot(x, mean, color=colour, label=name, linewidth=2 if name == BASELINE.name else 1.5, **style)
    axes.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.18, linewidth=0)
