"""The tools and the transcript of `search=skill`, against whatever a model may send."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.base import Proposal
from llmzero.agents.endpoint import Reply
from llmzero.agents.evidence import EvidenceBuilder
from llmzero.agents.transcript import CALLS_KEPT, Transcript, tool_calls
from llmzero.errors import UserError
from llmzero.hparams import Catalogue
from llmzero.search.methods.base import Expansion, MethodContext
from llmzero.search.methods.skill_tools import Tools, read_skills
from llmzero.search.tree import Tree
from tests.llm_server import Hostile, junk
from tests.unit.test_tree_search import grow


@pytest.fixture
def tree() -> Tree:
    return grow((None, 0.3), ("0000", 0.4), ("0001", 0.5))


@pytest.fixture
def tools(catalogue: Catalogue, metrics: Any, tree: Tree, tmp_path: Path) -> Tools:
    for node in tree:
        node.hparams = catalogue.defaults()
        (tmp_path / "nodes" / node.node_id / "checkpoints/step_00004").mkdir(parents=True)
        (tmp_path / "nodes" / node.node_id / "checkpoints/step_00004/COMPLETE").touch()
    builder = EvidenceBuilder(tmp_path / "nodes", catalogue, metrics, 0)
    context = MethodContext(catalogue, lambda *_: Proposal("", (), "", {}), 3, 0, directory=tmp_path)
    return Tools(context, lambda tree, node_id: builder.for_proposal(tree, node_id, {"stages": 3.0}), "m", read_skills(None))


def fuzzed(rng: random.Random, tools: Tools, tree: Tree) -> tuple[str, dict[str, Any]]:
    """A call that is right in most of its parts."""
    schema = rng.choice(tools.schemas)["function"]
    sound: dict[str, Any] = {
        "stage": rng.choice(list(tree.nodes)),
        "parent": rng.choice(list(tree.nodes)),
        "checkpoint": rng.choice(["best", "last", 4, "4"]),
        "changes": {name: p.sample(rng) for name, p in tools.context.catalogue.items() if rng.random() < 0.2},
        "reason": "because",
        "name": rng.choice(list(tools.skills)),
        "until": "end",
        "summary": "done",
        "diagnosis": "plateau",
    }
    arguments = {name: sound[name] for name in schema["parameters"]["properties"]}
    for name in list(arguments):
        if rng.random() < 0.15:
            arguments[name] = junk(rng)
    if arguments.get("changes") and rng.random() < 0.5:
        arguments["changes"] = {**sound["changes"], rng.choice(["learning_rate", "group_size", "luck"]): junk(rng)}
    return schema["name"], arguments


def test_five_thousand_fuzzed_calls_start_nothing_out_of_bounds(tools: Tools, tree: Tree, catalogue: Catalogue) -> None:
    rng, started, refused = random.Random(0), 0, 0
    for _ in range(5000):
        name, arguments = fuzzed(rng, tools, tree)
        outcome = tools.run(name, arguments, tree, {})
        assert outcome is not None, "nothing is running, so nothing can be waited for"
        refused += outcome.text.startswith("Nothing was done.")
        if outcome.expansion:
            started += 1
            assert isinstance(outcome.expansion, Expansion)
            assert catalogue.problems(outcome.expansion.hparams) == []
            assert set(outcome.expansion.hparams) == set(catalogue)
            assert outcome.expansion.parent_id in tree.nodes
            assert outcome.expansion.proposal.resume in ("best", "last", 4)
    assert min(started, refused) > 100
    assert set(tree.nodes) == {"0000", "0001", "0002"}


def test_a_transcript_survives_any_reply_and_is_the_same_when_read_again(tmp_path: Path) -> None:
    rng = random.Random(1)
    talk = Transcript(tmp_path / "session.jsonl", ())
    talk.say("system", "s")
    schema = {"properties": {"tool": {}, "arguments": {}}}
    for i in range(400):
        text = Hostile.text(rng, schema) if i % 2 else json.dumps({"tool": "wait", "arguments": junk(rng)})
        made = tuple((f"id{j}", str(junk(rng)), json.dumps(junk(rng))) for j in range(rng.randrange(12) if i % 3 else 0))
        talk.hear(Reply(text, made, prompt_tokens=1))
        assert len(talk.pending) <= CALLS_KEPT
        while talk.pending:
            json.loads(talk.pending[0].arguments)
            talk.answer("fine", {})
    read = Transcript(tmp_path / "session.jsonl", ())
    assert (read.messages, read.turns, read.misses, list(read.pending)) == (talk.messages, talk.turns, talk.misses, [])
    json.dumps(read.sent(5000)).encode()


def test_what_was_written_just_before_a_kill_is_done_again(tmp_path: Path) -> None:
    file = tmp_path / "session.jsonl"
    talk = Transcript(file, ())
    talk.say("system", "s")
    talk.hear(Reply("", (("a", "start_stage", '{"parent": "0000"}'),)))
    talk.answer("0001 starts now", {"stage": "0001"})
    assert not Transcript(file, ("0000", "0001")).pending, "the stage exists"
    (call,) = Transcript(file, ("0000",)).pending
    assert (call.name, call.arguments) == ("start_stage", '{"parent": "0000"}')


def test_calls_are_read_from_the_protocol_or_from_the_text() -> None:
    (native,) = tool_calls(Reply("words", (("x", "wait", '{"until": "end"}'),)), 3)
    assert (native.call_id, native.name, native.arguments, native.native) == ("t00003n00", "wait", '{"until": "end"}', True)
    (written,) = tool_calls(Reply('I say: {"tool": "wait", "arguments": {"until": "end"}}'), 3)
    assert (written.name, written.arguments, written.native) == ("wait", '{"until": "end"}', False)
    (broken,) = tool_calls(Reply("", (("x", "wait", '{"until": '),)), 3)
    assert "not JSON" in broken.problem
    assert tool_calls(Reply("I am thinking."), 3) == []


def test_skills_are_files_of_the_users_choice(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("# Mine\n\nWhat I know.\n\nMore.")
    assert list(read_skills(str(tmp_path))) == ["mine"]
    assert len(read_skills(None)) == 4
    with pytest.raises(UserError, match=r"search\.method\.skills=/no/where: no such folder"):
        read_skills("/no/where")
