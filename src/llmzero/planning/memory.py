"""What a stage needs of GPU and host memory, by arithmetic alone: docs/memory.md derives every formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from math import ceil
from typing import Any

from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue, HParams
from llmzero.grpo.limits import CHUNK_ELEMENTS, COPIES, DTYPE_BYTES, MIN_LENGTH_RATIO
from llmzero.grpo.settings import ArchitectureSettings, LoraSettings, TrainerSettings
from llmzero.rollout.settings import TorchEngineSettings, VllmEngineSettings

GIB = 2**30
FAMILIES = ("llama", "qwen2", "qwen3")

# What DeepSpeed sets; a test compares.
REDUCE_BUCKET = 500_000_000  # gradients that ZeRO reduces at once
LIVE_PARAMETERS = 1_000_000_000  # that ZeRO 3 gathers at most ...
PREFETCH_BUCKET = 50_000_000  # ... and these ahead of their use
SUB_GROUP = 1_000_000_000  # parameters that ZeRO 3 updates at once

# Bytes of temporaries an element of a logits chunk: three float32 tensors forward, six backward where there is an entropy bonus.
HEAD_FORWARD, HEAD_BACKWARD, HEAD_BACKWARD_ENTROPY = 12, 16, 24
BIAS_MAKING = 10  # bytes of temporaries a number of the bias: distances, and where they are allowed

# Assumptions, not measured here.
CONTEXT = GIB  # CUDA context, cuBLAS workspaces
NCCL = GIB  # communicators, where there are several processes
VLLM_OUTSIDE = 3 * GIB // 2  # CUDA graphs and what a sleeping engine keeps
VLLM_WORKSPACE = 2 * GIB  # of the pool: activations and logits of the engine
FRAGMENTATION = 0.08  # of what torch's allocator holds
HOST_PROCESS = 4 * GIB  # Python, torch, vLLM

PARTS = (
    "weights",
    "gradients",
    "optimizer moments",
    "master weights",
    "reference model",
    "activations",
    "work space",
    "logits chunk",
    "ZeRO buckets",
    "KV cache or vLLM pool",
    "hand-over bucket",
    "reserve",
)
# Largest of these need the most memory.
CAPACITIES = ("max_completion_length", "group_size", "prompts_per_step", "kl_coef", "entropy_coef")

Parts = dict[str, float]


@dataclass
class Architecture(ArchitectureSettings):
    """A dense decoder, in the words of its Hugging Face config.json."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """Return the architecture that a config.json, or `model.architecture`, describes.

        Raises:
            UserError: it is of a family that the formulas do not hold for, or something is missing.
        """
        if config.get("model_type") not in FAMILIES:
            raise UserError(
                f"model.architecture.model_type={config.get('model_type')}: must be one of {', '.join(FAMILIES)}"
            )
        derived = {"num_key_value_heads", "head_dim", "tie_word_embeddings"}
        given: dict[str, Any] = {name: config.get(name) for name in cls.__dataclass_fields__}
        if missing := [name for name, value in given.items() if value is None and name not in derived]:
            raise UserError(
                f"model.architecture: {', '.join(missing)} missing; give what the model's config.json says"
            )
        given["num_key_value_heads"] = given["num_key_value_heads"] or given["num_attention_heads"]
        given["head_dim"] = given["head_dim"] or config["hidden_size"] // config["num_attention_heads"]
        given["tie_word_embeddings"] = bool(given["tie_word_embeddings"])
        return cls(**given)

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all key heads together."""
        return self.num_key_value_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear modules, by name."""
        d, q, k, i = self.hidden_size, self.query_width, self.key_width, self.intermediate_size
        attention = {"q_proj": (d, q), "k_proj": (d, k), "v_proj": (d, k), "o_proj": (q, d)}
        return {**attention, "gate_proj": (d, i), "up_proj": (d, i), "down_proj": (i, d)}

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, the largest tensor of all."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Parameters of the model; tied ones count once."""
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.model_type == "qwen3" else 0)
        biases = self.query_width + 2 * self.key_width if self.model_type == "qwen2" else 0
        layer = sum(inputs * outputs for inputs, outputs in self.linears.values()) + norms + biases
        return (
            self.num_hidden_layers * layer
            + self.embedding * (1 if self.tie_word_embeddings else 2)
            + self.hidden_size
        )

    def adapter_parameters(self, lora: LoraSettings) -> int:
        """Parameters of a LoRA adapter.

        Raises:
            UserError: it has a target that the model has not.
        """
        names = list(self.linears) if lora.targets == "all-linear" else lora.targets
        if isinstance(names, str) or not set(names) <= set(self.linears):
            raise UserError(
                f"trainer.lora.targets={lora.targets}: must be all-linear, or a list of some of {', '.join(self.linears)}"
            )
        return self.num_hidden_layers * (lora.rank or 0) * sum(sum(self.linears[name]) for name in names)

    def cache_bytes(self, size: int) -> int:
        """Bytes of one token in the key-value cache, `size` bytes an element."""
        return 2 * self.num_hidden_layers * self.key_width * size

    def saved_bytes(self, size: int) -> int:
        """Bytes that one layer keeps of one token for its backward pass, besides what completions attend to.

        Norms keep their input and a float32 number a row, those before linear modules their output too. Attention keeps queries, its
        output, that again in the order of the row, a float32 sum a head, and all keys and values, because prompts' are views of these.
        The MLP keeps gate, up and their product.
        """
        d, q, k = self.hidden_size, self.query_width, self.key_width
        norms = 2 * (2 * size * d + 4) + (
            (q + k) * size + 4 * (q + k) // self.head_dim if self.model_type == "qwen3" else 0
        )
        attention = size * (3 * q + 2 * k) + 4 * self.num_attention_heads
        return norms + attention + 3 * size * self.intermediate_size


