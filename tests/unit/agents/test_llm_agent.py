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
from llmzero.core.hparams import Catalogue
from llmzero.evidence.evidence import Evidence
from tests.llm_server import Answer, LLMServer, script
from tests.unit.agents.test_answer import reply
from tests.unit.agents.test_rules import evidence

LLM = LlmSettings(model="m", api_key_env=None, retries=0, timeout_s=5.0)
SOUND = reply(("group_size", 16))
CLAMPABLE = reply(("learning_rate", 5.0), ("luck", 1))
USELESS = reply(("luck", 1))


@pytest.fixture
def facts(catalogue: Catalogue, metrics: Any) -> Evidence:
    return replace(evidence(catalogue, [0.3, 0.31, 0.3, 0.31]), metric_catalogue=metrics, node_id="0002")


def agent(server: LLMServer, nodes: Path, **settings: Any) -> LlmAgent:
    made = LlmAgent(LlmAgentSettings(**settings), replace(LLM, base_url=server.url))
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
