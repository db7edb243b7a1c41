"""What a server shows of a job on Flink; tests/end_to_end/test_flink.py asks a real cluster."""

from __future__ import annotations

import pytest

from examples.ports import free_ports
from monobeam.serving.flink import AWAY, NO_JOB, FlinkJob, JobFigures
from tests.serving.world import World, running

NOW_US = 1_700_000_100_000_000
JOB = {"jid": "a1", "name": "mine", "state": "RUNNING", "start-time": 1_700_000_000_000, "end-time": -1}
ENDED = {
    "jid": "b2",
    "name": "old",
    "state": "CANCELED",
    "start-time": 1_700_000_050_000,
    "end-time": 1_700_000_060_000,
}
LAST = {"latest_ack_timestamp": 1_700_000_097_000, "end_to_end_duration": 40, "state_size": 5000}


def answers(*jobs: dict[str, object], last: dict[str, int] | None = None) -> dict[str, object]:
    """As Flink 1.19 answers, shortened to what is read."""
    found: dict[str, object] = {"/jobs/overview": {"jobs": list(jobs)}}
    for job in jobs:
        path = f"/jobs/{job['jid']}"
        found[f"{path}/metrics?get=numRestarts"] = [{"id": "numRestarts", "value": "2"}]
        found[f"{path}/checkpoints"] = {"counts": {"completed": 7, "failed": 1}, "latest": {"completed": last}}
    return found


def test_figures_of_a_job() -> None:
    job = FlinkJob("flink:8081", answers(ENDED, JOB, last=LAST).__getitem__)
    job.step()
    assert job.figures.as_json(NOW_US) == {
        "state": "running",
        "error": None,
        "url": "http://flink:8081/#/job/running/a1/overview",
        "job": "mine",
        "up_ms": 100_000,
        "restarts": 2,
        "checkpoints": 7,
        "checkpoints_failed": 1,
        "checkpoint_age_ms": 3000,
        "checkpoint_ms": 40,
        "checkpoint_bytes": 5000,
    }


@pytest.mark.parametrize(("address", "state"), [("flink:8081/old", "canceled"), ("flink:8081/b2", "canceled")])
def test_the_job_may_be_named(address: str, state: str) -> None:
    job = FlinkJob(address, answers(ENDED, JOB).__getitem__)
    job.step()
    assert (job.figures.state, job.figures.checkpoint_us) == (state, None)
    assert job.figures.url == "http://flink:8081/#/job/completed/b2/overview"


@pytest.mark.parametrize("found", [answers(), answers(JOB)])
def test_a_cluster_without_the_job(found: dict[str, object]) -> None:
    job = FlinkJob("https://flink:8081/other/", found.__getitem__)
    job.step()
    assert job.figures == JobFigures(NO_JOB, "https://flink:8081")


def test_what_was_known_of_a_job_stays_when_its_cluster_is_away() -> None:
    found = answers(JOB, last=LAST)
    job = FlinkJob("flink:8081", found.__getitem__)
    job.step()
    known = job.figures.as_json(NOW_US)
    found["/jobs/overview"] = {"errors": ["Service temporarily unavailable due to an ongoing leader election."]}
    job.step()
    assert job.figures.as_json(NOW_US) == known | {"state": AWAY, "error": "KeyError: 'jobs'"}
    found |= answers(JOB, last=LAST)
    job.step()
    assert job.figures.as_json(NOW_US) == known


def test_an_answer_that_is_not_understood_is_like_none() -> None:
    job = FlinkJob("flink:8081", answers({name: JOB[name] for name in JOB if name != "name"}).__getitem__)
    job.step()
    assert (job.figures.state, job.figures.error) == (AWAY, "KeyError: 'name'")


def test_of_a_job_that_begins_its_state_is_known() -> None:
    found = answers(JOB)
    job = FlinkJob("flink:8081", found.__getitem__)
    del found["/jobs/a1/checkpoints"]
    job.step()
    assert (job.figures.state, job.figures.name, job.figures.restarts) == ("running", "mine", None)
    found |= answers(JOB, last=LAST)
    job.step()
    found |= answers(JOB | {"state": "INITIALIZING"}, last=LAST)
    del found["/jobs/a1/checkpoints"]
    job.step()
    assert (job.figures.state, job.figures.restarts, job.figures.checkpoint_ms) == ("initializing", 2, 40)


@pytest.mark.parametrize("address", ["", "8081", "flink", "flink:port", "flink:8081/a/b", "ftp://flink:8081", "u@f:80"])
def test_an_address_that_is_none_is_quoted(address: str) -> None:
    with pytest.raises(ValueError, match="must be HOST:PORT or HOST:PORT/JOB") as refused:
        FlinkJob(address)
    assert repr(address) in str(refused.value)


def test_a_server_answers_though_the_cluster_is_away(world: World) -> None:
    world.step(1)
    with running(world, f"--flink=127.0.0.1:{free_ports(1)[0]}/job") as server:
        server.until_epoch(world)
        server.until(lambda: "refused" in server.stats()["flink"]["error"], "the answer that there is none")
        assert server.stats()["flink"]["state"] == AWAY
        assert "monobeam_flink_up 0.0" in server.client.get("/metrics").text
        assert server.end() == 0
