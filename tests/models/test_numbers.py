"""Numbers of a configuration are computed with in float32: what it cannot hold is refused with its key."""

from __future__ import annotations

import pytest

from monobeam.models.config import ConfigError
from tests.models.streams import config

DIGITS = "1" + "0" * 400


def refused(model: str = "", training: str = "", slot: str = "") -> str:
    with pytest.raises(ConfigError) as error:
        config(["user"], f"dim = 2\n{model}", training, of_slots={"user": slot})
    return str(error.value)


@pytest.mark.parametrize("number", [DIGITS, "1e+39", "-1e+39", "1e-39", "1e-300", "inf", "nan"])
def test_what_float32_cannot_hold_is_refused(number: str) -> None:
    said = "must be a finite number that float32 holds: 0, or from 1.2e-38 to 3.4e+38 in size"
    assert f"model.init_scale = {number}: {said}" in refused(f"init_scale = {number}")
    for key in ("learning_rate", "weight_decay", "clip_norm", "initial_accumulator"):
        assert f"training.sparse.{key} = {number}: {said}" in refused(training=f"sparse = {{ {key} = {number} }}")
    assert f"slots[0].admit_probability = {number}: {said}" in refused(slot=f"admit_probability = {number}")


@pytest.mark.parametrize("number", ["0", "0.0", "-0.0", "3e38", "2e-38", "7"])
def test_what_float32_holds_is_taken(number: str) -> None:
    given = config(["user"], f"init_scale = {number}", f"sparse = {{ clip_norm = {number} }}")
    assert given.model.init_scale == given.training.sparse.hyper["clip_norm"] == float(number)


def test_whole_numbers_of_any_length_are_refused_in_words() -> None:
    assert "slots[0].tail_rows = 1000" in refused(slot=f'admit_count = 2\ntail = "compose"\ntail_rows = {DIGITS}')
    assert "not TOML: Exceeds the limit" in refused(f"seed = {DIGITS * 20}")


def test_what_rounds_to_1_is_not_below_1() -> None:
    said = refused(training='sparse = { optimizer = "adam", beta1 = 0.99999999999 }')
    assert "training.sparse.beta1 = 0.99999999999: must lie in [0, 1)" in said


@pytest.mark.parametrize("kind", ["polynomial", "cosine", "exponential"])
def test_ftrl_refuses_a_rate_that_comes_to_zero(kind: str) -> None:
    sparse = f'sparse = {{ optimizer = "ftrl", schedule = {{ kind = "{kind}", examples = 5, end_rate = %s }} }}'
    assert "ftrl divides by the learning rate: end_rate must be above 0" in refused(training=sparse % 0)
    assert config(["user"], training=sparse % 0.01).training.sparse.schedule.end_rate == 0.01


def test_ftrl_takes_a_rate_that_never_comes_to_zero() -> None:
    sparse = 'sparse = { optimizer = "ftrl", schedule = { kind = "inverse_sqrt", examples = 5 } }'
    assert config(["user"], training=sparse).training.sparse.schedule.kind == "inverse_sqrt"
