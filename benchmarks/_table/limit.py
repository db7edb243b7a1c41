"""The limits: rows whose number is known (limit.cpp), numpy's own gather, memory and the disk."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._table.contestant import Settings, Work, gradients, sample, serve, spent_by_process
from benchmarks._table.workload import Positions

LEARNING_RATE, EPSILON = 0.02, 1e-10
_PIECE = 8 << 20
_COPIED = 512 << 20  # larger than caches are


def compile_to(folder: Path) -> Path:
    """limit.cpp as a library for this very processor; OSError or CalledProcessError where that cannot be."""
    library = folder / "limit.so"
    flags = ["-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC"]
    source = Path(__file__).with_name("limit.cpp")
    command = [os.environ.get("CXX", "g++"), *flags, "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def _functions(library: str) -> ctypes.CDLL:
    functions = ctypes.CDLL(library)
    pointer, size, real = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_float
    functions.make_rows.argtypes, functions.make_rows.restype = [size, size], pointer
    functions.gather.argtypes = [pointer, size, size, pointer, size, pointer]
    functions.adagrad.argtypes = [pointer, size, size, pointer, size, pointer, real, real]
    return functions


class Limit:
    """As many rows as the table has, with its stride; a position is its row's number."""

    def __init__(self, settings: Settings) -> None:
        self.keys, self._dim = settings.keys, settings.dim
        self._stride = settings.dim * 4 * (1 if settings.optimizer == "sgd" else 2)
        self._functions = _functions(settings.library)
        self.works = {"lookup": Work(lambda positions: positions, self._gather)}
        if settings.optimizer == "sgd":
            self.works["take"] = Work(lambda positions: positions.astype(np.intp), self._take)
        else:
            self.works["update"] = Work(lambda positions: positions, self._adagrad)

    def build(self) -> dict[str, float]:
        began = time.process_time()
        self._rows = self._functions.make_rows(self.keys, self._stride)
        if self._rows is None:
            raise MemoryError(f"{self.keys * self._stride:,} bytes for the limit's rows")
        spent = time.process_time() - began
        positions = sample(self.keys)
        assert np.array_equal(self._gather(len(positions))(positions)[:, 0], positions.astype(np.float32))
        return {"cpu": spent, "keys": self.keys}

    def _gather(self, batch: int) -> Callable[[Any], Any]:
        out = np.zeros((batch, self._dim), np.float32)
        target = out.ctypes.data

        def call(positions: Positions) -> Any:
            source, count = positions.ctypes.data, len(positions)
            if self._functions.gather(self._rows, self._stride, self._dim * 4, source, count, target):
                raise ValueError(f"limit.cpp has no gather of {self._dim} floats")
            return out

        return call

    def _adagrad(self, batch: int) -> Callable[[Any], object]:
        given, functions, rate = gradients(batch, self._dim), self._functions, LEARNING_RATE

        def call(positions: Positions) -> None:
            numbers, count, source = positions.ctypes.data, len(positions), given.ctypes.data
            if functions.adagrad(self._rows, self._stride, self._dim, numbers, count, source, rate, EPSILON):
                raise ValueError(f"limit.cpp has no Adagrad of {self._dim} floats")

        return call

    def _take(self, batch: int) -> Callable[[Any], object]:
        """Numpy's gather, over the same rows."""
        floats = self.keys * self._stride // 4
        pointer = ctypes.cast(ctypes.c_void_p(self._rows), ctypes.POINTER(ctypes.c_float))
        rows = np.ctypeslib.as_array(pointer, (floats,)).reshape(self.keys, self._dim)
        out = np.zeros((batch, self._dim), np.float32)
        return lambda positions: np.take(rows, positions, axis=0, out=out, mode="clip")

    def copy(self, bytes: int) -> dict[str, float]:
        """Memory to memory: the sum of pieces that no cache holds."""
        size = min(bytes, _COPIED)
        source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
        copies = -(-bytes // size)

        def copy() -> None:
            for _ in range(copies):
                np.copyto(target, source)

        return {**spent_by_process(copy), "bytes": copies * size}

    def write(self, path: str, bytes: int) -> dict[str, float]:
        """A new file, until the disk has it; past the page cache where the file system lets one."""
        piece = mmap.mmap(-1, _PIECE)  # starts with a page, as direct writes must
        piece.write(np.random.default_rng(1).bytes(_PIECE))
        pieces = -(-bytes // _PIECE)

        def sequentially() -> None:
            for _ in range(pieces):
                os.write(file, piece)
            os.fsync(file)

        file = _open_direct(path)
        try:
            return {**spent_by_process(sequentially), "bytes": pieces * _PIECE}
        finally:
            os.close(file)

    def read(self, path: str) -> dict[str, float]:
        """A file, of which the page cache has what it has."""
        piece = bytearray(_PIECE)

        def sequentially() -> None:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(piece):
                    pass

        return {**spent_by_process(sequentially), "bytes": Path(path).stat().st_size}


def _open_direct(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError:
        return os.open(path, flags, 0o600)


if __name__ == "__main__":
    serve(Limit)
