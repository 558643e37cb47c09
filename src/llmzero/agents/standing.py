"""Where a search stands and what stages cost, in words for a language model."""

from __future__ import annotations

from llmzero.agents.text import value_text
from llmzero.core.length import flops_text
from llmzero.core.stage import best_point
from llmzero.evidence.cost import Cost, CostModel, doubled, predicted, usual_steps
from llmzero.evidence.dynamics import number
from llmzero.evidence.evidence import Evidence, StageView

LEAST_CHANGE = 0.005  # of costs that are told: less shows no difference


def standing_text(evidence: Evidence) -> str:
    """Return why this stage is continued, how much may follow it, and how it compares with the best path."""
    standing, stage = evidence.standing, evidence.stage
    if standing is None:
        return ""
    limits = [
        (standing.levels_left, "levels left on a path through it: {}"),
        (standing.stages_left, "stages that the search may still begin, this one among them: {}"),
    ]
    left = [words.format(number) for number, words in limits if number is not None]
    if standing.flops_left is not None:
        left.append(f"{flops_text(standing.flops_left)} are left")
    lines = [
        f"- {stage.node_id} is continued{_scored(stage)}. {standing.why}".rstrip(),
        f"- It is at depth {standing.depth}{'; ' if left else ''}{'; '.join(left)}.",
        *_compared(evidence),
    ]
    if standing.others:
        lines.append("- These could be continued in its place:")
    for other in standing.others:
        levels = standing.levels_below(other)
        more = f", levels left {levels}" if levels is not None else ""
        lines.append(
            f"  - {other.node_id}: depth {other.depth}{_scored(other)}{more}, children {other.children}; "
            f"{_difference(stage, other)}{_best_step(other)}"
        )
    return "\n".join(lines)


def _compared(evidence: Evidence) -> list[str]:
    """Return the configuration of the search's best stage, and how its path stood at this depth."""
    path, stage = evidence.best_path, evidence.stage
    if not path:
        return []
    best = path[-1]
    if best.node_id == stage.node_id:
        return [f"- {stage.node_id} is the best stage of the search."]
    place = f"{best.node_id}, depth {best.depth}{_scored(best)}"
    lines = [f"- The best stage is {place}; {_difference(stage, best)}."]
    at_depth = [view for view in path if view.depth in (stage.depth, stage.depth + 1)]
    stood = [f"at depth {view.depth} with {view.node_id}{_scored(view)}" for view in at_depth]
    return [*lines, f"- Its path stood {', '.join(stood)}."] if stood else lines


def _difference(stage: StageView, other: StageView) -> str:
    """Return in what the configuration of another stage differs from a stage's."""
    differing = [
        f"{name} {value_text(value)} -> {value_text(other.hparams[name])}"
        for name, value in stage.hparams.items()
        if name in other.hparams and other.hparams[name] != value
    ]
    if not differing:
        return f"its configuration is that of {stage.node_id}"
    return f"its configuration, against that of {stage.node_id}: {', '.join(differing)}"


def _scored(view: StageView) -> str:
    return f", score {view.score:.3f}" if view.score is not None else ""


def _best_step(view: StageView) -> str:
    """Return where the best checkpoint of a stage is, unless it is the last."""
    best = best_point(view.points)
    return (
        f"; best at step {best.step} of {view.steps}" if best is not None and best.step < view.steps else ""
    )


def _steps_of_stages(evidence: Evidence, model: CostModel, cost: Cost) -> list[str]:
    """Return how many steps a stage has whose length is in FLOPs."""
    if evidence.stage_flops is None or not cost.flops:
        return []
    usual = evidence.stage_flops / evidence.stage.stretch
    steps = usual / cost.flops * usual_steps(evidence, model)
    whole = flops_text(usual)
    return [f"- the usual length is {whole}: about {steps:.0f} such steps; dearer steps are fewer"]


def cost_text(evidence: Evidence) -> str:
    """Return what a stage costs under the present configuration, and what doubling each driver would do,
    or halving it where it is at its greatest.
    """
    now = evidence.stage.hparams
    found = predicted(evidence, now)
    if found is None:
        return ""
    model, cost = found
    error = f"; it is {model.error:.0%} off their FLOPs on average" if model.error is not None else ""
    flops = f"{flops_text(cost.flops)} and " if cost.flops is not None else ""
    seconds = f"{number(cost.seconds)} device seconds, {number(model.startup)} of them whatever its steps are"
    lines = [
        f"- a stage of {usual_steps(evidence, model)} steps under the present configuration: "
        f"about {flops}{seconds}",
        "- a step's cost goes with completions x their mean length x passes: 1 to sample, "
        "1 for the reference where kl_coef is above 0, 3 an epoch",
        *_steps_of_stages(evidence, model, cost),
        f"- learnt from {model.stages} stage{'s' if model.stages > 1 else ''}{error}",
    ]
    for parameter in evidence.catalogue.values():
        value = doubled(parameter, now[parameter.name])
        other = predicted(evidence, {**now, parameter.name: value}) if value is not None else None
        if other is None:
            continue
        pairs = {"FLOPs": (cost.flops, other[1].flops), "device seconds": (cost.seconds, other[1].seconds)}
        ratios = {what: b / a for what, (a, b) in pairs.items() if a and b}
        if max((abs(ratio - 1) for ratio in ratios.values()), default=0.0) < LEAST_CHANGE:
            continue
        change = f"{parameter.name} {value_text(now[parameter.name])} -> {value_text(value)}"
        told = ", ".join(f"{ratio:.2f} x the {what}" for what, ratio in ratios.items())
        lines.append(f"- {change}: {told}")
    return "\n".join(lines)
