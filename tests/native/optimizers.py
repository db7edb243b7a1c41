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
    def __init__(self, kind: type, momentum: float = 0.9, nesterov: float = 0.0) -> None:
        self.kind, self.momentum, self.nesterov = kind, kind(momentum), nesterov

    def initial_state(self, dim: int) -> Array:
        return np.zeros(dim, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        state[:] = self.momentum * state + g
        w -= lr * (g + self.momentum * state) if self.nesterov else lr * state


class Adagrad:
    def __init__(self, kind: type, initial_accumulator: float = 0.1, epsilon: float = 0.0) -> None:
        self.kind, self.initial, self.epsilon = kind, kind(initial_accumulator), kind(epsilon)

    def initial_state(self, dim: int) -> Array:
        return np.full(dim, self.initial, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        state += g * g
        w -= lr * g / (np.sqrt(state) + self.epsilon)


class RowwiseAdagrad(Adagrad):
    def initial_state(self, dim: int) -> Array:
        return np.full(1, self.initial, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        if len(w) == 0:
            return
        state += _sum(g * g) / self.kind(len(w))
        w -= lr * g / (np.sqrt(state[0]) + self.epsilon)


class RmsProp:
    def __init__(self, kind: type, decay: float = 0.9, epsilon: float = 1e-8) -> None:
        self.kind, self.decay, self.epsilon = kind, decay, kind(epsilon)

    def initial_state(self, dim: int) -> Array:
        return np.zeros(dim, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        state[:] = _average(self.decay, state, g * g)
        w -= lr * g / (np.sqrt(state) + self.epsilon)


class Adadelta:
    def __init__(self, kind: type, rho: float = 0.9, epsilon: float = 1e-6) -> None:
        self.kind, self.rho, self.epsilon = kind, rho, kind(epsilon)

    def initial_state(self, dim: int) -> Array:
        return np.zeros(2 * dim, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        squares, moves = np.split(state, 2)
        squares[:] = _average(self.rho, squares, g * g)
        move = np.sqrt(moves + self.epsilon) / np.sqrt(squares + self.epsilon) * g
        moves[:] = _average(self.rho, moves, move * move)
        w -= lr * move


class Adam:
    def __init__(self, kind: type, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.kind, self.beta1, self.beta2, self.epsilon = kind, beta1, beta2, kind(epsilon)

    def initial_state(self, dim: int) -> Array:
        return np.zeros(2 * dim + 1, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        m, v = np.split(state[:-1], 2)
        state[-1] += 1
        self._moments(m, v, g)
        self._move(w, m, v, int(state[-1]), lr)

    def _moments(self, m: Array, v: Array, g: Array) -> None:
        m[:] = _average(self.beta1, m, g)
        v[:] = _average(self.beta2, v, g * g)

    def _move(self, w: Array, m: Array, v: Array, t: int, lr: Any) -> None:
        m_hat = m / self.kind(1 - _power(self.beta1, t))
        v_hat = v / self.kind(1 - _power(self.beta2, t))
        w -= lr * m_hat / (np.sqrt(v_hat) + self.epsilon)


class AdamW(Adam):
    def __init__(self, kind: type, weight_decay: float = 0.01, **hyper: float) -> None:
        super().__init__(kind, **hyper)
        self.decay = kind(weight_decay)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        w *= self.kind(1) - lr * self.decay
        super().step(w, state, g, lr)


class Amsgrad(Adam):
    def initial_state(self, dim: int) -> Array:
        return np.zeros(3 * dim + 1, self.kind)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        m, v, largest = np.split(state[:-1], 3)
        state[-1] += 1
        self._moments(m, v, g)
        largest[:] = np.maximum(largest, v)
        self._move(w, m, largest, int(state[-1]), lr)


class Ftrl:
    """McMahan et al. 2013; sigma is the change of 1/rate, also where the learning rate has changed."""

    def __init__(
        self, kind: type, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0, initial_accumulator: float = 0.1
    ) -> None:
        self.kind, self.beta, self.l1, self.l2 = kind, kind(beta), kind(l1), kind(l2)
        self.initial = kind(initial_accumulator)

    def initial_state(self, dim: int) -> Array:
        return np.concatenate([np.zeros(dim, self.kind), np.full(dim, self.initial, self.kind), [self.kind(0)]])

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        z, n = np.split(state[:-1], 2)
        change = self.kind(1) / lr - self.kind(1) / state[-1] if state[-1] else self.kind(0)
        sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / lr + (self.beta + np.sqrt(n)) * change
        z += g - sigma * w
        n += g * g
        state[-1] = lr
        w[:] = self._weights(z, (self.beta + np.sqrt(n)) / lr + self.l2)

    def _weights(self, z: Array, denominator: Array) -> Array:
        return -self._shrunk(z) / denominator

    def _shrunk(self, z: Array) -> Array:
        return np.where(np.abs(z) <= self.l1, self.kind(0), z - np.sign(z) * self.l1)


class GroupFtrl(Ftrl):
    """Group Adagrad of Yue et al. 2021, whose A is half of the denominator."""

    def __init__(self, kind: type, l21: float = 0.0, **hyper: float) -> None:
        super().__init__(kind, **hyper)
        self.l21 = kind(l21)

    def _weights(self, z: Array, denominator: Array) -> Array:
        weights = super()._weights(z, denominator)
        norm = np.sqrt(self.kind(2) * _sum(self._shrunk(z) * -weights))
        penalty = self.l21 * np.sqrt(self.kind(len(z)))
        return (self.kind(1) - penalty / norm) * weights if norm > penalty else np.zeros_like(weights)


class Transformed:
    """A rule that gets clipped gradients, with weight decay."""

    def __init__(self, rule: Rule, kind: type, clip_value: float, clip_norm: float, weight_decay: float) -> None:
        self.rule, self.kind = rule, kind
        self.value, self.norm, self.decay = kind(clip_value), kind(clip_norm), kind(weight_decay)

    def initial_state(self, dim: int) -> Array:
        return self.rule.initial_state(dim)

    def step(self, w: Array, state: Array, g: Array, lr: Any) -> None:
        g = np.clip(g, -self.value, self.value) if self.value else g
        norm = np.sqrt(_sum(np.square(g, dtype=np.float64)))
        g = self.kind(self.norm.astype(np.float64) / norm) * g if self.norm and norm > self.norm else g
        self.rule.step(w, state, g + self.decay * w if self.decay else g, lr)


def _sum(values: Array) -> Any:
    """In order."""
    total = values.dtype.type(0)
    for value in values:
        total += value
    return total


def _average(keep: float, old: Array, new: Array) -> Array:
    kind = old.dtype.type
    return kind(keep) * old + kind(1 - keep) * new


def _power(base: float, exponent: int) -> float:
    """By squaring, as the table does it, for the last bit."""
    result = 1.0
    while exponent > 0:
        if exponent & 1:
            result *= base
        exponent >>= 1
        base *= base
    return result


OPTIMIZERS: dict[str, Callable[..., Rule]] = {
    "adadelta": Adadelta,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "amsgrad": Amsgrad,
    "ftrl": Ftrl,
    "group_ftrl": GroupFtrl,
    "momentum": Momentum,
    "rmsprop": RmsProp,
    "rowwise_adagrad": RowwiseAdagrad,
    "sgd": Sgd,
}


def make_rule(optimizer: str, kind: type, hyper: dict[str, float]) -> Rule:
    """The rule of an optimizer, with the hyper-parameters that every optimizer has."""
    own = dict(hyper)
    value, norm = own.pop("clip_value", 0.0), own.pop("clip_norm", 0.0)
    decay = own.pop("weight_decay", 0.0) if optimizer != "adamw" else 0.0
    rule = OPTIMIZERS[optimizer](kind, **own)
    return Transformed(rule, kind, value, norm, decay) if value or norm or decay else rule
