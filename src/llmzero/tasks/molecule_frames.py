"""Random molecules that are assembled from frames and substituents."""

from __future__ import annotations

import random

# (*) takes a substituent or hydrogen. Rings of frames are numbered from 1, those of substituents from 7.
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
BARE_SHARE = 0.2  # of positions that have hydrogen


def assembled(rng: random.Random) -> str:
    """Return SMILES of a frame with substituents."""
    first, *others = rng.choice(FRAMES).split("(*)")
    return first + "".join(
        f"({rng.choice(SUBSTITUENTS)}){part}" if rng.random() > BARE_SHARE else part for part in others
    )
