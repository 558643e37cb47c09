"""Sheet music in ABC notation: rhythm, chords, intervals and scales, after SSMR-Bench (arXiv 2509.04059)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.settings import setting
from llmzero.tasks import answers, hub, music_answers, music_problems
from llmzero.tasks.base import Example, Reward, Split, weighted
from llmzero.tasks.generated import Generated, content_id, generated_sizes
from llmzero.tasks.music_nano import ShortMusic
from llmzero.tasks.settings import GeneratedTaskSettings
from llmzero.tasks.template import prompt_template

PUBLISHED = "Sylence/SSMR-Bench"
SUBTASKS = {"beat": "rhythm"}  # what the published benchmark calls otherwise


@dataclass
class SheetMusicSettings(GeneratedTaskSettings):
    """`task=ssmr`."""

    source: str = setting(
        "generated",
        "of full difficulty: generated problems, or the published SSMR-Bench",
        choices=("generated", "published"),
    )
    path: str | None = setting(
        None, "a copy of the published data set, a directory or file that `datasets` loads; null is the hub"
    )
    subset: str | None = setting(None, "a configuration of the published data set; null is its only one")


def sheet_music(settings: SheetMusicSettings) -> ShortMusic | SheetMusic | PublishedMusic:
    """Return the task that the settings describe.

    A template makes prompts of full difficulty from `question`, `abc`, `options` and `form`.

    Raises:
        UserError: music21 is not installed; full difficulty needs it.
    """
    sizes = generated_sizes(settings.sizes())
    if settings.difficulty == "nano":
        return ShortMusic(sizes, settings.seed)
    hub.require("music21", "task=ssmr task.difficulty=full")
    generated = SheetMusic(sizes, settings.seed, settings.template)
    if settings.source == "generated":
        return generated
    return PublishedMusic(generated, settings.path, settings.subset, settings.sizes())


class _Asked:
    """Questions in words: 0.1 for an answer of the kind that was asked for, in <answer> tags, and 0.9 more for the right one."""

    metric = "correct"

    def __init__(self, template: str | None) -> None:
        self.template = prompt_template("ssmr", template)

    def asked(self, problem: music_problems.Problem, options: Sequence[str]) -> Example:
        """Return an example that asks for one of the options, or for the answer itself where there are none."""
        form = music_problems.LETTER_FORM if options else problem.form
        prompt = self.template.render(question=problem.question, abc=problem.abc, options=options, form=form)
        kind, answer = (
            ("letter", "ABCD"[options.index(problem.answer)]) if options else (problem.kind, problem.answer)
        )
        content = "\n".join([problem.question, problem.abc or "\n".join(sorted(options))])
        return Example(
            content_id(f"music:{content}"), prompt, answer, {"subtask": problem.subtask, "kind": kind}
        )

    def reward(self, example: Example, completion: str) -> Reward:
        """Reward a completion; never raises. An answer that is not of the kind asked for, such as several letters, earns nothing."""
        kind, text = example.meta["kind"], answers.stated(completion) or ""
        said = music_answers.read(kind, text) is not None
        return weighted(float(said), float(music_answers.same(kind, text, example.answer)))


class SheetMusic(Generated, _Asked):
    """Generated problems of all four subtasks; half of them are questions of multiple choice."""

    def __init__(self, sizes: dict[str, int], seed: int, template: str | None = None) -> None:
        Generated.__init__(self, "ssmr/full", sizes, seed)
        _Asked.__init__(self, template)

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem, or None where the draw came to nothing."""
        problem = music_problems.problem(rng)
        if problem is None:
            return None
        chosen = music_problems.options(problem, rng)
        if problem.kind == "letter":
            return self.asked(problem, chosen) if chosen else None
        return self.asked(problem, chosen if chosen and rng.random() < 0.5 else [])


class PublishedMusic(_Asked):
    """The published benchmark as the test split. Training and validation problems are its training split's, if it has one, or generated."""

    def __init__(
        self, generated: SheetMusic, path: str | None, subset: str | None, sizes: Mapping[str, int | None]
    ) -> None:
        self.template = generated.template
        self.generated, self.path, self.subset, self.sizes = generated, path, subset, sizes
        self._splits = cache(self._load)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the data set's order."""
        found = self._splits().get(name)
        return self.generated.split(name) if found is None else found

    def _load(self) -> dict[str, list[Example]]:
        rows = hub.splits("ssmr", self.path or PUBLISHED, self.subset)
        taught = {"train", "test"} <= set(rows)
        test = self._examples(rows["test"] if "test" in rows else next(iter(rows.values())))
        found = hub.divided(self._examples(rows["train"]) if taught else (), test)
        found = found if taught else {"test": found["test"]}
        return {name: list(islice(examples, self.sizes[name])) for name, examples in found.items()}

    def _examples(self, rows: Iterable[Mapping[str, Any]]) -> Iterable[Example]:
        for row in rows:
            problem = _published(row, self.path or PUBLISHED)
            options = [problem.answer, *problem.wrong]
            random.Random(f"{problem.question}\n{problem.abc}\n{problem.answer}").shuffle(options)
            yield self.asked(problem, options)


def _published(row: Mapping[str, Any], path: str) -> music_problems.Problem:
    """Return a row of the benchmark as a problem.

    Raises:
        UserError: a field is missing.
    """
    try:
        question, abc, answer = (
            str(row[name] or "").strip() for name in ("question", "abc_context", "correct_answer")
        )
        wrong = [str(row[f"incorrect_answer{number}"]).strip() for number in (1, 2, 3)]
        category = str(row["category"]).lower().split("-")[0]
    except KeyError as error:
        raise UserError(
            f"task=ssmr: a row of {path} has no field {error}; it has {', '.join(row)}"
        ) from error
    return music_problems.Problem(
        SUBTASKS.get(category, category), question, abc, "letter", "", answer, wrong
    )
