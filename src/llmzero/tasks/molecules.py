"""Molecules as SMILES: reading within bounds, comparison by structure, properties and edits, by RDKit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import QED, Descriptors, rdChemReactions, rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.Scaffolds import MurckoScaffold

rdBase.DisableLog("rdApp.*")  # every SMILES that cannot be read would be a line of the log

# Bounds of what is read. They keep RDKit's ring search, aromaticity and canonical order short for any text.
MAX_SMILES_CHARS = 300
MAX_ATOMS = 120
MAX_RINGS = 12

# One molecule: no dot, wildcard, isotope, atom number or query; an element in brackets may be any.
_BRACKET = r"\[(?:[A-Z][a-z]?|[bcnops]|se|as)@{0,2}(?:H[1-4]?)?(?:\+[1-4]?|-[1-4]?)?\]"
_SMILES = re.compile(rf"(?:Cl|Br|[BCNOPSFI]|[bcnops]|{_BRACKET}|[-=#:/\\()]|[0-9]|%[0-9]{{2}})+")
_FORMULA = re.compile(r"(?:[A-Z][a-z]?[0-9]{0,4})+")
_TERM = re.compile(r"([A-Z][a-z]?)([0-9]*)")


@dataclass(frozen=True)
class Group:
    """A functional group.

    Args:
        name: in words.
        smarts: a pattern that matches the group once. Where the group can be exchanged, atom 1 is the carbon
            that carries it, and all other atoms are the group.
        fragment: SMILES of a group that can be exchanged, bound by its first atom; empty where it cannot.
    """

    name: str
    smarts: str
    fragment: str = ""


_PLAIN_CARBON = "[#6;!$([CX3]=[O,N,S]):1]"
GROUPS: dict[str, Group] = {
    "hydroxyl": Group("hydroxyl group (of an alcohol or phenol)", f"{_PLAIN_CARBON}-[OX2H]", "O"),
    "amine": Group("primary amino group (not of an amide)", f"{_PLAIN_CARBON}-[NX3H2]", "N"),
    "acid": Group("carboxylic acid group", "[#6:1]-[CX3](=O)-[OX2H]", "C(=O)O"),
    "aldehyde": Group("aldehyde group", "[#6:1]-[CX3H1]=O", "C=O"),
    "nitrile": Group("nitrile group", "[#6:1]-[CX2]#[NX1]", "C#N"),
    "nitro": Group("nitro group", "[#6:1]-[NX3+](=O)-[O-]", "[N+](=O)[O-]"),
    "thiol": Group("thiol group", "[#6:1]-[SX2H]", "S"),
    "fluorine": Group("fluorine atom", "[#6:1]-F", "F"),
    "chlorine": Group("chlorine atom", "[#6:1]-Cl", "Cl"),
    "bromine": Group("bromine atom", "[#6:1]-Br", "Br"),
    "ketone": Group("ketone group", "[#6][CX3](=O)[#6]"),
    "ester": Group("ester group", "[#6][CX3](=O)[OX2H0][#6]"),
    "amide": Group("amide group", "[CX3](=O)[NX3]"),
    "ether": Group("ether group (not of an ester)", "[OX2H0]([#6;!$(C=[O,N,S])])[#6;!$(C=[O,N,S])]"),
    "sulfonamide": Group("sulfonamide group", "[SX4](=O)(=O)[NX3]"),
}
EXCHANGEABLE = tuple(name for name, group in GROUPS.items() if group.fragment)
_morgan = rdFingerprintGenerator.GetMorganGenerator(radius=2)


def read(text: str) -> Chem.Mol | None:
    """Return the single molecule that a SMILES describes; None where it describes none within the bounds.

    Radicals, bare hydrogen and mixtures are no molecules here.
    """
    text = text.strip()
    if len(text) > MAX_SMILES_CHARS or not _SMILES.fullmatch(text):
        return None
    sketch = Chem.MolFromSmiles(text, sanitize=False)
    if (
        sketch is None
        or sketch.GetNumAtoms() > MAX_ATOMS
        or sketch.GetNumBonds() - sketch.GetNumAtoms() >= MAX_RINGS
    ):
        return None
    molecule = Chem.MolFromSmiles(text)
    if molecule is None or (
        "[" in text
        and any(atom.GetAtomicNum() <= 1 or atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    ):
        return None
    return molecule


def canonical(molecule: Chem.Mol, stereo: bool = False) -> str:
    """Return the one SMILES that all ways to write a molecule have in common."""
    return str(Chem.MolToSmiles(molecule, isomericSmiles=stereo))


def forms(molecule: Chem.Mol) -> set[str]:
    """Return the canonical SMILES of a molecule, with its stereochemistry and without."""
    return {canonical(molecule), canonical(molecule, stereo=True)}


def loose_charges(molecule: Chem.Mol) -> int:
    """Return how many atoms carry a charge that is not a nitro group's."""
    charged = sum(atom.GetFormalCharge() != 0 for atom in molecule.GetAtoms())
    return charged - 2 * matches(molecule, "[NX3+](=O)-[O-]")


