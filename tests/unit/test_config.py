"""The configuration tree: all combinations compose, bad input is refused with its key and what is allowed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hydra import compose, initialize_config_dir

from llmzero.cli import composed, resolved
from llmzero.config import GROUPS, LAUNCHERS, PARTS, checked, register, settings_of
from llmzero.core.documents import dump_yaml
from llmzero.core.errors import UserError
from llmzero.core.parts import make
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.tasks.metro import COUNTS, LATIN
from tests.conftest import REPOSITORY
from tests.unit.outside_parts import VALUES

CONF = REPOSITORY / "conf"
OPTIONS = {
    path.name: sorted(file.stem for file in path.glob("*.yaml"))
    for path in sorted(CONF.iterdir())
    if path.is_dir() and path.name not in ("experiment", "hydra", "schema", "study")
}
NEEDED = {
    **{f"agent={option}": ["llm.model=some"] for option in OPTIONS["agent"] if option.startswith("openai")},
    "agent=rule_file": ["agent.path=rule.yaml"],
    "stopper=llm": ["llm.model=some"],
    "search=skill": ["llm.model=some"],
    "model=hf": ["model.path=some/model"],
    "task=jsonl": ["task.path=problems.jsonl"],
    "task=reasoning_gym": ["task.dataset=leg_counting"],
    "runner=table": ["table=metro_small"],
    "rollout=vllm_server": ["rollout.urls=[http://one:8000]", "rollout.exchange_dir=shared"],
}
LAUNCHED: Mapping[str, Sequence[str]] = {
    "replay": ["strategy=strategy.yaml", "search_dir=s"],
    "propose": ["node=0001", "search_dir=s"],
    "bench_agent": [],
    "compare": ["study_dir=s"],
    "transfer": ["study_dir=s"],
    "train": ["trainer.lora.rank=8"],
    "plan": [],
    "evaluate": [],
    "inspect_task": [],
    "score": ["completions=c.jsonl"],
}


# --- every combination ---


def possible(pair: Iterable[tuple[str, str]]) -> bool:
    """A task's difficulty is its model's; without a model there is nothing to be difficult for."""
    chosen = dict(pair)
    return chosen.get("model") != "none" or chosen.get("task", "none") == "none"


def overrides_of(row: Mapping[str, str]) -> list[str]:
    chosen = [f"{group}={option}" for group, option in row.items()]
    return list(dict.fromkeys([*chosen, *(more for option in chosen for more in NEEDED.get(option, ()))]))


def covering_array() -> list[dict[str, str]]:
    """Return choices of an option for every group, such that each possible pair of options occurs in one.

    Greedy: begin with an open pair, then give each further group the option that closes most open pairs with
    those chosen.
    """
    every = {group: [(group, option) for option in options] for group, options in OPTIONS.items()}
    pairs = {
        pair
        for a, b in itertools.combinations(OPTIONS, 2)
        for pair in itertools.product(every[a], every[b])
        if possible(pair)
    }
    rows = []
    while pairs:
        row = dict(min(pairs))
        for group in sorted(every.keys() - row.keys(), key=lambda group: -len(every[group])):
            candidates = [choice for choice in every[group] if possible([*row.items(), choice])]
            row |= [
                max(
                    candidates,
                    key=lambda choice: sum(tuple(sorted((choice, other))) in pairs for other in row.items()),
                )
            ]
        pairs -= set(itertools.combinations(sorted(row.items()), 2))
        rows.append(row)
    return rows


def test_every_pair_of_options_composes_and_is_checked() -> None:
    covered = set()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for row in covering_array():
            composed("search", SearchConfig, overrides_of(row))
            covered |= set(itertools.combinations(sorted(row.items()), 2))
    choices = [(group, option) for group, options in OPTIONS.items() for option in options]
    assert covered == {
        pair for pair in itertools.combinations(choices, 2) if pair[0][0] != pair[1][0] and possible(pair)
    }


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_is_a_search_that_could_start(experiment: str, tmp_path: Path) -> None:
    overrides = [f"experiment={experiment}", f"search_dir={tmp_path}/s"]
    session = Session.from_config(composed("search", SearchConfig, overrides))
    assert not (tmp_path / "s").exists()
    assert len(session.catalogue) > 10


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_other_launchers_compose(name: str) -> None:
    assert isinstance(composed(name, LAUNCHERS[name], LAUNCHED[name]), LAUNCHERS[name])


# --- bounds ---

BOUNDS: Mapping[str, Any] = {  # the lowest and highest values, None where there is none; or the choices
    "budget.stages": (1, None),
    "budget.seconds": (0, None),
    "budget.gpu_seconds": (0, None),
    "budget.llm_dollars": (0, None),
    "budget.llm_tokens": (0, None),
    "budget.disk_gb": (0, None),
    "search.workers": (1, 1024),
    "search.max_depth": (1, None),
    "search.stage_steps": (1, None),
    "search.confirm_seeds": (0, 1000),
    "search.confirm_top": (1, 100),
    "search.method.c_uct": (0, None),
    "search.method.k_max": (1, None),
    "search.method.selection": {"forecast", "uct"},
    "search.method.fresh_start_fraction": (0, 1),
    "search.method.descent_fraction": (0, 1),
    "search.method.unchanged_fraction": (0, 1),
    "search.method.exploration": (0, None),
    "search.method.backup": {"mean", "max"},
    "search.method.failure_penalty": (0, None),
    "search.method.failures_tolerated": (1, None),
    "search.method.eta": (2, None),
    "search.method.population": (2, None),
    "search.method.quantile": (0, 0.5),
    "search.method.resample": (0, 1),
    "search.method.sampler": {"tpe", "cmaes"},
    "search.method.n_startup_trials": (1, None),
    "search.method.max_turns": (1, None),
    "search.method.max_context_tokens": (8000, None),
    "stopper.interval_s": (0, None),
    "stopper.min_step": (1, None),
    "stopper.min_points": (2, None),
    "stopper.z": (0, None),
    "stopper.level_z": (0, None),
    "stopper.audit_fraction": (0, 1),
    "llm.timeout_s": (0.001, None),
    "llm.retries": (0, 100),
    "llm.max_at_once": (1, 1024),
    "llm.max_reply_tokens": (1, None),
    "llm.temperature": (0, 2),
    "llm.price_input": (0, None),
    "llm.price_output": (0, None),
    "llm.breaker_failures": (1, None),
    "llm.breaker_pause_s": (0, None),
    "llm.cassette": {"record", "replay"},
    "agent.max_prompt_tokens": (1000, None),
    "agent.repairs": (0, 10),
    "task.difficulty": {"nano", "full"},
    "task.stops": (4, len(LATIN)),
    "task.longest": (1, len(COUNTS) - 1),
    "task.wrong_share": (0, 1),
    "task.wrong_spread": (0, 1),
    "task.rooms": (3, None),
    "task.floors": (1, None),
    "task.doors": (1, None),
    "task.recheck": (0, 1),
    "task.rechecks": (0, None),
    "task.concise_share": (0, 1),
    "task.source": {"generated", "gsm8k", "math", "published"},
    "task.timeout_s": (0, None),
    "task.workers": (1, None),
    "task.train_size": (1, None),
    "task.val_size": (2, None),
    "task.test_size": (2, None),
    "model.difficulty": {"nano", "full"},
    "model.recipe.layers": (1, None),
    "model.recipe.steps": (1, None),
    "model.recipe.initializer_std": (0, None),
    "model.recipe.writings": (1, None),
    "model.recipe.careless_share": (0, 1),
    "rollout.max_rows": (1, None),
    "rollout.tensor_parallel": (1, None),
    "rollout.gpu_memory_utilization": (0.01, 1),
    "rollout.cpu_kv_cache_gib": (0.01, None),
    "rollout.max_model_len": (1, None),
    "rollout.max_num_seqs": (1, None),
    "rollout.timeout_s": (1, None),
    "runner.threads": (1, None),
    "runner.gpus_per_stage": (0, None),
    "runner.processes_per_stage": (1, None),
    "runner.nodes": (1, None),
    "runner.gpus_per_node": (0, None),
    "runner.tasks_per_node": (1, None),
    "runner.cpus_per_task": (1, None),
    "runner.mem_gb": (0, None),
    "runner.signal_delay_s": (1, None),
    "runner.max_gpus": (1, None),
    "runner.pilots": (1, None),
    "runner.idle_min": (0, None),
    "runner.poll_s": (0, None),
    "runner.grace_s": (0, None),
    "runner.landscape": {
        "easy",
        "deceptive",
        "plateau",
        "kl_collapse",
        "entropy_collapse",
        "length_explosion",
        "noisy",
        "memory_wall",
        "nano",
    },
    "runner.noise": (0, None),
    "tracking.mode": {"offline", "online"},
    "trainer.dtype": {"float32", "bfloat16"},
    "trainer.gpus": (0, None),
    "trainer.zero_stage": (0, 3),
    "trainer.micro_batch_tokens": (1, None),
    "trainer.validation_every": (1, None),
    "trainer.validation_samples": (1, None),
    "trainer.validation_temperature": (0, None),
    "trainer.max_skipped_updates": (0, None),
    "trainer.collective_timeout_s": (1, None),
    "trainer.lora.rank": (1, None),
    "trainer.lora.alpha": (0, None),
    "trainer.evaluation_split": {"train", "val", "test"},
    "algorithm.loss": {"grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo"},
    "algorithm.advantage": {"mean_std", "mean", "leave_one_out"},
    "algorithm.dual_clip": (1, None),
    "algorithm.kl_estimator": {"k1", "k2", "k3"},
    "algorithm.kl_in": {"loss", "reward"},
    "algorithm.overlong": {"keep", "mask", "soft"},
    "algorithm.overlong_buffer": (0, 1),
    "algorithm.dynamic_sampling": (0, 100),
    "algorithm.correction": {"none", "truncate", "mask"},
    "algorithm.correction_level": {"token", "sequence"},
    "algorithm.correction_low": (0, 1),
    "algorithm.correction_high": (1, None),
    "hardware.gpus": (0, None),
    "hardware.gpus_per_stage": (0, None),
    "hardware.gpu_memory_gib": (0, None),
    "hardware.host_memory_gib": (0, None),
    "transfer": {"values", "relative"},
    "at_once": (1, None),
    "cluster": {"slurm"},
    "stages": (1, None),
    "per_task": (1, None),
    "dollars": (0, None),
    "steps": (0, None),
    "split": {"train", "val", "test"},
    "samples": (1, 1024),
    "temperature": (0, None),
}
NUMBERS = [key for key, bound in BOUNDS.items() if isinstance(bound, tuple)]


@cache
def documents() -> list[tuple[str, dict[str, Any]]]:
    """Return resolved configurations and their launchers, in which every option of every group occurs."""
    register()
    longest = max(len(options) for options in OPTIONS.values())
    rows = [
        {group: options[number % len(options)] for group, options in OPTIONS.items()}
        for number in range(longest)
    ]
    launched = [("search", overrides_of(row)) for row in rows if possible(row.items())]
    launched += [
        ("search", overrides_of({"model": model, "task": "none"}))
        for model in {row["model"] for row in rows if not possible(row.items())}
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [
            (name, resolved(compose(name, list(overrides))))
            for name, overrides in [*launched, *LAUNCHED.items()]
        ]


def changed(document: Mapping[str, Any], key: str, value: Any) -> dict[str, Any] | None:
    """Return a copy with another value of a dotted key; None where there is no such key."""
    copy = deepcopy(dict(document))
    section: Any = copy
    *path, last = key.split(".")
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        return None
    section[last] = value
    return copy


def holders(key: str, value: Any) -> list[tuple[type, dict[str, Any]]]:
    """Return every configuration that has a key, with another value of it, and the class of its launcher."""
    copies = [(LAUNCHERS[name], changed(document, key, value)) for name, document in documents()]
    assert any(copies), f"{key} is in no configuration"
    return [(kind, copy) for kind, copy in copies if copy is not None]


def refusals(key: str, value: Any) -> set[str]:
    """Return what is said of a value by every configuration that has its key."""
    messages = set()
    for kind, copy in holders(key, value):
        with pytest.raises(UserError) as caught:
            checked(kind, copy)
        messages.add(str(caught.value))
    return messages


def declared(key: str) -> Any:
    """Return the declared type of a setting, by the class that has it in one of the configurations."""
    kind, document = holders(key, None)[0]
    owners = {where: owner for where, _, owner in settings_of(document)}
    where = max((where for where in owners if key.startswith(f"{where}.")), key=len, default="")
    hint: Any = owners.get(where, kind)
    for part in key.removeprefix(f"{where}.").split("."):
        hint = get_type_hints(hint)[part]
    return hint


def test_every_option_composes_and_is_checked() -> None:
    owners = set()
    for name, document in documents():
        checked(LAUNCHERS[name], document)
        owners |= {kind for _, _, kind in settings_of(document)}
    assert owners == {*GROUPS.values(), *(kind for target, kind in PARTS.values() if target)}


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_just_outside_its_bounds_is_refused_and_one_at_them_is_not(key: str) -> None:
    low, high = BOUNDS[key]
    words = f"at least {low}" if high is None else f"from {low} to {high}"
    whole = float not in (declared(key), *get_args(declared(key)))
    for edge, beyond in ((low, -math.inf), (high, math.inf)):
        if edge is not None:
            outside = edge + (1 if beyond > 0 else -1) if whole else math.nextafter(edge, beyond)
            assert refusals(key, outside) == {f"{key}={outside}: must be {words}"}
            for kind, copy in holders(key, edge if whole else float(edge)):
                checked(kind, copy)


def test_a_job_needs_time_to_train_beyond_its_signal() -> None:
    said = "leaves no time to train; SLURM may signal 60 s before runner.signal_delay_s=120"
    assert refusals("runner.timeout_min", 0) == {f"runner.timeout_min=0: {said}"}
    assert refusals("runner.timeout_min", 3) == {f"runner.timeout_min=3: {said}"}


@pytest.mark.parametrize("key", NUMBERS)
def test_nan_passes_no_bound(key: str) -> None:
    assert all(message.startswith(f"{key}=nan: must be") for message in refusals(key, math.nan))


@pytest.mark.parametrize("key", [key for key in BOUNDS if key not in NUMBERS])
def test_what_is_not_among_the_choices_is_refused(key: str) -> None:
    choices = BOUNDS[key]
    said = refusals(key, "no_such")
    start = f"{key}=no_such: must be one of "
    assert all(message.startswith(start) for message in said)
    offered = {choice for message in said for choice in message.removeprefix(start).split(", ")}
    assert {choice for choice in offered if " " not in choice} == choices, "a loss may be an import path, too"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.confirm_seeds=-1", r"search\.confirm_seeds=-1: must be from 0 to 1000"),
        ("search.confirm_top=0", r"search\.confirm_top=0: must be from 1 to 100"),
        ("search.workers=0", r"search\.workers=0: must be from 1 to 1024"),
        ("budget.stages=0", r"budget\.stages=0: must be at least 1"),
        ("budget.seconds=nan", r"budget\.seconds=nan: must be a number, at least 0"),
        (
            "trainer.validation_temperature=nan",
            r"trainer\.validation_temperature=nan: must be a number, at least 0",
        ),
        ("search.method.backup=median", r"search\.method\.backup=median: must be one of max, mean"),
        ("task.difficulty=hard", r"task\.difficulty=hard: must be one of full, nano"),
        ("trainer.evaluation_split=test", "a search selects on val"),
        ("hparams.parameters.group_size.default=5", r"group_size=5: must be one of 4, 8, 16"),
        ("hparams.parameters.group_size.grup=capacity", "grup"),
        ("+model.hparams.learning_rat={default: 1.0}", r"did you mean learning_rate"),
        ("model=none", r"task=none: LocalRunner trains"),
    ],
)
def test_values_out_of_range_are_refused(override: str, message: str) -> None:
    more = ["task=none"] if override == "model=none" else []
    with pytest.raises(Exception, match=message) as caught:
        Session.from_config(composed("search", SearchConfig, [override, *more]))
    if "grup" not in override:
        assert isinstance(caught.value, UserError)


def test_several_problems_are_named_at_once() -> None:
    overrides = ["search.workers=0", "budget.stages=0", "stopper.z=-1", "llm.retries=101"]
    with pytest.raises(UserError) as caught:
        composed("search", SearchConfig, overrides)
    assert all(override in str(caught.value) for override in overrides)


def test_settings_that_a_method_cannot_work_with_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    overrides = ["experiment=simulated", "search=grid", "search.method.parameters={no_such: 3}"]
    config = composed("search", SearchConfig, [*overrides, f"search_dir={tmp_path}/s"])
    with pytest.raises(UserError, match=r"search\.method\.parameters.*no_such"):
        Session.from_config(config)
    assert not (tmp_path / "s").exists()


# --- parts from outside ---

SEAMS = ("task", "model", "rollout", "agent", "stopper", "search.method", "runner", "tracking")


@pytest.fixture(params=["", "WithSettings"], ids=["keywords", "settings"])
def outside(request: pytest.FixtureRequest, tmp_path: Path) -> SearchConfig:
    """A search of parts from outside alone, composed from a configuration directory of somebody's own."""
    for seam in SEAMS:
        kind = "Runner" if seam == "runner" else "Part"
        group: dict[str, Any] = {"_target_": f"tests.unit.outside_parts.{kind}{request.param}", **VALUES}
        if seam == "search.method":
            group = {"name": "outside", "method": group}
        file = tmp_path / "conf" / seam.partition(".")[0] / "outside.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(dump_yaml(group))
    chosen = [f"{seam.partition('.')[0]}=outside" for seam in SEAMS]
    place = [f"hydra.searchpath=[file://{tmp_path}/conf]", f"search_dir={tmp_path}/s"]
    return composed("search", SearchConfig, [*place, *chosen])


