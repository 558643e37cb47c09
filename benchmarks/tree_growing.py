"""Trains the stages of a tree in this process, one after the other, for `make_table.py`.

Each is an ordinary stage, run by `llmzero.grpo.main.run_stage` in a directory of its own, which is deleted
once all stages below it are known. So one path lies on the disk at a time.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmzero.cli import composed
from llmzero.config import TrainConfig
from llmzero.core.documents import read_yaml
from llmzero.core.errors import UserError
from llmzero.core.files import append_jsonl, read_jsonl
from llmzero.core.hparams import Catalogue, HParams
from llmzero.core.length import Length
from llmzero.core.settings import read, setting
from llmzero.core.stage import StageDir, StageSpec
from llmzero.runners.tables.format import MAX_DEPTH, MAX_STAGES, TABLES, Path_, configurations_of

DIGITS = 4  # of a metric
ROLLOUTS = 2  # completions that a table keeps of a validation, of stages that have children
# Of launchers/train.py: the tree sets them, not a recipe's overrides.
OWN_KEYS = ("seed", "stage_dir", "resume_from", "steps", "flops", "schedule", "values")
EXTRA = "table.jsonl"  # in a stage's directory: what a table wants of each validation beyond validation.jsonl


@dataclass
class Recipe:
    """What a tree is made of, as `benchmarks/tables/NAME.yaml` says it."""

    parameters: dict[str, Any] = setting({}, "name: {choices, default}; the tree has all their combinations")
    overrides: list[str] = setting([], "of the command line of launchers/train.py: task, model, trainer")
    values: dict[str, Any] = setting({}, "of the other hyperparameters, where they are not the defaults")
    depth: int = setting(4, "stages of a path", low=1)
    steps: int | None = setting(None, "of a stage", low=1)
    flops: float | None = setting(None, "of a stage; one of the two is null", low=0)


@dataclass(frozen=True)
class Plan:
    """A tree to be grown: a recipe and a seed."""

    name: str
    seed: int
    recipe: Recipe

    @classmethod
    def of(cls, name: str, seed: int, directory: Path = TABLES) -> Plan:
        """Read `NAME.yaml` of a directory.

        Raises:
            UserError: there is none, or it is no recipe.
        """
        file = directory / f"{name}.yaml"
        if not file.is_file():
            known = ", ".join(sorted(each.stem for each in directory.glob("*.yaml")))
            raise UserError(f"{name}: there is no recipe {file}; known: {known}")
        plan = cls(name, seed, read(Recipe, read_yaml(file), str(file)))
        try:
            plan._check()
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        return plan

    def _check(self) -> None:
        recipe = self.recipe
        for name, entry in recipe.parameters.items():
            choices = entry.get("choices") if isinstance(entry, dict) else None
            if not isinstance(choices, list) or entry.keys() != {"choices", "default"}:
                raise UserError(f"parameters.{name}: must be {{choices: [...], default: ...}}")
            if len(set(map(str, choices))) < len(choices):
                raise UserError(f"parameters.{name}.choices: has a value twice")
            if name in recipe.values:
                raise UserError(f"values.{name}: is one of parameters; give it in one place")
        for override in recipe.overrides:
            if (key := override.split("=")[0].lstrip("+~")) in OWN_KEYS:
                raise UserError(f"overrides: {key}: is not the recipe's to set here; leave it out")
        if recipe.flops == 0:
            raise UserError("flops: must be above 0")
        self.length, self.fixed  # noqa: B018 - they are checked
        if recipe.depth > MAX_DEPTH or self.subtree(()) > MAX_STAGES:
            raise UserError(
                f"depth={recipe.depth}: with {len(self.configurations)} configurations; a tree may be "
                f"{MAX_DEPTH} deep and have {MAX_STAGES} stages at most"
            )

    @cached_property
    def length(self) -> Length:
        """Of every stage."""
        try:
            return Length(self.recipe.steps, self.recipe.flops)
        except ValueError as error:
            raise UserError(str(error)) from error

    @cached_property
    def config(self) -> TrainConfig:
        """The configuration of every stage but for its hyperparameters."""
        overrides = [*self.recipe.overrides, f"seed={self.seed}", "stage_dir=none"]
        config = composed("train", TrainConfig, overrides)
        longest = max(self.recipe.parameters.get("max_completion_length", {}).get("choices", [0]))
        limit = config.stage_groups["trainer"]["validation_max_tokens"]
        if longest > limit:
            raise UserError(
                f"overrides: trainer.validation_max_tokens={limit}: must be at least "
                f"{longest}, the longest choice of max_completion_length"
            )
        return config

    @cached_property
    def catalogue(self) -> Catalogue:
        """The parameters that differ between stages, with the descriptions of the whole catalogue."""
        whole, entries = self.config.catalogue, {}
        for name, own in self.recipe.parameters.items():
            if name not in whole:
                raise UserError(f"parameters.{name}: is none of the catalogue")
            known = asdict(whole[name])
            kept = {key: known[key] for key in ("group", "kind", "scale", "unit", "description")}
            entries[name] = {**kept, **own}
        catalogue = Catalogue.from_config(entries)
        if not catalogue or any(not parameter.choices for parameter in catalogue.values()):
            raise UserError("parameters: needs at least one, each with choices")
        for configuration in configurations_of(catalogue):
            if problems := whole.problems(configuration):
                raise UserError(f"parameters: {'; '.join(problems)}")
        return catalogue

    @cached_property
    def fixed(self) -> HParams:
        """The values of all other hyperparameters."""
        values = self.config.catalogue.complete(self.recipe.values)
        return {name: value for name, value in values.items() if name not in self.catalogue}

    @cached_property
    def configurations(self) -> list[HParams]:
        """All configurations, by their number."""
        return configurations_of(self.catalogue)

    def subtree(self, path: Path_) -> int:
        """Return how many stages there are below a path, its own among them."""
        n, levels = len(self.configurations), self.recipe.depth - len(path)
        return sum(n**level for level in range(bool(not path), levels + 1))


class Grower:
    """Grows the part of a tree below one stage, or retrains single paths of it.

    Args:
        plan: the tree.
        log: rows of finished stages, one a line; what is there is not trained again.
        scratch: for the stage directories of the path in hand.
        look: called after every stage.
    """

    def __init__(self, plan: Plan, log: Path, scratch: Path, look: Callable[[], None] = lambda: None) -> None:
        self.plan, self.log, self.scratch, self.look = plan, log, scratch, look
        shutil.rmtree(scratch, ignore_errors=True)  # a killed one's: its path comes out with the same bits
        scratch.mkdir(parents=True)
        self.rows = {tuple(row["path"]): row for row in read_jsonl(log)}
        self._below: dict[Path_, int] = {}
        for path in self.rows:
            self._count(path)

    def _count(self, path: Path_) -> None:
        for length in range(len(path) + 1):
            self._below[path[:length]] = self._below.get(path[:length], 0) + 1

    def grow(self, path: Path_) -> None:
        """Train what is missing of a stage and all below it, depth first."""
        if self.complete(path):
            return
        self.train(path)
        if len(path) < self.plan.recipe.depth and not self._failed(path):
            for number in range(len(self.plan.configurations)):
                self.grow((*path, number))
        shutil.rmtree(self._directory(path))

    def complete(self, path: Path_) -> bool:
        """Return whether a stage and all below it are known."""
        return self._below.get(path, 0) == self.plan.subtree(path) or self._failed(path)

    def _failed(self, path: Path_) -> bool:
        """Whether a stage failed, or one above it; there is none below it then."""
        return any(self.rows.get(path[:n], {}).get("error") for n in range(1, len(path) + 1))

    def train(self, path: Path_) -> dict[str, Any]:
        """Train a stage whose parent's directory is there; return its row, which is logged where it is new.

        Raises:
            UserError: the row is known, and this one has other bits.
        """
        row = self._trained(path)
        known = self.rows.get(path)
        if known is not None and bits(known) != bits(row):
            raise UserError(
                f"{self.log}: stage {list(path)} came out otherwise when it was trained again, so machine or "
                "code have changed; begin anew with another --state"
            )
        if known is None:
            append_jsonl(self.log, [row], sync=True)
            self.rows[path] = row
            self._count(path)
        self.look()
        return row

    def _directory(self, path: Path_) -> Path:
        return self.scratch.joinpath(*("root", *map(str, path)))

    def _trained(self, path: Path_) -> dict[str, Any]:
        from benchmarks.table_trainer import TableTrainer
        from llmzero.grpo.main import run_stage

        plan, stage = self.plan, StageDir(self._directory(path))
        shutil.rmtree(stage.path, ignore_errors=True)
        parent = StageDir(stage.path.parent).result() if path else None
        configuration = plan.configurations[path[-1]] if path else self.plan.catalogue.defaults()
        stage.write_spec(
            StageSpec(
                node_id="-".join(map(str, path)) or "root",
                parent_id=None,
                depth=len(path),
                directory=stage.path,
                resume_from=parent.last_checkpoint if parent else None,
                hparams={**plan.fixed, **configuration},
                steps=plan.length.steps if path else 0,
                flops=plan.length.flops if path else None,
                seed=plan.seed,
                config=plan.config.stage_groups,
            )
        )
        with stage.log_file.open("a") as output, redirect_stdout(output), redirect_stderr(output):
            result = run_stage(
                stage.path, started=time.time(), interrupted=lambda: False, trainer=TableTrainer
            )
        gc.collect()  # an engine refers to itself in circles
        if not gc.get_freeze_count():
            gc.freeze()  # libraries stay, so from now on this looks at stages alone
        assert result is not None, "nothing interrupts it"
        row = row_of(path, stage, self._kept_metrics, with_rollouts=0 < len(path) < plan.recipe.depth)
        if result.state == "failed" and not path:
            raise UserError(f"the base model could not be prepared: {result.error}; see {stage.log_file}")
        return row | ({"error": result.error} if result.state == "failed" else {})

    @cached_property
    def _kept_metrics(self) -> Sequence[str]:
        """Names of the metrics that agents, plots, reports and rules see."""
        metrics = self.plan.config.metric_catalogue.values()
        shown = [m.name for m in metrics if (m.table, m.plot, m.report, m.observable) != (None,) * 4]
        return (*shown, "step_flops")


def row_of(path: Path_, stage: StageDir, metrics: Sequence[str], *, with_rollouts: bool) -> dict[str, Any]:
    """Return what a table keeps of a stage that has ended."""
    extras = {extra["step"]: extra for extra in read_jsonl(stage.path / EXTRA)}
    lines = stage.metrics()
    spent, steps, points = 0.0, 0, []
    for point in stage.validation():
        spent += sum(line["step_flops"] for line in lines[steps : point.step])
        steps = point.step
        points.append(
            {
                "step": point.step,
                "score": round(point.score, 6),
                "stderr": rounded(point.stderr),
                **{key: extras[point.step][key] for key in ("test", "test_stderr")},
                "flops": float(f"{spent:.7g}"),
                "seconds": extras[point.step]["seconds"],
            }
        )
    kept = [name for name in metrics if any(name in line for line in lines)]
    rollouts: list[dict[str, Any]] = []
    for step in (point["step"] for point in points if with_rollouts):
        rollouts += [
            {key: row[key] for key in ("step", "prompt", "completion", "reward")}
            for row in stage.rollouts()
            if row["step"] == step
        ][:ROLLOUTS]
    return {
        "path": list(path),
        "points": points,
        "metrics": {name: [rounded(line.get(name)) for line in lines[:steps]] for name in kept},
        **({"rollouts": rollouts} if rollouts else {}),
        **({} if path else {"val_n": stage.validation()[0].n, "test_n": extras[0]["n"]}),
    }


def rounded(value: float | None) -> float | None:
    """Return a number with as many digits as a table keeps; None, and what is not finite, is None."""
    return None if value is None or value - value != 0 else float(f"{value:.{DIGITS}g}")


def bits(row: Mapping[str, Any]) -> str:
    """Return all of a row but its seconds, which no two runs have in common."""
    points = [{key: value for key, value in point.items() if key != "seconds"} for point in row["points"]]
    return json.dumps({**row, "points": points}, sort_keys=True)
