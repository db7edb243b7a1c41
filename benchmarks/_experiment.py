"""What experiments on MovieLens with several seeds share: their options, and intervals of paired differences."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

MOVIELENS = Path(".tools/data/recbole-1.2.1-py3-none-any.whl")
LEAST_RATINGS = 100


def add_options(parser: argparse.ArgumentParser, default_seeds: str) -> None:
    """``--data``, ``--ratings`` and ``--seeds``."""
    parser.add_argument("--data", type=Path, default=MOVIELENS, help="MovieLens in any layout (default: %(default)s)")
    parser.add_argument("--ratings", type=int, help="only the first so many (default: all)")
    parser.add_argument("--seeds", type=int, help=f"how many, from 1 on (default: {default_seeds})")


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with what is wrong with them."""
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: must be at least 2: an interval needs more than one")
    if options.ratings is not None and options.ratings < LEAST_RATINGS:
        parser.error(f"--ratings {options.ratings}: must be at least {LEAST_RATINGS}")
    if not options.data.exists():
        parser.error(f"--data {options.data}: not there; make data fetches MovieLens-100k")


def half_width(differences: npt.NDArray[np.float64]) -> float:
    """Of the 95 % interval of the mean of at least two differences, by Student's t."""
    count = len(differences)
    return t_quantile(count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: its density, integrated by the trapezoidal rule."""
    x = np.linspace(0, 20, 200_001)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    density = math.exp(log_scale) * (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    steps = (density[1:] + density[:-1]) / 2 * (x[1] - x[0])
    return float(np.interp(0.475, np.concatenate([[0.0], np.cumsum(steps)]), x))