def test_outside_parts_are_made_with_the_very_values_that_they_were_given(outside: SearchConfig) -> None:
    session = Session.from_config(outside)
    offered = {
        "workers": 7,
        "name": "ours",
        "llm": outside.llm,
        "context": None,
        "catalogue": session.catalogue,
    }
    parts = {
        "agent": session.proposer,
        "stopper": session.stopper,
        "runner": session.runner,
        "tracking": session.tracking,
        "search.method": session.method,
        **{group: make(getattr(outside, group), group, **offered) for group in ("task", "model", "rollout")},
    }
    assert parts.keys() == set(SEAMS)
    for part in parts.values():
        assert type(part).__module__ == "tests.unit.outside_parts"
        assert part.values == VALUES  # type: ignore[attr-defined]
        assert {name: type(value) for name, value in part.values.items()} == {  # type: ignore[attr-defined]
            name: type(value) for name, value in VALUES.items()
        }


@pytest.mark.parametrize("seam", ["agent", "stopper", "runner", "tracking", "task"])
def test_a_wrong_setting_of_an_outside_part_is_refused_by_its_own_bounds(seam: str) -> None:
    kind = "Runner" if seam == "runner" else "Part"
    group = {"_target_": f"tests.unit.outside_parts.{kind}WithSettings", **VALUES, "temperature": 11}
    with pytest.raises(UserError, match=rf"{seam}\.temperature=11: must be at most 10"):
        make(group, seam)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+budget.foo=1", r"budget\.foo: unknown key; known there: stages, seconds"),
        ("+agent.foo=1", r"agent\.foo: unknown key; known there: name"),
        ("search_dir=", r"search_dir: needs a value"),
        ("stopper.audit_fraction=7", r"stopper\.audit_fraction=7\.0: must be from 0 to 1"),
        ("runner._target_=argparse.Namespace", r"runner\._target_=argparse\.Namespace: must derive from"),
        ("runner._target_=builtins.dict", r"runner\._target_=builtins\.dict: its parameters are not known"),
        (
            "tracking._target_=fractions.Fraction",
            r"tracking\._target_=fractions\.Fraction: lacks start",
        ),
        ("hparams.parameters.learning_rate.low=a", r"hparams\.parameters\.learning_rate\.low='a': must be a"),
        ("hparams.parameters=null", r"hparams\.parameters=None: must be a mapping"),
        ("+model.hparams.group_size=3", r"model\.hparams\.group_size=3: must be a mapping"),
        ("metrics.metrics.kl=1", r"metrics\.metrics: must be a mapping"),
        ("+metrics.metrics.foo={}", r"metrics\.metrics\.foo: lacks healthy, meaning, unhealthy, unit"),
    ],
)
def test_odd_values_are_refused_with_their_key(override: str, message: str) -> None:
    with pytest.raises(Exception, match=message) as refused:
        Session.from_config(composed("search", SearchConfig, ["experiment=simulated", override]))
    assert isinstance(refused.value, UserError)