def composition(text: str) -> dict[str, int] | None:
    """Return the atoms of each element that a formula such as C2H6O counts; None of what is no formula."""
    text = text.strip()
    if len(text) > MAX_SMILES_CHARS or not _FORMULA.fullmatch(text):
        return None
    atoms: dict[str, int] = {}
    for element, count in _TERM.findall(text):
        atoms[element] = atoms.get(element, 0) + int(count or 1)
    return atoms


def formula(molecule: Chem.Mol) -> str:
    """Return the molecular formula."""
    return str(rdMolDescriptors.CalcMolFormula(molecule))


def matches(molecule: Chem.Mol, smarts: str) -> int:
    """Return how often a SMARTS pattern matches, each set of atoms counted once."""
    return len(molecule.GetSubstructMatches(_pattern(smarts)))


@cache
def _pattern(smarts: str) -> Chem.Mol:
    return Chem.MolFromSmarts(smarts)


def counts(molecule: Chem.Mol) -> dict[str, int]:
    """Return how often each group of `GROUPS` occurs."""
    return {name: matches(molecule, group.smarts) for name, group in GROUPS.items()}


def rings(molecule: Chem.Mol) -> int:
    """Return the number of rings, in the smallest set that makes up all others."""
    return int(molecule.GetRingInfo().NumRings())


def scaffold(molecule: Chem.Mol) -> str:
    """Return the Murcko scaffold: the rings and what links them; empty where there is no ring."""
    return canonical(MurckoScaffold.GetScaffoldForMol(molecule))  # type: ignore[no-untyped-call]


def similarity(first: Chem.Mol, second: Chem.Mol) -> float:
    """Return the Tanimoto similarity of Morgan count fingerprints of radius 2; repeating a part lowers it."""
    return float(
        DataStructs.TanimotoSimilarity(
            _morgan.GetCountFingerprint(first), _morgan.GetCountFingerprint(second)
        )
    )


def measured(molecule: Chem.Mol, property_name: str) -> float:
    """Return a property of a molecule.

    It is `logp` (Crippen), `qed`, `tpsa` (in square angstrom) or `solubility` (log mol/l, Delaney's ESOL as
    refitted for RDKit).
    """
    logp = float(rdMolDescriptors.CalcCrippenDescriptors(molecule)[0])
    if property_name == "logp":
        return logp
    if property_name == "qed":
        return float(QED.qed(molecule))  # type: ignore[no-untyped-call]
    if property_name == "tpsa":
        return float(rdMolDescriptors.CalcTPSA(molecule))
    aromatic = matches(molecule, "a") / molecule.GetNumAtoms()
    weight = Descriptors.MolWt(molecule)  # type: ignore[attr-defined]
    rotors = rdMolDescriptors.CalcNumRotatableBonds(molecule)
    return float(0.2612 - 0.006614 * weight - 0.7417 * logp + 0.003452 * rotors - 0.4262 * aromatic)


def edited(molecule: Chem.Mol, removed: str | None, added: str | None) -> set[str]:
    """Return all molecules that one edit leads to, with every other group of `GROUPS` as it was.

    Args:
        molecule: the molecule that is edited.
        removed: the group that is removed; None for a hydrogen atom on carbon.
        added: the group that replaces it; None for a hydrogen atom.
    """
    before = GROUPS[removed].smarts if removed else "[#6;!H0:1]"
    after = f"[#6:1]-{GROUPS[added].fragment}" if added else "[#6:1]"
    wanted = counts(molecule)
    for name, change in ((removed, -1), (added, 1)):
        if name:
            wanted[name] += change
    return {
        text
        for text, product in reacted(f"{before}>>{after}", [molecule]).items()
        if counts(product) == wanted
    }


def reacted(reaction: str, reactants: Sequence[Chem.Mol]) -> dict[str, Chem.Mol]:
    """Return the first products of a reaction SMARTS by canonical SMILES, one for each way it can occur."""
    drawn = {Chem.MolToSmiles(products[0]) for products in _reaction(reaction).RunReactants(tuple(reactants))}
    return {
        canonical(product): product
        for text in sorted(drawn)
        if (product := Chem.MolFromSmiles(text)) is not None
    }


@cache
def _reaction(smarts: str) -> rdChemReactions.ChemicalReaction:
    reaction = rdChemReactions.ReactionFromSmarts(smarts)
    reaction.Initialize()
    return reaction