@dataclass(frozen=True)
class PackShape:
    """A micro-batch: `prompts` prompts of `prompt_tokens` tokens, then `rows` completions of `width` tokens, padding included."""

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
        """Tokens of the longest row."""
        return self.prompt_tokens + int(self.values["max_completion_length"])

    @property
    def packs(self) -> list[PackShape]:
        """The largest micro-batches that may come: of the longest completions, and of the shortest, with more copies of their prompts."""
        longest = int(self.values["max_completion_length"])
        return [self.pack(length) for length in sorted({longest, min(longest, self.shortest or longest)})]

    def pack(self, length: int) -> PackShape:
        """Return the largest micro-batch of completions of `length`: whole groups, then what fits of one more; at least one completion.

        There is most padding where one is of that length and the others just long enough to stand beside it. All lack their last token.
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


# --- parts of a GPU's memory, in bytes ---------------------------------------------------------------------------------


def states(stage: MemoryModel) -> Parts:
    """Return what is there in every phase: weights, optimizer, reference, and the sampler's copy of weights it cannot run."""
    whole, trained, size = stage.architecture.parameters, stage.trained, stage.size
    total = whole + (trained if stage.trainer.lora.rank else 0)
    offloaded = stage.zero == 3 and stage.trainer.offload_parameters
    copied = stage.plain_engine and (stage.zero == 3 or stage.trainer.lora.rank)
    on_gpu = 0 if stage.offloads else 1
    return {
        "weights": (0 if offloaded else size * total / stage.share(3)) + (size * whole if copied else 0),
        "optimizer moments": on_gpu * 8 * trained / stage.share(1),
        "master weights": on_gpu * 4 * trained / stage.share(1) if stage.zero else 0,
        "reference model": size * whole if stage.has_reference else 0,
    }


def gradients(stage: MemoryModel) -> float:
    """Return what gradients take while they accumulate."""
    if stage.offloads and stage.zero >= 2:
        return (
            stage.size * stage.architecture.embedding if stage.zero == 2 else 0
        )  # one tensor on its way to the host
    return stage.size * stage.trained / stage.share(2)


def step_bytes(stage: MemoryModel) -> float:
    """Return what an optimizer step adds: a flat copy of this process's gradients, and that in float32."""
    if stage.offloads or stage.zero == 0:
        return 0
    share = stage.trained / stage.processes
    return 4 * min(share, SUB_GROUP) if stage.zero == 3 else (stage.size + 4) * share


def buckets(stage: MemoryModel) -> float:
    """Return ZeRO's reduction bucket, as large for a small model as for a large one, and the weights that ZeRO 3 has gathered."""
    gathered = min(stage.architecture.parameters, LIVE_PARAMETERS + PREFETCH_BUCKET) if stage.zero == 3 else 0
    return stage.size * (gathered + (REDUCE_BUCKET if stage.zero else 0))


def layer_bytes(stage: MemoryModel, pack: PackShape) -> float:
    """Return what one layer keeps for its backward pass; keys and values of completions are repeated for all heads."""
    a = stage.architecture
    return pack.tokens * a.saved_bytes(stage.size) + pack.keys * 2 * stage.size * a.query_width


