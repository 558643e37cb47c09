"""The trained policy: a Hugging Face model under a DeepSpeed engine, with its tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from llmzero.core.compute import Arithmetic
from llmzero.core.errors import UserError
from llmzero.core.model_files import INDEX, check_adapter, check_model, check_tokenizer, indexed
from llmzero.grpo.accelerator import deepspeed
from llmzero.grpo.head import LogprobModel
from llmzero.grpo.packing import pack
from llmzero.grpo.settings import LoraSettings, TrainerSettings
from llmzero.rollout.slots import NATIVE, attention_of
from llmzero.rollout.wide import in_float32
from llmzero.tasks.base import Example

FWD_MODULE_STACK = deepspeed.runtime.zero.parameter_offload.FWD_MODULE_STACK
PartitionedParameterCoordinator = (
    deepspeed.runtime.zero.partitioned_param_coordinator.PartitionedParameterCoordinator
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ADAPTER = "adapter"  # the subdirectory of a checkpoint in which a LoRA adapter lies
ADAM_BETA1 = 0.9
SAMPLE = (
    ([1, 2], [3, 4, 1]),
    ([1, 2], [2, 3]),
    ([3], [4, 2]),
)  # prompts and completions that a model is checked on


class Policy:
    """What is trained and sampled from. It is the `Weights` that an engine sees."""

    def __init__(self, engine: Any, tokenizer: PreTrainedTokenizerBase, directory: str) -> None:
        self.engine, self.tokenizer, self.directory = engine, tokenizer, directory
        self.model: Any = engine.module.model
        self.eos_ids = end_tokens(self.model, tokenizer)
        self.partitioned = engine.zero_optimization_stage() == 3
        self.arithmetic = arithmetic_of(self.model)

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        device: torch.device = self.engine.device
        return device

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {
            name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad
        }

    def close(self) -> None:
        """Have DeepSpeed let go of model and optimizer, which it would hold in memory for ever: by hooks of
        ZeRO, and with stage 3 by a list and a cache of all engines that there ever were.
        """
        self.engine.destroy()
        if self.partitioned:
            FWD_MODULE_STACK.clear()
            cached = vars(PartitionedParameterCoordinator)[
                "_PartitionedParameterCoordinator__params_to_release"
            ]
            inspect.getclosurevars(cached).nonlocals["func"].cache_clear()

    def whole(self, parameters: Sequence[nn.Parameter]) -> Any:
        """Return a context in which partitioned parameters are whole on every process."""
        if not self.partitioned:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(list(parameters))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights under their Hugging Face names, whole, adapters merged; on every process at
        once.
        """
        adapters = {
            name.removesuffix(".base_layer"): module
            for name, module in self.model.named_modules()
            if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer")
        }
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                continue
            owner, _, kind = name.rpartition(".")
            layer = adapters.get(owner.removesuffix(".base_layer"))
            with torch.no_grad(), self.whole([parameter, *(layer.parameters() if layer is not None else ())]):
                value = parameter.data
                if layer is not None and kind == "weight":
                    value = value + layer.get_delta_weight("default").to(value.dtype)
                yield name.removeprefix("base_model.model.").replace(".base_layer.", "."), value


