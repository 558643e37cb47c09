"""Strategies: the best path of a search as a readable, editable file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from llmzero.core.decay import WHOLE
from llmzero.core.documents import read_document, refuse, unknown_keys, write_document
from llmzero.core.errors import UserError
from llmzero.core.files import finite
from llmzero.core.hparams import Catalogue, HParams
from llmzero.core.length import Length
from llmzero.core.transfer import Source, transferred
from llmzero.evidence.proposal import Resume
from llmzero.strategies.plain import (
    ALLOWED_WORDS,
    MOST_ENTRIES,
    SCALAR,
    Check,
    are_words,
    is_compute,
    is_count,
    is_finite,
    is_scalar,
    named,
    not_plain,
    or_null,
    problems,
    shown,
    words,
)
from llmzero.tree.tree import Node, Tree

FORMAT = 1
LENGTHS = ("steps", "flops")
HEADER = """\
# A training strategy. Replay it: python launchers/replay.py strategy=THIS_FILE seed=1 search_dir=runs/replay
# A stage needs `steps`, and `hparams` or `changes`. hparams: what it trains with; what is left out is the
# practitioner's. Without hparams, changes count: against the stage before, of the first stage against the
# practitioner's configuration. Where both are there they have to agree. resume: the best or last checkpoint
# of the stage before, or that of a step. stop_at: it was stopped early there, and is replayed up to there.
# flops: its compute, which lengths=flops keeps in place of its steps. The rest is for people.
# docs/strategies.md explains.
"""

NODE_ID = re.compile(r"[0-9]{4,12}")
REMEDIES = {
    "values": (
        "edit the file, or give transfer=relative, which moves values from the bounds of their source "
        "to those here"
    ),
    "relative": "edit the file: such values cannot be moved",
}


@dataclass(frozen=True)
class StrategyStage:
    """One stage of a strategy.

    Attributes:
        steps: GRPO steps that were planned for it, or that its compute was worth.
        hparams: a value for every tunable.
        changes: its values that differ from the stage before; for the first stage, from the practitioner's.
        resume: the checkpoint of the stage before from which it resumes.
        stop_at: the step at which it was stopped early, beyond which a replay does not train.
        schedule: the shares of `lr_schedule` at which it would begin and end if it took all its steps.
        diagnosis: the agent's, of the stage before.
        flops: its compute; None is unknown.
        node_id, best_step, score: the node of its search, and what it reached there.
        notes: what a transfer to another catalogue did to its values.
    """

    steps: int
    hparams: HParams
    changes: HParams = field(default_factory=dict)
    resume: Resume = "best"
    stop_at: int | None = None
    diagnosis: tuple[str, ...] = ()
    node_id: str | None = None
    best_step: int | None = None
    score: float | None = None
    notes: tuple[str, ...] = ()
    schedule: tuple[float, float] = WHOLE
    flops: float | None = None

    @property
    def covered(self) -> tuple[float, float]:
        """The shares of `lr_schedule` at which a replay begins and ends it."""
        begins, ends = self.schedule
        return begins, begins + (ends - begins) * self.end / self.steps

    @property
    def end(self) -> int:
        """Steps that a replay trains."""
        return self.steps if self.stop_at is None else self.stop_at

    def length(self, kept: str) -> Length:
        """Return what a replay trains, in `steps` or `flops`.

        Raises:
            UserError: its compute is unknown.
        """
        if kept == "steps":
            return Length(self.end)
        if self.flops is None:
            raise UserError(
                f"lengths=flops: stage {self.node_id or 'of the practitioner'} has no flops, as it was "
                "trained before they were counted; give lengths=steps, or write flops into the strategy"
            )
        return Length(flops=self.flops)

    @classmethod
    def of(cls, tree: Tree, node: Node, catalogue: Catalogue) -> StrategyStage:
        """Return a node of a search as a stage of a strategy."""
        assert node.parent_id is not None and node.result is not None
        ended = max((point.step for point in node.result.validation), default=1)
        by_steps, stopped = node.steps is not None, node.state == "stopped"
        return cls(
            steps=node.steps or ended,
            flops=node.result.flops if by_steps or stopped else node.flops,
            hparams=node.hparams,
            changes=catalogue.changes(tree[node.parent_id].hparams, node.hparams),
            resume=node.proposal.get("resume", "best"),
            stop_at=ended if stopped and by_steps else None,
            diagnosis=words(node.proposal.get("diagnosis")),
            node_id=node.node_id,
            best_step=node.result.best_step,
            score=node.score,
            schedule=node.schedule if by_steps or not stopped else _taken(node, ended),
        )

    @classmethod
    def read(cls, values: Any, where: str) -> StrategyStage:
        """Return the stage that `to_dict` wrote; `where` is its key, for messages.

        Raises:
            UserError: a field is missing, unknown, or of another type.
        """
        names = [each.name for each in fields(cls)]
        found = _form_problems(values, names)
        if not found and "hparams" not in values:
            found = ["hparams: missing"]
        if found:
            raise UserError("\n".join(f"{where}: {text}" for text in found))
        texts = {name: tuple(values.get(name, ())) for name in ("diagnosis", "notes")}
        return cls(**{**values, **texts, "schedule": tuple(values.get("schedule", WHOLE))})

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, as YAML keeps them."""
        return {
            **asdict(self),
            "diagnosis": list(self.diagnosis),
            "notes": list(self.notes),
            "schedule": list(self.schedule),
        }