def bias(stage: MemoryModel, pack: PackShape) -> float:
    """Return what tells completions which tokens they attend to: one tensor for all layers."""
    return stage.size * pack.scores


def activations(stage: MemoryModel, pack: PackShape) -> float:
    """Return what a forward pass keeps for the backward pass, without logits.

    With checkpointing that is every layer's input, and the inside of the one layer that is being recomputed.
    """
    a, size = stage.architecture, stage.size
    once = pack.tokens * (2 * size * (a.hidden_size + a.head_dim) + 64) + bias(
        stage, pack
    )  # last norm, head's input, rotary embedding, ids
    if stage.trainer.activation_checkpointing:
        return once + a.num_hidden_layers * pack.tokens * size * a.hidden_size + layer_bytes(stage, pack)
    return once + a.num_hidden_layers * layer_bytes(stage, pack)


def layer_space(stage: MemoryModel, tokens: int, keys: int = 0, backward: bool = False) -> float:
    """Return the temporaries of one layer.

    Beside some copies of the residual they are three inner values of the MLP, or those of attention: queries and their output, keys and
    values, and those of completions both as they are and repeated for all heads. Going backward, what the MLP has kept is gone by then.
    """
    a = stage.architecture
    mlp = 3 * tokens * a.intermediate_size
    attention = 2 * (tokens + keys) * (a.query_width + a.key_width) - (
        mlp + 2 * tokens * a.hidden_size if backward else 0
    )
    return stage.size * (max(mlp, attention) + 5 * tokens * a.hidden_size)


def bias_space(stage: MemoryModel, pack: PackShape) -> float:
    """Return the temporaries while the bias is made, in the first layer: its own, and what attention has of queries, keys and values."""
    a = stage.architecture
    attention = pack.tokens * a.query_width + 2 * (pack.tokens + pack.keys) * a.key_width
    return BIAS_MAKING * pack.scores + stage.size * (attention + 2 * pack.tokens * a.hidden_size)


def logits(stage: MemoryModel, tokens: int, backward: bool) -> float:
    """Return the output head's share: a chunk's temporaries and, going backward, the gradient of its weight."""
    elements = min(CHUNK_ELEMENTS, tokens * stage.architecture.vocab_size)
    if not backward:
        return HEAD_FORWARD * elements
    temporaries = HEAD_BACKWARD_ENTROPY if stage.values["entropy_coef"] > 0 else HEAD_BACKWARD
    return temporaries * elements + (
        0 if stage.trainer.lora.rank else stage.size * stage.architecture.embedding
    )


def forward_pass(stage: MemoryModel, pack: PackShape) -> Parts:
    """Return what scoring a micro-batch takes."""
    space = max(layer_space(stage, pack.tokens, pack.keys), bias_space(stage, pack)) + bias(stage, pack)
    return {"work space": space, "logits chunk": logits(stage, pack.tokens, backward=False)}


def backward_pass(stage: MemoryModel, pack: PackShape) -> Parts:
    """Return what a micro-batch of an update takes. While the bias is made, no other activations are there yet."""
    kept = activations(stage, pack)
    space = max(
        layer_space(stage, pack.tokens, pack.keys, backward=True),
        bias_space(stage, pack) + bias(stage, pack) - kept,
    )
    return {
        "activations": kept,
        "work space": space,
        "logits chunk": logits(stage, pack.tokens, backward=True),
    }


def vllm_pool(stage: MemoryModel) -> float:
    """Return what vLLM takes while it samples, weights included; 0 without vLLM or where the GPU is unknown."""
    return stage.vllm.gpu_memory_utilization * (stage.gpu_bytes or 0) if stage.vllm else 0.0


def cached_rows(stage: MemoryModel) -> float | None:
    """Return how many completions of full length vLLM's cache holds side by side; None without vLLM or GPU."""
    if stage.vllm is None or stage.gpu_bytes is None:
        return None
    ways = stage.vllm.tensor_parallel
    room = vllm_pool(stage) - VLLM_WORKSPACE - stage.size * stage.architecture.parameters / ways
    return max(0.0, room * ways / (stage.architecture.cache_bytes(stage.size) * stage.length))


