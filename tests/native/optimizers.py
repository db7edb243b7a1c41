"""Every optimizer as its textbook writes it, in any precision: float32 for bits, float64 for truth."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Array = Any  # of the precision that the rule was made with


class Rule(Protocol):
    def initial_state(self, dim: int) -> Array: ...

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None: ...


class Sgd:
    def __init__(self, kind: type) -> None:
        self.kind = kind

    def initial_state(self, dim: int) -> Array:
        return np.zeros(0, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        w -= lr * g


class Momentum:
    def __init__(self, kind: type, momentum: float = 0.9) -> None:
        self.kind, self.momentum = kind, kind(momentum)

    def initial_state(self, dim: int) -> Array:
        return np.zeros(dim, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        state[:] = self.momentum * state + g
        w -= lr * state


class Adagrad:
    def __init__(
        self, kind: type, initial_accumulator: float = 0.1, epsilon: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        self.kind, self.initial = kind, kind(initial_accumulator)
        self.epsilon, self.decay = kind(epsilon), kind(weight_decay)

    def initial_state(self, dim: int) -> Array:
        return np.full(dim, self.initial, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        g = g + self.decay * w if self.decay else g
        state += g * g
        w -= lr * g / (np.sqrt(state) + self.epsilon)


class RowwiseAdagrad(Adagrad):
    def initial_state(self, dim: int) -> Array:
        return np.full(1, self.initial, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        if len(w) == 0:
            return
        g = g + self.decay * w if self.decay else g
        total = self.kind(0)
        for component in g:
            total += component * component
        state += total / self.kind(len(w))
        w -= lr * g / (np.sqrt(state[0]) + self.epsilon)


class Adam:
    def __init__(self, kind: type, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.kind, self.beta1, self.beta2, self.epsilon = kind, beta1, beta2, kind(epsilon)

    def initial_state(self, dim: int) -> Array:
        return np.zeros(2 * dim + 1, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        dim, kind = len(w), self.kind
        m, v = state[:dim], state[dim : 2 * dim]
        state[2 * dim] += 1
        t = int(state[2 * dim])
        m[:] = kind(self.beta1) * m + kind(1 - self.beta1) * g
        v[:] = kind(self.beta2) * v + kind(1 - self.beta2) * (g * g)
        m_hat = m / kind(1 - _power(self.beta1, t))
        v_hat = v / kind(1 - _power(self.beta2, t))
        w -= lr * m_hat / (np.sqrt(v_hat) + self.epsilon)


def _power(base: float, exponent: int) -> float:
    """By squaring, as the table does it, for the last bit."""
    result = 1.0
    while exponent > 0:
        if exponent & 1:
            result *= base
        exponent >>= 1
        base *= base
    return result


class Ftrl:
    """Algorithm 1 of McMahan et al. 2013."""

    def __init__(
        self, kind: type, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0, initial_accumulator: float = 0.1
    ) -> None:
        self.kind, self.beta, self.l1, self.l2 = kind, kind(beta), kind(l1), kind(l2)
        self.initial = kind(initial_accumulator)

    def initial_state(self, dim: int) -> Array:
        return np.concatenate([np.zeros(dim, self.kind), np.full(dim, self.initial, self.kind)])

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        z, n = state[: len(w)], state[len(w) :]
        sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / lr
        z += g - sigma * w
        n += g * g
        scaled = -(z - np.sign(z) * self.l1) / ((self.beta + np.sqrt(n)) / lr + self.l2)
        w[:] = np.where(np.abs(z) <= self.l1, self.kind(0), scaled)


class RmsProp:
    def __init__(self, kind: type, decay: float = 0.9, epsilon: float = 1e-8) -> None:
        self.kind, self.decay, self.epsilon = kind, decay, kind(epsilon)

    def initial_state(self, dim: int) -> Array:
        return np.zeros(dim, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        state[:] = self.kind(self.decay) * state + self.kind(1 - self.decay) * (g * g)
        w -= lr * g / (np.sqrt(state) + self.epsilon)


OPTIMIZERS: dict[str, Callable[..., Rule]] = {
    "adagrad": Adagrad,
    "adam": Adam,
    "ftrl": Ftrl,
    "momentum": Momentum,
    "rmsprop": RmsProp,
    "rowwise_adagrad": RowwiseAdagrad,
    "sgd": Sgd,
}
