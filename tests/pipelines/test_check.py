"""A typing error in a configuration is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest

from monobeam.logs import schemas
from monobeam.logs.log import open_log
from monobeam.models.config import Config, parse
from monobeam.models.trainer import Trainer
from monobeam.pipelines import backfill, join
from monobeam.pipelines.check import check_examples, check_features, check_store, warn_without_positives
from monobeam.store.store import open_store
from tests.models import streams

FEATURES: Mapping[str, Any] = {
    "cook": "string",
    "dish": ["null", "string"],
    "tags": {"type": "array", "items": "string"},
    "price": "double",
    "extra": {"type": "map", "values": "string"},
}
CONFIG = """
[logs]
impressions = {impressions}
actions = "file:acted"
[join]
window = "2s"
[[labels]]
name = "like"
action = "like"
[[slots]]
feature = "cook"
[[slots]]
features = ["cook", "{second}"]
[[numerics]]
feature = "{numeric}"
[model]
name = "kitchen"
label = "like"
"""
SHOWN = {"impression_id": "a", "time": 1, "cook": "x", "dish": None, "tags": [], "price": 1.0, "extra": {}}
ACTED = {"impression_id": "a", "time": 2, "type": "like", "value": None, "ingest_time": None}


def config(second: str = "dish", numeric: str = "price", impressions: Sequence[str] = ("file:shown",)) -> Config:
    return parse(CONFIG.format(second=second, numeric=numeric, impressions=list(impressions)))


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    append("file:shown", schemas.impressions(FEATURES), SHOWN)
    append("file:acted", schemas.ACTIONS, ACTED)


def append(uri: str, schema: Mapping[str, Any], record: Mapping[str, Any], partition: int = 0) -> None:
    with open_log(uri).appender(partition, schema) as appender:
        appender.append([record])


def refusal(config: Config, tailed: bool = False) -> str:
    with pytest.raises(SystemExit) as refused:
        check_features(config, tailed)
    return str(refused.value)


def test_what_the_logs_have_is_fine() -> None:
    check_features(config())
    check_features(config(), tailed=True)


@pytest.mark.parametrize("tailed", [False, True])
def test_a_feature_that_no_log_has_is_named_with_those_there_are(tailed: bool) -> None:
    said = refusal(config(second="dihs"), tailed)
    assert said == 'slots[1].features = "dihs": not in file:shown; it has cook, dish, price, tags'
    assert 'numerics[0].feature = "prize": not in file:shown' in refusal(config(numeric="prize"), tailed)


def test_a_list_is_no_number() -> None:
    said = refusal(config(numeric="tags"))
    assert said == 'numerics[0].feature = "tags": in file:shown it is a list of string, not one number'


def test_a_type_that_no_feature_can_have_is_named() -> None:
    assert 'slots[1].features = "extra": in file:shown it is {"type": "map"' in refusal(config(second="extra"))


def test_the_newest_schema_of_every_partition_counts() -> None:
    append("file:shown", schemas.impressions({"cook": "string"}), SHOWN)
    assert 'slots[1].features = "dish": not in file:shown; it has cook' in refusal(config())
    append("file:shown", schemas.impressions(FEATURES), SHOWN, partition=1)
    check_features(config())


def test_one_of_several_logs_is_enough() -> None:
    append("file:served", schemas.impressions({"cook": "string"}), SHOWN)
    check_features(config(impressions=("file:served", "file:shown")))
    said = refusal(config(second="dihs", impressions=("file:served", "file:shown")))
    assert "not in file:served, file:shown; it has cook, dish" in said


def test_a_log_that_is_not_there_may_come_only_where_it_is_tailed() -> None:
    absent = config(impressions=("file:shown", "file:shwn"))
    assert refusal(absent).startswith('logs.impressions = "file:shwn": there is no such log')
    check_features(absent, tailed=True)
    check_features(config(second="anything", impressions=("file:none",)), tailed=True)


def test_records_that_the_join_would_all_reject_are_refused(tmp_path: Path) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": n, "type": "long"} for n in ("impression_id", "time")]}
    (tmp_path / "plain").mkdir()
    with (tmp_path / "plain" / "a.avro").open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(schema), [{"impression_id": 1, "time": 1}])
    said = refusal(config(impressions=("file:plain",)))
    assert said.startswith("logs.impressions = \"file:plain\": field 'time' is a plain long: must be timestamp-millis")


def test_an_enum_of_action_types_has_to_have_the_labels_action() -> None:
    kinds = {"type": "enum", "name": "Kind", "symbols": ["click", "buy"]}
    fields = [{**field, "type": kinds} if field["name"] == "type" else field for field in schemas.ACTIONS["fields"]]
    append("file:acted", {**schemas.ACTIONS, "fields": fields}, {**ACTED, "type": "buy"})
    assert refusal(config()) == 'labels[0].action = "like": not in file:acted; it has buy, click'


def test_a_bounded_training_needs_examples() -> None:
    with pytest.raises(SystemExit, match=r'logs\.examples = "file:examples": there is no such log'):
        check_examples(config())
    check_examples(config(), tailed=True)


def test_a_label_without_positives_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    warn_without_positives(config(), {"ids": 10, "positives": 1})
    warn_without_positives(config(), {"ids": 0})  # nothing was trained
    assert capsys.readouterr().err == ""
    warn_without_positives(config(), {"ids": 10})
    said = capsys.readouterr().err
    assert 'no example has the label "like": no action of the type "like" came within the window' in said
    assert '["file:acted"]' in said


@pytest.mark.parametrize("pipeline", [join, backfill])
def test_the_pipelines_refuse(pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text(CONFIG.format(second="dihs", numeric="price", impressions='["file:shown"]'))
    with pytest.raises(SystemExit, match="dihs"):
        pipeline.main(["--config=model.toml"])


def test_a_store_of_another_model_is_refused_before_a_job_is_submitted(tmp_path: Path) -> None:
    """A cluster would start the trainer again and again."""
    model = "dim = 2\nhidden = [4]"
    uri = f"lmdb:{tmp_path}/store"
    trained = stored(streams.config(["user"], model), uri)
    check_store(trained)
    store = open_store(trained.store_spec(), uri)
    trainer = Trainer(trained, store)
    trainer.train(streams.block([1, 0], {"user": ["a", "b"]}, 1), 0, 0)
    trainer.commit(1, final=True)
    store.close()
    check_store(trained)
    check_store(stored(streams.config(["user"], model, "corrections = 'skip'"), uri))
    with pytest.raises(SystemExit, match=r"tables\.embeddings\.dim is 3 there and 4 here"):
        check_store(stored(streams.config(["user"], "dim = 3\nhidden = [4]"), uri))
    with pytest.raises(SystemExit, match=r"the store holds shape .*, the model needs shape"):
        check_store(stored(streams.config(["user"], "dim = 2\nhidden = [5]"), uri))
    check_store(stored(streams.config(["user", "item"], model), uri))


def stored(config: Config, uri: str) -> Config:
    return replace(config, store=replace(config.store, uri=uri))
