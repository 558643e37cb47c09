"""What strategies are worth on models of several sizes: `python -m analysis.scaling --help`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.curves import named
from analysis.load import Tables, load, parser_of
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import write_atomic
from llmzero.studies.tables import markdown

SCORES = {"test_base": "base", "test_practitioner": "practitioner", "test_best": "best strategy"}

HELP = """\
Test scores of the base model, the practitioner's configuration and the best strategy, for each task, method and model: mean and
standard error over searches, the gain over the practitioner, and how much of the base model's score it is.
"""
EXAMPLES = """\
examples:
  python -m analysis.scaling runs/qwen3_0_6b runs/qwen3_1_7b runs/qwen3_4b --out scaling
"""


def scaled(tables: Tables) -> pd.DataFrame:
    """Return a row for each task, method and model.

    Raises:
        UserError: no search has test scores.
    """
    searches = named(tables.searches).dropna(subset=["test_base", "test_best"])
    if searches.empty:
        raise UserError("no search with test scores; a search that has finished has them")
    measured = searches.assign(model=searches["model"].fillna("no model")).astype(
        dict.fromkeys(SCORES, float)
    )
    measured["gain"] = measured["test_best"] - measured["test_practitioner"]
    measured["relative"] = measured["test_best"] / measured["test_base"] - 1
    groups = measured.groupby(["task", "name", "model"], sort=False)[[*SCORES, "gain", "relative"]]
    return groups.agg(["mean", "sem", "count"]).reset_index()


def told(table: pd.DataFrame) -> str:
    """Return the rows for people."""
    head = ["task", "method", "model", "searches", *SCORES.values(), "gain over practitioner", "over base"]
    rows = [
        [
            *(str(row[key, ""]) for key in ("task", "name", "model")),
            str(row["test_best", "count"]),
            *(_number(row, name) for name in (*SCORES, "gain")),
            f"{row['relative', 'mean']:+.0%}",
        ]
        for _, row in table.iterrows()
    ]
    return markdown(head, rows)


def _number(row: pd.Series, name: str) -> str:
    if not row[name, "count"]:
        return "-"
    return f"{row[name, 'mean']:.3f}" + (f" ± {row[name, 'sem']:.3f}" if row[name, "count"] > 1 else "")


def main() -> None:
    """Print the table, and write it."""
    parser = parser_of("scaling", HELP, EXAMPLES)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where scaling.csv and scaling.md go")
    given = parser.parse_args()
    table = scaled(load(given.directories))
    print(told(table))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        table.set_axis(["_".join(filter(None, column)) for column in table.columns], axis=1).to_csv(
            given.out / "scaling.csv", index=False
        )
        write_atomic(given.out / "scaling.md", told(table))


if __name__ == "__main__":
    run_command(main)
