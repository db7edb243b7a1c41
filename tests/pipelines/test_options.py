"""Command lines of the pipelines: what they explain and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monobeam.pipelines import backfill, join, online, options, train
from tests.pipelines import graphs

CONFIG = str(Path(__file__).parents[2] / "examples/movielens/model.toml")


def parsed(*arguments: str) -> tuple[options.PipelineOptions, options.Config]:
    return options.parse([f"--config={CONFIG}", *arguments], "join", "", "")


@pytest.mark.parametrize("pipeline", [join, train, online, backfill])
def test_help_explains_itself(pipeline: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        pipeline.main(["--help"])  # type: ignore[attr-defined]
    said = capsys.readouterr().out
    for word in ("--config", "--examples", "--metrics", "example:", "python -m monobeam.pipelines."):
        assert word in said


@pytest.mark.parametrize(
    ("command", "takes", "lacks"),
    [
        ("join", ["--cold", "--since", "--until"], ["--store", "--sync"]),
        (
            "train",
            ["--store", "--sync"],
            ["--impressions", "--actions", "--cold", "--dead_letters", "--since", "--until"],
        ),
        ("online", ["--store", "--cold", "--since"], ["--until"]),
        ("backfill", ["--store", "--cold", "--since", "--until"], []),
    ],
)
def test_a_command_has_the_options_that_it_uses(
    command: str, takes: list[str], lacks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        options.parse(["--help"], command, "", "")
    said = capsys.readouterr().out
    explained = {option for option in [*takes, *lacks] if f"{option} {option[2:].upper()}" in said}
    assert explained == set(takes)
    for option in lacks:
        with pytest.raises(SystemExit, match="2"):
            options.parse([f"--config={CONFIG}", f"{option}=1"], command, "", "")
        assert f"{option}=1: {command} has no use for this option" in capsys.readouterr().err


def test_until_says_when_it_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        options.parse(["--help"], "backfill", "", "")
    said = " ".join(capsys.readouterr().out.split())
    assert "without it a bounded run takes the logs as complete" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--streaming"], "fires event-time timers early.*PrismRunner"),
        (["--streaming", "--runner=DirectRunner"], "DirectRunner: .*labels would be wrong"),
        (["--since=yesterday"], "'yesterday' is neither ISO 8601"),
        (["--config=nowhere.toml"], "nowhere.toml"),
        (["--untill=2026-01-31"], r"--untill=2026-01-31: no such option; did you mean --until\?"),
        (["--colt", "memory:"], r"--colt: no such option; did you mean --cold\?"),
        (["--runer=PrismRunner"], r"did you mean --runner\?"),
        (["--unt=5"], "--unt=5: no such option"),
        (["--frobnicate", "3"], "--frobnicate: neither join nor Beam has this option"),
        (["memory:"], "memory:: neither join nor Beam has this option"),
        (["--max_num_workers=many"], "max_num_workers.*'many'"),
    ],
)
def test_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed(*arguments)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said


def test_a_configuration_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options.parse(["--runner=PrismRunner"], "join", "", "")
    assert "--config is missing" in capsys.readouterr().err


def test_the_command_line_wins_over_the_file() -> None:
    given = ["--impressions=file:a", "--impressions=file:b", "--store=memory:", "--cold=memory:"]
    _, config = options.parse([f"--config={CONFIG}", *given], "backfill", "", "")
    assert config.logs.impressions == ("file:a", "file:b")
    assert config.logs.actions == ("file:actions",)
    assert (config.store.uri, config.join.cold) == ("memory:", "memory:")


def test_times_are_iso_or_microseconds() -> None:
    given, _ = parsed("--since=2026-01-31T12:00:00", "--until=1700000000000001")
    ours = given.view_as(options.MonobeamOptions)
    assert ours.since == 1_769_860_800_000_000
    assert ours.until == 1_700_000_000_000_001


def test_prism_never_splits_a_bundle() -> None:
    given, _ = parsed("--runner=PrismRunner", "--streaming")
    assert "prism_disable_sdf_split" in given.view_as(options.DebugOptions).experiments


def test_online_and_backfill_say_what_they_are_for() -> None:
    with pytest.raises(SystemExit, match="add --streaming"):
        online.main([f"--config={CONFIG}"])
    with pytest.raises(SystemExit, match="leave out --streaming"):
        backfill.main([f"--config={CONFIG}", "--streaming", "--runner=PrismRunner"])


def test_options_of_a_job_server_are_left_to_it_but_for_typing_errors(capsys: pytest.CaptureFixture[str]) -> None:
    parsed("--runner=FlinkRunner", "--state_backend=rocksdb")
    with pytest.raises(SystemExit, match="2"):
        parsed("--runner=FlinkRunner", "--untill=5")
    assert "did you mean --until?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        parsed("--state_backend=rocksdb")


def test_options_of_beam_pass() -> None:
    given, _ = parsed("--direct_num_workers", "2", "--experiments=a", "--experiments=b", "--save_main_session")
    assert given.view_as(options.DebugOptions).experiments == ["a", "b"]


@pytest.mark.parametrize("runner", [["--runner=PrismRunner"], ["--runner=FlinkRunner", "--flink_master=[local]"]])
def test_a_runner_that_forgets_says_so_of_subscriptions(
    runner: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed(*runner, "--streaming", "--impressions=file:shown", "--actions=file:done")
    assert "warning" not in capsys.readouterr().err
    parsed(*runner, "--streaming", *graphs.subscriptions(tmp_path))
    said = capsys.readouterr().err
    assert "keeps nothing when it ends" in said
    assert "put pubsub://proj-ect/impressions, pubsub://proj-ect/actions back" in said
