"""Command-line options of the pipelines: Beam's own, and ours beside them."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DebugOptions,
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SetupOptions,
    StandardOptions,
    _BeamArgumentParser,
)

from monobeam.models.config import Config, load
from monobeam.models.config import parse as parse_config
from monobeam.models.section import ConfigError, duration_us
from monobeam.pipelines import dataflow, flink
from monobeam.pipelines.addresses import check_subscriptions, warn_of_loss
from monobeam.store.numbers import numbers

DATAFLOW = "DataflowRunner"
_IN_PROCESS = {"DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner"}
_EARLY = "the in-process runner fires event-time timers early, so labels would be wrong"
_IN_PROCESS_STREAMING = {"join": _EARLY, "online": _EARLY, "train": "there a job ends only when its logs do"}
# Their job servers know options that Beam's own parser does not.
_JOB_SERVERS = {"FlinkRunner", "PortableRunner", "SparkRunner"}


def _event_time(text: str) -> int:
    """Microseconds since the epoch, UTC."""
    if text.lstrip("-").isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither ISO 8601 (2026-01-31T12:00:00) nor microseconds since the epoch"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def _duration(text: str) -> int:
    try:
        return duration_us(text, "--slice", low="1ms")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _numbers(text: str) -> list[int]:
    try:
        return numbers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "config": {"help": "TOML file of logs, labels, slots and model (see examples/own_logs)"},
    "impressions": {
        "action": "append",
        "help": "log of impressions, e.g. file:DIR, or a Pub/Sub subscription; may be repeated",
    },
    "actions": {"action": "append", "help": "log of actions, or a Pub/Sub subscription; may be repeated"},
    "examples": {"help": "log of joined examples: written by join, read by train"},
    "partitions": {
        "type": _numbers,
        "help": "of the examples log, those that this process trains on (0-3, or 0-1,6; default: all). With parallel = "
        "true under [training] several processes can share a store in shard servers, each with partitions of its own",
    },
    "sync": {"help": "log of sync events, which serving processes follow"},
    "dead_letters": {"help": "log of records that could not be used, each with its reason"},
    "metrics": {"help": "log of counters and training metrics, which the live page shows"},
    "store": {"help": "parameter store, e.g. lmdb:DIR or memory:"},
    "cold": {"help": "cold store of the join, e.g. lmdb:DIR or memory:"},
    "since": {
        "type": _event_time,
        "help": "take over from a run with --until of this time (ISO 8601, in UTC, or microseconds)",
    },
    "until": {
        "type": _event_time,
        "help": "leave what is not decided by this time pending, for a run with --since of the same time. To be given "
        "wherever more is to come: without it a bounded run takes the logs as complete, and an impression whose window "
        "is still open at their end counts as one that nobody acted on",
    },
    "slice": {
        "type": _duration,
        "help": "go through the logs in slices of so much event time (12h, 1d), one after the other: memory is then "
        "that of a slice, and the same command goes on after the last slice that was done. Raw logs must keep to "
        "logs.disorder. Each slice reads the actions of the retention before it once more, so make it no shorter",
    },
}
_RAW = ("impressions", "actions", "dead_letters", "cold", "since")
USED = {
    "join": ("config", *_RAW, "until", "examples", "metrics"),
    "train": ("config", "examples", "partitions", "store", "sync", "metrics"),
    "online": ("config", *_RAW, "examples", "store", "sync", "metrics"),
    "backfill": ("config", *_RAW, "until", "slice", "examples", "store", "sync", "metrics"),
}
"""What each command takes beside Beam's options."""


class MonobeamOptions(PipelineOptions):
    """Where the logs and the store are; what is not given is taken from the configuration file."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        _add(parser, OPTIONS)


def _add(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    for name in names:
        parser.add_argument(f"--{name}", **OPTIONS[name])


def parse(argv: Sequence[str] | None, command: str, description: str, example: str) -> tuple[PipelineOptions, Config]:
    """Parse a pipeline's command line; ``--help`` explains ours and names where Beam's are described.

    Raises:
        SystemExit: on ``--help``, an unusable option, or an unusable configuration file.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog=f"python -m monobeam.pipelines.{command}",
        description=description,
        epilog=f"Every option of Apache Beam works as well (--runner, --streaming, ...).\n\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add(parser, USED[command])
    known, others = parser.parse_known_args(arguments)
    _check_others(others, command, parser.error)
    if not known.config:
        parser.error("--config is missing: name the TOML file that describes the recommender")
    try:
        config = _with_addresses(_load(known.config), known)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    options = PipelineOptions(arguments)
    if _runner(options.view_as(StandardOptions).runner) == "FlinkRunner":
        options = _with_flinks(options, arguments, parser.error)
        config = _placed(config)
    options.view_as(SetupOptions).save_main_session = False
    standard = options.view_as(StandardOptions)
    if not standard.streaming:
        check_subscriptions(config, USED[command], parser.error)
    _check_runner(options, command, parser.error)
    if standard.streaming and (place := _forgetful(options)):
        warn_of_loss(config, USED[command], place)
    if _runner(standard.runner) == DATAFLOW:
        dataflow.prepare(options, config, command, USED[command], parser.error)
    return options, config


