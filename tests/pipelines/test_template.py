"""The flex template describes every option of its pipeline, and its launcher starts what was asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monobeam.pipelines import options, template
from tests.pipelines import graphs

ROOT = Path(__file__).parents[2]


def printed(pipeline: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    template.main([pipeline])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("pipeline", graphs.COMMANDS)
def test_every_option_is_described(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(pipeline, capsys)
    parameters = {each["name"]: each for each in found["parameters"]}
    assert set(parameters) == {*options.USED[pipeline], *(["streaming"] if pipeline in ("join", "train") else [])}
    assert [name for name, each in parameters.items() if not each["isOptional"]] == ["config"]
    for name, each in parameters.items():
        assert len(each["helpText"]) > 20
        assert each["helpText"].endswith(".")
        if name in options.OPTIONS:
            assert options.OPTIONS[name]["help"].partition(";")[0].lower() in each["helpText"].lower()
    assert found["streaming"] == (pipeline != "backfill")
    assert pipeline in found["name"]
    assert found["description"]


@pytest.mark.parametrize("pipeline", graphs.COMMANDS)
def test_what_a_parameter_takes_is_what_the_command_takes(
    pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = {each["name"]: each.get("regexes", []) for each in printed(pipeline, capsys)["parameters"]}
    given = dict(each[2:].split("=", 1) for each in graphs.arguments(pipeline, tmp_path))
    if pipeline != "train":
        given |= dict(each[2:].split("=", 1) for each in graphs.subscriptions(tmp_path))
    for name, value in given.items():
        if name != "config":
            assert all(re.search(rule, value) for rule in rules[name]), (name, value)
    for name in ("examples", "metrics"):
        assert not any(re.search(rule, "file:examples") for rule in rules[name])


def test_a_pipeline_that_is_none_is_refused() -> None:
    with pytest.raises(SystemExit, match="join,train,online,backfill"):
        template.main(["serving"])


def test_parameters_become_a_command_line() -> None:
    assert template.arguments("join", ["--streaming=false", "--a=b"], "") == ["--a=b", "--runner=DataflowRunner"]
    assert "--streaming" in template.arguments("join", ["--streaming=true"], "")
    assert "--streaming" in template.arguments("online", [], "")
    assert "--streaming" not in template.arguments("backfill", ["--streaming=true"], "")
    assert "--sdk_container_image=image:1" in template.arguments("online", [], "image:1")
    mine = ["--sdk_container_image=mine", "--runner=DataflowRunner"]
    assert template.arguments("backfill", mine, "image:1") == mine


def test_the_launcher_submits_the_pipeline_of_its_image(tmp_path: Path) -> None:
    """As Google's launcher runs it, but for a dry run."""
    given = [*graphs.arguments("online", tmp_path), *graphs.subscriptions(tmp_path), *graphs.CLOUD[1:]]
    environment = os.environ | {"MONOBEAM_PIPELINE": "online", "MONOBEAM_IMAGE": graphs.IMAGE}
    done = subprocess.run(
        [sys.executable, str(ROOT / "dataflow/launch.py"), *given],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["job_name"] == "monobeam-online-shop"


def test_the_image_has_what_the_launcher_looks_for() -> None:
    lines = (ROOT / "dataflow/Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(\S+) (\S+)$", lines, re.MULTILINE)
    assert copied == [("dataflow/launch.py", "/template/launch.py")]
    assert (ROOT / copied[0][0]).is_file()
    assert f"FLEX_TEMPLATE_PYTHON_PY_FILE={copied[0][1]}" in lines
    for variable in re.findall(r'os\.environ(?:\.get\(|\[)"(\w+)"', (ROOT / "dataflow/launch.py").read_text()):
        assert f"{variable}=${{" in lines
