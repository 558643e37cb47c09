"""A Weights & Biases Report of a search or a study: `python -m analysis.wandb_report runs/a --print`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr

from analysis.load import command
from analysis.sync import searches_in
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import read_json
from llmzero.mirrors.tracking.names import search_uid
from llmzero.studies.tables import markdown
from llmzero.tree.workspace import Workspace, read_config

HELP = """\
Write a W&B Report of a search, or of several as those of a study: what came out, the tree, curves of all stages. It shows the runs that
tracking or analysis.sync put into the project; the numbers in its text come from the directories.
"""
EXAMPLES = """\
examples:
  python -m analysis.wandb_report runs/countdown --print
  WANDB_API_KEY=... python -m analysis.wandb_report runs/study --entity lab
"""
CURVES = ("train/reward_mean", "train/entropy", "train/kl", "train/grad_norm", "train/completion_length_mean")
WIDTH = 24  # of a report, in units of its grid
HEIGHT = 8


@dataclass(frozen=True)
class Search:
    """What a report tells of a search."""

    directory: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration."""
        return read_config(Workspace(self.directory).config_file)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Its summary.

        Raises:
            UserError: it has none.
        """
        file = Workspace(self.directory).summary_file
        summary = read_json(file)
        if summary is None or summary["best"] is None:
            raise UserError(f"{file}: names no best stage yet; wait until a stage of this search has ended")
        return summary

    @cached_property
    def uid(self) -> str:
        """What its runs are called by, in their configuration."""
        return search_uid(self.directory.resolve())

    @property
    def project(self) -> str:
        """The W&B project that it is tracked in."""
        return str(self.config["tracking"].get("project", "llmzero"))

    def row(self) -> list[Any]:
        """Return its line in a table; the columns are `ROW`."""
        summary, test = self.summary, self.summary["test"] or {}
        tested = [test[name]["score"] if test.get(name) else None for name in ("practitioner", "best")]
        spent = summary["budget"]
        scores = [summary["base_score"], summary["best"]["score"], *tested]
        return [
            str(self.directory),
            summary["method"],
            summary["agent"],
            self.config["seed"],
            spent["stages"],
            spent["gpu_seconds"],
            *scores,
        ]


ROW = (
    "search",
    "method",
    "agent",
    "seed",
    "stages",
    "GPU seconds",
    "base",
    "best",
    "practitioner, test",
    "best, test",
)


def report_of(searches: Sequence[Search], project: str, entity: str, title: str) -> wr.Report:
    """Return a report, which nothing has been sent of: of one search with its tree and stages, of several side by side."""
    blocks = [wr.MarkdownBlock(_table(ROW, [search.row() for search in searches]))]
    blocks += _one(searches[0]) if len(searches) == 1 else _many(searches)
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")


def _one(search: Search) -> Iterator[Any]:
    path = expr.Config("node_id").isin(search.summary["best"]["path"])
    yield wr.H2(text="The search")
    yield wr.PanelGrid(
        runsets=[_runs("the search", [search], "search")], panels=[*_progress(), *_tree(top=HEIGHT)]
    )
    yield wr.H2(text="The best path")
    yield wr.MarkdownBlock(text=_strategy(search))
    yield wr.PanelGrid(runsets=[_runs("the best path", [search], "stage", path)], panels=_curves())
    yield wr.H2(text="All stages")
    yield wr.PanelGrid(
        runsets=[_runs("stages", [search], "stage")], panels=[*_curves(), *_hparams(search, top=2 * HEIGHT)]
    )


def _many(searches: Sequence[Search]) -> Iterator[Any]:
    runs = _runs("searches", searches, "search")
    runs.groupby = ["config.method"]
    best = wr.BarPlot(
        title="Best score on validation", metrics=["best_score"], layout=wr.Layout(0, HEIGHT, WIDTH, HEIGHT)
    )
    yield wr.H2(text="The searches by method")
    yield wr.PanelGrid(runsets=[runs], panels=[*_progress(), best])
    yield wr.H2(text="Their stages")
    yield wr.PanelGrid(runsets=[_runs("stages", searches, "stage")], panels=_curves())


def _runs(name: str, searches: Sequence[Search], kind: str, *others: Any) -> wr.Runset:
    """Return the runs of searches that are of a kind, and pass other filters."""
    return wr.Runset(
        name=name,
        filters=[
            expr.Config("search_uid").isin([search.uid for search in searches]),
            expr.Metric("JobType") == kind,
            *others,
        ],
    )


def _progress() -> list[Any]:
    axes = ("stages", "gpu_seconds")
    places = [wr.Layout(i * WIDTH // 2, 0, WIDTH // 2, HEIGHT) for i in range(2)]
    return [
        wr.LinePlot(title=f"Best so far over {x}", x=x, y=["best"], layout=place)
        for x, place in zip(axes, places, strict=True)
    ]


def _tree(top: int) -> list[Any]:
    page = wr.MediaBrowser(
        title="The tree", media_keys=["tree"], num_columns=1, layout=wr.Layout(0, top, WIDTH, 2 * HEIGHT)
    )
    return [
        page,
        wr.WeavePanelSummaryTable(table_name="nodes", layout=wr.Layout(0, top + 2 * HEIGHT, WIDTH, HEIGHT)),
    ]


def _curves() -> list[Any]:
    names, width = ("val/score", *CURVES), WIDTH // 3
    places = [wr.Layout(i % 3 * width, i // 3 * HEIGHT, width, HEIGHT) for i in range(len(names))]
    return [
        wr.LinePlot(title=name, x="global_step", y=[name], layout=place)
        for name, place in zip(names, places, strict=True)
    ]


def _hparams(search: Search, top: int) -> list[Any]:
    """Return how a stage's score goes with the parameters that the best path changed."""
    changed = sorted({name for stage in _stages(search) for name in stage["changes"]})
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(f"hparams.{name}")) for name in changed]
    score = wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("best_score"))
    return [
        wr.ParallelCoordinatesPlot(
            title="Score by parameters", columns=[*columns, score], layout=wr.Layout(0, top, WIDTH, HEIGHT)
        )
    ]


