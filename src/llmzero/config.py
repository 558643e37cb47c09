"""Composition: which settings every config group and launcher has, and the check of a composed configuration.

The settings themselves stand beside the parts that they configure; a wrong key, type or value is refused
here, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from llmzero.agents.endpoint import LlmSettings
from llmzero.agents.llm import LlmAgentSettings
from llmzero.agents.llm_stopper import LlmStopperSettings
from llmzero.agents.rule_file import RuleFileSettings
from llmzero.agents.rules import AgentSettings
from llmzero.agents.stopper import CurveStopperSettings
from llmzero.core.compute import MOST_FLOPS
from llmzero.core.errors import UserError
from llmzero.core.redaction import CREDENTIAL, keep_secret, looks_like_key
from llmzero.core.settings import REQUIRED, allowed, explained, read, setting
from llmzero.grpo.settings import (
    AlgorithmSettings,
    HardwareSettings,
    HfModelSettings,
    NanoModelSettings,
    TrainerSettings,
)
from llmzero.mirrors.tracking.settings import TrackingSettings
from llmzero.rollout.settings import TorchEngineSettings, VllmEngineSettings, VllmServerSettings
from llmzero.runners.inline import InlineRunnerSettings
from llmzero.runners.local import LocalRunnerSettings
from llmzero.runners.simulated import SimulatedRunnerSettings
from llmzero.runners.slurm import SlurmRunnerSettings
from llmzero.runners.slurm_pilot import SlurmPilotSettings
from llmzero.runners.table import TableRunnerSettings
from llmzero.runners.tables.format import settings_of_table
from llmzero.search.methods.asha import AshaSettings
from llmzero.search.methods.fixed import FixedSettings
from llmzero.search.methods.grid import GridSettings
from llmzero.search.methods.optuna_settings import OptunaSettings
from llmzero.search.methods.pbt import PbtSettings
from llmzero.search.methods.random_search import RandomSearchSettings
from llmzero.search.methods.skill import SkillSettings
from llmzero.search.methods.tree_search import TreeSearchSettings
from llmzero.search.settings import Group, SearchConfig, StageConfig
from llmzero.strategies.schedule import LENGTHS
from llmzero.tasks.chemistry import ChemistrySettings
from llmzero.tasks.countdown import CountdownSettings
from llmzero.tasks.jsonl import JsonLinesSettings
from llmzero.tasks.mathematics import MathSettings
from llmzero.tasks.metro import MetroSettings
from llmzero.tasks.music import SheetMusicSettings
from llmzero.tasks.reasoning import ReasoningGymSettings
from llmzero.tasks.tower import TowerSettings

C = TypeVar("C")
# Settings of `agent=openai` that hide something from a language model, by a name for the bench.
WITHOUT: Mapping[str, str] = {
    "blind": "metrics",
    "no_plots": "vision",
    "no_history": "history",
    "no_descriptions": "descriptions",
}


@dataclass
class ReplayConfig(SearchConfig):
    """The whole of `launchers/replay.py`."""

    strategy: str | None = setting(None, "a strategy.yaml")
    transfer: str = setting(
        "values",
        "the strategy's values as they are, or as far from the practitioner's as they were at home",
        choices=("values", "relative"),
    )
    lengths: str = setting("steps", "whether its stages are as long in steps or in compute", choices=LENGTHS)
    rule: str | None = setting(
        None, "or a rule.yaml, which sets every stage by the dynamics of the one before"
    )
    stages: int = setting(
        4, "of a rule, each as long as search.stage_steps or stage_flops says; a strategy has its own", low=1
    )


@dataclass
class StudyConfig:
    """What `launchers/compare.py` and `launchers/transfer.py` have in common."""

    study_dir: str = setting(REQUIRED, "its searches, tables and figures")
    tasks: dict[str, Any] = setting({}, "name: overrides of a search, e.g. {easy: ['runner.landscape=easy']}")
    seeds: Any = setting(3, "how many (0, 1, ...), or a list")
    common: list[str] = setting([], "overrides of all searches")
    at_once: int = setting(2, "searches that run at the same time", low=1)
    cluster: str | None = setting(
        None, "null: on this machine; slurm: each search as a job", choices=("slurm",)
    )
    search_job: dict[str, Any] | None = setting({}, "what such a job asks for, by default")
    slurm: dict[str, Any] | None = setting(
        {}, "and what else or instead, in submitit's words, e.g. {slurm_partition: gpu, timeout_min: 600}"
    )
    dry_run: bool = setting(False, "check everything, start nothing")


@dataclass
class CompareConfig(StudyConfig):
    """The whole of `launchers/compare.py`."""

    methods: dict[str, Any] = setting({}, "name: overrides of a search, e.g. {random: ['search=random']}")


@dataclass
class TransferConfig(StudyConfig):
    """The whole of `launchers/transfer.py`."""

    strategies: dict[str, Any] = setting({}, "name: a strategy.yaml, or a search directory that holds one")
    transfer: str = setting(
        "values",
        "their values as they are, or as far from the practitioner's as they were at home",
        choices=("values", "relative"),
    )


@dataclass
class BenchConfig:
    """The whole of `launchers/bench_agent.py`."""

    agent: Group = setting(REQUIRED, "who is asked")
    llm: LlmSettings = setting(LlmSettings, "the language model that it asks, if it asks one")
    also: list[str] = setting([], f"the same without something, of a language model: {', '.join(WITHOUT)}")
    points: list[str] = setting(
        ["all"], "files of decision points: names in benchmarks/points, files, or all of that folder"
    )
    per_task: int | None = setting(
        None, "of each file so many points, spread over it, and always the same; null is all", low=1
    )
    tables: str | None = setting(None, "folder of the tables that points name; null is benchmarks/tables")
    dollars: float | None = setting(
        None, "calls end once they have cost so much, at llm.price_input and llm.price_output", low=0
    )
    bench_dir: str = setting(REQUIRED, "calls and results; the same command goes on with what is there")
    dry_run: bool = setting(False, "check everything, say what it can cost at most, ask nothing")


@dataclass
class ProposeConfig(SearchConfig):
    """The whole of `launchers/propose.py`."""

    node: str = setting(REQUIRED, "the stage to be continued, e.g. 0003")
    trusted: bool = setting(
        False,
        "true imports classes from outside that the search's stored configuration names, and asks the "
        "endpoint that it names; only for directories whose author you trust",
    )


@dataclass
class TrainConfig(StageConfig):
    """The whole of `launchers/train.py`."""

    stage_dir: str = setting(
        REQUIRED, "its files: metrics.jsonl, validation.jsonl, checkpoints/, result.json"
    )
    resume_from: str | None = setting(None, "a checkpoint to branch from; null starts from the base model")
    steps: int | None = setting(25, "GRPO steps; 0 only validates; null where flops is set", low=0)
    flops: float | None = setting(
        None,
        "FLOPs to train instead; the stage ends with the step that comes nearest to them",
        low=1,
        high=MOST_FLOPS,
    )
    schedule: list[float] = setting(
        [0.0, 1.0],
        "shares of lr_schedule at which the stage begins and ends: [0, 0.25] of the first of four of a path",
    )
    values: dict[str, Any] | None = setting({}, "hyperparameters other than the catalogue's defaults")
    trusted: bool = setting(
        False,
        "true imports classes from outside that a stage.json found in stage_dir names; only for those whose "
        "author you trust",
    )


@dataclass
class PlanConfig(TrainConfig):
    """The whole of `launchers/plan.py`."""

    prompt_tokens: int = setting(512, "longest prompt", low=1)
    json: bool = setting(False, "true prints JSON")


@dataclass
class EvaluateConfig(StageConfig):
    """The whole of `launchers/evaluate.py`."""

    checkpoint: str | None = setting(None, "a checkpoint directory of a stage; null scores the base model")
    split: str = setting("val", choices=("train", "val", "test"))
    samples: int = setting(
        1, "completions of each example; more than one also gives pass@k", low=1, high=1024
    )
    temperature: float = setting(0.0, "0 is greedy; several samples want a higher one", low=0)


@dataclass
class InspectTaskConfig:
    """The whole of `launchers/inspect_task.py`."""

    task: Group = setting(REQUIRED, "whose examples are shown")
    model: Group = setting(REQUIRED, "its difficulty is the task's, unless task.difficulty says otherwise")
    split: str = setting("train", choices=("train", "val", "test"))
    n: int = setting(5, "how many examples", low=1)
    json: bool = setting(False, "true prints a JSON object a line")


@dataclass
class ScoreConfig:
    """The whole of `launchers/score.py`."""

    task: Group = setting(REQUIRED, "whose reward is asked for")
    model: Group = setting(REQUIRED, "its difficulty is the task's, unless task.difficulty says otherwise")
    split: str = setting("val", choices=("train", "val", "test"))
    completions: str = setting(REQUIRED, "a file of JSON lines with id and completion")


LAUNCHERS: Mapping[str, type] = {
    "search": SearchConfig,
    "replay": ReplayConfig,
    "propose": ProposeConfig,
    "bench_agent": BenchConfig,
    "compare": CompareConfig,
    "transfer": TransferConfig,
    "train": TrainConfig,
    "plan": PlanConfig,
    "evaluate": EvaluateConfig,
    "inspect_task": InspectTaskConfig,
    "score": ScoreConfig,
}

# Groups without a `_target_`, by their key in a configuration.
GROUPS: Mapping[str, type] = {
    "llm": LlmSettings,
    "algorithm": AlgorithmSettings,
    "trainer": TrainerSettings,
    "hardware": HardwareSettings,
}

# Class and settings of each part, by the name of its schema.
PARTS: Mapping[str, tuple[str, type]] = {
    "task_countdown": ("llmzero.tasks.countdown.Countdown", CountdownSettings),
    "task_tower": ("llmzero.tasks.tower.Tower", TowerSettings),
    "task_metro": ("llmzero.tasks.metro.Metro", MetroSettings),
    "task_math": ("llmzero.tasks.mathematics.mathematics", MathSettings),
    "task_chem": ("llmzero.tasks.chemistry.chemistry", ChemistrySettings),
    "task_ssmr": ("llmzero.tasks.music.sheet_music", SheetMusicSettings),
    "task_jsonl": ("llmzero.tasks.jsonl.JsonLines", JsonLinesSettings),
    "task_reasoning_gym": ("llmzero.tasks.reasoning.ReasoningGym", ReasoningGymSettings),
    "model_nano": ("llmzero.grpo.models.NanoModel", NanoModelSettings),
    "model_hf": ("llmzero.grpo.models.HfModel", HfModelSettings),
    "rollout_torch": ("llmzero.rollout.torch_engine.TorchEngine", TorchEngineSettings),
    "rollout_vllm": ("llmzero.rollout.vllm_engine.VllmEngine", VllmEngineSettings),
    "rollout_vllm_server": ("llmzero.rollout.vllm_server.VllmServerEngine", VllmServerSettings),
    "agent_rules": ("llmzero.agents.rules.RuleAgent", AgentSettings),
    "agent_random": ("llmzero.agents.rules.RandomAgent", AgentSettings),
    "agent_llm": ("llmzero.agents.llm.LlmAgent", LlmAgentSettings),
    "agent_rule_file": ("llmzero.agents.rule_file.RuleFileAgent", RuleFileSettings),
    "stopper_curve": ("llmzero.agents.stopper.CurveStopper", CurveStopperSettings),
    "stopper_llm": ("llmzero.agents.llm_stopper.LlmStopper", LlmStopperSettings),
    "method_tree": ("llmzero.search.methods.tree_search.TreeSearch", TreeSearchSettings),
    "method_random": ("llmzero.search.methods.random_search.RandomSearch", RandomSearchSettings),
    "method_fixed": ("llmzero.search.methods.fixed.Fixed", FixedSettings),
    "method_grid": ("llmzero.search.methods.grid.Grid", GridSettings),
    "method_asha": ("llmzero.search.methods.asha.Asha", AshaSettings),
    "method_pbt": ("llmzero.search.methods.pbt.Pbt", PbtSettings),
    "method_optuna": ("llmzero.search.methods.optuna_search.OptunaSearch", OptunaSettings),
    "method_skill": ("llmzero.search.methods.skill.Skill", SkillSettings),
    "runner_local": ("llmzero.runners.local.LocalRunner", LocalRunnerSettings),
    "runner_inline": ("llmzero.runners.inline.InlineRunner", InlineRunnerSettings),
    "runner_simulated": ("llmzero.runners.simulated.SimulatedRunner", SimulatedRunnerSettings),
    "runner_table": ("llmzero.runners.table.TableRunner", TableRunnerSettings),
    "runner_slurm": ("llmzero.runners.slurm.SlurmRunner", SlurmRunnerSettings),
    "runner_slurm_pilot": ("llmzero.runners.slurm_pilot.SlurmPilotRunner", SlurmPilotSettings),
    "tracking_wandb": ("llmzero.mirrors.tracking.WandbTracking", TrackingSettings),
}


@cache
def register() -> None:
    """Put the schemas into Hydra's ConfigStore, under the group `schema`.

    Configurations may also use `${label:FILE,...}`, `${family:TARGET}`, `${of_table:NAME,SEED,KEY}` and
    `${settings_help:}` from then on.
    """
    OmegaConf.register_new_resolver("settings_help", settings_help, replace=True)
    OmegaConf.register_new_resolver("label", label, replace=True)
    OmegaConf.register_new_resolver("family", family, replace=True)
    OmegaConf.register_new_resolver("of_table", settings_of_table, replace=True)
    store = ConfigStore.instance()
    for name, kind in {**LAUNCHERS, **GROUPS}.items():
        store.store(group="schema", name=name, node=_open_mappings(kind))
    for name, (target, kind) in PARTS.items():
        store.store(group="schema", name=name, node=_open_mappings(_targeted(target, kind)))


def _open_mappings(kind: type) -> DictConfig:
    """Return the node of a settings class, whose mappings take any key, as Hydra forbids new ones."""
    node: DictConfig = OmegaConf.structured(kind)
    for name, hint in get_type_hints(kind).items():
        if any(get_origin(each) is dict for each in (hint, *get_args(hint))):
            OmegaConf.set_struct(node[name], False)
    return node


def _targeted(target: str, kind: type) -> type:
    """Return a dataclass of the same fields after one that names the class to be made of them."""
    hints = get_type_hints(kind)
    own = [
        (each.name, hints[each.name], field(default=each.default, default_factory=each.default_factory))
        for each in fields(kind)
    ]
    return make_dataclass(kind.__name__, [("_target_", str, field(default=target)), *own])


def settings_help(*, _root_: DictConfig) -> str:
    """Return a line for every setting of a composed configuration: value, explanation, allowed values."""
    keys = {str(key) for key in _root_}
    launchers = (kind for kind in LAUNCHERS.values() if {each.name for each in fields(kind)} <= keys)
    lines = []
    for key, each in explained(max(launchers, key=lambda kind: len(fields(kind)))):
        group = OmegaConf.select(_root_, key)
        for name, explanation in _settings_inside(key, group) or [(key, each)]:
            value = OmegaConf.select(_root_, name)
            text = _as_yaml(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
            limits = f" ({allowed(explanation)})" if explanation and allowed(explanation) else ""
            meaning = explanation.metadata.get("explanation", "") if explanation else ""
            lines.append(f"{f'{name}={text}':<44} {meaning}{limits}".rstrip())
    return "\n".join(lines).replace("$", "$$")  # Hydra substitutes variables in what it prints


def _settings_inside(key: str, group: Any) -> list[tuple[str, Field[Any] | None]]:
    """Return keys of a group with their declarations; of a part from outside, its keys as they are."""
    if not isinstance(group, DictConfig):
        return []
    if part := _settings_type(key, group):
        return [(f"{key}.{name}", each) for name, each in explained(part)]
    return [(f"{key}.{name!s}", None) for name in group] if "_target_" in group else []


def changed_settings(config: StageConfig) -> list[str]:
    """Return a line for every setting with a default that has another value: value, default, explanation."""
    objects = [
        ("", config),
        *((f"{where}.", read(kind, group, where)) for where, group, kind in settings_of(asdict(config))),
    ]
    lines = []
    for prefix, settings in objects:
        for key, each in explained(type(settings)):
            value = attrgetter(key)(settings)
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if default != REQUIRED and value != default:
                text = f"{prefix}{key}={_as_yaml(value)} (default {_as_yaml(default)})"
                lines.append(f"{text:<56} {each.metadata.get('explanation', '')}".rstrip())
    return lines


def _as_yaml(value: Any) -> str:
    """Return a value as the command line takes it; mappings with entries are abbreviated."""
    if is_dataclass(value) or (isinstance(value, Mapping) and value):
        return "{...}"
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def label(*files: str | None) -> str:
    """Return the stem of the first file given, or its directory's for strategy.yaml and rule.yaml."""
    path = Path(next((file for file in files if file), ""))
    return path.absolute().parent.name if path.stem in ("strategy", "rule") else path.stem


