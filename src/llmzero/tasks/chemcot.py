"""ChemCoTBench (arXiv 2505.21318): the parts of it whose answers RDKit can judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks import answers, hub
from llmzero.tasks.base import Example, Reward, Split, split_of, weighted
from llmzero.tasks.generated import content_id
from llmzero.tasks.molecule_answers import judged, known
from llmzero.tasks.molecule_questions import Question
from llmzero.tasks.molecules import GROUPS, canonical, read
from llmzero.tasks.template import prompt_template

HUB = "OpenMol/ChemCoTBench"
COLUMNS = ("query", "gt", "subtask", "meta")
GOALS = {"logp": 0.5, "qed": 0.3, "solubility": 0.5}  # improvements that the benchmark counts as great
# What the benchmark means by its groups; a hydroxyl group is not counted within an acid.
PATTERNS = {
    "hydroxyl": GROUPS["hydroxyl"].smarts,
    "carboxyl": GROUPS["acid"].smarts,
    "aldehyde": GROUPS["aldehyde"].smarts,
    "nitrile": GROUPS["nitrile"].smarts,
    "nitro": GROUPS["nitro"].smarts,
    "thiol": GROUPS["thiol"].smarts,
    "amide": GROUPS["amide"].smarts,
    "ketone": GROUPS["ketone"].smarts,
    "ester": GROUPS["ester"].smarts,
    "amine": "[NX3;H1,H2;!$(NC=O)]",
    "halo": "[F,Cl,Br,I]",
    "benzene": "c1ccccc1",
    "benzene_ring": "c1ccccc1",
}
_MOLECULE = re.compile(r"(?:Input Molecule|Source Molecule|Molecule A):\s*([^\s,]+)", re.IGNORECASE)
_VALUE = re.compile(
    r'"(?:output|count|Output[ _]Scaffold|Final[ _]Target[ _]Molecule|Major[ _]Product)"\s*:\s*"?([^"\n}]*)',
    re.IGNORECASE,
)


class ChemCoTBench:
    """The benchmark from the hub, or a copy of it. It has no splits of its own: all questions about a molecule go where its hash says.

    Args:
        path: where it lies instead of on the hub, a directory that `datasets` loads.
        sizes: examples in each split; None is all.
        template: a Jinja file that makes the prompt of `question` and `example`; null is the task's own.
    """

    metric = "correct"

    def __init__(self, path: str | None, sizes: Mapping[str, int | None], template: str | None) -> None:
        self.path, self.sizes = path or HUB, sizes
        self.template = prompt_template("chem", template)
        self._splits = cache(self._load)

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the data set's order."""
        return self._splits()[name]

    def reward(self, example: Example, completion: str) -> Reward:
        """Reward the answer that a completion states, alone or as the value of the JSON that the benchmark asks for."""
        text = answers.stated(completion)
        return weighted(0.0, 0.0) if text is None else judged(example, _bare(text))

    def _load(self) -> dict[str, list[Example]]:
        try:
            rows = chain.from_iterable(hub.splits("chem", self.path).values())
            found = {example.id: example for row in rows if (example := self._example(row)) is not None}
        except (KeyError, ValueError) as error:
            raise UserError(
                f"task=chem task.path={self.path}: a row is not as in {HUB} ({error!r}); it needs {', '.join(COLUMNS)}"
            ) from error
        if not found:
            raise UserError(
                f"task=chem task.path={self.path}: no row is of a part that can be judged: {', '.join(PARTS)}"
            )
        homes = {
            name: [each for each in found.values() if split_of(each.meta["molecule"]) == name]
            for name in self.sizes
        }
        return {name: list(islice(examples, self.sizes[name])) for name, examples in homes.items()}

    def _example(self, fields: Mapping[str, Any]) -> Example | None:
        """Return a row as a problem; None where it is of a part that is left out, or its own reference would not count as right."""
        row = _row(fields)
        family, made = PARTS.get(row.part, ("", None))
        question = made(row) if made else None
        if question is None:
            return None
        molecule = canonical(known(row.source)) if row.source else row.query
        details = {
            "subtask": family,
            "part": row.part,
            "molecule": molecule,
            "judge": question.judge,
            "source": row.source,
            **question.meta,
        }
        prompt = self.template.render(question=row.query, example=question.example)
        example = Example(content_id(" ".join(row.query.split())), prompt, question.answer, details)
        return (
            example if not question.answer or judged(example, question.answer).parts["correct"] == 1 else None
        )


@dataclass(frozen=True)
class _Row:
    """A row: its part, question, the molecule that the question is about (empty where there is none to be read), right answer and details."""

    part: str
    query: str
    source: str
    truth: str
    meta: Mapping[str, Any]


def _row(fields: Mapping[str, Any]) -> _Row:
    query = str(fields["query"]).strip()
    stated = _MOLECULE.search(query)
    source = read(stated.group(1).rstrip(".")) if stated else None
    smiles = canonical(source, stereo=True) if source else ""
    return _Row(
        str(fields["subtask"]).lower(),
        query,
        smiles,
        str(fields["gt"]).strip(),
        json.loads(str(fields["meta"]) or "{}"),
    )


def _bare(text: str) -> str:
    values = _VALUE.findall(text)
    return str(values[-1]).strip() if values else text


def _counted(row: _Row) -> Question | None:
    return Question(row.query, row.truth, "number", '{"count": "2"}') if row.truth.isdecimal() else None


def _decided(row: _Row) -> Question | None:
    return (
        Question(row.query, row.truth, "word", '{"output": "Yes"}')
        if row.truth.lower() in ("yes", "no")
        else None
    )


def _framed(row: _Row) -> Question | None:
    answer = read(row.truth)
    return (
        Question(
            row.query,
            row.truth,
            "one_of",
            '{"Output Scaffold": "c1ccccc1"}',
            {"accepted": [canonical(answer)]},
        )
        if answer
        else None
    )


def _changed(row: _Row) -> Question | None:
    asked = [(row.meta.get("removed_group"), -1), (row.meta.get("added_group"), 1)]
    changes = [(PATTERNS.get(group), change) for group, change in asked if group]
    if not row.source or not changes or any(smarts is None for smarts, _ in changes):
        return None
    return Question(
        row.query, str(row.meta.get("reference") or ""), "edited", '{"output": "CCO"}', {"changes": changes}
    )


def _raised(row: _Row) -> Question | None:
    goal = {"property": row.part, "goal": GOALS[row.part]}
    return (
        Question(row.query, "", "improved", '{"Final Target Molecule": "CCO"}', goal) if row.source else None
    )


def _produced(row: _Row) -> Question | None:
    answer = _bare(row.truth)
    product = read(answer)
    accepted = {"source": "", "accepted": [canonical(product, stereo=True)]} if product else {}
    return Question(row.query, answer, "one_of", '{"Major Product": "CCO"}', accepted) if product else None


# Left out: drd, gsk and jnk need models of proteins, retro and rcr have many right answers, mechsel and nepp ask for mechanisms.
PARTS: dict[str, tuple[str, Callable[[_Row], Question | None]]] = {
    "fg_count": ("understanding", _counted),
    "ring_count": ("understanding", _counted),
    "murcko_scaffold": ("understanding", _framed),
    "ring_system_scaffold": ("understanding", _decided),
    "equivalence": ("understanding", _decided),
    "add": ("editing", _changed),
    "delete": ("editing", _changed),
    "sub": ("editing", _changed),
    "logp": ("optimisation", _raised),
    "qed": ("optimisation", _raised),
    "solubility": ("optimisation", _raised),
    "fs": ("reaction", _produced),
}
