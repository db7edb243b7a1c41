from __future__ import annotations

from pathlib import Path

import pytest

from monobeam.join.cold import open_cold
from monobeam.join.settings import Label
from monobeam.logs.log import open_log
from monobeam.models import addresses
from monobeam.models.config import ConfigError, NumericConfig, SlotConfig, load, parse
from monobeam.models.schedules import CONSTANT
from monobeam.store.backend import open_backend
from monobeam.store.spec import SlotPolicy

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
    hyper = {"beta": 1.0, "l1": 0.1, "l2": 0.0, "initial_accumulator": 0.1}
    assert config.training.sparse.hyper == {"clip_value": 0.0, "clip_norm": 0.0, "weight_decay": 0.0, **hyper}
    assert config.training.sparse.schedule == CONSTANT
    assert config.training.dense.optimizer == "adam"
    assert config.store.uri == "lmdb:store"


def test_the_example_is_a_sound_configuration() -> None:
    config = load(EXAMPLE)
    assert config.join.tick_us == 50_000
    assert [slot.slot for slot in config.slots] == list(range(1, len(config.slots) + 1))
    assert config == load(EXAMPLE)


def test_the_store_has_a_table_with_a_row_of_weight_and_factors_and_one_of_sightings() -> None:
    spec = parse(SMALL).store_spec()
    table, sightings = spec.tables
    assert (spec.model, table.dim, table.optimizer, table.hyper["l1"]) == ("shop", 11, "ftrl", 0.1)
    assert table.policies[9] == sightings.policies[9] == SlotPolicy(expire_us=7 * 86_400_000_000)
    assert (sightings.dim, sightings.synced) == (0, False)


