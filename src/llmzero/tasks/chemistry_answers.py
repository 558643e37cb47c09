"""Judges of answers about molecules: numbers, words, formulas, structures, changed groups or properties."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from rdkit import Chem

from llmzero.tasks import numbers
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.molecules import (
    canonical,
    composition,
    forms,
    loose_charges,
    matches,
    measured,
    read,
    similarity,
)

# Least similarity of a changed molecule to its source; 97 of 98 of ChemCoTBench's own edits reach it.
SIMILAR = 0.4

# Whether a text is an answer of the requested kind, and its score from 0 to 1.
Judgement = tuple[bool, float]


def judged(example: Example, text: str) -> Reward:
    """Return 0.1 for an answer of the requested kind, and up to 0.9 more by its score; never raises."""
    formatted, correct = JUDGES[example.meta["judge"]](text.strip(), example)
    return weighted(float(formatted), float(correct))


def _number(text: str, example: Example) -> Judgement:
    number, right = numbers.only(text), numbers.read(example.answer)
    if number is None or right is None or number.percent or number.value.denominator != 1 or number.value < 0:
        return False, 0.0
    return True, numbers.same(number, right)


def _word(text: str, example: Example) -> Judgement:
    return text.lower() in ("yes", "no"), text.lower() == example.answer.lower()


def _formula(text: str, example: Example) -> Judgement:
    atoms = composition(text)
    return atoms is not None, atoms == composition(example.answer)


def _one_of(text: str, example: Example) -> Judgement:
    """Compare with the accepted molecules; stereochemistry counts where theirs is written."""
    molecule = _other(text, example)
    return molecule is not None, molecule is not None and not forms(molecule).isdisjoint(
        example.meta["accepted"]
    )


def _improved(text: str, example: Example) -> Judgement:
    """Score the change of a property as a share of the requested change."""
    molecule, source = _other(text, example), source_molecule(example.meta["source"])
    if molecule is None or not _alike(molecule, source):
        return molecule is not None, 0.0
    gained = measured(molecule, example.meta["property"]) - measured(source, example.meta["property"])
    return True, min(1.0, max(0.0, gained / example.meta["goal"]))


def _edited(text: str, example: Example) -> Judgement:
    """Check that the number of matches of each pattern has changed as requested."""
    molecule, source = _other(text, example), source_molecule(example.meta["source"])
    if molecule is None or not _alike(molecule, source):
        return molecule is not None, 0.0
    return True, all(
        matches(molecule, smarts) == matches(source, smarts) + change
        for smarts, change in example.meta["changes"]
    )


def _alike(molecule: Chem.Mol, source: Chem.Mol) -> bool:
    return similarity(molecule, source) >= SIMILAR and loose_charges(molecule) <= loose_charges(source)


def _other(text: str, example: Example) -> Chem.Mol | None:
    """Return the molecule that a text describes; None where it describes none, or the source itself."""
    molecule, source = read(text), example.meta["source"]
    if molecule is None or (source and canonical(molecule) == canonical(source_molecule(source))):
        return None
    return molecule


@lru_cache(maxsize=4096)
def source_molecule(smiles: str) -> Chem.Mol:
    """Return the molecule of a problem, whose SMILES is valid."""
    molecule = read(smiles)
    assert molecule is not None, smiles
    return molecule


JUDGES: dict[str, Callable[[str, Example], Judgement]] = {
    "number": _number,
    "word": _word,
    "formula": _formula,
    "one_of": _one_of,
    "improved": _improved,
    "edited": _edited,
}
