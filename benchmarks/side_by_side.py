"""Compares our GRPO step with TRL's: each trainer in a process of its own, taking steps in turn.

Both work on the same model, prompts, group size, completion length and rewards, with the same learning rate
and no reference model.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.setting import Setting, model_directory
from benchmarks.worker import Answer, worker

SIDES = ("ours", "theirs")


def compare_steps(setting: Setting) -> tuple[dict[str, list[Answer]], dict[str, float]]:
    """Take steps in turn in two processes.

    Returns:
        The answers of each side to the timed steps, and its peak memory in MiB.
    """
    model_directory(setting.model)  # made before two processes need it at once
    turns: list[tuple[str, Answer]] = []
    with worker("benchmarks.our_trainer:serve_steps", setting) as ours:
        turns.append(("ours", ours("")))
        with worker("benchmarks.trl_trainer:serve_steps", setting) as theirs:
            turns.append(("theirs", theirs("")))
            for turn in range(setting.rounds + 1):
                for side, ask in zip(SIDES, (ours, theirs), strict=True):
                    answer = ask("step")
                    turns.append((side, answer))
                    print(f"{setting.model} step {turn} {side}: {answer['seconds']:.2f} s", file=sys.stderr)
    timed = turns[2 * len(SIDES) :]  # without the start, and without the first step
    return {side: [answer for name, answer in timed if name == side] for side in SIDES}, own_memory(turns)


def own_memory(turns: Iterable[tuple[str, Answer]]) -> dict[str, float]:
    """Return the peak memory of each side in MiB.

    On a GPU, answers tell the memory of both processes together. A process takes and returns memory in its
    own turns alone, so what a turn adds belongs to its side.
    """
    held = 0.0
    own: dict[str, float] = defaultdict(float)
    peak: dict[str, float] = defaultdict(float)
    for side, answer in turns:
        peak[side] = max(peak[side], own[side] + answer["peak_mib"] - held)
        own[side] += answer["held_mib"] - held
        held = answer["held_mib"]
    return dict(peak)


def seconds(answers: Mapping[str, Sequence[Answer]]) -> dict[str, list[float]]:
    """Return the seconds of each side's steps."""
    return {side: [answer["seconds"] for answer in timed] for side, timed in answers.items()}


def ratio(seconds: Mapping[str, Sequence[float]]) -> float:
    """Return the median of TRL's seconds divided by the median of ours."""
    return round(statistics.median(seconds["theirs"]) / statistics.median(seconds["ours"]), 2)
