"""ChemCoTBench (arXiv 2505.21318): the parts of it whose answers RDKit can judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmzero.core.errors import UserError
from llmzero.tasks import answers, hub
from llmzero.tasks.base import Example, Reward, weighted
from llmzero.tasks.chemistry_answers import judged, source_molecule
from llmzero.tasks.chemistry_questions import Question
from llmzero.tasks.gold import FULL_MARKS, ReadProblems, Rows
from llmzero.tasks.molecules import GROUPS, canonical, read
from llmzero.tasks.splits import content_id, split_of
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


class ChemCoTBench(ReadProblems):
    """The benchmark from the hub, or a copy of it.

    It has no splits of its own: a molecule's hash decides which split all questions about it belong to.

    Args:
        path: a copy of it, a directory that `datasets` loads; None loads it from the hub.
        sizes: examples in each split; None is all.
        template: a Jinja file that makes the prompt of `question` and `example`; None is the task's own.
        unverified: what is done with rows whose own reference is judged wrong.
    """

    metric = "correct"

    def __init__(
        self, path: str | None, sizes: Mapping[str, int | None], template: str | None, unverified: str
    ) -> None:
        self.path, self.sizes, self.unverified = path or HUB, sizes, unverified
        self.source = f"task=chem task.path={self.path}"
        self.template = prompt_template("chem", template)
        self._splits = cache(self._load)

    def reward(self, example: Example, completion: str) -> Reward:
        """Reward the stated answer, plain or as a value in the JSON that the benchmark asks for."""
        text = answers.stated(completion)
        return weighted(0.0, 0.0) if text is None else judged(example, _bare(text))

    def _load(self) -> dict[str, list[Example]]:
        rows = Rows(self.source, self.unverified)
        for split, data in hub.splits("chem", self.path).items():
            for number, fields in enumerate(data):
                self._add(rows, f"{split}[{number}]", fields)
        if not rows.examples and not rows.unusable:
            raise UserError(f"{self.source}: no row is of a part that can be judged: {', '.join(PARTS)}")
        wrong = {where: problem for where, example in rows.examples if (problem := _unsolved(example))}
        rows.settle([*wrong.items()])
        keep = self.unverified == "keep"
        splits: dict[str, list[Example]] = {name: [] for name in self.sizes}
        for where, example in rows.examples:
            if keep or where not in wrong:
                splits[split_of(example.meta["molecule"])].append(example)
        return splits

    def _add(self, rows: Rows, where: str, fields: Mapping[str, Any]) -> None:
        """Add a row as a problem, unless it is of a part that is left out."""
        try:
            row = _row(fields)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{self.source}: {where} is not as in {HUB} ({error!r}); it needs {', '.join(COLUMNS)}"
            ) from error
        subtask, ask = PARTS.get(row.part, ("", None))
        if ask is None:
            return None
        question = ask(row) if row.query else None
        if question is None:
            return rows.leave(where, f"its question or answer ({row.part}) cannot be read")
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
        return rows.add(where, example, row.truth or "any that solves it")


def _unsolved(example: Example) -> str:
    """Return what is wrong with a problem whose own reference does not solve it; empty where it does."""
    if not example.answer or judged(example, example.answer).parts["correct"] >= FULL_MARKS:
        return ""
    return f"its reference {example.answer!r} does not solve it"


@dataclass(frozen=True)
class _Row:
    """A row: part, question, source molecule (empty where it has no valid one), right answer and details."""

    part: str
    query: str
    source: str
    truth: str
    meta: Mapping[str, Any]


def _row(fields: Mapping[str, Any]) -> _Row:
    meta = json.loads(str(fields["meta"] or "{}"))
    if not isinstance(meta, dict):
        raise ValueError("meta is no object")
    query = str(fields["query"] or "").strip()
    stated = _MOLECULE.search(query)
    source = read(stated.group(1).rstrip(".")) if stated else None
    smiles = canonical(source, stereo=True) if source else ""
    return _Row(
        str(fields["subtask"]).lower(),
        query,
        smiles,
        str(fields["gt"] or "").strip(),
        meta,
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
    changes = [(PATTERNS.get(str(group)), change) for group, change in asked if group]
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
