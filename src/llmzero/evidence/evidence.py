"""What every agent sees of a search, in sections that an agent may be shown or not. Validation data only."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

from llmzero.core.hparams import Catalogue, HParams
from llmzero.core.length import LENGTHS
from llmzero.core.metrics import Metric
from llmzero.core.stage import ValidationPoint

SECTIONS = {
    "stage": "the stage in question, its checkpoints, and what is to be decided about it",
    "setting": "what is trained and how",
    "budget": "what is left",
    "catalogue": "hyperparameters that may change, and metrics that are recorded",
    "path": "configurations of the stages from the root to the one in question",
    "tried": "configurations of the other stages of the search",
    "outcomes": "what came of stages: scores, gains, errors, and what agents wrote about them",
    "incumbent": "the best validation score of the search so far, the path to it, and how others compare",
    "standing": "how far the path to be continued and the search have come",
    "dynamics": "metrics and validation points of the stage in question",
    "rollouts": "sampled completions of the stage in question",
    "predictions": "what agents expected of earlier stages, and what came",
}


def of(section: str, default: Any = MISSING) -> Any:
    """Return a dataclass field that belongs to a section; without the section it holds its default."""
    metadata = {"section": section}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


class Sectioned:
    """A dataclass whose fields belong to sections. A field of no section is never shown."""

    def only(self, sections: Collection[str]) -> Self:
        """Return a copy with these sections, also of its dataclasses; everything else holds its default.

        Raises:
            TypeError: a field without a default would be hidden.
        """
        shown = {
            each.name: _only(getattr(self, each.name), sections)
            for each in fields(self)  # type: ignore[arg-type]
            if each.metadata.get("section") in sections
        }
        return type(self)(**shown)


def _only(value: Any, sections: Collection[str]) -> Any:
    if isinstance(value, Sectioned):
        return value.only(sections)
    return [_only(item, sections) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class StageView(Sectioned):
    """A stage as agents see it. `gain` and `changes` are against its parent.

    Attributes:
        steps: that it took, as far as its last validation; 0 where there was none.
        flops: their compute; None is unknown.
        children: how many stages continue it, those that are being proposed among them.
        points: its validation points, of a stage that has ended.
        levels: of metrics, over the first and the last third of its steps; of the stages on the path, on the
            best path, and of those that were tried from the parent alone, as are `length` and `subtasks`.
        length: mean completion length over its steps [tokens]; None is unknown.
        stop: the decision to end it early, or to audit it: `event`, `step`, `reason` and `details`.
        stretch: how long it was to be, as a multiple of the usual length.
        subtasks: score, standard error and number of examples by subtask, at its last validation.
    """

    node_id: str = of("stage")
    depth: int = of("stage")
    state: str = of("stage")
    hparams: HParams = of("stage")
    changes: HParams = of("stage")
    diagnosis: tuple[str, ...] = of("outcomes", ())
    score: float | None = of("outcomes", None)
    gain: float | None = of("outcomes", None)
    error: str | None = of("outcomes", None)
    parent_id: str | None = of("stage", None)
    agent: str = of("stage", "")
    rationale: str = of("outcomes", "")
    resume: str | int = of("stage", "best")
    cause: Mapping[str, Any] | None = of("outcomes", None)
    gpu_seconds: float = of("stage", 0.0)
    steps: int = of("stage", 0)
    flops: float | None = of("stage", None)
    children: int = of("stage", 0)
    points: Sequence[ValidationPoint] = of("outcomes", ())
    levels: Mapping[str, tuple[float, float]] = of("outcomes", {})
    length: float | None = of("outcomes", None)
    stop: Mapping[str, Any] | None = of("outcomes", None)
    stretch: float = of("stage", 1.0)
    subtasks: Mapping[str, Sequence[float]] = of("outcomes", {})


@dataclass(frozen=True)
class Choice:
    """Why a search method continues a stage, for agents.

    Attributes:
        why: in words; empty is unknown.
        others: stages that it could continue instead now, by id, the most promising first; empty where its
            tree is not free to grow elsewhere.
    """

    why: str = ""
    others: tuple[str, ...] = ()


UNTOLD = Choice()


@dataclass(frozen=True)
class Standing(Sectioned):
    """Where a search stands when a child of a stage is to be proposed.

    Attributes:
        why: the search method chose this stage, in words.
        depth: of the stage that is continued.
        levels_left: stages that a path through it may still get; None is no limit.
        stages_left: that the search may still begin, the one to be proposed among them; None is no limit.
        flops_left: of the budget in compute; None is no limit.
        others: stages that could be continued in place of this one, the most promising first.
    """

    why: str = of("incumbent", "")
    depth: int = of("standing", 0)
    levels_left: int | None = of("standing", None)
    stages_left: int | None = of("standing", None)
    flops_left: float | None = of("standing", None)
    others: Sequence[StageView] = of("tried", ())

    def levels_below(self, other: StageView) -> int | None:
        """Return the stages that a path through another stage may still get; None is no limit."""
        return None if self.levels_left is None else self.levels_left + self.depth - other.depth


@dataclass(frozen=True)
class Prediction:
    """What an agent expected of a stage, and what came.

    Attributes:
        expected_score, score: best validation score.
        probability: that it would pass the score it began with; `improved` tells whether it did.
        low, high: the 80 % interval of the score.
        probability_best: that it would pass the search's best score; `was_best` tells whether it did, None
            where that score was not known.
        metrics: (metric, expected direction, whether it went that way).
    """

    node_id: str
    expected_score: float | None
    score: float | None
    probability: float | None
    improved: bool
    metrics: tuple[tuple[str, str, bool], ...] = ()
    low: float | None = None
    high: float | None = None
    probability_best: float | None = None
    was_best: bool | None = None


@dataclass(frozen=True)
class Evidence(Sectioned):
    """The facts before a decision.

    Attributes:
        stage: the stage in question: the parent of the one to be proposed, or the running one to be judged.
        steps: planned steps of `stage`.
        stage_flops: its planned compute, where that is its length.
        ahead: stages that may still follow on the path of a running stage, by levels and budget.
        node_id: the stage that is to be created or judged; that of `stage` itself where its child
            is asked for before it has ended.
        seed: for an agent that draws; the same for the same decision of the same search.
        checkpoints: steps of `stage` at which there is a checkpoint, the best one's in `best_step`.
        lengths: the least and the greatest of a stage, in multiples of the usual one.
        setting: what is trained and how, in a few words by name.
        budget_left: what remains of each limited resource.
        path: stages from the root to `stage`.
        children: what was already tried from it.
        history: every stage of the search, in order of creation.
        best_path: the stages that led to the best score of the search, `incumbent_score`.
        standing: where the search stands; None where no child is to be proposed.
        start_score: the score the stage began with.
        validation: its validation points so far.
        metrics: a dict for each of its steps.
        rollouts: sampled completions with prompt, reward and step.
        subtasks: score, standard error and number of examples by subtask, at the latest validation.
        validation_temperature: at which validations sample; 0 is greedy, None unknown.
        predictions: what agents expected of earlier stages, and what came.
    """

    stage: StageView = of("stage")
    steps: int = of("stage")
    catalogue: Catalogue = of("catalogue")
    metric_catalogue: dict[str, Metric] = of("catalogue")
    ahead: int = of("stage", 0)
    node_id: str = of("stage", "")
    seed: str = of("stage", "")
    stage_flops: float | None = of("stage", None)
    checkpoints: Sequence[int] = of("stage", ())
    lengths: tuple[float, float] = of("stage", LENGTHS)
    setting: Mapping[str, str] = of("setting", {})
    budget_left: dict[str, float] = of("budget", {})
    path: Sequence[StageView] = of("path", ())
    children: Sequence[StageView] = of("tried", ())
    history: Sequence[StageView] = of("tried", ())
    best_path: Sequence[StageView] = of("tried", ())
    incumbent_score: float | None = of("incumbent", None)
    standing: Standing | None = of("standing", None)
    start_score: float | None = of("dynamics", None)
    validation: Sequence[ValidationPoint] = of("dynamics", ())
    metrics: Sequence[dict[str, Any]] = of("dynamics", ())
    best_step: int | None = of("dynamics", None)
    rollouts: Sequence[dict[str, Any]] = of("rollouts", ())
    subtasks: Mapping[str, Sequence[float]] = of("rollouts", {})
    validation_temperature: float | None = of("setting", None)
    predictions: Sequence[Prediction] = of("predictions", ())

    def rng(self) -> random.Random:
        """Return a random generator that is the same whenever this decision is taken again."""
        return random.Random(self.seed)

    def column(self, metric: str) -> list[float]:
        """Return a metric's values over the steps of the stage, missing ones left out."""
        return [row[metric] for row in self.metrics if row.get(metric) is not None]