def is_part(value: Any) -> bool:
    """Return whether a value is a part of a schedule."""
    numbers = isinstance(value, list | tuple) and len(value) == 2 and all(map(is_finite, value))
    return numbers and 0 <= value[0] <= value[1] <= 1


STAGE_KEYS = (
    "node_id",
    "steps",
    "flops",
    "stop_at",
    "resume",
    "diagnosis",
    "changes",
    "hparams",
    "best_step",
    "score",
    "schedule",
)
USUAL = {"flops": None, "stop_at": None, "schedule": list(WHOLE)}  # what a file leaves out
STAGE: Mapping[str, Check] = {
    "steps": (lambda value: is_count(value) and value >= 1, "an integer of at least 1"),
    "flops": (or_null(is_compute), "a number of FLOPs above 0, or null"),
    "stop_at": (or_null(lambda value: is_count(value) and value >= 1), "an integer from 1 to steps"),
    "schedule": (is_part, "two shares from 0 to 1, the lower one first"),
    "resume": (lambda value: value in ("best", "last") or is_count(value), "best, last, or a step"),
    "diagnosis": (are_words, ALLOWED_WORDS),
    "hparams": (lambda value: isinstance(value, dict), "a mapping of names to values"),
    "changes": (lambda value: isinstance(value, dict), "a mapping of names to values"),
    "node_id": (
        or_null(lambda value: isinstance(value, str) and NODE_ID.fullmatch(value) is not None),
        "the number of a node in quotes, such as '0002', or null",
    ),
    "best_step": (or_null(is_count), "a step or null"),
    "score": (or_null(is_finite), "a finite number or null"),
    "notes": (
        lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
        "a list of texts",
    ),
}


def _taken(node: Node, step: int) -> tuple[float, float]:
    """Return the part of `lr_schedule` that a stage has taken by a step, its last one."""
    assert node.result is not None
    begins, ends = node.schedule
    return begins, begins + (ends - begins) * node.length.share(step, node.result.flops)


def strategy_of(tree: Tree, node: Node, catalogue: Catalogue) -> list[StrategyStage]:
    """Return the stages of the path to a node."""
    return [StrategyStage.of(tree, stage, catalogue) for stage in tree.path(node.node_id)[1:]]


def export_strategy(
    path: Path, tree: Tree, best: Node, catalogue: Catalogue, provenance: Mapping[str, Any]
) -> None:
    """Write the path to `best` as `strategy.yaml`, with what moving its values to another catalogue needs."""
    entries = [stage.to_dict() for stage in strategy_of(tree, best, catalogue)]
    stages = [
        {name: entry[name] for name in STAGE_KEYS if name not in USUAL or entry[name] != USUAL[name]}
        for entry in entries
    ]
    write_document(
        path,
        HEADER,
        {
            "format": FORMAT,
            "provenance": finite({**provenance, **asdict(Source.of(catalogue))}),
            "stages": stages,
        },
    )


