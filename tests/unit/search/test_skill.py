"""The tools and the transcript of `search=skill`, against whatever a model may send."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.endpoint import LlmSettings
from llmzero.agents.journal import CallJournal
from llmzero.agents.llm import LlmAgent, LlmAgentSettings
from llmzero.agents.reply import Reply
from llmzero.agents.transcript import CALLS_KEPT, RESULT_KEPT, Transcript, tool_calls
from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.evidence.proposal import Proposal
from llmzero.search.methods.base import Expansion, MethodContext, StopRequest
from llmzero.search.methods.skill import Skill, SkillSettings
from llmzero.search.methods.skill_tools import Tools, read_skills
from llmzero.tree.tree import Node, Tree
from tests.llm_server import Answer, Hostile, LLMServer, junk, script
from tests.unit.search.test_tree_search import grow


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
    return Tools(
        context,
        lambda tree, node_id: builder.for_proposal(tree, node_id, {"stages": 3.0}),
        "m",
        read_skills(None),
    )


def fuzzed(rng: random.Random, tools: Tools, tree: Tree) -> tuple[str, dict[str, Any]]:
    """A call that is right in most of its parts."""
    schema = rng.choice(tools.schemas)["function"]
    catalogue = tools.context.catalogue
    present, sampled = catalogue.defaults(), {name: p.sample(rng) for name, p in catalogue.items()}
    sound: dict[str, Any] = {
        "stage": rng.choice(list(tree.nodes)),
        "parent": rng.choice(list(tree.nodes)),
        "checkpoint": rng.choice(["best", "last", 4, "4"]),
        "changes": {n: v for n, v in catalogue.changes(present, sampled).items() if rng.random() < 0.2},
        "reason": "because",
        "name": rng.choice(list(tools.skills)),
        "until": "end",
        "summary": "done",
        "diagnosis": "plateau",
        "length": rng.choice([0.5, 1, 1.5, 2]),
    }
    arguments = {name: sound[name] for name in schema["parameters"]["properties"]}
    for name in list(arguments):
        if rng.random() < 0.15:
            arguments[name] = junk(rng)
    if arguments.get("changes") and rng.random() < 0.5:
        arguments["changes"] = {
            **sound["changes"],
            rng.choice(["learning_rate", "group_size", "luck"]): junk(rng),
        }
    return schema["name"], arguments


def test_five_thousand_fuzzed_calls_start_nothing_out_of_bounds(
    tools: Tools, tree: Tree, catalogue: Catalogue
) -> None:
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
            assert 0.5 <= outcome.expansion.proposal.length <= 2
    assert min(started, refused) > 100
    assert set(tree.nodes) == {"0000", "0001", "0002"}


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (2, "0003 starts now from 0000, checkpoint best, with nothing changed, 2 times the usual length."),
        (None, "0003 starts now from 0000, checkpoint best, with nothing changed."),
        (3, "Nothing was done. length=3: must be a number from 0.5 to 2."),
        (0, "Nothing was done. length=0: must be a number from 0.5 to 2."),
        ("twice", "Nothing was done. length='twice': must be a number from 0.5 to 2."),
        ([float("nan")], "Nothing was done. length=[nan]: must be a number from 0.5 to 2."),
    ],
)
def test_a_session_sizes_its_stages(tools: Tools, tree: Tree, length: Any, said: str) -> None:
    for node in tree:
        node.hparams |= {"learning_rate": 3e-6} if node.node_id == "0001" else {}
    arguments = {"parent": "0000", "checkpoint": "best", "changes": {}, "reason": "r", "length": length}
    outcome = tools.run("start_stage", arguments, tree, {})
    assert outcome is not None and outcome.text == said
    assert (outcome.expansion is None) == said.startswith("Nothing")
    if outcome.expansion is not None and outcome.expansion.proposal is not None:
        assert outcome.expansion.proposal.length == (length or 1)


def test_a_session_is_told_what_longer_stages_leave_of_the_budget(tools: Tools, tree: Tree) -> None:
    running = Node("0003", "0002", 3, dict(tree["0002"].hparams), 25, None, {"length": 2.0}, state="running")
    tree.add(running)
    outcome = tools.run("list_runs", {}, tree, {})
    assert outcome is not None
    assert "Left of the budget: stages 1; 1 running." in outcome.text


def test_where_stages_have_one_length_no_session_sizes_them(tools: Tools, tree: Tree) -> None:
    fixed = Tools(replace(tools.context, lengths=(1.0, 1.0)), tools.evidence, "m", tools.skills)
    arguments = {"parent": "0002", "checkpoint": "best", "changes": {}, "reason": "r"}
    outcome = fixed.run("start_stage", {**arguments, "length": 2}, tree, {})
    assert outcome is not None
    assert outcome.text.startswith("Nothing was done. length is no argument; there are parent, checkpoint")


def test_a_transcript_survives_any_reply_and_is_the_same_when_read_again(tmp_path: Path) -> None:
    rng = random.Random(1)
    talk = Transcript(tmp_path / "session.jsonl", ())
    talk.say("system", "s")
    schema = {"properties": {"tool": {}, "arguments": {}}}
    for i in range(400):
        text = Hostile.text(rng, schema) if i % 2 else json.dumps({"tool": "wait", "arguments": junk(rng)})
        made = tuple(
            (f"id{j}", str(junk(rng)), json.dumps(junk(rng)))
            for j in range(rng.randrange(12) if i % 3 else 0)
        )
        talk.hear(Reply(text, made, prompt_tokens=1))
        assert len(talk.pending) <= CALLS_KEPT
        while talk.pending:
            json.loads(talk.pending[0].arguments)
            talk.answer("fine", {})
    read = Transcript(tmp_path / "session.jsonl", ())
    assert (read.messages, read.turns, read.misses, list(read.pending)) == (
        talk.messages,
        talk.turns,
        talk.misses,
        [],
    )
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
    assert (native.call_id, native.name, native.arguments, native.native) == (
        "t00003n00",
        "wait",
        '{"until": "end"}',
        True,
    )
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


@pytest.mark.parametrize("content", [b"", b" \n", b"caf\xe9"])
def test_a_skill_file_that_says_nothing_or_does_not_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.md").write_bytes(content)
    with pytest.raises(UserError, match=rf"{tmp_path}/mine\.md: "):
        read_skills(str(tmp_path))


@contextmanager
def session(
    catalogue: Catalogue, metrics: Any, folder: Path, *answers: Answer | str
) -> Iterator[tuple[Skill, LLMServer]]:
    """A session with a model that gives these answers, in the directory of a search."""
    builder = EvidenceBuilder(folder / "nodes", catalogue, metrics, 0)
    with LLMServer(script(answers)) as server:
        llm = LlmSettings(model="m", base_url=server.url, api_key_env=None, retries=0)
        agent = LlmAgent(LlmAgentSettings(), llm)
        agent.endpoint.connect(CallJournal(folder / "nodes", lambda *_: None, set(), lambda: None))
        facts = lambda tree, node_id: builder.for_proposal(tree, node_id, {"stages": 3.0})  # noqa: E731
        context = MethodContext(catalogue, lambda *_: Proposal("", (), "", {}), 3, 0, agent, facts, folder)
        yield Skill(SkillSettings(), context), server


def calling(name: str, **arguments: Any) -> Answer:
    return Answer(tool_calls=[(name, arguments)])


def searched(catalogue: Catalogue, *shape: tuple[str | None, float | None]) -> Tree:
    tree = grow(*shape)
    for node in tree:
        node.hparams = catalogue.defaults()
        node.state = node.result.state if node.result else "running"
    return tree


def test_a_session_begins_once_the_base_model_is_there(
    catalogue: Catalogue, metrics: Any, tmp_path: Path
) -> None:
    with session(catalogue, metrics, tmp_path, calling("list_runs"), calling("finish", summary="-")) as (
        skill,
        server,
    ):
        assert skill.watch(searched(catalogue, (None, None))) is None
        assert server.requests == []
        assert skill.ask(searched(catalogue, (None, 0.3))) is None
        assert len(server.requests) == 2


def test_a_stop_reaches_the_driver_before_the_model_goes_on(
    catalogue: Catalogue, metrics: Any, tmp_path: Path
) -> None:
    tree = searched(catalogue, (None, 0.3), ("0000", None))
    with session(
        catalogue, metrics, tmp_path, calling("stop_stage", stage="0001", reason="flat"), calling("wait")
    ) as (skill, server):
        assert skill.watch(tree) == StopRequest("0001", "flat")
        assert len(server.requests) == 1
        tree["0001"].stop = {"reason": "flat"}
        assert [skill.watch(tree) for _ in range(3)] == [None] * 3
        assert len(server.requests) == 2, "it waits, and nothing is new"


def test_a_start_waits_for_a_free_worker(catalogue: Catalogue, metrics: Any, tmp_path: Path) -> None:
    tree = searched(catalogue, (None, 0.3), ("0000", None))
    start = calling(
        "start_stage", parent="0000", checkpoint="best", changes={"learning_rate": 2e-4}, reason="more"
    )
    with session(catalogue, metrics, tmp_path, start) as (skill, server):
        assert [skill.watch(tree) for _ in range(3)] == [None] * 3
        expansion = skill.ask(tree)
        assert expansion is not None
        assert (expansion.hparams["learning_rate"], expansion.proposal.agent, expansion.proposal.calls) == (
            2e-4,
            "m",
            1,
        )
        assert expansion.proposal.diagnosis == ()
        assert len(server.requests) == 1


def test_rules_say_why_they_decided(catalogue: Catalogue, metrics: Any, tmp_path: Path) -> None:
    """An old error is no reason: after it there was a reply."""
    tree = searched(catalogue, (None, 0.3))
    answers = [Answer(status=500, error="ill"), "Hm.", "Well.", "I see."]
    with session(catalogue, metrics, tmp_path, *answers) as (skill, _):
        notes = []
        for _ in range(2):
            expansion = skill.ask(tree)
            assert expansion is not None
            notes += expansion.proposal.notes
            tree.nodes |= searched(catalogue, (None, 0.3), ("0000", 0.3)).nodes
    assert "Error code: 500" in notes[0]
    assert notes[1] == "rules started this stage in place of m: no usable call"


def test_a_result_is_cut_so_that_the_next_message_can_be_sent(tmp_path: Path) -> None:
    talk = Transcript(tmp_path / "session.jsonl", ())
    talk.say("system", "s")
    talk.hear(Reply("", (("a", "read_skill", '{"name": "long"}'),)))
    talk.answer("word " * 100_000, {})
    assert len(talk.sent(8000)[-1]["content"]) <= RESULT_KEPT
