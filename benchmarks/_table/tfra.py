"""TensorFlow Recommenders Addons: its cuckoo table for lookups, and a train step of its dynamic embeddings.

Runs in the environment that `make peers` gives it.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders_addons.dynamic_embedding as de

from benchmarks._table.contestant import Settings, Work, built, gradients, sample, serve
from benchmarks._table.workload import Positions, keys_of

LEARNING_RATE, INITIAL_ACCUMULATOR = 0.02, 0.1
TRAINING_KEYS = 2_000_000  # at 0.3 million new keys a second, and with a table for each optimizer slot


def tensor_of(positions: Positions) -> tf.Tensor:
    return tf.constant(keys_of(positions).view(np.int64))


class Lookups:
    """One table of embeddings."""

    def __init__(self, settings: Settings) -> None:
        self.keys, self._dim = settings.keys, settings.dim
        self._table = de.CuckooHashTable(tf.int64, tf.float32, default_value=[0.0] * settings.dim, name="rows")
        self.works = {"lookup": Work(tensor_of, lambda batch: self._table.lookup)}

    def build(self) -> dict[str, float]:
        """With rows made beforehand, all floats of which are the position."""

        def prepare(positions: Positions) -> tuple[tf.Tensor, tf.Tensor]:
            rows = np.repeat(positions.astype(np.float32)[:, None], self._dim, axis=1)
            return tensor_of(positions), tf.constant(rows)

        spent = built(self.keys, lambda pair: self._table.insert(*pair), prepare)
        positions = sample(self.keys)
        rows = self._table.lookup(tensor_of(positions)).numpy()
        assert np.array_equal(rows[:, -1], positions.astype(np.float32)), "TFRA does not find what was inserted"
        return spent


class Training:
    """tf.unique, lookup or insert, and Adagrad, in a tf.function."""

    def __init__(self, settings: Settings) -> None:
        self.keys, self._dim = min(settings.keys, TRAINING_KEYS), settings.dim
        self._variable = de.get_variable(
            "rows",
            dim=settings.dim,
            key_dtype=tf.int64,
            initializer=tf.keras.initializers.RandomUniform(-0.05, 0.05, seed=1),
            trainable=True,
            devices=["/CPU:0"],
        )
        adagrad = tf.keras.optimizers.legacy.Adagrad(LEARNING_RATE, initial_accumulator_value=INITIAL_ACCUMULATOR)
        self._optimizer = de.DynamicEmbeddingOptimizer(adagrad)
        # A step for every number of keys: tracing for each anew would be timed.
        spec = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, settings.dim], tf.float32)]
        self._step = tf.function(self._train_step, input_signature=spec, autograph=False)
        self.works = {"train": Work(tensor_of, self._train)}

    def _train_step(self, keys: tf.Tensor, given: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            distinct, occurrences = tf.unique(keys)
            rows = de.embedding_lookup(self._variable, distinct, name="lookup")
            loss = tf.reduce_sum(tf.gather(rows, occurrences) * given)
        weights = self._variable.get_trainable_by_name("lookup")
        self._optimizer.apply_gradients([(tape.gradient(loss, weights), weights)])

    def build(self) -> dict[str, float]:
        """By train steps, so that the optimizer's slots have all keys as well."""
        step = self._train(4096)
        spent = built(self.keys, lambda keys: step(keys), tensor_of)
        assert int(self._variable.size()) == self.keys, "TFRA does not hold what was inserted"
        return spent

    def _train(self, batch: int) -> Callable[[Any], object]:
        given = tf.constant(gradients(batch, self._dim))
        # A slice is a copy, which only the last batch of a build needs.
        return lambda keys: self._step(keys, given if len(keys) == batch else given[: len(keys)])


def make(settings: Settings) -> Lookups | Training:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return Lookups(settings) if settings.optimizer == "sgd" else Training(settings)


if __name__ == "__main__":
    serve(make)
