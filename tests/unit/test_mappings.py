"""Settings that are mappings of the user's own keys: set on the command line, merged with what is there."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from llmzero.cli import composed, explain
from llmzero.config import GROUPS, LAUNCHERS, PARTS
from llmzero.core.errors import UserError
from llmzero.core.settings import explained

EXAMPLE = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\[[^\[\]]*\]")
MAPPINGS: tuple[tuple[str, str, str, list[str]], ...] = (
    ("search", "llm.extra={reasoning_effort: low}", "llm.extra.provider={order: [a]}", []),
    ("search", "runner.extra={nice: 100}", "runner.extra.exclude=node7", ["runner=slurm"]),
    (
        "search",
        "runner.scale={timeout_min: {group_size: 8}}",
        "runner.scale.mem_gb={group_size: 8}",
        ["runner=slurm"],
    ),
    (
        "search",
        "runner.reference={group_size: 8}",
        "runner.reference.learning_rate=1e-4",
        ["runner=simulated"],
    ),
    ("search", "model.hparams={kl_coef: {default: 0.1}}", "model.hparams.clip_low={default: 0.1}", []),
    (
        "search",
        "model.profiles={mine: {dtype: float32}}",
        "model.profiles.mine.zero_stage=1",
        ["model=qwen3_4b"],
    ),
    (
        "search",
        "algorithm.hparams={kl_coef: {default: 0.1}}",
        "algorithm.hparams.clip_low={default: 0.1}",
        [],
    ),
    (
        "search",
        "task.config={max_animals: 5}",
        "task.config.min_animals=1",
        ["task=reasoning_gym", "task.dataset=a"],
    ),
    ("train", "values={learning_rate: 3e-4}", "values.group_size=8", []),
    ("plan", "values={max_completion_length: 16}", "values.group_size=8", []),
    ("compare", "methods={mine: ['search=random']}", "methods.other=[]", ["study=small"]),
    ("compare", "tasks={mine: ['runner.landscape=nano']}", "tasks.other=[]", ["study=small"]),
    ("compare", "search_job={timeout_min: 60}", "search_job.slurm_qos=low", []),
    ("compare", "slurm={slurm_partition: gpu}", "slurm.timeout_min=60", []),
    ("transfer", "strategies={mine: runs/a}", "strategies.other=runs/b", []),
)


@pytest.mark.parametrize(
    ("launcher", "whole", "one", "more"), MAPPINGS, ids=[m[1].partition("=")[0] for m in MAPPINGS]
)
def test_a_mapping_takes_any_key_and_keeps_those_that_it_has(
    launcher: str, whole: str, one: str, more: list[str]
) -> None:
    (key, _, text), (name, _, value) = whole.partition("="), one.partition("=")

    def at(*overrides: str) -> Any:
        config: Any = composed(launcher, LAUNCHERS[launcher], [*more, *overrides])
        for part in key.split("."):
            config = config[part] if isinstance(config, dict) else getattr(config, part)
        return config

    wanted = at()
    for path, each in ((key, text), (name, value)):
        *inside, last = path.removeprefix(key).strip(".").split(".")
        parsed = OverridesParser.create().parse_override(f"key={each}").value()
        place = wanted
        for part in inside:
            place = place[part]
        place |= {last: parsed} if last else parsed
    given = at(whole, one)
    if "profiles" in key:  # a settings class, whose other values are defaults
        given = {k: {n: v for n, v in p.items() if n in wanted[k]} for k, p in given.items()}
    assert given == wanted
    assert at(f"+{whole}").keys() <= wanted.keys()


@pytest.mark.parametrize(
    ("launcher", "key"),
    [
        ("search", "llm.no"),
        ("search", "runner.no"),
        ("search", "model.no"),
        ("search", "no"),
        ("compare", "no"),
    ],
)
def test_a_key_that_is_none_stays_refused(launcher: str, key: str) -> None:
    with pytest.raises((UserError, OmegaConfBaseException, HydraException)) as refused:
        composed(launcher, LAUNCHERS[launcher], [f"{key}=1"])
    assert f"{key}: unknown key" in str(explain(refused.value))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("llm.extra=null", "llm.extra: null is no value of this setting"),
        ("llm.retries=null", "llm.retries: null is no value of this setting"),
        ("~llm.extra", "llm.extra: a setting cannot be taken away, only an entry of a mapping"),
    ],
)
def test_what_cannot_be_null_or_taken_away_is_told(override: str, words: str) -> None:
    with pytest.raises((OmegaConfBaseException, HydraException)) as refused:
        composed("search", LAUNCHERS["search"], [override])
    assert words in str(explain(refused.value))


@pytest.mark.parametrize("name", ["nope", "../tables/metro_small-0", "a" * 400, "a" * 400 + ".jsonl.xz"])
def test_an_error_of_a_resolver_is_told_as_it_is(name: str) -> None:
    with pytest.raises((OmegaConfBaseException, HydraException)) as refused:
        composed("search", LAUNCHERS["search"], ["runner=table", f"table={name}"])
    assert str(explain(refused.value)).startswith(f"table={name[:100]}: there is no")


def test_the_examples_of_explanations_are_values_of_a_command_line() -> None:
    kinds = [*LAUNCHERS.values(), *GROUPS.values(), *(kind for _, kind in PARTS.values())]
    examples = {
        (key, example)
        for kind in kinds
        for key, each in explained(kind)
        for example in EXAMPLE.findall(each.metadata.get("explanation", ""))
    }
    assert {key.rpartition(".")[2] for key, _ in examples} >= {"extra", "scale", "tasks", "setup", "config"}
    for key, example in examples:
        value = OverridesParser.create().parse_override(f"{key}={example}").value()
        assert isinstance(value, dict | list), f"{key}={example}"


def test_a_mapping_that_may_be_null_is_given_whole() -> None:
    config = composed("search", LAUNCHERS["search"], ["search=grid", "search.method.parameters={kl_coef: 2}"])
    assert config.search.method["parameters"] == {"kl_coef": 2}
