"""The description of a search that agents get."""

from __future__ import annotations

from llmzero.agents.text import one_line
from llmzero.core.parts import about
from llmzero.runners.tables.format import settings_of_table
from llmzero.search.settings import SearchConfig

NOT_SHOWN = ("_target_", "cache_dir", "test_size", "seed")  # useless to an agent, or about the test split
RULES_LIMIT = 800  # characters of what a task says of itself


def briefing(config: SearchConfig, *, asks_model: bool = False) -> dict[str, str]:
    """Return in a few words what is trained and how: task, model, objective, and the shape of the search.

    Where a language model is asked, a task's own words are among them; its module is imported for that.
    """
    search, parts = config.search, {}
    for name, group in (("task", config.task), ("model", config.model), ("algorithm", config.algorithm)):
        group = group or {}
        words = [str(group.get("_target_") or "").rsplit(".", 1)[-1]]
        words += [
            f"{key}={value}"
            for key, value in group.items()
            if isinstance(value, str | int | float) and key not in NOT_SHOWN
        ]
        parts[name] = " ".join(words).strip() or "none"
    if config.table is not None:
        parts["task"] = str(settings_of_table(config.table, config.seed, "task"))
    if asks_model and (rules := _rules(config)):
        parts["rules and reward"] = one_line(rules, RULES_LIMIT)
    parts["search"] = (
        f"stages of {search.length}, paths of up to {search.max_depth} stages, "
        f"{search.workers} stages at a time"
    )
    if limit := (config.stage_groups["trainer"] or {}).get("validation_max_tokens"):
        parts["search"] += f"; validations score completions of up to {limit} tokens"
    return parts


def _rules(config: SearchConfig) -> str:
    if config.table is not None:
        return str(settings_of_table(config.table, config.seed, "about"))
    return about(config.task or {})
