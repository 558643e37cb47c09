"""What strategies are worth on models of several sizes: `python -m analysis.scaling --help`."""

from __future__ import annotations

import pandas as pd

from analysis.commands import search_parser
from analysis.curves import with_method_names
from analysis.load import load
from analysis.tables import Tables
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import write_atomic
from llmzero.core.settings import path_argument
from llmzero.studies.tables import markdown

SCORES = {
    "test_base": "base",
    "test_practitioner": "practitioner",
    "test_constant": "best constant",
    "test_best": "best strategy",
}

HELP = """\
Test scores of the base model, the practitioner's configuration and the best strategy, for each task, method
and model: mean and standard error over searches, the gain over the practitioner, and how much of the base
model's score it is.
"""
EXAMPLES = """\
examples:
  python -m analysis.scaling runs/qwen3_0_6b runs/qwen3_1_7b runs/qwen3_4b --out scaling
"""


def scores_by_model(tables: Tables) -> pd.DataFrame:
    """Return a row for each task, method and model, with columns (score, statistic).

    Raises:
        UserError: no search has test scores.
    """
    searches = with_method_names(tables.searches).dropna(subset=["test_base", "test_best"])
    if searches.empty:
        raise UserError("no search with test scores; a search that has finished has them")
    measured = searches.assign(model=searches["model"].fillna("no model"))
    measured = measured.astype(dict.fromkeys(SCORES, float))
    measured["gain"] = measured["test_best"] - measured["test_practitioner"]
    measured["relative"] = measured["test_best"] / measured["test_base"] - 1
    groups = measured.groupby(["task", "name", "model"], sort=False)[[*SCORES, "gain", "relative"]]
    return groups.agg(["mean", "sem", "count"]).reset_index()


def as_markdown(table: pd.DataFrame) -> str:
    """Return `scaling.md`."""
    head = ["task", "method", "model", "searches", *SCORES.values(), "gain over practitioner", "over base"]
    rows = []
    for _, row in table.iterrows():
        cells = [*(row[key, ""] for key in ("task", "name", "model")), str(row["test_best", "count"])]
        for name in (*SCORES, "gain"):
            text = f"{row[name, 'mean']:.3f}" if row[name, "count"] else "-"
            cells.append(text + (f" ± {row[name, 'sem']:.3f}" if row[name, "count"] > 1 else ""))
        rows.append([*map(str, cells), f"{row['relative', 'mean']:+.0%}"])
    return markdown(head, rows)


def main() -> None:
    """Print the table, and write it where --out says."""
    parser = search_parser("scaling", HELP, EXAMPLES)
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="where scaling.csv and scaling.md go"
    )
    arguments = parser.parse_args()
    table = scores_by_model(load(arguments.directories))
    text = as_markdown(table)
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        plain = table.set_axis(["_".join(filter(None, column)) for column in table.columns], axis=1)
        plain.to_csv(arguments.out / "scaling.csv", index=False)
        write_atomic(arguments.out / "scaling.md", text)


if __name__ == "__main__":
    run_command(main)
