"""flink-conf/ is what an operator deploys: it fits the rest of the repository, and every setting has its reason."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from examples.flink import settings
from examples.flink.cluster import Cluster
from monobeam.pipelines.flink import VERSION

ROOT = Path(__file__).parents[1]
CONF = ROOT / "flink-conf"
DOCKERFILES = sorted(CONF.glob("*.Dockerfile"))


def test_every_setting_has_its_reason() -> None:
    """A comment stands before each group of settings."""
    for name in ("config.yaml", "local.yaml"):
        for group in (CONF / name).read_text().split("\n\n"):
            assert group.startswith("#"), f"{name}: {group[:80]}"


def test_on_one_machine_everything_is_bound_to_loopback(tmp_path: Path) -> None:
    found = settings.layers(tmp_path, {})
    assert found.keys() <= settings.read(CONF / "config.yaml").keys() | settings.read(CONF / "local.yaml").keys() | {
        "io.tmp.dirs"
    }
    for key, value in found.items():
        if re.search(r"address|host|quorum", key):
            assert value.startswith("127.0.0.1"), f"{key}: {value}"
    assert not [key for key in found if "prometheus" in key]  # its reporter listens on every address there is


def test_what_is_changed_wins_and_what_is_empty_is_left_out(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, changed={"rest.port": "1234", "state.backend.type": ""})
    assert cluster.address == "127.0.0.1:1234"
    assert "state.backend.type" not in cluster.settings
    assert cluster.settings["state.checkpoints.dir"] == f"file://{tmp_path}/checkpoints"


def test_a_line_that_is_no_setting_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("# fine\na: b\nrest.port 8081\n")
    with pytest.raises(ValueError, match=r"'rest\.port 8081'"):
        settings.read(tmp_path / "config.yaml")


def test_versions_agree() -> None:
    makefile, pom = (ROOT / "Makefile").read_text(), (CONF / "pom.xml").read_text()
    flink = re.search(r"^FLINK_VERSION := (\d+\.\d+)\.\d+$", makefile, re.MULTILINE)
    beam = re.search(r"^apache-beam==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert flink is not None
    assert beam is not None
    assert f"<artifactId>beam-runners-flink-{flink[1]}</artifactId>" in pom
    assert flink[1] == VERSION
    assert f"FROM apache/beam_python3.11_sdk:{beam[1]}\n" in (CONF / "worker.Dockerfile").read_text()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles(path: Path) -> None:
    """No Docker builds them here. So: known instructions, sources that are there, pinned images, nobody is root."""
    text = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "COPY", "WORKDIR", "ARG", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}
    assert {word for word, _ in lines} <= known
    stages = set()
    for word, rest in lines:
        if word == "FROM":
            image, _, stage = rest.partition(" AS ")
            assert re.search(r":\d+\.\d+", image), image
            stages.add(stage)
        if word == "COPY":
            *sources, _ = rest.split(" ")
            if sources[0].startswith("--from="):
                assert sources[0].removeprefix("--from=") in stages
            else:
                assert [source for source in sources if not (ROOT / source).exists()] == []
        if word == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
    assert [word for word, _ in lines].index("USER") > len(lines) - 5
    assert set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE)) == folders()


def folders() -> set[str]:
    """Of the package, as setup.py has them."""
    found = re.search(r"^FOLDERS = \[(.*)\]$", (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert found is not None
    return set(re.findall(r'"(\w+)"', found[1]))


def test_the_boot_starts_the_worker_in_the_environment_of_the_package(tmp_path: Path) -> None:
    """It finds interpreter and boot by its variables, and hands on its arguments."""
    boot = tmp_path / "boot"
    boot.write_text('#!/bin/sh\necho "$@"\necho "$PATH" "$RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT"\n')
    boot.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin",
        "BEAM_BOOT": str(boot),
        "MONOBEAM_PYTHON": "/opt/own/bin/python",
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run([CONF / "boot", "--id=7"], env=environment, capture_output=True, text=True, check=True)
    arguments, rest = done.stdout.splitlines()
    assert re.fullmatch(rf"--semi_persist_dir={tmp_path}/monobeam-worker\.\w+ --id=7", arguments)
    assert rest == "/opt/own/bin:/usr/bin:/bin 1"
