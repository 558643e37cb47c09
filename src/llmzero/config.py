"""Dataclass schemas of every config group: a wrong key, type or range fails here, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue


@dataclass
class CountdownTask:
    """`task=countdown`."""

    _target_: str = "llmzero.tasks.countdown.Countdown"
    difficulty: str = "nano"
    train_size: int = 4800
    val_size: int = 1000
    test_size: int = 1000
    seed: int = 0
    template: str | None = None


@dataclass
class MathTask:
    """`task=math`."""

    _target_: str = "llmzero.tasks.mathematics.mathematics"
    difficulty: str = "nano"
    source: str = "generated"
    path: str | None = None
    template: str | None = None
    subset: str | None = None
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    seed: int = 0
    workers: int = 1


@dataclass
class MusicTask:
    """`task=ssmr`."""

    _target_: str = "llmzero.tasks.music.sheet_music"
    difficulty: str = "nano"
    source: str = "generated"
    path: str | None = None
    subset: str | None = None
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    seed: int = 0
    template: str | None = None


@dataclass
class ChemTask:
    """`task=chem`."""

    _target_: str = "llmzero.tasks.chemistry.chemistry"
    difficulty: str = "nano"
    source: str = "generated"
    path: str | None = None
    template: str | None = None
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    seed: int = 0


@dataclass
class JsonLinesTask:
    """`task=jsonl`."""

    _target_: str = "llmzero.tasks.jsonl.JsonLines"
    path: str = MISSING
    verifier: str = "exact"
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    template: str | None = None
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    timeout_s: float = 5.0
    workers: int = 1


@dataclass
class ReasoningGymTask:
    """`task=reasoning_gym`."""

    _target_: str = "llmzero.tasks.reasoning.ReasoningGym"
    dataset: str = MISSING
    config: dict[str, Any] = field(default_factory=dict)
    train_size: int = 4800
    val_size: int = 500
    test_size: int = 500
    seed: int = 0
    timeout_s: float = 5.0
    workers: int = 1
    template: str | None = None


@dataclass
class NanoRecipeConfig:
    """The nano model's architecture and warm start."""

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 384
    steps: int = 240
    batch_size: int = 64
    learning_rate: float = 2e-3
    careless_share: float = 0.3
    seed: int = 0


@dataclass
class NanoModelConfig:
    """`model=nano`."""

    _target_: str = "llmzero.grpo.models.NanoModel"
    difficulty: str = "nano"
    cache_dir: str = MISSING
    recipe: NanoRecipeConfig = field(default_factory=NanoRecipeConfig)
    hparams: dict[str, Any] = field(default_factory=dict)


@dataclass
class ArchitectureConfig:
    """What launchers/plan.py needs of a model's config.json, in its words."""

    model_type: str = MISSING
    hidden_size: int = MISSING
    num_hidden_layers: int = MISSING
    num_attention_heads: int = MISSING
    num_key_value_heads: int = MISSING
    head_dim: int = MISSING
    intermediate_size: int = MISSING
    vocab_size: int = MISSING
    tie_word_embeddings: bool = MISSING


@dataclass
class ProfileConfig:
    """Settings of a model on one kind of machine; `hardware=` chooses which, and puts them where they belong."""

    gpus_per_stage: int = 1
    dtype: str = "bfloat16"
    zero_stage: int = 1
    micro_batch_tokens: int = 16384
    activation_checkpointing: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False
    gpu_memory_utilization: float = 0.4
    tensor_parallel: int = 1


@dataclass
class HfModelConfig:
    """`model=hf` and the models that are described in conf/model."""

    _target_: str = "llmzero.grpo.models.HfModel"
    difficulty: str = "full"
    path: str = MISSING
    architecture: ArchitectureConfig | None = None
    profiles: dict[str, ProfileConfig] = field(default_factory=dict)
    hparams: dict[str, Any] = field(default_factory=dict)


@dataclass
class HardwareConfig:
    """`hardware`: the machine that stages run on, and which of a model's profiles is for it. null is unknown, or without GPUs."""

    profile: str = "none"
    gpus: int = 0
    gpus_per_stage: int = 0
    gpu_memory_gib: float | None = None
    host_memory_gib: float | None = None


