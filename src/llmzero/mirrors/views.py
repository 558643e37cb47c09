"""A search as text and tables for the terminal: its tree, its stages, its result, a line on its budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree as RichTree

from llmzero.core.length import flops_text
from llmzero.core.text import visible_line
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree

STATE_STYLES = {
    "proposing": "dim",
    "withdrawn": "dim",
    "queued": "dim",
    "running": "cyan",
    "completed": "green",
    "stopped": "yellow",
    "failed": "red",
}
SHOWN_NODES = 40
COMPARED = {
    "base": "base",
    "practitioner": "practitioner",
    "constant": "best constant",
    "best": "best strategy",
}


def budget_line(store: EventStore, budget: Budget, workers: int, agent: str, elapsed: float) -> str:
    """Return what a search has spent and how long it may still take, in a line."""
    ledger = store.ledger
    stages = f"{ledger.stages}/{budget.stages}" if budget.stages else str(ledger.stages)
    limit = f" of {budget.flops:.3g}" if budget.flops is not None else ""
    spent = f"{elapsed:.0f} s | {flops_text(ledger.flops)}{limit} | {ledger.gpu_seconds:.0f} gpu-seconds"
    if ledger.idle_gpu_seconds:
        spent += f" and {ledger.idle_gpu_seconds:.0f} idle"
    line = f"agent {visible_line(agent)} | stages {stages} | {spent}"
    if ledger.llm_calls:
        line += f" | {ledger.llm_calls} LLM calls, {ledger.llm_tokens} tokens, ${ledger.llm_dollars:.2f}"
    if ledger.prefetched:
        used, wasted = ledger.prefetches_used, ledger.prefetches_wasted
        line += f" | {ledger.prefetched} proposals prefetched, {used} used, {wasted} wasted"
    amounts = ((budget.stages, ledger.stages), (budget.flops, ledger.flops))
    left = [(limit - used) / used for limit, used in amounts if limit is not None and used]
    if left:
        seconds = sum(node.result.seconds for node in store.tree.stages() if node.result)
        line += f" | about {seconds * max(0.0, min(left)) / workers / 60:.1f} min left"
    return line


def tree_view(tree: Tree) -> RichTree:
    """Return the tree with scores, states and changes, the best path in bold.

    Of a large tree, that path and the newest stages are shown.
    """
    best = tree.best() if len(tree) else None
    path = {node.node_id for node in tree.path(best.node_id)} if best else set()
    newest = tree.since(max(0, len(tree) - SHOWN_NODES))
    shown = path | {above.node_id for node in newest for above in tree.path(node.node_id)}
    views: dict[str | None, RichTree] = {}
    for node in (tree[node_id] for node_id in sorted(shown, key=int)):
        style = STATE_STYLES[node.state] + (" bold" if node.node_id in path else "")
        label = Text(("* " if node.node_id in path else "") + node_text(node, tree), style=style)
        parent = views.get(node.parent_id)
        views[node.node_id] = parent.add(label) if parent else RichTree(label)
    return next(iter(views.values()), RichTree("no stages yet"))


def node_text(node: Node, tree: Tree) -> str:
    """Return a node in one line: id, state, score, diagnosis and changes."""
    score = f"{node.score:.3f}" if node.score is not None else "  -  "
    if node.parent_id is None:
        return f"{node.node_id} {score} {node.state}: the base model"
    if node.state == "proposing":
        return visible_line(
            f"{node.node_id} {score} proposing: the agent is asked what to change in {node.parent_id}"
        )
    if node.state == "withdrawn":
        return visible_line(f"{node.node_id} {score} withdrawn: {node.withdrawn}")
    unchanged = "practitioner's configuration" if node.hparams == tree.root.hparams else "unchanged"
    changes = ", ".join(f"{name}={value}" for name, value in changed(node, tree).items()) or unchanged
    diagnosis = "+".join(map(str, node.proposal.get("diagnosis", ())))
    error = f" ({node.result.error})" if node.result and node.result.error else ""
    error += f"; closed: {node.closed}" if node.closed else ""
    told = f"{node.node_id} {score} {node.state}: {diagnosis + ' -> ' if diagnosis else ''}{changes}{error}"
    return visible_line(told)


def proposing_row(node: Node, elapsed: float) -> tuple[str, str]:
    """Return a stage that is being proposed, and for how many of the search's seconds it has been."""
    return (
        f"stage {node.node_id}",
        f"proposing {max(0.0, elapsed - (node.asked or {}).get('elapsed', elapsed)):.0f} s",
    )


def changed(node: Node, tree: Tree) -> dict[str, Any]:
    """Return a node's hyperparameters that differ from its parent's."""
    parent = tree[node.parent_id].hparams if node.parent_id else {}
    return {name: value for name, value in node.hparams.items() if parent.get(name) != value}


def course(path: Sequence[Node]) -> dict[str, list[Any]]:
    """Return the values along a path, one a stage, of each hyperparameter that does not keep its first."""
    stages = [node.hparams for node in path if node.parent_id is not None]
    return {
        name: values
        for name in (stages[0] if stages else {})
        if (values := [hparams.get(name) for hparams in stages]).count(values[0]) < len(values)
    }


