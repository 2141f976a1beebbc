"""The pages in a real browser, opened from disk: Chromium, headless, driven by Selenium.

apt-get install chromium chromium-driver && pip install -e ".[browser]" && pytest -m slow tests/report
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trpd_agents.report import write_report

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"),
]
FLAGS = ("--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-dev-shm-usage "
         "--no-first-run --disable-component-update --disable-sync").split()  # fmt: skip


class Page:
    """A browser tab that remembers what went wrong in it and what it asked for."""

    def __init__(self, profile: Path):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.driver.set_script_timeout(20)
        self.driver.get("about:blank")
        self.forget()  # what the browser does when it starts

    def open(self, page: Path, anchor: str = "", *, width: int = 1280, dark: bool = False) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + anchor)

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {code}", *arguments)

    def until(self, code: str) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 20).until(lambda _: self.js(code))

    def find(self, css: str) -> list[Any]:
        return self.driver.find_elements("css selector", css)

    def forget(self) -> None:
        for log in ("browser", "performance"):
            self.driver.get_log(log)

    def check_quiet(self) -> None:
        """Nothing was reported to the console, and nothing but files was asked for."""
        assert self.driver.get_log("browser") == []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                assert re.match("file:|about:|data:,", message["params"]["request"]["url"]), message


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    made = Page(tmp_path_factory.mktemp("profile"))
    yield made
    made.driver.quit()


@pytest.fixture
def report(runs, make_run) -> Path:
    episodes = [runs.make_episode(k, success=k % 3 == 0) for k in range(150)]
    episodes += [runs.make_episode(150, text=runs.NASTY), runs.make_episode(151, error="step_raised")]
    path = make_run(stored={1: episodes, 10: [runs.make_episode(200, guided=(0,))]})
    changed = [runs.make_episode(k) for k in range(3)]
    changed[1].turns[4].text = "other"
    write_report(path, against=make_run("other", {1: changed}))
    return path / "report"


def test_the_run_page_draws_its_charts(page: Page, report: Path) -> None:
    for dark in (False, True):
        page.open(report / "index.html", dark=dark)
        drawn = page.until("[...document.querySelectorAll('[data-chart]:not([hidden]) canvas')].length")
        assert drawn == 9
        background = page.js("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", background))) < 80) == dark
    page.find(".figures summary")[0].click()
    assert page.until("document.querySelectorAll('.figures table tr').length") > 5
    page.check_quiet()


def test_the_list_filters_sorts_and_turns_pages(page: Page, report: Path) -> None:
    from selenium.webdriver.support.ui import Select

    page.open(report / "episodes.html")

    def counts(n: int) -> None:
        page.until(f"document.getElementById('count').textContent === '{n} of 153 stored episodes'")

    counts(153)
    assert len(page.find("#episodes tbody tr")) == 100
    page.find("#pager button")[1].click()
    assert len(page.find("#episodes tbody tr")) == 53
    Select(page.find("select[name=success]")[0]).select_by_value("0")
    counts(100)
    page.find("button[type=reset]")[0].click()
    counts(153)
    Select(page.find("select[name=error]")[0]).select_by_visible_text("failure: step_raised")
    counts(1)
    page.find("button[type=reset]")[0].click()
    counts(153)
    page.find("input[name=high]")[0].send_keys("0.55")
    counts(1)  # the guided one has fewer tokens of its own
    page.find("button[type=reset]")[0].click()
    counts(153)
    head = page.find("#episodes thead button")[0]
    head.click()
    head.click()
    first = "document.querySelector('#episodes tbody tr th').textContent"
    assert (
        page.js(first) == "200" and page.js("document.querySelector('[aria-sort=descending]').textContent") == "episode"
    )
    page.find("#episodes tbody a")[0].click()
    assert page.until("document.querySelector('#viewer h2')?.textContent") == "Episode 200"
    page.find("#next")[0].click()
    page.until("document.querySelector('#viewer h2')?.textContent === 'Episode 151'")
    page.check_quiet()


def test_a_masked_token_tells_why_on_hover_and_on_focus(page: Page, report: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.open(report / "episodes.html", "#e=0")
    page.until("document.querySelectorAll('.turn .tok').length === 14")
    assert page.js("document.querySelector('.turn[data-turn=\"3\"] .why').textContent") == (
        "outside since turn 1, divergence 0.71 > 0.50, last call failed"
    )
    token = page.find('.turn[data-turn="3"] .tok')[0]
    assert "off" in token.get_attribute("class").split()
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", token)
    ActionChains(page.driver).move_to_element(token).perform()
    panel = "document.getElementById('detail').innerText"
    shown = page.until(f"!document.getElementById('detail').hidden && {panel}")
    for part in ("id\n5", "log ratio\n0.100", "student\n-7.000", "teacher\n-6.900", "acceptance\n1.000",
                 "none: weight 0", "trust region: no loss", "last call failed", "likeliest tokens"):  # fmt: skip
        assert part in shown, (part, shown)
    first = page.find('.turn[data-turn="1"] .tok')[0]
    page.driver.execute_script("arguments[0].focus()", first)
    assert "reverse KL 1" in page.js(panel)
    first.send_keys(Keys.ARROW_RIGHT)
    assert "log ratio\n-0.420" in page.js(panel)
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert page.js("document.getElementById('detail').hidden")
    assert page.js("[...document.querySelectorAll('.chart canvas')].length") == 1
    page.check_quiet()


def test_nothing_that_a_model_wrote_runs(page: Page, report: Path) -> None:
    page.open(report / "episodes.html", "#e=150")
    page.until("document.querySelectorAll('.turn').length > 6")
    assert "<script>window.hacked=1</script>" in page.js("document.querySelector('.turn .seen').textContent")
    assert page.js("window.hacked") is None and not page.find("main img") and not page.find("main script")
    page.check_quiet()


def test_the_policy_of_the_page_forbids_the_network(page: Page, report: Path) -> None:
    page.open(report / "episodes.html")
    outcome = page.driver.execute_async_script(
        "const done = arguments[0]; const image = new Image(); let said = 'nothing';"
        "addEventListener('securitypolicyviolation', (event) => { said = event.effectiveDirective; });"
        "image.onload = () => done('loaded'); image.onerror = () => setTimeout(() => done(said), 50);"
        "image.src = 'http://127.0.0.1:9/x.png';"
    )
    assert outcome == "img-src"
    page.forget()  # the refusal itself


def test_two_runs_side_by_side(page: Page, report: Path) -> None:
    page.open(report / "compare.html")
    assert page.until("document.getElementById('count').textContent") == "3 of 3 pairs; 1 of these part"
    page.find("#episodes tbody a")[1].click()
    page.until("document.querySelectorAll('.sides .turn').length > 13")
    assert page.js("document.getElementById('parting').textContent") == "They part at turn 4: another action."
    assert [turn.get_attribute("data-turn") for turn in page.find(".turn.parts")] == ["4", "4"]
    page.check_quiet()


@pytest.mark.parametrize(
    "name", ["index.html", "episodes.html", "episodes.html#e=0", "compare.html", "compare.html#p=1"]
)
def test_nothing_is_wider_than_a_telephone(page: Page, report: Path, name: str) -> None:
    file, _, anchor = name.partition("#")
    page.open(report / file, f"#{anchor}" if anchor else "", width=400)
    page.until("document.querySelectorAll('canvas, tbody tr, .turn').length > 0")
    assert page.js("document.documentElement.scrollWidth") <= 400
    page.check_quiet()


def test_a_chunk_that_is_gone_is_said(page: Page, report: Path) -> None:
    for file in (report / "data" / "a").glob("chunk-*.js"):
        file.unlink()
    page.open(report / "episodes.html", "#e=0")
    assert "missing or damaged" in page.until("document.querySelector('#episode .note')?.textContent")
    page.forget()  # the file that was not found
