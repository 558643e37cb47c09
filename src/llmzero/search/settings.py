"""The configuration of a search, as Hydra composes it and as `config.yaml` keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmzero.agents.endpoint import LlmSettings
from llmzero.core.compute import MOST_FLOPS
from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue, catalogue_of
from llmzero.core.length import Length
from llmzero.core.metrics import Metric, metric_catalogue
from llmzero.core.settings import REQUIRED, setting
from llmzero.tree.budget import Budget

Group = Any  # a mapping with a `_target_`, which `make` turns into a part, or what a stage needs


@dataclass
class SearchSettings:
    """`search`: what every search method has in common; `method` holds its own settings."""

    name: str = setting(REQUIRED, "what reports call the method")
    workers: int = setting(2, "stages that run at the same time", low=1, high=1024)
    max_depth: int = setting(6, "stages of a path at most", low=1)
    stage_steps: int | None = setting(16, "GRPO steps of a stage; null where stage_flops is set", low=1)
    stage_flops: float | None = setting(
        None,
        "FLOPs of a stage instead; it ends with the step that comes nearest to them",
        low=1,
        high=MOST_FLOPS,
    )
    confirm_seeds: int = setting(
        0, "fresh seeds on which the best strategies and the practitioner's run again", low=0, high=1000
    )
    confirm_top: int = setting(2, "strategies that are confirmed", low=1, high=100)
    test_incumbents: bool = setting(False, "test every stage that ever was the best by validation, too")
    test_constant: bool = setting(
        False,
        "after the search, tune fixed schedules with the compute that it has spent, and test the best of "
        "them, too: it doubles the cost",
    )
    prefetch: bool = setting(
        False, "ask a language model for a stage's likely child before the stage has ended"
    )
    report: bool = setting(True, "write report.html")
    method: Group = setting(REQUIRED, "the method's own settings")

    @property
    def length(self) -> Length:
        """How long a stage is that has no length of its own.

        Raises:
            UserError: it is given both ways, or in none.
        """
        if (self.stage_steps is None) == (self.stage_flops is None):
            raise UserError(
                f"search.stage_steps={self.stage_steps}, search.stage_flops={self.stage_flops}: one of them "
                "has to be null; give search.stage_flops=AMOUNT search.stage_steps=null, or steps alone"
            )
        return Length(self.stage_steps, self.stage_flops)


@dataclass
class StageConfig:
    """The groups that a stage is made of, and where its hyperparameters come from."""

    task: Group = setting(REQUIRED, "what is learnt: prompts, rewards, splits")
    model: Group = setting(REQUIRED, "what learns")
    rollout: Group = setting(REQUIRED, "how completions are sampled")
    hparams: Group = setting(REQUIRED, "the catalogue of tunables")
    metrics: Group = setting(REQUIRED, "the catalogue of metrics")
    algorithm: Group = setting(REQUIRED, "the policy gradient")
    trainer: Group = setting(REQUIRED, "how a stage is computed; nothing here is searched")
    hardware: Group = setting(REQUIRED, "the machine")
    seed: int = setting(0, "of data order, sampling and the search's own choices")

    @property
    def catalogue(self) -> Catalogue:
        """The tunables, with the bounds and defaults that model and algorithm bring along."""
        return catalogue_of(vars(self))

    @property
    def metric_catalogue(self) -> dict[str, Metric]:
        """What is recorded of every step of training."""
        return metric_catalogue(self.metrics["metrics"])

    @property
    def stage_groups(self) -> dict[str, Group]:
        """What a stage needs besides its hyperparameters; `trainer.validation_max_tokens` is a number."""
        groups = {key: getattr(self, key) for key in ("task", "model", "rollout", "algorithm", "trainer")}
        length = self.catalogue.get("max_completion_length")
        if groups["trainer"] and length and groups["trainer"].get("validation_max_tokens") is None:
            groups["trainer"] = {**groups["trainer"], "validation_max_tokens": length.at(1.0)}
        return groups


@dataclass
class SearchConfig(StageConfig):
    """The whole of `launchers/search.py`."""

    llm: LlmSettings = setting(LlmSettings, "the language model that agents and early stoppers may ask")
    agent: Group = setting(REQUIRED, "who reads the training dynamics and proposes")
    stopper: Group = setting(REQUIRED, "who ends hopeless stages early")
    search: SearchSettings = setting(SearchSettings, "where to grow the tree")
    runner: Group = setting(REQUIRED, "what runs a stage")
    table: str | None = setting(
        None, "of runner=table: a tree of benchmarks/tables, as NAME or NAME-SEED, or a file (docs/tables.md)"
    )
    tracking: Group = setting(REQUIRED, "Weights & Biases")
    budget: Budget = setting(Budget, "limits of a search; whichever comes first ends it")
    search_dir: str = setting(REQUIRED, "everything the search knows; the same command continues it")
    dry_run: bool = setting(False, "check everything, print the plan and its bounds, start nothing")

    @property
    def stages(self) -> int | None:
        """How many stages the budget allows, where stages and budget are told alike; None is no limit."""
        limits = [] if self.budget.stages is None else [self.budget.stages]
        if self.budget.flops is not None and self.search.stage_flops is not None:
            limits.append(int(self.budget.flops / self.search.stage_flops + 0.5))
        return min(limits, default=None)
