"""A study from its launcher to its tables: say what there is to do, do it, write what came out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmzero.config import StudyConfig
from llmzero.core.files import write_atomic, write_json
from llmzero.core.text import visible_line
from llmzero.studies.pool import run_study
from llmzero.studies.study import Study

FAILED = 1  # exit code


def carry_out(
    study: Study,
    config: StudyConfig,
    name: str,
    summarise: Callable[[Study], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    figures: Callable[[Path, dict[str, Any]], None],
) -> int:
    """Run the searches that have not finished, and write `name`.json, `name`.md and figures of what came out.

    Returns:
        the exit code: 1 where some failed. A dry run only says what there is to do.
    """
    print(describe_study(study), flush=True)
    if config.dry_run:
        return 0
    failed = run_study(study, config)
    summary, page = summarise(study), study.directory / f"{name}.md"
    write_json(page.with_suffix(".json"), summary)
    write_atomic(page, table(summary))
    figures(study.directory, summary)
    print(f"{name}: {page}")
    for cell in failed:
        print(visible_line(f"failed: {cell}"))
    return FAILED if failed else 0


def describe_study(study: Study) -> str:
    """Return what a study is, in a line."""
    done = len(study.cells) - len(study.unfinished)
    shape = f"{len(study.rows)} x {len(study.tasks)} tasks x {len(study.seeds)} seeds"
    limits = [cell.config.budget.stages for cell in study.cells if cell.config.budget.stages is not None]
    stages = f" of up to {sum(limits)} stages" if len(limits) == len(study.cells) else ""
    return (
        f"study {study.directory}: {', '.join(study.rows)}: {shape} = {len(study.cells)} searches{stages}, "
        f"{done} of them finished"
    )
