"""`search=skill` over real HTTP: a language model runs a whole search in one session of tool calls."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.transcript import Transcript
from llmzero.tree.store import EventStore
from tests.integration.conftest import Run, read_lines
from tests.integration.searches import assert_consistent, start_and_kill, summary
from tests.integration.test_llm import SIMULATED, asking, assert_within_bounds, calls_of
from tests.llm_server import Answer, Hostile, LLMServer, Mind, Request, junk

SKILL = [*SIMULATED, "search=skill", "stopper=none"]
Step = tuple[str, dict[str, Any]]


def start(parent: str, changes: dict[str, Any], checkpoint: Any = "best") -> Step:
    return "start_stage", {
        "parent": parent,
        "checkpoint": checkpoint,
        "changes": changes,
        "reason": f"I want {json.dumps(changes)}.",
    }


WHOLE: Sequence[Step] = (
    ("list_skills", {}),
    ("read_skill", {"name": "reading-dynamics"}),
    ("list_runs", {}),
    start("0000", {}),
    ("wait", {"stage": "0001", "until": "end"}),
    ("read_metrics", {"stage": "0001"}),
    ("read_rollouts", {"stage": "0001"}),
    start("0001", {"group_size": 16, "learning_rate": 2e-6}),
    ("wait", {"until": "validation"}),
    ("stop_stage", {"stage": "0002", "reason": "It is flat."}),
    ("wait", {"stage": "0002", "until": "end"}),
    start("0001", {"minibatches": 2}, 16),
    ("wait", {"stage": "0003", "until": "end"}),
    ("list_runs", {}),
    ("finish", {"summary": "Three stages."}),
)


def turn_of(request: Request) -> int:
    return sum(message["role"] == "assistant" for message in request.body["messages"])


def player(steps: Sequence[Step], *, native: bool = True, delay_s: float = 0.0) -> Mind:
    """A mind that takes the next of the steps at each turn of the conversation, whatever happened."""

    def mind(request: Request) -> Answer:
        name, arguments = steps[min(turn_of(request), len(steps) - 1)]
        if native:
            return Answer(tool_calls=[(name, arguments)], finish_reason="tool_calls", delay_s=delay_s)
        return Answer(
            content=f"I think:\n```json\n{json.dumps({'tool': name, 'arguments': arguments})}\n```",
            delay_s=delay_s,
        )

    return mind


def results(search: Path) -> list[str]:
    """The results of the calls, as the model read them."""
    return [line["message"]["content"] for line in read_lines(search / "session.jsonl") if "call" in line]


@pytest.mark.parametrize("native", [True, False])
def test_a_session_reads_starts_stops_and_finishes(run_here: Run, tmp_path: Path, native: bool) -> None:
    search = tmp_path / "s"
    prices = ["llm.price_input=1", "llm.price_output=1"]
    with LLMServer(player(WHOLE, native=native)) as server:
        run_here("search", *SKILL, *asking(server, *prices), f"search_dir={search}")
        asked = len(server.requests)
    assert asked == len(WHOLE) == summary(search)["budget"]["llm_calls"] == len(calls_of(search))
    assert_consistent(search, 3)
    nodes = EventStore(search / "tree.jsonl").tree.stages()
    assert [(n.parent_id, n.state) for n in nodes] == [
        ("0000", "completed"),
        ("0001", "stopped"),
        ("0001", "completed"),
    ]
    assert nodes[1].stop is not None
    assert nodes[1].stop["reason"] == "It is flat."
    assert nodes[2].resume_from is not None
    assert nodes[2].resume_from.name == "step_00016"
    assert (
        nodes[1].hparams["group_size"],
        nodes[2].hparams["group_size"],
        nodes[2].hparams["minibatches"],
    ) == (16, 8, 2)
    assert nodes[1].proposal["rationale"] == 'I want {"group_size": 16, "learning_rate": 2e-06}.'
    assert sum(n.proposal["calls"] for n in nodes) == 12, "the last three calls belong to no stage"
    said = results(search)
    assert "- budgeting: Budgeting. How to spend stages" in said[0]
    assert "**Entropy** falls as a policy learns" in said[1]
    assert f"0000: the base model, score {summary(search)['base_score']}" in said[2]
    assert "0001: completed, best score" in said[4]
    assert "entropy [nats]" in said[5]
    assert "0002: running, 1 validation points" in said[8]
    assert "0002: stopped" in said[10]
    assert "- 0003 from 0001 at best, depth 2: minibatches 1 -> 2; completed" in said[13]


def test_a_session_sizes_its_stages_within_the_budget(run_here: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    name, arguments = start("0000", {"group_size": 16})
    steps: Sequence[Step] = (
        (name, {**arguments, "length": 0.5}),
        ("wait", {"stage": "0001", "until": "end"}),
        (name, {**arguments, "parent": "0001", "changes": {"group_size": 8}, "length": 2}),
        ("wait", {"stage": "0002", "until": "end"}),
        ("finish", {"summary": "Two stages."}),
    )
    with LLMServer(player(steps)) as server:
        more = ["search.stage_steps=10", "budget.stages=3"]
        run_here("search", *SKILL, *asking(server), *more, f"search_dir={search}")
    assert [node.steps for node in EventStore(search / "tree.jsonl").tree.stages()] == [5, 20]
    budget = summary(search)["budget"]
    assert (budget["stages"], budget["longer"]) == (2, 0.5)


def test_wrong_calls_get_precise_complaints_and_start_nothing(run_here: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    wrong: Sequence[tuple[Step, str]] = (
        (("dance", {}), "There is no tool dance; there are list_skills"),
        (("read_skill", {"name": "../../README"}), "There is no skill ../../README"),
        (("read_metrics", {"stage": "../../test"}), "There is no stage ../../test; ids are 0000 to 0000"),
        (("read_metrics", {}), "The argument stage is missing"),
        (("wait", {}), "Nothing is running"),
        (("stop_stage", {"stage": "0000", "reason": "x"}), "0000 cannot be stopped"),
        (start("0000", {"learning_rate": 5}), "learning_rate=5: must be float from 1e-07 to 1e-05"),
        (start("0000", {"luck": 5}), "luck: unknown parameter"),
        (start("0000", {"group_size": 16}, 7), "checkpoint=7: must be best, last"),
        (start("0009", {}), "There is no stage 0009"),
        (
            (start("0000", {})[0], start("0000", {})[1] | {"length": 9}),
            "length=9: must be a number from 0.5 to 2",
        ),
        (
            ("start_stage", {"parent": "0000", "checkpoint": "best", "changes": [1], "reason": "x"}),
            "changes=[1]: must be an object",
        ),
    )
    steps = [*(step for step, _ in wrong), ("finish", {"summary": ""})]
    with LLMServer(player(steps)) as server:
        run_here("search", *SKILL, *asking(server), f"search_dir={search}")
    assert len(EventStore(search / "tree.jsonl").tree) == 1
    assert len(results(search)) == len(steps)
    for (_, complaint), said in zip(wrong, results(search), strict=False):
        assert said.startswith("Nothing was done.")
        assert complaint in said


def test_a_hostile_model_ends_no_session_and_leaves_no_bounds(run_here: Run, tmp_path: Path) -> None:
    search, mind = tmp_path / "s", Hostile(silence_s=30, drip_s=0.0001)
    limits = [
        "budget.stages=12",
        "search.method.max_turns=120",
        "llm.timeout_s=0.5",
        "llm.breaker_pause_s=0",
    ]
    with LLMServer(mind) as server:
        run_here("search", *SKILL, *asking(server, *limits), f"search_dir={search}")
    assert_within_bounds(search)
    nodes = EventStore(search / "tree.jsonl").tree.stages()
    assert len(nodes) > 3, "rules go on in the model's place"
    assert all("rules started this stage in place of scripted" in n.proposal["notes"][0] for n in nodes)
    assert len(mind.drawn) > len(mind.manners) / 2


def reckless(request: Request) -> Answer:
    """Calls several tools at once, most of them for a reason that only chance knows."""
    rng = random.Random(f"{turn_of(request)}/{len(request.body['messages'])}")

    def called() -> Step:
        stage = f"{rng.randrange(8):04d}"
        changes = rng.choice(
            [
                {},
                {"learning_rate": rng.uniform(1e-7, 2e-5)},
                {"group_size": rng.choice([4, 7, 16])},
                {"kl_coef": junk(rng)},
            ]
        )
        return rng.choice(
            [
                start(rng.choice(["0000", stage]), changes, rng.choice(["best", "last", 8, "12", "x"])),
                ("wait", rng.choice([{}, {"until": "end"}, {"stage": stage}])),
                ("stop_stage", {"stage": stage, "reason": "It is flat."}),
                (rng.choice(["list_runs", "read_metrics", "read_rollouts", "dance"]), {"stage": stage}),
            ]
        )

    return Answer(tool_calls=[called() for _ in range(rng.randint(1, 4))])


def assert_any_endpoint_takes(messages: list[dict[str, Any]]) -> None:
    """One system message, then the user, no two of the user in a row, every call followed by its result."""
    roles = [message["role"] for message in messages]
    assert roles[:2] == ["system", "user"]
    assert roles.count("system") == 1
    assert ("user", "user") not in set(itertools.pairwise(roles))
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] == open_calls.pop(0)
        else:
            assert open_calls == []
        for call in message.get("tool_calls", ()):
            open_calls.append(call["id"])
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
    assert open_calls == []


def test_three_workers_for_a_reckless_model(run_here: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    with LLMServer(reckless) as server:
        run_here(
            "search", *SKILL, "search.workers=3", "budget.stages=8", *asking(server), f"search_dir={search}"
        )
        for request in server.requests:
            assert_any_endpoint_takes(request.body["messages"])
        assert len(server.requests) == len(calls_of(search))
    assert_consistent(search, 8)
    assert_within_bounds(search)
    assert {n.proposal["agent"] for n in EventStore(search / "tree.jsonl").tree.stages()} == {"scripted"}


def test_a_session_of_a_killed_driver_goes_on_and_pays_for_no_reply_twice(
    run_here: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    def endless(request: Request) -> Answer:
        """Starts a stage from the last one and waits for it, for ever."""
        ids = re.findall(r"(\d{4}) starts now", request.text)
        turn = turn_of(request)
        name, arguments = (
            ("wait", {"until": "end"})
            if turn % 2
            else start(ids[-1] if ids and len(ids) % 5 else "0000", {"warmup_steps": 1 + turn % 50})
        )
        return Answer(tool_calls=[(name, arguments)], delay_s=0.03)

    overrides = [*SKILL, "budget.stages=20"]
    rng = random.Random(0)
    with LLMServer(endless) as server:
        run_here("search", *overrides, *asking(server), f"search_dir={tmp_path}/whole")
        asked = len(server.requests)
        for _ in range(8):
            start_and_kill(
                0.9 + rng.random() * 0.6,
                environment,
                *overrides,
                *asking(server),
                f"search_dir={tmp_path}/killed",
            )
        run_here("search", *overrides, *asking(server), f"search_dir={tmp_path}/killed")
        again = len(server.requests) - 2 * asked
    assert_consistent(tmp_path / "killed", 20)
    trees = [
        [(n.parent_id, n.hparams, n.score) for n in EventStore(tmp_path / name / "tree.jsonl").tree]
        for name in ("whole", "killed")
    ]
    assert trees[0] == trees[1]
    assert 0 <= again <= 8
    names = [event["name"] for event in calls_of(tmp_path / "killed")]
    assert len(names) == len(set(names)) == asked


def test_a_long_session_is_sent_in_part_with_every_call_and_its_result_together(
    run_here: Run, tmp_path: Path
) -> None:
    steps = [
        start("0000", {}),
        ("wait", {"until": "end"}),
        *[("read_metrics", {"stage": "0001"})] * 40,
        ("finish", {"summary": ""}),
    ]
    with LLMServer(player(steps)) as server:
        run_here(
            "search",
            *SKILL,
            *asking(server, "search.method.max_context_tokens=16000", "search.method.max_turns=60"),
            f"search_dir={tmp_path}/s",
        )
        bodies = [request.body["messages"] for request in server.requests]
    assert len(bodies) > 30
    for messages in bodies:
        assert sum(len(json.dumps(message)) for message in messages) / 2.5 < 16_000 + 2_500, (
            "the newest result is sent in any case"
        )
        calls = [call["id"] for message in messages for call in message.get("tool_calls", ())]
        assert calls == [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert any("(left out: " in json.dumps(messages) for messages in bodies)
    whole = Transcript(tmp_path / "s/session.jsonl", {"0001"})
    assert len(whole.messages) > len(bodies[-1])
    assert not any("left out" in str(message["content"]) for message in whole.messages)


def test_a_session_needs_a_language_model(launch: Run, tmp_path: Path) -> None:
    done = launch("search", *SKILL, f"search_dir={tmp_path}/s", ok=False)
    assert done.returncode == 2
    assert "search=skill: needs a language model: agent=openai llm.model=NAME" in done.stderr
    assert not (tmp_path / "s").exists()