def family(target: str | None) -> str:
    """Return the prefix of search directories for a task's `_target_`; empty where there is no task."""
    return f"{target.rsplit('.', 1)[-1].lower()}-" if target else ""


def checked(kind: type[C], document: Mapping[str, Any]) -> C:
    """Return a launcher's configuration as an object, every setting of ours in it checked.

    Raises:
        UserError: a key is unknown, or a value is missing or not allowed; the message lists them all.
    """
    problems = [
        f"{key}: looks like a key, which would be written to files; put it into an environment variable, and "
        "have the part read it from there"
        for key in _keys({name: group for name, group in document.items() if name != "llm"})
    ]
    for where, group, settings in settings_of(document):
        try:
            read(settings, group, where)
        except UserError as error:
            problems += str(error).splitlines()
    try:
        config = read(kind, document, "")
    except UserError as error:
        problems += str(error).splitlines()
    if problems:  # some twice: `llm` is a group and a field of its launcher, too
        raise UserError("\n".join(dict.fromkeys(problems)))
    return config


def _keys(value: Any, where: str = "", secret: bool = False) -> Iterator[str]:
    """Yield the dotted name of every setting that is named like a key, and whose value looks like one."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            named = CREDENTIAL.search(str(name)) is not None
            yield from _keys(item, f"{where}.{name}" if where else str(name), secret or named)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item, where, secret)
    elif secret and isinstance(value, str) and any(map(looks_like_key, value.split())):
        keep_secret(value)
        yield where


def settings_of(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], type]]:
    """Yield key, values and settings class of each group of ours; parts from outside check themselves."""
    search = document.get("search")
    method = search.get("method") if isinstance(search, Mapping) else None
    for where, group in {**document, "search.method": method}.items():
        kind = _settings_type(where, group) if isinstance(group, Mapping) else None
        if kind is not None:
            yield where, group, kind


def _settings_type(where: str, group: Mapping[str, Any]) -> type | None:
    """Return the settings class of a group, by its key or `_target_`; None where it is not one of ours."""
    return GROUPS.get(where) or dict(PARTS.values()).get(str(group.get("_target_")))
