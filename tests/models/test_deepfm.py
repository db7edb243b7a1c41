from __future__ import annotations

import torch

from monobeam.models.deepfm import DeepFM, FactorizationMachine, build
from tests.models.streams import config


def test_pairs_in_linear_time_are_the_pairs_one_by_one() -> None:
    torch.manual_seed(1)
    pooled = torch.randn(6, 5, 9, dtype=torch.float64)
    machine = FactorizationMachine(numerics=2).double()
    torch.nn.init.normal_(machine.numeric)
    numeric = torch.randn(5, 2, dtype=torch.float64)
    w, v = pooled[:, :, 0], pooled[:, :, 1:]
    expected = machine.bias + w.sum(0) + numeric @ machine.numeric
    for s in range(6):
        for t in range(s):
            expected = expected + (v[s] * v[t]).sum(1)
    assert torch.allclose(machine(pooled, numeric), expected, rtol=0, atol=1e-13)


def test_deepfm_is_the_machine_plus_a_tower_over_the_same_factors() -> None:
    torch.manual_seed(2)
    model = DeepFM(slots=3, numerics=2, dim=4, hidden=(5, 6)).double()
    pooled, numeric = torch.randn(3, 7, 5, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    for b in range(7):
        x = torch.cat([pooled[0, b, 1:], pooled[1, b, 1:], pooled[2, b, 1:], numeric[b]])
        for layer in (model.deep[0], model.deep[2]):
            x = torch.relu(layer.weight @ x + layer.bias)
        deep = model.deep[4].weight[0] @ x + model.deep[4].bias[0]
        expected = model.fm(pooled, numeric)[b] + deep
        assert abs(model(pooled, numeric)[b] - expected) < 1e-13


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(3)
    model = DeepFM(slots=3, numerics=1, dim=2, hidden=(4,)).double()
    pooled = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)
    numeric = torch.randn(4, 1, dtype=torch.float64)
    torch.use_deterministic_algorithms(True)
    assert torch.autograd.gradcheck(lambda p: model(p, numeric), (pooled,))
    weights = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    names = [name for name, _ in model.named_parameters()]

    def of_weights(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (pooled.detach(), numeric))

    assert torch.autograd.gradcheck(of_weights, tuple(weights))


def test_a_seed_makes_the_first_weights_and_leaves_torch_s_own_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    one, same, other = (build(config(["a", "b"], f"seed = {seed}")) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    first = [next(iter(model.deep.parameters())) for model in (one, same, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_the_kind_names_the_model() -> None:
    assert isinstance(build(config(["a"])), DeepFM)
    pooled, numeric = torch.randn(2, 3, 11), torch.zeros(3, 0)
    lr, fm = (build(config(["a", "b"], f'kind = "{kind}"')) for kind in ("lr", "fm"))
    assert torch.equal(lr(pooled, numeric), pooled[:, :, 0].sum(0))
    assert torch.allclose(fm(pooled, numeric), lr(pooled, numeric) + (pooled[0, :, 1:] * pooled[1, :, 1:]).sum(1))
