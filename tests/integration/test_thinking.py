"""While a language model thinks, stages are judged and stopped, budgets kept, and drivers come and go."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load
from llmzero.tree.repair import repair
from llmzero.tree.store import EventStore
from llmzero.tree.workspace import Workspace
from tests.integration.conftest import Run, read_lines
from tests.integration.searches import SIMULATED, assert_consistent, start, summary
from tests.integration.test_llm import asking, calls_of
from tests.llm_server import Answer, LLMServer, Request, answer_json, asked_schema, scripted, sensible

ALWAYS = ["search.method.unchanged_fraction=0", "agent.max_prompt_tokens=100000"]
HANGS_S = 600.0


def paced(*settings: str, step_s: float = 0.05, hopeless: str = "", late: str = "") -> list[str]:
    """Overrides for stages that take real time."""
    digits = [f"+runner.hopeless='{hopeless}'", f"+runner.late='{late}'"]
    own = [f"+runner.step_s={step_s}", "+runner.every=4", *digits, "stopper=none", "search.report=false"]
    return ["experiment=simulated", "runner._target_=tests.paced.PacedRunner", *own, *settings]


def after(seconds: float, mind: Callable[[Request], Answer] = scripted) -> Callable[[Request], Answer]:
    """Return a mind that answers after so many seconds."""

    def slow(request: Request) -> Answer:
        answer = mind(request)
        return Answer(content=answer.content, tool_calls=answer.tool_calls, delay_s=seconds)

    return slow


def until(condition: Callable[[], Any], process: subprocess.Popen[bytes] | None = None) -> Any:
    """Wait until something holds, as long as a driver lives; return it."""
    while not (value := condition()):
        assert process is None or process.poll() is None, "the driver has ended"
        time.sleep(0.05)
    return value


def events(search: Path, *names: str) -> list[dict[str, Any]]:
    file = search / "tree.jsonl"
    return [e for e in read_lines(file) if e["event"] in names] if file.exists() else []


def decided(search: Path) -> list[dict[str, Any]]:
    """All events but for times; charges, which come as answers come, at the end."""
    lines = [{**event, "elapsed": 0} for event in read_lines(search / "tree.jsonl")]
    return sorted(lines, key=lambda event: (event["event"] == "llm_call", event.get("name", "")))


@pytest.mark.parametrize("method", ["llmzero", "chain", "greedy", "paper"])
def test_the_order_of_answers_decides_nothing(run_here: Run, tmp_path: Path, method: str) -> None:
    """Two searches of four workers, whose endpoint answers after pauses drawn at random."""
    lock = threading.Lock()
    for number in range(2):
        rng = random.Random(number)

        def moody(request: Request, rng: random.Random = rng) -> Answer:
            with lock:
                pause = rng.choice([0.05, 0.1, 0.3])
            return after(pause)(request)

        with LLMServer(moody) as server:
            run_here(
                "search",
                *SIMULATED,
                *asking(server),
                "agent.max_prompt_tokens=100000",
                f"search={method}",
                "search.workers=4",
                "budget.stages=14",
                f"search_dir={tmp_path}/{number}",
            )
            assert server.most_at_once > 1
            pending = [r for r in server.requests if "is being proposed at this moment" in r.last_user]
            assert pending, "what others are asked at the same time is in the evidence"
    assert decided(tmp_path / "0") == decided(tmp_path / "1")
    assert_consistent(tmp_path / "0", 14)


def test_kills_while_models_think_change_nothing_and_pay_nothing_twice(
    run_here: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    """Drivers of four workers are killed while none, one or several proposals are under way."""
    overrides = [*SIMULATED, *ALWAYS, "search=llmzero", "search.workers=4", "budget.stages=14"]
    search = tmp_path / "killed"
    with LLMServer(after(0.15)) as server:
        run_here("search", *overrides, *asking(server), f"search_dir={tmp_path}/whole")
        asked = len(server.requests)
        for proposals in (1, 2, 3, 5, 8):
            driver = start(environment, *overrides, *asking(server), f"search_dir={search}")
            until(lambda n=proposals: len(events(search, "proposing")) >= n, driver)  # type: ignore[misc]
            time.sleep(0.05 * (proposals % 3))
            driver.kill()
            driver.wait()
        run_here("search", *overrides, *asking(server), f"search_dir={search}")
        again = len(server.requests) - 2 * asked
    assert 0 <= again <= 5 * 4, "only what was under way is asked again"
    assert first_starts(decided(search)) == first_starts(decided(tmp_path / "whole"))
    names = [event["name"] for event in calls_of(search)]
    assert len(names) == len(set(names)) == asked
    assert sorted(names) == sorted(
        f"{f.parent.parent.name}/{f.stem}" for f in search.glob("nodes/*/calls/*.json")
    )


def slower(request: Request) -> Answer:
    """Propose another learning rate for each stage: nothing that a stopper takes for exploration."""
    found = re.search(r"Propose the stage (\d+)", request.text)
    assert found is not None
    value = sensible(random.Random(0), asked_schema(request))
    change = {"name": "learning_rate", "value": 1e-6 / (2 + int(found[1])), "reason": "It may calm it."}
    return answer_json(request, {**value, "changes": [change], "action": "change"})


def first_starts(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events without the further starts of stages that a killed driver had not begun."""
    return [event for event in lines if event["event"] != "started" or event["attempt"] == 1]


