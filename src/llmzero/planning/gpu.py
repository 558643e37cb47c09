"""What a stage needs of a GPU's memory, part by part and phase by phase, in bytes; docs/memory.md derives
every formula.
"""

from __future__ import annotations

from math import ceil

from llmzero.grpo.limits import CHUNK_ELEMENTS
from llmzero.planning.memory import GIB, MemoryModel, PackShape
from llmzero.rollout.settings import VllmEngineSettings

# What DeepSpeed sets; a test compares.
REDUCE_BUCKET = 500_000_000  # gradients that ZeRO reduces at once
LIVE_PARAMETERS = 1_000_000_000  # that ZeRO 3 gathers at most ...
PREFETCH_BUCKET = 50_000_000  # ... and these ahead of their use
SUB_GROUP = 1_000_000_000  # parameters that ZeRO 3 updates at once

# Bytes of temporaries an element of a logits chunk: three float32 tensors forward, six backward where there
# is an entropy bonus.
HEAD_FORWARD, HEAD_BACKWARD, HEAD_BACKWARD_ENTROPY = 12, 16, 24
BIAS_MAKING = 10  # bytes of temporaries a number of the bias: distances, and where they are allowed

# Assumptions, not measured here.
CONTEXT = GIB  # CUDA context, cuBLAS workspaces
NCCL = GIB  # buffers of one set of communicators: the trainer's, and those of vLLM's tensor parallel groups
VLLM_OUTSIDE = GIB // 2  # what an engine holds beside its pool, asleep or not
VLLM_GRAPHS = GIB  # CUDA graphs: vLLM counts them to its pool, and keeps them when it sleeps
VLLM_WORKSPACE = 2 * GIB  # of the pool: activations and logits of the engine
FRAGMENTATION = 0.08  # of what torch's allocator holds

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

Parts = dict[str, float]


# --- parts ---


def states(stage: MemoryModel) -> Parts:
    """Return what is there in every phase: weights, optimizer, reference, and the sampler's copy of weights
    it cannot run.
    """
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
    """Return ZeRO's reduction bucket, as large for a small model as for a large one, and the weights that
    ZeRO 3 has gathered.
    """
    gathered = min(stage.architecture.parameters, LIVE_PARAMETERS + PREFETCH_BUCKET) if stage.zero == 3 else 0
    return stage.size * (gathered + (REDUCE_BUCKET if stage.zero else 0))


