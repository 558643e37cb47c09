"""The early stopper that is a language model, asked about validation trajectories alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmzero.agents.endpoint import CallError, Endpoint, LlmSettings
from llmzero.agents.found_json import json_object
from llmzero.agents.journal import CallId
from llmzero.agents.prompt import Prompts
from llmzero.agents.reply import Reply
from llmzero.agents.stopper import CurveStopper, CurveStopperSettings, StopperSettings, explored
from llmzero.agents.text import clean, share
from llmzero.core.redaction import redacted_data
from llmzero.core.settings import setting
from llmzero.core.stage import ValidationPoint
from llmzero.evidence.dynamics import dynamics_text
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.outlook import outlook
from llmzero.evidence.proposal import StopDecision

ROWS = 40  # validation points that are shown at most
REASON_LIMIT = 1000  # characters

SCHEMA = {
    "type": "object",
    "properties": {
        "stop": {"type": "boolean"},
        "probability": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "that its path passes the best score if it runs on",
        },
        "reason": {"type": "string", "maxLength": 300},
    },
    "required": ["stop", "probability", "reason"],
    "additionalProperties": False,
}


@dataclass
class LlmStopperSettings(StopperSettings):
    """`stopper=llm`."""

    interval_s: float = setting(900.0, "seconds between two questions about a stage", low=0)
    min_step: int = setting(8, "no question before this step (the paper's is 10)", low=1)


class LlmStopper:
    """Asks a language model whether a stage is hopeless.

    `stopper=curve` decides without a usable answer, and where none could save anything: of a stage that has
    reached the best score of the search, or has no validation left but its last.
    """

    def __init__(self, settings: LlmStopperSettings, llm: LlmSettings) -> None:
        self.endpoint = Endpoint(llm)
        self.interval_s = 0.0 if self.endpoint.replays else settings.interval_s
        self.min_step = settings.min_step
        self.prompts = Prompts(llm.prompts)
        self._statistics = CurveStopper(CurveStopperSettings(min_step=settings.min_step))

    def check(self, evidence: Evidence) -> None:
        """Raise `UserError` where no prompt can be made of a made-up trajectory: a template is broken."""
        point = ValidationPoint(self.min_step, self.min_step, 0.5, 0.01, 100, 1.0)
        self._messages(replace(evidence, validation=[point], incumbent_score=0.5))

    def decide(self, evidence: Evidence) -> StopDecision:
        """Judge by validation trajectories alone."""
        if (
            not evidence.validation
            or evidence.validation[-1].step < self.min_step
            or evidence.incumbent_score is None
        ):
            return StopDecision(False, "too early to tell")
        step = evidence.validation[-1].step
        call = CallId(evidence.node_id, "stop", f"{step:05d}")
        recorded = self.endpoint.replays and self.endpoint.knows(call)
        if not recorded and (settled := _settled(evidence, evidence.incumbent_score)):
            return self._by_statistics(evidence, f"without asking {self.endpoint.model}, as {settled}")
        if self.endpoint.replays and not recorded:
            return StopDecision(False, "not asked at this step when the cassette was recorded")
        try:
            return _decision(self.endpoint.ask(call, self._messages(evidence), schema=SCHEMA))
        except (CallError, ValueError) as error:
            cause = clean(error, REASON_LIMIT)
            return self._by_statistics(evidence, f"in place of {self.endpoint.model} ({cause})")

    def _by_statistics(self, evidence: Evidence, why: str) -> StopDecision:
        decision = self._statistics.decide(evidence)
        return replace(decision, reason=f"by statistics, {why}: {decision.reason}")

    def _messages(self, evidence: Evidence) -> list[dict[str, Any]]:
        dynamics = dynamics_text(replace(evidence, metrics=[]), rows=ROWS)
        system, user = (
            self.prompts.render(
                name,
                evidence=evidence,
                dynamics=dynamics,
                outlook=outlook(evidence, self._statistics.settings.z),
                explored=explored(evidence),
            )
            for name in ("stopper_system", "stopper")
        )
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _settled(evidence: Evidence, incumbent: float) -> str:
    """Return why an answer about a validated stage would save nothing; nothing where it might."""
    points = evidence.validation
    best, last = max(point.score for point in points), points[-1].step
    if best >= incumbent:
        return f"the stage has reached the best score of the search ({best:.3f} of {incumbent:.3f})"
    interval = last - points[-2].step if len(points) > 1 else last
    if evidence.steps - last <= interval:
        return f"no validation but the last is left (step {last} of {evidence.steps})"
    return ""


def _decision(reply: Reply) -> StopDecision:
    """Read an answer.

    Raises:
        ValueError: it is none.
    """
    value = redacted_data(json_object(reply.text, "stop"))
    if value is None or not isinstance(value["stop"], bool):
        cut = "the reply was cut at llm.max_reply_tokens" if reply.cut else ""
        raise ValueError(reply.trouble or cut or "the answer says neither stop nor go on")
    chance = share(value.get("probability"))
    details = {"probability": chance} if chance is not None else {}
    return StopDecision(value["stop"], clean(value.get("reason") or "no reason given", REASON_LIMIT), details)
