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
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.chemistry_answers import judged, source_molecule
from llmzero.tasks.chemistry_questions import Question
from llmzero.tasks.molecules import GROUPS, canonical, read
from llmzero.tasks.splits import Split, content_id, split_of
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
    """The benchmark from the hub, or a copy of it.

    It has no splits of its own: a molecule's hash decides which split all questions about it belong to.

    Args:
        path: a copy of it, a directory that `datasets` loads; None loads it from the hub.
        sizes: examples in each split; None is all.
        template: a Jinja file that makes the prompt of `question` and `example`; None is the task's own.
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
        """Reward the stated answer, plain or as a value in the JSON that the benchmark asks for."""
        text = answers.stated(completion)
        return weighted(0.0, 0.0) if text is None else judged(example, _bare(text))

    def _load(self) -> dict[str, list[Example]]:
        try:
            rows = chain.from_iterable(hub.splits("chem", self.path).values())
            examples = {example.id: example for row in rows if (example := self._example(row)) is not None}
        except (KeyError, ValueError) as error:
            raise UserError(
                f"task=chem task.path={self.path}: a row is not as in {HUB} ({error!r}); "
                f"it needs {', '.join(COLUMNS)}"
            ) from error
        if not examples:
            raise UserError(
                f"task=chem task.path={self.path}: no row is of a part that can be judged: {', '.join(PARTS)}"
            )
        splits: dict[str, list[Example]] = {name: [] for name in self.sizes}
        for example in examples.values():
            splits[split_of(example.meta["molecule"])].append(example)
        return {name: list(islice(splits[name], size)) for name, size in self.sizes.items()}

    def _example(self, fields: Mapping[str, Any]) -> Example | None:
        """Return a row as a problem; None where its part is left out, or its reference is judged wrong."""
        row = _row(fields)
        subtask, ask = PARTS.get(row.part, ("", None))
        question = ask(row) if ask else None
        if question is None:
            return None
        meta = {
            "subtask": subtask,
            "part": row.part,
            "molecule": canonical(source_molecule(row.source)) if row.source else row.query,
            "judge": question.judge,
            "source": row.source,
            **question.meta,
        }
        prompt = self.template.render(question=row.query, example=question.example)
        example = Example(content_id(" ".join(row.query.split())), prompt, question.answer, meta)
        if question.answer and judged(example, question.answer).parts["correct"] < 1:
            return None
        return example


@dataclass(frozen=True)
class _Row:
    """A row: part, question, source molecule (empty where it has no valid one), right answer and details."""

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


# Left out: drd, gsk and jnk need models of proteins, retro and rcr have many right answers,
# mechsel and nepp ask for mechanisms.
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
