"""What Dataflow would get: steps whose names an update finds again, coders, state, and where workers have our code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions
from apache_beam.portability.api import beam_runner_api_pb2 as api

from monobeam.pipelines import addresses, dataflow, train
from tests.pipelines import graphs
from tests.test_layout import ALLOWED, ROOT

STEPS = Path(__file__).parent / "dataflow_steps"
STREAMING = ["--streaming"]
# By the name of the golden list: command, and options.
CASES = {
    "join": ("join", STREAMING),
    "join_bounded": ("join", []),
    "join_pubsub": ("join", STREAMING),
    "train": ("train", STREAMING),
    "train_bounded": ("train", []),
    "train_parallel": ("train", STREAMING),
    "online": ("online", STREAMING),
    "online_pubsub": ("online", STREAMING),
    "backfill": ("backfill", []),
}
URNS = {
    "beam:transform:impulse:v1",
    "beam:transform:pardo:v1",
    "beam:transform:flatten:v1",
    "beam:transform:group_by_key:v1",
    "beam:transform:reshuffle:v1",
    "beam:transform:combine_globally:v1",
    "beam:transform:combine_per_key:v1",
    "beam:transform:combine_grouped_values:v1",
    "beam:transform:generic_composite:v1",
    "beam:transform:pickled_python:v1",
    "beam:transform:pubsub_read:v1",
    "beam:transform:read:v1",
}


Jobs = Callable[[str], Any]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """The job of a case. File logs stand for logs of a broker: steps are the same."""

    @cache
    def job(name: str) -> Any:
        command, options = CASES[name]
        folder = tmp_path_factory.mktemp(name)
        raw = [] if command == "train" else (graphs.subscriptions if "pubsub" in name else graphs.files)(folder)
        given = graphs.arguments(command, folder, parallel="parallel" in name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dataflow, "check_reach", lambda *_: None)
            patch.setattr(train, "check_examples", lambda *_: None)
            return graphs.submit(command, [*given, *raw, *options, *graphs.CONTAINER], patch)

    return job


def names(pipeline: Any) -> list[str]:
    return sorted(transform.unique_name for transform in pipeline.components.transforms.values())


@pytest.mark.parametrize("name", CASES)
def test_a_graph_is_what_dataflow_runs_and_an_update_finds_again(name: str, jobs: Jobs) -> None:
    """An update of a running job keeps the state of steps by their names.

    Change a list only with an entry in CHANGELOG.md that maps old to new steps, for ``--transform_name_mapping``.
    """
    pipeline = jobs(name).proto_pipeline
    expected = (STEPS / f"{name}.txt").read_text().splitlines()
    found = [step for step in names(pipeline) if "AppliedPTransform" not in step]
    assert found == expected
    assert len(set(found)) == len(found)
    if "--streaming" in CASES[name][1]:  # of a bounded job there is no update
        assert not [step for step in found if re.search(r"lambda|\.py", step)], "a name with a place in the code"
    assert {t.spec.urn for t in pipeline.components.transforms.values()} - {""} <= URNS
    assert set(pipeline.requirements) <= {
        "beam:requirement:pardo:splittable_dofn:v1",
        "beam:requirement:pardo:stateful:v1",
    }
    assert len(pipeline.SerializeToString()) < 1 << 20


def pardo(pipeline: Any, name: str) -> Any:
    (found,) = [t for t in pipeline.components.transforms.values() if t.unique_name == name]
    return api.ParDoPayload.FromString(found.spec.payload)


def coders(pipeline: Any, coder: str) -> Iterator[str]:
    """The URNs of a coder and all its parts."""
    found = pipeline.components.coders[coder]
    yield found.spec.urn
    for part in found.component_coder_ids:
        yield from coders(pipeline, part)


@pytest.mark.parametrize("name", ["join", "join_bounded", "join_pubsub"])
def test_the_join_keeps_bytes_by_shard(name: str, jobs: Jobs) -> None:
    pipeline = jobs(name).proto_pipeline
    join = pardo(pipeline, "Join/Blocks/ParDo(_JoinBlocks)")
    kinds = {state: spec.WhichOneof("spec") for state, spec in join.state_specs.items()}
    assert kinds == {"journal": "bag_spec", "snapshot": kinds["token"], "token": "read_modify_write_spec"}
    kept = {join.state_specs["journal"].bag_spec.element_coder_id}
    kept |= {join.state_specs[name].read_modify_write_spec.coder_id for name in ("snapshot", "token")}
    assert [list(coders(pipeline, coder)) for coder in kept] == [["beam:coder:bytes:v1"]]
    ((_, timer),) = join.timer_family_specs.items()
    assert timer.time_domain == api.TimeDomain.EVENT_TIME
    assert "beam:coder:varint:v1" in set(coders(pipeline, timer.timer_family_coder_id))


@pytest.mark.parametrize("name", ["online", "online_pubsub", "backfill"])
def test_blocks_are_never_pickled(name: str, jobs: Jobs) -> None:
    pipeline = jobs(name).proto_pipeline
    carried = {
        each.unique_name: "+".join(coders(pipeline, each.coder_id)).replace("beam:coder:", "").replace(":v1", "")
        for each in pipeline.components.pcollections.values()
    }
    of = {step: kind for step, kind in carried.items() if re.match(r"\d*(Join|Append|DeadLetters|Train/)", step)}
    assert len(of) >= 5
    assert set(of.values()) <= {"kv+varint+bytes", "tuple+varint+varint+bytes", "tuple+varint+varint+varint"}, of


def test_workers_run_the_image_that_is_named(jobs: Jobs) -> None:
    job = jobs("online_pubsub")
    images = set()
    for environment in job.proto_pipeline.components.environments.values():
        assert environment.urn == "beam:env:docker:v1"
        images.add(api.DockerPayload.FromString(environment.payload).container_image)
    assert images == {graphs.IMAGE}
    assert job.options.view_as(GoogleCloudOptions).job_name == "monobeam-online-shop"
    assert "no_use_multiple_sdk_containers" in job.options.view_as(DebugOptions).experiments


def refused(command: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        graphs.COMMANDS[command].main(options)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--examples=file:/data/examples", "workers of Dataflow do not see: use kafka://HOST:PORT/TOPIC"),
        ("--examples=kafka://localhost:9092/examples", '"localhost" is this machine'),
        ("--metrics=kafka://broker:9092,127.0.0.1:9093/m", '"127.0.0.1" is this machine'),
        ("--store=lmdb:store", "use bigtable://PROJECT/INSTANCE/TABLE"),
        ("--store=memory:", "use bigtable://PROJECT/INSTANCE/TABLE"),
        ("--store=flight://127.0.0.1:7070", '"127.0.0.1" is this machine'),
        ("--store=flight+tls://[::1]:7070", '"::1" is this machine'),
        ("--cold=lmdb:cold", "a directory of one machine"),
        ("--impressions=file:shown", "or pubsub://PROJECT/SUBSCRIPTION"),
    ],
)
def test_what_is_on_one_machine_is_refused(
    option: str, remedy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = option.partition("=")[0]
    raw = [each for each in graphs.subscriptions(tmp_path) if not each.startswith(name)]
    given = [each for each in graphs.arguments("online", tmp_path) if not each.startswith(f"{name}=")]
    said = refused("online", [*given, *raw, option, *STREAMING, *graphs.CLOUD, *graphs.CONTAINER], capsys)
    assert f"{option}: " in said
    assert remedy in said


def test_what_dataflow_needs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*graphs.arguments("online", tmp_path), *graphs.subscriptions(tmp_path), *STREAMING]
    assert "--sdk_container_image=IMAGE" in refused("online", [*given, *graphs.CLOUD], capsys)
    for missing in ("--project", "--region", "--temp_location"):
        cloud = [each for each in graphs.CLOUD if not each.startswith(missing)]
        assert f"needs {missing}=" in refused("online", [*given, *cloud, *graphs.CONTAINER], capsys)
    with pytest.raises(SystemExit, match=r"(?s)online: .*Invalid job_name \(A_B\)") as ended:
        graphs.COMMANDS["online"].main([*given, *graphs.CLOUD, *graphs.CONTAINER, "--job_name=A_B"])
    assert ended.value.code != 0


@pytest.mark.parametrize("command", ["join", "backfill"])
def test_a_bounded_run_does_not_read_subscriptions(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*graphs.arguments(command, tmp_path), *graphs.subscriptions(tmp_path)]
    assert "a subscription has no end and no offsets" in refused(command, given, capsys)


def test_the_hosts_of_an_address() -> None:
    assert addresses._hosts("kafka://a:1,[::1]:2,c/topic?x=localhost:1") == ["a", "::1", "c"]
    assert addresses._hosts("flight://a:1") == ["a"]


def test_what_workers_compile_from_a_setup_file_is_complete(tmp_path: Path) -> None:
    """Beam makes a source distribution of --setup_file, and every worker installs it."""
    command = ["setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        found = {name.partition("/")[2] for name in packed.getnames()}
    wanted = {
        str(path.relative_to(ROOT))
        for folder in ALLOWED
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".pyi", ".h", ".cpp", ".html", ".js", ".css")
    }
    assert len(wanted) > 150
    assert wanted <= found


def documented() -> list[list[str]]:
    """The commands that the page starts pipelines with, with names in the place of its placeholders."""
    page = (ROOT / "docs/dataflow.md").read_text().replace("\\\n", "")
    commands = re.findall(r"^    python -m monobeam\.pipelines\.(?!template)(.*)$", page, re.MULTILINE)
    names = {"PROJECT": "proj-ect", "BROKER": "broker", "BUCKET": "bucket", "$IMAGE": "image", "INSTANCE": "instance"}
    for placeholder, name in names.items():
        commands = [command.replace(placeholder, name) for command in commands]
    return [shlex.split(command.partition(" #")[0]) for command in commands if "..." not in command]


def test_the_commands_of_the_page_are_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs.arguments("online", tmp_path)
    for name, path in (("shown", graphs.subscriptions(tmp_path)[0]), ("done", graphs.subscriptions(tmp_path)[1])):
        (tmp_path / f"{name}.avsc").write_text(Path(path.partition("schema=")[2]).read_text())
    monkeypatch.chdir(tmp_path)
    commands = documented()
    assert len(commands) == 1
    for command, *options in commands:
        graphs.submit(command, [*options, "--dry_run=True", "--no_auth"], monkeypatch)