@dataclass
class TorchRollout:
    """`rollout=torch`."""

    _target_: str = "llmzero.rollout.torch_engine.TorchEngine"
    max_rows: int = 1024


@dataclass
class VllmRollout:
    """`rollout=vllm`."""

    _target_: str = "llmzero.rollout.vllm_engine.VllmEngine"
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.4
    cpu_kv_cache_gib: float = 1.0
    max_model_len: int | None = None
    max_num_seqs: int = 256
    enforce_eager: bool = False
    timeout_s: float = 600.0


@dataclass
class VllmServerRollout:
    """`rollout=vllm_server`."""

    _target_: str = "llmzero.rollout.vllm_server.VllmServerEngine"
    urls: list[str] = MISSING
    exchange_dir: str = "runs/exchange"
    timeout_s: float = 1800.0


@dataclass
class LoraConfig:
    """A low-rank adapter in place of full fine-tuning; a rank of null trains all weights. `targets` are module names, or `all-linear`."""

    rank: int | None = None
    alpha: float = 32.0
    targets: Any = "all-linear"


@dataclass
class TrainerConfig:
    """How a stage is computed: precision, memory, validation. Nothing here is searched."""

    dtype: str = "float32"
    zero_stage: int = 0
    micro_batch_tokens: int = 4096
    activation_checkpointing: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False
    lora: LoraConfig = field(default_factory=LoraConfig)
    validation_every: int = 4
    validation_samples: int = 1
    validation_temperature: float = 0.0
    evaluation_split: str = "val"
    max_skipped_updates: int = 3
    collective_timeout_s: float = 1800.0


@dataclass
class AlgorithmConfig:
    """What the policy gradient is made of. Nothing here is searched; `hparams` overrides bounds and defaults of what is."""

    loss: str = "grpo"
    advantage: str = "mean_std"
    whiten: bool = False
    dual_clip: float | None = None
    kl_estimator: str = "k3"
    kl_in: str = "loss"
    overlong: str = "keep"
    overlong_buffer: float = 0.2
    dynamic_sampling: int = 0
    correction: str = "none"
    correction_level: str = "token"
    correction_low: float = 0.5
    correction_high: float = 2.0
    hparams: dict[str, Any] = field(default_factory=dict)


@dataclass
class Agent:
    """Agents without settings. `name` is what reports call it."""

    _target_: str = MISSING
    name: str = MISSING


@dataclass
class RuleFileConfig(Agent):
    """`agent=rule_file`."""

    _target_: str = "llmzero.agents.rule_file.RuleFileAgent"
    name: str = "rule_file"
    path: str = MISSING


@dataclass
class EndpointConfig:
    """A language model behind an OpenAI-compatible endpoint."""

    model: str | None = MISSING
    base_url: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    timeout_s: float = 120.0
    retries: int = 4
    max_at_once: int = 8
    max_reply_tokens: int = 4000
    temperature: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    price_input: float | None = None
    price_output: float | None = None
    breaker_failures: int = 3
    breaker_pause_s: float = 300.0
    cassette: str | None = None
    cassette_dir: str = "runs/cassette"
    prompts: str | None = None


@dataclass
class LlmAgentConfig(EndpointConfig):
    """`agent=openai` and its ablations."""

    _target_: str = "llmzero.agents.llm.LlmAgent"
    name: str = "openai"
    vision: bool = False
    descriptions: bool = True
    history: bool = True
    metrics: bool = True
    max_prompt_tokens: int = 24_000
    repairs: int = 2


@dataclass
class LlmStopperConfig(EndpointConfig):
    """`stopper=llm`."""

    _target_: str = "llmzero.agents.llm_stopper.LlmStopper"
    interval_s: float = 900.0
    min_step: int = 10
    audit_fraction: float = 0.0


@dataclass
class CurveStopperConfig:
    """`stopper=curve`."""

    _target_: str = "llmzero.agents.stopper.CurveStopper"
    interval_s: float = 1.0
    min_step: int = 8
    min_points: int = 3
    lookahead: float = 0.0
    z: float = 1.0
    audit_fraction: float = 0.0