def load_strategy(path: Path, catalogue: Catalogue, transfer: str = "values") -> list[StrategyStage]:
    """Read and check a strategy's stages; values stay as they are, or move to the catalogue (`relative`).

    Raises:
        UserError: the file is missing or malformed, or holds values that the catalogue forbids.
    """
    document = read_document("strategy", path, FORMAT, ("provenance", "stages"))
    entries = document["stages"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_ENTRIES:
        allowed = f"a list of at least one stage, and at most {MOST_ENTRIES}"
        refuse("strategy", path, [f"stages={shown(entries)}: must be {allowed}"])
    provenance = document.get("provenance")
    found = _numbered(
        _form_problems(entry, STAGE_KEYS) or _name_problems(entry, catalogue) for entry in entries
    )
    refuse("strategy", path, [*not_plain("provenance", provenance), *found])
    source = _source(path, provenance, transfer)
    moved = [_moved(entry, source, catalogue) for entry in entries]
    forbidden = _numbered(
        catalogue.problems(entry["hparams"] if "hparams" in entry else entry["changes"]) for entry in moved
    )
    refuse("strategy", path, forbidden and [*forbidden, REMEDIES[transfer]])
    stages = _completed(moved, catalogue)
    refuse("strategy", path, _resume_problems(stages))
    return stages


def _numbered(problems: Iterable[Sequence[str]]) -> list[str]:
    return [f"stage {number}: {text}" for number, texts in enumerate(problems, 1) for text in texts]


def _form_problems(entry: Any, known: Sequence[str]) -> list[str]:
    """Return what is wrong with a stage whatever the catalogue; `known` are the keys that it may have."""
    if not isinstance(entry, dict):
        return [f"{shown(entry)}: must be a mapping with steps, and hparams or changes"]
    found = problems({"steps": None, **entry}, STAGE)
    found += [
        f"{group}.{named(name)}={shown(value)}: must be {SCALAR}"
        for group in ("hparams", "changes")
        if isinstance(entry.get(group), dict)
        for name, value in entry[group].items()
        if not is_scalar(value)
    ]
    if not found and entry.get("stop_at") is not None and entry["stop_at"] > entry["steps"]:
        found = [f"stop_at={entry['stop_at']}: must be an integer from 1 to steps={entry['steps']}"]
    if "hparams" not in entry and "changes" not in entry:
        found.append("needs hparams or changes; `changes: {}` trains on as before")
    return unknown_keys(map(named, entry), known) + found


def _name_problems(entry: dict[str, Any], catalogue: Catalogue) -> list[str]:
    """Return the parameters that the catalogue lacks, and where `changes` say what `hparams` do not."""
    changes = entry.get("changes", {})
    hparams = entry.get("hparams", changes)
    unknown = catalogue.problems(
        {named(name): value for name, value in {**changes, **hparams}.items() if name not in catalogue}
    )
    contradictory = [name for name in changes if name not in hparams or hparams[name] != changes[name]]
    return unknown + [
        f"changes.{name}={changes[name]!r} but hparams.{name}={hparams.get(name)!r}: "
        "change both, or remove hparams"
        for name in contradictory
    ]


def _source(path: Path, provenance: Any, transfer: str) -> Source | None:
    """Return what values are moved by; None where they stay as they are."""
    if transfer == "values":
        return None
    defaults, choices = (
        provenance.get(name, {}) if isinstance(provenance, dict) else None for name in ("defaults", "choices")
    )
    right = (
        isinstance(defaults, dict)
        and isinstance(choices, dict)
        and all(isinstance(options, list) for options in choices.values())
    )
    if not right or not defaults:
        refuse(
            "strategy",
            path,
            [
                "provenance: transfer=relative needs `defaults` and `choices` there, as a search writes "
                "them; or give transfer=values"
            ],
        )
    return Source(defaults or {}, choices or {})


def _moved(entry: dict[str, Any], source: Source | None, catalogue: Catalogue) -> dict[str, Any]:
    """Return a stage with its values moved, and notes on what bounds cut."""
    if source is None:
        return entry
    parts = {
        name: transferred(entry[name], source, catalogue) for name in ("hparams", "changes") if name in entry
    }
    notes = dict.fromkeys(note for _, cut in parts.values() for note in cut)
    return {**entry, **{name: values for name, (values, _) in parts.items()}, "notes": tuple(notes)}


def _completed(entries: Sequence[dict[str, Any]], catalogue: Catalogue) -> list[StrategyStage]:
    """Return the stages with a value for every tunable, and with what changes from one to the next."""
    stages: list[StrategyStage] = []
    for entry in entries:
        before = stages[-1].hparams if stages else catalogue.defaults()
        base = catalogue.defaults() if "hparams" in entry else before
        values = {**base, **entry.get("hparams", entry.get("changes", {}))}
        hparams = {name: parameter.settled(values[name]) for name, parameter in catalogue.items()}
        stage = {each.name: entry[each.name] for each in fields(StrategyStage) if each.name in entry}
        stage |= {
            "hparams": hparams,
            "changes": catalogue.changes(before, hparams),
            "diagnosis": tuple(entry.get("diagnosis", ())),
            "schedule": tuple(entry.get("schedule", WHOLE)),
        }
        stages.append(StrategyStage(**stage))
    return stages


def _neighbours(stages: Sequence[StrategyStage]) -> list[tuple[StrategyStage, StrategyStage]]:
    """Return every stage with the one after it; the last one with a stage that resumes from its best."""
    return list(zip(stages, [*stages[1:], replace(stages[-1], resume="best")], strict=True))


def _resume_problems(stages: Sequence[StrategyStage]) -> list[str]:
    """Return the stages that resume from a step that the stage before them does not reach."""
    first = stages[0].resume
    problems = (
        [f"stage 1: resume={first}: the base model has the checkpoint of step 0 alone; use best"]
        if isinstance(first, int) and first
        else []
    )
    for number, (stage, after) in enumerate(_neighbours(stages), 1):
        if isinstance(after.resume, int) and not 1 <= after.resume <= stage.end:
            problems.append(
                f"stage {number + 1}: resume={after.resume}: must be from 1 to {stage.end}, "
                f"where stage {number} ends"
            )
    return problems


def as_trained(stages: Sequence[StrategyStage]) -> list[StrategyStage]:
    """Return the stages as a replay trains them.

    A stage after which the next one resumes from a step is trained to that step, as trainers store no
    checkpoints but the best and the last; its compute is cut in proportion,
    and ends it at a step near that one.
    """
    return [
        replace(stage, stop_at=after.resume, flops=stage.flops and stage.flops * after.resume / stage.end)
        if isinstance(after.resume, int)
        else stage
        for stage, after in _neighbours(stages)
    ]
