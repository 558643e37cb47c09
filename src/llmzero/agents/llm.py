"""The proposer that is a language model, whose answers are mended, and kept within the catalogue's bounds."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from llmzero.agents.answer import Review, answer_schema, review
from llmzero.agents.endpoint import CallError, Endpoint, LlmSettings
from llmzero.agents.found_json import json_object
from llmzero.agents.journal import CallId
from llmzero.agents.prompt import Prompts, Shown, conversation
from llmzero.agents.reply import Reply
from llmzero.agents.rules import RandomAgent, RuleAgent
from llmzero.agents.text import clean
from llmzero.core.errors import UserError
from llmzero.core.redaction import MARK, redacted, redacted_data
from llmzero.core.settings import setting
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.proposal import Proposal

ANSWERS = ("changes", "action")  # an object is an answer that has one of these
ANSWER_SHOWN = 4000  # characters of an answer that are shown again when it has to be mended


@dataclass
class LlmAgentSettings:
    """`agent=openai` and its ablations."""

    name: str = setting("openai", "what reports call the agent")
    vision: bool = setting(False, "show training dynamics as plots, too")
    descriptions: bool = setting(True, "show what metrics and hyperparameters mean")
    history: bool = setting(True, "show what was tried elsewhere in the search")
    metrics: bool = setting(True, "show metrics, scores and rollouts")
    max_prompt_tokens: int = setting(
        24_000,
        "limit of a prompt, by a careful estimate; the oldest is summarised first to keep it",
        low=1000,
    )
    repairs: int = setting(2, "times that an answer that cannot be used is sent back", low=0, high=10)


class LlmAgent:
    """Proposes by asking a language model.

    An answer that cannot be used goes back with precise complaints, `repairs` times. After that values are
    clamped and the rest left out, where something remains; else the rule-based agent proposes. The proposal's
    `notes` say so in either case.
    """

    def __init__(self, settings: LlmAgentSettings, llm: LlmSettings) -> None:
        self.settings = settings
        self.endpoint = Endpoint(llm)
        self.shown = Shown(
            settings.vision and settings.metrics, settings.descriptions, settings.history, settings.metrics
        )
        self.prompts = Prompts(llm.prompts)
        self._rules = RuleAgent() if settings.metrics else RandomAgent()

    def check(self, evidence: Evidence) -> None:
        """Check what the model is to be asked.

        Raises:
            UserError: no prompt can be made, as a template is broken, or its budget too small; or a secret of
                the environment is a word that answers are made of.
        """
        self.prompt(evidence)
        named = redacted(json.dumps(answer_schema(evidence)))
        if MARK in named:
            word = named[max(0, named.index(MARK) - 40) : named.index(MARK) + 40]
            raise UserError(
                "a key, token or password in the environment is a word that answers are made of, and would "
                f"be taken out of them (here: ...{word}...); give it another value, or unset its variable"
            )

    def prompt(self, evidence: Evidence) -> list[dict[str, Any]]:
        """Return the messages that the model is asked with."""
        return conversation(self.prompts, "proposer", evidence, self.shown, self.settings.max_prompt_tokens)

    def propose(self, evidence: Evidence) -> Proposal:
        """Return the model's proposal, mended where it has to be."""
        if evidence.standing is not None and not self.settings.history:
            evidence = replace(evidence, standing=replace(evidence.standing, others=()))
        parent = evidence.stage.node_id
        call = CallId(evidence.node_id, "prefetch" if evidence.node_id == parent else "proposal", parent)
        prompt, schema = self.prompt(evidence), answer_schema(evidence)
        messages = prompt
        replies: list[Reply] = []
        answer, why = Review((), None), ""
        for _ in range(1 + self.settings.repairs):
            try:
                replies.append(self.endpoint.ask(call, messages, schema=schema))
            except CallError as error:
                why = str(error)
                break
            answer = self._review(replies[-1], evidence)
            recorded = not self.endpoint.replays or self.endpoint.knows(call)
            if not answer.complaints or not recorded:  # earlier versions complained of less
                break
            messages = [*prompt, *self._complaint(replies[-1], answer)]
        return _charged(self._settled(answer, why, evidence), replies)

    def _review(self, reply: Reply, evidence: Evidence) -> Review:
        value = redacted_data(json_object(reply.text, *ANSWERS))
        answer = review(value, evidence, self.endpoint.model)
        limit = f"llm.max_reply_tokens={self.endpoint.settings.max_reply_tokens}"
        cut = f"Your reply was cut at its greatest length ({limit}); answer more briefly."
        why = tuple(text for text in (cut if reply.cut else "", reply.trouble) if text)
        return replace(answer, complaints=(*why, *answer.complaints)) if answer.complaints else answer

    def _complaint(self, reply: Reply, answer: Review) -> list[dict[str, Any]]:
        value = json_object(reply.text, *ANSWERS)  # without the reasoning before it
        text = json.dumps(value) if value is not None else reply.text
        said = {"role": "assistant", "content": clean(text, ANSWER_SHOWN) or "(nothing)"}
        return [
            said,
            {"role": "user", "content": self.prompts.render("repair", complaints=answer.complaints)},
        ]

    def _settled(self, answer: Review, why: str, evidence: Evidence) -> Proposal:
        """Return what can be used of the last answer, or else a proposal by rules."""
        if answer.proposal is not None:
            notes = (*answer.proposal.notes, *([why] if why else []))
            return replace(answer.proposal, notes=notes)
        reason = why or " ".join(answer.complaints)
        proposal = self._rules.propose(evidence)
        return replace(
            proposal,
            notes=(f"{proposal.agent} proposed in place of {self.endpoint.model}: {clean(reason, 600)}",),
        )


def _charged(proposal: Proposal, replies: list[Reply]) -> Proposal:
    return replace(
        proposal,
        calls=len(replies),
        tokens=sum(r.tokens for r in replies),
        dollars=sum(r.dollars for r in replies),
    )
