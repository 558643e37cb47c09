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
    min_step: int = setting(10, "no question before this step (the paper's is 10)", low=1)


class LlmStopper:
    """Asks a language model whether a stage is hopeless; without a usable answer `stopper=curve` decides."""

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
        if self.endpoint.replays and not self.endpoint.knows(call):
            return StopDecision(False, "not asked at this step when the cassette was recorded")
        try:
            return _decision(self.endpoint.ask(call, self._messages(evidence), schema=SCHEMA))
        except (CallError, ValueError) as error:
            decision = self._statistics.decide(evidence)
            cause = clean(error, REASON_LIMIT)
            reason = f"by statistics, in place of {self.endpoint.model} ({cause}): {decision.reason}"
            return replace(decision, reason=reason)

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