def course_line(values: Mapping[str, Sequence[Any]]) -> str:
    """Return in a line what a path did to its hyperparameters; empty where it kept them all."""
    told = []
    for name, each in values.items():
        turns = [value for value, _ in groupby(each)]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in turns)
        grew, fell = (numbers and turns == sorted(turns, reverse=down) for down in (False, True))
        how = "grew" if grew else "fell" if fell else "changed"
        told.append(f"{name} {how} ({', '.join(_value_text(value) for value in turns)})")
    return visible_line("along the best path: " + "; ".join(told)) if told else ""


def _value_text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def result_view(summary: dict[str, Any]) -> Group:
    """Return base, practitioner, best constant and best strategy side by side, with what each was given."""
    table = Table()
    test, best = summary["test"] or {}, summary["best"]
    for column in ("", "validation", "test", "steps", "FLOPs", "gpu-seconds"):
        table.add_column(column)
    selected = {"base": summary["base_score"], "best": best and best["score"]}
    for name, label in COMPARED.items():
        entry = test.get(name)
        if entry is None and name == "constant" and name not in test.get("failed", {}):
            continue
        value = selected.get(name, (entry or {}).get("validation"))
        measured, spent = "failed" if name in test.get("failed", {}) else "-", ["-"] * 3
        if entry:
            measured = f"{entry['score']:.3f} ± {entry['stderr']:.3f}"
            flops = entry.get("flops")
            spent = [str(entry["steps"]), "?" if flops is None else f"{flops:.3g}"]
            spent.append(f"{entry['gpu_seconds']:.0f}")
        table.add_row(label, f"{value:.3f}" if value is not None else "-", measured, *spent)
    lines = [
        course_line((best or {}).get("course", {})),
        compute_line(test),
        limit_line(summary["validation_max_tokens"]),
    ]
    if constant := test.get("constant"):
        lines.insert(2, f"best constant: the best of {constant['arms']} fixed schedules: {constant['about']}")
    lines += failure_lines(test)
    title = visible_line(f"search {summary['search_id']}: {summary['state']}")
    told = [Text(visible_line(line), style="dim") for line in lines if line]
    return Group(Text(title, style="italic"), table, *told)


def compute_line(test: Mapping[str, Any]) -> str:
    """Return how the compute of those that a strategy is compared with differs from its own; empty where
    there is nothing to compare.
    """
    best = test.get("best") or {}
    entries = [test.get(name) or {} for name in ("practitioner", "constant")]
    others = [entry for entry in entries if entry.get("steps")]  # none of the base model, which took none
    if not others or not best.get("steps"):
        return ""
    if best.get("flops") is None or None in (entry.get("flops") for entry in others):
        return "at equal steps; what they cost in compute is unknown, as earlier versions did not count it"
    most = max(abs(entry["flops"] / best["flops"] - 1) for entry in others)
    return f"at equal compute, within {math.ceil(100 * most)} %"


def failure_lines(test: Mapping[str, Any]) -> list[str]:
    """Return a line for each baseline of a final test that failed, and why."""
    return [
        visible_line(f"{COMPARED[name]} failed: {reason}; the same command tries it again")
        for name, reason in test.get("failed", {}).items()
        if name in COMPARED
    ]


def limit_line(limit: int | None) -> str:
    """Return in a line within which length completions were scored; None is each stage's own limit."""
    if limit is None:
        return "scores: completions within each stage's own max_completion_length, as an earlier version did"
    return f"scores: completions of up to {limit} tokens, whatever a stage's max_completion_length"


def confirmation_line(summary: dict[str, Any]) -> str:
    """Return the result of a search's confirmation, in a line."""
    confirmation = summary["confirmation"]
    if confirmation is None:
        return (
            "one seed; not confirmed: search.confirm_seeds=3 runs the best strategies and "
            "the practitioner's configuration on fresh seeds"
        )
    winner = confirmation["strategies"][confirmation["winner"]]
    p = winner["against"]["practitioner"]["p_welch"]
    parts = {
        confirmation["winner"]: winner,
        "practitioner": confirmation["practitioner"],
        "base": confirmation["base"],
    }
    scores = ", ".join(
        f"{name} failed"
        if part["mean"] is None
        else f"{name} {part['mean']:.3f}" + (f" ± {part['stderr']:.3f}" if part["stderr"] is not None else "")
        for name, part in parts.items()
    )
    seeds, failed = len(confirmation["seeds"]), confirmation["practitioner"]["incomplete"]
    grown = summary["nodes"]["total"] - 1 - confirmation["stages"]
    later = f"; {grown} stages later the search is not confirmed" if grown else ""
    return visible_line(
        f"test on {seeds} fresh seeds: {scores}"
        + (f"; the practitioner's training failed on {failed} of {seeds}, left out" if failed else "")
        + (f"; against practitioner p = {p:.2g}" if p is not None else "")
        + later
    )
