"""Command-line options of the pipelines: Beam's own, and ours beside them."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from apache_beam.options.pipeline_options import (
    DebugOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SetupOptions,
    StandardOptions,
)

from monobeam.models.config import Config, load

_IN_PROCESS = {"DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", "SwitchingDirectRunner"}


class MonobeamOptions(PipelineOptions):
    """Where the logs and the store are; what is not given is taken from the configuration file."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--config", help="TOML file of logs, labels, slots and model (see examples/own_logs)")
        parser.add_argument("--impressions", action="append", help="log of impressions, e.g. file:DIR; may be repeated")
        parser.add_argument("--actions", action="append", help="log of actions; may be repeated")
        parser.add_argument("--examples", help="log of joined examples: written by join, read by train")
        parser.add_argument("--sync", help="log of sync events, which serving processes follow")
        parser.add_argument("--dead_letters", help="log of records that could not be used, each with its reason")
        parser.add_argument("--metrics", help="log of counters and training metrics, which the live page shows")
        parser.add_argument("--store", help="parameter store, e.g. lmdb:DIR or memory:")
        parser.add_argument("--cold", help="cold store of the join, e.g. lmdb:DIR or memory:")
        parser.add_argument(
            "--since",
            type=_event_time,
            help="take over from a bounded run that ended at this time (ISO 8601 or microseconds)",
        )
        parser.add_argument(
            "--until",
            type=_event_time,
            help="bounded runs: decide impressions up to this time and leave the others pending",
        )


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


def parse(argv: Sequence[str] | None, module: str, description: str, example: str) -> tuple[PipelineOptions, Config]:
    """Parse a pipeline's command line; ``--help`` explains ours and names where Beam's are described.

    Raises:
        SystemExit: on ``--help``, an unusable option, or an unusable configuration file.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog=f"python -m monobeam.pipelines.{module}",
        description=description,
        epilog=f"Every option of Apache Beam works as well (--runner, --streaming, ...).\n\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    MonobeamOptions._add_argparse_args(parser)
    known, _ = parser.parse_known_args(arguments)
    if not known.config:
        parser.error("--config is missing: name the TOML file that describes the recommender")
    try:
        config = _with_addresses(load(Path(known.config)), known)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    options = PipelineOptions(arguments)
    options.view_as(SetupOptions).save_main_session = False
    _check_runner(options, parser.error)
    return options, config


def _with_addresses(config: Config, given: argparse.Namespace) -> Config:
    """The configuration with the addresses of the command line in place of its own."""
    logs = {key: getattr(given, key) for key in ("examples", "sync", "dead_letters", "metrics") if getattr(given, key)}
    logs |= {key: tuple(getattr(given, key)) for key in ("impressions", "actions") if getattr(given, key)}
    return replace(
        config,
        logs=replace(config.logs, **logs),
        join=replace(config.join, cold=given.cold or config.join.cold),
        store=replace(config.store, uri=given.store or config.store.uri),
    )


def _check_runner(options: PipelineOptions, fail: Callable[[str], object]) -> None:
    """Refuse what gives wrong results; find what a laptop has."""
    standard = options.view_as(StandardOptions)
    runner = (standard.runner or "DirectRunner").rsplit(".", 1)[-1]
    if standard.streaming and runner in _IN_PROCESS:
        fail(
            f"--streaming with --runner={runner}: the in-process runner fires event-time timers early, so labels would "
            "be wrong. Use --runner=PrismRunner on a laptop or --runner=FlinkRunner on a cluster, or leave out "
            "--streaming to process the logs up to their present end."
        )
    if runner in {"DirectRunner", "SwitchingDirectRunner"}:
        # DirectRunner tries Prism first and falls back without a word; say which one it is.
        standard.runner = "FnApiRunner"
    if runner == "PrismRunner":
        _prepare_prism(options)


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
