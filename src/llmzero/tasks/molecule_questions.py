"""Questions in words about molecules that are put together from frames and substituents: understanding, editing, optimisation, reactions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rdkit import Chem

from llmzero.tasks import answers
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.by_molecule import ByMolecule
from llmzero.tasks.molecule_answers import SIMILAR, judged
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

# (*) is a place for a substituent or for hydrogen. Rings of frames are numbered from 1, those of substituents from 7.
FRAMES = (
    "c1(*)ccc(*)cc1",
    "c1(*)cccc(*)c1",
    "c1(*)ccccc1(*)",
    "c1(*)cc(*)cc(*)c1",
    "c1(*)ccc(*)c(*)c1",
    "c1(*)ccc(*)nc1",
    "c1(*)ccnc(*)c1",
    "c1(*)cnc(*)nc1",
    "c1(*)ccc(*)s1",
    "c1(*)ccc(*)o1",
    "c1(*)nc(*)cs1",
    "Cn1cc(*)c(*)n1",
    "Cn1c(*)cnc1(*)",
    "c1(*)ccc2[nH]cc(*)c2c1",
    "c1(*)ccc2cc(*)ccc2c1",
    "c1(*)ccc2ncc(*)cc2c1",
    "c1(*)cc2cc(*)ccc2o1",
    "c1(*)ccc(-c2ccc(*)cc2)cc1",
    "c1(*)ccc(Oc2ccc(*)cc2)cc1",
    "c1(*)ccc(COc2ccc(*)cc2)cc1",
    "c1(*)ccc(C(=O)Nc2ccc(*)cc2)cc1",
    "c1(*)ccc(S(=O)(=O)Nc2ccc(*)cc2)cc1",
    "c1(*)cc(N2CCOCC2)ccc1(*)",
    "c1(*)ccc(CN2CCN(C)CC2)cc1(*)",
    "c1(*)cc(C(=O)N2CCCC2)ccc1(*)",
    "C1(*)CCC(*)CC1",
    "C1(*)CCC(*)C1",
    "C1(*)CCC(*)O1",
    "CN1CCC(*)C(*)C1",
    "C(*)CCC(*)CC(*)",
    "C(*)COCC(*)C",
)
SUBSTITUENTS = (
    *("O", "O", "N", "Br", "C=O", "C(=O)O"),  # what reacts, more often
    *(
        "O",
        "N",
        "S",
        "F",
        "Cl",
        "Br",
        "C",
        "CC",
        "C(C)C",
        "C(F)(F)F",
        "OC",
        "OCC",
        "SC",
        "C=O",
        "C#N",
        "C(=O)O",
        "[N+](=O)[O-]",
    ),
    *(
        "C(C)=O",
        "C(=O)CC",
        "C(=O)OC",
        "C(=O)OCC",
        "OC(C)=O",
        "C(N)=O",
        "C(=O)NC",
        "NC(C)=O",
        "S(N)(=O)=O",
        "CO",
        "CCO",
        "C(C)O",
        "CN",
        "CCN",
    ),
    *(
        "CC(=O)O",
        "CC#N",
        "CC=O",
        "c7ccccc7",
        "Cc7ccccc7",
        "c7ccncc7",
        "C7CC7",
        "C7CCCCC7",
        "N7CCOCC7",
        "N7CCCC7",
    ),
)
BARE_SHARE = 0.2  # of places that keep their hydrogen
COUNT_SHARE = 0.4  # of questions of understanding that are about functional groups


@dataclass(frozen=True)
class Reaction:
    """A reaction of a molecule that holds one group of a kind.

    Args:
        what: it is, in words.
        group: that reacts.
        smarts: of the reaction; its first product is asked for.
        partners: SMILES of what the molecule may react with; none where it needs no other.
        without: groups that would react as well.
    """

    what: str
    group: str
    smarts: str
    partners: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


_ALCOHOLS = ("CO", "CCO", "CCCO", "CC(C)O", "OCc1ccccc1", "OCC1CC1", "OC1CCCCC1")
_AMINES = ("CN", "CCN", "CNC", "CC(C)N", "C1CCNC1", "C1COCCN1", "NCc1ccccc1", "CN1CCNCC1")
_CHLORIDES = ("CC(=O)Cl", "CCC(=O)Cl", "O=C(Cl)c1ccccc1", "CC(C)C(=O)Cl", "O=C(Cl)C1CC1")
_SULFONYLS = ("CS(=O)(=O)Cl", "CCS(=O)(=O)Cl", "Cc1ccc(S(=O)(=O)Cl)cc1")
_BORONIC = ("OB(O)c1ccccc1", "Cc1ccc(B(O)O)cc1", "COc1ccc(B(O)O)cc1", "OB(O)c1ccncc1", "OB(O)c1ccsc1")
_HALIDES = ("CI", "CCBr", "CCCBr", "BrCc1ccccc1", "BrCC1CC1")
_NUCLEOPHILES = ("amine", "hydroxyl", "thiol")
REACTIONS = (
    Reaction(
        "Fischer esterification (acid catalyst)",
        "acid",
        "[C:1](=[O:2])[OX2H].[OX2H:3][C:4]>>[C:1](=[O:2])[O:3][C:4]",
        _ALCOHOLS,
        ("hydroxyl",),
    ),
    Reaction(
        "amide coupling (EDC, HOBt)",
        "acid",
        "[C:1](=[O:2])[OX2H].[NX3;H1,H2:3]>>[C:1](=[O:2])[N:3]",
        _AMINES,
        ("amine",),
    ),
    Reaction(
        "N-acylation (one equivalent)",
        "amine",
        "[#6:4][NX3H2:1].[C:2](=[O:3])Cl>>[#6:4][N:1][C:2]=[O:3]",
        _CHLORIDES,
        ("hydroxyl", "thiol", "amide"),
    ),
    Reaction(
        "N-sulfonylation (one equivalent)",
        "amine",
        "[#6:4][NX3H2:1].[S:2]Cl>>[#6:4][N:1][S:2]",
        _SULFONYLS,
        ("hydroxyl", "thiol"),
    ),
    Reaction(
        "Suzuki coupling (palladium catalyst, base)",
        "bromine",
        "[c:1]Br.[c:2]B(O)O>>[c:1][c:2]",
        _BORONIC,
        ("chlorine",),
    ),
    Reaction(
        "O-alkylation (potassium carbonate)",
        "hydroxyl",
        "[c:1][OX2H:2].[CX4:3][Br,I]>>[c:1][O:2][C:3]",
        _HALIDES,
        ("amine", "thiol", "acid"),
    ),
    Reaction(
        "reductive amination (sodium triacetoxyborohydride)",
        "aldehyde",
        "[#6:4][CX3H1:1]=O.[NX3;H1,H2:2]>>[#6:4][C:1][N:2]",
        _AMINES,
        ("ketone", "amine"),
    ),
    Reaction(
        "hydrolysis of the ester to the carboxylic acid",
        "ester",
        "[#6:3][C:1](=[O:2])[OX2H0][#6]>>[#6:3][C:1](=[O:2])O",
    ),
    Reaction(
        "complete hydrolysis of the nitrile to the carboxylic acid",
        "nitrile",
        "[#6:1][C:2]#N>>[#6:1][C:2](=O)O",
        (),
        ("ester", "amide"),
    ),
    Reaction(
        "reduction of the nitro group to the amine (iron, hydrochloric acid)",
        "nitro",
        "[#6:1][N+](=O)[O-]>>[#6:1]N",
    ),
    Reaction(
        "reduction of the ketone (sodium borohydride)",
        "ketone",
        "[#6:1][C:2](=[O:3])[#6:4]>>[#6:1][C:2]([O:3])[#6:4]",
        (),
        ("aldehyde",),
    ),
    Reaction(
        "reduction of the aldehyde (sodium borohydride)",
        "aldehyde",
        "[#6:1][CX3H1:2]=[O:3]>>[#6:1][C:2][O:3]",
        (),
        ("ketone",),
    ),
    Reaction(
        "oxidation of the aldehyde to the carboxylic acid",
        "aldehyde",
        "[#6:1][CX3H1:2]=[O:3]>>[#6:1][C:2](=[O:3])O",
        (),
        _NUCLEOPHILES,
    ),
    Reaction(
        "oxidation of the alcohol (Dess-Martin periodinane)",
        "hydroxyl",
        "[CX4;H1,H2:1]-[OX2H:2]>>[C:1]=[O:2]",
        (),
        ("amine", "thiol", "aldehyde"),
    ),
)


@dataclass(frozen=True)
class Question:
    """A question with its answer, an example of how such answers look, and what `molecule_answers` needs to know to judge one."""

    text: str
    answer: str
    judge: str
    example: str = "CCO"
    meta: dict[str, Any] = field(default_factory=dict)


class MoleculeQuestions(ByMolecule):
    """Questions of all subtasks in equal parts, as far as the molecules allow.

    Args:
        sizes: examples in each split.
        seed: of the generator.
        template: a Jinja file that makes the prompt of `question` and `example`; null is the task's own.
    """

    metric = "correct"

    def __init__(self, sizes: dict[str, int], seed: int, template: str | None) -> None:
        super().__init__("chem/full", sizes, seed)
        self.template = prompt_template("chem", template)

    def molecule(self, rng: random.Random) -> str:
        """Return a frame with substituents."""
        return assembled(rng)

    def about(self, identity: str, text: str, molecule: Chem.Mol, rng: random.Random) -> Example | None:
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


def assembled(rng: random.Random) -> str:
    """Return SMILES of a frame with substituents."""
    first, *others = rng.choice(FRAMES).split("(*)")
    return first + "".join(
        f"({rng.choice(SUBSTITUENTS)}){part}" if rng.random() > BARE_SHARE else part for part in others
    )


def _understanding(smiles: str, molecule: Chem.Mol, rng: random.Random) -> Question | None:
    return (
        _count(smiles, molecule, rng)
        if rng.random() < COUNT_SHARE
        else rng.choice((_rings, _formula, _scaffold))(smiles, molecule)
    )


def _count(smiles: str, molecule: Chem.Mol, rng: random.Random) -> Question:
    """Ask for a number of groups; groups that occur several times are asked for more often, those that are absent now and then."""
    found = counts(molecule)
    name = rng.choices(list(found), [0.1 + number**2 for number in found.values()])[0]
    smarts = GROUPS[name].smarts.replace(":1]", "]")
    text = f"How often does the molecule {smiles} hold this group: {GROUPS[name].name}? As a SMARTS pattern it is {smarts}; count its matches."
    return Question(text, str(found[name]), "number", "2")


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
        f"What is the Murcko scaffold of {smiles}? It keeps all rings, the chains that link them, and atoms bound to these by double bonds. "
        "Answer as SMILES."
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
        what = f"Remove one {GROUPS[removed].name} from the molecule {smiles}, so that a hydrogen atom takes its place"
    else:
        what = f"Add one {GROUPS[added or ''].name} to the molecule {smiles} in place of a hydrogen atom on carbon"
    return Question(
        f"{what}, and leave everything else as it is. Answer as SMILES.",
        rng.choice(accepted),
        "one_of",
        meta={"accepted": accepted},
    )


def _drawn_edit(molecule: Chem.Mol, rng: random.Random) -> tuple[str | None, str | None]:
    found = counts(molecule)
    present = [name for name in EXCHANGEABLE if found[name]]
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
    """Ask for a change of a property that some edit is known to bring about."""
    products = sorted(edited(molecule, *_drawn_edit(molecule, rng)))
    name = rng.choice(list(PROPERTIES))
    if not products:
        return None
    answer, known = rng.choice(products), PROPERTIES[name]
    product, scale = Chem.MolFromSmiles(answer), 10**known.digits
    now = measured(molecule, name)
    change = measured(product, name) - now
    goal = math.floor(abs(change) * scale) / scale
    if goal < known.least or similarity(molecule, product) < SIMILAR or (change < 0 and not known.both_ways):
        return None
    text = (
        f"Change the molecule {smiles} so that its {known.what}, which is {now:.{known.digits}f}, {'rises' if change > 0 else 'falls'} "
        f"by {goal:g} or more. The new molecule has to stay similar: Tanimoto similarity of at least {SIMILAR} by Morgan fingerprints with counts, "
        "radius 2, and no new charges. Answer as SMILES."
    )
    return Question(text, answer, "improved", meta={"property": name, "goal": math.copysign(goal, change)})


def _reaction(smiles: str, molecule: Chem.Mol, rng: random.Random) -> Question | None:
    found = counts(molecule)
    possible = [
        known
        for known in REACTIONS
        if found[known.group] == 1 and not any(found[name] for name in known.without)
    ]
    if not possible:
        return None
    known = rng.choice(possible)
    partner = rng.choice(known.partners) if known.partners else None
    reactants = [molecule, Chem.MolFromSmiles(partner)] if partner else [molecule]
    products = sorted(reacted(known.smarts, reactants))
    if len(products) != 1 or products[0] == smiles:
        return None
    text = f"What is the organic product of this reaction of {smiles}{f' with {partner}' if partner else ''}: {known.what}? Answer as SMILES."
    return Question(text, products[0], "one_of", meta={"accepted": products})


SUBTASKS: dict[str, Callable[[str, Chem.Mol, random.Random], Question | None]] = {
    "understanding": _understanding,
    "editing": _editing,
    "optimisation": _optimisation,
    "reaction": _reaction,
}