@dataclass
class SearchGroup:
    """What every search method has in common; `method` holds its own settings."""

    name: str = MISSING
    workers: int = 2
    max_depth: int = 6
    stage_steps: int = 16
    confirm_seeds: int = 0
    confirm_top: int = 2
    test_incumbents: bool = False
    report: bool = True
    method: Any = MISSING


@dataclass
class TreeSearchConfig:
    """Settings of `search=llmzero` and `search=paper`."""

    _target_: str = "llmzero.search.methods.tree_search.TreeSearch"
    selection: str = "forecast"
    k_max: int = 16
    fresh_start_fraction: float = 0.0
    descent_fraction: float = 1.0
    unchanged_fraction: float = 0.1
    exploration: float = 0.5
    c_uct: float = 1.414
    backup: str = "max"
    failure_penalty: float = 0.5
    failures_tolerated: int = 2


@dataclass
class RandomConfig:
    """Settings of `search=random` and `search=random_schedule`."""

    _target_: str = "llmzero.search.methods.random_search.RandomSearch"
    schedules: bool = False


@dataclass
class GridConfig:
    """Settings of `search=grid`."""

    _target_: str = "llmzero.search.methods.grid.Grid"
    parameters: Any = None


@dataclass
class AshaConfig:
    """Settings of `search=asha`."""

    _target_: str = "llmzero.search.methods.asha.Asha"
    eta: int = 3


@dataclass
class PbtConfig:
    """Settings of `search=pbt`."""

    _target_: str = "llmzero.search.methods.pbt.Pbt"
    population: int | None = None
    quantile: float = 0.25
    resample: float = 0.25


@dataclass
class OptunaConfig:
    """Settings of `search=tpe` and `search=cmaes`."""

    _target_: str = "llmzero.search.methods.optuna_search.OptunaSearch"
    sampler: str = MISSING
    n_startup_trials: int = MISSING


@dataclass
class SkillConfig:
    """Settings of `search=skill`."""

    _target_: str = "llmzero.search.methods.skill.Skill"
    max_turns: int = 200
    max_context_tokens: int = 60_000
    skills: str | None = None


@dataclass
class LocalRunnerConfig:
    """`runner=local`."""

    _target_: str = "llmzero.runners.local.LocalRunner"
    entry_point: str = "llmzero.grpo.main.run_stage"
    workers: int = 1
    threads: int | None = None
    gpus_per_stage: int = 0
    processes_per_stage: int | None = None


@dataclass
class InlineRunnerConfig:
    """`runner=inline`."""

    _target_: str = "llmzero.runners.inline.InlineRunner"
    entry_point: str = "llmzero.grpo.main.run_stage"
    threads: int | None = None


@dataclass
class SlurmRunnerConfig:
    """`runner=slurm`."""

    _target_: str = "llmzero.runners.slurm.SlurmRunner"
    entry_point: str = "llmzero.grpo.main.run_stage"
    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    cpus_per_task: int = 4
    mem_gb: float | None = None
    timeout_min: int = 240
    signal_delay_s: int = 120
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    scale: dict[str, dict[str, float]] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    max_gpus: int | None = None
    poll_s: float = 2.0
    grace_s: float = 15.0
    snapshot: bool = True


@dataclass
class SimulatedRunnerConfig:
    """`runner=simulated`."""

    _target_: str = "llmzero.runners.simulated.SimulatedRunner"
    landscape: str = "easy"
    instance: int | None = None
    noise: float = 1.0
    reference: dict[str, Any] = field(default_factory=dict)


@dataclass
class Tracking:
    """`tracking=offline` and `tracking=online`."""

    _target_: str = "llmzero.mirrors.tracking.WandbTracking"
    mode: str = "offline"
    project: str = "llmzero"
    entity: str | None = None
    fork: bool = False
    checkpoint: bool = True


