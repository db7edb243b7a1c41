"""What --runner=FlinkRunner is given besides, and that the command line wins."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import DebugOptions, FlinkRunnerOptions, PortableOptions

from examples.flink.cluster import Cluster
from examples.flink.settings import own_ports
from monobeam.logs.kafka.address import Address
from monobeam.pipelines import flink as flink_options
from monobeam.pipelines import options

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "examples/movielens/model.toml")


def parsed(*arguments: str) -> tuple[options.PipelineOptions, options.Config]:
    return options.parse([f"--config={CONFIG}", "--runner=FlinkRunner", *arguments], "online", "", "")


def given(found: options.PipelineOptions, *names: str) -> dict[str, Any]:
    """As the job server is told."""
    pairs = [flag.removeprefix("--").partition("=") for flag in found._flags]
    return {name: value for name, _, value in pairs if name in names}


def test_a_cluster_gets_workers_bundles_and_checkpoints(flink: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", "127.0.0.1:1")
    found, _ = parsed("--streaming", f"--flink_master={flink.address}")
    assert given(found, "parallelism", "max_bundle_time_mills", "checkpointing_interval", "flink_job_server_jar") == {
        "parallelism": "2",
        "max_bundle_time_mills": "50",
        "checkpointing_interval": "10000",
        "flink_job_server_jar": str(ROOT / ".tools/flink/job-server.jar"),
    }
    assert given(found, "default_sdk_harness_log_level") == {"default_sdk_harness_log_level": "WARN"}
    assert "--operator_chaining" not in found._flags
    portable = found.view_as(PortableOptions)
    assert portable.environment_type == "PROCESS"
    worker = json.loads(portable.environment_config)
    assert os.access(worker["command"], os.X_OK)
    assert worker["env"]["MONOBEAM_PYTHON"] == sys.executable
    assert worker["env"]["BIGTABLE_EMULATOR_HOST"] == "127.0.0.1:1"
    assert "disable_logging_submission_environment" in found.view_as(DebugOptions).experiments


def test_what_is_given_stays(flink: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    at = f"--flink_master={flink.address}"
    own = ["--parallelism=1", "--max_bundle_size=7", "--checkpointing_interval=1", "--flink_version=1.20"]
    own += ["--environment_type=DOCKER", "--environment_config=image", "--experiments=mine"]
    found, _ = parsed("--streaming", at, *own)
    assert given(found, "parallelism", "max_bundle_size", "checkpointing_interval", "flink_job_server_jar") == {
        "parallelism": "1",
        "max_bundle_size": "7",
        "checkpointing_interval": "1",
    }
    assert "--operator_chaining" in found._flags
    portable = found.view_as(PortableOptions)
    assert (portable.environment_type, portable.environment_config) == ("DOCKER", "image")
    assert "mine" in found.view_as(DebugOptions).experiments
    monkeypatch.setenv("FLINK_CONF_DIR", "/etc/flink")
    found, _ = parsed("--streaming", at)
    assert not given(found, "checkpointing_interval")


def test_a_bounded_run_keeps_beams_bundles() -> None:
    found, _ = parsed("--flink_master=[local]")
    assert not given(found, "max_bundle_size", "checkpointing_interval", "parallelism", "environment_type")


def test_where_beam_downloads_its_job_server_it_is_the_one_for_the_clusters_flink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beam's default is the newest Flink that it knows."""
    monkeypatch.setattr(flink_options, "_TOOLS", tmp_path)
    master = "--flink_master=[local]"
    found, _ = parsed(master)
    assert given(found, "flink_version", "flink_job_server_jar") == {"flink_version": "1.19"}
    assert found.view_as(FlinkRunnerOptions).flink_version == "1.19"
    assert given(parsed(master, "--flink_version=1.20")[0], "flink_version") == {"flink_version": "1.20"}
    assert not given(parsed(master, "--flink_job_server_jar=mine.jar")[0], "flink_version")


@pytest.mark.parametrize("parallelism", [["--parallelism=1"], ["--parallelism=2", "--parallelism", "1"]])
def test_an_option_may_stand_apart_from_its_value(parallelism: list[str]) -> None:
    local = ["--streaming", "--flink_master=[local]"]
    assert "--operator_chaining" in parsed(*local, *parallelism)[0]._flags
    assert "--operator_chaining" not in parsed(*local, "--parallelism", "2")[0]._flags


def test_flink_in_this_process_has_its_checkpoints_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory they are of 5 MB at most, and the job would fail beyond, again and again."""
    embedded = ["--flink_master=[local]", "--streaming"]
    kept = given(parsed(*embedded)[0], "state_backend", "state_backend_storage_path", "checkpointing_interval")
    assert (kept["state_backend"], kept["checkpointing_interval"]) == ("filesystem", "10000")
    assert kept["state_backend_storage_path"].startswith("file:///")
    assert not given(parsed(*embedded, "--state_backend=rocksdb")[0], "state_backend_storage_path")
    assert not given(parsed("--flink_master=[local]")[0], "state_backend")
    monkeypatch.setenv("FLINK_CONF_DIR", "/etc/flink")
    assert not given(parsed(*embedded)[0], "state_backend")


def test_directories_are_the_ones_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, config = parsed("--impressions=file:a", "--impressions=file:/b", "--store=lmdb:store", "--cold=memory:")
    assert config.logs.impressions == (f"file:{tmp_path}/a", "file:/b")
    assert config.logs.sync == f"file:{tmp_path}/sync"
    assert (config.store.uri, config.join.cold) == (f"lmdb:{tmp_path}/store", "memory:")


def test_so_are_the_files_of_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    topic = "kafka://127.0.0.1:9092/shown"
    _, config = parsed(f"--impressions={topic}?config=k&client.id=c&schema=s+1&schema=/t", f"--actions={topic}")
    here = Address.parse(config.logs.impressions[0])
    assert (here.config, here.schemas) == (f"{tmp_path}/a b/k", (f"{tmp_path}/a b/s 1", "/t"))
    assert (here.options, config.logs.actions) == ((("client.id", "c"),), (topic,))


def test_a_cluster_that_does_not_answer_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{own_ports()['rest.port']}"
    with pytest.raises(SystemExit, match="2"):
        parsed(f"--flink_master={address}")
    assert f"--flink_master={address}: no Flink JobManager answers there" in capsys.readouterr().err