def sampling(stage: MemoryModel) -> Parts:
    """Return what generation takes besides `states`: vLLM's pool, or the plain engine's cache, prefill and logits; nothing for servers."""
    if stage.vllm:
        return {"KV cache or vLLM pool": vllm_pool(stage)}
    if stage.plain_engine is None:
        return {}
    a, rows = stage.architecture, max(stage.plain_engine.max_rows, int(stage.values["group_size"]))
    drawn = max(rows, ceil(stage.values["prompts_per_step"] / stage.processes) * stage.values["group_size"])
    return {
        "KV cache or vLLM pool": rows * stage.length * a.cache_bytes(stage.size)
        + 16 * drawn * stage.values["max_completion_length"],
        "work space": layer_space(
            stage, rows * stage.prompt_tokens
        ),  # validation runs a prompt for every row
        "logits chunk": 16 * rows * a.vocab_size,
    }


def reserve(stage: MemoryModel, parts: Parts) -> float:
    """Return what is nobody's tensor: contexts, communicators, fragmentation of torch's allocator (vLLM's pool has its own)."""
    fixed = CONTEXT + (NCCL if stage.processes > 1 else 0) + (VLLM_OUTSIDE if stage.vllm else 0)
    pool = parts.get("KV cache or vLLM pool", 0) if stage.vllm else 0
    return fixed + FRAGMENTATION * (sum(parts.values()) - pool)


# --- phases ----------------------------------------------------------------------------------------------------------


def phases(stage: MemoryModel) -> dict[str, Parts]:
    """Return the bytes of every part in every phase of a training step, on each GPU.

    The sampler gives its memory back once it has generated.
    """
    kept = {"gradients": gradients(stage)} if stage.zero == 3 else {}  # ZeRO 3 never lets go of its buffer
    base = states(stage) | kept
    awake = {"KV cache or vLLM pool": vllm_pool(stage)} if stage.vllm else {}
    training = {"gradients": gradients(stage), "ZeRO buckets": buckets(stage)}
    gathered = {"ZeRO buckets": buckets(stage)} if stage.zero == 3 else {}
    found = {"generation": base | gathered | sampling(stage)}
    if stage.values["kl_coef"] > 0 or stage.corrected:
        found["log-probs"] = (
            base | gathered | max((forward_pass(stage, pack) for pack in stage.packs), key=total)
        )
    found["update"] = base | training | max((backward_pass(stage, pack) for pack in stage.packs), key=total)
    found["optimizer step"] = base | training | {"work space": step_bytes(stage)}
    found["hand-over"] = (
        base | gathered | awake | {"hand-over bucket": 2 * stage.size * stage.architecture.embedding}
    )
    return {name: parts | {"reserve": reserve(stage, parts)} for name, parts in found.items()}


def total(parts: Parts) -> float:
    """Return the bytes of all parts."""
    return sum(parts.values())


def worst_phase(stage: MemoryModel) -> tuple[str, float]:
    """Return the phase that needs the most memory, and its bytes."""
    found = {name: total(parts) for name, parts in phases(stage).items()}
    name = max(found, key=lambda phase: found[phase])
    return name, found[name]


def problems(stage: MemoryModel) -> list[str]:
    """Return why a stage cannot run on its GPUs; nothing where it can, or where the GPU is unknown."""
    if stage.gpu_bytes is None:
        return []
    found = []
    name, needed = worst_phase(stage)
    if needed > stage.gpu_bytes:
        found.append(f"{name} needs {needed / GIB:.1f} GiB of a GPU's {stage.gpu_bytes / GIB:.1f}")
    rows = cached_rows(stage)
    if rows is not None and rows < 1:
        assert stage.vllm is not None
        pool = f"rollout.gpu_memory_utilization={stage.vllm.gpu_memory_utilization}"
        found.append(
            f"{pool}: {vllm_pool(stage) / GIB:.1f} GiB hold the weights but no completion of {stage.length} tokens; raise it"
        )
    limit = stage.vllm.max_model_len if stage.vllm else None
    if limit is not None and stage.length > limit:
        found.append(
            f"rollout.max_model_len={limit}: the longest prompt and completion are {stage.length} tokens; raise it"
        )
    return found


def remedies(stage: MemoryModel) -> list[str]:
    """Return single changes that lower what the worst phase needs, the most helpful first, each with what is needed after it."""
    before = worst_phase(stage)[1]
    after = {text: worst_phase(changed)[1] for text, changed in _changes(stage) if not _new_problem(changed)}
    helpful = sorted((needed, text) for text, needed in after.items() if needed < before - GIB / 4)
    limit = stage.gpu_bytes or 0
    return [
        f"{text}: {needed / GIB:.1f} GiB" + (", which fits" if needed <= limit else "")
        for needed, text in helpful
    ]


