"""The rule-based agent: an expert system that diagnoses a stage and answers with a coordinated change.

It reads the same evidence as a language model would. Each diagnosis suggests *moves*, each a set of parameter
shifts that belong together; the agent takes the move that promises most, by the diagnosis and by how the same
move has paid off earlier in this search, and that has not been tried from this stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

from llmzero.core.hparams import Catalogue, HParams, Parameter
from llmzero.core.settings import REQUIRED, setting
from llmzero.evidence.diagnosis import diagnose
from llmzero.evidence.evidence import Evidence, StageView
from llmzero.evidence.fit import known_not_to_fit, nearly_equal
from llmzero.evidence.proposal import PATHOLOGIES, Proposal

MEMORY_WEIGHT = 8.0  # ranks that a move with a perfect record climbs
RANDOM_TRIES = 100


@dataclass
class AgentSettings:
    """`agent=rules` and `agent=random`."""

    name: str = setting(REQUIRED, "what reports call the agent")


@dataclass(frozen=True)
class Move:
    """Parameter shifts that belong together: factors of numbers, notches of choices (+1: the next larger).

    Where a number has choices alone, its factor counts as a notch.
    """

    why: str
    factors: Mapping[str, float]
    notches: Mapping[str, int]


MOVES = {
    "push": Move("larger steps", {"learning_rate": 2.0}, {}),
    "push_hard": Move("much larger steps", {"learning_rate": 4.0}, {}),
    "settle": Move("smaller steps on larger batches", {"learning_rate": 0.4}, {"prompts_per_step": 1}),
    "calm": Move(
        "smaller steps and a tighter leash", {"learning_rate": 0.4, "kl_coef": 3.0, "max_grad_norm": 0.5}, {}
    ),
    "widen": Move(
        "more prompts a step, and larger steps to match", {"learning_rate": 1.4}, {"prompts_per_step": 1}
    ),
    "sample": Move("more completions a prompt", {"learning_rate": 1.2}, {"group_size": 1}),
    "scale": Move(
        "more prompts and completions, and larger steps to match",
        {"learning_rate": 1.8},
        {"prompts_per_step": 1, "group_size": 1},
    ),
    "intensify": Move(
        "more completions, and more updates from them",
        {},
        {"prompts_per_step": 1, "group_size": 1, "minibatches": 1},
    ),
    "reuse": Move("more updates from every rollout batch", {"clip_high": 1.3}, {"minibatches": 1}),
    "explore": Move(
        "more diverse completions", {"entropy_coef": 3.0, "temperature": 1.1, "clip_high": 1.3}, {}
    ),
    "focus": Move("less noise in the completions", {"entropy_coef": 0.2, "temperature": 0.9}, {}),
    "loosen": Move("less pull towards the reference", {"kl_coef": 0.25, "clip_high": 1.3}, {}),
    "lengthen": Move("room for longer completions", {}, {"max_completion_length": 1}),
    "shorten": Move(
        "cheaper steps, and more of them, from completions that come to an end",
        {},
        {"max_completion_length": -1},
    ),
    "ease": Move("easier problems first, as most are out of reach", {"easiest": 0.125}, {}),
    "harden": Move("harder problems, as those trained on are mostly right", {"easiest": 2.0}, {}),
    "shrink": Move(
        "less memory and time a step", {"learning_rate": 0.7}, {"group_size": -1, "prompts_per_step": -1}
    ),
}

# The moves that answer a diagnosis, best first.
REMEDIES = {
    "untrained": ("reuse", "intensify", "push", "scale", "push_hard"),
    "healthy": ("intensify", "widen", "reuse", "push", "sample"),
    "slow_progress": ("intensify", "reuse", "push", "scale", "loosen"),
    "plateau": ("intensify", "widen", "explore", "settle", "scale", "loosen"),
    "regression": ("settle", "calm", "widen"),
    "kl_blowup": ("calm", "settle"),
    "entropy_collapse": ("explore", "scale", "settle"),
    "entropy_explosion": ("focus", "settle"),
    "held_back": ("lengthen",),
    "too_hard": ("ease",),
    "outgrown": ("harden",),
    "truncation": ("lengthen", "shorten"),
    "no_reward_variance": ("sample", "explore"),
    "unstable_gradients": ("calm", "settle", "widen"),
    "over_regularised": ("loosen", "push"),
    "failure": ("shrink", "calm"),
}


# Diagnoses whose first remedy comes before what paid off earlier, as nothing else can help much: what is cut
# earns nothing, and problems out of reach teach nothing, nor do solved ones what harder ones need.
BINDING = ("held_back", "too_hard", "outgrown")


class RuleAgent:
    """Proposes by rules; at random where the catalogue has none of the names that they use."""

    def propose(self, evidence: Evidence) -> Proposal:
        """Return the most promising move that was not tried from this stage."""
        diagnosis = diagnose(evidence)
        for name in _ranked_moves(evidence, diagnosis):
            changes = apply(MOVES[name], evidence)
            if changes and of_use(evidence, changes):
                because = "; ".join(PATHOLOGIES[problem] for problem in diagnosis)
                record = _record(evidence, name)
                learnt = (
                    f" It gained {fmean(record):+.3f} on average in {len(record)} earlier stages."
                    if record
                    else ""
                )
                return Proposal("rules", tuple(diagnosis), f"{because}: {MOVES[name].why}.{learnt}", changes)
        return random_proposal(evidence, "rules", tuple(diagnosis), "every known move was tried here")


class RandomAgent:
    """Changes one to three parameters at random: the null against which diagnosis is measured."""

    def propose(self, evidence: Evidence) -> Proposal:
        """Return a random change."""
        return random_proposal(evidence, "random", (), "drawn at random")


def _ranked_moves(evidence: Evidence, diagnosis: list[str]) -> list[str]:
    """Return the moves by promise: rank among the diagnosis' remedies, and the mean gain of earlier uses."""
    suggested = list(dict.fromkeys(move for problem in diagnosis for move in REMEDIES[problem]))
    others = [move for move in MOVES if move not in suggested]
    prior: dict[str, float] = {move: -min(i, len(suggested)) for i, move in enumerate([*suggested, *others])}
    prior |= {REMEDIES[problem][0]: MEMORY_WEIGHT for problem in BINDING if problem in diagnosis}
    scale = max((abs(view.gain) for view in evidence.history if view.gain is not None), default=0.0) or 1.0

    def promise(move: str) -> float:
        gains = _record(evidence, move)
        return prior[move] + MEMORY_WEIGHT * sum(gains) / scale / (0.5 + len(gains))

    return sorted(prior, key=promise, reverse=True)