@dataclass
class BudgetConfig:
    """Limits of a search; null is no limit, and whichever comes first ends it."""

    stages: int | None = 16
    seconds: float | None = None
    gpu_seconds: float | None = None
    llm_dollars: float | None = None
    llm_tokens: int | None = None
    disk_gb: float | None = None
    deadline: str | None = None


@dataclass
class StageParts:
    """The groups that a stage is made of."""

    task: Any = MISSING
    model: Any = MISSING
    rollout: Any = MISSING
    hparams: Any = MISSING
    metrics: Any = MISSING
    algorithm: Any = MISSING
    trainer: TrainerConfig = MISSING
    hardware: HardwareConfig = MISSING
    seed: int = 0


@dataclass
class SearchConfig(StageParts):
    """The whole of `launchers/search.py`."""

    agent: Any = MISSING
    stopper: Any = MISSING
    search: Any = MISSING
    runner: Any = MISSING
    tracking: Any = MISSING
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    search_dir: str = MISSING
    dry_run: bool = False


@dataclass
class ReplayConfig(SearchConfig):
    """The whole of `launchers/replay.py`."""

    strategy: str | None = None
    transfer: str = "values"
    rule: str | None = None
    stages: int = 4


@dataclass
class StudyConfig:
    """What `launchers/compare.py` and `launchers/transfer.py` have in common: tasks and seeds, and where their searches run."""

    study_dir: str = MISSING
    tasks: Any = None
    seeds: Any = 3
    common: list[str] = field(default_factory=list)
    at_once: int = 2
    cluster: str | None = None
    slurm: Any = None
    dry_run: bool = False


@dataclass
class CompareConfig(StudyConfig):
    """The whole of `launchers/compare.py`."""

    methods: Any = None


@dataclass
class TransferConfig(StudyConfig):
    """The whole of `launchers/transfer.py`."""

    strategies: Any = None
    transfer: str = "values"


@dataclass
class ProposeConfig(SearchConfig):
    """The whole of `launchers/propose.py`."""

    node: str = MISSING


@dataclass
class TrainConfig(StageParts):
    """The whole of `launchers/train.py`."""

    stage_dir: str = MISSING
    resume_from: str | None = None
    steps: int = 25
    values: Any = None


@dataclass
class PlanConfig(TrainConfig):
    """The whole of `launchers/plan.py`."""

    prompt_tokens: int = 512
    json: bool = False


@dataclass
class EvaluateConfig(StageParts):
    """The whole of `launchers/evaluate.py`."""

    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: str | None = None
    split: str = "val"
    samples: int = 1
    temperature: float = 0.0
    values: Any = None


@dataclass
class InspectTaskConfig:
    """The whole of `launchers/inspect_task.py`."""

    task: Any = MISSING
    model: Any = MISSING
    split: str = "train"
    n: int = 5
    json: bool = False


@dataclass
class ScoreConfig:
    """The whole of `launchers/score.py`."""

    task: Any = MISSING
    model: Any = MISSING
    split: str = "val"
    completions: str = MISSING


SCHEMAS: Mapping[str, type] = {
    "inspect_task": InspectTaskConfig,
    "score": ScoreConfig,
    "search": SearchConfig,
    "replay": ReplayConfig,
    "propose": ProposeConfig,
    "compare": CompareConfig,
    "transfer": TransferConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "plan": PlanConfig,
    "task_countdown": CountdownTask,
    "task_math": MathTask,
    "task_chem": ChemTask,
    "task_ssmr": MusicTask,
    "task_jsonl": JsonLinesTask,
    "task_reasoning_gym": ReasoningGymTask,
    "model_nano": NanoModelConfig,
    "model_hf": HfModelConfig,
    "rollout_torch": TorchRollout,
    "rollout_vllm": VllmRollout,
    "rollout_vllm_server": VllmServerRollout,
    "algorithm": AlgorithmConfig,
    "agent": Agent,
    "agent_llm": LlmAgentConfig,
    "agent_rule_file": RuleFileConfig,
    "stopper_curve": CurveStopperConfig,
    "stopper_llm": LlmStopperConfig,
    "search_group": SearchGroup,
    "method_tree": TreeSearchConfig,
    "method_random": RandomConfig,
    "method_grid": GridConfig,
    "method_asha": AshaConfig,
    "method_pbt": PbtConfig,
    "method_optuna": OptunaConfig,
    "method_skill": SkillConfig,
    "runner_local": LocalRunnerConfig,
    "runner_inline": InlineRunnerConfig,
    "runner_simulated": SimulatedRunnerConfig,
    "runner_slurm": SlurmRunnerConfig,
    "tracking_wandb": Tracking,
}

