"""Whether an answer about a molecule is right: numbers, words, formulas, molecules compared by structure, groups and properties that change."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from rdkit import Chem

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

SIMILAR = 0.4  # least similarity to the given molecule of one with other properties or groups; 97 of 98 of ChemCoTBench's own edits reach it
_NUMBER = re.compile(r"[0-9]{1,4}")

# Whether a text is an answer of the kind that was asked for, and how right it is, from 0 to 1.
Judgement = tuple[bool, float]


def judged(example: Example, text: str) -> Reward:
    """Return 0.1 for an answer of the kind that was asked for, and up to 0.9 more for how right it is; never raises."""
    formatted, correct = JUDGES[example.meta["judge"]](text.strip(), example)
    return weighted(float(formatted), float(correct))


def _number(text: str, example: Example) -> Judgement:
    formatted = _NUMBER.fullmatch(text) is not None
    return formatted, formatted and int(text) == int(example.answer)


def _word(text: str, example: Example) -> Judgement:
    return text.lower() in ("yes", "no"), text.lower() == example.answer.lower()


def _formula(text: str, example: Example) -> Judgement:
    found = composition(text)
    return found is not None, found == composition(example.answer)


def _one_of(text: str, example: Example) -> Judgement:
    """Compare with the molecules that are right; stereochemistry counts where theirs is written."""
    molecule = _other(text, example)
    return molecule is not None, molecule is not None and not forms(molecule).isdisjoint(
        example.meta["accepted"]
    )


def _improved(text: str, example: Example) -> Judgement:
    """Return which part of the way to its goal a property has come."""
    molecule, source = _other(text, example), known(example.meta["source"])
    if molecule is None or not _alike(molecule, source):
        return molecule is not None, 0.0
    gained = measured(molecule, example.meta["property"]) - measured(source, example.meta["property"])
    return True, min(1.0, max(0.0, gained / example.meta["goal"]))


def _edited(text: str, example: Example) -> Judgement:
    """Return whether there is one less of the pattern that was to be removed and one more of the one to be added."""
    molecule, source = _other(text, example), known(example.meta["source"])
    if molecule is None or not _alike(molecule, source):
        return molecule is not None, 0.0
    return True, all(
        matches(molecule, smarts) == matches(source, smarts) + change
        for smarts, change in example.meta["changes"]
    )


def _alike(molecule: Chem.Mol, source: Chem.Mol) -> bool:
    return similarity(molecule, source) >= SIMILAR and loose_charges(molecule) <= loose_charges(source)


def _other(text: str, example: Example) -> Chem.Mol | None:
    """Return the molecule that a text describes; None where it is the given one."""
    molecule, source = read(text), example.meta["source"]
    return (
        None if molecule is None or (source and canonical(molecule) == canonical(known(source))) else molecule
    )


@lru_cache(maxsize=4096)
def known(smiles: str) -> Chem.Mol:
    """Return a molecule of a problem, which can be read."""
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
