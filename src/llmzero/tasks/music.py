"""Sheet music in ABC notation: rhythm, chords, intervals and scales, after SSMR-Bench (arXiv 2509.04059)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, Literal

from llmzero.core.errors import UserError
from llmzero.tasks import answers, hub, music_answers, music_problems
from llmzero.tasks.base import Example, Reward, Split, weighted
from llmzero.tasks.generated import Generated, content_id, usual_sizes
from llmzero.tasks.music_nano import ShortMusic
from llmzero.tasks.template import prompt_template

PUBLISHED = "Sylence/SSMR-Bench"
SUBTASKS = {"beat": "rhythm"}  # what the published benchmark calls otherwise


def sheet_music(
    difficulty: Literal["nano", "full"],
    source: Literal["generated", "published"] = "generated",
    path: str | None = None,
    subset: str | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
    template: str | None = None,
) -> ShortMusic | SheetMusic | PublishedMusic:
    """Return the task that a configuration describes.

    Args:
        difficulty: `nano` is short problems in characters, `full` asks in words.
        source: of `full`: generated problems, or the published benchmark.
        path: of the benchmark: where it lies instead of on the hub, a directory or file that `datasets` loads.
        subset: of the benchmark: the name of a configuration of it; null is its only one.
        train_size: examples for training; null is 4800 generated ones, and all that the benchmark has for it.
        val_size: the same for validation; null is 1000 generated ones.
        test_size: the same for the test; null is 1000 generated ones, and all of the benchmark.
        seed: of the generators.
        template: of `full`: a Jinja file that makes the prompt of `question`, `abc`, `options` and `form`; null is the task's own.

    Raises:
        UserError: music21 is not installed, or there is no such source.
    """
    given = {"train": train_size, "val": val_size, "test": test_size}
    sizes = usual_sizes(given)
    if difficulty == "nano":
        return ShortMusic(sizes, seed)
    hub.check_source("ssmr", source, "generated", "published")
    hub.require("music21", "task=ssmr task.difficulty=full")
    generated = SheetMusic(sizes, seed, template)
    return generated if source == "generated" else PublishedMusic(generated, path, subset, given)


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