def layer_bytes(stage: MemoryModel, pack: PackShape) -> float:
    """Return what one layer keeps for its backward pass; keys and values of completions are repeated for all
    heads.
    """
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

    Beside some copies of the residual they are three inner values of the MLP, or those of attention: queries
    and their output, keys and values, and those of completions both as they are and repeated for all heads.
    Going backward, what the MLP has kept is gone by then.
    """
    a = stage.architecture
    mlp = 3 * tokens * a.intermediate_size
    attention = 2 * (tokens + keys) * (a.query_width + a.key_width) - (
        mlp + 2 * tokens * a.hidden_size if backward else 0
    )
    return stage.size * (max(mlp, attention) + 5 * tokens * a.hidden_size)


def bias_space(stage: MemoryModel, pack: PackShape) -> float:
    """Return the temporaries while the bias is made, in the first layer: its own, and what attention has of
    queries, keys and values.
    """
    a = stage.architecture
    attention = pack.tokens * a.query_width + 2 * (pack.tokens + pack.keys) * a.key_width
    return BIAS_MAKING * pack.scores + stage.size * (attention + 2 * pack.tokens * a.hidden_size)


def logits(stage: MemoryModel, tokens: int, backward: bool) -> float:
    """Return the output head's share: a chunk's temporaries and, going backward, the gradient of its
    weight.
    """
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
    """Return what a micro-batch of an update takes. While the bias is made, no other activations are there
    yet.
    """
    saved = activations(stage, pack)
    space = max(
        layer_space(stage, pack.tokens, pack.keys, backward=True),
        bias_space(stage, pack) + bias(stage, pack) - saved,
    )
    return {
        "activations": saved,
        "work space": space,
        "logits chunk": logits(stage, pack.tokens, backward=True),
    }


def vllm_pool(stage: MemoryModel) -> float:
    """Return what vLLM takes while it samples, weights included; 0 without vLLM or where the GPU is
    unknown.
    """
    return stage.vllm.gpu_memory_utilization * (stage.gpu_bytes or 0) if stage.vllm else 0.0


def cached_rows(stage: MemoryModel) -> float | None:
    """Return how many completions of full length vLLM's cache holds side by side; None without vLLM or
    GPU.
    """
    if stage.vllm is None or stage.gpu_bytes is None:
        return None
    ways = stage.vllm.tensor_parallel
    weights = stage.size * stage.architecture.parameters / ways
    room = vllm_pool(stage) - VLLM_WORKSPACE - graphs(stage.vllm) - weights
    return max(0.0, room * ways / (stage.architecture.cache_bytes(stage.size) * stage.sampled))


def graphs(vllm: VllmEngineSettings) -> float:
    """Return what CUDA graphs of vLLM take, where it makes them."""
    return 0.0 if vllm.enforce_eager else VLLM_GRAPHS


def sampling(stage: MemoryModel) -> Parts:
    """Return what generation takes besides `states`: vLLM's pool, or the plain engine's cache, prefill and
    logits; nothing for servers.
    """
    if stage.vllm:
        return {"KV cache or vLLM pool": vllm_pool(stage)}
    if stage.plain_engine is None:
        return {}
    a, rows = stage.architecture, max(stage.plain_engine.max_rows, int(stage.values["group_size"]))
    drawn = max(rows, ceil(stage.values["prompts_per_step"] / stage.processes) * stage.values["group_size"])
    return {
        "KV cache or vLLM pool": rows * stage.sampled * a.cache_bytes(stage.size)
        + 16 * drawn * stage.values["max_completion_length"],
        "work space": layer_space(
            stage, rows * stage.prompt_tokens
        ),  # validation runs a prompt for every row
        "logits chunk": 16 * rows * a.vocab_size,
    }


def reserve(stage: MemoryModel, parts: Parts) -> float:
    """Return what is nobody's tensor: contexts, communicators, graphs of a sleeping engine, fragmentation of
    torch's allocator (vLLM's pool has its own).
    """
    fixed, pool = float(CONTEXT + NCCL * (stage.processes > 1)), 0.0
    if stage.vllm:
        pool = parts.get("KV cache or vLLM pool", 0.0)
        fixed += VLLM_OUTSIDE + NCCL * (stage.vllm.tensor_parallel > 1)
        fixed += 0 if pool else graphs(stage.vllm)
    return fixed + FRAGMENTATION * (sum(parts.values()) - pool)


# --- phases ---


def phases(stage: MemoryModel) -> dict[str, Parts]:
    """Return the bytes of every part in every phase of a training step, on each GPU.

    The sampler gives its memory back once it has generated.
    """
    base = states(stage)
    if stage.zero == 3:
        base["gradients"] = gradients(stage)  # ZeRO 3 never lets go of its buffer
    awake = {"KV cache or vLLM pool": vllm_pool(stage)} if stage.vllm else {}
    training = {"gradients": gradients(stage), "ZeRO buckets": buckets(stage)}
    gathered = {"ZeRO buckets": buckets(stage)} if stage.zero == 3 else {}
    by_phase = {"generation": base | gathered | sampling(stage)}
    if stage.values["kl_coef"] > 0 or stage.corrected:
        by_phase["log-probs"] = (
            base | gathered | max((forward_pass(stage, pack) for pack in stage.packs), key=total)
        )
    by_phase["update"] = (
        base | training | max((backward_pass(stage, pack) for pack in stage.packs), key=total)
    )
    by_phase["optimizer step"] = base | training | {"work space": step_bytes(stage)}
    by_phase["hand-over"] = (
        base | gathered | awake | {"hand-over bucket": 2 * stage.size * stage.architecture.embedding}
    )
    return {name: parts | {"reserve": reserve(stage, parts)} for name, parts in by_phase.items()}


def total(parts: Parts) -> float:
    """Return the bytes of all parts."""
    return sum(parts.values())


def worst_phase(stage: MemoryModel) -> tuple[str, float]:
    """Return the phase that needs the most memory, and its bytes."""
    totals = {name: total(parts) for name, parts in phases(stage).items()}
    name = max(totals, key=lambda phase: totals[phase])
    return name, totals[name]
