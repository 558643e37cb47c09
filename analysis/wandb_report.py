"""Writes a Weights & Biases Report of searches: `python -m analysis.wandb_report runs/a --print`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr

from analysis.commands import command_parser
from analysis.sync import searches_in
from analysis.wandb_report_text import as_text
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import read_json
from llmzero.core.metrics import listed, metric_catalogue
from llmzero.core.settings import path_argument
from llmzero.mirrors.tracking.names import search_uid
from llmzero.mirrors.tracking.settings import require_name
from llmzero.studies.tables import markdown
from llmzero.tree.workspace import Workspace, read_config

HELP = """\
Write a W&B Report of a search, or of several as those of a study: what came out, the tree, curves of all
stages. It shows the runs that tracking or analysis.sync put into the project; the numbers in its text come
from the directories.
"""
EXAMPLES = """\
examples:
  python -m analysis.wandb_report runs/countdown --print
  WANDB_API_KEY=... python -m analysis.wandb_report runs/study --entity lab
"""
CURVES = 5  # metrics that are drawn: with the score they fill two rows of three
WIDTH, HEIGHT = 24, 8  # of a report and of a row of panels, in units of the report's grid


COLUMNS = (
    *("search", "method", "agent", "seed", "stages", "GPU seconds"),
    *("base", "best", "practitioner, test", "best, test"),
)


@dataclass(frozen=True)
class Search:
    """A search directory, as far as a report needs it."""

    directory: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the search."""
        return read_config(Workspace(self.directory).config_file)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The summary of the search.

        Raises:
            UserError: there is none, or it has no best stage.
        """
        file = Workspace(self.directory).summary_file
        summary = read_json(file)
        if summary is None or summary["best"] is None:
            raise UserError(f"{file}: names no best stage yet; wait until a stage of this search has ended")
        return summary

    @cached_property
    def uid(self) -> str:
        """The value of `search_uid` in the configuration of its W&B runs."""
        return search_uid(self.directory.resolve())

    @property
    def project(self) -> str:
        """The W&B project that the search is tracked in."""
        return str(self.config["tracking"].get("project", "llmzero"))

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """The stages of the best path; none where no stage beat the base model."""
        file = Workspace(self.directory).strategy_file
        stages: list[dict[str, Any]] = read_config(file)["stages"] if file.exists() else []
        return stages

    def row(self) -> list[Any]:
        """Return the search's row in a table with the columns `COLUMNS`."""
        summary, test = self.summary, self.summary["test"] or {}
        return [
            str(self.directory),
            summary["method"],
            summary["agent"],
            self.config["seed"],
            summary["budget"]["stages"],
            summary["budget"]["gpu_seconds"],
            summary["base_score"],
            summary["best"]["score"],
            *(test[name]["score"] if test.get(name) else None for name in ("practitioner", "best")),
        ]


def report_of(searches: Sequence[Search], project: str, entity: str, title: str) -> wr.Report:
    """Return a report without sending it: one search with its tree and stages, or several side by side."""
    blocks = [wr.MarkdownBlock(_table(COLUMNS, [search.row() for search in searches]))]
    blocks += _one_search(searches[0]) if len(searches) == 1 else _many_searches(searches)
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")


def _one_search(search: Search) -> Iterator[Any]:
    tree = [
        wr.MediaBrowser(
            title="The tree",
            media_keys=["tree"],
            num_columns=1,
            layout=wr.Layout(0, HEIGHT, WIDTH, 2 * HEIGHT),
        ),
        wr.WeavePanelSummaryTable(table_name="nodes", layout=wr.Layout(0, 3 * HEIGHT, WIDTH, HEIGHT)),
    ]
    yield wr.H2(text="The search")
    yield wr.PanelGrid(runsets=[_runs("the search", [search], "search")], panels=[*_progress(), *tree])

    rows = [
        [
            stage["node_id"],
            stage["steps"],
            ", ".join(stage["diagnosis"]),
            ", ".join(f"{name}={value}" for name, value in stage["changes"].items()),
            stage["score"],
        ]
        for stage in search.stages
    ]
    path = expr.Config("node_id").isin(search.summary["best"]["path"])
    yield wr.H2(text="The best path")
    yield wr.MarkdownBlock(text=_table(("stage", "steps", "diagnosis", "changes", "score"), rows))
    yield wr.PanelGrid(runsets=[_runs("the best path", [search], "stage", path)], panels=_curves(search))

    changed = sorted({name for stage in search.stages for name in stage["changes"]})
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(f"hparams.{name}")) for name in changed]
    score = wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("best_score"))
    parameters = wr.ParallelCoordinatesPlot(
        title="Score by parameters", columns=[*columns, score], layout=wr.Layout(0, 2 * HEIGHT, WIDTH, HEIGHT)
    )
    yield wr.H2(text="All stages")
    yield wr.PanelGrid(runsets=[_runs("stages", [search], "stage")], panels=[*_curves(search), parameters])


