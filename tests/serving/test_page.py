"""The live page in a real browser, on a desk and on a phone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monobeam.logs import schemas
from monobeam.logs.log import open_log
from monobeam.serving import report
from monobeam.serving.flink import JobFigures
from monobeam.serving.progress import Progress
from tests.serving.test_progress import counters, record, scores
from tests.serving.world import World, request, running

DESK, PHONE, NARROW = (1280, 900), (390, 740), (320, 640)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def missing(what: str) -> None:
    """Without a browser there is nothing to test; where it must be there, that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must test the page")
    pytest.skip(f"{what} is missing: the page is not tested")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        missing("selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing("chromium or chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


class Page:
    """One visit of the page, read as a person or a program would."""

    def __init__(self, browser: Any, address: str, size: tuple[int, int]) -> None:
        self._browser = browser
        self._width = size[0]
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size != DESK}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        # The page before may still ask a server that has ended: it goes first, then its complaints.
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(address)

    def text(self, name: str) -> str:
        return str(self._browser.find_element("id", name).text)

    def value(self, name: str) -> float | None:
        """The figure behind the text; None where there is none yet."""
        value = self._browser.find_element("id", name).get_attribute("data-value")
        return float(value) if value else None

    def all_of(self, selector: str, attribute: str) -> list[str]:
        return [node.get_attribute(attribute) or "" for node in self._browser.find_elements("css selector", selector)]

    def until(self, holds: Callable[[], bool]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self._browser, 15, poll_frequency=0.1).until(lambda _: holds())

    def check_layout(self) -> None:
        """Nothing sticks out at the side, every figure has a name of its own, the scripts do not complain."""
        assert self._browser.execute_script("return document.documentElement.scrollWidth") <= self._width
        cut = (
            "return [...document.querySelectorAll('.figure')].filter(n => n.scrollWidth > n.clientWidth).map(n => n.id)"
        )
        assert self._browser.execute_script(cut) == []
        names = self.all_of("[data-figure]", "id")
        assert len(set(names)) == len(names) > 50
        assert "" not in names
        assert [entry for entry in self._browser.get_log("browser") if entry["level"] == "SEVERE"] == []

    def axis(self, chart: str) -> list[str]:
        """Labels of the upright axis, from below."""
        nodes = self._browser.find_elements("css selector", f"#{chart} svg text[text-anchor=end]")
        return [node.text for node in nodes if ":" not in node.text]

    def check_charts(self) -> None:
        labels = self.all_of(".chart svg", "aria-label")
        assert len(labels) == 6
        assert all("over time; latest:" in label for label in labels)


def live_metrics() -> list[dict[str, Any]]:
    law = counters(impressions=1200, examples=1000, sampled_out=150, pending=50, actions=300, joined=299, waiting=1)
    trained = [
        record(
            "train", "0", n, scores(n, 1.5), examples=200, ids=900, rows=5000, memory_bytes=2**20, epoch=n, commit_ms=8
        )
        for n in range(1, 6)
    ]
    return [record("join", "0", **law), *trained, *(record("frozen", "0", n, scores(n, 0.5)) for n in range(2, 6))]


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_live_page_shows_what_happens(world: World, browser: Any, size: tuple[int, int]) -> None:
    world.step(1)
    with open_log(world.uri("metrics"), partitions=1).appender(0, schemas.METRICS) as metrics:
        metrics.append(live_metrics())
    with running(world) as server:
        server.until_epoch(world)
        page = Page(browser, server.url, size)
        world.step(2)
        server.until_epoch(world)
        assert server.rank(request(1, 10)).status_code == 200
        assert server.rank({}).status_code == 422
        page.until(lambda: page.value("requests-total") == 1 and page.value("errors-client") == 1)
        assert page.value("errors-total") == 0
        page.until(lambda: page.value("served-logged") == 10)
        assert page.text("model") == "test"
        assert page.text("state") == "live"
        assert page.text("examples-total") == "1,000"
        assert page.text("impressions-in") == page.text("impressions-sum") == "1,200"
        assert page.text("impressions-balance") == page.text("actions-balance") == "✓ agrees"
        assert 0.5 < page.value("auc-frozen") < page.value("auc-online") < 1
        assert page.value("table-rows") == world.store.rows
        assert (page.text("store-rows"), page.text("store-memory")) == ("5,000", "1.0 MiB")
        assert page.value("sync-gaps") == 0
        assert page.value("freshness-actions") > 0
        assert page.text("freshness-none") == ""
        assert page.value("request-p99") > 0
        page.check_layout()
        page.check_charts()
        server.end()
        page.until(lambda: page.text("state") == "connection lost")
        assert page.text("examples-total") == "1,000"


