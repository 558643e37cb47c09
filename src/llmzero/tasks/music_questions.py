"""Questions in words about sheet music: rhythm, chords, intervals and scales."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from llmzero.tasks import answers, music_answers, music_chords, music_intervals, music_rhythm, music_scales
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.generated import Generated
from llmzero.tasks.music_problems import LETTER_FORM, Problem, options
from llmzero.tasks.splits import content_id
from llmzero.tasks.template import prompt_template

MAKERS: dict[str, tuple[Callable[[random.Random], Problem | None], ...]] = {
    "rhythm": music_rhythm.MAKERS,
    "chord": music_chords.MAKERS,
    "interval": music_intervals.MAKERS,
    "scale": music_scales.MAKERS,
}


class MusicQuestions:
    """Questions in words.

    The reward is 0.1 for an answer of the requested kind in <answer> tags, and 0.9 more for the right one.
    """

    metric = "correct"

    def __init__(self, template: str | None) -> None:
        self.template = prompt_template("ssmr", template)

    def example(self, problem: Problem, choices: Sequence[str]) -> Example:
        """Return an example that asks for one of the choices; for the answer itself where there are none."""
        form = LETTER_FORM if choices else problem.form
        prompt = self.template.render(question=problem.question, abc=problem.abc, options=choices, form=form)
        kind, answer = problem.kind, problem.answer
        if choices:
            kind, answer = "letter", "ABCD"[choices.index(problem.answer)]
        content = "\n".join([problem.question, problem.abc or "\n".join(sorted(choices))])
        meta = {"subtask": problem.subtask, "kind": kind}
        return Example(content_id(f"music:{content}"), prompt, answer, meta)

    def reward(self, example: Example, completion: str) -> Reward:
        """Reward a completion; never raises. An answer of another kind (several letters) earns nothing."""
        kind, text = example.meta["kind"], answers.stated(completion) or ""
        formatted = music_answers.read(kind, text) is not None
        return weighted(float(formatted), float(music_answers.same(kind, text, example.answer)))


class SheetMusic(Generated, MusicQuestions):
    """Generated problems of all four subtasks; half of them are multiple-choice questions."""

    def __init__(self, sizes: dict[str, int], seed: int, template: str | None) -> None:
        Generated.__init__(self, "ssmr/full", sizes, seed)
        MusicQuestions.__init__(self, template)

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem, or None where the draw failed."""
        problem = rng.choice(MAKERS[rng.choice(tuple(MAKERS))])(rng)
        if problem is None:
            return None
        choices = options(problem, rng)
        if problem.kind == "letter":
            return self.example(problem, choices) if choices else None
        return self.example(problem, choices if choices and rng.random() < 0.5 else [])
