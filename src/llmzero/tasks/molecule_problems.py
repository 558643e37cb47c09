"""Generated problems of which each is about a molecule of its own."""

from __future__ import annotations

import random
from abc import abstractmethod

from rdkit import Chem

from llmzero.tasks.base import Example
from llmzero.tasks.generated import Generated
from llmzero.tasks.molecules import canonical, read
from llmzero.tasks.splits import Split, content_id, split_of


class MoleculeProblems(Generated):
    """One problem for each molecule, however it is written: no molecule occurs in two splits."""

    _filling: Split  # the split that is being generated

    @abstractmethod
    def molecule(self, rng: random.Random) -> str | None:
        """Return SMILES; None where the draw failed."""

    @abstractmethod
    def problem(self, identity: str, smiles: str, molecule: Chem.Mol, rng: random.Random) -> Example | None:
        """Return a problem about a molecule, with this id; None where the draw failed."""

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem; None where the draw failed or the molecule belongs to another split."""
        smiles = self.molecule(rng)
        molecule = read(smiles) if smiles else None
        if smiles is None or molecule is None:
            return None
        identity = content_id(canonical(molecule))
        if split_of(identity) != self._filling:
            return None
        return self.problem(identity, smiles, molecule, rng)

    def _generate(self, name: Split) -> list[Example]:
        self._filling = name
        return super()._generate(name)