def test_an_endpoint_that_hangs_holds_nothing_up(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    """Four workers: a hopeless stage is ended, drivers are killed, stop.py works, and the search goes on."""
    search, hangs = tmp_path / "s", threading.Event()

    def mind(request: Request) -> Answer:
        answers = "Propose the stage 0002 that" in request.text or not hangs.is_set()  # repairs of it, too
        return after(0.0 if answers else HANGS_S, slower)(request)

    hangs.set()
    overrides = [
        *paced(step_s=0.05, hopeless="2"),
        *ALWAYS,
        "search.max_depth=1",  # no further level may lift it
        "stopper=curve",
        "search.workers=4",
        "search.stage_steps=2000",
        "budget.stages=8",
        f"search_dir={search}",
    ]
    with LLMServer(mind) as server:
        driver = start(environment, *overrides, *asking(server, "llm.timeout_s=900"))
        until(lambda: events(search, "stop_requested"), driver)
        until(lambda: [e for e in events(search, "finished") if e["node_id"] == "0002"], driver)
        stopped = EventStore(search / "tree.jsonl", repair=False).tree["0002"]
        assert stopped.state == "stopped"
        assert stopped.result is not None
        assert stopped.result.validation[-1].step < 1000
        assert (
            Counter(n.state for n in EventStore(search / "tree.jsonl", repair=False).tree)["proposing"] >= 2
        )
        assert "proposing" in launch("status", str(search)).stdout
        before = parents(search)
        driver.kill()
        driver.wait()
        told = launch("stop", str(search)).stdout
        assert "asked 1 stage(s) to end" in told, "those that are proposed have no process"
        driver = start(environment, *overrides, *asking(server, "llm.timeout_s=900"))
        until(lambda: len(server.requests) >= 2 + len(before), driver)
        launch("stop", str(search))
        assert driver.wait() == 0
        assert summary(search)["state"] == "finished"
        left = Counter(n.state for n in EventStore(search / "tree.jsonl", repair=False).tree)
        assert left["proposing"] >= 2
        assert left["running"] == 0
        launch("status", str(search))
        assert "line" not in launch("repair", str(search)).stdout
        hangs.clear()
        launch("search", *overrides, *asking(server), "runner.step_s=0.0005")
    assert {node: parent for node, parent in parents(search).items() if node in before} == before
    assert_consistent(search, 8)


def parents(search: Path) -> dict[str, str | None]:
    return {node.node_id: node.parent_id for node in EventStore(search / "tree.jsonl", repair=False).tree}


@pytest.mark.parametrize("limit", ["seconds", "deadline"])
@pytest.mark.parametrize("runner", ["paced", "simulated"])
def test_a_time_limit_is_kept_while_a_model_hangs(
    launch: Run, tmp_path: Path, limit: str, runner: str
) -> None:
    stages = paced() if runner == "paced" else SIMULATED
    in_a_while = time.localtime(time.time() + 20)  # a busy machine takes long to begin
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", in_a_while)
    value = "3" if limit == "seconds" else f"'{moment}'"
    with LLMServer(after(HANGS_S)) as server:
        launch(
            "search",
            *stages,
            *ALWAYS,
            *asking(server, "llm.timeout_s=900"),
            f"budget.{limit}={value}",
            f"search_dir={tmp_path}/s",
        )
    tree = EventStore(tmp_path / "s/tree.jsonl", repair=False).tree
    assert summary(tmp_path / "s")["state"] == "finished"
    assert [node.state for node in tree if not node.final] == ["proposing"] * sum(not n.final for n in tree)
    assert not all(node.final for node in tree)
    assert summary(tmp_path / "s")["budget"]["seconds"] < HANGS_S / 10
    open_node = next(node.node_id for node in tree if not node.final)
    refused = launch("propose", f"search_dir={tmp_path}/s", f"node={open_node}", "trusted=true", ok=False)
    assert f"node={open_node}: is still being proposed" in refused.stderr
    stages = load([tmp_path / "s"]).stages
    assert list(stages[stages["state"] == "proposing"]["score"].isna()) == [True] * sum(
        not node.final for node in tree
    )


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_no_model(environment: dict[str, str], tmp_path: Path, by: int) -> None:
    with LLMServer(after(HANGS_S)) as server:
        driver = start(
            environment, *SIMULATED, *ALWAYS, *asking(server, "llm.timeout_s=900"), f"search_dir={tmp_path}/s"
        )
        until(lambda: server.in_progress, driver)
        driver.send_signal(by)
        assert driver.wait(timeout=HANGS_S / 5) != 0
        assert summary(tmp_path / "s")["state"] == "interrupted"


def test_several_workers_think_side_by_side(run_here: Run, tmp_path: Path) -> None:
    """Where thinking takes the time, four workers do nearly four times as much in it as one."""
    taken = {}
    for workers in (1, 4):
        with LLMServer(after(2.0)) as server:
            run_here(
                "search",
                *paced(step_s=0.0001),
                *ALWAYS,
                *asking(server, "agent.repairs=0"),
                f"search.workers={workers}",
                "budget.stages=17",
                "search.max_depth=3",
                f"search_dir={tmp_path}/{workers}",
            )
        log = [e["elapsed"] for e in events(tmp_path / str(workers), "proposing", "finished")]
        taken[workers] = log[-1] - log[1]
        assert_consistent(tmp_path / str(workers), 17)
    assert taken[1] / taken[4] > 3.5


def test_a_verdict_comes_while_the_stage_runs_on(run_here: Run, tmp_path: Path) -> None:
    """`stopper=llm`: one question a stage at a time; the verdict is acted upon when it comes."""

    def judge(request: Request) -> Answer:
        if "stop" not in asked_schema(request).get("properties", {}):
            return scripted(request)
        stop = "0003" in request.last_user
        return (
            after(0.6)(request)
            if not stop
            else Answer(
                content=json.dumps({"stop": True, "probability": 0.0, "reason": "It is hopeless."}),
                delay_s=0.6,
            )
        )

    search = tmp_path / "s"
    with LLMServer(judge) as server:
        run_here(
            "search",
            *paced(step_s=0.02, hopeless="3"),
            *ALWAYS,
            *asking(server),
            "stopper=llm",
            "stopper.interval_s=0",
            "stopper.min_step=4",
            "search.workers=2",
            "search.stage_steps=100",
            "budget.stages=4",
            f"search_dir={search}",
        )
    stop, *_ = [e for e in events(search, "stop_requested") if e["node_id"] == "0003"]
    tree = EventStore(search / "tree.jsonl", repair=False).tree
    result = tree["0003"].result
    assert stop["reason"] == "It is hopeless."
    assert result is not None
    assert stop["step"] < result.validation[-1].step < 100, "it trained on while it was judged"
    for file in search.glob("nodes/*/stopper.jsonl"):
        judged = read_lines(file)
        points = tree[file.parent.name].result
        assert points is not None
        assert 0 < len(judged) < len(points.validation), "not every validation: one question at a time"
        assert len({line["step"] for line in judged}) == len(judged)


def test_a_session_of_tool_calls_thinks_in_the_background(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    """`search=skill`: while the model thinks about its next call, a stage ends, and stop.py works."""
    calls = [("start_stage", {"parent": "0000", "checkpoint": "best", "changes": {}, "reason": "so"})]

    def mind(request: Request) -> Answer:
        first = len(server.requests) == 1
        return Answer(tool_calls=calls) if first else Answer(content="-", delay_s=HANGS_S)

    search = tmp_path / "s"
    with LLMServer(mind) as server:
        driver = start(
            environment,
            *paced(step_s=0.02),
            "search=skill",
            *asking(server, "llm.timeout_s=900"),
            "search.workers=2",
            f"search_dir={search}",
        )
        until(lambda: [e for e in events(search, "finished") if e["node_id"] == "0001"], driver)
        assert server.in_progress == 1
        launch("stop", str(search))
        assert driver.wait() == 0
    assert summary(search)["state"] == "finished"


def test_prefetched_proposals_are_used_or_counted_as_wasted(run_here: Run, tmp_path: Path) -> None:
    """Stages 3 and 5 of a chain end otherwise than they looked at their last validation before the end."""
    search = tmp_path / "s"
    overrides = [
        *paced(step_s=0.03, late="35"),
        "search=chain",
        "search.workers=1",
        "search.max_depth=12",
        "budget.stages=7",
        "search.prefetch=true",
        f"search_dir={search}",
    ]
    with LLMServer(after(0.1)) as server:
        run_here("search", *overrides, *asking(server))
        ahead = [request for request in server.requests if "is in its last steps" in request.last_user]
    assert_consistent(search, 7)
    budget = summary(search)["budget"]
    assert [budget[f"prefetch{name}"] for name in ("ed", "es_used", "es_wasted")] == [len(ahead), 4, 2]
    assert len(ahead) == 6, "none in the last stage: the budget has no other"
    used = [event["parent_id"] for event in events(search, "proposing") if event["prefetched"]]
    assert used == ["0001", "0002", "0004", "0006"]
    wasted = {event["node_id"]: event["reason"] for event in events(search, "prefetch_wasted")}
    assert wasted.keys() == {"0003", "0005"}
    assert all("the score rose by" in reason for reason in wasted.values())
    for request in ahead:
        assert "step 12: 0." in request.last_user, "what the stage had shown by then"
        assert "step 16: 0." not in request.last_user
    questions = {event["name"].rpartition("-")[0] for event in calls_of(search)}  # without repairs
    prefetched = {f"{node}/prefetch-{node}" for node in (*used, *wasted)}
    assert questions == prefetched | {"0004/proposal-0003", "0006/proposal-0005"}


def test_a_killed_prefetch_is_not_paid_for_again(
    run_here: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    search = tmp_path / "s"
    overrides = [
        *paced(step_s=0.03),
        "search=chain",
        "search.workers=1",
        "budget.stages=4",
        "search.prefetch=true",
        f"search_dir={search}",
    ]
    with LLMServer(scripted) as server:
        driver = start(environment, *overrides, *asking(server))
        until(lambda: list(search.glob("nodes/0002/calls/prefetch*.json")), driver)
        driver.kill()
        driver.wait()
        run_here("search", *overrides, *asking(server))
        names = [event["name"] for event in calls_of(search)]
        assert len(names) == len(set(names)) == len(server.requests)
    assert_consistent(search, 4)
    assert summary(search)["budget"]["prefetched"] == summary(search)["budget"]["prefetches_used"] == 3


def test_any_lost_line_of_a_search_that_thought_comes_back(run_here: Run, tmp_path: Path) -> None:
    """Also where nodes are decided on, and answered in another order; the search goes on from there."""
    search = tmp_path / "s"
    with LLMServer(after(0.05)) as server:
        run_here(
            "search",
            *SIMULATED,
            *ALWAYS,
            *asking(server),
            "search.workers=3",
            "budget.stages=5",
            f"search_dir={search}",
        )
    log = search / "tree.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines[1:], 1):
        if json.loads(line)["event"] not in ("proposing", "created", "started", "finished"):
            continue
        log.write_bytes(b"".join([*lines[:number], b"oops\n", *lines[number + 1 :]]))
        repair(Workspace(search))
        tree = EventStore(log, repair=False).tree
        assert [(n.node_id, n.parent_id, n.score) for n in tree] == whole(lines, tmp_path), (number, line)


def whole(lines: list[bytes], folder: Path) -> list[tuple[Any, ...]]:
    file = folder / "s" / "whole.jsonl"
    file.write_bytes(b"".join(lines))
    return [(n.node_id, n.parent_id, n.score) for n in EventStore(file, repair=False).tree]