def arithmetic_of(model: Any) -> Arithmetic:
    """Return what a causal language model's passes cost, with its LoRA adapter where it has one."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, head = base.config, base.get_output_embeddings()
    costs = {True: 0, False: 0}  # a token, by whether the map is an adapter's; partitioned weights are empty
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            costs["lora_" in name] += 2 * module.in_features * module.out_features
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Arithmetic(
        linear=costs[False],
        head=2 * head.in_features * head.out_features,
        attention=4 * config.num_hidden_layers * config.num_attention_heads * size,
        adapter=costs[True],
    )


def load_model(path: str | Path, dtype: str) -> PreTrainedModel:
    """Load a causal language model from a hub id or a directory onto the accelerator, or the CPU where there
    is none.

    Dropout is switched off: the ratio of policy to old policy would measure its noise.

    Raises:
        UserError: the model wants code of its own, pickled weights or files from elsewhere, its generation
            config is none, or its files lack weights.
    """
    transformers_logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check_model(path)
    _check_generation_config(path)
    if (index := _hub_index(path)) is not None:
        indexed(index)
    with _refused(path):
        loaded, found = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=DTYPES[dtype],
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_complete(path, type(loaded).__name__, found)
    model: PreTrainedModel = loaded.to(device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return model


def _check_complete(path: str | Path, kind: str, found: dict[str, Any]) -> None:
    """Refuse weights that transformers would fill with random numbers; `found` is what it says of loading."""
    shapes = [f"{name}: {list(there)}, not {list(due)}" for name, there, due in found["mismatched_keys"]]
    problems = [*(f"{name}: missing" for name in sorted(found["missing_keys"])), *sorted(shapes)]
    if problems:
        raise UserError(
            f"model.path={path}: {len(problems)} weights of {kind} would be random ({'; '.join(problems[:3])}"
            f"{'; ...' * (len(problems) > 3)}); config.json and weights do not belong together: copy the "
            "directory anew from where it comes"
        )


def model_without_weights(path: str | Path, dtype: str) -> PreTrainedModel:
    """Return a causal language model with all but its values, which takes no memory; of the hub only its
    configuration is loaded.

    Raises:
        UserError: as `load_model`; or there is no such model.
    """
    check_model(path)
    _check_generation_config(path)
    try:
        with _refused(path):
            config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    except OSError as error:
        raise UserError(f"model.path={path}: {' '.join(str(error).split())[:400]}") from error
    with _refused(path), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    with suppress(OSError):  # there need not be one
        model.generation_config = GenerationConfig.from_pretrained(str(path))
    return model


def _check_generation_config(path: str | Path) -> None:
    """Read a model's generation config alone, which says what is wrong with it; there need not be one."""
    try:
        GenerationConfig.from_pretrained(str(path))
    except OSError:
        return
    except Exception as error:  # whatever transformers makes of its values
        raise UserError(
            f"{path}/generation_config.json: {' '.join(str(error).split())[:400]}; repair or remove this file"
        ) from error


def _hub_index(path: str | Path) -> Path | None:
    """Return the index of weights of a model of the hub; None of a directory, or where there is none."""
    if Path(path).is_dir():
        return None
    found = cached_file(
        str(path),
        INDEX,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


@contextmanager
def _refused(path: str | Path) -> Iterator[None]:
    """Have transformers' refusals of a model, and of its code, name it and say what to do."""
    try:
        yield
    except (OSError, RuntimeError):  # of the hub, disk or memory, and no fault of the files
        raise
    except Exception as error:  # whatever transformers makes of what the files say
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model.path={path}: this model comes with Python code of its own, which is never run; "
                "choose one whose model_type transformers knows"
            ) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"model.path={path}: transformers cannot use its files ({reason}); copy the directory anew from "
            "where it comes, or choose a causal language model that transformers knows"
        ) from error


