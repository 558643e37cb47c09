"""`task=math`: equal fractions for the nano model, word problems, GSM8K and MATH."""

from __future__ import annotations

from dataclasses import dataclass

from llmzero.core.settings import setting
from llmzero.tasks.base import Task
from llmzero.tasks.generated import generated_sizes
from llmzero.tasks.math_fractions import Fractions
from llmzero.tasks.math_published import DATA_SETS, PublishedMathematics
from llmzero.tasks.math_questions import WordProblems
from llmzero.tasks.settings import FORMED, GeneratedTaskSettings, unverified


@dataclass
class MathSettings(GeneratedTaskSettings):
    """`task=math`."""

    source: str = setting(
        "generated",
        "of full difficulty: generated word problems, or a published data set",
        choices=("generated", *DATA_SETS),
    )
    path: str | None = setting(
        None, "a copy of the published data set, a directory that `datasets` loads; null is the hub"
    )
    subset: str | None = setting(
        None, "part of the published data set, such as a subject of MATH; null is main or algebra"
    )
    workers: int = setting(1, "processes that check answers", low=1)
    unverified: str = unverified("skip")

    @property
    def about(self) -> str:
        """Rules and reward in words."""
        if self.difficulty == "nano":
            asked = "Prompts such as `3/7:` ask for an equal fraction, enlarged by less than 10."
        else:
            kind = "generated grade-school" if self.source == "generated" else self.source
            asked = f"Mathematical problems in words ({kind}), with an answer that is stated after reasoning."
        return f"{asked} {FORMED}"


def mathematics(settings: MathSettings) -> Task:
    """Return the task that the settings describe; a template makes prompts of `full` from `question`.

    Raises:
        UserError: a data set is named that would go unread.
    """
    settings.check_source()
    sizes = generated_sizes(settings.sizes())
    if settings.difficulty == "nano":
        return Fractions(sizes, settings.seed)
    if settings.source == "generated":
        return WordProblems(sizes, settings.seed, settings.workers, settings.template)
    return PublishedMathematics(
        DATA_SETS[settings.source],
        settings.path,
        settings.subset,
        settings.sizes(),
        settings.workers,
        settings.template,
        settings.unverified,
    )
