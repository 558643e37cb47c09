"""The protocols by which agents answer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from llmzero.agents.endpoint import Endpoint
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.proposal import Proposal, StopDecision


class Proposer(Protocol):
    """Reads a stage's evidence and proposes the next stage."""

    def propose(self, evidence: Evidence) -> Proposal:
        """Return changes to the hyperparameters of `evidence.stage`."""
        ...


class EarlyStopper(Protocol):
    """Decides whether a running stage is hopeless. Asked every `interval_s` seconds."""

    interval_s: float

    def decide(self, evidence: Evidence) -> StopDecision:
        """Judge the running stage `evidence.stage`."""
        ...


@runtime_checkable
class AsksModel(Protocol):
    """A proposer or early stopper that calls a language model.

    Its calls are stored and charged, and its set-up is checked before a search.
    """

    endpoint: Endpoint

    def check(self, evidence: Evidence) -> None:
        """Raise `UserError` where it could not make a prompt of the evidence at the search's beginning."""
        ...