def with_adapter(model: PreTrainedModel, lora: LoraSettings, start: Path) -> Any:
    """Return the model with the LoRA adapter that lies in the checkpoint `start`, or a new one that changes
    nothing yet.

    Raises:
        UserError: the adapter there is not as this program writes them, or of other settings than `lora`; or
            a name in `lora.targets` is that of no module.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    check_targets(model, lora)
    if (start / ADAPTER).exists():
        found = check_adapter(start / ADAPTER)
        check_same_adapter(model, lora, found, start / ADAPTER)
        config = LoraConfig(**found, task_type="CAUSAL_LM")
        return PeftModel.from_pretrained(model, str(start / ADAPTER), config=config, is_trainable=True)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def check_targets(model: Any, lora: LoraSettings) -> None:
    """Check that a model has the modules that an adapter is asked for.

    Raises:
        UserError: a name in `lora.targets` is that of no linear module.
    """
    if nothing := [name for name in _names(lora.targets) if not adapted_modules(model, [name])]:
        raise UserError(
            f"trainer.lora.targets={lora.targets}: {type(model).__name__} has no linear module named "
            f"{', '.join(nothing)}; name modules such as q_proj, or set all-linear"
        )


def check_same_adapter(model: Any, lora: LoraSettings, found: dict[str, Any], directory: Path) -> None:
    """Check that an adapter is what `trainer.lora` asks for; an adapter's shape cannot change on its path.

    Args:
        model: the model without the adapter.
        lora: what is asked for.
        found: the adapter's fields, from `check_adapter`.
        directory: where it lies.

    Raises:
        UserError: rank, scale or modules differ; the message has all values of both.
    """
    pairs = {"rank": (lora.rank, found["r"]), "alpha": (lora.alpha, found["lora_alpha"])}
    if adapted_modules(model, lora.targets) != adapted_modules(model, found["target_modules"]):
        pairs["targets"] = (lora.targets, sorted(found["target_modules"]))
    differing = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    if differing:
        wanted, there = (
            ", ".join(f"trainer.lora.{key}={pair[i]}" for key, pair in differing.items()) for i in (0, 1)
        )
        raise UserError(
            f"{wanted}: the adapter in {directory} has {there}, and an adapter keeps its shape; "
            "give the adapter's values, or begin with the base model"
        )


def adapted_modules(model: Any, targets: Any) -> set[str]:
    """Return the names of the linear modules that an adapter of `targets` is for: those whose last names are
    listed, or for `all-linear` all but the output layer.
    """
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if targets == "all-linear":
        output = model.get_output_embeddings()
        return {name for name in linear if model.get_submodule(name) is not output}
    return {name for name in linear if any(f".{name}".endswith(f".{each}") for each in _names(targets))}


def _names(targets: Any) -> list[str]:
    return [] if targets == "all-linear" else list(targets)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside a model; one without a padding token pads with its end-of-sequence
    token.
    """
    check_tokenizer(path)
    with _refused(path):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode_prompts(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[list[int]]:
    """Return token ids of the examples' prompts, in the model's chat template where it has one. An end token
    that the tokenizer puts behind every text is left off: a completion follows.

    Raises:
        UserError: the template fails; it is rendered in Jinja's sandbox, as it comes with the model.
    """
    if tokenizer.chat_template is None or not examples:
        return [_open_ended(tokenizer, example.prompt) for example in examples]
    chats = [[{"role": "user", "content": example.prompt}] for example in examples]
    try:
        encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)
    except Exception as error:  # whatever a template makes of it
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} cannot be rendered: {error}; repair or remove it"
        ) from error
    return [list(ids) for ids in encoded["input_ids"]]


def _open_ended(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return a text's token ids, less the end token that the tokenizer adds to it."""
    ids: list[int] = tokenizer.encode(text)
    end = tokenizer.eos_token_id
    if ids[-1:] == [end] and tokenizer.encode(text, add_special_tokens=False)[-1:] != [end]:
        del ids[-1]
    return ids


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids that end a completion: the tokenizer's and those the model's generation config
    names.

    Raises:
        UserError: the generation config names what is no token id.
    """
    assert model.generation_config is not None
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    if not all(token is None or type(token) is int for token in listed):
        raise UserError(
            f"{model.name_or_path}/generation_config.json: eos_token_id={configured!r}: must be the number "
            "of a token, or a list of such numbers"
        )
    return sorted({token for token in [*listed, tokenizer.eos_token_id] if token is not None})


@torch.no_grad()
def plain_logprobs(model: Any) -> list[Tensor]:
    """Return what transformers' own modules say of the completions of `SAMPLE`, in float32."""
    logprobs = []
    with attention_of(model, NATIVE), in_float32(model):
        for prompt, completion in SAMPLE:
            ids = torch.tensor([prompt + completion], device=model.device)
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            logprobs.append(torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt) :, None])[:, 0])
    return logprobs


