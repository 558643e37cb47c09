"""What `report.html` shows of a search, as one JSON document that is cut to what fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llmzero.core.hparams import Catalogue, Parameter
from llmzero.core.metrics import Metric, listed
from llmzero.core.stage import StageDir
from llmzero.mirrors.views import course, course_line
from llmzero.tree.outcomes import read_confirmation, read_test
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node

MIN_POINTS = 6
COSTS = ("seconds", "gpu_seconds", "flops")

T = TypeVar("T")


@dataclass(frozen=True)
class Detail:
    """How much of a node the page carries: points of a curve, rollouts, characters of texts."""

    points: int
    rollouts: int
    excerpt: int
    text: int

    @classmethod
    def for_nodes(cls, count: int) -> Detail:
        """Return what fits where `count` nodes share the page."""
        share = max(1, count)
        return cls(
            points=_between(MIN_POINTS, 12_000 // share, 200),
            rollouts=_between(2, 1_000 // share, 8),
            excerpt=_between(120, 100_000 // share, 2_000),
            text=_between(200, 250_000 // share, 8_000),
        )

    def halved(self) -> Detail:
        """Return half of it."""
        return Detail(
            max(MIN_POINTS, self.points // 2), max(1, self.rollouts // 2), self.excerpt // 2, self.text // 2
        )


def report_data(
    search_dir: Path,
    store: EventStore,
    catalogue: Catalogue,
    metrics: Mapping[str, Metric],
    summary: Mapping[str, Any],
    detail: Detail,
) -> dict[str, Any]:
    """Return everything the page shows, as a JSON document."""
    tree = store.tree
    best = tree.best()
    path = tree.path(best.node_id) if best else []
    curves = listed(metrics.values(), "report")
    finished = sorted((n for n in tree.stages() if n.final), key=lambda n: n.finished_order or 0)
    trajectory = zip(finished, store.trajectory, strict=True)
    return {
        "search": _search(search_dir, store, summary),
        "budget": store.ledger.to_dict(),
        "test": read_test(search_dir),
        "confirmation": read_confirmation(search_dir),
        "base_score": tree.root.score if ROOT in tree.nodes else None,
        "validation_max_tokens": StageDir(search_dir / "nodes" / ROOT).validation_limit(),
        "best_path": [node.node_id for node in path],
        "course": course_line(course(path)),
        "parameters": [_parameter(parameter, path) for parameter in catalogue.values()],
        "curves": {name: metrics[name].title or name for name in curves},
        "trajectory": [{"id": node.node_id, **point} for node, point in trajectory],
        "nodes": [
            _node(node, search_dir / "nodes" / node.node_id, catalogue, curves, detail) for node in tree
        ],
    }


def _search(search_dir: Path, store: EventStore, summary: Mapping[str, Any]) -> dict[str, Any]:
    state = summary.get("state") or ("finished" if store.ended else "running")
    return {
        "id": search_dir.resolve().name,
        "method": summary.get("method"),
        "agent": summary.get("agent"),
        "state": state,
    }


def _parameter(parameter: Parameter, path: Sequence[Node]) -> dict[str, Any]:
    """Return what the page says of a parameter; `path` holds its positions (0 to 1) along the best path."""
    return {
        "name": parameter.name,
        "group": parameter.group,
        "unit": parameter.unit,
        "description": parameter.description,
        "allowed": parameter.allowed,
        "ticks": [[round(parameter.position(value), 4), value] for value in _tick_values(parameter)],
        "path": [round(parameter.position(node.hparams[parameter.name]), 4) for node in path],
    }


def _tick_values(parameter: Parameter) -> Sequence[Any]:
    """Return the ticks of a parameter's axis: its choices, decades of a log scale, or ends and middle."""
    if parameter.choices is not None:
        return parameter.choices
    low, high = parameter.low, parameter.high
    assert low is not None
    assert high is not None
    if parameter.scale == "linear":
        return (low, (low + high) / 2, high)
    first, last = math.ceil(math.log10(low or high * 1e-3)), math.floor(math.log10(high))
    decades = [10.0**exponent for exponent in range(first, last + 1)]
    return decades if low else [low, *decades]


def _node(
    node: Node, directory: Path, catalogue: Catalogue, curves: Sequence[str], detail: Detail
) -> dict[str, Any]:
    stage = StageDir(directory)
    validation = node.result.validation if node.result else stage.validation()
    score = node.score if node.result else max((point.score for point in validation), default=None)
    points = [
        [p.step, p.global_step, _short(p.score), _short(p.stderr)]
        for p in _thinned(validation, detail.points)
    ]
    return {
        "id": node.node_id,
        "parent": node.parent_id,
        "depth": node.depth,
        "state": node.state,
        "steps": node.steps,
        "planned_flops": node.flops,
        "deaths": node.deaths,
        "score": _short(score),
        "resume_from": node.resume_from.name if node.resume_from else None,
        **_cost(node, stage),
        "error": _clip(node.result.error if node.result else None, detail.text),
        "config": [_clipped(node.hparams.get(name), detail.text) for name in catalogue],
        "proposal": _clipped(node.proposal, detail.text),
        "stop": _clipped(node.stop, detail.text),
        "withdrawn": _clip(node.withdrawn, detail.text),
        "closed": _clip(node.closed, detail.text),
        "validation": points,
        "curves": _curves(stage, curves, detail.points),
        "rollouts": _rollouts(stage, detail),
    }


def _cost(node: Node, stage: StageDir) -> dict[str, Any]:
    """Return what a stage used so far; a running one says so in its heartbeat."""
    if node.result:
        return {name: getattr(node.result, name) for name in COSTS}
    status = stage.status()
    return {name: status.get(name) for name in COSTS}


def _curves(stage: StageDir, names: Sequence[str], points: int) -> dict[str, Any]:
    """Return these metrics as columns over `step`, thinned to `points` rows; `rows` counts all."""
    rows = stage.metrics()
    shown = _thinned(rows, points)
    present = [name for name in names if any(row.get(name) is not None for row in shown)]
    columns = {name: [_short(row.get(name)) for row in shown] for name in present}
    return {"rows": len(rows), "step": [row["step"] for row in shown], **columns}


def _rollouts(stage: StageDir, detail: Detail) -> list[dict[str, Any]]:
    """Return the latest sampled rollouts."""
    fields = ("step", "prompt", "completion", "reward")
    rows = stage.rollouts()[-detail.rollouts :]
    return [{name: _clipped(row.get(name), detail.excerpt) for name in fields} for row in rows]


def _thinned(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    step = (len(items) - 1) / (most - 1)
    return [items[round(i * step)] for i in range(most)]


def _short(value: Any) -> Any:
    """Return a float with the five digits that a chart can show; anything else as it is."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _clipped(value: Any, limit: int) -> Any:
    """Return a JSON value with every text in it cut to `limit` characters."""
    if isinstance(value, dict):
        return {_clip(str(key), limit): _clipped(item, limit) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clipped(item, limit) for item in value]
    return _clip(value, limit) if isinstance(value, str) else _short(value)


def _clip(text: str | None, limit: int) -> str | None:
    """Cut a text in the middle: errors end, and completions begin and end, with what matters."""
    if text is None or len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]} [... {len(text) - head - tail} characters left out ...] {text[-tail:]}"


def _between(low: int, value: int, high: int) -> int:
    return min(max(low, value), high)
