"""The rows of one search that its tree and its configuration determine, wherever the tree comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from analysis.tables import Row, Rows
from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue, Parameter
from llmzero.mirrors.stopping import Steps, stopping_record
from llmzero.tree.tree import Node, Tree
from llmzero.tree.upgrade import LLM_PARTS

EXPECTED = ("score", "low", "high", "probability", "probability_best", "incumbent", "effect")


def add_tree(
    rows: Rows,
    search: str,
    config: Mapping[str, Any],
    tree: Tree,
    catalogue: Catalogue,
    metrics: Mapping[str, Steps],
    **totals: Any,
) -> None:
    """Add a search, its stages, their steps and their changes of hyperparameters.

    Args:
        rows: where they are added.
        search: the name of the search in all tables.
        config: its resolved configuration.
        tree: its stages.
        catalogue: its hyperparameters.
        metrics: the steps of its stages, by stage.
        totals: further columns of its row in `searches`.

    Raises:
        UserError: a stage has a value that the catalogue does not allow.
    """
    best = tree.best()
    best_path = {node.node_id for node in tree.path(best.node_id)} if best else set()
    stopping = stopping_record(tree, metrics.__getitem__)
    rows.searches.append({"search": search, **_search_row(config, tree), **stopping, **totals})
    for node in tree:
        rows.steps.extend({"search": search, "node": node.node_id, **row} for row in metrics[node.node_id])
        parent = tree[node.parent_id] if node.parent_id else None
        on_best_path = node.node_id in best_path
        rows.stages.append({"search": search, **_stage_row(node, parent), "on_best_path": on_best_path})
        if parent:
            rows.changes.extend(
                {"search": search, **row, "on_best_path": on_best_path}
                for row in _change_rows(search, node, parent, catalogue)
            )


def _search_row(config: Mapping[str, Any], tree: Tree) -> Row:
    best = tree.best()
    groups = ("search", "agent", "stopper", "task", "model", "runner")
    parts = {name: config.get(name) or {} for name in groups}
    method, agent = parts["search"].get("name"), parts["agent"].get("name")
    if parts["stopper"].get("_target_") in LLM_PARTS:
        # The label has to tell apart stoppers that differ in their model alone.
        parts["stopper"] = {**parts["stopper"], "model": (config.get("llm") or {}).get("model")}
    # A method that asks no agent signs its proposals itself.
    signed_by_method = any(node.proposal.get("agent") == method for node in tree.stages())
    return {
        "method": method,
        "agent": agent,
        "proposer": method if signed_by_method else agent,
        "stopper": _label(parts["stopper"], "z", "model"),
        "task": _label(parts["task"], "difficulty", "path") or _label(parts["runner"], "landscape"),
        "model": _label(parts["model"], "path"),
        "seed": config.get("seed"),
        "base_score": tree.root.score if len(tree) else None,
        "best_node": best.node_id if best else None,
        "best_score": best.score if best else None,
        "best_depth": best.depth if best else None,
    }


def _label(part: Mapping[str, Any], *settings: str) -> str | None:
    """Return the class name of a part of the configuration, followed by the values of these settings."""
    if part.get("_target_") is None:
        return None
    words = [str(part["_target_"]).rsplit(".", 1)[-1]]
    for key in settings:
        if part.get(key) is not None:
            words.append(part[key] if isinstance(part[key], str) else f"{key}={part[key]}")
    return " ".join(words)


def _stage_row(node: Node, parent: Node | None) -> Row:
    result, proposal, stop = node.result, node.proposal, node.stop or {}
    expected = proposal.get("expected") or {}
    start = parent.score if parent else None
    return {
        "node": node.node_id,
        "parent": node.parent_id,
        "depth": node.depth,
        "state": node.state,
        "steps": node.steps,
        "planned_flops": node.flops,
        "flops": result.flops if result else None,
        "score": node.score,
        "start_score": start,
        "gain": None if node.score is None or start is None else node.score - start,
        "best_step": result.best_step if result else None,
        "seconds": result.seconds if result else None,
        "gpu_seconds": result.gpu_seconds if result else None,
        "cause": (result.cause or {}).get("kind") if result else None,
        "finished_order": node.finished_order,
        "leaf": not node.children,
        "agent": proposal.get("agent"),
        "diagnosis": ", ".join(proposal.get("diagnosis") or ()),
        "rationale": proposal.get("rationale"),
        **{f"expected_{key}": expected.get(key) for key in EXPECTED},
        "expected_metrics": json.dumps(expected.get("metrics") or {}),
        **{key: proposal.get(key, 0) for key in ("calls", "tokens", "dollars")},
        "stop": stop.get("event"),
        "stop_step": stop.get("step"),
        "stop_incumbent": stop.get("incumbent"),
        "hparams": json.dumps(node.hparams),
    }


def _change_rows(search: str, node: Node, parent: Node, catalogue: Catalogue) -> Iterator[Row]:
    for parameter in catalogue.values():
        before, after = (stage.hparams.get(parameter.name) for stage in (parent, node))
        if before is None or after is None or before == after:
            continue
        low, high = (_position(search, stage, parameter) for stage in (parent, node))
        yield {
            "node": node.node_id,
            "parent": parent.node_id,
            "depth": node.depth,
            "parameter": parameter.name,
            "group": parameter.group,
            "before": str(before),
            "after": str(after),
            "position_before": low,
            "position_after": high,
            "direction": int(np.sign(high - low)),
            "values": parameter.count,
            "agent": node.proposal.get("agent"),
            "diagnosis": ", ".join(node.proposal.get("diagnosis") or ()),
            "expected_effect": (node.proposal.get("expected") or {}).get("effect"),
        }


def _position(search: str, node: Node, parameter: Parameter) -> float:
    """Return where a stage's value stands between the lowest (0) and the highest (1) of its parameter."""
    value = node.hparams[parameter.name]
    if parameter.choices is not None and value not in parameter.choices:
        raise UserError(
            f"{search}: stage {node.node_id} of tree.jsonl: {parameter.problem(value)}, says its "
            "config.yaml; restore that or leave this search out"
        )
    return parameter.position(value)
