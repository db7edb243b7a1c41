"""The hashes of native/hash.h in Python's whole numbers."""

import numpy as np
import numpy.typing as npt

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
DRAW = 0xD1B54A32D192ED03

Floats = npt.NDArray[np.float32]


def mix(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & WORD
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & WORD
    return x ^ x >> 31


def unmix(x: int) -> int:
    x ^= x >> 31 ^ x >> 62
    x = x * pow(0x94D049BB133111EB, -1, 1 << 64) & WORD
    x ^= x >> 27 ^ x >> 54
    x = x * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & WORD
    return x ^ x >> 30 ^ x >> 60


def hash_int(value: int, seed: int) -> int:
    return mix(mix(seed + GOLDEN & WORD) ^ value & WORD)


def hash_bytes(data: bytes, seed: int) -> int:
    h = mix(seed + GOLDEN & WORD)
    for start in range(0, len(data), 8):
        h = mix(h ^ int.from_bytes(data[start : start + 8], "little"))
    return mix(h ^ len(data))


def initial_row(key: int, seed: int, dim: int, init_scale: float) -> Floats:
    start = mix(key ^ mix(seed + GOLDEN & WORD))
    pairs = [mix(start + (i + 1) * GOLDEN & WORD) for i in range(0, dim, 2)]
    bits = [half for pair in pairs for half in (pair >> 40, pair >> 8 & 0xFFFFFF)][:dim]
    unit = np.array(bits, np.float32) * np.float32(2.0**-23) - np.float32(1)
    return unit * np.float32(init_scale)


def uniform_draw(key: int, n: int, seed: int) -> float:
    bits = mix(mix(key ^ mix(seed + DRAW & WORD)) + n * GOLDEN & WORD)
    return (bits >> 11) * 2.0**-53
