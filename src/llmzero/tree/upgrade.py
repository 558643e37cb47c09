"""Reads configurations of searches that earlier versions wrote."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import reduce
from typing import Any

from llmzero.core.metrics import usual_entries, with_flags

log = logging.getLogger(__name__)

# Classes that have moved since, by the beginning of their names.
MOVED = {
    "llmzero.tracking.": "llmzero.mirrors.tracking.",
    "llmzero.strategy.ReplayMethod": "llmzero.search.methods.replay.ReplayMethod",
}
# What agent and early stopper held of the language model before there was the group `llm`.
ENDPOINT_KEYS = (
    *("model", "base_url", "api_key_env", "timeout_s", "retries", "max_at_once", "max_reply_tokens"),
    *("temperature", "extra", "price_input", "price_output", "breaker_failures", "breaker_pause_s"),
    *("cassette", "cassette_dir", "prompts"),
)
LLM_PARTS = ("llmzero.agents.llm.LlmAgent", "llmzero.agents.llm_stopper.LlmStopper")
# Settings that have come since, by their groups, with what earlier versions did.
LATER: Mapping[tuple[str, ...], Mapping[str, Any]] = {
    ("trainer",): {"lr_over": "stage"},
    ("model", "recipe"): {"initializer_std": 0.02, "writings": 1},
}
CURVE = "llmzero.agents.stopper.CurveStopper"
CURVE_BEFORE = {"z": 1.0}  # what it had by default while it looked at stages alone, and had `lookahead`
CURVE_NOW = {"z": 0.5, "level_z": 1.0}

TREE_SEARCH = "llmzero.search.methods.tree_search.TreeSearch"
TREE_SEARCH_BEFORE = {"exploration": 0.5}  # by default, while it had `descent_fraction`
TREE_SEARCH_NOW = {"exploration": 0.7, "subtree_weight": 0.45}


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a search's configuration as this version would have written it."""
    new = {key: _with_new_names(value) for key, value in config.items()}
    for (*above, group), settings in LATER.items():
        holder = reduce(lambda holder, key: holder.get(key) or {}, above, new)
        if isinstance(holder, dict) and isinstance(holder.get(group), dict):
            holder[group] = {**settings, **holder[group]}
    _upgrade_tree_search(new)
    stopper = new.get("stopper") or {}
    if stopper.get("_target_") == CURVE and "lookahead" in stopper:
        kept = {key: value for key, value in stopper.items() if CURVE_BEFORE.get(key) != value}
        new["stopper"] = {**CURVE_NOW, **{key: value for key, value in kept.items() if key != "lookahead"}}
    metrics, usual = with_flags((new.get("metrics") or {}).get("metrics") or {}), usual_entries()
    if metrics and metrics == {name: usual.get(name) for name in metrics}:
        # our own catalogue, from before its metrics said where they are shown, or before there were some
        new["metrics"]["metrics"] = metrics
    if "llm" in new:
        return new
    for group in ("agent", "stopper"):
        part = new.get(group) or {}
        if part.get("_target_") in LLM_PARTS:
            llm = {key: part[key] for key in ENDPOINT_KEYS if key in part}
            if new.setdefault("llm", llm).get("model") != llm.get("model"):
                log.warning(
                    "agent and early stopper of this search asked different models; both ask %s from now on",
                    new["llm"].get("model"),
                )
            new[group] = {key: value for key, value in part.items() if key not in ENDPOINT_KEYS}
    return new


def _upgrade_tree_search(config: dict[str, Any]) -> None:
    """Give a tree search of before today's defaults in place of its own; one that never went on does not."""
    search = config.get("search") or {}
    method = search.get("method") or {}
    if method.get("_target_") != TREE_SEARCH or "descent_fraction" not in method:
        return
    goes_on = {"descent_rank": 0.5, "new_path_weight": 1.0}
    never = {"descent_rank": None, "new_path_weight": 0.0}
    kept = {key: value for key, value in method.items() if TREE_SEARCH_BEFORE.get(key) != value}
    now = {**TREE_SEARCH_NOW, **(goes_on if kept.pop("descent_fraction") else never)}
    config["search"] = {**search, "method": {**now, **kept}}


def _with_new_names(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    new = {key: _with_new_names(item) for key, item in value.items() if key != "_convert_"}
    for old, now in MOVED.items():
        if str(new.get("_target_", "")).startswith(old):
            new["_target_"] = now + new["_target_"].removeprefix(old)
    return new