def test_the_join_gets_its_settings() -> None:
    config = load(EXAMPLE)
    settings = config.join_settings(0, since_us=5, until_us=7)
    assert settings.shards == config.join.shards
    assert settings.window_us == config.join.window_us
    assert settings.negative_rate == config.join.negative_rate
    assert [label.name for label in settings.labels] == ["like"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('window = "2s"', 'window = "2 s"', ["join.window", '"2 s"', "250ms"]),
        ('window = "2s"', "window = 2", ["join.window = 2:", "not a duration"]),
        ('window = "2s"', "", ["join.window", "missing"]),
        ('window = "2s"', 'windw = "2s"', ["join.window: missing; there is windw"]),
        ('window = "2s"', 'window = "0s"', ['join.window = "0s": must be from "1us" to "36500d"']),
        ('window = "2s"', 'window = "36501d"', ['join.window = "36501d": must be from']),
        ('window = "2s"', f'window = "{"9" * 400}d"', ["join.window", "not a duration"]),
        ('window = "2s"', 'window = "2s"\nretention = "1s"', ['join.retention = "1s"', 'the window, "2s"']),
        ('window = "2s"', 'window = "2s"\ntick = "1500us"', ['join.tick = "1500us"', "whole milliseconds"]),
        ('window = "2s"', 'window = "2s"\ntick = "0s"', ['join.tick = "0s"', '"1ms"']),
        ("[model]", '[store]\ncommit_every = "0s"\n[model]', ['store.commit_every = "0s": must be from "1ms"']),
        ("[model]", '[logs]\npoll_every = "0s"\n[model]', ['logs.poll_every = "0s"']),
        ("[training]", '[training]\nexample_retention = "1ms"', ['training.example_retention = "1ms"', '"1s"']),
        ('window = "2s"', 'window = "2s"\npolicy = "guess"', ['join.policy = "guess"', "wait, settled, at_once"]),
        ('window = "2s"', 'window = "2s"\nshards = 0', ["join.shards = 0:", "from 1"]),
        ('window = "2s"', 'window = "2s"\nshards = true', ["join.shards = true:"]),
        ('window = "2s"', 'window = "2s"\nnegative_rate = 0', ["join.negative_rate = 0:"]),
        ('window = "2s"', 'window = "2s"\nnegative_rate = 2', ["join.negative_rate = 2: must lie in [0, 1]"]),
        ('window = "2s"', 'window = "2s"\nwindows = 1', ["join.windows = 1: unknown", "retention", "window"]),
        ('action = "like"', "", ["labels[0].action", "missing"]),
        (
            'action = "like"',
            'action = "like"\nmin_valu = 1',
            ["labels[0].min_valu", "allowed: action, min_value, name"],
        ),
        ('label = "like"', 'label = "buy"', ['model.label = "buy"', '["like"]']),
        ("slot = 9", "slot = 1", ["slots[1].slot = 1:", "slots[0]"]),
        ("slot = 9", "slot = 32768", ["slots[1].slot", "32768", "32767"]),
        ('cast = "string"', 'cast = "bytes"', ['slots[1].cast = "bytes"', "string, int, double"]),
        ('expire = "7d"', 'expire = "10ms"', ['slots[1].expire = "10ms"', '"1s"']),
        ('features = ["user", "item"]', 'features = "user"', ['slots[1].name = "user"', "slots[0]"]),
        ('features = ["user", "item"]', 'feature = "a"\nfeatures = ["b"]', ["slots[1].features", "either"]),
        ('features = ["user", "item"]', 'features = ["a", "a"]', ['slots[1].features = ["a", "a"]', "differ"]),
        ('features = ["user", "item"]', 'features = ["a", "time"]', ['slots[1].features = "time"', "reserved"]),
        ('feature = "user"', 'feature = "impression_id"', ['slots[0].feature = "impression_id"', "reserved"]),
        ('feature = "price"', 'feature = "_time"', ['numerics[0].feature = "_time"', "reserved"]),
        ('feature = "user"', 'feature = "us\\ner"', ['slots[0].feature = "us\\ner"', "newlines"]),
        ('name = "shop"', 'name = "sh\\nop"', ['model.name = "sh\\nop"', "newlines"]),
        ('transform = "log1p"', 'transform = "log"', ['numerics[0].transform = "log"', "log1p"]),
        ("scale = 0.5", "scale = nan", ["numerics[0].scale = nan", "finite"]),
        ('optimizer = "ftrl"', 'optimizer = "lion"', ['training.sparse.optimizer = "lion"', "adagrad"]),
        (
            'optimizer = "ftrl"',
            'optimizer = "ftrl", learning_rate = 0',
            ["training.sparse.learning_rate = 0:", "above 0"],
        ),
        ('"ftrl", l1 = 0.1', '"adam", beta1 = 1.0', ["training.sparse.beta1 = 1.0:", "[0, 1)"]),
        ('"ftrl", l1 = 0.1', '"adagrad", initial_accumulator = 0', ["training.sparse.epsilon = 0.0:", "divide by 0"]),
        ("l1 = 0.1", "beta1 = 0.1", ["training.sparse.beta1 = 0.1:", "l1"]),
        ("l1 = 0.1", "clip_norm = -1", ["training.sparse.clip_norm = -1:", "at least 0"]),
        ("l1 = 0.1", "beta = 0, initial_accumulator = 0", ["training.sparse.beta = 0: ftrl would divide by 0:", "l2"]),
        ('"ftrl", l1 = 0.1', '"momentum", nesterov = 1', ["training.sparse.nesterov = 1:", "true or false"]),
        ("l1 = 0.1", 'schedule = "cosine"', ['training.sparse.schedule = "cosine": must be a table']),
        ("l1 = 0.1", 'schedule = { kind = "step" }', ['sparse.schedule.kind = "step":', "constant, polynomial"]),
        ("l1 = 0.1", 'schedule = { kind = "cosine" }', ["sparse.schedule.examples: missing; there is kind"]),
        ("l1 = 0.1", "schedule = { warmup = 0.1 }", ["sparse.schedule.warmup = 0.1:", "whole number"]),
        ("l1 = 0.1", "schedule = { examples = 5 }", ["schedule.examples = 5: unknown key; allowed: kind, warmup"]),
        (
            "l1 = 0.1",
            'schedule = { kind = "cosine", examples = 9 }',
            ['sparse.schedule = { kind = "cosine", examples = 9 }: ftrl divides', "end_rate must be above 0"],
        ),
        (
            "l1 = 0.1",
            'schedule = { kind = "cosine", examples = 9, end_rate = 0.1 }',
            ["sparse.schedule.end_rate = 0.1: must not be above the learning_rate, 0.05"],
        ),
        (
            "l1 = 0.1",
            'schedule = { kind = "polynomial", examples = 9, power = 0 }',
            ["sparse.schedule.power = 0: must be above 0"],
        ),
        (
            "l1 = 0.1",
            'schedule = { kind = "exponential", examples = 9, factor = 1 }',
            ["sparse.schedule.factor = 1: must lie between 0 and 1"],
        ),
        ("l1 = 0.1", 'rows = "int8"', ['training.sparse.rows = "int8": must be one of fp32, fp16, bf16']),
        (
            "[model]",
            '[serving]\nrows = "fp8"\n[model]',
            ['serving.rows = "fp8": must be one of fp32,', "int8"],
        ),
        ("[model]", "[serving]\nmemory_limit = 5\n[model]", ["serving.memory_limit = 5: not a size", "GiB", '"8GiB"']),
        ("[model]", '[store]\nmemory_limit = "8 GB"\n[model]', ['store.memory_limit = "8 GB": not a size']),
        ("[model]", '[store]\nmemory_limit = "8Gb"\n[model]', ['store.memory_limit = "8Gb": not a size', "B, KB, KiB"]),
        ("[model]", '[store]\nmemory_limit = "0B"\n[model]', ['store.memory_limit = "0B": must be from "1B" to']),
        (
            "[model]",
            '[store]\nmemory_limit = "9999999TiB"\n[model]',
            ['must be from "1B" to "1048576TiB"'],
        ),
        ("[training]", '[training]\ncorrections = "no"', ['training.corrections = "no"', "train, skip"]),
        ("hidden = []", "hidden = [64, 0]", ["model.hidden = [64, 0]:"]),
        ("hidden = []", "hidden = [1000000]", ["model.hidden = [1000000]:", "65536"]),
        ("hidden = []", 'kind = "gpt"', ['model.kind = "gpt"', "deepfm"]),
        ("[model]", "[modell]", ["modell", "unknown key; allowed: join, labels", "model,"]),
        ("[training]", "[extra]\n[training]", ["extra", "unknown key", "training"]),
        ("[join]", "[[join]]", ["join = ", "must be a table of keys: [join]"]),
        ("[join]", "[join", ["not TOML"]),
    ],
)
def test_an_error_quotes_the_key_the_value_and_what_is_allowed(old: str, new: str, said: list[str]) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError) as error:
        parse(SMALL.replace(old, new, 1))
    for part in said:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_are_numbers_with_a_unit() -> None:
    for text, size in (("8GiB", 8 << 30), ("500MB", 500_000_000), ("1.5KiB", 1536), ("7B", 7), ("2TB", 2 * 10**12)):
        parsed = parse(f'[store]\nmemory_limit = "{text}"\n[serving]\nmemory_limit = "{text}"\n{SMALL}')
        assert parsed.store.memory_limit == parsed.store_spec().memory_limit == parsed.serving.memory_limit == size
    assert (parse(SMALL).store.memory_limit, parse(SMALL).serving.memory_limit) == (0, 0)


