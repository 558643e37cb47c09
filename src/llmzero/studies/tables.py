"""Comparisons and transfers for people: `comparison.md` and `transfer.md`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llmzero.core.text import visible_line
from llmzero.search.final_test import FAILED

Entry = dict[str, Any]
NOTES = """\
Final: test score of the best node by validation, the mean over seeds with its 95 % interval. Confirmed: that
of its strategies, trained again on fresh seeds (`search.confirm_seeds`). Area: the mean, over the stages of
the budget, of the normalised test score that would have been delivered after each (0: the base model, 1: the
best test score that any method reached on that task and seed). Difference: the final of {first} less that of
this method, and as a share of the latter. P: the probability that a run of {first} ends above one of this
method. p: Wilcoxon's signed-rank test on the same seeds, corrected by Holm. Saved: the share of device
seconds that early stopping saved. docs/comparison.md explains.
"""


TRANSFER = """\
# Transfer

Gain in test score of each strategy over the practitioner's configuration trained for the same compute: mean ±
standard error over seeds, and the p-value of Student's paired test.
"""


def comparison_table(comparison: dict[str, Any]) -> str:
    """Return `comparison.md` of the content of `comparison.json`."""
    first = comparison["methods"][0]
    methods, tasks, seeds = (len(comparison[name]) for name in ("methods", "tasks", "seeds"))
    parts = [
        f"# Comparison\n\n{methods} methods, {tasks} tasks, {seeds} seeds.\n",
        NOTES.format(first=first),
    ]
    if comparison["overall"]:
        incomplete = [task for task in comparison["tasks"] if task not in comparison["complete_tasks"]]
        without = f" Without {', '.join(incomplete)}, where not all methods have a finished search."
        parts += [
            f"## All tasks\n\nFinal scores are normalised here.{without if incomplete else ''}\n",
            _methods(comparison["overall"], first),
        ]
    for task in comparison["tasks"]:
        parts += [
            f"## {task}\n\nUp to {comparison['budget_stages'][task]} stages a search.\n",
            _methods(comparison["per_task"][task], first),
        ]
    return "\n".join([*parts, *_left_out(comparison)])


def _methods(entries: dict[str, Entry], first: str) -> str:
    columns: dict[str, Callable[[str, Entry], str]] = {
        "method": lambda name, entry: name,
        "runs": lambda name, entry: str(entry["runs"]),
        "final": lambda name, entry: _interval(entry["final"]),
        "confirmed": lambda name, entry: _interval(entry["confirmed"]) if entry["confirmed"] else "-",
        "IQM": lambda name, entry: _interval(entry["final_iqm"]),
        "area": lambda name, entry: _interval(entry["area"]),
        "rank": lambda name, entry: "-" if entry["rank"] is None else f"{entry['rank']:.2f}",
        "difference": lambda name, entry: _difference(entry) if entry["against"] else "",
        f"P({first} better)": lambda name, entry: (
            _interval(entry["against"]["improvement"]) if entry["against"] else ""
        ),
        "p": lambda name, entry: f"{entry['against']['p_holm']:.2g}" if entry["against"] else "",
        "FLOPs": lambda name, entry: "?" if entry["flops"] is None else f"{entry['flops']:.2e}",
        "device s": lambda name, entry: f"{entry['gpu_seconds']:.0f}",
        "saved": lambda name, entry: f"{entry['stopper']['saved_share']:.1%}",
        "false kills": lambda name, entry: f"{entry['stopper']['false_kills']}/{entry['stopper']['audited']}",
        "calls": lambda name, entry: f"{entry['llm']['calls']:.1f}",
        "tokens": lambda name, entry: f"{entry['llm']['tokens']:.0f}",
        "dollars": lambda name, entry: f"{entry['llm']['dollars']:.2f}",
    }
    return markdown(
        list(columns), [[text(name, entry) for text in columns.values()] for name, entry in entries.items()]
    )


def transfer_table(transfer: dict[str, Any]) -> str:
    """Return `transfer.md` of the content of `transfer.json`."""
    rows = [
        [name, *(_gain(transfer["gains"][task][name]) for task in transfer["tasks"])]
        for name in transfer["strategies"]
    ]
    table = markdown(["strategy", *transfer["tasks"]], rows)
    return "\n".join([TRANSFER, table, *_left_out(transfer)])


def _left_out(summary: dict[str, Any]) -> list[str]:
    titles = {
        "unfinished": "Left out, as they have not finished",
        FAILED: "Baselines that failed: left out, and tried again by the next run of the same command",
    }
    parts = []
    for key, title in titles.items():
        if summary.get(key):
            parts += [f"## {title}\n", "".join(f"- {visible_line(line)}\n" for line in summary[key])]
    return parts


def _gain(gain: Entry) -> str:
    if gain["mean"] is None:
        return FAILED if gain.get(FAILED) else "-"
    error = f" ± {gain['stderr']:.3f}" if gain["stderr"] is not None else ""
    return f"{gain['mean']:+.3f}{error}" + (f" (p = {gain['p']:.2g})" if gain["p"] is not None else "")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right.

    Cells are text: none can end its row, or become a link or a tag.
    """
    lines = [[_cell(cell) for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---", *("---:" for _ in head[1:])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"[\\|<]|(?<=])\(", r"\\\g<0>", visible_line(text))


def _difference(entry: Entry) -> str:
    apart, final = entry["against"]["difference"], entry["final"]["value"]
    share = f" ({apart['value'] / final:+.0%})" if final > 0 else ""
    return f"{apart['value']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}]{share}"


def _interval(interval: Entry) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