def _many_searches(searches: Sequence[Search]) -> Iterator[Any]:
    runs = _runs("searches", searches, "search")
    runs.groupby = ["config.method"]
    best = wr.BarPlot(
        title="Best score on validation", metrics=["best_score"], layout=wr.Layout(0, HEIGHT, WIDTH, HEIGHT)
    )
    yield wr.H2(text="The searches by method")
    yield wr.PanelGrid(runsets=[runs], panels=[*_progress(), best])
    yield wr.H2(text="Their stages")
    yield wr.PanelGrid(runsets=[_runs("stages", searches, "stage")], panels=_curves(searches[0]))


def _runs(name: str, searches: Sequence[Search], kind: str, *filters: Any) -> wr.Runset:
    """Return the runs of these searches that are of a kind, `search` or `stage`, and pass further filters."""
    own = expr.Config("search_uid").isin([search.uid for search in searches])
    return wr.Runset(name=name, filters=[own, expr.Metric("JobType") == kind, *filters])


def _progress() -> list[Any]:
    """Return two line plots side by side in the first row."""
    return [
        wr.LinePlot(
            title=f"Best so far over {x}", x=x, y=["best"], layout=wr.Layout(left, 0, WIDTH // 2, HEIGHT)
        )
        for x, left in (("stages", 0), ("gpu_seconds", WIDTH // 2))
    ]


def _curves(search: Search) -> list[Any]:
    """Return line plots of the score and the first metrics of the search's own report, three in a row."""
    metrics = metric_catalogue(search.config["metrics"]["metrics"])
    names = ["val/score", *(f"train/{name}" for name in listed(metrics.values(), "report")[:CURVES])]
    width = WIDTH // 3
    return [
        wr.LinePlot(
            title=name,
            x="global_step",
            y=[name],
            layout=wr.Layout(i % 3 * width, i // 3 * HEIGHT, width, HEIGHT),
        )
        for i, name in enumerate(names)
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown; None is an empty cell."""

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return markdown(columns, [[cell(value) for value in row] for row in rows])


def save(searches: Sequence[Search], project: str, entity: str | None, title: str) -> wr.Report:
    """Send a report to W&B, and return it.

    Raises:
        UserError: W&B does not take it.
    """
    import wandb

    try:
        return report_of(searches, project, entity or wandb.Api().default_entity, title).save()
    except Exception as error:  # the client raises errors of many classes
        raise UserError(
            f"the report cannot be saved ({error}); "
            "check --project, --entity, WANDB_API_KEY and WANDB_BASE_URL"
        ) from error


def main() -> None:
    """Send a report of the searches on the command line, or print it."""
    parser = command_parser("wandb_report", HELP, EXAMPLES)
    parser.add_argument(
        "directories",
        nargs="+",
        type=path_argument,
        metavar="DIRECTORY",
        help="a search, or a folder of searches",
    )
    parser.add_argument("--project", help="default: that of the searches' configuration")
    parser.add_argument("--entity", help="default: the account's own")
    parser.add_argument("--title")
    parser.add_argument("--print", action="store_true", help="print the report as text; needs no server")
    arguments = parser.parse_args()
    searches = [Search(directory) for directory in searches_in(arguments.directories)]
    title = arguments.title or ", ".join(directory.resolve().name for directory in arguments.directories)
    project = arguments.project or searches[0].project
    require_name("--project", project)
    if arguments.print:
        print(as_text(report_of(searches, project, arguments.entity or "", title)))
    else:
        print(save(searches, project, arguments.entity, title).url)


if __name__ == "__main__":
    run_command(main)
