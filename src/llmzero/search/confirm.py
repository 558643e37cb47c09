"""Confirmation: the best strategies and the practitioner's configuration again, on fresh seeds."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from statistics import fmean, stdev
from typing import Any

from llmzero.core.compute import summed
from llmzero.core.files import write_json
from llmzero.core.hparams import Catalogue
from llmzero.mirrors.replays import ReplayDisplay, ReplaysDisplay
from llmzero.search.replay import replay_config
from llmzero.search.rounds import Rounds, side_by_side
from llmzero.search.settings import SearchConfig
from llmzero.strategies.schedule import StrategyStage, as_trained, strategy_of
from llmzero.tree.outcomes import read_summary
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree
from llmzero.tree.workspace import Workspace

FIRST_FRESH_SEED = 1000  # above the search's own

Summary = dict[str, Any]
RunSearch = Callable[[SearchConfig, ReplayDisplay], Rounds[Summary]]  # to its final test


def fresh_seeds(config: SearchConfig) -> list[int]:
    """Return the seeds of a search's confirmation."""
    return [config.seed + FIRST_FRESH_SEED + i for i in range(config.search.confirm_seeds)]


@dataclass(frozen=True)
class Candidate:
    """A strategy, by the node that it leads to, or the practitioner's configuration, which has no node.

    Attributes:
        lengths: which lengths of its stages a replay keeps, `steps` or `flops`.
    """

    name: str
    node_id: str | None
    stages: Sequence[StrategyStage]
    lengths: str

    @property
    def steps(self) -> int:
        """GRPO steps of all its stages, in the search."""
        return sum(stage.end for stage in self.stages)

    @property
    def flops(self) -> float | None:
        """Their compute there; None is unknown."""
        return summed(stage.flops for stage in self.stages)


@dataclass(frozen=True)
class Confirmation:
    """Replays each candidate on each fresh seed in a search directory of its own; compares test scores.

    Finished replays are not run again, so that it can be interrupted, and seeds and strategies can be added
    later.

    Attributes:
        config: the search's configuration.
        replay: runs the search that a configuration describes, to its final test, and returns its summary;
            the display takes note of its progress.
    """

    workspace: Workspace
    store: EventStore
    catalogue: Catalogue
    config: SearchConfig
    replay: RunSearch

    def rounds(self) -> Rounds[None]:
        """Write `confirmation.json`; nothing where no stage of the search could be trained.

        As many replays as the search has workers run side by side. One in which a stage failed is run again
        by the next command.

        Raises:
            UserError: a replay failed; the others are there for the next attempt.
        """
        seeds = fresh_seeds(self.config)
        strategies = self._strategies()
        if strategies:
            practitioner = self._practitioner(strategies)
            replays = {
                f"{candidate.name} on seed {seed}": (candidate, seed)
                for candidate in (*strategies, practitioner)
                for seed in seeds
            }
            display = ReplaysDisplay({name: candidate.steps for name, (candidate, _) in replays.items()})
            works = {name: self._run(name, *replay, display) for name, replay in replays.items()}
            with display.live():
                summaries = yield from side_by_side(works, self.config.search.workers)
            runs: dict[str, list[Summary]] = defaultdict(list)
            for name, (candidate, _) in replays.items():
                runs[candidate.name].append(summaries[name])
            searched = {"stages": len(self.store.tree.stages()), "seeds": seeds}
            scores = compared(strategies, practitioner, runs)
            write_json(self.workspace.confirmation_file, {**searched, **scores})

    def _strategies(self) -> list[Candidate]:
        tree = self.store.tree
        best = best_paths(tree, self.config.search.confirm_top)
        stages = [as_trained(strategy_of(tree, node, self.catalogue)) for node in best]
        lengths = "steps" if self.config.search.stage_flops is None else "flops"  # as they were searched
        return [
            Candidate(f"strategy-{node.node_id}", node.node_id, path, lengths)
            for node, path in zip(best, stages, strict=True)
        ]

    def _practitioner(self, strategies: Sequence[Candidate]) -> Candidate:
        """Return the practitioner's configuration, in one stage of the compute of the strategy that takes the
        most, or of the steps where compute is unknown. Its checkpoint is selected on validation as a
        strategy's is.
        """
        hparams, costs = self.catalogue.defaults(), [strategy.flops for strategy in strategies]
        steps = max(strategy.steps for strategy in strategies)
        known = [flops for flops in costs if flops is not None]
        if len(known) < len(costs):
            return Candidate(f"practitioner-{steps}", None, [StrategyStage(steps, hparams)], "steps")
        flops, first = max(known), self.store.tree.practitioner()
        if first is not None and first.result is not None and first.result.flops:
            done = first.result.validation[-1].step
            steps = max(1, round(flops * done / first.result.flops))  # as far as can be told
        stage = StrategyStage(steps, hparams, flops=flops)
        return Candidate(f"practitioner-{flops:.0f}", None, [stage], "flops")

    def _run(self, name: str, candidate: Candidate, seed: int, display: ReplaysDisplay) -> Rounds[Summary]:
        """Return the summary of a candidate's replay, run where needed; its cost is charged to no budget."""
        directory = self.workspace.confirm / candidate.name / f"seed-{seed}"
        summary = read_summary(directory)
        if summary is None or summary["state"] != "finished" or _fell_short(candidate, summary):
            tracking = {"_target_": "llmzero.mirrors.tracking.NoTracking"}
            alone = replace(self.config, seed=seed, search_dir=str(directory), tracking=tracking)
            config = replay_config(alone, candidate.stages, candidate.lengths)
            summary = yield from self.replay(config, display.begin(name))
        display.end(name)
        spent = summary["budget"]
        self.store.charge_setup(
            f"confirm/{candidate.name}/seed-{seed}",
            round(spent["gpu_seconds"] + spent["setup_gpu_seconds"], 3),
            summed((spent.get("flops"), spent.get("setup_flops"))),
        )
        return summary


