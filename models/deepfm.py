"""DeepFM (Guo et al. 2017, arXiv 1703.04247) and the smaller models inside it, on pooled rows of one dynamic table.

A row is ``[linear weight w | factors v_1 .. v_k]``, so one lookup serves the linear part, the factorisation machine
and the deep part, which share the factors (section 2 of the paper). A model owns dense weights only; it gets the
pooled rows as input and autograd gives their gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monobeam.models.columns import Columns
from monobeam.models.config import Config
from monobeam.models.embedding import Embedding


def parts(pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Linear weights [S, B, 1] and factors [S, B, k] of pooled rows; one split, whose gradient is one concatenation."""
    weights, factors = torch.split(pooled, [1, pooled.shape[2] - 1], 2)
    return weights, factors


class Model(nn.Module):
    """What ``build`` gives: ``embedding`` makes the pooled vectors of which ``forward`` makes logits."""

    embedding: Embedding
    columns: Columns | None = None  # of the parameter that has some for every slot


class FactorizationMachine(Model):
    """``bias + sum_s w_s + sum_{s<t} <v_s, v_t>``, and a term in the numbers; without pairs: logistic regression.

    The pairs cost O(S k) by Rendle's identity (2010): ``(|sum_s v_s|^2 - sum_s |v_s|^2) / 2``. A bag of several ids
    counts as one field whose vector is their sum, so pairs within a bag do not interact. The bias is not learnt:
    ``set_bias`` sets it.
    """

    def __init__(self, numerics: int, pairs: bool = True) -> None:
        super().__init__()
        self.pairs = pairs
        self.bias = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.numeric = nn.Parameter(torch.zeros(numerics)) if numerics else None

    def forward(self, pooled: Tensor, numeric: Tensor) -> Tensor:
        """Logits [B] of pooled rows [S, B, 1 + k] and numeric inputs [B, K]."""
        weights, factors = parts(pooled)
        return self.of_parts(weights, factors, numeric)

    def of_parts(self, weights: Tensor, factors: Tensor, numeric: Tensor) -> Tensor:
        """Logits [B] of linear weights [S, B, 1], factors [S, B, k] and numeric inputs [B, K]."""
        logits = self.bias + weights.sum(0).squeeze(1)
        if self.numeric is not None:
            logits = logits + numeric @ self.numeric
        if self.pairs:
            total = factors.sum(0)
            logits = logits + 0.5 * (total * total - (factors * factors).sum(0)).sum(1)
        return logits


class DeepFM(Model):
    """A factorisation machine plus a tower of ReLU layers over the same factors, logits added (eq. 1 of the paper)."""

    def __init__(self, slots: int, numerics: int, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.fm = FactorizationMachine(numerics)
        layers: list[nn.Module] = []
        width = slots * dim + numerics
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        self.deep = nn.Sequential(*layers, nn.Linear(width, 1))
        nn.init.zeros_(self.deep[-1].bias)  # type: ignore[arg-type]

    def forward(self, pooled: Tensor, numeric: Tensor) -> Tensor:
        """Logits [B] of pooled rows [S, B, 1 + k] and numeric inputs [B, K]."""
        weights, factors = parts(pooled)
        fields = factors.transpose(0, 1).flatten(1)
        inputs = torch.cat([fields, numeric], 1) if numeric.shape[1] else fields
        logits: Tensor = self.fm.of_parts(weights, factors, numeric) + self.deep(inputs).squeeze(1)
        return logits


def build(config: Config) -> Model:
    """The module of ``config.model.kind``; its first weights are a pure function of ``config.model.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.model.seed)
        model = _of_kind(config)
        model.embedding = Embedding(config)
    return model


def _of_kind(config: Config) -> Model:
    model, numerics = config.model, len(config.numerics)
    if model.kind == "lr":
        return FactorizationMachine(numerics, pairs=False)
    if model.kind == "fm":
        return FactorizationMachine(numerics)
    deep = DeepFM(len(config.slots), numerics, model.dim, model.hidden)
    deep.columns = Columns("deep.0.weight", tuple(slot.slot for slot in config.slots), model.dim)
    return deep


def set_bias(model: nn.Module, logit: float) -> None:
    """Set what a module of ``build`` says where it knows nothing."""
    machine = model.fm if isinstance(model, DeepFM) else model
    assert isinstance(machine, FactorizationMachine)
    with torch.no_grad():
        machine.bias.fill_(logit)
