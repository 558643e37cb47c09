"""Reactions of organic molecules, as reaction SMARTS."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reaction:
    """A reaction of a molecule that holds one group of a kind.

    Args:
        what: the reaction in words.
        group: the group that reacts, a key of `GROUPS`.
        smarts: reaction SMARTS; its first product is the answer.
        partners: SMILES of possible second reactants; empty where there is none.
        without: groups that would react as well, and must be absent.
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