def _stages(search: Search) -> list[dict[str, Any]]:
    file = Workspace(search.directory).strategy_file
    stages: list[dict[str, Any]] = (
        read_config(file)["stages"] if file.exists() else []
    )  # there is none where no stage beat the base model
    return stages


def _strategy(search: Search) -> str:
    rows = [
        [s["node_id"], s["steps"], ", ".join(s["diagnosis"]), _changes(s["changes"]), s["score"]]
        for s in _stages(search)
    ]
    return _table(("stage", "steps", "diagnosis", "changes", "score"), rows)


def _changes(changes: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items())


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    return markdown(columns, [[_cell(value) for value in line] for line in rows])


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def as_text(report: wr.Report) -> str:
    """Return what a report says and which panels of which runs it has."""
    return "\n\n".join([f"# {report.title}", *(_block_text(block) for block in report.blocks)])


def _block_text(block: Any) -> str:
    if isinstance(block, wr.PanelGrid):
        runs = [
            f"runs: {runset.name}, where {runset.filters}"
            + f", by {', '.join(runset.groupby)}" * bool(runset.groupby)
            for runset in block.runsets
        ]
        return "\n".join([*runs, *(f"- {_panel_text(panel)}" for panel in block.panels)])
    return f"## {block.text}" if isinstance(block, wr.H2) else str(block.text)


def _panel_text(panel: Any) -> str:
    kind = type(panel).__name__
    if isinstance(panel, wr.LinePlot):
        return f"{kind}: {', '.join(map(str, panel.y))} over {panel.x}"
    if isinstance(panel, wr.ParallelCoordinatesPlot):
        return f"{kind}: {', '.join(column.metric.name for column in panel.columns)}"
    shown = {wr.BarPlot: "metrics", wr.MediaBrowser: "media_keys", wr.WeavePanelSummaryTable: "table_name"}[
        type(panel)
    ]
    named = getattr(panel, shown)
    return f"{kind}: {named if isinstance(named, str) else ', '.join(map(str, named))}"


def saved(searches: Sequence[Search], project: str, entity: str | None, title: str) -> wr.Report:
    """Send a report to W&B, and return it.

    Raises:
        UserError: W&B does not take it.
    """
    import wandb

    try:
        return report_of(searches, project, entity or wandb.Api().default_entity, title).save()
    except Exception as error:  # the client's are of many classes
        raise UserError(
            f"the report cannot be saved ({error}); check --project, --entity, WANDB_API_KEY and WANDB_BASE_URL"
        ) from error


def main() -> None:
    """Write a report of the searches given, or print it."""
    parser = command("wandb_report", HELP, EXAMPLES)
    parser.add_argument(
        "directories", nargs="+", type=Path, metavar="DIRECTORY", help="a search, or a folder of searches"
    )
    parser.add_argument("--project", help="default: that of the searches' configuration")
    parser.add_argument("--entity", help="default: the account's own")
    parser.add_argument("--title")
    parser.add_argument("--print", action="store_true", help="print the report as text; needs no server")
    given = parser.parse_args()
    searches = [Search(directory) for directory in searches_in(given.directories)]
    title = given.title or ", ".join(directory.resolve().name for directory in given.directories)
    project = given.project or searches[0].project
    if given.print:
        print(as_text(report_of(searches, project, given.entity or "", title)))
        return
    print(saved(searches, project, given.entity, title).url)


if __name__ == "__main__":
    run_command(main)
