"""Configurations that earlier versions wrote are read as this one would have written them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from itertools import chain
from typing import Any

import pytest

from llmzero.cli import composed
from llmzero.core.metrics import FLAGS, metric_catalogue
from llmzero.core.settings import read
from llmzero.search.settings import SearchConfig
from llmzero.tree.upgrade import upgraded
from llmzero.tree.workspace import differences
from tests.conftest import METRICS

# Settings of a language model as agents and early stoppers had them before there was the group `llm`.
ENDPOINT = {
    "model": "some/model",
    "base_url": "http://localhost:8000/v1",
    "api_key_env": None,
    "timeout_s": 60.0,
    "retries": 4,
    "max_at_once": 8,
    "max_reply_tokens": 1200,
    "temperature": 0.7,
    "extra": {"reasoning_effort": "low"},
    "price_input": 3.0,
    "price_output": 15.0,
    "breaker_failures": 3,
    "breaker_pause_s": 300.0,
    "cassette": "record",
    "cassette_dir": "runs/tape",
    "prompts": None,
}
AGENT = {
    "_target_": "llmzero.agents.llm.LlmAgent",
    "name": "openai",
    "vision": True,
    "descriptions": True,
    "history": True,
    "metrics": True,
    "max_prompt_tokens": 20_000,
    "repairs": 2,
}
STOPPER = {
    "_target_": "llmzero.agents.llm_stopper.LlmStopper",
    "interval_s": 450.0,
    "min_step": 10,
    "audit_fraction": 0.5,
}
OVERRIDES = {
    "agent=openai": ["agent.vision=true", "agent.max_prompt_tokens=20000"],
    "agent=rules": [],
    "stopper=llm": ["stopper.interval_s=450", "stopper.audit_fraction=0.5"],
    "stopper=curve": [],
}
LLM = [
    *(f"llm.{key}={'null' if value is None else value}" for key, value in ENDPOINT.items() if key != "extra"),
    "+llm.extra={reasoning_effort: low}",
]


def compose_search(*overrides: str) -> dict[str, Any]:
    return asdict(composed("search", SearchConfig, ["experiment=simulated", *overrides]))


@pytest.mark.parametrize(
    ("agent", "stopper"),
    [("agent=openai", "stopper=llm"), ("agent=openai", "stopper=curve"), ("agent=rules", "stopper=llm")],
)
def test_what_agent_and_stopper_said_of_their_model_moves_into_one_group(agent: str, stopper: str) -> None:
    new = compose_search(agent, stopper, *OVERRIDES[agent], *OVERRIDES[stopper], *LLM)
    old = {key: value for key, value in new.items() if key != "llm"}
    if agent == "agent=openai":
        old["agent"] = AGENT | ENDPOINT
    if stopper == "stopper=llm":
        old["stopper"] = STOPPER | ENDPOINT
    before = deepcopy(old)
    result = upgraded(old)
    assert result["llm"] == ENDPOINT
    assert not set(ENDPOINT) & {*result["agent"], *result["stopper"]}
    assert asdict(read(SearchConfig, result, "")) == new
    assert differences(result, new) == ""
    assert "llm.model is 'some/model'" in differences(result, new | {"llm": new["llm"] | {"model": "other"}})
    assert upgraded(result) == result
    assert old == before


def test_a_search_without_a_language_model_needs_none() -> None:
    new = compose_search("agent=rules", "stopper=curve")
    old = {key: value for key, value in new.items() if key != "llm"}
    assert "llm" not in upgraded(old)
    assert differences(upgraded(old), new) == ""
    assert asdict(read(SearchConfig, upgraded(old), "")) == new


def test_a_search_that_looked_at_stages_alone_goes_on_with_the_stopper_of_today() -> None:
    new = compose_search("agent=rules", "stopper=curve", "stopper.min_step=5")
    old = {key: value for key, value in new["stopper"].items() if key != "level_z"}
    stored = {**new, "stopper": {**old, "z": 1.0, "lookahead": 0.0}}
    assert upgraded(stored)["stopper"] == new["stopper"]
    hasty = {**stored, "stopper": {**stored["stopper"], "z": 0.25}}
    assert upgraded(hasty)["stopper"]["z"] == 0.25, "that was asked for"
    assert upgraded(new)["stopper"] == new["stopper"]


def test_a_catalogue_from_before_it_told_what_explores_is_no_other_one() -> None:
    new = compose_search("agent=rules", "stopper=curve")
    parameters = new["hparams"]["parameters"]
    assert parameters["temperature"]["explores"]
    before = {
        name: {key: value for key, value in entry.items() if key != "explores"}
        for name, entry in parameters.items()
    }
    assert differences({**new, "hparams": {"parameters": before}}, new) == ""
    other = {**before, "temperature": {**before["temperature"], "default": 1.1}}
    assert "temperature.default" in differences({**new, "hparams": {"parameters": other}}, new)


def test_classes_that_moved_have_their_new_names_and_no_other_is_touched() -> None:
    old = {
        "tracking": {
            "_target_": "llmzero.tracking.wandb.WandbTracking",
            "_convert_": "all",
            "mode": "offline",
        },
        "search": {"method": {"_target_": "llmzero.strategy.ReplayMethod", "strategy": "a.yaml"}},
        "runner": {"_target_": "mine.tracking.Runner"},
    }
    assert upgraded(old) == {
        "tracking": {"_target_": "llmzero.mirrors.tracking.wandb.WandbTracking", "mode": "offline"},
        "search": {
            "method": {"_target_": "llmzero.search.methods.replay.ReplayMethod", "strategy": "a.yaml"}
        },
        "runner": {"_target_": "mine.tracking.Runner"},
    }


def test_settings_and_metrics_that_have_come_since_are_as_earlier_versions_did() -> None:
    new = compose_search("agent=rules", "experiment=quick")
    old = deepcopy(new)
    for name in ("flops", "step_flops"):
        del old["metrics"]["metrics"][name]
    for name in ("lr_over", "validations", "validation_max_tokens"):
        del old["trainer"][name]
    for name in ("initializer_std", "writings"):
        del old["model"]["recipe"][name]
    assert differences(upgraded(old), new) == ""
    other = {**new, "trainer": {**new["trainer"], "lr_over": "path"}}
    assert differences(upgraded(old), other) == "trainer.lr_over is 'stage' there and 'path' here"
    qwen = compose_search("agent=rules", "model=qwen3_4b")
    assert upgraded(qwen) == qwen
    assert upgraded({"model": "text", "trainer": 5}) == {"model": "text", "trainer": 5}


@pytest.mark.parametrize("lacking", [1, 2])
def test_a_catalogue_of_metrics_from_before_its_flags_is_the_one_of_today(lacking: int) -> None:
    """From before any of them, or before the later ones."""
    new = compose_search("agent=rules")
    old = deepcopy(new)
    for entry in old["metrics"]["metrics"].values():
        for flag in chain.from_iterable(FLAGS[-lacking:]):
            entry.pop(flag, None)
    before = deepcopy(old)
    assert differences(old, new), "they differ until the old one is upgraded"
    assert differences(upgraded(old), new) == ""
    assert old == before
    old["metrics"]["metrics"]["kl"]["healthy"] = [0.0, 9.0]
    assert upgraded(old)["metrics"] == old["metrics"], "a catalogue of somebody's own stays as it is"
    assert metric_catalogue(old["metrics"]["metrics"])["kl"].table == METRICS["kl"].table, (
        "and is shown as ours"
    )
