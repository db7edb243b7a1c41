"""The floating-point settings that training runs under, so that the same log gives the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def training_arithmetic() -> Iterator[None]:
    """Denormals count as zeros on the calling thread while this lasts; then they are what they were.

    Moments of idle weights decay into denormals, which slow a step down several times. The setting belongs to a
    thread, a runner may train on any of its own, and what else runs there wants IEEE arithmetic back.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def fix_threads_and_order() -> None:
    """One thread for all of torch's operators in this process, and only those whose sums have a fixed order."""
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # the function of a better name imports the compiler
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # writes results twice
