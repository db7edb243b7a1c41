from __future__ import annotations

from pathlib import Path

import pytest

from monobeam.join.settings import Label
from monobeam.models.config import ConfigError, NumericConfig, SlotConfig, load, parse

EXAMPLE = Path(__file__).parents[2] / "examples" / "movielens" / "model.toml"

SMALL = """
[join]
window = "2s"
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "user"
[[slots]]
features = ["user", "item"]
slot = 9
cast = "string"
admit_count = 3
admit_probability = 0.5
expire = "7d"
[[numerics]]
feature = "price"
transform = "log1p"
shift = 1
scale = 0.5
[model]
name = "shop"
label = "like"
hidden = []
[training]
sparse = { optimizer = "ftrl", l1 = 0.1 }
"""


def test_what_is_not_given_has_defaults() -> None:
    config = parse(SMALL)
    assert config.labels == (Label("like", "like", None),)
    assert config.slots == (
        SlotConfig("user", ("user",), 1),
        SlotConfig("user x item", ("user", "item"), 9, "string", 3, 0.5, 7 * 86_400_000_000),
    )
    assert config.numerics == (NumericConfig("price", "log1p", 1.0, 0.5),)
    assert config.join.window_us == 2_000_000
    assert config.join.policy == "wait"
    assert config.model.hidden == ()
    assert config.training.sparse.hyper == {"beta": 1.0, "l1": 0.1, "l2": 0.0, "initial_accumulator": 0.1}
    assert config.training.dense.optimizer == "adam"
    assert config.store.uri == "lmdb:store"


def test_the_example_is_a_sound_configuration() -> None:
    config = load(EXAMPLE)
    assert config.join.tick_us == 50_000
    assert [slot.slot for slot in config.slots] == list(range(1, len(config.slots) + 1))
    assert config == load(EXAMPLE)


def test_the_store_has_one_table_with_a_row_of_weight_and_factors() -> None:
    spec = parse(SMALL).store_spec()
    (table,) = spec.tables
    assert (spec.model, table.dim, table.optimizer, table.hyper["l1"]) == ("shop", 11, "ftrl", 0.1)
    assert table.policies[9].admit_count == 3
    assert table.policies[9].expire_us == 7 * 86_400_000_000


def test_the_join_gets_its_settings() -> None:
    config = load(EXAMPLE)
    settings = config.join_settings(2, since_us=5, until_us=7)
    assert settings.window_us == config.join.window_us
    assert settings.negative_rate == config.join.negative_rate
    assert [label.name for label in settings.labels] == ["like"]


@pytest.mark.parametrize(
    ("old", "new", "quoted"),
    [
        ('window = "2s"', 'window = "2 s"', ["join.window", "'2 s'", "250ms"]),
        ('window = "2s"', "window = 2", ["join.window", "2", "not a duration"]),
        ('window = "2s"', "", ["join.window", "missing"]),
        ('window = "2s"', 'window = "0s"', ["join.window", "longer"]),
        ('window = "2s"', 'window = "2s"\nretention = "1s"', ["join.retention", "1000000us", "2000000us"]),
        ('window = "2s"', 'window = "2s"\ntick = "1500us"', ["join.tick", "1500us", "whole milliseconds"]),
        ("[model]", '[store]\ncommit_every = "0s"\n[model]', ["store.commit_every", "0us", "longer"]),
        ('window = "2s"', 'window = "2s"\npolicy = "guess"', ["join.policy", "'guess'", "wait, settled, at_once"]),
        ('window = "2s"', 'window = "2s"\nshards = 0', ["join.shards", "0", "from 1"]),
        ('window = "2s"', 'window = "2s"\nshards = true', ["join.shards", "True"]),
        ('window = "2s"', 'window = "2s"\nnegative_rate = 0', ["join.negative_rate", "0.0"]),
        ('window = "2s"', 'window = "2s"\nwindows = 1', ["join.windows", "unknown", "window"]),
        ('action = "like"', "", ["labels[0].action", "missing"]),
        ('label = "like"', 'label = "buy"', ["model.label", "'buy'", "like"]),
        ("slot = 9", "slot = 1", ["slots[1].slot", "1", "slots[0]"]),
        ("slot = 9", "slot = 32768", ["slots[1].slot", "32768", "32767"]),
        ('cast = "string"', 'cast = "bytes"', ["slots[1].cast", "'bytes'", "string, int, double"]),
        ('features = ["user", "item"]', 'features = "user"', ["slots[1].name", "'user'", "slots[0]"]),
        ('features = ["user", "item"]', 'feature = "a"\nfeatures = ["b"]', ["slots[1].features", "either"]),
        ('transform = "log1p"', 'transform = "log"', ["numerics[0].transform", "'log'", "log1p"]),
        ("scale = 0.5", "scale = nan", ["numerics[0].scale", "nan", "finite"]),
        ('optimizer = "ftrl"', 'optimizer = "lion"', ["training.sparse.optimizer", "'lion'", "adagrad"]),
        ("l1 = 0.1", "beta1 = 0.1", ["training.sparse.beta1", "0.1", "l1"]),
        ("hidden = []", "hidden = [64, 0]", ["model.hidden", "[64, 0]"]),
        ("hidden = []", 'kind = "gpt"', ["model.kind", "'gpt'", "deepfm"]),
        ("[model]", "[modell]", ["model.name", "missing"]),
        ("[training]", "[extra]\n[training]", ["extra", "unknown key", "training"]),
        ("[join]", "[join", ["not TOML"]),
    ],
)
def test_an_error_quotes_the_key_the_value_and_what_is_allowed(old: str, new: str, quoted: list[str]) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError) as error:
        parse(SMALL.replace(old, new, 1))
    for part in quoted:
        assert part in str(error.value)


def test_a_file_names_itself_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text("[model]\nname = 1")
    with pytest.raises(ConfigError, match=r"model\.toml: model\.name = 1"):
        load(path)


def test_a_model_without_slots_is_refused() -> None:
    text = SMALL[: SMALL.index("[[slots]]")] + SMALL[SMALL.index("[model]") :]
    with pytest.raises(ConfigError, match="slots"):
        parse(text)


def test_what_is_decided_at_once_needs_its_corrections() -> None:
    text = SMALL.replace('window = "2s"', 'window = "2s"\npolicy = "at_once"')
    assert parse(text).join.policy == "at_once"
    with pytest.raises(ConfigError, match=r"training\.corrections = 'skip'.*at_once"):
        parse(text + 'corrections = "skip"\n')
