"""Command lines of the pipelines: what they explain and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from monobeam.pipelines import backfill, join, online, options, train

CONFIG = str(Path(__file__).parents[2] / "examples/movielens/model.toml")


def parsed(*arguments: str) -> tuple[options.PipelineOptions, options.Config]:
    return options.parse([f"--config={CONFIG}", *arguments], "join", "", "")


@pytest.mark.parametrize("pipeline", [join, train, online, backfill])
def test_help_explains_itself(pipeline: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        pipeline.main(["--help"])  # type: ignore[attr-defined]
    said = capsys.readouterr().out
    for word in ("--config", "--impressions", "--store", "--since", "example:", "python -m monobeam.pipelines."):
        assert word in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--streaming"], "fires event-time timers early.*PrismRunner"),
        (["--streaming", "--runner=DirectRunner"], "DirectRunner: .*labels would be wrong"),
        (["--since=yesterday"], "'yesterday' is neither ISO 8601"),
        (["--config=nowhere.toml"], "nowhere.toml"),
    ],
)
def test_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed(*arguments)
    said = " ".join(capsys.readouterr().err.split())
    import re

    assert re.search(message, said), said


def test_a_configuration_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options.parse(["--runner=PrismRunner"], "join", "", "")
    assert "--config is missing" in capsys.readouterr().err


def test_the_command_line_wins_over_the_file() -> None:
    _, config = parsed("--impressions=file:a", "--impressions=file:b", "--store=memory:", "--cold=memory:")
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