ENDPOINT_RANGES: Mapping[str, tuple[float | None, float | None] | frozenset[str]] = {
    "timeout_s": (0.001, None),
    "retries": (0, 100),
    "max_at_once": (1, 1024),
    "max_reply_tokens": (1, None),
    "temperature": (0, 2),
    "price_input": (0, None),
    "price_output": (0, None),
    "breaker_failures": (1, None),
    "breaker_pause_s": (0, None),
    "cassette": frozenset({"record", "replay"}),
}

# Dotted key -> (lowest, highest) or the allowed values. None is no bound on that side.
RANGES: Mapping[str, tuple[float | None, float | None] | frozenset[str]] = {
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
    "search.method.selection": frozenset({"forecast", "uct"}),
    "search.method.fresh_start_fraction": (0, 1),
    "search.method.descent_fraction": (0, 1),
    "search.method.unchanged_fraction": (0, 1),
    "search.method.exploration": (0, None),
    "search.method.backup": frozenset({"mean", "max"}),
    "search.method.failure_penalty": (0, None),
    "search.method.failures_tolerated": (1, None),
    "search.method.eta": (2, None),
    "search.method.population": (2, None),
    "search.method.quantile": (0, 0.5),
    "search.method.resample": (0, 1),
    "search.method.sampler": frozenset({"tpe", "cmaes"}),
    "search.method.n_startup_trials": (1, None),
    "search.method.max_turns": (1, None),
    "search.method.max_context_tokens": (8000, None),
    "stopper.interval_s": (0, None),
    "stopper.min_step": (1, None),
    "stopper.min_points": (2, None),
    "stopper.lookahead": (0, None),
    "stopper.z": (0, None),
    "stopper.audit_fraction": (0, 1),
    **{f"{group}.{key}": bounds for group in ("agent", "stopper") for key, bounds in ENDPOINT_RANGES.items()},
    "agent.max_prompt_tokens": (1000, None),
    "agent.repairs": (0, 10),
    "task.difficulty": frozenset({"nano", "full"}),
    "task.source": frozenset({"generated", "gsm8k", "math", "published"}),
    "task.timeout_s": (0, None),
    "task.workers": (1, None),
    "task.train_size": (1, None),
    "task.val_size": (2, None),
    "task.test_size": (2, None),
    "model.difficulty": frozenset({"nano", "full"}),
    "model.recipe.layers": (1, None),
    "model.recipe.steps": (1, None),
    "model.recipe.careless_share": (0, 1),
    "rollout.max_rows": (1, None),
    "rollout.tensor_parallel": (1, None),
    "rollout.gpu_memory_utilization": (0.01, 1),
    "rollout.cpu_kv_cache_gib": (0.01, None),
    "rollout.max_model_len": (1, None),
    "rollout.max_num_seqs": (1, None),
    "rollout.timeout_s": (1, None),
    "runner.workers": (1, None),
    "runner.threads": (1, None),
    "runner.gpus_per_stage": (0, None),
    "runner.processes_per_stage": (1, None),
    "runner.nodes": (1, None),
    "runner.gpus_per_node": (0, None),
    "runner.tasks_per_node": (1, None),
    "runner.cpus_per_task": (1, None),
    "runner.mem_gb": (0, None),
    "runner.timeout_min": (1, None),
    "runner.signal_delay_s": (1, None),
    "runner.max_gpus": (1, None),
    "runner.poll_s": (0, None),
    "runner.grace_s": (0, None),
    "runner.landscape": frozenset(
        {
            "easy",
            "deceptive",
            "plateau",
            "kl_collapse",
            "entropy_collapse",
            "length_explosion",
            "noisy",
            "memory_wall",
            "nano",
        }
    ),
    "runner.noise": (0, None),
    "tracking.mode": frozenset({"offline", "online"}),
    "trainer.dtype": frozenset({"float32", "bfloat16"}),
    "trainer.zero_stage": (0, 3),
    "trainer.micro_batch_tokens": (1, None),
    "trainer.validation_every": (1, None),
    "trainer.validation_samples": (1, None),
    "trainer.validation_temperature": (0, None),
    "trainer.max_skipped_updates": (0, None),
    "trainer.collective_timeout_s": (1, None),
    "trainer.lora.rank": (1, None),
    "trainer.lora.alpha": (0, None),
    "algorithm.loss": frozenset({"grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo"}),
    "algorithm.advantage": frozenset({"mean_std", "mean", "leave_one_out"}),
    "algorithm.dual_clip": (1, None),
    "algorithm.kl_estimator": frozenset({"k1", "k2", "k3"}),
    "algorithm.kl_in": frozenset({"loss", "reward"}),
    "algorithm.overlong": frozenset({"keep", "mask", "soft"}),
    "algorithm.overlong_buffer": (0, 1),
    "algorithm.dynamic_sampling": (0, 100),
    "algorithm.correction": frozenset({"none", "truncate", "mask"}),
    "algorithm.correction_level": frozenset({"token", "sequence"}),
    "algorithm.correction_low": (0, 1),
    "algorithm.correction_high": (1, None),
    "trainer.evaluation_split": frozenset({"train", "val", "test"}),
    "hardware.gpus": (0, None),
    "hardware.gpus_per_stage": (0, None),
    "hardware.gpu_memory_gib": (0, None),
    "hardware.host_memory_gib": (0, None),
    "transfer": frozenset({"values", "relative"}),
    "at_once": (1, None),
    "cluster": frozenset({"slurm"}),
    "stages": (1, None),
    "steps": (0, None),
    "split": frozenset({"train", "val", "test"}),
    "samples": (1, 1024),
    "temperature": (0, None),
}


