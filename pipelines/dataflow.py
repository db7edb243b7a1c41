"""What a job on Dataflow needs beside Beam's own options, and how it is handed over."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    WorkerOptions,
)

from monobeam.models.config import Config
from monobeam.pipelines.addresses import check_reach

_ONE_PROCESS = "no_use_multiple_sdk_containers"


def prepare(
    options: PipelineOptions, config: Config, command: str, used: tuple[str, ...], fail: Callable[[str], object]
) -> None:
    """Refuse what cannot work on Dataflow; set what every job of ours wants and the user has not set."""
    check_reach(config, used, fail)
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    for name in ("project", "region", "temp_location"):
        if not getattr(cloud, name):
            fail(f"--runner=DataflowRunner needs --{name}={_EXAMPLES[name]}")
    if not (options.view_as(WorkerOptions).sdk_container_image or setup.setup_file or setup.extra_packages):
        fail(
            "--runner=DataflowRunner: workers need this package: give --sdk_container_image=IMAGE made with "
            "dataflow/Dockerfile, or --setup_file=./setup.py, which every worker then compiles"
        )
    cloud.job_name = cloud.job_name or _job_name(command, config)
    # A worker keeps engines of its join shards; with several processes on it each would rebuild what another has.
    debug = options.view_as(DebugOptions)
    if not set(debug.experiments or ()) & {_ONE_PROCESS, "use_multiple_sdk_containers"}:
        debug.add_experiment(_ONE_PROCESS)


_EXAMPLES = {"project": "PROJECT", "region": "us-central1", "temp_location": "gs://BUCKET/tmp"}


def _job_name(command: str, config: Config) -> str:
    """One name for all jobs of a model and command: Dataflow then runs one at a time, and an update finds it."""
    model = re.sub(r"[^a-z0-9]+", "-", config.model.name.lower()).strip("-")
    return f"monobeam-{command}-{model}".rstrip("-")


def submitted(result: Any, options: PipelineOptions) -> dict[str, str]:
    """What is known of a job that Dataflow has taken: its id, and where it can be watched. A dry run has no id."""
    cloud = options.view_as(GoogleCloudOptions)
    found = {"job_name": str(cloud.job_name), "project": str(cloud.project), "region": str(cloud.region)}
    job_id = getattr(result, "job_id", None)
    if not callable(job_id) or not job_id():
        return found
    page = f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{job_id()}?project={cloud.project}"
    return found | {"job_id": str(job_id()), "page": page}
