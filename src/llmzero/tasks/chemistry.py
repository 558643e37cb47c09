"""`task=chem`: molecules as SMILES, judged by RDKit."""

from __future__ import annotations

from dataclasses import dataclass

from llmzero.core.settings import setting
from llmzero.tasks.base import Task
from llmzero.tasks.generated import generated_sizes
from llmzero.tasks.packages import require
from llmzero.tasks.settings import FORMED, GeneratedTaskSettings, unverified


@dataclass
class ChemistrySettings(GeneratedTaskSettings):
    """`task=chem`."""

    source: str = setting(
        "generated",
        "of full difficulty: generated questions, or the published ChemCoTBench",
        choices=("generated", "published"),
    )
    path: str | None = setting(
        None, "a copy of the published data set, a directory that `datasets` loads; null is the hub"
    )
    unverified: str = unverified("skip")

    @property
    def about(self) -> str:
        """Rules and reward in words."""
        if self.difficulty == "nano":
            asked = "Prompts such as `CCO-O+F:` ask for a SMILES: with a group changed, or an isomer (`~`)."
        else:
            asked = "Questions in words about molecules: understanding, editing, optimisation, reactions."
        return f"{asked} {FORMED}"


def chemistry(settings: ChemistrySettings) -> Task:
    """Return the task that the settings describe.

    A template makes prompts of full difficulty from `question` and `example`.

    Raises:
        UserError: RDKit is not installed, or a data set is named that would go unread.
    """
    settings.check_source()
    require("rdkit", "task=chem")
    from llmzero.tasks.chemistry_nano import SmallMolecules  # these need RDKit
    from llmzero.tasks.chemistry_published import ChemCoTBench
    from llmzero.tasks.chemistry_questions import MoleculeQuestions

    sizes = generated_sizes(settings.sizes())
    if settings.difficulty == "nano":
        return SmallMolecules(sizes, settings.seed)
    if settings.source == "published":
        return ChemCoTBench(settings.path, settings.sizes(), settings.template, settings.unverified)
    return MoleculeQuestions(sizes, settings.seed, settings.template)
