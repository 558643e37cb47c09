"""What a language model may answer beside changes: searches over real HTTP, and killed ones."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree
from tests.integration.conftest import Run, read_lines
from tests.integration.searches import FORESEEABLE, SIMULATED, summary
from tests.integration.test_baselines_killed import composed, events, run, run_killed
from tests.integration.test_llm import ALWAYS_ASKING, asking, calls_of, tree_of
from tests.integration.test_thinking import paced
from tests.llm_server import Answer, LLMServer, Request, answer_json, asked_schema, scripted, sensible

ASKING = [ALWAYS_ASKING, "agent.max_prompt_tokens=100000", "stopper=none"]


def said(change: Callable[[random.Random, dict[str, Any], dict[str, Any], int], Any]) -> Any:
    """Return a mind that answers sensibly, but for what `change` does to the answer.

    It knows the properties of the schema, and the number of the stage that is to be proposed.
    """

    def mind(request: Request) -> Answer:
        schema, rng = asked_schema(request), random.Random(request.last_user)
        if "changes" not in schema.get("properties", {}):
            return scripted(request)
        value, number = sensible(rng, schema), re.findall(r"Propose the stage (\d+) ", request.text)[-1]
        change(rng, value, schema["properties"], int(number))
        return answer_json(request, value)

    return mind


def freely(rng: random.Random, value: dict[str, Any], properties: dict[str, Any], number: int) -> None:
    """Use all there is: other parents, lengths, alternatives, closing and training on unchanged."""
    if "close" in properties["action"]["enum"] and number % 5 == 3:
        value |= {"action": "close", "rationale": f"Nothing grows there, as {number} shows."}
    elif number % 5 == 1:
        value |= {"action": "continue", "changes": []}
    if "parent" in properties and number % 2 and value["action"] != "close":
        value["parent"] = rng.choice(properties["parent"]["enum"])
    value["length"] = min([0.5, 1, 1.25, 2][number % 4], properties["length"]["maximum"])
    if number % 3:
        other = sensible(rng, {"properties": properties})
        value["alternative"] = {name: other[name] for name in ("changes", "resume_from", "expected")}


def tree_and_log(search: Path) -> tuple[Tree, list[dict[str, Any]]]:
    return EventStore(search / "tree.jsonl", repair=False).tree, read_lines(search / "tree.jsonl")


def withdrawn(log: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((i, event) for i, event in enumerate(log) if event["event"] == "withdrawn")


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("method", ["llmzero", "paper"])
def test_a_killed_search_of_free_answers_is_the_uninterrupted_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, workers: int
) -> None:
    with LLMServer(said(freely)) as server:
        config = composed(method, *asking(server, *ASKING, f"search.workers={workers}"))
        whole = run(config, tmp_path / "whole", stages=20)
        asked = len(server.requests)
        assert run_killed(monkeypatch, config, tmp_path / "killed", stages=20) == whole
        assert len(server.requests) == 2 * asked, "what was answered is not asked again"

    def without_charges(search: Path) -> list[dict[str, Any]]:
        return [event for event in events(search) if event["event"] != "llm_call"]

    assert without_charges(tmp_path / "killed") == without_charges(tmp_path / "whole")
    for search in (tmp_path / "killed", tmp_path / "whole"):
        assert len(calls_of(search)) == len({event["name"] for event in calls_of(search)}) == asked
    tree, log = tree_and_log(tmp_path / "whole")
    kinds = Counter(kind for node in tree.stages() for kind in kinds_of(node))
    # Of four that are asked at a time, none is the last to be asked once it has ended.
    wanted = {"close", "continue", "moved", "sized", *(["alternative"] if workers == 1 else [])}
    assert wanted <= kinds.keys(), kinds
    assert [node.node_id for node in tree] == [f"{i:04d}" for i in range(len(tree))]
    assert_closed_nodes_stay_closed(tree, log)
    budget = summary(tmp_path / "whole")["budget"]
    lengths = sum(node.multiple for node in tree.stages() if node.final)
    assert 19.5 <= lengths < 20.5
    assert budget["stages"] + budget["longer"] == pytest.approx(lengths)


def kinds_of(node: Node) -> Iterator[str]:
    """Yield what was out of the ordinary in the answer that led to a stage."""
    proposal = node.proposal
    yield from {"close", "continue"} & {proposal.get("action")}
    if node.state == "withdrawn":
        return
    if node.parent_id != node.asked_below:
        assert proposal["parent"] == node.parent_id
        yield "moved"
    if node.multiple != 1.0:
        assert node.steps is not None
        yield "sized"
    if proposal.get("alternative_of"):
        assert (proposal["calls"], proposal["tokens"], node.asked) == (0, 0, None)
        yield "alternative"


def assert_closed_nodes_stay_closed(tree: Tree, log: list[dict[str, Any]]) -> None:
    """No stage was decided on below a node after it had been closed, unless its question was asked before."""
    for i, event in withdrawn(log):
        node = tree[event["node_id"]]
        assert node.state == "withdrawn"
        assert not any(later.get("node_id") == node.node_id for later in log[i + 1 :]), "its number is used"
        if event["closes"]:
            assert node.parent_id is not None
            assert tree[node.parent_id].closed == event["reason"]
            later = {each["node_id"] for each in log[i:] if each["event"] in ("proposing", "created")}
            asked = {each["node_id"] for each in log[:i] if each["event"] == "proposing"}
            assert not later & set(tree[node.parent_id].children) - asked


@pytest.mark.parametrize("workers", [1, 4])
def test_a_model_that_closes_everything_ends_no_search(launch: Run, tmp_path: Path, workers: int) -> None:
    """Of the nodes that may grow one is left, whatever a model says; calls stay charged."""

    def closes(rng: random.Random, value: dict[str, Any], properties: dict[str, Any], number: int) -> None:
        value |= {"action": "close", "rationale": "It is of no use: the policy has collapsed."}

    search = tmp_path / "s"
    with LLMServer(said(closes)) as server:
        overrides = [*SIMULATED, *ASKING, f"search.workers={workers}", "budget.stages=6"]
        done = launch("search", *overrides, *asking(server), f"search_dir={search}")
        complaints = [request for request in server.requests if "is the only stage that" in request.last_user]
    tree, log = tree_and_log(search)
    outcome = summary(search)
    assert outcome["state"] == "finished"
    assert outcome["budget"]["stages"] == 6
    gone = [event for _, event in withdrawn(log)]
    closed = [event for event in gone if event["closes"]]
    assert len(closed) >= 2
    assert outcome["nodes"]["withdrawn"] == len(gone)
    late = [event["reason"] for event in gone if not event["closes"]]
    assert workers > 1 or not late, "of several that are asked at a time, the others have closed theirs"
    assert all("the only stage that can be continued now" in reason for reason in late)
    assert outcome["nodes"]["total"] == 7
    assert complaints, "where no other stage can be continued, the model is told so"
    assert len(calls_of(search)) == len(server.requests)
    told = "0000 is the only stage that can be continued. Taken for `change`."
    assert [note for node in tree.stages() for note in node.proposal.get("notes", ()) if note.endswith(told)]
    assert_closed_nodes_stay_closed(tree, log)
    for text in (done.stdout, launch("status", str(search)).stdout):
        assert "withdrawn: It is of no use: the policy has collapsed." in " ".join(text.split())
        assert "closed: It is of no use" in " ".join(text.split())
    assert '"withdrawn":"It is of no use' in (search / "report.html").read_text().replace('": "', '":"')
    node = closed[0]["node_id"]
    refused = launch("propose", f"search_dir={search}", f"node={node}", ok=False)
    assert f"node={node}: was withdrawn" in refused.stderr


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (
            {"action": "close"},
            "the agent would close 0002, the only stage that can be continued now: As 0004 says.",
        ),
        ({"parent": "0001"}, "it was to continue 0001, which is closed by now"),
    ],
)
def test_an_answer_that_comes_when_all_else_is_closed_is_withdrawn(
    run_here: Run, tmp_path: Path, wish: dict[str, str], reason: str
) -> None:
    """Stage 0004 is asked for below 0002; before its answer comes, 0003 and 0002 are closed, 0001 is full."""
    search, late = tmp_path / "s", threading.Event()

    def mind(request: Request) -> Answer:
        number = re.findall(r"Propose the stage (\d+) ", request.text)[-1]
        if number == "0007":
            late.set()
        if number == "0004":
            late.wait(60)
            time.sleep(0.3)
        if number not in ("0004", "0005", "0006"):
            return scripted(request)
        value = json.loads(scripted(request).content or "{}") | {"rationale": f"As {number} says."}
        return answer_json(request, value | (wish if number == "0004" else {"action": "close"}))

    with LLMServer(mind) as server:
        run_here(
            "search",
            *paced(step_s=0.05),
            ALWAYS_ASKING,
            *asking(server),
            *FORESEEABLE,
            "search.method.k_max=2",
            "search.workers=2",
            "search.max_depth=3",
            "budget.stages=16",
            f"search_dir={search}",
        )
    tree, log = tree_and_log(search)
    gone = {event["node_id"]: event for _, event in withdrawn(log)}
    assert {name: event["closes"] for name, event in gone.items()} == {
        "0004": False,
        "0005": True,
        "0006": True,
    }
    assert gone["0004"]["reason"] == reason
    assert (tree.closed, tree["0002"].closed) == (["0003", "0002"], "As 0006 says.")
    assert tree["0001"].closed == ""
    assert summary(search)["nodes"]["withdrawn"] == 3


def test_a_second_best_proposal_is_the_next_child_without_another_call(run_here: Run, tmp_path: Path) -> None:
    def twofold(rng: random.Random, value: dict[str, Any], properties: dict[str, Any], number: int) -> None:
        other = sensible(rng, {"properties": properties})
        value["alternative"] = {name: other[name] for name in ("changes", "resume_from", "expected")}

    search = tmp_path / "s"
    overrides = [*SIMULATED, *ASKING, "search.max_depth=2", "budget.stages=12", "search.workers=1"]
    with LLMServer(said(twofold)) as server:
        run_here("search", *overrides, *asking(server), f"search_dir={search}")
    tree, _ = tree_and_log(search)
    seconds = [node for node in tree.stages() if node.proposal["alternative_of"]]
    assert len(seconds) >= 3
    for node in seconds:
        first = tree[node.proposal["alternative_of"]]
        assert first.parent_id == node.parent_id
        assert first.proposal["alternative"]["changes"] == node.proposal["changes"]
        assert first.proposal["alternative"]["expected"] == node.proposal["expected"]
        assert not list((search / "nodes" / node.node_id).glob("calls/*"))
        asked = [tree[each] for each in tree[str(node.parent_id)].children if tree[each].asked]
        assert [each.node_id for each in asked if first.node_id < each.node_id < node.node_id] == []
    again = tmp_path / "again"
    replay = ["llm.cassette=replay", f"llm.cassette_dir={search}"]
    run_here("search", *overrides, *asking(server), *replay, f"search_dir={again}")
    assert tree_of(again) == tree_of(search)


def test_stages_are_as_long_as_asked_within_the_budget(run_here: Run, tmp_path: Path) -> None:
    def long(rng: random.Random, value: dict[str, Any], properties: dict[str, Any], number: int) -> None:
        value["length"] = properties["length"]["maximum"]

    search = tmp_path / "s"
    with LLMServer(said(long)) as server:
        run_here(
            "search",
            *SIMULATED,
            *ASKING,
            *asking(server),
            "search.stage_steps=10",
            "search.workers=1",
            "budget.stages=8",
            f"search_dir={search}",
        )
    tree, _ = tree_and_log(search)
    assert [node.steps for node in tree.stages()] == [10, 20, 20, 20, 10]
    ended = [node.result.validation[-1].step for node in tree.stages() if node.result]
    assert ended == [10, 20, 20, 20, 10]


def test_stages_sized_in_flops_keep_a_budget_of_them(run_here: Run, tmp_path: Path) -> None:
    def long(rng: random.Random, value: dict[str, Any], properties: dict[str, Any], number: int) -> None:
        value["length"] = 2

    search, usual, sizes = tmp_path / "s", 3e16, ["search.stage_flops=3e16", "search.stage_steps=null"]
    with LLMServer(said(long)) as server:
        run_here(
            "search",
            *SIMULATED,
            *ASKING,
            *asking(server),
            *sizes,
            "search.workers=1",
            "budget.stages=null",
            f"budget.flops={6.4 * usual}",
            f"search_dir={search}",
        )
    tree, _ = tree_and_log(search)
    lengths = [node.multiple for node in tree.stages()]
    assert lengths[:3] == [1, 2, 2]
    assert all(node.flops == pytest.approx(node.multiple * usual) for node in tree.stages())
    assert 6.4 * usual - usual / 2 < summary(search)["budget"]["flops"] < 6.4 * usual + usual / 2
    cut = tree.stages()[-1].proposal
    assert 1 <= cut["length"] < 2
    assert cut["notes"][-1] == f"length=2: taken for {cut['length']:g}, as no more is left of the budget."


def test_a_recorded_answer_of_an_earlier_version_is_replayed(run_here: Run, tmp_path: Path) -> None:
    """It says less than is asked for now, and cannot be asked for more."""
    search, overrides = tmp_path / "s", [*SIMULATED, *ASKING, "budget.stages=5", "search.workers=1"]
    with LLMServer(scripted) as server:
        run_here("search", *overrides, *asking(server), f"search_dir={search}")
    for file in search.glob("nodes/*/calls/*.json"):
        record = json.loads(file.read_text())
        value = json.loads(record["text"])
        for name in ("action", "length", "alternative", "parent"):
            value.pop(name, None)
        for name in ("low", "high", "probability_best"):
            del value["expected"][name]
        file.write_text(json.dumps({**record, "text": json.dumps(value)}))
    replay = ["llm.cassette=replay", f"llm.cassette_dir={search}"]
    run_here("search", *overrides, *asking(server), *replay, f"search_dir={tmp_path}/again")
    tree, _ = tree_and_log(tmp_path / "again")
    assert [node.hparams for node in tree] == [node.hparams for node in tree_and_log(search)[0]]
    noted = [note for node in tree.stages() for note in node.proposal["notes"]]
    assert "expected.low is missing: must be a number from 0 to 1. Left out." in noted
