"""What --runner=FlinkRunner is given besides: nothing that the command line says is changed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.portability.flink_runner import FlinkRunner

from monobeam.logs import diagnostics

_ROOT = Path(__file__).parents[1]
BOOT = _ROOT / "flink-conf/boot"
_TOOLS = _ROOT / ".tools"

VERSION = "1.19"  # of the clusters that this is for; Beam's own default is the newest that it knows
EMBEDDED = ("[local]", "[auto]")
# What a worker must know, too, of the environment in which the job was submitted.
_HANDED_ON = ("BIGTABLE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST")
_OPENED = ("java.base/java.lang", "java.base/java.nio", "java.base/java.util")
# With checkpoints on, bundles end by time alone, unless they are full. Elements are blocks of thousands of records.
_BUNDLES = {"max_bundle_time_mills": "50", "max_bundle_size": "100"}
_CHECKPOINTS = {"checkpointing_interval": "10000"}


class _Runner(FlinkRunner):
    """Has one job server for all jobs of this process: each is a Java process that goes on as long as ours."""

    def __init__(self) -> None:
        super().__init__()
        self._server: Any = None

    def default_job_server(self, options: PipelineOptions) -> Any:
        self._server = self._server or super().default_job_server(options)
        return self._server


@cache
def runner() -> FlinkRunner:
    """What runs the jobs of this process on Flink, one after the other."""
    return _Runner()


class ClusterError(ValueError):
    """There is no cluster where the command line says that there is one."""


def defaults(arguments: Sequence[str], master: str, streaming: bool) -> list[str]:
    """Options to be added to the arguments of a pipeline that runs on Flink at ``master``.

    Raises:
        ClusterError: if no JobManager answers there.
    """
    given = {argument.partition("=")[0].removeprefix("--") for argument in arguments if argument.startswith("--")}
    wanted = dict(_wanted(master, streaming, given))
    added = [f"--{name}={value}" for name, value in wanted.items() if name not in given]
    if streaming and (_value(arguments, "parallelism") or wanted.get("parallelism", "1")) == "1":
        # The flag turns chaining off. Flink knows a source by what is chained to it, which with any other parallelism
        # is nothing: a savepoint could not be taken up with another.
        added += [] if "operator_chaining" in given else ["--operator_chaining"]
    if "job_server_jvm_properties" not in given:
        added += [f"--job_server_jvm_properties=--add-opens={name}=ALL-UNNAMED" for name in _OPENED]
    # Nothing is staged then, which a worker that is started days later would have to fetch.
    return [*added, "--experiments=disable_logging_submission_environment"]


def _value(arguments: Sequence[str], name: str) -> str:
    """Of the last option of that name, '' for none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", dest="value", default="")
    return str(parser.parse_known_args(arguments)[0].value)


def _wanted(master: str, streaming: bool, given: set[str]) -> Iterator[tuple[str, str]]:
    if not given & {"flink_job_server_jar", "flink_version"}:
        jar = _TOOLS / "flink/job-server.jar"
        yield ("flink_job_server_jar", str(jar)) if jar.exists() else ("flink_version", VERSION)
    configured = "flink_conf_dir" in given or "FLINK_CONF_DIR" in os.environ
    if streaming:
        yield from (_BUNDLES if configured else _BUNDLES | _CHECKPOINTS).items()
    if master in EMBEDDED:
        if streaming and not configured and "state_backend" not in given:
            # By default checkpoints are in memory, and one of more than 5 MB fails the job, again and again.
            yield "state_backend", "filesystem"
            yield "state_backend_storage_path", f"file://{tempfile.gettempdir()}/monobeam-flink-{os.getuid()}"
        return
    # Java and Python read it; this is the one word for it that both know.
    yield "default_sdk_harness_log_level", diagnostics.level().replace("WARNING", "WARN")
    yield "job_name", f"monobeam-{uuid.uuid4().hex[:8]}"
    yield "parallelism", str(max(1, _ask(master, "/overview")["taskmanagers"]))
    if BOOT.exists() and not given & {"environment_type", "environment_config"}:
        yield "environment_type", "PROCESS"
        yield "environment_config", json.dumps({"command": str(BOOT), "env": _environment()})


def _environment() -> dict[str, str]:
    found = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    if (boot := _TOOLS / "bin/boot").exists():
        found["BEAM_BOOT"] = str(boot)
    return {"MONOBEAM_PYTHON": sys.executable, **found}


def is_runner(options: PipelineOptions) -> bool:
    """Whether a job is to run on Flink."""
    return str(options.view_as(StandardOptions).runner).rsplit(".", 1)[-1] == "FlinkRunner"


def cancel(options: PipelineOptions) -> None:
    """End the job on its cluster, which it would outlive: Beam's job server only ceases to wait for it.

    Raises:
        ClusterError: if the JobManager does not answer; it says what is left to do.
    """
    master = options.view_as(FlinkRunnerOptions).flink_master
    if not is_runner(options) or master in EMBEDDED:
        return
    name = options.view_as(GoogleCloudOptions).job_name
    try:
        mine = [job for job in _ask(master, "/jobs/overview")["jobs"] if job["name"] == name and job["end-time"] < 0]
        for job in sorted(mine, key=lambda job: job["start-time"])[-1:]:
            _ask(master, f"/jobs/{job['jid']}?mode=cancel", "PATCH")
    except (ClusterError, KeyError):  # one that has just begun answers, but not with jobs
        raise ClusterError(f"{name} goes on on the cluster: cancel it at {_url(master)}") from None


def _url(master: str) -> str:
    return master if "://" in master else f"http://{master}"


def _ask(master: str, path: str, method: str = "GET") -> Mapping[str, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(_url(master) + path, method=method), timeout=10) as answer:
            found: Mapping[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError) as error:
        raise ClusterError(f"--flink_master={master}: no Flink JobManager answers there: {error}") from None
