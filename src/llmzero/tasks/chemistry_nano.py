"""Molecules of a few atoms, for the nano model: write an isomer, or add, remove or exchange a group."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from rdkit import Chem

from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.chemistry_answers import source_molecule
from llmzero.tasks.molecule_problems import MoleculeProblems
from llmzero.tasks.molecules import canonical, edited, formula, matches, read

ATOMS = (5, 8)  # besides hydrogen
MAX_CHARS = 12  # a completion has three more at most
RING_SHARE = 0.35
BRANCH_SHARE = 0.25
VALENCE = {"C": 4, "O": 2, "N": 3, "F": 1, "S": 2}
# Shares of the changes that are asked of a molecule that has a group; the rest is substitution.
ISOMER_SHARE, ADDITION_SHARE, DELETION_SHARE = 0.3, 0.25, 0.2
LETTERS = {"hydroxyl": "O", "amine": "N", "fluorine": "F", "thiol": "S"}
WRITING = "CNOFS1()=#"
TRIES = 8  # to move a part of a molecule so that an isomer comes out
_ELEMENTS = "C" * 24 + "O" * 4 + "N" * 4 + "FS"  # as often as each is drawn
_BONDS = ("",) * 28 + ("=",) * 3 + ("#",)
_ORDER = {"": 1, "=": 2, "#": 3}
_ODD = "[$([!#6]~[!#6]),a]"  # a bond without carbon, or an aromatic atom
_TOKEN = re.compile(r"[=#]?[A-Z]1?|[()]")


@dataclass(frozen=True)
class Change:
    """A requested change, an answer, and a thoughtless one. `accepted` is empty where any isomer is right."""

    subtask: str
    asked: str
    answer: str
    careless: str
    accepted: frozenset[str] = frozenset()


class SmallMolecules(MoleculeProblems):
    """Changes of small molecules: `CC(N)CO-O+F:` asks for the hydroxyl group to be replaced by fluorine."""

    metric = "correct"
    alphabet = WRITING + "~+-:"

    def __init__(self, sizes: dict[str, int], seed: int) -> None:
        super().__init__("chem/nano", sizes, seed)

    def molecule(self, rng: random.Random) -> str | None:
        """Return a small molecule."""
        return small_molecule(rng)

    def problem(self, identity: str, text: str, molecule: Chem.Mol, rng: random.Random) -> Example | None:
        """Ask for a change."""
        change = drawn_change(text, molecule, rng) if not matches(molecule, _ODD) else None
        if change is None:
            return None
        meta = {
            "subtask": change.subtask,
            "source": text,
            "accepted": sorted(change.accepted),
            "careless": change.careless,
        }
        return Example(identity, f"{text}{change.asked}:", change.answer, meta)

    def reward(self, example: Example, completion: str) -> Reward:
        """Return 0.1 for a molecule other than the source, and 0.9 more for one that was asked for."""
        text, source = completion.strip(), source_molecule(example.meta["source"])
        molecule = read(text) if set(text) <= set(WRITING) else None
        if molecule is None or canonical(molecule) == canonical(source):
            return weighted(0.0, 0.0)
        accepted = example.meta["accepted"]
        right = canonical(molecule) in accepted if accepted else formula(molecule) == formula(source)
        return weighted(1.0, float(right))

    def demonstration(self, example: Example) -> str:
        """Return a molecule that was asked for."""
        return example.answer

    def careless(self, example: Example) -> str:
        """Return a thoughtless completion: the source itself, or a group cut out or appended anyhow."""
        return str(example.meta["careless"])


def small_molecule(rng: random.Random) -> str | None:
    """Return a molecule whose other atoms are bound to carbon alone; None where the draw failed."""
    length = rng.randint(*ATOMS)
    ring = rng.sample(range(length), 2) if rng.random() < RING_SHARE else []
    text, spine, free = "", "C", 4
    for index in range(length):
        element, bond, closes = rng.choice(_ELEMENTS), rng.choice(_BONDS) if index else "", index in ring
        free -= _ORDER[bond] if index else 0
        left = VALENCE[element] - closes - (_ORDER[bond] if index else 0)
        if min(free, left) < 0 or (index and "C" not in (spine, element)):
            return None
        branch = 0 < index < length - 1 and not closes and rng.random() < BRANCH_SHARE
        text += f"({bond}{element})" if branch else f"{bond}{element}{'1' * closes}"
        spine, free = (spine, free) if branch else (element, left)
    return text if len(text) <= MAX_CHARS else None


def drawn_change(text: str, molecule: Chem.Mol, rng: random.Random) -> Change | None:
    """Return something to ask of a molecule; None where the draw failed."""
    present = [name for name, letter in LETTERS.items() if letter in text]
    kind = rng.random() * (1 if present else ISOMER_SHARE + ADDITION_SHARE)
    if kind < ISOMER_SHARE:
        return _isomer(text, molecule, rng)
    if kind < ISOMER_SHARE + ADDITION_SHARE:
        return _edit("add", text, molecule, None, rng.choice(list(LETTERS)), rng)
    removed = rng.choice(present)
    if kind < ISOMER_SHARE + ADDITION_SHARE + DELETION_SHARE:
        return _edit("delete", text, molecule, removed, None, rng)
    return _edit(
        "substitute", text, molecule, removed, rng.choice([name for name in LETTERS if name != removed]), rng
    )


def _isomer(text: str, molecule: Chem.Mol, rng: random.Random) -> Change | None:
    """Move parts of the text until another molecule of the same formula comes out."""
    tokens = _TOKEN.findall(text)
    for _ in range(TRIES):
        moved = tokens.copy()
        moved.insert(rng.randrange(len(tokens)), moved.pop(rng.randrange(len(tokens))))
        other = read("".join(moved))
        if (
            other is not None
            and formula(other) == formula(molecule)
            and canonical(other) != canonical(molecule)
        ):
            return Change("isomer", "~", "".join(moved), text)
    return None


def _edit(
    subtask: str, text: str, molecule: Chem.Mol, removed: str | None, added: str | None, rng: random.Random
) -> Change | None:
    """Change characters of the text until a molecule comes out that the edit leads to."""
    old, new = LETTERS.get(removed or "", ""), LETTERS.get(added or "", "")
    accepted = frozenset(edited(molecule, removed, added))
    candidates = _exchanged(text, old, new) if old else _inserted(text, new)
    rng.shuffle(candidates)
    answer = next(
        (
            other
            for other in candidates
            if (product := read(other)) is not None and canonical(product) in accepted
        ),
        None,
    )
    asked = "".join(sign + letter for sign, letter in (("-", old), ("+", new)) if letter)
    return Change(subtask, asked, answer, text.replace(old, "", 1) + new, accepted) if answer else None


def _inserted(text: str, letter: str) -> list[str]:
    """Return the text with a group inserted after an atom; all ways."""
    ends = [match.end() for match in _TOKEN.finditer(text) if match.group() not in "()"]
    return [f"{text[:end]}({letter}){text[end:]}" if end < len(text) else text + letter for end in ends]


def _exchanged(text: str, old: str, new: str) -> list[str]:
    """Return the text with one occurrence of a group replaced, or removed where `new` is empty; all ways."""
    spans = [match.span() for match in re.finditer(old if new else rf"\({old}\)|{old}", text)]
    return [text[:start] + new + text[end:] for start, end in spans]