@pytest.fixture(scope="module")
def stats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What a server says that has metrics but got no request yet."""
    world = World(tmp_path_factory.mktemp("stats"))
    with open_log(world.uri("metrics"), partitions=1).appender(0, schemas.METRICS) as metrics:
        metrics.append(live_metrics())
    with running(world) as server:
        server.until(lambda: server.stats()["training"]["examples"] == 1000, "the examples")
        yield server.stats()
    world.close()


def rendered(stats: dict[str, Any], folder: Path) -> str:
    """The address of a report made on the command line's way."""
    (folder / "stats.json").write_text(json.dumps(stats))
    report.main([f"--stats={folder / 'stats.json'}", f"--out={folder / 'report.html'}"])
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("size", [DESK, PHONE, NARROW], ids=["desk", "phone", "narrow"])
def test_the_report_reads_alone(stats: dict[str, Any], browser: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    page = Page(browser, rendered(stats | {"model": "</script><b>not bold"}, tmp_path), size)
    assert page.text("state") == "report"
    assert page.text("model") == "</script><b>not bold"
    assert page.text("examples-total") == "1,000"
    assert page.text("freshness-p99") == "–"
    assert page.text("freshness-none") == "no action learnt since the start"
    assert page.text("freshness-run") == ""
    assert page.all_of("script[src], link[rel=stylesheet], img, iframe", "outerHTML") == []
    page.check_layout()
    page.check_charts()


@pytest.mark.parametrize("size", [DESK, PHONE, NARROW], ids=["desk", "phone", "narrow"])
def test_the_job_on_flink_is_shown_where_there_is_one(
    stats: dict[str, Any], browser: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    assert Page(browser, rendered(stats, tmp_path), size).text("flink") == ""
    minute = 60_000_000
    job = JobFigures("restarting", "http://flink:8081/", None, "monobeam-1234abcd", 0, 2, 7, 0, 9 * minute, 41, 5000)
    page = Page(browser, rendered(stats | {"flink": job.as_json(10 * minute)}, tmp_path), size)
    assert (page.text("flink-state"), page.text("flink-restarts")) == ("Restarting", "2")
    assert (page.text("flink-checkpoint-age"), page.text("flink-checkpoint-ms")) == ("1:00", "41.0 ms")
    assert (page.text("flink-job"), page.text("flink-checkpoint-bytes")) == ("monobeam-1234abcd", "4.9 KiB")
    assert page.text("flink-link") == ""
    page.check_layout()
    away = replace(job, state="away", error="URLError: <urlopen error [Errno 111] Connection refused>")
    page = Page(browser, rendered(stats | {"flink": away.as_json(10 * minute)}, tmp_path), size)
    assert (page.text("flink-state"), page.text("flink-restarts")) == ("Away", "2")
    assert page.text("flink-error") == away.error
    page.check_layout()


def test_a_point_between_gaps_is_a_dot_and_an_axis_has_one_number_of_digits(
    stats: dict[str, Any], browser: Any, tmp_path: Path
) -> None:
    series = {name: [None] * 5 for name in stats["series"]} | {"time_s": [0, 1, 2, 3, 4]}
    series |= {"request_p99_ms": [None, 4.0, None, 5.0, 6.0], "replica_rows": [0, 70_000, 140_000, 210_000, 240_000]}
    page = Page(browser, rendered(stats | {"series": series}, tmp_path), DESK)
    assert len(page.all_of("#chart-latency circle.one", "r")) == 1
    assert page.all_of("#chart-rows circle", "r") == []
    assert page.axis("chart-rows") == ["0", "100K", "200K", "300K"]
    series |= {"online_auc": [0.7312, 0.7314, 0.7318, 0.732, 0.7321], "request_p99_ms": [1.0, 2.0, 7.5, 8.0, 9.0]}
    page = Page(browser, rendered(stats | {"series": series}, tmp_path), DESK)
    for chart, digits in (("chart-auc", 5), ("chart-latency", 1)):
        assert {len(label.partition(".")[2]) for label in page.axis(chart)} == {digits}


def test_a_lost_record_is_seen_at_once(stats: dict[str, Any], browser: Any, tmp_path: Path) -> None:
    progress = Progress()
    progress.observe(record("join", "0", **counters(impressions=5, examples=4, actions=2, joined=2)))
    page = Page(browser, rendered(stats | {"conservation": progress.conservation()}, tmp_path), DESK)
    assert page.text("impressions-balance") == "✗ does not agree"
    assert page.text("actions-balance") == "✓ agrees"
