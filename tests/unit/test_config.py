"""The configuration tree: every combination composes, and bad input is refused with the key and what is allowed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from llmzero.cli import resolved
from llmzero.config import RANGES, check_ranges, register
from llmzero.core.errors import UserError
from llmzero.search.session import Session
from tests.conftest import REPOSITORY

CONF = REPOSITORY / "conf"
GROUPS = sorted(
    path.name
    for path in CONF.iterdir()
    if path.is_dir() and path.name not in ("experiment", "hydra", "schema", "study")
)
LLM = ["llm.model=some", "llm.api_key_env=null"]
NEEDED = {
    **{f"agent={path.stem}": LLM for path in (CONF / "agent").glob("openai*.yaml")},
    "agent=rule_file": ["agent.path=rule.yaml"],
    "stopper=llm": ["llm.model=some"],
    "model=hf": ["model.path=some/model"],
    "task=jsonl": ["task.path=problems.jsonl"],
    "task=reasoning_gym": ["task.dataset=leg_counting"],
    "rollout=vllm_server": ["rollout.urls=[http://one:8000]", "rollout.exchange_dir=shared"],
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> dict:
    return resolved(compose("search", list(overrides)))


def allowed(pair: Iterable[tuple[str, str]]) -> bool:
    """A task's difficulty is its model's; without a model there is nothing to be difficult for."""
    chosen = dict(pair)
    return chosen.get("model") != "none" or chosen.get("task", "none") == "none"


def covering_array() -> list[dict[str, str]]:
    """Choices of an option for every group such that each allowed pair of options stands together in at least one.

    Greedy: begin with an open pair, then give each further group the option that closes most open pairs with those chosen.
    """
    every = {group: [(group, option) for option in options(group)] for group in GROUPS}
    pairs = {
        pair
        for a, b in itertools.combinations(GROUPS, 2)
        for pair in itertools.product(every[a], every[b])
        if allowed(pair)
    }
    found = []
    while pairs:
        row = dict(min(pairs))
        for group in sorted(every.keys() - row.keys(), key=lambda group: -len(every[group])):
            candidates = [choice for choice in every[group] if allowed([*row.items(), choice])]
            row |= [
                max(
                    candidates,
                    key=lambda choice: sum(tuple(sorted((choice, other))) in pairs for other in row.items()),
                )
            ]
        pairs -= set(itertools.combinations(sorted(row.items()), 2))
        found.append(row)
    return found


def test_every_pair_of_options_composes_and_passes_the_range_check() -> None:
    covered = set()
    for row in covering_array():
        chosen = [f"{group}={option}" for group, option in row.items()]
        check_ranges(composed(*chosen, *(extra for option in chosen for extra in NEEDED.get(option, ()))))
        covered |= set(itertools.combinations(sorted(row.items()), 2))
    choices = [(group, option) for group in GROUPS for option in options(group)]
    assert covered == {
        pair for pair in itertools.combinations(choices, 2) if pair[0][0] != pair[1][0] and allowed(pair)
    }


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_is_a_search_that_could_start(experiment: str, tmp_path: Path) -> None:
    session = Session.from_config(composed(f"experiment={experiment}", f"search_dir={tmp_path}/s"))
    assert not (tmp_path / "s").exists()
    assert len(session.catalogue) > 10


def test_settings_that_a_method_cannot_work_with_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    config = composed(
        "experiment=simulated",
        "search=grid",
        "search.method.parameters={no_such: 3}",
        f"search_dir={tmp_path}/s",
    )
    with pytest.raises(UserError, match=r"search\.method\.parameters.*no_such"):
        Session.from_config(config)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["train", "evaluate", "inspect_task"])
def test_the_other_launchers_compose(name: str) -> None:
    check_ranges(resolved(compose(name)))


def test_every_range_is_of_a_key_that_exists() -> None:
    configs = [
        *(
            composed(f"rollout={option}", *NEEDED.get(f"rollout={option}", ()))
            for option in options("rollout")
        ),
        composed("runner=simulated", "model=none", "task=none"),
        composed("runner=slurm", "task=math"),
        composed("task=jsonl", *NEEDED["task=jsonl"]),
        composed("agent=openai", "stopper=llm", "search=skill", *LLM),
        *(composed(f"search={name}") for name in ("asha", "pbt", "tpe")),
        resolved(compose("train", ["trainer.lora.rank=8"])),
        resolved(compose("evaluate")),
        resolved(compose("replay", ["search_dir=runs/replay"])),
        resolved(compose("compare")),
    ]
    for key in RANGES:
        assert any(_has(config, key.split(".")) for config in configs), key


def _has(config: object, parts: list[str]) -> bool:
    return not parts or (
        isinstance(config, dict) and parts[0] in config and _has(config[parts[0]], parts[1:])
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.confirm_seeds=-1", r"search\.confirm_seeds=-1: must be from 0 to 1000"),
        ("search.confirm_top=0", r"search\.confirm_top=0: must be from 1 to 100"),
        ("search.workers=0", r"search\.workers=0: must be from 1 to 1024"),
        ("budget.stages=0", r"budget\.stages=0: must be at least 1"),
        ("search.method.backup=median", r"search\.method\.backup=median: must be one of max, mean"),
        ("task.difficulty=hard", r"task\.difficulty=hard: must be one of full, nano"),
        ("trainer.evaluation_split=test", "a search selects on val"),
        ("hparams.parameters.group_size.default=5", r"group_size=5: must be one of 4, 8, 16"),
        ("hparams.parameters.group_size.grup=capacity", "grup"),
        ("+model.hparams.learning_rat={default: 1.0}", r"did you mean learning_rate"),
        ("model=none", r"task=none: runner=local trains"),
    ],
)
def test_values_out_of_range_are_refused(override: str, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        Session.from_config(composed(override, *(["task=none"] if override == "model=none" else [])))
    if "grup" not in override:
        assert isinstance(caught.value, UserError)
