#!/usr/bin/env python
"""Compare search methods: `python launchers/compare.py study=simulator`. The same command continues; docs/comparison.md explains."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from llmzero.cli import launch


def run(config: dict[str, Any]) -> None:
    """Run the searches that have not finished, and write what came out; exit code 1 where some failed."""
    from llmzero.comparison.figures import comparison_figures
    from llmzero.comparison.methods import check_budgets, compared
    from llmzero.comparison.tables import comparison_table
    from llmzero.files import write_atomic, write_json
    from llmzero.pool import describe_study, exit_code, run_study
    from llmzero.study import search_config, study_of

    def compose_method(method: str, overrides: Sequence[str]) -> dict[str, Any]:
        return search_config(["search.test_incumbents=true", *overrides, *config["methods"][method]])

    study = study_of(config, "methods", compose_method)
    check_budgets(study)
    print(describe_study(study), flush=True)
    if config["dry_run"]:
        return
    failed = run_study(study, config)
    found = compared(study)
    write_json(study.directory / "comparison.json", found)
    write_atomic(study.directory / "comparison.md", comparison_table(found))
    comparison_figures(study.directory, found)
    print(f"comparison: {study.directory / 'comparison.md'}")
    sys.exit(exit_code(failed))


if __name__ == "__main__":
    launch("compare", run)