def test_serving_keeps_rows_as_they_come_unless_told_otherwise() -> None:
    assert parse(SMALL).serving.rows == "fp32"
    for dtype in ("fp32", "fp16", "bf16"):
        text = f'[store]\nsync_dtype = "{dtype}"\n{SMALL}'
        assert parse(text).serving.rows == dtype
        assert parse(f'[serving]\nrows = "int8"\n{text}').serving.rows == "int8"


def test_rows_that_learn_have_a_format() -> None:
    assert parse(SMALL.replace("l1 = 0.1", 'rows = "bf16"')).store_spec().tables[0].row_format == "bf16"
    assert parse(SMALL).store_spec().tables[0].row_format == "fp32"


@pytest.mark.parametrize("address", ["shwn", "s3://bucket/shown", "file:", "file://", "/data/shown", "File:shown"])
@pytest.mark.parametrize("key", ["impressions", "actions", "examples", "sync", "dead_letters", "metrics"])
def test_a_log_has_an_address_of_a_known_kind(key: str, address: str) -> None:
    with pytest.raises(ConfigError, match=rf'logs\.{key} = "{address}": must be file:DIRECTORY'):
        parse(f'[logs]\n{key} = "{address}"\n{SMALL}')


def test_stores_have_addresses_of_known_kinds() -> None:
    for uri in ("lmdb:a", "lmdb:/a/b", "memory:", "memory:a"):
        assert parse(f'[store]\nuri = "{uri}"\n{SMALL}').store.uri == uri
    for uri in ("lmdb:", "store", "redis:x", "file:store"):
        with pytest.raises(ConfigError, match=rf'store\.uri = "{uri}": must be lmdb:DIRECTORY, memory:'):
            parse(f'[store]\nuri = "{uri}"\n{SMALL}')
        with pytest.raises(ConfigError, match=rf'join\.cold = "{uri}": must be lmdb:DIRECTORY or memory:'):
            parse(SMALL.replace("[join]", f'[join]\ncold = "{uri}"'))


def test_addresses_are_those_that_can_be_opened(tmp_path: Path) -> None:
    for kind, open_, address in (
        (addresses.LOG, open_log, f"file:{tmp_path}/log"),
        (addresses.LOG, open_log, f"file://{tmp_path}/log"),
        (addresses.STORE, open_backend, f"lmdb:{tmp_path}/store"),
        (addresses.STORE, open_backend, "memory:"),
        (addresses.STORE, open_backend, "memory:name"),
        (addresses.COLD, open_cold, f"lmdb:{tmp_path}/cold"),
        (addresses.COLD, open_cold, "memory:"),
    ):
        addresses.check(kind, "key", address)
        open_(address)  # type: ignore[operator]


def test_the_retention_covers_the_window_by_itself() -> None:
    day = 86_400_000_000
    assert parse(SMALL).join.retention_us == day
    assert parse(SMALL.replace('window = "2s"', 'window = "2d"')).join.retention_us == 2 * day


def test_a_file_names_itself_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text("[model]\nname = 1")
    with pytest.raises(ConfigError, match=r"model\.toml: model\.name = 1"):
        load(path)
    path.write_bytes("[model]\nname = 'caf\xe9'".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"model\.toml: not UTF-8 text: byte 19 is 0xe9"):
        load(path)
    path.write_text(SMALL, encoding="utf-8-sig")  # as some editors write it
    assert load(path) == parse(SMALL)


def test_a_model_without_slots_is_refused() -> None:
    text = SMALL[: SMALL.index("[[slots]]")] + SMALL[SMALL.index("[model]") :]
    with pytest.raises(ConfigError, match="slots"):
        parse(text)


def test_what_is_decided_at_once_needs_its_corrections() -> None:
    text = SMALL.replace('window = "2s"', 'window = "2s"\npolicy = "at_once"')
    assert parse(text).join.policy == "at_once"
    with pytest.raises(ConfigError, match=r"training\.corrections = .skip.*at_once"):
        parse(text + 'corrections = "skip"\n')
