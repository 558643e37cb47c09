"""Chemistry: molecules as SMILES, judged by RDKit. Changes of small molecules for the nano model, questions in words, ChemCoTBench."""

from __future__ import annotations

from typing import Literal

from llmzero.tasks.base import Task
from llmzero.tasks.generated import usual_sizes
from llmzero.tasks.hub import check_source, require


def chemistry(
    difficulty: Literal["nano", "full"],
    source: Literal["generated", "published"] = "generated",
    path: str | None = None,
    template: str | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
) -> Task:
    """Return the task that a configuration describes.

    Args:
        difficulty: `nano` is changes of small molecules, `full` asks in words.
        source: of `full`: generated questions, or the published ChemCoTBench.
        path: of the published one: where it lies instead of on the hub, a directory that `datasets` loads.
        template: of `full`: a Jinja file that makes the prompt of `question` and `example`; null is the task's own.
        train_size: examples for training; null is all that the published data set has, and 4800 generated ones.
        val_size: the same for validation; null is 1000 generated ones.
        test_size: the same for the test; null is 1000 generated ones.
        seed: of the generators.

    Raises:
        UserError: RDKit is not installed, or there is no such source.
    """
    check_source("chem", source, "generated", "published")
    require("rdkit", "task=chem")
    from llmzero.tasks.chemcot import ChemCoTBench  # these need RDKit
    from llmzero.tasks.molecule_questions import MoleculeQuestions
    from llmzero.tasks.small_molecules import SmallMolecules

    given = {"train": train_size, "val": val_size, "test": test_size}
    if difficulty == "full" and source == "published":
        return ChemCoTBench(path, given, template)
    sizes = usual_sizes(given)
    return SmallMolecules(sizes, seed) if difficulty == "nano" else MoleculeQuestions(sizes, seed, template)
