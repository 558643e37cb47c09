"""Settings that several tasks have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.settings import setting
from llmzero.tasks.generated import DEFAULT_SIZES

FORMED = (
    "Reward: 0.1 for an answer in the form that is asked for, 1 for a right one, which is the most; "
    "the score is the share of right answers."
)
TIMEOUT_S = 5.0  # for checking one answer


@dataclass
class TaskSettings:
    """The sizes of the splits, and the prompt."""

    train_size: int | None = setting(
        None, f"training examples; null: {DEFAULT_SIZES['train']} generated ones, or all of a data set", low=1
    )
    val_size: int | None = setting(
        None, f"validation examples; null: {DEFAULT_SIZES['val']} generated ones, or all of a data set", low=2
    )
    test_size: int | None = setting(
        None, f"test examples; null: {DEFAULT_SIZES['test']} generated ones, or all of a data set", low=2
    )
    template: str | None = setting(None, "a Jinja file that makes the prompts; null is the task's own")

    def sizes(self) -> dict[str, int | None]:
        """Return the number of examples by the name of the split."""
        return {"train": self.train_size, "val": self.val_size, "test": self.test_size}


@dataclass
class GeneratedTaskSettings(TaskSettings):
    """A generator of two difficulties."""

    difficulty: str = setting(
        "nano", "nano: short strings of a few characters; full: questions in words", choices=("nano", "full")
    )
    seed: int = setting(0, "seed of the generator; splits are disjoint across seeds")

    def check_source(self) -> None:
        """Refuse what names a data set where problems are generated: it would go unread.

        Raises:
            UserError: it does.
        """
        source = getattr(self, "source", "generated")
        if source != "generated" and self.difficulty == "nano":
            raise UserError(
                f"task.source={source}: at task.difficulty=nano problems are generated; set "
                "task.difficulty=full, with a model that reads words, such as model=hf"
            )
        for key in ("path", "subset"):
            value = getattr(self, key, None)
            if value is not None and source == "generated":
                raise UserError(
                    f"task.{key}={value}: is of a published data set, and task.source=generated; name the "
                    f"data set as task.source, or leave task.{key} out"
                )


@dataclass
class CheckedTaskSettings(TaskSettings):
    """Answers that are checked in processes of their own."""

    timeout_s: float = setting(TIMEOUT_S, "seconds for checking one answer", low=0)
    workers: int = setting(1, "processes that check answers", low=1)


def unverified(default: str) -> Any:
    """Return the setting of what is done with problems whose right answers fail; docs/tasks.md."""
    return setting(
        default,
        "of data of others, a problem whose right answer does not earn full marks for itself: refuse the "
        "data, skip the problem, or keep it",
        choices=("refuse", "skip", "keep"),
    )
