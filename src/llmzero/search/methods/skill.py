"""The skill-based baseline: a language model tunes alone, in one session of tool calls guided by skills."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from llmzero.agents.endpoint import CallError
from llmzero.agents.journal import CallId
from llmzero.agents.llm import LlmAgent
from llmzero.agents.reply import Reply
from llmzero.agents.rules import RuleAgent
from llmzero.agents.text import estimated_tokens, one_line
from llmzero.agents.transcript import Call, Transcript
from llmzero.core.errors import UserError
from llmzero.core.settings import setting
from llmzero.search.methods.base import Expansion, MethodContext, StopRequest
from llmzero.search.methods.skill_tools import Outcome, Tools, read_skills
from llmzero.search.thinking import in_background
from llmzero.tree.tree import Node, Tree

REASON_CHARACTERS = 600  # of why rules decided in the model's place


@dataclass
class SkillSettings:
    """`search=skill`."""

    max_turns: int = setting(200, "replies of the model after which the session is over", low=1)
    max_context_tokens: int = setting(
        60_000, "sent at a time at most, by estimate; old results are left out first", low=8000
    )
    skills: str | None = setting(None, "folder of the skill files; null is conf/agent/skills")


class Skill:
    """Continues the session whenever a worker is free, or a running stage has news that the model waits for.

    The session is `session.jsonl` in the search directory, written message by message, so that a restarted
    driver continues it. A start without a free worker waits for one. Where the model cannot be reached, or
    makes no usable call several times in a row, rules decide on one stage and the model is informed.

    Raises:
        UserError: the agent is no language model, or there are no skill files.
    """

    def __init__(self, settings: SkillSettings, context: MethodContext) -> None:
        if not isinstance(context.proposer, LlmAgent) or context.evidence is None:
            raise UserError("search=skill: needs a language model: agent=openai llm.model=NAME")
        self.context, self.agent, self.evidence = context, context.proposer, context.evidence
        self.settings = settings
        self.tools = Tools(context, context.evidence, self.agent.endpoint.model, read_skills(settings.skills))
        self._rules = RuleAgent()
        # Stages whose stop this process has requested: one that a killed driver could not stop is requested
        # again.
        self._requested: set[str] = set()
        self._transcript: Transcript | None = None
        self.question: Future[Reply] | None = None  # to the model, in the background

    def ask(self, tree: Tree) -> Expansion | None:
        """Continue the session until the model starts a stage; None while it waits, and after it finished."""
        return self._continue(tree, may_start=True)

    def tell(self, tree: Tree, node: Node) -> None:
        """Do nothing: the model learns of it when it asks or waits."""

    def watch(self, tree: Tree) -> StopRequest | None:
        """Continue the session where there is news; return a stage that the model wants to be stopped.

        The session begins once the base model is ready.
        """
        if not tree.root.final:
            return None
        self._continue(tree, may_start=False)
        wanted = {
            i: reason
            for i, reason in self._opened(tree).stops.items()
            if i not in self._requested and not tree[i].final
        }
        if not wanted:
            return None
        node_id, reason = next(iter(wanted.items()))
        self._requested.add(node_id)
        return StopRequest(node_id, reason)

    def _opened(self, tree: Tree) -> Transcript:
        if self._transcript is None:
            self._transcript = Transcript(self.context.directory / "session.jsonl", tree.nodes)
        if not self._transcript.messages:
            system = self.agent.prompts.render(
                "skill_system",
                skills=self.tools.list_skills(),
                schemas=self.tools.schemas,
                catalogue=self.context.catalogue,
            )
            setting = self.evidence(tree, tree.root.node_id).setting
            self._transcript.say("system", system)
            self._transcript.say("user", self.agent.prompts.render("skill_begin", setting=setting))
        return self._transcript

    def _continue(self, tree: Tree, *, may_start: bool) -> Expansion | None:
        """Carry out calls until the model starts a stage (where it may), stops one, waits or finishes."""
        talk = self._opened(tree)
        while not talk.finished:
            if talk.pending:
                outcome = self._carried_out(talk.pending[0], tree, talk, may_start)
                if outcome is None:
                    return None
                started = outcome.expansion and _charged(outcome.expansion, talk)
                talk.answer(outcome.text, outcome.facts)
                if started or "stop" in outcome.facts:
                    return started
            elif talk.turns >= self.settings.max_turns:
                talk.say("user", f"The session is over after {self.settings.max_turns} turns.", finished=True)
            elif talk.lost:
                return self._by_rules(tree, talk) if may_start else None
            elif not self._turn(tree, talk):
                return None
        return None

    def _carried_out(self, call: Call, tree: Tree, talk: Transcript, may_start: bool) -> Outcome | None:
        """Return the result of a call; None where it has to wait."""
        if call.name == "start_stage" and not may_start:
            return None
        if call.problem:
            return Outcome(f"Nothing was done. {call.problem}")
        return self.tools.run(call.name, json.loads(call.arguments), tree, talk.reported)

    def _turn(self, tree: Tree, talk: Transcript) -> bool:
        """Ask the model for its next reply, and take it up; return False while there is none."""
        if self.question is None:
            call = CallId(tree.next_id(), "turn", f"{talk.turns + 1:04d}")
            tools = self.tools.schemas if talk.tools else []
            messages = talk.sent(self.settings.max_context_tokens - estimated_tokens(json.dumps(tools)))
            self.question = in_background(partial(self.agent.endpoint.ask, call, messages, tools=tools))
        if self.context.thinks and not self.question.done():
            return False
        question, self.question = self.question, None
        try:
            talk.hear(question.result())
        except CallError as error:
            talk.miss(str(error))
            return True
        if not talk.pending:
            talk.say("user", self.agent.prompts.render("skill_nothing"))
        return True

    def _by_rules(self, tree: Tree, talk: Transcript) -> Expansion:
        """Return the stage that rules start instead of the model, and inform the model."""
        open_nodes = [node for node in tree if node.usable and node.depth < self.context.max_depth]
        parent = tree.best(open_nodes)
        assert parent is not None, "the base model is usable, and not at the greatest depth"
        reason = one_line(talk.error or "no usable call", REASON_CHARACTERS)
        note = f"rules started this stage in place of {self.agent.endpoint.model}: {reason}"
        proposal = replace(self._rules.propose(self.evidence(tree, parent.node_id)), notes=(note,))
        expansion = _charged(
            Expansion(parent.node_id, {**parent.hparams, **proposal.changes}, proposal), talk
        )
        stage = tree.next_id()
        talk.say(
            "user",
            f"You made no usable call, so rules started {stage} from {parent.node_id}: {proposal.rationale}",
            stage=stage,
            again=True,
        )
        return expansion


def _charged(expansion: Expansion, talk: Transcript) -> Expansion:
    """Return the expansion with what the session has cost since the stage before."""
    proposal = expansion.proposal
    assert proposal is not None, "a session's stages are proposed when they are started"
    tokens, dollars = (sum(parts) for parts in zip(*talk.spent, strict=True)) if talk.spent else (0, 0.0)
    return replace(
        expansion, proposal=replace(proposal, calls=len(talk.spent), tokens=tokens, dollars=dollars)
    )
