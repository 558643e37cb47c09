#!/usr/bin/env python
"""Compare search methods: `python launchers/compare.py study=simulator`.

The same command continues; docs/comparison.md explains.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llmzero.cli import launch
from llmzero.config import CompareConfig
from llmzero.search.settings import SearchConfig


def run(config: CompareConfig) -> None:
    """Run the searches that have not finished, and write what came out; exit code 1 where some failed."""
    from llmzero.studies.carry_out import carry_out
    from llmzero.studies.figures import comparison_figures
    from llmzero.studies.methods import check_budgets, compared
    from llmzero.studies.study import search_config, study_of
    from llmzero.studies.tables import comparison_table

    def compose_method(method: str, overrides: Sequence[str]) -> SearchConfig:
        return search_config(["search.test_incumbents=true", *overrides, *config.methods[method]])

    study = study_of(config, "methods", compose_method)
    check_budgets(study)
    sys.exit(carry_out(study, config, "comparison", compared, comparison_table, comparison_figures))


if __name__ == "__main__":
    launch("compare", CompareConfig, run)
