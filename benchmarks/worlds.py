#!/usr/bin/env python
"""Compares schedules at equal compute in a small world: arms are trained in this process, paired by seeds.

Usage: python benchmarks/worlds.py PILOT.yaml tune [ARM ...]     (on the tuning seeds, scored on val)
       python benchmarks/worlds.py PILOT.yaml confirm [ARM ...]  (on the confirmation seeds, scored on test)
       python benchmarks/worlds.py PILOT.yaml                    (prints the table of what is there)

A run is a line of PILOT.jsonl, beside the pilot; what is there is not run again. A pilot states both lists of
seeds, which are disjoint, before its first run. `tune` trains all arms unless some are named, `confirm` those
of the pilot's claim. Pilots: benchmarks/results/worlds; what they found: docs/world.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from llmzero.cli import composed
from llmzero.config import TrainConfig
from llmzero.core.errors import UserError
from llmzero.core.files import append_jsonl
from llmzero.core.kept import Kept
from llmzero.core.parts import make
from llmzero.core.stage import StageDir, StageResult, StageSpec
from llmzero.grpo.main import run_stage

SPLITS = {"tune": "val", "confirm": "test"}

Arm = Sequence[tuple[float, Mapping[str, Any]]]  # of each stage its share of the compute, and what it sets
Row = dict[str, Any]


@dataclass(frozen=True)
class Pilot:
    """A world, the arms that are compared in it, and the protocol.

    Attributes:
        question: what is asked.
        overrides: of `conf/train.yaml`: task, model, algorithm. `{seed}` is the run's, for a map of its own.
        flops: compute of each arm.
        longest: tokens that a completion may have when it is scored, whatever its arm trained with.
        values: hyperparameters of all arms.
        arms: name -> stages.
        seeds: `tune` and `confirm`; they are of data order and sampling.
        claim: `schedule`, an arm; `against`, the arms that it is held against; `score`, greedy or sampled.
        samples: completions of each problem for the sampled score, at temperature 1.

    Raises:
        UserError: shares do not add up, a seed would tune and confirm, or a claim names no arm.
    """

    question: str
    overrides: Sequence[str]
    flops: float
    longest: int
    values: Mapping[str, Any]
    arms: Mapping[str, Arm]
    seeds: Mapping[str, Sequence[int]]
    claim: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 4

    def __post_init__(self) -> None:
        for name, arm in self.arms.items():
            if not math.isclose(sum(share for share, _ in arm), 1.0):
                raise UserError(f"arms.{name}: its shares of the compute must add up to 1")
        if both := set(self.seeds["tune"]) & set(self.seeds["confirm"]):
            raise UserError(f"seeds: {sorted(both)} would tune and confirm; take others for one of both")
        if unknown := [name for name in self.claimed if name not in self.arms]:
            raise UserError(f"claim: {', '.join(unknown)}: no arm of the pilot")

    @property
    def world(self) -> str:
        """A digest of everything that all arms have in common: runs of another world are no runs of this."""
        common = [list(self.overrides), self.flops, self.longest, dict(self.values), self.samples]
        return hashlib.sha256(json.dumps(common).encode()).hexdigest()[:8]

    @property
    def claimed(self) -> list[str]:
        """The arms of the claim, the schedule first; none where nothing is claimed yet."""
        return [self.claim["schedule"], *self.claim["against"]] if self.claim else []


def main() -> None:
    """Carry out what the command line asks for, and print the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("pilot", type=Path, help="a YAML file, as those of benchmarks/results/worlds")
    parser.add_argument("phase", nargs="?", choices=list(SPLITS), help="what to run; nothing without it")
    parser.add_argument("arms", nargs="*", help="names of arms, where not all are meant")
    asked = parser.parse_args()
    pilot = Pilot(**yaml.safe_load(asked.pilot.read_text()))
    results = asked.pilot.with_suffix(".jsonl")
    if asked.phase:
        names = asked.arms or (list(pilot.arms) if asked.phase == "tune" else pilot.claimed)
        carry_out(pilot, asked.phase, names, results)
    print("\n".join(table(pilot, rows_of(results))))


