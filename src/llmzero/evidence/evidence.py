"""What every agent sees of a search, in sections that an agent may be shown or not. Validation data only."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self

from llmzero.core.hparams import Catalogue, HParams
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
    "incumbent": "the best validation score of the search so far",
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
        points: its validation points, of a stage that has ended.
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
    points: Sequence[ValidationPoint] = of("outcomes", ())


@dataclass(frozen=True)
class Prediction:
    """What an agent expected of a stage, and what came.

    Attributes:
        expected_score, score: best validation score.
        probability: that it would pass the score it began with; `improved` tells whether it did.
        metrics: (metric, expected direction, whether it went that way).
    """

    node_id: str
    expected_score: float | None
    score: float | None
    probability: float | None
    improved: bool
    metrics: tuple[tuple[str, str, bool], ...] = ()


@dataclass(frozen=True)
class Evidence(Sectioned):
    """The facts before a decision.

    Attributes:
        stage: the stage in question: the parent of the one to be proposed, or the running one to be judged.
        steps: planned steps of a stage.
        ahead: stages that may still follow on the path of a running stage, by levels and budget.
        node_id: the stage that is to be created or judged; that of `stage` itself where its child
            is asked for before it has ended.
        seed: for an agent that draws; the same for the same decision of the same search.
        checkpoints: steps of `stage` at which there is a checkpoint, the best one's in `best_step`.
        setting: what is trained and how, in a few words by name.
        budget_left: what remains of each limited resource.
        path: stages from the root to `stage`.
        children: what was already tried from it.
        history: every stage of the search, in order of creation.
        best_path: the stages that led to the best score of the search, `incumbent_score`.
        start_score: the score the stage began with.
        validation: its validation points so far.
        metrics: a dict for each of its steps.
        rollouts: sampled completions with prompt, reward and step.
        predictions: what agents expected of earlier stages, and what came.
    """

    stage: StageView = of("stage")
    steps: int = of("stage")
    catalogue: Catalogue = of("catalogue")
    metric_catalogue: dict[str, Metric] = of("catalogue")
    ahead: int = of("stage", 0)
    node_id: str = of("stage", "")
    seed: str = of("stage", "")
    checkpoints: Sequence[int] = of("stage", ())
    setting: Mapping[str, str] = of("setting", {})
    budget_left: dict[str, float] = of("budget", {})
    path: Sequence[StageView] = of("path", ())
    children: Sequence[StageView] = of("tried", ())
    history: Sequence[StageView] = of("tried", ())
    best_path: Sequence[StageView] = of("tried", ())
    incumbent_score: float | None = of("incumbent", None)
    start_score: float | None = of("dynamics", None)
    validation: Sequence[ValidationPoint] = of("dynamics", ())
    metrics: Sequence[dict[str, Any]] = of("dynamics", ())
    best_step: int | None = of("dynamics", None)
    rollouts: Sequence[dict[str, Any]] = of("rollouts", ())
    predictions: Sequence[Prediction] = of("predictions", ())

    def rng(self) -> random.Random:
        """Return a random generator that is the same whenever this decision is taken again."""
        return random.Random(self.seed)

    def column(self, metric: str) -> list[float]:
        """Return a metric's values over the steps of the stage, missing ones left out."""
        return [row[metric] for row in self.metrics if row.get(metric) is not None]
