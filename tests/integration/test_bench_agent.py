"""The agent bench, with a real endpoint: what is asked, kept, scored and refused."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llmzero.runners.tables.format import SUFFIX
from tests.conftest import REPOSITORY
from tests.integration.conftest import Run, command
from tests.integration.test_llm import asking
from tests.llm_server import Answer, Hostile, LLMServer, Mind, Request, scripted
from tests.made_tables import made_table

POINTS: list[dict[str, Any]] = [
    {"stages": [[0], [5], [0, 2]], "parent": [0], "others": [[], [5]]},
    {"stages": [[0], [0, 1]], "parent": [0, 1], "others": []},
    {"stages": [], "parent": [], "others": []},
    {"stages": [[0], [1], [2]], "parent": [], "others": []},
]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What names the points of a search, and the table that they lie in."""
    folder = tmp_path_factory.mktemp("bench")
    made_table(folder)
    shared = {"table": "made-0", "source": "by hand", "why": "The search chose it.", "budget": 9}
    file = folder / "hand.jsonl"
    file.write_text("".join(json.dumps({**shared, **point}) + "\n" for point in POINTS))
    return [f"points=[{file}]", f"tables={folder}"]


def results(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "bench.json").read_text())
    return found


def rows_of(directory: Path, agent: str) -> list[dict[str, Any]]:
    return [row for row in results(directory)["answers"] if row["agent"] == agent]


def once_invalid(request: Request) -> Answer:
    """Answer well, but for the first time about the base model's first stage."""
    first = "continues 0000" in request.last_user and "Propose the stage 0001 " in request.last_user
    return Answer(content="I would rather not say.") if first else scripted(request)


def test_an_agent_is_asked_once_for_each_point_and_scored_by_the_table(
    run_here: Run, given: list[str], tmp_path: Path
) -> None:
    with LLMServer(once_invalid) as server:
        wanted = [*given, *asking(server), "also=[blind,no_history]", f"bench_dir={tmp_path}/b"]
        shown = run_here("bench_agent", *wanted, "llm.price_input=1", "llm.price_output=2").stdout
        asked = list(server.requests)
        repaired = [request for request in asked if "cannot be used as it is" in request.text]
        assert len(asked) == 3 * len(POINTS) + len(repaired)
        assert len(repaired) >= 3, "one for each of the three agents"
        first = results(tmp_path / "b")
        run_here("bench_agent", *wanted, "llm.price_input=1", "llm.price_output=2")
        assert len(server.requests) == len(asked), "what was answered is not asked again"
    assert results(tmp_path / "b") == first
    assert first["agents"] == ["scripted", "scripted, blind", "scripted, no_history", "rules"]
    scores = first["summary"]["all"]
    assert sum(scores[agent]["calls"] for agent in first["agents"]) == len(asked)
    assert scores["scripted"]["dollars"] > 0
    third = rows_of(tmp_path / "b", "scripted")[2]
    assert (third["validity"], third["calls"], third["point"]) == ("repaired", 2, "hand-3")
    assert scores["rules"]["validity"] == {"first": 4, "repaired": 0, "part": 0, "never": 0}
    chance = [row["regret"]["val"] for row in rows_of(tmp_path / "b", "random")]
    # Of the untried numbers 0, 1, 3, 4, 5; all six; all six; 3, 4, 5: a number more is 0.01 more.
    assert chance == pytest.approx([0.024, 0.025, 0.025, 0.01])
    for row in rows_of(tmp_path / "b", "scripted"):
        if not row["elsewhere"]:
            assert row["regret"]["val"] == pytest.approx(0.01 * (5 - row["path"][-1]))
        came = row["expected"]
        assert came["score"] == pytest.approx(0.05 + sum(0.01 * (each + 1) for each in row["path"]))
        assert came["improved"] is True
    unchanged = [row["path"] for row in rows_of(tmp_path / "b", "unchanged")]
    assert unchanged == [[0, 0], [0, 1, 1], [2], None], "a stage that the search had is none to choose"
    assert "| scripted, blind | 4 | " in shown and "of chance" in shown

    informed = next(each.text for each in asked if "stage 0004 that continues 0001" in each.text)
    assert "Training dynamics of the parent 0001" in informed and "The search chose it." in informed
    assert "0.040" not in informed, "the base model's test score"
    blind = [each.text for each in asked if "Training dynamics of the parent" not in each.text]
    assert len(blind) >= len(POINTS)


