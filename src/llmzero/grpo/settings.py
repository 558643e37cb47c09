"""Settings of the training half: model, trainer, algorithm and the machine they are for. Nothing here needs
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.hparams import HParams
from llmzero.core.settings import REQUIRED, setting
from llmzero.grpo.limits import DTYPE_BYTES, SPECIAL_TOKENS

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo")  # the names of llmzero.grpo.loss.LOSSES
DIFFICULTIES = ("nano", "full")


@dataclass
class LoraSettings:
    """`trainer.lora`: a low-rank adapter in place of full fine-tuning.

    Raises:
        UserError: `targets` is neither all-linear nor a list of names.
    """

    rank: int | None = setting(None, "rank of a LoRA adapter; null trains all weights", low=1)
    alpha: float = setting(32.0, "its scale: alpha / rank times what it computes", low=0)
    targets: Any = setting("all-linear", "a list of names of the modules that it adapts, or all-linear")

    def __post_init__(self) -> None:
        named = isinstance(self.targets, Sequence) and all(isinstance(each, str) for each in self.targets)
        if self.targets != "all-linear" and (not named or isinstance(self.targets, str) or not self.targets):
            raise UserError(
                f"trainer.lora.targets={self.targets!r}: must be all-linear, or a list of names of modules "
                "such as [q_proj,v_proj]"
            )


@dataclass
class TrainerSettings:
    """`trainer`: how a stage is computed. Nothing here is searched."""

    gpus: int = setting(
        0, "GPUs that a stage is to have: it fails where there are none; 0 takes a GPU or the CPU", low=0
    )
    dtype: str = setting("float32", "of weights and activations", choices=tuple(DTYPE_BYTES))
    zero_stage: int = setting(
        0, "what ZeRO spreads over processes; bfloat16 makes it at least 1", low=0, high=3
    )
    micro_batch_tokens: int = setting(4096, "tokens of one forward and backward pass", low=1)
    activation_checkpointing: bool = setting(False, "less memory, a second forward pass")
    offload_optimizer: bool = setting(False, "optimizer states in host memory")
    offload_parameters: bool = setting(False, "weights in host memory (ZeRO 3)")
    lora: LoraSettings = setting(LoraSettings)
    validation_every: int = setting(4, "steps between two validations, each with a checkpoint", low=1)
    validations: int | None = setting(
        None, "so many of them instead, spread evenly over a stage's length in steps or FLOPs", low=1
    )
    validation_samples: int = setting(1, "completions of each validation example", low=1)
    validation_temperature: float = setting(0.0, "0 is greedy", low=0)
    validation_max_tokens: int | None = setting(
        None,
        "longest completion of every validation and test, whatever a stage's max_completion_length; "
        "null: the largest that the catalogue allows",
        low=1,
    )
    evaluation_split: str = setting("val", "what validations score", choices=("train", "val", "test"))
    lr_over: str = setting(
        "stage",
        "what lr_schedule spans: each stage anew, or a path of search.max_depth stages, which count alike",
        choices=("stage", "path"),
    )
    max_skipped_updates: int = setting(
        3, "updates in a row with gradients that are not finite before the stage fails", low=0
    )
    collective_timeout_s: float = setting(1800.0, "longest wait of a process for the others", low=1)

    def validation_limit(self, hparams: HParams) -> int:
        """Return the longest completion of a stage's validations: of a stage that an earlier version
        described, which names no limit, its own `max_completion_length`.
        """
        return self.validation_max_tokens or int(hparams["max_completion_length"])

    def longest(self, hparams: HParams) -> int:
        """Return the longest completion that a stage samples, in training or validation."""
        return max(int(hparams["max_completion_length"]), self.validation_limit(hparams))


@dataclass
class AlgorithmSettings:
    """`algorithm`: what the policy gradient is made of. Nothing here is searched.

    Raises:
        UserError: `loss` is neither a loss of ours nor an import path.
    """

    loss: str = setting(
        "grpo",
        f"surrogate and token weights: {', '.join(LOSSES)}, or the import path of an llmzero.grpo.loss.Loss",
    )
    advantage: str = setting(
        "mean_std", "rewards compared within a group", choices=("mean_std", "mean", "leave_one_out")
    )
    whiten: bool = setting(False, "advantages of the whole batch to mean 0 and deviation 1")
    dual_clip: float | None = setting(
        None, "bounds the loss of bad tokens whose probability has risen (arXiv 1912.09729)", low=1
    )
    kl_estimator: str = setting("k3", "of the divergence from the reference", choices=("k1", "k2", "k3"))
    kl_in: str = setting("loss", "where the divergence counts", choices=("loss", "reward"))
    overlong: str = setting(
        "keep",
        "completions that were cut off: mask takes them out of the loss, soft is DAPO's penalty",
        choices=("keep", "mask", "soft"),
    )
    overlong_buffer: float = setting(
        0.2,
        "share of max_completion_length over which the soft penalty grows from 0 to -1",
        low=0,
        high=1,
    )
    dynamic_sampling: int = setting(
        0,
        "rounds in which groups that are right throughout, or wrong throughout, are replaced by others; the "
        "task's metric decides, and not the reward",
        low=0,
        high=100,
    )
    correction: str = setting(
        "none",
        "importance weights against sampler and trainer disagreeing",
        choices=("none", "truncate", "mask"),
    )
    correction_level: str = setting("token", "of those weights", choices=("token", "sequence"))
    correction_low: float = setting(
        0.5, "ratios trainer / sampler below it are masked, and counted", low=0, high=1
    )
    correction_high: float = setting(2.0, "ratios above it are cut or masked, and counted", low=1)
    hparams: dict[str, Any] = setting({}, "bounds and defaults of hyperparameters that suit this algorithm")

    def __post_init__(self) -> None:
        if self.loss not in LOSSES and "." not in self.loss:
            raise UserError(
                f"algorithm.loss={self.loss}: must be one of {', '.join(LOSSES)}, "
                "or the import path of a loss, as package.module.name"
            )


@dataclass
class ArchitectureSettings:
    """What the memory planner needs of a model's config.json, in its words."""

    model_type: str = setting(REQUIRED)
    hidden_size: int = setting(REQUIRED)
    num_hidden_layers: int = setting(REQUIRED)
    num_attention_heads: int = setting(REQUIRED)
    num_key_value_heads: int = setting(REQUIRED)
    head_dim: int = setting(REQUIRED)
    intermediate_size: int = setting(REQUIRED)
    vocab_size: int = setting(REQUIRED)
    tie_word_embeddings: bool = setting(REQUIRED)
    attention_bias: bool = setting(False, "of llama and qwen3; qwen2 has its own")
    mlp_bias: bool = setting(False, "of llama")


