"""The agent that follows a design rule from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmzero.agents.rules import Move, apply, of_use, random_proposal
from llmzero.core.hparams import Catalogue
from llmzero.core.metrics import Metric
from llmzero.core.settings import REQUIRED, setting
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.proposal import Proposal
from llmzero.strategies.rule import Clause, load_rule, observed


@dataclass
class RuleFileSettings:
    """`agent=rule_file`."""

    name: str = setting("rule_file", "what reports call the agent")
    path: str = setting(REQUIRED, "a rule.yaml, such as a search leaves")


class RuleFileAgent:
    """Applies every clause whose condition holds; where that was tried, all but the last, and so on.

    Raises:
        UserError: the file is missing, malformed, or does not fit the catalogues of tunables and metrics.
    """

    def __init__(
        self, settings: RuleFileSettings, catalogue: Catalogue, metric_catalogue: Mapping[str, Metric]
    ) -> None:
        self.clauses = load_rule("agent.path", Path(settings.path).absolute(), catalogue, metric_catalogue)

    def propose(self, evidence: Evidence) -> Proposal:
        """Return what the rule says of the stage; of one without dynamics it says nothing."""
        holding = self.holding(evidence)
        for count in range(len(holding), -1, -1):
            changes = apply(_move(holding[:count]), evidence)
            if of_use(evidence, changes):
                reasons = {
                    clause.parameter: str(clause.when)
                    for clause in holding[:count]
                    if clause.parameter in changes
                }
                why = (
                    "; ".join(f"{name} as {reason}" for name, reason in reasons.items())
                    or "no clause asks for a change"
                )
                return Proposal("rule_file", (), f"By the rule: {why}.", changes, reasons=reasons)
        return random_proposal(evidence, "rule_file", (), "all that the rule says was tried here")

    def holding(self, evidence: Evidence) -> list[Clause]:
        """Return the clauses that apply: of each parameter the first one whose condition holds."""
        clauses, facts = self.clauses, observed(evidence)
        first = {clause.parameter: clause for clause in reversed(clauses) if clause.when.holds(facts)}
        return [clause for clause in clauses if first.get(clause.parameter) is clause]


def _move(clauses: list[Clause]) -> Move:
    factors = {clause.parameter: clause.factor for clause in clauses if clause.factor is not None}
    return Move(
        "by the rule",
        factors,
        {clause.parameter: clause.notches for clause in clauses if clause.notches is not None},
    )