def killed_after(count: int, wanted: list[str], server: LLMServer, environment: dict[str, str]) -> None:
    """Run the command until so many requests have come, and kill it."""
    running = subprocess.Popen(
        command("bench_agent", *wanted), env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    while len(server.requests) < count and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it was killed in the middle"


def test_a_killed_bench_goes_on_without_asking_twice(
    run_here: Run, given: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    def slowly(request: Request) -> Answer:
        time.sleep(0.3)
        return scripted(request)

    with LLMServer(slowly) as server:
        wanted = [*given, *asking(server), "llm.max_at_once=1"]
        killed_after(3, [*wanted, f"bench_dir={tmp_path}/killed"], server, environment)
        run_here("bench_agent", *wanted, f"bench_dir={tmp_path}/killed")
        asked = len(server.requests)
        run_here("bench_agent", *wanted, f"bench_dir={tmp_path}/whole")
        needed = len(server.requests) - asked  # with repairs
    assert needed <= asked <= needed + 1, "only the call that was under way is made again"
    killed, whole = (results(tmp_path / name) for name in ("killed", "whole"))
    for each in (killed, whole):
        for row in each["answers"]:
            row.pop("seconds", None)
    assert killed["answers"] == whole["answers"]


def test_answers_that_an_endpoint_owes_are_missing_until_the_same_command_gets_them(
    run_here: Run, given: list[str], tmp_path: Path
) -> None:
    ill = True

    def mind(request: Request) -> Answer:
        return Answer(status=500, error="ill") if ill else scripted(request)

    with LLMServer(mind) as server:
        wanted = [*given, *asking(server), f"bench_dir={tmp_path}/b"]
        with pytest.raises(SystemExit) as ended:
            run_here("bench_agent", *wanted)
        assert ended.value.code == 1
        scores = results(tmp_path / "b")["summary"]["all"]["scripted"]
        assert (scores["unanswered"], scores["regret_val"]["n"]) == (len(POINTS), 0)
        ill = False
        run_here("bench_agent", *wanted)
    assert results(tmp_path / "b")["summary"]["all"]["scripted"]["unanswered"] == 0


def test_calls_end_once_they_have_cost_the_limit(run_here: Run, given: list[str], tmp_path: Path) -> None:
    priced = ["llm.price_input=1000", "llm.price_output=0", "llm.max_at_once=1", f"bench_dir={tmp_path}/b"]
    with LLMServer(scripted) as server:
        wanted = [*given, *asking(server), *priced]
        for _ in range(2):  # what was paid before counts
            with pytest.raises(SystemExit):
                run_here("bench_agent", *wanted, "dollars=0.01")
            assert len(server.requests) == 1
        run_here("bench_agent", *wanted, "dollars=1000")
        assert len(server.requests) == len(POINTS)


def test_no_reply_breaks_the_bench(run_here: Run, given: list[str], tmp_path: Path) -> None:
    mind: Mind = Hostile(3)
    with LLMServer(mind) as server:
        wanted = [*given, *asking(server), "llm.timeout_s=2", "llm.breaker_failures=1000"]
        with suppress(SystemExit):  # where calls failed
            run_here("bench_agent", *wanted, "also=[blind]", f"bench_dir={tmp_path}/b")
    scores = results(tmp_path / "b")["summary"]["all"]["scripted"]
    assert sum(scores.get("validity", {}).values()) + scores["unanswered"] == len(POINTS)


def test_a_dry_run_says_what_calls_would_cost_and_makes_none(
    run_here: Run, given: list[str], tmp_path: Path
) -> None:
    with LLMServer(scripted) as server:
        wanted = [*given, *asking(server), "dry_run=true", "also=[blind]", f"bench_dir={tmp_path}/b"]
        shown = run_here("bench_agent", *wanted, "llm.price_input=1", "llm.price_output=2").stdout
        assert not server.requests
    assert "scripted: 4 calls, about " in shown and "scripted, blind: 4 calls" in shown
    assert "16,000 of replies at most, $0.0" in shown and "; 3 times that if every answer" in shown
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["also=[deaf]"], "also=deaf: must be some of blind, no_plots, no_history, no_descriptions"),
        (["also=[no_plots]"], "also=no_plots: agent.vision=false is so already"),
        (["dollars=1"], "dollars: needs llm.price_input and llm.price_output"),
        (["points=[no-such]"], "points=no-such: there is no such file"),
        (["points=[]"], "points: names no file"),
        (["per_task=0"], "per_task=0: must be at least 1"),
        (["agent=rules", "also=[blind]"], "also=blind: is for language models"),
    ],
)
def test_bad_input_is_refused_before_any_call(
    run_here: Run, given: list[str], tmp_path: Path, more: list[str], said: str
) -> None:
    with LLMServer(scripted) as server:
        wanted = [*given, *asking(server), f"bench_dir={tmp_path}/b"]
        done = run_here("bench_agent", *wanted, *more, ok=False)
        assert done.returncode == 2 and said in done.stderr
        assert not server.requests


def test_a_directory_keeps_to_one_agent(run_here: Run, given: list[str], tmp_path: Path) -> None:
    with LLMServer(scripted, models=("scripted", "other")) as server:
        wanted = [*given, *asking(server), f"bench_dir={tmp_path}/b", "per_task=1"]
        run_here("bench_agent", *wanted)
        done = run_here("bench_agent", *wanted, "llm.model=other", ok=False)
        assert "holds the calls of another bench: llm.model is 'scripted' there" in done.stderr
        run_here("bench_agent", *wanted, "per_task=2", "llm.timeout_s=100")
        assert len(server.requests) == 2
    assert results(tmp_path / "b")["summary"]["all"]["scripted"]["points"] == 2


def test_points_are_named_beside_the_tables_of_the_repository(run_here: Run, tmp_path: Path) -> None:
    file = tmp_path / "small.jsonl"
    point = {"table": "metro_small-0", "source": "by hand", "why": "", "budget": 9, **POINTS[2]}
    file.write_text(json.dumps(point) + "\n")
    run_here("bench_agent", f"points=[{file}]", f"bench_dir={tmp_path}/b")
    found = results(tmp_path / "b")
    assert list(found["files"]) == ["points small", f"table metro_small-0{SUFFIX}"]
    assert found["summary"]["metro_small"]["rules"]["points"] == 1
