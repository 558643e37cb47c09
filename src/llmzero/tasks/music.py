"""`task=ssmr`: sheet music in ABC notation, after SSMR-Bench (arXiv 2509.04059)."""

from __future__ import annotations

from dataclasses import dataclass

from llmzero.core.settings import setting
from llmzero.tasks.base import Task
from llmzero.tasks.generated import generated_sizes
from llmzero.tasks.packages import require
from llmzero.tasks.settings import FORMED, GeneratedTaskSettings, unverified


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
    unverified: str = unverified("skip")

    @property
    def about(self) -> str:
        """Rules and reward in words."""
        if self.difficulty == "nano":
            asked = "Short prompts in ABC notation ask for notes: of a rhythm, chord, interval or scale."
        else:
            asked = "Questions in words about sheet music in ABC notation, with answers in <answer> tags."
        return f"{asked} {FORMED}"


def sheet_music(settings: SheetMusicSettings) -> Task:
    """Return the task that the settings describe.

    A template makes prompts of full difficulty from `question`, `abc`, `options` and `form`.

    Raises:
        UserError: music21 is not installed, which full difficulty needs; or a data set is named that would go
            unread.
    """
    settings.check_source()
    from llmzero.tasks.music_nano import ShortMusic  # imported late: settings are read where no task is
    from llmzero.tasks.music_published import PublishedMusic
    from llmzero.tasks.music_questions import SheetMusic

    sizes = generated_sizes(settings.sizes())
    if settings.difficulty == "nano":
        return ShortMusic(sizes, settings.seed)
    require("music21", "task=ssmr task.difficulty=full")
    generated = SheetMusic(sizes, settings.seed, settings.template)
    if settings.source == "generated":
        return generated
    return PublishedMusic(generated, settings.path, settings.subset, settings.sizes(), settings.unverified)