@dataclass
class NanoRecipe:
    """`model.recipe`: with the task's demonstrations everything that decides the bytes of the nano base
    checkpoint.
    """

    hidden_size: int = setting(128, low=1)
    layers: int = setting(4, low=1)
    heads: int = setting(4, low=1)
    intermediate_size: int = setting(384, low=1)
    steps: int = setting(240, "of the warm start", low=1)
    batch_size: int = setting(64, "demonstrations a step", low=1)
    learning_rate: float = setting(2e-3, "its peak", low=0)
    initializer_std: float = setting(0.02, "deviation of the weights before the warm start", low=0)
    writings: int = setting(
        1,
        "of each problem, a fresh one at each visit of the warm start, where the task has several; 1: its "
        "demonstrations",
        low=1,
    )
    careless_share: float = setting(0.3, "share of the demonstrations that are careless", low=0, high=1)
    seed: int = setting(0, "of weights, of the order and of who is careless")

    def architecture(self, characters: int) -> ArchitectureSettings:
        """Return the architecture of the model for a task whose texts are made of so many characters."""
        return ArchitectureSettings(
            model_type="qwen3",
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            head_dim=self.hidden_size // self.heads,
            intermediate_size=self.intermediate_size,
            vocab_size=len(SPECIAL_TOKENS) + characters,
            tie_word_embeddings=True,
        )


@dataclass
class NanoModelSettings:
    """`model=nano`, `nano_s`, `nano_m`, `nano_l`."""

    difficulty: str = setting("nano", "of tasks for it", choices=DIFFICULTIES)
    cache_dir: str = setting(REQUIRED, "where base checkpoints are kept, by the hash of their recipe")
    recipe: NanoRecipe = setting(NanoRecipe)
    hparams: dict[str, Any] = setting({}, "bounds and defaults of hyperparameters that suit this model")


@dataclass
class ProfileSettings:
    """Settings of a model on one kind of machine; `hardware` chooses which, and puts them where they
    belong.
    """

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
class HfModelSettings:
    """`model=hf` and the models that are described in conf/model."""

    difficulty: str = setting("full", "of tasks for it", choices=DIFFICULTIES)
    path: str = setting(REQUIRED, "a hub id or a directory")
    architecture: ArchitectureSettings | None = setting(None, "of its config.json, for launchers/plan.py")
    profiles: dict[str, ProfileSettings] = setting({}, "what `hardware` sets for it, by machine")
    hparams: dict[str, Any] = setting({}, "bounds and defaults of hyperparameters that suit this model")


@dataclass
class HardwareSettings:
    """`hardware`: the machine that stages run on."""

    profile: str = setting("none", "which of the model's profiles is for it")
    gpus: int = setting(0, "of the machine", low=0)
    gpus_per_stage: int = setting(0, "that train one stage", low=0)
    gpu_memory_gib: float | None = setting(None, "of each GPU; null is unknown, or without GPUs", low=0)
    host_memory_gib: float | None = setting(None, "of the machine; null is unknown", low=0)