def register() -> None:
    """Put the schemas into Hydra's ConfigStore, under the group `schema`; make `${label:FILE,...}` and `${family:TARGET}` known to configurations."""
    OmegaConf.register_new_resolver("label", label, replace=True)
    OmegaConf.register_new_resolver("family", family, replace=True)
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(group="schema", name=name, node=schema)


def label(*files: str | None) -> str:
    """Return what to call the first file that is given: its own name, or its directory's where it has the name of every such file."""
    path = Path(next((file for file in files if file), ""))
    return path.absolute().parent.name if path.stem in ("strategy", "rule") else path.stem


def family(target: str | None) -> str:
    """Return what the directories of searches on a task begin with, by the task's `_target_`; nothing where there is no task."""
    return f"{target.rsplit('.', 1)[-1].lower()}-" if target else ""


def catalogue_of(config: Mapping[str, Any]) -> Catalogue:
    """Return the catalogue of a configuration, with the bounds and defaults that model and algorithm bring along."""
    overrides = [(group, (config[group] or {}).get("hparams") or {}) for group in ("model", "algorithm")]
    return Catalogue.from_config(config["hparams"]["parameters"], dict(overrides))


def stage_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that a stage needs besides its hyperparameters."""
    return {key: config[key] for key in ("task", "model", "rollout", "algorithm", "trainer")}


def check_ranges(config: Mapping[str, Any]) -> None:
    """Check a resolved configuration against `RANGES`.

    Raises:
        UserError: some values are not allowed; the message lists them all.
    """
    problems = [problem for key, allowed in RANGES.items() if (problem := _problem(config, key, allowed))]
    if problems:
        raise UserError("\n".join(problems))


def _problem(
    config: Mapping[str, Any], key: str, allowed: tuple[float | None, float | None] | frozenset[str]
) -> str | None:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    if value is None:
        return None
    if isinstance(allowed, frozenset):
        return None if value in allowed else f"{key}={value}: must be one of {', '.join(sorted(allowed))}"
    low, high = allowed
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        return f"{key}={value}: must be {bounds}"
    return None
