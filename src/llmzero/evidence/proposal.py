"""What agents answer: proposals for the next stage, and decisions about a running one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llmzero.core.hparams import HParams

PATHOLOGIES = {
    "untrained": "there are no training dynamics yet",
    "healthy": "the score is rising and nothing looks wrong",
    "slow_progress": "the policy hardly moves: KL and clipping are tiny and the score rises slowly",
    "plateau": "the policy moves but the score has levelled off",
    "regression": "the validation score fell below where the stage began",
    "kl_blowup": "the divergence from the reference jumped without the score following",
    "entropy_collapse": "entropy fell to a fraction of what it was",
    "entropy_explosion": "entropy rose while the score did not",
    "held_back": "most completions that end are right, but many are cut at the length limit",
    "too_hard": "many groups are wrong throughout, few completions right: the problems are out of reach",
    "outgrown": "most completions on the easier problems that are trained on are right",
    "truncation": "a good share of completions is cut at the length limit",
    "no_reward_variance": "most groups earn equal rewards and teach nothing",
    "unstable_gradients": "the gradient norm has spikes far above its median",
    "over_regularised": "a strong KL penalty holds the policy at the reference",
    "failure": "the stage failed",
}

Resume = Literal["best", "last"] | int


@dataclass(frozen=True)
class Expected:
    """What a proposal is expected to do, to be compared with what happens.

    Attributes:
        score: the best validation score of the stage; `low` and `high`: its 80 % interval.
        probability: that this passes the score the stage starts from.
        probability_best: that it passes the search's best score of that time, `incumbent`.
        metrics: `up` or `down` by metric name, against the parent's level.
        effect: the same in words.
    """

    score: float | None = None
    probability: float | None = None
    metrics: dict[str, str] = field(default_factory=dict)
    effect: str = ""
    low: float | None = None
    high: float | None = None
    probability_best: float | None = None
    incumbent: float | None = None


@dataclass(frozen=True)
class Alternative:
    """What else a proposer would have done: the fields are those of `Proposal`."""

    changes: HParams
    resume: Resume
    reasons: dict[str, str]
    expected: Expected


@dataclass(frozen=True)
class Proposal:
    """A coordinated change of hyperparameters, and why.

    Attributes:
        agent: who made it.
        diagnosis: names from `PATHOLOGIES` or free words, the gravest first.
        rationale: why these changes answer the diagnosis, in words.
        changes: new values by parameter name; the rest stays as in the parent.
        resume: continue from the parent's best checkpoint, from its last, or from that of a step.
        observations: what the agent saw.
        reasons: why each change was made, by parameter name.
        expected: what it is expected to do.
        notes: what was done to the agent's answer: values clamped or left out, or who answered in its place.
        calls, tokens, dollars: what the proposal cost.
        action: `change`; `continue`, which trains on unchanged; or `close`: there is to be no such stage, and
            the parent gets no more children, for the reason in `rationale`.
        parent: the stage that is continued in place of the one that was asked about; None is that one.
        length: of the stage, as a multiple of the usual one.
        alternative: for the next child of the same parent.
        alternative_of: the stage whose proposal had this one as its alternative.
    """

    agent: str
    diagnosis: tuple[str, ...]
    rationale: str
    changes: HParams
    resume: Resume = "best"
    observations: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    expected: Expected | None = None
    notes: tuple[str, ...] = ()
    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0
    action: str = "change"
    parent: str | None = None
    length: float = 1.0
    alternative: Alternative | None = None
    alternative_of: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `proposal.json`."""
        return asdict(self)


@dataclass(frozen=True)
class StopDecision:
    """Whether to end a running stage now, and the evidence for it."""

    stop: bool
    reason: str
    details: dict[str, float] = field(default_factory=dict)