def _load(place: str) -> Config:
    """The configuration in a file, which may lie where Beam finds files too (``gs://``)."""
    if "://" not in place:
        return load(Path(place))
    with FileSystems.open(place) as file:
        text = file.read().decode("utf-8-sig")
    try:
        return parse_config(text)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _with_addresses(config: Config, given: argparse.Namespace) -> Config:
    """The configuration with the addresses of the command line in place of its own."""
    found = {name: value for name, value in vars(given).items() if value}
    logs: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found.items()
        if name in ("impressions", "actions", "examples", "sync", "dead_letters", "metrics")
    }
    return replace(
        config,
        logs=replace(config.logs, **logs),
        join=replace(config.join, cold=found.get("cold", config.join.cold)),
        store=replace(config.store, uri=found.get("store", config.store.uri)),
    )


def _placed(config: Config) -> Config:
    """The configuration with directories as seen from here: workers run elsewhere."""
    logs = {name: _absolute(value) for name, value in vars(config.logs).items()}
    return replace(
        config,
        logs=replace(config.logs, **logs),
        join=replace(config.join, cold=_absolute(config.join.cold)),
        store=replace(config.store, uri=_absolute(config.store.uri)),
    )


def _absolute(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    if isinstance(value, str) and (found := re.fullmatch(r"(file|lmdb):(?!//)(.+)", value)):
        return f"{found[1]}:{Path(found[2]).absolute()}"
    if isinstance(value, str) and value.startswith("kafka:"):
        return re.sub(r"(?<=[?&])(config|schema)=([^&#]+)", _absolute_file, value)
    return value


def _absolute_file(option: re.Match[str]) -> str:
    """Of an option in an address, which is quoted as in URLs."""
    return f"{option[1]}={quote(str(Path(unquote_plus(option[2])).absolute()))}"


def _check_others(arguments: list[str], command: str, fail: Callable[[str], object]) -> None:
    """Refuse what neither the command nor Beam knows: Beam itself would pass over it with hardly a word."""
    beams = _BeamArgumentParser(allow_abbrev=False, add_help=False)
    beams.error = fail
    for theirs in {str(cls): cls for cls in PipelineOptions.__subclasses__()}.values():
        if theirs is not MonobeamOptions:
            theirs._add_argparse_args(beams)
    found, unknown = beams.parse_known_args(arguments)
    if not unknown:
        return
    name = unknown[0].partition("=")[0]
    if name.removeprefix("--") in OPTIONS:
        fail(f"{unknown[0]}: {command} has no use for this option")
    known = [f"--{option}" for option in USED[command]] + list(beams._option_string_actions)
    similar = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if similar:
        fail(f"{unknown[0]}: no such option; did you mean {similar[0]}?")
    if _runner(found.runner) not in _JOB_SERVERS:
        fail(f"{unknown[0]}: neither {command} nor Beam has this option")


def _check_runner(options: PipelineOptions, command: str, fail: Callable[[str], object]) -> None:
    """Refuse what gives wrong results; find what a laptop has."""
    standard = options.view_as(StandardOptions)
    runner = _runner(standard.runner)
    if standard.streaming and runner in _IN_PROCESS:
        fail(
            f"--streaming with --runner={runner}: {_IN_PROCESS_STREAMING[command]}. Use --runner=PrismRunner on a "
            "laptop or --runner=FlinkRunner on a cluster, or leave out --streaming to process the logs up to their "
            "present end."
        )
    if runner in {"DirectRunner", "SwitchingDirectRunner"}:
        # DirectRunner tries Prism first and falls back without a word; say which one it is.
        standard.runner = "FnApiRunner"
    if runner == "PrismRunner":
        _prepare_prism(options)


def _forgetful(options: PipelineOptions) -> str:
    """The runner, if what it keeps is in this process; '' for others."""
    runner = _runner(options.view_as(StandardOptions).runner)
    embedded = runner == "FlinkRunner" and options.view_as(FlinkRunnerOptions).flink_master in flink.EMBEDDED
    return "Flink in this process" if embedded else "Prism" if runner == "PrismRunner" else ""


def _runner(given: str | None) -> str:
    return (given or "DirectRunner").rsplit(".", 1)[-1]


def _with_flinks(options: PipelineOptions, arguments: list[str], fail: Callable[[str], object]) -> PipelineOptions:
    """The options and those that a Flink cluster needs besides; its job server reads them from the arguments."""
    master = options.view_as(FlinkRunnerOptions).flink_master
    try:
        added = flink.defaults(arguments, master, bool(options.view_as(StandardOptions).streaming))
    except flink.ClusterError as error:
        fail(str(error))
    return PipelineOptions([*arguments, *added])


def _prepare_prism(options: PipelineOptions) -> None:
    # Prism 2.77 splits a slow bundle and runs the rest beside it, also where both hold elements of one key: two bundles
    # would then change the state of one join shard at a time, and the blocks of one of them would be lost.
    options.view_as(DebugOptions).add_experiment("prism_disable_sdf_split")
    prism = options.view_as(PrismRunnerOptions)
    if "MONOBEAM_LOG" not in os.environ:
        prism.prism_log_level = "warn"
    prism.prism_location = prism.prism_location or shutil.which("prism")
    portable = options.view_as(PortableOptions)
    portable.environment_type = portable.environment_type or "LOOPBACK"