def _new_problem(stage: MemoryModel) -> bool:
    rows = cached_rows(stage)
    return rows is not None and rows < 1


def _changes(stage: MemoryModel) -> Iterator[tuple[str, MemoryModel]]:
    """Yield what a user could change, one key at a time."""
    trainer, values = stage.trainer, stage.values
    of_trainer: dict[str, Any] = {
        "activation_checkpointing": True,
        "micro_batch_tokens": max(1, trainer.micro_batch_tokens // 2),
        "dtype": "bfloat16",
        "lora": replace(trainer.lora, rank=16),
    }
    for key, value in of_trainer.items():
        yield f"trainer.{key}={_as_override(value)}", replace(stage, trainer=replace(trainer, **{key: value}))
    for key, value in {"kl_coef": 0.0, "max_completion_length": values["max_completion_length"] // 2}.items():
        yield f"values.{key}={value}", replace(stage, values={**values, key: value})
    if stage.vllm:
        share = round(stage.vllm.gpu_memory_utilization * 0.75, 2)
        smaller = replace(stage.vllm, gpu_memory_utilization=share)
        yield f"rollout.gpu_memory_utilization={share}", replace(stage, rollout=smaller)
    if stage.plain_engine:
        rows = max(1, stage.plain_engine.max_rows // 4)
        yield f"rollout.max_rows={rows}", replace(stage, rollout=TorchEngineSettings(rows))
    yield (
        "trainer.offload_optimizer=true with trainer.zero_stage=2",
        replace(stage, trainer=replace(trainer, offload_optimizer=True, zero_stage=2)),
    )
    if stage.processes > 1:
        yield "trainer.zero_stage=3", replace(stage, trainer=replace(trainer, zero_stage=3))
    yield f"hardware.gpus_per_stage={2 * stage.processes}", replace(stage, processes=2 * stage.processes)


def _as_override(value: Any) -> str:
    """Return a value as a command line takes it."""
    if is_dataclass(value) and not isinstance(value, type):
        return "{" + ", ".join(f"{key}: {_as_override(item)}" for key, item in asdict(value).items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- host memory, and the worst a search may ask for -----------------------------------------------------------------------


def host(stage: MemoryModel) -> dict[str, Parts]:
    """Return the bytes of main memory that all processes of a stage need together, when it starts, trains and writes a checkpoint.

    Rank 0 alone collects a checkpoint: the whole weights, moments and master weights.
    """
    whole, trained, size, n = stage.architecture.parameters, stage.trained, stage.size, stage.processes
    share = trained / stage.share(1)
    processes = {"processes": float(HOST_PROCESS * n)}
    offloaded: Parts = {}
    if stage.offloads:
        pinned = _pinned(4 * share) + (
            _pinned(4 * share) + _pinned(size * share) if stage.zero else 0
        )  # master, gradients, weights back
        offloaded["offloaded optimizer"] = n * (
            8 * share + pinned + size * share
        )  # moments; gradients as they accumulate
    if stage.zero == 3 and stage.trainer.offload_parameters:
        offloaded["offloaded weights"] = n * _pinned(size * whole / n)
    master = 4 if size == 2 else 0
    return {
        "start": processes | {"weights being loaded": float(n * size * whole)},
        "training": processes | offloaded,
        "checkpoint": processes
        | offloaded
        | {"checkpoint being written": float(size * whole + (8 + master) * trained)},
    }


def _pinned(size: float) -> float:
    """Return what torch takes for a page-locked block: the next power of two."""
    return float(2 ** ceil(size - 1).bit_length()) if size > 1 else size


def worst_of(stage: MemoryModel, catalogue: Catalogue) -> MemoryModel:
    """Return the stage with hyperparameters within the catalogue's bounds that need the most memory; all others stay."""
    limits = {
        name: catalogue[name].choices or catalogue[name].bounds for name in CAPACITIES if name in catalogue
    }
    parent = "reference" in catalogue and "parent" in (catalogue["reference"].choices or ())
    values = {
        **stage.values,
        **{name: max(of) for name, of in limits.items()},
        **({"reference": "parent"} if parent else {}),
    }
    return replace(
        stage,
        values=values,
        shortest=int(min(limits.get("max_completion_length", [values["max_completion_length"]]))),
    )