def _record(evidence: Evidence, move: str) -> list[float]:
    """Return the gains of the stages in this search whose changes were this move."""
    return [
        view.gain
        for view in evidence.history
        if view.gain is not None and _is_move(MOVES[move], view, evidence.catalogue)
    ]


def _is_move(move: Move, view: StageView, catalogue: Catalogue) -> bool:
    """Whether a stage changed all parameters of the move that the catalogue has, and no others."""
    wanted = {name: factor - 1 for name, factor in move.factors.items()} | dict(move.notches)
    wanted = {name: direction for name, direction in wanted.items() if name in catalogue}
    if not view.changes or not set(view.changes) <= set(wanted):
        return False
    return set(view.changes) == set(wanted) and bool(wanted)


def apply(move: Move, evidence: Evidence) -> HParams:
    """Return the values a move leads to, within bounds; parameters the catalogue lacks are left out."""
    current, catalogue = evidence.stage.hparams, evidence.catalogue
    new = dict(current)
    for name, factor in move.factors.items():
        if name in catalogue and catalogue[name].choices is None:
            new[name] = _scaled(catalogue[name], current[name], factor)
        elif name in catalogue:
            new[name] = _notched(catalogue[name], current[name], 1 if factor > 1 else -1)
    for name, notch in move.notches.items():
        if name in catalogue:
            new[name] = _notched(catalogue[name], current[name], notch)
    return catalogue.changes(current, new)


def _notched(parameter: Parameter, value: float, notch: int) -> float:
    """Return the choice so many places after a value's, or the last there is."""
    position = parameter.position(value) + notch / max(1, len(parameter.choices or ()) - 1)
    moved: float = parameter.at(position)
    return moved


def _scaled(parameter: Parameter, value: float, factor: float) -> float:
    """Multiply a value; one at zero starts from a twentieth of its range when it is raised."""
    start = value if value > 0 or factor <= 1 else parameter.bounds[1] / 20 / factor
    scaled: float = parameter.clamp(start * factor)
    return scaled


def of_use(evidence: Evidence, changes: HParams) -> bool:
    """Whether changes lead to a configuration that was not tried from this stage and may fit into memory."""
    new = {**evidence.stage.hparams, **changes}
    return not nearly_equal(evidence, new) and known_not_to_fit(evidence, new) is None


def random_proposal(evidence: Evidence, agent: str, diagnosis: tuple[str, ...], why: str) -> Proposal:
    """Draw one to three parameters anew, until the configuration is neither the parent's nor a sibling's."""
    rng, catalogue = evidence.rng(), evidence.catalogue

    def draws() -> HParams:
        names = rng.sample(list(catalogue), k=min(rng.randint(1, 3), len(catalogue)))
        return catalogue.changes(
            evidence.stage.hparams, evidence.stage.hparams | {n: catalogue[n].sample(rng) for n in names}
        )

    fresh: HParams = {}
    for fresh in filter(
        None, islice(iter(draws, None), RANDOM_TRIES)
    ):  # the last one drawn, where none is of use
        if of_use(evidence, fresh):
            break
    return Proposal(agent, diagnosis, f"A random change of {', '.join(fresh) or 'nothing'}: {why}.", fresh)
