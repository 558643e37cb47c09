"""Writes a page about a study as one HTML file: `python -m analysis.report --help`."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from analysis import calibration, compare, dynamics, dynamics_text, scaling, stopping, transfer
from analysis.commands import add_null_option, search_parser
from analysis.curves import best_searches, with_method_names
from analysis.figures import draw, save_all
from analysis.load import load_ended
from analysis.paths import path_of
from analysis.tables import Tables
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import write_atomic
from llmzero.core.settings import path_argument
from llmzero.core.text import visible
from llmzero.studies.figures import NO_MATH
from llmzero.studies.tables import comparison_table, transfer_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "test_over_compute": (
        "Test score of what each method would have delivered, over compute; bands: 95 % over searches."
    ),
    "test_over_cost": "The same over device seconds.",
    "best_over_compute": "Best validation score over compute; bands: 95 % over searches.",
    "best_so_far": "Best validation score over stages; bands: 95 % over searches.",
    "scaling": "Test scores over models; bars: standard errors over searches.",
    "strategies": (
        "The best strategy of each task: its scores, and where each hyperparameter stands along it."
    ),
    "tree": "The tree that the best strategy of each task stands in; the best path is bold.",
}
SEARCH_COLUMNS = {
    "task": "task",
    "name": "method",
    "model": "model",
    "seed": "seed",
    "state": "state",
    "stages": "stages",
    "flops": "FLOPs",
    "gpu_seconds": "device s",
    "llm_calls": "calls",
    "llm_dollars": "dollars",
    "base_score": "base, val",
    "best_score": "best, val",
    "test_practitioner": "practitioner, test",
    "test_constant": "best constant, test",
    "test_best": "best, test",
    "search": "directory",
}

HELP = """\
Write a page about a study: how the methods compare, the best strategies with their agents' words, whether
capacity grows and regularization oscillates, what was spent and what early stopping saved, which diagnoses
paid off. The page needs no network.

--out gets report.html, and each figure as PDF and PNG.
"""
EXAMPLES = """\
examples:
  python -m analysis.report runs/nano --out figures
  python -m analysis.report runs/* --null runs/blind --title "Two tasks" --out figures
"""


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        body: its text as HTML.
        figures: their captions (`says`) and data URLs (`source`).
        folded: whether the text is shown on a click only.
    """

    key: str
    title: str
    body: Markup = field(default_factory=Markup)
    figures: Sequence[dict[str, str]] = ()
    folded: bool = False


def page(tables: Tables, nulls: Tables | None, title: str, figures: dict[str, Figure]) -> str:
    """Return the page as HTML without scripts; text that comes from a search never becomes markup.

    Args:
        tables: the searches of the study.
        nulls: searches that the claim about dynamics has to beat.
        title: of the page.
        figures: as `draw` returns them.
    """
    claim = dynamics.analyse(tables, nulls)
    searches = with_method_names(tables.searches)
    counts = (
        (len(searches), "searches"),
        (searches["task"].nunique(), "tasks"),
        (searches["name"].nunique(), "methods"),
        (len(tables.stages), "stages"),
    )
    sections = _sections(tables, claim, figures)
    rows = searches[list(SEARCH_COLUMNS)].itertuples(index=False)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        facts=", ".join(f"{count} {noun}" for count, noun in counts),
        verdict=f"Capacity grows while regularization oscillates: {claim['verdict']}.",
        sections=[section for section in sections if section.body or section.figures],
        strategies=[_strategy(tables, task, search) for task, search in best_searches(tables.searches)],
        search_columns=list(SEARCH_COLUMNS.values()),
        searches=[[_cell(value) for value in row] for row in rows],
    )


def _sections(tables: Tables, claim: dict[str, Any], figures: dict[str, Figure]) -> list[Section]:
    def pictures(*names: str) -> list[dict[str, str]]:
        return [
            {"says": CAPTIONS[name], "source": _data_url(figures[name])} for name in names if name in figures
        ]

    replayed = (tables.searches["method"] == compare.REPLAY).any()
    return [
        Section(
            "methods",
            "Methods",
            _html(lambda: comparison_table(compare.compare(tables))),
            pictures("test_over_compute", "test_over_cost"),
        ),
        Section("progress", "Progress", figures=pictures("best_over_compute", "best_so_far")),
        Section(
            "models",
            "Models",
            _html(lambda: scaling.as_markdown(scaling.scores_by_model(tables))),
            pictures("scaling"),
        ),
        Section(
            "transfer",
            "Transfer",
            _html(lambda: transfer_table(transfer.transfer_matrix(tables))) if replayed else Markup(),
        ),
        Section("paths", "Paths", figures=pictures("strategies", "tree")),
        Section("dynamics", "Dynamics", _html(lambda: dynamics_text.as_markdown(claim))),
        Section("stopping", "Early stopping", _html(lambda: stopping.as_markdown(stopping.stopping(tables)))),
        Section(
            "calibration",
            "Proposals",
            _html(lambda: calibration.as_markdown(calibration.calibration(tables))),
            folded=True,
        ),
    ]


def _html(markdown: Callable[[], str]) -> Markup:
    """Return Markdown as HTML, where tags in it stay text; where it cannot be made, return the reason."""
    try:
        lines = [line for line in markdown().splitlines() if not line.startswith("# ")]
    except UserError as error:
        return escape(f"Left out: {error}.")
    renderer = MarkdownIt("js-default", {"linkify": False}).disable(["image", "link", "autolink"])
    return Markup(renderer.render("\n".join(lines)))


def _data_url(figure: Figure) -> str:
    buffer = io.BytesIO()
    with mpl.rc_context(NO_MATH):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _strategy(tables: Tables, task: str, search: pd.Series[Any]) -> dict[str, Any]:
    """Return what the template shows of a search's best path."""
    own = tables.of([search["search"]])
    stages = own.stages.set_index("node")
    path = path_of(own.stages, search["best_node"])[1:]
    return {
        "name": search["name"],
        "seed": search["seed"],
        "task": task,
        "score": _cell(search["best_score"]),
        "stages": [_stage(stages.loc[node], node, own.changes) for node in path],
    }


def _stage(stage: pd.Series[Any], node: str, changes: pd.DataFrame) -> dict[str, Any]:
    own = changes[changes["node"] == node]
    return {
        "node": node,
        **{key: _cell(stage[key]) for key in ("depth", "score", "diagnosis", "rationale")},
        "changes": [
            f"{name}: {before} → {after}"
            for name, before, after in zip(own["parameter"], own["before"], own["after"], strict=True)
        ],
    }


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else visible(value)


def main() -> None:
    """Write the page and the figures."""
    parser = search_parser("report", HELP, EXAMPLES)
    add_null_option(parser, "searches of a proposer that dynamics have to beat")
    parser.add_argument("--title", default="Searches compared", help="of the page")
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="DIR", help="where report.html and the figures go"
    )
    arguments = parser.parse_args()
    tables = load_ended(arguments.directories)
    nulls = load_ended(arguments.null) if arguments.null else None
    figures = draw(tables)
    save_all(figures, arguments.out)
    file = arguments.out / "report.html"
    write_atomic(file, page(tables, nulls, arguments.title, figures))
    print(f"{file}, with {', '.join(figures)} as PDF and PNG beside it")


if __name__ == "__main__":
    run_command(main)
