"""Generated questions in words about molecules: understanding, editing, optimisation, reactions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rdkit import Chem

from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.chemistry_answers import SIMILAR, judged
from llmzero.tasks.chemistry_reactions import REACTIONS
from llmzero.tasks.molecule_frames import assembled
from llmzero.tasks.molecule_problems import MoleculeProblems
from llmzero.tasks.molecules import (
    EXCHANGEABLE,
    GROUPS,
    canonical,
    counts,
    edited,
    formula,
    measured,
    reacted,
    rings,
    scaffold,
    similarity,
)
from llmzero.tasks.template import prompt_template

COUNT_SHARE = 0.4  # of questions of understanding that are about functional groups


@dataclass(frozen=True)
class Question:
    """A question, its answer, its judge in `chemistry_answers` with details, and an example answer."""

    text: str
    answer: str
    judge: str
    example: str = "CCO"
    meta: dict[str, Any] = field(default_factory=dict)


class MoleculeQuestions(MoleculeProblems):
    """Questions of all subtasks, equally often as far as the molecules allow.

    Args:
        sizes: examples in each split.
        seed: of the generator.
        template: a Jinja file that makes the prompt of `question` and `example`; None is the task's own.
    """

    metric = "correct"

    def __init__(self, sizes: dict[str, int], seed: int, template: str | None) -> None:
        super().__init__("chem/full", sizes, seed)
        self.template = prompt_template("chem", template)

    def molecule(self, rng: random.Random) -> str:
        """Return a frame with substituents."""
        return assembled(rng)

    def problem(self, identity: str, smiles: str, molecule: Chem.Mol, rng: random.Random) -> Example | None:
        """Ask a question."""
        smiles, subtask = canonical(molecule), rng.choice(list(SUBTASKS))
        question = SUBTASKS[subtask](smiles, molecule, rng)
        if question is None:
            return None
        meta = {"subtask": subtask, "judge": question.judge, "source": smiles, **question.meta}
        return Example(
            identity,
            self.template.render(question=question.text, example=question.example),
            question.answer,
            meta,
        )

    def reward(self, example: Example, completion: str) -> Reward:
        """Reward the answer that a completion states; one that states none earns nothing."""
        text = answers.stated(completion)
        return weighted(0.0, 0.0) if text is None else judged(example, text)


def _understanding(smiles: str, molecule: Chem.Mol, rng: random.Random) -> Question | None:
    return (
        _count(smiles, molecule, rng)
        if rng.random() < COUNT_SHARE
        else rng.choice((_rings, _formula, _scaffold))(smiles, molecule)
    )


def _count(smiles: str, molecule: Chem.Mol, rng: random.Random) -> Question:
    """Ask for the number of a group; groups that occur often are asked for more often, absent ones seldom."""
    numbers = counts(molecule)
    name = rng.choices(list(numbers), [0.1 + number**2 for number in numbers.values()])[0]
    smarts = GROUPS[name].smarts.replace(":1]", "]")
    text = (
        f"How often does the molecule {smiles} hold this group: {GROUPS[name].name}? "
        f"As a SMARTS pattern it is {smarts}; count its matches."
    )
    return Question(text, str(numbers[name]), "number", "2")


def _rings(smiles: str, molecule: Chem.Mol) -> Question:
    text = f"How many rings does the molecule {smiles} have? Count the smallest set of smallest rings."
    return Question(text, str(rings(molecule)), "number", "2")


def _formula(smiles: str, molecule: Chem.Mol) -> Question:
    return Question(
        f"What is the molecular formula of {smiles}, hydrogen atoms included?",
        formula(molecule),
        "formula",
        "C2H6O",
    )


def _scaffold(smiles: str, molecule: Chem.Mol) -> Question | None:
    answer = scaffold(molecule)
    if answer in ("", smiles):
        return None
    text = (
        f"What is the Murcko scaffold of {smiles}? It keeps all rings, the chains that link them, "
        "and atoms bound to these by double bonds. Answer as SMILES."
    )
    return Question(text, answer, "one_of", "c1ccccc1", {"accepted": [answer]})


def _editing(smiles: str, molecule: Chem.Mol, rng: random.Random) -> Question | None:
    removed, added = _drawn_edit(molecule, rng)
    accepted = sorted(edited(molecule, removed, added))
    if not accepted:
        return None
    if removed and added:
        what = f"Replace one {GROUPS[removed].name} of the molecule {smiles} by one {GROUPS[added].name}"
    elif removed:
        group = GROUPS[removed].name
        what = f"Remove one {group} from the molecule {smiles}, so that a hydrogen atom takes its place"
    else:
        group = GROUPS[added or ""].name
        what = f"Add one {group} to the molecule {smiles} in place of a hydrogen atom on carbon"
    return Question(
        f"{what}, and leave everything else as it is. Answer as SMILES.",
        rng.choice(accepted),
        "one_of",
        meta={"accepted": accepted},
    )


def _drawn_edit(molecule: Chem.Mol, rng: random.Random) -> tuple[str | None, str | None]:
    numbers = counts(molecule)
    present = [name for name in EXCHANGEABLE if numbers[name]]
    removed = rng.choice(present) if present and rng.random() < 0.67 else None
    added = rng.choice([name for name in EXCHANGEABLE if name != removed])
    return removed, None if removed and rng.random() < 0.5 else added


@dataclass(frozen=True)
class _Property:
    what: str
    least: float  # change that is worth asking for
    digits: int
    both_ways: bool = True


PROPERTIES = {
    "logp": _Property("logP (by Crippen's method, as RDKit computes it)", 0.3, 1),
    "tpsa": _Property("topological polar surface area (TPSA, in square angstrom)", 9.0, 0),
    "qed": _Property("quantitative estimate of drug-likeness (QED)", 0.03, 2, both_ways=False),
}


def _optimisation(smiles: str, molecule: Chem.Mol, rng: random.Random) -> Question | None:
    """Ask for a change of a property that some edit achieves."""
    products = sorted(edited(molecule, *_drawn_edit(molecule, rng)))
    name = rng.choice(list(PROPERTIES))
    if not products:
        return None
    answer, wanted = rng.choice(products), PROPERTIES[name]
    product, scale = Chem.MolFromSmiles(answer), 10**wanted.digits
    now = measured(molecule, name)
    change = measured(product, name) - now
    goal = math.floor(abs(change) * scale) / scale
    if (
        goal < wanted.least
        or similarity(molecule, product) < SIMILAR
        or (change < 0 and not wanted.both_ways)
    ):
        return None
    text = (
        f"Change the molecule {smiles} so that its {wanted.what}, which is {now:.{wanted.digits}f}, "
        f"{'rises' if change > 0 else 'falls'} by {goal:g} or more. The new molecule has to stay similar: "
        f"Tanimoto similarity of at least {SIMILAR} by Morgan fingerprints with counts, radius 2, "
        "and no new charges. Answer as SMILES."
    )
    return Question(text, answer, "improved", meta={"property": name, "goal": math.copysign(goal, change)})


def _reaction(smiles: str, molecule: Chem.Mol, rng: random.Random) -> Question | None:
    numbers = counts(molecule)
    possible = [
        reaction
        for reaction in REACTIONS
        if numbers[reaction.group] == 1 and not any(numbers[name] for name in reaction.without)
    ]
    if not possible:
        return None
    reaction = rng.choice(possible)
    partner = rng.choice(reaction.partners) if reaction.partners else None
    reactants = [molecule, Chem.MolFromSmiles(partner)] if partner else [molecule]
    products = sorted(reacted(reaction.smarts, reactants))
    if len(products) != 1 or products[0] == smiles:
        return None
    mixture = f"{smiles} with {partner}" if partner else smiles
    text = f"What is the organic product of this reaction of {mixture}: {reaction.what}? Answer as SMILES."
    return Question(text, products[0], "one_of", meta={"accepted": products})


SUBTASKS: dict[str, Callable[[str, Chem.Mol, random.Random], Question | None]] = {
    "understanding": _understanding,
    "editing": _editing,
    "optimisation": _optimisation,
    "reaction": _reaction,
}
