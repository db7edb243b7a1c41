"""Row formats written the obvious way: numpy's own float16, and whole numbers for the rest."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.native.hashes import GOLDEN, WORD, mix

Floats = npt.NDArray[np.float32]
ROUNDING = 0xA24BAED4963EE407
HALF_MAX = np.float32(65504)
BFLOAT_MAX = np.float32(2.0**127 * (2 - 2.0**-7))


def nearest(name: str, values: Floats) -> Floats:
    """What a row reads as after `values` were written into it."""
    return {"fp32": np.copy, "fp16": _nearest_half, "bf16": _nearest_bfloat, "int8": int8}[name](values)


def _nearest_half(values: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(np.float16).astype(np.float32)
    # Numbers that are too large are cut off, infinities too; what is not a number stays so.
    return np.where(np.isinf(cast), np.copysign(HALF_MAX, values), cast).astype(np.float32)


def _nearest_bfloat(values: Floats) -> Floats:
    return np.array([_bfloat(value) for value in values.ravel()], np.float32).reshape(values.shape)


def _bfloat(value: np.float32) -> np.float32:
    """The nearer of the two neighbours, the even one of equals; the largest number instead of infinity."""
    if not np.isfinite(value):
        return value
    low, high = neighbours("bf16", value)
    below, above = abs(float(value) - float(low)), abs(float(high) - float(value))
    if below == above:
        return low if int(np.float32(low).view(np.uint32)) >> 16 & 1 == 0 else high
    return low if below < above else high


def int8(values: Floats) -> Floats:
    """A scale of max |w| / 127 for each row [n, dim]."""
    out = np.empty_like(values)
    for row, result in zip(values, out, strict=True):
        if not np.isfinite(row).all():
            result[:] = np.nan
            continue
        scale = np.float32(np.abs(row).max(initial=0) / np.float32(127))
        steps = np.rint(row / scale).clip(-127, 127) if scale > 0 else np.zeros_like(row)
        result[:] = steps.astype(np.int8) * scale
    return out


def neighbours(name: str, value: np.float32) -> tuple[np.float32, np.float32]:
    """The numbers of the format at or next to a finite value, the one nearer to zero first; equal if it is one."""
    magnitude = np.abs(np.float32(value))
    low: Any
    high: Any
    if name == "fp16":
        low = np.float16(min(magnitude, HALF_MAX))
        if np.float32(low) > magnitude:
            low = np.nextafter(low, np.float16(0))
        exact = np.float32(low) == min(magnitude, HALF_MAX)
        high = low if exact else np.nextafter(low, np.float16(HALF_MAX))
    else:
        bits = int(magnitude.view(np.uint32))
        low = _of_bits(bits & 0xFFFF0000)
        high = low if bits & 0xFFFF == 0 or low == BFLOAT_MAX else _of_bits((bits & 0xFFFF0000) + 0x10000)
    sign = np.copysign(np.float32(1), value)
    return np.float32(low) * sign, np.float32(high) * sign


def _of_bits(bits: int) -> np.float32:
    number: np.float32 = np.array([bits], np.uint32).view(np.float32)[0]
    return number


def stochastic(name: str, values: Floats, updates: int, seed: int) -> Floats:
    """What a row reads as after its `updates`-th update, which made it `values`."""
    first = values[:2].tobytes().ljust(8, b"\0")
    stream = mix(mix(seed + updates * GOLDEN & WORD) ^ int.from_bytes(first, "little"))
    start = mix(stream ^ ROUNDING)
    draws = [mix(start + (i + 1) * GOLDEN & WORD) for i in range(len(values))]
    return np.array([_drawn(name, *pair) for pair in zip(values, draws, strict=True)], np.float32)


def _drawn(name: str, value: np.float32, draw: int) -> np.float32:
    if not np.isfinite(value):
        return nearest(name, np.array([[value]], np.float32))[0, 0]
    low, high = neighbours(name, value)
    if low == high:
        return low
    part = (float(value) - float(low)) / (float(high) - float(low))
    if name == "bf16":
        return high if part * 2**16 + (draw >> 48) >= 2**16 else low
    if abs(value) < 2.0**-14:
        return high if (draw >> 40) * 2.0**-24 < part else low
    return high if part * 2**13 + (draw >> 51) >= 2**13 else low