@torch.no_grad()
def check_logprobs(trained: LogprobModel, expected: list[Tensor]) -> None:
    """Check on `SAMPLE` that log-probs by our attention, norms, gates and output head are those of the model
    itself, in float32: in bfloat16 those of its own attentions differ by whole nats.

    Raises:
        UserError: the model gives what are no numbers.
        ValueError: they are not, as where a model caps its logits or its attention has parts of its own.
    """
    model = trained.model
    if not all(row.isfinite().all() for row in expected):
        raise UserError(
            f"{model.name_or_path}: its log-probs are no numbers (nan): weights are damaged; choose another "
            "checkpoint"
        )
    with in_float32(trained):
        ours, _ = trained(pack(SAMPLE, model.device), 1.0)
    if not all(
        torch.allclose(row[: len(plain)], plain, atol=1e-3) for row, plain in zip(ours, expected, strict=True)
    ):
        raise ValueError(
            f"{type(model).__name__} does more to its attention or its logits than Llama and Qwen do: "
            "it is not supported"
        )


def deepspeed_engine(model: Any, hparams: dict[str, Any], settings: TrainerSettings) -> Any:
    """Return a DeepSpeed engine that trains a model's log-probs with AdamW; every setting comes from this
    stage's configuration.
    """
    deepspeed.utils.logger.setLevel("WARNING")
    if not torch.cuda.is_available():
        # No native operator is wanted on a CPU: DeepSpeed would compile its shared-memory collectives for a
        # minute.
        deepspeed.ops.__compatible_ops__ = {}
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()  # a frozen embedding would cut a LoRA's gradient off
    expected = plain_logprobs(model)
    trained = LogprobModel(model)
    check_logprobs(trained, expected)
    if settings.zero_stage == 3:
        for parameter in trained.head.linear.parameters():
            deepspeed.zero.register_external_parameter(trained.head, parameter)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=trained,
        optimizer=_adamw(parameters, hparams, settings),
        config=_deepspeed_config(hparams, settings),
    )
    if engine.zero_optimization_stage() == 0 and engine.dp_world_size == 1:
        engine.enable_backward_allreduce = False  # it would copy all gradients, and nobody else has any
    engine.module.train()
    return engine


def _adamw(
    parameters: list[nn.Parameter], hparams: dict[str, Any], settings: TrainerSettings
) -> torch.optim.Optimizer:
    arguments = {
        "lr": hparams["learning_rate"],
        "betas": (ADAM_BETA1, hparams["adam_beta2"]),
        "weight_decay": hparams["weight_decay"],
    }
    if settings.offload_optimizer and torch.cuda.is_available():
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        adam: torch.optim.Optimizer = DeepSpeedCPUAdam(parameters, **arguments)
        return adam
    return torch.optim.AdamW(parameters, fused=True, **arguments)


def _deepspeed_config(hparams: dict[str, Any], settings: TrainerSettings) -> dict[str, Any]:
    half = settings.dtype == "bfloat16"
    zero: dict[str, Any] = {
        "stage": max(int(half), settings.zero_stage)
    }  # the float32 master weights of stage 0 are stage 1's
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if settings.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the trainer marks the boundaries and scales the loss itself
        "gradient_clipping": hparams["max_grad_norm"],
        "bf16": {"enabled": half},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def apply_update(engine: Any) -> float | None:
    """Take the optimizer step for which gradients are accumulated; return the global gradient norm before
    clipping.

    None: a gradient was infinite or not a number, nothing was updated, and the gradients are gone.
    """
    if engine.zero_optimization_stage() == 0:
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in engine.module.parameters() if p.grad is not None]
        )
        if not torch.isfinite(norm):
            engine.optimizer.zero_grad()
            return None
        engine.step()
        return float(norm)
    engine.step()
    return None if engine.optimizer.overflow else float(engine.get_global_grad_norm())
