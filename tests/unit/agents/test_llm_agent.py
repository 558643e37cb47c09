"""Proposer and early stopper that are language models: what is sent back, and who answers in their place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.endpoint import LlmSettings
from llmzero.agents.journal import CallJournal
from llmzero.agents.llm import LlmAgent, LlmAgentSettings
from llmzero.agents.llm_stopper import LlmStopper, LlmStopperSettings
from llmzero.core import redaction
from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue
from llmzero.evidence.evidence import Evidence, Standing
from tests.llm_server import Answer, LLMServer, asked_schema, script
from tests.unit.agents.test_answer import reply
from tests.unit.agents.test_rules import evidence

LLM = LlmSettings(model="m", api_key_env=None, retries=0, timeout_s=5.0)
SOUND = reply(("group_size", 16))
CLAMPABLE = reply(("learning_rate", 5.0), ("luck", 1))
KEY = "sk-secret-of-the-test-0123456789"
USELESS = reply(("luck", 1))


@pytest.fixture
def facts(catalogue: Catalogue, metrics: Any) -> Evidence:
    return replace(evidence(catalogue, [0.3, 0.31, 0.3, 0.31]), metric_catalogue=metrics, node_id="0002")


def agent(server: LLMServer, nodes: Path, *, llm: dict[str, Any] | None = None, **settings: Any) -> LlmAgent:
    made = LlmAgent(LlmAgentSettings(**settings), replace(LLM, base_url=server.url, **(llm or {})))
    made.endpoint.connect(CallJournal(nodes, lambda *_: None, (), lambda: None))
    return made


def test_an_answer_goes_back_with_what_is_wrong_and_comes_again_mended(
    facts: Evidence, tmp_path: Path
) -> None:
    with LLMServer(script([USELESS, CLAMPABLE, SOUND])) as server:
        proposal = agent(server, tmp_path).propose(facts)
        first, second, third = (request.body["messages"] for request in server.requests)
    assert (proposal.agent, proposal.changes, proposal.calls, proposal.notes) == (
        "m",
        {"group_size": 16},
        3,
        (),
    )
    assert proposal.tokens > 0
    assert second[:2] == third[:2] == first, "the prompt stays, and only the last answer is discussed"
    assert [message["role"] for message in third] == ["system", "user", "assistant", "user"]
    assert json.loads(second[2]["content"]) == USELESS
    assert "- luck: unknown parameter" in second[3]["content"]
    assert "- learning_rate=5.0: must be float from 1e-05 to 0.001." in third[3]["content"]


def test_after_the_last_repair_what_is_sound_is_taken_and_the_rest_noted(
    facts: Evidence, tmp_path: Path
) -> None:
    with LLMServer(script([CLAMPABLE])) as server:
        proposal = agent(server, tmp_path, repairs=1).propose(facts)
        assert len(server.requests) == 2
    assert (proposal.agent, proposal.changes, proposal.calls) == ("m", {"learning_rate": 1e-3}, 2)
    assert proposal.notes[0] == "learning_rate=5.0: must be float from 1e-05 to 0.001. Clamped to 0.001."
    assert "luck: unknown parameter" in proposal.notes[1]


@pytest.mark.parametrize("metrics_shown", [True, False])
def test_where_nothing_can_be_used_rules_propose_or_chance_where_the_model_is_blind(
    facts: Evidence, tmp_path: Path, metrics_shown: bool
) -> None:
    with LLMServer(script([USELESS])) as server:
        proposal = agent(server, tmp_path, metrics=metrics_shown).propose(facts)
        assert len(server.requests) == 3
    name = "rules" if metrics_shown else "random"
    assert proposal.agent == name
    assert proposal.calls == 3
    (note,) = proposal.notes
    assert note.startswith(f"{name} proposed in place of m: luck: unknown parameter")


def test_a_failure_after_an_answer_keeps_what_the_answer_was_good_for(
    facts: Evidence, tmp_path: Path
) -> None:
    with LLMServer(script([CLAMPABLE, Answer(status=500, error="gone")])) as server:
        proposal = agent(server, tmp_path).propose(facts)
    assert (proposal.agent, proposal.changes, proposal.calls) == ("m", {"learning_rate": 1e-3}, 1)
    assert "gone" in proposal.notes[-1]


@pytest.mark.parametrize("answers", [[SOUND], [USELESS, SOUND]])
def test_reasoning_hides_no_answer_and_is_not_sent_back(
    facts: Evidence, tmp_path: Path, answers: list[dict[str, Any]]
) -> None:
    reasoning = "<think>" + 'Say {maybe {"changes": this}? ' * 200 + "</think>\n"
    texts = [f"{reasoning}```json\n{json.dumps(answer)}\n```" for answer in answers]
    with LLMServer(script(list(texts))) as server:
        proposal = agent(server, tmp_path).propose(facts)
        assert len(server.requests) == len(answers)
        assert "maybe" not in server.requests[-1].text
    assert (proposal.agent, proposal.changes, proposal.notes) == ("m", {"group_size": 16}, ())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(content=None, finish_reason="content_filter"), "A filter of the endpoint ended the reply"),
        (Answer(content="", finish_reason="length"), "llm.max_reply_tokens="),
        (
            Answer(raw=b'{"choices": [{"message": {"refusal": "I must not."}}]}'),
            "refused to answer: I must not",
        ),
    ],
)
def test_why_there_is_no_answer_is_in_the_notes(
    facts: Evidence, tmp_path: Path, answer: Answer, words: str
) -> None:
    with LLMServer(script([answer])) as server:
        proposal = agent(server, tmp_path, repairs=1).propose(facts)
    assert proposal.agent == "rules"
    assert words in proposal.notes[0]


def test_an_answer_that_was_cut_is_asked_for_more_briefly(facts: Evidence, tmp_path: Path) -> None:
    with LLMServer(script([Answer(content='{"changes": [', finish_reason="length"), SOUND])) as server:
        assert agent(server, tmp_path).propose(facts).agent == "m"
        assert "answer more briefly" in server.requests[1].last_user


def test_without_a_usable_judgement_statistics_judge(catalogue: Catalogue, tmp_path: Path) -> None:
    flat = replace(evidence(catalogue, [0.3, 0.3, 0.3]), incumbent_score=0.6, node_id="0001")
    verdicts = []
    for answer in (
        {"stop": False, "probability": 0.4, "reason": "It may rise."},
        {"stop": "perhaps"},
        Answer(status=500, error="ill"),
    ):
        with LLMServer(script([answer])) as server:
            stopper = LlmStopper(LlmStopperSettings(), replace(LLM, base_url=server.url))
            stopper.endpoint.connect(
                CallJournal(tmp_path / str(len(verdicts)), lambda *_: None, (), lambda: None)
            )
            verdicts.append(stopper.decide(flat))
    assert (verdicts[0].stop, verdicts[0].reason, verdicts[0].details) == (
        False,
        "It may rise.",
        {"probability": 0.4},
    )
    assert [verdict.stop for verdict in verdicts[1:]] == [True, True]
    assert all(verdict.reason.startswith("by statistics, in place of m (") for verdict in verdicts[1:])


def test_nobody_is_asked_before_step_ten_or_without_a_score_to_pass(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    with LLMServer(script(["nothing"])) as server:
        stopper = LlmStopper(LlmStopperSettings(), replace(LLM, base_url=server.url))
        early = replace(evidence(catalogue, [0.3]), incumbent_score=0.6)
        assert not stopper.decide(early).stop
        assert not stopper.decide(replace(evidence(catalogue, [0.3, 0.3, 0.3]), incumbent_score=None)).stop
        assert server.requests == []


@pytest.mark.parametrize("history", [True, False])
def test_other_parents_are_offered_to_agents_that_know_them_alone(
    facts: Evidence, tmp_path: Path, history: bool
) -> None:
    other = replace(facts.stage, node_id="0000", depth=0, hparams={**facts.stage.hparams, "group_size": 4})
    free = replace(facts, standing=Standing(others=(other,)))
    with LLMServer(script([{**SOUND, "parent": "0000"}])) as server:
        proposal = agent(server, tmp_path, history=history, repairs=0).propose(free)
        properties = asked_schema(server.requests[0])["properties"]
        told = "in place of 0001" in server.requests[0].last_user
    assert (proposal.parent, proposal.changes) == ("0000" if history else None, {"group_size": 16})
    assert ("parent" in properties, "close" in properties["action"]["enum"], told) == (history,) * 3


# --- secrets ---


def test_secrets_leave_the_words_of_an_answer_and_never_its_structure(
    facts: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_kept", set())
    monkeypatch.setenv("MY_KEY", KEY)
    words = {"rationale": f"I was called with {KEY}.", "diagnosis": [KEY], "observations": [f"<{KEY}>"]}
    answer = Answer(content=f"{KEY} {json.dumps({**SOUND, **words})}")
    with LLMServer(script([answer]), api_key=KEY) as server:
        proposal = agent(server, tmp_path, llm={"api_key_env": "MY_KEY"}).propose(facts)
        again = agent(server, tmp_path, llm={"api_key_env": "MY_KEY"}).propose(facts)
        assert len(server.requests) == 1, "a restarted driver reads what is stored"
    assert (proposal.rationale, proposal.diagnosis, proposal.observations) == (
        "I was called with [key].",
        ("[key]",),
        ("<[key]>",),
    )
    assert proposal == again
    assert KEY not in json.dumps(proposal.to_dict())


def test_a_secret_that_is_a_word_of_answers_is_refused_at_the_start(
    facts: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_kept", set())
    with LLMServer(script([SOUND])) as server:
        made = agent(server, tmp_path)
        made.check(facts)
        monkeypatch.setenv("SOME_TOKEN", "expected")
        with pytest.raises(UserError, match=r'token or password in the environment is a word.*"\[key\]'):
            made.check(facts)


# --- replies as strangers send them ---

INTERPOLATIONS = ("${oc.env:HOME}", "${", "${nope}", "???", "${oc.env:", "$${x}", "${.}")


@pytest.mark.parametrize("text", INTERPOLATIONS)
def test_what_looks_like_an_interpolation_is_plain_text(facts: Evidence, tmp_path: Path, text: str) -> None:
    words = {"diagnosis": [text], "rationale": text, "observations": [text], "expected": {"effect": text}}
    changes = [{"name": "group_size", "value": 16, "reason": text}]
    with LLMServer(script([{**words, "changes": changes, "resume_from": "best"}])) as server:
        proposal = agent(server, tmp_path).propose(facts)
    assert proposal.expected is not None
    assert (proposal.diagnosis, proposal.observations, proposal.reasons) == (
        (text,),
        (text,),
        {"group_size": text},
    )
    assert (proposal.rationale, proposal.expected.effect, proposal.changes) == (
        text,
        text,
        {"group_size": 16},
    )


@pytest.mark.parametrize("depth", [40, 300, 900, 100_000])
def test_nested_values_of_any_depth_in_any_field_end_in_a_proposal(
    facts: Evidence, tmp_path: Path, depth: int
) -> None:
    nested, sound = "[" * depth + "]" * depth, SOUND
    replies = [json.dumps({**sound, key: 0}).replace(": 0", f": {nested}") for key in sound]
    change = {"name": "group_size", "value": 16, "reason": "so"}
    for key in change:
        replies.append(json.dumps({**sound, "changes": [{**change, key: 0}]}).replace(": 0", f": {nested}"))
    with LLMServer(script([Answer(content=text) for text in replies])) as server:
        made = agent(server, tmp_path, repairs=0)
        for _ in replies:
            assert made.propose(facts).changes


def test_an_early_stopper_takes_nested_and_odd_replies(facts: Evidence, tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    odd = [
        *(json.dumps({"stop": True, "probability": 0.1, "reason": text}) for text in INTERPOLATIONS),
        f'{{"stop": true, "reason": {deep}}}',
        f'{{"stop": {deep}}}',
        json.dumps({"stop": True, "reason": "\0 \ud800 \x1b[2J"}),
    ]
    with LLMServer(script([Answer(content=text) for text in odd])) as server:
        stopper = LlmStopper(LlmStopperSettings(min_step=1), replace(LLM, base_url=server.url))
        stopper.endpoint.connect(CallJournal(tmp_path, lambda *_: None, (), lambda: None))
        decisions = [stopper.decide(replace(facts, incumbent_score=0.5)) for _ in odd]
    assert tuple(decision.reason for decision in decisions[: len(INTERPOLATIONS)]) == INTERPOLATIONS
    assert all("by statistics" in decision.reason for decision in decisions[-3:-1])
    assert decisions[-1].reason.split() == ["[2J"]
