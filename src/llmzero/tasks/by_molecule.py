"""Generated problems of which each is about a molecule of its own."""

from __future__ import annotations

import random
from abc import abstractmethod

from rdkit import Chem

from llmzero.tasks.base import Example, Split, split_of
from llmzero.tasks.generated import Generated, content_id
from llmzero.tasks.molecules import canonical, read


class ByMolecule(Generated):
    """One problem for each molecule, however it is written: no molecule occurs in two splits, whatever is asked of it."""

    _filling: Split

    @abstractmethod
    def molecule(self, rng: random.Random) -> str | None:
        """Return SMILES; None where the draw came to nothing."""

    @abstractmethod
    def about(self, identity: str, text: str, molecule: Chem.Mol, rng: random.Random) -> Example | None:
        """Return a problem about a molecule, with this id; None where the draw came to nothing."""

    def draw(self, rng: random.Random) -> Example | None:
        """Return a problem; none is made of a molecule that belongs to another split than the one that is being filled."""
        text = self.molecule(rng)
        molecule = read(text) if text else None
        if text is None or molecule is None:
            return None
        identity = content_id(canonical(molecule))
        return self.about(identity, text, molecule, rng) if split_of(identity) == self._filling else None

    def _generate(self, name: Split) -> list[Example]:
        self._filling = name
        return super()._generate(name)
