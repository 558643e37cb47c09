"""A study on one self-contained page: `python -m analysis.report --help`."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from analysis import calibration, compare, dynamics, scaling, stopping, transfer
from analysis.curves import named, path_of
from analysis.figures import draw, furthest, save_all
from analysis.load import Tables, load, parser_of
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import write_atomic
from llmzero.studies.tables import comparison_table, transfer_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "test_over_cost": "Test score of what each method would have delivered, over device seconds; bands: 95 % over searches.",
    "best_so_far": "Best validation score over stages; bands: 95 % over searches.",
    "scaling": "Test scores over models; bars: standard errors over searches.",
    "strategies": "The best strategy of each task: its scores, and where each hyperparameter stands along it.",
    "tree": "The tree that the best strategy of each task stands in; the best path is bold.",
}
SHOWN = {
    "task": "task",
    "name": "method",
    "model": "model",
    "seed": "seed",
    "state": "state",
    "stages": "stages",
    "gpu_seconds": "device s",
    "llm_calls": "calls",
    "llm_dollars": "dollars",
    "base_score": "base, val",
    "best_score": "best, val",
    "test_best": "best, test",
    "search": "directory",
}

HELP = """\
Write a page about a study: how the methods compare, the best strategies with their agents' words, whether capacity grows and
regularization oscillates, what was spent and what early stopping saved, which diagnoses paid off. The page needs no network.

--out gets report.html, and each figure as PDF and PNG.
"""
EXAMPLES = """\
examples:
  python -m analysis.report runs/nano --out figures
  python -m analysis.report runs/* --null runs/blind --title "Two tasks" --out figures
"""


@dataclass(frozen=True)
class Section:
    """A part of the page: figures, and a text that may be folded away."""

    key: str
    title: str
    body: Markup = field(default_factory=Markup)
    figures: Sequence[dict[str, str]] = ()
    folded: bool = False


def page(tables: Tables, nulls: Tables | None, title: str, figures: dict[str, Figure]) -> str:
    """Return the page. Whatever a search holds is shown as text: nothing of it becomes markup, and the page runs no script."""
    moved = dynamics.analysed(tables, nulls)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    searches = named(tables.searches)
    told = {
        "title": title,
        "facts": f"{len(searches)} searches, {searches['task'].nunique()} tasks, {searches['name'].nunique()} methods, {len(tables.stages)} stages",
        "verdict": f"Capacity grows while regularization oscillates: {moved['verdict']}.",
        "sections": [
            section for section in _sections(tables, moved, figures) if section.body or section.figures
        ],
        "strategies": [_strategy(tables, task, search) for task, search in furthest(tables.searches)],
        "search_columns": list(SHOWN.values()),
        "searches": [
            [_shown(value) for value in row] for row in searches[list(SHOWN)].itertuples(index=False)
        ],
    }
    return environment.get_template("report.html.jinja").render(told)


def _sections(tables: Tables, moved: dict[str, Any], figures: dict[str, Figure]) -> list[Section]:
    replayed = (tables.searches["method"] == compare.REPLAY).any()
    pictures = {
        name: [{"says": CAPTIONS[name], "source": _picture(figure)}] for name, figure in figures.items()
    }
    return [
        Section(
            "methods",
            "Methods",
            _formatted(lambda: comparison_table(compare.compared(tables))),
            pictures.get("test_over_cost", ()),
        ),
        Section("progress", "Progress", figures=pictures.get("best_so_far", ())),
        Section(
            "models",
            "Models",
            _formatted(lambda: scaling.told(scaling.scaled(tables))),
            pictures.get("scaling", ()),
        ),
        Section(
            "transfer",
            "Transfer",
            _formatted(lambda: transfer_table(transfer.transferred(tables))) if replayed else Markup(),
        ),
        Section("paths", "Paths", figures=[*pictures.get("strategies", ()), *pictures.get("tree", ())]),
        Section("dynamics", "Dynamics", _formatted(lambda: dynamics.told(moved))),
        Section("stopping", "Early stopping", _formatted(lambda: stopping.told(stopping.stopping(tables)))),
        Section(
            "calibration",
            "Proposals",
            _formatted(lambda: calibration.told(calibration.calibration(tables))),
            folded=True,
        ),
    ]


def _formatted(tell: Callable[[], str]) -> Markup:
    """Return Markdown as markup, where HTML in it stays text; where the searches do not tell it, why."""
    try:
        lines = [line for line in tell().splitlines() if not line.startswith("# ")]
    except UserError as error:
        return escape(f"Left out: {error}.")
    return Markup(
        MarkdownIt("js-default", {"linkify": False})
        .disable(["image", "link", "autolink"])
        .render("\n".join(lines))
    )


def _picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _strategy(tables: Tables, task: str, search: pd.Series[Any]) -> dict[str, Any]:
    """Return what the page tells of a search's best path."""
    own = tables.of([search["search"]])
    stages = own.stages.set_index("node")
    told = {key: search[key] for key in ("name", "seed")}
    path = path_of(own.stages, search["best_node"])[1:]
    return {
        **told,
        "task": task,
        "score": _shown(search["best_score"]),
        "stages": [_stage(stages.loc[node], node, own.changes) for node in path],
    }


def _stage(stage: pd.Series[Any], node: str, changes: pd.DataFrame) -> dict[str, Any]:
    own = changes[changes["node"] == node]
    words = {key: _shown(stage[key]) for key in ("depth", "score", "diagnosis", "rationale")}
    moves = [
        f"{name}: {before} → {after}"
        for name, before, after in zip(own["parameter"], own["before"], own["after"], strict=True)
    ]
    return {"node": node, **words, "changes": moves}


def _shown(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Write the page and the figures."""
    parser = parser_of("report", HELP, EXAMPLES)
    parser.add_argument(
        "--null",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIRECTORY",
        help="searches of a proposer that dynamics have to beat",
    )
    parser.add_argument("--title", default="Searches compared", help="of the page")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where report.html and the figures go"
    )
    given = parser.parse_args()
    tables = load(given.directories)
    figures = draw(tables)
    save_all(figures, given.out)
    write_atomic(
        given.out / "report.html",
        page(tables, load(given.null) if given.null else None, given.title, figures),
    )
    print(f"{given.out / 'report.html'}, with {', '.join(figures)} as PDF and PNG beside it")


if __name__ == "__main__":
    run_command(main)
