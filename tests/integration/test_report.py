"""The report in a real browser: it opens, can be used, runs no text of the search, needs no network."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from llmzero.core.files import append_jsonl, read_json, write_json
from llmzero.core.hparams import Catalogue
from llmzero.core.stage import StageDir, StageResult, ValidationPoint
from llmzero.mirrors.report import write_report
from llmzero.mirrors.report_data import Detail, report_data
from llmzero.tree.store import EventStore
from tests.conftest import METRICS

HOSTILE = (
    '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=2">'
    "'\"`${window.pwned=3}`<!--\u2028\ud800{{7*7}}"
)
SHOWN = HOSTILE.replace("\ud800", "")  # a lone surrogate has no rendering of its own
ENTRIES: dict[str, dict[str, Any]] = {
    "max_completion_length": {
        "group": "capacity",
        "kind": "int",
        "choices": [256, 512, 1024, 2048],
        "default": 512,
        "unit": "tokens",
    },
    "group_size": {
        "group": "capacity",
        "kind": "int",
        "choices": [4, 8, 16, 32],
        "default": 8,
        "unit": "completions",
    },
    "prompts_per_step": {"group": "capacity", "kind": "int", "choices": [16, 32, 64, 128], "default": 32},
    "learning_rate": {
        "group": "regularization",
        "kind": "float",
        "low": 1e-7,
        "high": 1e-5,
        "scale": "log",
        "default": 1e-6,
    },
    "kl_coef": {
        "group": "regularization",
        "kind": "float",
        "low": 0.0,
        "high": 0.2,
        "scale": "log",
        "default": 0.001,
    },
    "entropy_coef": {
        "group": "regularization",
        "kind": "float",
        "low": 0.0,
        "high": 0.05,
        "scale": "log",
        "default": 0.0,
    },
    "temperature": {"group": "regularization", "kind": "float", "low": 0.6, "high": 1.5, "default": 1.0},
    "clip_high": {"group": "regularization", "kind": "float", "low": 0.1, "high": 0.6, "default": 0.2},
    "minibatches": {"group": "optimization", "kind": "int", "choices": [1, 2, 4, 8], "default": 1},
    "max_grad_norm": {
        "group": "optimization",
        "kind": "float",
        "low": 0.05,
        "high": 5.0,
        "scale": "log",
        "default": 1.0,
    },
}
PATHOLOGIES = ("plateau", "slow_progress", "entropy_collapse", "kl_blowup", "healthy")


class SearchBuilder:
    """Writes a search directory as a driver and trainers do: by the event store and stage directories."""

    def __init__(
        self,
        path: Path,
        entries: dict[str, dict[str, Any]] = ENTRIES,
        words: str | None = None,
        steps: int = 60,
    ) -> None:
        self.path, self.words, self.steps = path, words, steps
        (path / "nodes").mkdir(parents=True)
        self.catalogue = Catalogue.from_config(entries)
        self.store = EventStore(path / "tree.jsonl")
        self.rng = random.Random(0)
        self.elapsed = 0.0
        self.reached: dict[str, tuple[float, int]] = {}

    def say(self, text: str) -> str:
        """Return a text, or the hostile one in its place."""
        return self.words or text

    def event(self, name: str, **fields: Any) -> None:
        self.elapsed += 3.0
        self.store.append(name, elapsed=self.elapsed, **fields)

    def root(self) -> None:
        stage = self._create(None, self.catalogue.defaults(), {}, 0)
        point = ValidationPoint(0, 0, 0.31, 0.014, 500, 1.0)
        self.reached["0000"] = (0.31, 0)
        self._finish("0000", "completed", [point], stage)

    def node(self, parent: str, state: str) -> str:
        """Add a stage below `parent`; return its id."""
        names = self.rng.sample(list(self.catalogue), k=2)
        hparams = self.store.tree[parent].hparams | {
            name: self.catalogue[name].sample(self.rng) for name in names
        }
        changes = self.catalogue.changes(self.store.tree[parent].hparams, hparams)
        proposal = {
            "agent": self.say("rules"),
            "diagnosis": [self.say(self.rng.choice(PATHOLOGIES))],
            "rationale": self.say(
                f"The score has levelled off, so {' and '.join(changes)} should move: "
                "more exploration, larger batches."
            ),
            "changes": changes,
            "observations": [self.say("The score is flat.")],
            "reasons": {name: self.say(f"{name} limits it.") for name in changes},
            "expected": {
                "score": 0.5,
                "probability": 0.7,
                "metrics": {},
                "effect": self.say("Entropy falls."),
            },
            "notes": [self.say("group_size=9 was clamped.")],
            "tokens": 1200,
            "dollars": 0.01,
        }
        node_id = self.store.tree.next_id()
        stage = self._create(parent, hparams, proposal, self.steps)
        if state != "queued":
            self.event("started", node_id=node_id)
            points = self._train(
                stage, parent, node_id, self.steps if state in ("completed", "queued") else self.steps // 2
            )
            self._end(node_id, state, points, stage)
        return node_id

    def _end(self, node_id: str, state: str, points: list[ValidationPoint], stage: StageDir) -> None:
        if state == "running":
            write_json(stage.status_file, {"state": "running", "seconds": 9.5, "gpu_seconds": 9.5})
        elif state == "stopped":
            reason = self.say("at best 0.400 within 60 steps: cannot reach 0.500")
            self.event("stop_requested", node_id=node_id, reason=reason, details={self.say("slope"): 0.001})
            self._finish(node_id, "stopped", points, stage)
        else:
            self._finish(node_id, state, points, stage)

    def _create(
        self, parent: str | None, hparams: dict[str, Any], proposal: dict[str, Any], steps: int
    ) -> StageDir:
        node_id = self.store.tree.next_id()
        depth = self.store.tree[parent].depth + 1 if parent else 0
        resume_from = str(self.path / "nodes" / parent / "checkpoints" / "step_00030") if parent else None
        fields = {"hparams": hparams, "steps": steps, "resume_from": resume_from, "proposal": proposal}
        self.event("created", node_id=node_id, parent_id=parent, depth=depth, **fields)
        stage = StageDir(self.path / "nodes" / node_id)
        stage.path.mkdir()
        return stage

    def _train(self, stage: StageDir, parent: str, node_id: str, steps: int) -> list[ValidationPoint]:
        start, begin = self.reached[parent]
        lift = self.rng.uniform(-0.05, 0.16)
        curve = [start + lift * (1 - math.exp(-step / 25)) for step in range(steps + 1)]
        append_jsonl(
            stage.metrics_file,
            [self._metrics(step, begin + step, curve[step]) for step in range(1, steps + 1)],
        )
        noise = self.rng.gauss
        points = [
            ValidationPoint(s, begin + s, min(0.99, max(0.01, curve[s] + noise(0, 0.008))), 0.014, 500, 1.0)
            for s in range(5, steps + 1, 5)
        ]
        append_jsonl(stage.validation_file, [vars(point) for point in points])
        prompt, completion = (
            self.say("Use 3, 7, 8 and 25 to make 31."),
            self.say("25 + 8 = 33; 33 - 7 = 26 ... <answer>25 + 7 - 1</answer>"),
        )
        rollout = {
            "step": steps,
            "global_step": begin + steps,
            "prompt": prompt,
            "completion": completion,
            "parts": {},
        }
        append_jsonl(stage.rollouts_file, [{**rollout, "reward": i / 3} for i in range(4)])
        best = max(points, key=lambda point: point.score)
        self.reached[node_id] = (best.score, best.global_step)
        return points

    def _metrics(self, step: int, global_step: int, level: float) -> dict[str, Any]:
        noise = self.rng.gauss
        return {
            "step": step,
            "global_step": global_step,
            "reward_mean": level + noise(0, 0.02),
            "entropy": 0.8 * math.exp(-global_step / 200) + noise(0, 0.01),
            "kl": 0.0004 * global_step * (1 + noise(0, 0.1)),
            "grad_norm": abs(noise(0.8, 0.2)),
            "completion_length_mean": 120 + global_step / 3 + noise(0, 4),
            "truncated_fraction": max(0.0, noise(0.02, 0.01)),
        }

    def _finish(self, node_id: str, state: Any, points: list[ValidationPoint], stage: StageDir) -> None:
        best = max(points, key=lambda point: point.score) if state != "failed" else None
        checkpoint = stage.checkpoints / f"step_{best.step:05d}" if best else None
        error = (
            self.say("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB")
            if state == "failed"
            else None
        )
        result = StageResult(
            state, points, best and best.step, best and best.score, checkpoint, 20.0, 20.0, error
        )
        stage.write_result(result)
        self.event("finished", node_id=node_id, result=result.to_dict(stage.path))

    def grow(self, stages: int) -> None:
        """Add stages below the root and below good ones, most of them completed."""
        self.root()
        states = [
            "completed",
            "completed",
            "completed",
            "stopped",
            "completed",
            "failed",
            "completed",
            "stopped",
        ]
        for i in range(stages):
            usable = sorted(
                (node for node in self.store.tree if node.usable and node.depth < 5),
                key=lambda node: node.score or 0.0,
            )
            parent = usable[-1] if self.rng.random() < 0.55 else self.rng.choice(usable)
            state = (
                {stages - 1: "queued", stages - 2: "running"}.get(i, states[i % len(states)])
                if stages > 8
                else "completed"
            )
            self.node(parent.node_id, state)

    @property
    def summary(self) -> dict[str, Any]:
        return read_json(self.path / "summary.json") or {}

    def summarize(self, state: str = "finished", tested: bool = False) -> None:
        write_json(
            self.path / "summary.json",
            {"method": self.say("llmzero"), "agent": self.say("rules"), "state": state},
        )
        if tested:
            scores = {"base": 0.30, "practitioner": 0.452, "best": 0.561}
            fields = {
                "stderr": 0.014,
                "n": 500,
                "steps": 30,
                "flops": 1.5e10,
                "gpu_seconds": 60.0,
                "node_id": "0001",
            }
            write_json(
                self.path / "test.json", {name: {"score": score, **fields} for name, score in scores.items()}
            )

    def report(self, *, live: bool = False) -> Path:
        write_report(self.path, self.store, self.catalogue, METRICS, self.summary, live=live)
        return self.path / "report.html"


@pytest.fixture
def search(tmp_path: Path) -> Callable[..., SearchBuilder]:
    def build(stages: int, **options: Any) -> SearchBuilder:
        builder = SearchBuilder(tmp_path / options.pop("name", "search"), **options)
        builder.grow(stages)
        builder.summarize(tested=True)
        return builder

    return build


def opened(browser: webdriver.Chrome, page: Path, fragment: str = "") -> None:
    """Open a report and wait until it is drawn; fail on anything the console complains of."""
    browser.get(f"{page.as_uri()}{fragment}")
    WebDriverWait(browser, 20).until(
        lambda chrome: chrome.execute_script("return document.querySelectorAll('#stages tr').length > 0")
    )
    assert_quiet(browser)


def assert_quiet(browser: webdriver.Chrome) -> None:
    assert browser.get_log("browser") == []


def panel(browser: webdriver.Chrome) -> str:
    shown: str = browser.execute_script("return document.getElementById('panel').innerText.toWellFormed()")
    return shown


def heading(browser: webdriver.Chrome) -> str:
    shown: str = browser.execute_script("return document.querySelector('#panel h2').textContent")
    return shown


def click_node(browser: webdriver.Chrome, node_id: str) -> None:
    """Click where the tree draws a node."""
    where = """
        const chart = echarts.getInstanceByDom(document.getElementById("tree"));
        const drawn = chart.getModel().getSeriesByIndex(0).getData();
        const [x, y] = drawn.getItemGraphicEl(drawn.indexOfName(arguments[0])).transformCoordToGlobal(0, 0);
        return [x - chart.getWidth() / 2, y - chart.getHeight() / 2];
    """
    tree = browser.find_element(By.ID, "tree")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", tree)
    x, y = browser.execute_script(where, node_id)
    ActionChains(browser).move_to_element_with_offset(tree, round(x), round(y)).click().perform()


def press(browser: webdriver.Chrome, *keys: str) -> str:
    """Send keys to the tree; return the heading of the selected stage."""
    browser.find_element(By.ID, "tree").send_keys(*keys)
    return heading(browser)


@pytest.mark.parametrize("stages", [0, 15, 499])
def test_opens_without_errors_and_without_network(
    search: Any, browser: webdriver.Chrome, stages: int
) -> None:
    page = search(stages).report()
    opened(browser, page)
    rows = browser.find_elements(By.CSS_SELECTOR, "#stages tbody tr")
    assert len(rows) == stages + 1
    assert browser.title.startswith("search")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in urls
    assert all(
        url.startswith(("file:", "data:", "chrome:")) for url in urls
    )  # chrome: is the browser's own start page
    assert page.stat().st_size < 3_000_000


def test_a_search_that_has_just_begun(browser: webdriver.Chrome, tmp_path: Path) -> None:
    builder = SearchBuilder(tmp_path / "search")
    page = builder.report(live=True)
    browser.get(page.as_uri())
    assert "No stage has been created yet." in panel(browser)
    assert_quiet(browser)
    builder._create(None, builder.catalogue.defaults(), {}, 0)
    opened(browser, builder.report())
    assert heading(browser) == "Stage 0000, the root"
    assert "No validation and no metrics yet." in panel(browser)


def test_clicking_a_node_shows_it(search: Any, browser: webdriver.Chrome) -> None:
    builder = search(16)
    opened(browser, builder.report())
    for node in builder.store.tree.stages():
        click_node(browser, node.node_id)
        shown = panel(browser)
        assert heading(browser) == f"Stage {node.node_id}"
        assert node.state in shown
        words = [
            node.proposal["rationale"],
            *node.proposal["observations"],
            *node.proposal["reasons"].values(),
            *node.proposal["notes"],
        ]
        assert all(word in shown for word in [*words, "Entropy falls.", "70 %"])
        assert node.proposal["diagnosis"][0].replace("_", " ") in shown
        changed = browser.find_elements(By.CSS_SELECTOR, "#panel .config .changed th")
        assert {cell.text for cell in changed} == set(node.proposal["changes"])
        assert len(browser.find_elements(By.CSS_SELECTOR, "#panel .config tbody tr:not(.group)")) == len(
            builder.catalogue
        )
    stopped = next(node for node in builder.store.tree if node.state == "stopped")
    click_node(browser, stopped.node_id)
    assert "cannot reach 0.500" in panel(browser)
    failed = next(node for node in builder.store.tree if node.state == "failed")
    click_node(browser, failed.node_id)
    assert "CUDA out of memory" in panel(browser)
    assert_quiet(browser)


def test_a_stage_that_is_being_proposed_shows_what_is_known(search: Any, browser: webdriver.Chrome) -> None:
    builder = search(3)
    node_id = builder.store.tree.next_id()
    builder.event("proposing", node_id=node_id, parent_id="0000", depth=1, steps=7)
    opened(browser, builder.report())
    click_node(browser, node_id)
    assert heading(browser) == f"Stage {node_id}"
    shown = panel(browser)
    for words in ("proposing", "Steps planned\n7", "The agent is asked what to change in 0000."):
        assert words in shown
    assert "No rationale was given." not in shown
    assert "learning_rate" not in shown
    press(browser, Keys.ARROW_LEFT)
    assert "learning_rate" in panel(browser), "what is known of other stages comes back"
    assert_quiet(browser)


def test_a_completed_stage_has_curves_and_rollouts(search: Any, browser: webdriver.Chrome) -> None:
    opened(browser, search(3).report(), "#node=0001")
    titles = [figure.text for figure in browser.find_elements(By.CSS_SELECTOR, "#panel figure b")]
    assert titles[0] == "Validation score"
    assert len(titles) == 7
    assert all(
        chart.find_elements(By.TAG_NAME, "path")
        for chart in browser.find_elements(By.CSS_SELECTOR, "#panel .chart svg")
    )
    rollout = browser.find_element(By.CSS_SELECTOR, "#panel details")
    rollout.find_element(By.TAG_NAME, "summary").click()
    assert "Use 3, 7, 8 and 25 to make 31." in rollout.text


def test_the_header_compares_test_scores(search: Any, browser: webdriver.Chrome) -> None:
    opened(browser, search(3).report())
    assert browser.find_element(By.ID, "test-scores").text.splitlines() == [
        "test FLOPs GPU time",
        "base 0.300 \u00b1 0.014 1.50e+10 60 s",
        "practitioner 0.452 \u00b1 0.014 1.50e+10 60 s",
        "best strategy 0.561 \u00b1 0.014 1.50e+10 60 s",
    ]
    assert "method llmzero" in browser.find_element(By.ID, "search-facts").text
    assert "one seed; not confirmed" in browser.find_element(By.ID, "summary").text


def test_the_header_tells_what_fresh_seeds_confirmed(search: Any, browser: webdriver.Chrome) -> None:
    builder = search(3)
    against = [
        {name: {"difference": 0.1, "p_paired": None, "p_welch": p} for name in ("practitioner", "base")}
        for p in (0.0314159, None)
    ]
    run = {"steps": 30, "validation": [0.5], "validation_mean": 0.5, "incomplete": 0, "test": [0.5]}
    scores = [
        {**run, "mean": 0.55, "stderr": 0.012, "against": against[0]},
        {**run, "mean": 0.6, "stderr": 0.02, "against": against[1]},
    ]
    confirmation = {
        "stages": 3,
        "seeds": [1000, 1001, 1002],
        "winner": "strategy-0003",
        "strategies": {"strategy-0002": scores[1], "strategy-0003": scores[0]},
        "practitioner": {**run, "mean": 0.45, "stderr": 0.011},
        "base": {"test": [0.3], "mean": 0.3, "stderr": None},
    }
    write_json(builder.path / "confirmation.json", confirmation)
    opened(browser, builder.report())
    assert browser.find_element(By.ID, "confirmation").text.splitlines() == [
        "strategy 0003 0.550 \u00b1 0.012 p = 0.031",
        "strategy 0002 0.600 \u00b1 0.020 p = \u2013",
        "practitioner 0.450 \u00b1 0.011",
        "base 0.300",
    ]
    shown = browser.find_element(By.ID, "summary").text
    assert "Test score on 3 fresh seeds" in shown
    assert "p: Welch's test against practitioner\n" in f"{shown}\n"
    assert "not confirmed" not in shown
    for width in (1280, 800):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        edges = (
            "const table = document.getElementById('confirmation'); "
            "return [table, table.closest('dl')].map((e) => e.getBoundingClientRect().right)"
        )
        right, edge = browser.execute_script(edges)
        assert right <= edge, "nothing of it is cut off"


def test_arrow_keys_walk_the_tree(search: Any, browser: webdriver.Chrome) -> None:
    builder = SearchBuilder(search(0).path.with_name("shape"))
    builder.root()
    for parent in ("0000", "0000", "0001", "0002"):
        builder.node(parent, "completed")
    opened(browser, builder.report(), "#node=0000")
    assert press(browser, Keys.ARROW_LEFT) == "Stage 0000, the root"
    press(browser, Keys.HOME, Keys.ARROW_RIGHT)
    if heading(browser) == "Stage 0002":
        press(browser, Keys.ARROW_UP)
    assert heading(browser) == "Stage 0001"
    assert press(browser, Keys.ARROW_DOWN) == "Stage 0002"
    assert press(browser, Keys.ARROW_RIGHT) == "Stage 0004"
    assert press(browser, Keys.ARROW_UP) == "Stage 0003"
    assert press(browser, Keys.ARROW_LEFT) == "Stage 0001"
    best = builder.store.tree.best()
    assert best is not None
    assert press(browser, Keys.END) == f"Stage {best.node_id}"
    assert f"Stage {best.node_id}" in browser.find_element(By.ID, "announcer").get_attribute("textContent")


def test_keys_bring_a_node_back_into_sight(search: Any, browser: webdriver.Chrome) -> None:
    opened(browser, search(120).report())
    for _ in range(6):
        browser.find_element(By.CSS_SELECTOR, "[data-zoom='1.4']").click()
    press(browser, Keys.HOME)
    click_node(browser, "0000")
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    selected = heading(browser).split()[1]
    press(browser, Keys.HOME)
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    click_node(browser, selected)  # raises where it lies outside of the window
    assert heading(browser) == f"Stage {selected}"
    assert_quiet(browser)


def test_states_can_be_filtered(search: Any, browser: webdriver.Chrome) -> None:
    builder = search(16)
    opened(browser, builder.report())
    states = {node.node_id: node.state for node in builder.store.tree}
    for state in ("completed", "stopped"):
        browser.find_element(By.CSS_SELECTOR, f"[data-state='{state}']").click()
    rows = {
        row.get_attribute("data-node") for row in browser.find_elements(By.CSS_SELECTOR, "#stages tbody tr")
    }
    assert rows == {node_id for node_id, state in states.items() if state not in ("completed", "stopped")}
    assert (
        browser.find_element(By.CSS_SELECTOR, "[data-state='stopped']").get_attribute("aria-pressed")
        == "false"
    )
    browser.find_element(By.CSS_SELECTOR, "[data-state='stopped']").click()
    assert len(browser.find_elements(By.CSS_SELECTOR, "#stages tbody tr")) == sum(
        state != "completed" for state in states.values()
    )
    assert_quiet(browser)


def test_the_table_sorts_and_selects(search: Any, browser: webdriver.Chrome) -> None:
    builder = search(8)
    opened(browser, builder.report())
    browser.find_element(By.CSS_SELECTOR, "[data-sort='score']").click()
    first, second = browser.find_elements(By.CSS_SELECTOR, "#stages tbody tr")[:2]
    best = builder.store.tree.best()
    assert best is not None
    assert first.get_attribute("data-node") == best.node_id
    second.click()
    assert heading(browser) == f"Stage {second.get_attribute('data-node')}".replace("0000", "0000, the root")


def test_a_live_page_reloads_and_keeps_its_place(search: Any, browser: webdriver.Chrome) -> None:
    builder = search(10)
    opened(browser, builder.report(live=True))
    click_node(browser, "0003")
    browser.find_element(By.CSS_SELECTOR, "[data-state='failed']").click()
    browser.find_element(By.CSS_SELECTOR, "[data-budget='gpu_seconds']").click()
    browser.execute_script("window.before = true; document.getElementById('panel').scrollTop = 150")
    builder.node("0003", "completed")
    builder.report(live=True)
    WebDriverWait(browser, 20).until(
        lambda chrome: chrome.execute_script(
            "return !window.before && document.querySelector('[data-node=\"0011\"]')"
        )
    )
    assert heading(browser) == "Stage 0003"
    assert browser.execute_script("return document.getElementById('panel').scrollTop") == 150
    assert (
        browser.find_element(By.CSS_SELECTOR, "[data-state='failed']").get_attribute("aria-pressed")
        == "false"
    )
    assert (
        browser.find_element(By.CSS_SELECTOR, "[data-budget='gpu_seconds']").get_attribute("aria-pressed")
        == "true"
    )
    builder.report(live=False)
    assert 'http-equiv="refresh"' not in (builder.path / "report.html").read_text()


def test_the_theme_follows_the_system_and_the_button(search: Any, browser: webdriver.Chrome) -> None:
    page = search(2).report()
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    opened(browser, page)
    theme = "return document.documentElement.dataset.theme"
    assert browser.execute_script(theme) == "dark"
    browser.find_element(By.ID, "theme").click()
    assert browser.execute_script(theme) == "light"
    assert_quiet(browser)


def test_nothing_overflows_a_narrow_window(search: Any, browser: webdriver.Chrome) -> None:
    page = search(16).report()
    for width in (1280, 800):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        opened(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_hostile_text_is_shown_and_never_run(search: Any, browser: webdriver.Chrome) -> None:
    entries = {
        **ENTRIES,
        f"evil{HOSTILE}": {**ENTRIES["temperature"], "description": HOSTILE, "unit": HOSTILE},
    }
    entries["odd"] = {
        "group": "capacity",
        "kind": "choice",
        "choices": ["plain", HOSTILE],
        "default": HOSTILE,
    }
    name = HOSTILE.replace("/", "").replace("\ud800", "")[:200]
    builder = search(16, name=name, words=HOSTILE, entries=entries)
    opened(browser, builder.report())
    assert browser.find_element(By.ID, "search-id").get_attribute("textContent") == name
    for node in builder.store.tree.stages():
        click_node(browser, node.node_id)
        for summary in browser.find_elements(By.CSS_SELECTOR, "#panel details summary"):
            browser.execute_script("arguments[0].click()", summary)
        text = browser.execute_script("return document.getElementById('panel').textContent.toWellFormed()")
        assert text.count("window.pwned=1") >= 5
    assert f"evil{SHOWN[:20]}" in text
    for host in browser.find_elements(
        By.CSS_SELECTOR, "#tree, #best-so-far, #path-score, #trajectories .chart"
    ):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", host)
        for share in (-0.3, -0.1, 0.1, 0.3):
            ActionChains(browser, duration=20).move_to_element_with_offset(
                host, round(host.size["width"] * share), 0
            ).perform()
    time.sleep(0.2)
    assert browser.execute_script("return window.pwned") is None
    assert browser.execute_script("return document.querySelectorAll('img, script[src], iframe').length") == 0
    assert_quiet(browser)


def test_a_page_of_500_nodes_is_small_and_quick(search: Any) -> None:
    builder = search(499, words="\u4e2d<" * 4_000)
    started = time.process_time()
    page = builder.report()
    assert time.process_time() - started < 6  # a bound against quadratic work, not a benchmark
    assert page.stat().st_size < 3_000_000


def test_the_data_cannot_end_its_script(search: Any) -> None:
    page = search(3, words=HOSTILE).report().read_text()
    start = page.index('<script id="data"')
    assert page[start : page.index("</script>", start)].count("<") == 1


def test_curves_are_thinned_to_their_ends(search: Any) -> None:
    builder = search(2, steps=400)
    data = report_data(
        builder.path,
        builder.store,
        builder.catalogue,
        METRICS,
        builder.summary,
        Detail(points=50, rollouts=2, excerpt=20, text=20),
    )
    curves = data["nodes"][1]["curves"]
    assert curves["rows"] == 400
    assert (curves["step"][0], curves["step"][-1], len(curves["step"])) == (1, 400, 50)
    assert len(data["nodes"][1]["rollouts"]) == 2
    assert "characters left out" in data["nodes"][1]["proposal"]["rationale"]


def test_a_running_stage_shows_what_it_has_so_far(search: Any) -> None:
    builder = search(12)
    running = next(node for node in builder.store.tree if node.state == "running")
    detail = Detail.for_nodes(13)
    data = report_data(builder.path, builder.store, builder.catalogue, METRICS, builder.summary, detail)
    shown = next(node for node in data["nodes"] if node["id"] == running.node_id)
    assert shown["gpu_seconds"] == 9.5
    assert shown["score"] == pytest.approx(max(point[2] for point in shown["validation"]))