def rows_of(results: Path) -> list[Row]:
    """Return the runs that a file of results holds."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def carry_out(pilot: Pilot, phase: str, names: Sequence[str], results: Path) -> None:
    """Train arms on the seeds of a phase, seed by seed, and append each run to the results."""
    there = {key_of(row) for row in rows_of(results)}
    kept = Kept()
    for seed in pilot.seeds[phase]:
        for name in names:
            row: Row = {"world": pilot.world, "phase": phase, "arm": name, "seed": seed}
            row["stages"] = pilot.arms[name]
            if key_of(row) in there:
                continue
            with tempfile.TemporaryDirectory() as folder:
                row |= run(pilot, phase, pilot.arms[name], seed, Path(folder), kept)
            append_jsonl(results, [row])
            print(phase, name, seed, {key: row[key] for key in ("greedy", "sampled", "cpu_s")}, flush=True)


def key_of(row: Row) -> str:
    """Return what tells a run from others."""
    return json.dumps([row[name] for name in ("world", "phase", "arm", "stages", "seed")])


def run(pilot: Pilot, phase: str, arm: Arm, seed: int, folder: Path, kept: Kept) -> Row:
    """Train the stages of an arm one after another, score the end, and return what there is to tell."""
    started = time.process_time()
    start, told = None, []
    for number, (share, values) in enumerate(arm):
        spec = stage_of(pilot, values, share * pilot.flops, seed, folder / str(number), start)
        start = completed(spec, kept).last_checkpoint
        told.append(dynamics(StageDir(spec.directory)))
    scores = {}
    for name, samples, temperature in (("greedy", 1, 0.0), ("sampled", pilot.samples, 1.0)):
        asked = {
            "evaluation_split": SPLITS[phase],
            "validation_samples": samples,
            "validation_temperature": temperature,
        }
        scoring = replace(
            spec,
            directory=folder / name,
            resume_from=start,
            steps=0,
            flops=None,
            config={**spec.config, "trainer": {**spec.config["trainer"], **asked}},
        )
        scores[name] = completed(scoring, kept).best_score
    return {**scores, "dynamics": told, "cpu_s": round(time.process_time() - started, 1)}


def stage_of(
    pilot: Pilot, values: Mapping[str, Any], flops: float, seed: int, directory: Path, start: Path | None
) -> StageSpec:
    """Return a stage of an arm; its `start` is a checkpoint, or None for the world's base model.

    Values with a dot in their names are overrides of the configuration, the others hyperparameters.
    """
    overrides = [text.format(seed=seed) for text in pilot.overrides]
    overrides += [f"{name}={value}" for name, value in values.items() if "." in name]
    config = configuration((*overrides, f"trainer.validation_max_tokens={pilot.longest}"))
    hparams = {name: value for name, value in {**pilot.values, **values}.items() if "." not in name}
    if start is None:
        task, model = make(config.task, "task"), make(config.model, "model")
        start = Path(model.base_checkpoint(task, lambda phase, progress: None))
    return StageSpec(
        node_id=directory.name,
        parent_id=None,
        depth=1,
        directory=directory,
        resume_from=start,
        hparams=config.catalogue.complete(hparams),
        steps=None,
        flops=flops,
        seed=seed,
        config=config.stage_groups,
    )


@cache
def configuration(overrides: tuple[str, ...]) -> TrainConfig:
    """Return the composed configuration of a stage that is validated once, at its end."""
    return composed("train", TrainConfig, [*overrides, "trainer.validations=1", "stage_dir=unused"])


def completed(spec: StageSpec, kept: Kept) -> StageResult:
    """Run a stage in this process and return its result.

    Raises:
        UserError: it failed.
        KeyboardInterrupt: it was interrupted.
    """
    StageDir(spec.directory).write_spec(spec)
    result = run_stage(spec.directory, started=time.time(), kept=kept)
    if result is None:
        raise KeyboardInterrupt
    if result.state == "failed":
        raise UserError(f"{spec.directory}: {result.error}")
    return result


def dynamics(stage: StageDir) -> Row:
    """Return steps and compute of a stage, and the means of some metrics over its last fifth."""
    metrics = stage.metrics()
    last = metrics[-max(1, len(metrics) // 5) :]
    names = (
        *("train_score", "entropy", "completion_length_mean", "zero_variance_groups", "truncated_fraction"),
        *("kl", "offpolicy_kl", "clip_fraction_low", "clip_fraction_high", "grad_norm"),
    )
    means = {name: round(sum(row[name] for row in last) / len(last), 4) for name in names}
    return {"steps": len(metrics), "flops": sum(row["step_flops"] for row in metrics), **means}


def table(pilot: Pilot, rows: Sequence[Row]) -> list[str]:
    """Return the lines of the table: each arm's scores, and the schedule's paired differences from others."""
    lines = [pilot.question]
    current = [r for r in rows if r["world"] == pilot.world and r["stages"] == pilot.arms.get(r["arm"])]
    for phase in SPLITS:
        of_phase = [row for row in current if row["phase"] == phase]
        for name in dict.fromkeys(row["arm"] for row in of_phase):
            own = [row for row in of_phase if row["arm"] == name]
            cells = [f"{score} {shown([row[score] for row in own])}" for score in ("greedy", "sampled")]
            lines.append(f"{phase:8s}{name:48s}{'  '.join(cells)}  n = {len(own)}")
        for other in pilot.claimed[1:]:
            lines.append(difference(of_phase, pilot.claimed[0], other, pilot.claim["score"]))
    return lines


def shown(scores: Sequence[float]) -> str:
    """Return a mean with its standard error."""
    return f"{np.mean(scores):.3f}" + (f" ± {stats.sem(scores):.3f}" if len(scores) > 1 else "")


def difference(rows: Sequence[Row], ours: str, other: str, score: str) -> str:
    """Return the paired difference of two arms over the seeds that both have, with its p-values."""
    by_arm = {name: {row["seed"]: row[score] for row in rows if row["arm"] == name} for name in (ours, other)}
    apart = np.array(
        [by_arm[ours][seed] - by_arm[other][seed] for seed in by_arm[ours] if seed in by_arm[other]]
    )
    if len(apart) < 2:
        return f"{ours} - {other}, {score}: too few pairs"
    flips = stats.permutation_test((apart,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    return (
        f"{ours} - {other}, {score}: {apart.mean():+.3f} ± {stats.sem(apart):.3f}, {(apart > 0).sum()} of "
        f"{len(apart)} positive, p = {stats.ttest_1samp(apart, 0).pvalue:.4f} (t), {flips:.4f} (signs)"
    )


if __name__ == "__main__":
    main()
