"""Everything of a stage that its memory depends on; docs/memory.md derives every formula."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from llmzero.core.hparams import HParams
from llmzero.grpo.limits import COPIES, DTYPE_BYTES, MIN_LENGTH_RATIO
from llmzero.grpo.settings import TrainerSettings
from llmzero.planning.architecture import Architecture
from llmzero.rollout.settings import TorchEngineSettings, VllmEngineSettings

GIB = 2**30


@dataclass(frozen=True)
class PackShape:
    """A micro-batch: `prompts` prompts of `prompt_tokens` tokens, then `rows` completions of `width` tokens,
    padding included.
    """

    prompts: int
    prompt_tokens: int
    rows: int
    width: int

    @property
    def tokens(self) -> int:
        """Tokens that everything but attention works on."""
        return self.prompts * self.prompt_tokens + self.rows * self.width

    @property
    def keys(self) -> int:
        """Tokens that completions attend to: each has its prompt's for itself."""
        return self.rows * (self.prompt_tokens + self.width)

    @property
    def scores(self) -> int:
        """Pairs of a completion's token and a token it may attend to."""
        return self.width * self.keys


@dataclass(frozen=True)
class MemoryModel:
    """Everything of a stage that memory depends on.

    Attributes:
        rollout: the engine that samples on the GPUs that train; None samples elsewhere.
        values: of all hyperparameters.
        corrected: whether the trainer scores its own samples, as `algorithm.correction` asks.
        processes: GPUs that train it, one process each.
        prompt_tokens: longest prompt.
        gpu_bytes: of one GPU; None is unknown.
        shortest: a length below `max_completion_length` that all completions may have too.
    """

    architecture: Architecture
    trainer: TrainerSettings
    rollout: TorchEngineSettings | VllmEngineSettings | None
    values: HParams
    corrected: bool
    processes: int
    prompt_tokens: int
    gpu_bytes: float | None
    shortest: int | None = None

    @property
    def size(self) -> int:
        """Bytes of a weight."""
        return DTYPE_BYTES[self.trainer.dtype]

    @property
    def zero(self) -> int:
        """The ZeRO stage in force: bfloat16 needs float32 master weights, which begin at 1."""
        return max(int(self.size == 2), self.trainer.zero_stage)

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        lora = self.trainer.lora
        return self.architecture.adapter_parameters(lora) if lora.rank else self.architecture.parameters

    @property
    def length(self) -> int:
        """Tokens of the longest row that is trained on."""
        return self.prompt_tokens + int(self.values["max_completion_length"])

    @property
    def sampled(self) -> int:
        """Tokens of the longest prompt and completion that an engine holds, in training or validation."""
        return self.prompt_tokens + self.trainer.longest(self.values)

    @property
    def packs(self) -> list[PackShape]:
        """The largest micro-batches that may come: of the longest completions, and of the shortest, with more
        copies of their prompts.
        """
        longest = int(self.values["max_completion_length"])
        return [self.pack(length) for length in sorted({longest, min(longest, self.shortest or longest)})]

    def pack(self, length: int) -> PackShape:
        """Return the largest micro-batch of completions of `length`: whole groups, then what fits of one
        more; at least one completion.

        There is most padding where one is of that length and the others just long enough to stand beside it.
        All lack their last token.
        """
        group, shorter = int(self.values["group_size"]), ceil(MIN_LENGTH_RATIO * (length - 1)) + 1
        least = max(shorter, ceil((self.prompt_tokens + shorter) / COPIES))
        groups, rest = divmod(self.trainer.micro_batch_tokens, self.prompt_tokens + group * least)
        more = min(group, max(0, rest - self.prompt_tokens) // least)
        return PackShape(
            max(1, groups + (more > 0)), self.prompt_tokens, max(1, groups * group + more), length - 1
        )

    @property
    def vllm(self) -> VllmEngineSettings | None:
        """VLLM's settings where it samples on the GPUs that train."""
        return self.rollout if isinstance(self.rollout, VllmEngineSettings) else None

    @property
    def plain_engine(self) -> TorchEngineSettings | None:
        """The plain engine's settings where the trained model itself samples."""
        return self.rollout if isinstance(self.rollout, TorchEngineSettings) else None

    @property
    def has_reference(self) -> bool:
        """Whether a reference model is loaded; an adapter's base is the policy without it."""
        own = not self.trainer.lora.rank or self.values["reference"] == "parent"
        return bool(self.values["kl_coef"] > 0 and own)

    @property
    def offloads(self) -> bool:
        """Whether optimizer states lie in host memory."""
        return self.trainer.offload_optimizer

    def share(self, at: int) -> int:
        """Return over how many processes ZeRO spreads what it spreads from stage `at` on."""
        return self.processes if self.zero >= at else 1