def best_paths(tree: Tree, count: int) -> list[Node]:
    """Return the best nodes by validation, none of which continues another.

    Paths of the practitioner's configuration alone are left out, as the others are compared with it, unless
    there are no others.
    """
    usable = [node for node in tree.stages() if node.usable]
    strategies = [
        node
        for node in usable
        if any(stage.hparams != tree.root.hparams for stage in tree.path(node.node_id))
    ] or usable
    best: list[Node] = []
    for node in sorted(strategies, key=lambda node: (-(node.score or 0.0), node.node_id)):
        path = {ancestor.node_id for ancestor in tree.path(node.node_id)}
        continues = any(other.node_id in path or node in tree.path(other.node_id) for other in best)
        if len(best) < count and not continues:
            best.append(node)
    return best


def compared(
    strategies: Sequence[Candidate], practitioner: Candidate, runs: dict[str, list[Summary]]
) -> dict[str, Any]:
    """Return what `confirmation.json` says of each candidate and of the base model.

    The winner is the strategy with the best mean validation score over the fresh seeds: test scores select
    nothing. Replays in which the practitioner's training failed are left out of all that it is compared with.
    """
    entries = {strategy.name: _scores(strategy, runs[strategy.name]) for strategy in strategies}
    trained = [not _fell_short(practitioner, summary) for summary in runs[practitioner.name]]
    theirs = _scores(practitioner, list(compress(runs[practitioner.name], trained)))
    theirs["incomplete"] = trained.count(False)
    base = [summary["test"]["base"]["score"] for summary in runs[practitioner.name]]
    for entry in entries.values():
        entry["against"] = {
            "practitioner": difference(list(compress(entry["test"], trained)), theirs["test"]),
            "base": difference(entry["test"], base),
        }
    return {
        "winner": max(entries, key=lambda name: entries[name]["validation_mean"]),
        "strategies": entries,
        "practitioner": theirs,
        "base": {"test": base, **_mean(base)},
    }


def _scores(candidate: Candidate, summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return a candidate's entry in `confirmation.json`.

    `incomplete` counts replays in which a stage failed; strategies are judged by the stages before it.
    """
    validation = [summary["best"]["score"] for summary in summaries]
    test = [summary["test"]["best"]["score"] for summary in summaries]
    flops = [summary["test"]["best"].get("flops") for summary in summaries]
    return {
        **({"node_id": candidate.node_id} if candidate.node_id else {}),
        "steps": candidate.steps,
        "flops": None if None in flops or not flops else fmean(flops),
        "validation": validation,
        "validation_mean": fmean(validation) if validation else None,
        "incomplete": sum(_fell_short(candidate, summary) for summary in summaries),
        "test": test,
        **_mean(test),
    }


def _fell_short(candidate: Candidate, summary: Summary) -> bool:
    """Whether a stage of a candidate's replay was not trained to its end."""
    return bool(summary["nodes"]["completed"] <= len(candidate.stages))  # the base model counts as one


def _mean(scores: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": fmean(scores) if scores else None,
        "stderr": stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None,
    }


def difference(a: Sequence[float], b: Sequence[float]) -> dict[str, float | None]:
    """Return the mean difference of scores of the same seeds, with two-sided p-values.

    They are those of Student's paired test and of Welch's test; None where there are no two seeds, or all
    scores are equal. Without scores all are None.
    """
    from scipy.stats import ttest_ind, ttest_rel

    paired, welch = None, None
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # one side's scores may be equal
        if len({x - y for x, y in zip(a, b, strict=True)}) > 1:
            paired = float(ttest_rel(a, b).pvalue)
        if len(set(a)) > 1 or len(set(b)) > 1:
            welch = float(ttest_ind(a, b, equal_var=False).pvalue)
    apart = fmean(a) - fmean(b) if a and b else None
    return {"difference": apart, "p_paired": paired, "p_welch": welch}
