"""The trained policy: a Hugging Face model under a DeepSpeed engine, its tokenizer and its reference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from llmzero.tasks.base import Example

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(path: str | Path, dtype: str) -> PreTrainedModel:
    """Load a causal language model from a hub id or a directory onto the accelerator, or the CPU where there is none."""
    transformers_logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(path), dtype=DTYPES[dtype]).to(device)
    return model


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside a model; one without a padding token pads with its end-of-sequence token."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(path))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode_prompts(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[list[int]]:
    """Return token ids of the examples' prompts, in the model's chat template where it has one."""
    if tokenizer.chat_template is None:
        return [tokenizer.encode(example.prompt) for example in examples]
    chats = [[{"role": "user", "content": example.prompt}] for example in examples]
    encoded = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)
    return [list(ids) for ids in encoded["input_ids"]]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids that end a completion: the tokenizer's and those the model's generation config names."""
    assert model.generation_config is not None
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*listed, tokenizer.eos_token_id] if token is not None})


def deepspeed_engine(model: PreTrainedModel, hparams: dict[str, Any], trainer: dict[str, Any]) -> Any:
    """Return a DeepSpeed engine that trains `model` with AdamW; every setting comes from this stage's configuration."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    import deepspeed

    deepspeed.utils.logger.setLevel("WARNING")
    if not torch.cuda.is_available():
        # No native operator is wanted on a CPU: DeepSpeed would compile its shared-memory collectives for a minute.
        deepspeed.ops.__compatible_ops__ = {}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=hparams["learning_rate"], betas=(0.9, hparams["adam_beta2"]), weight_decay=hparams["weight_decay"]
    )
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the trainer marks the boundaries and scales the loss itself
        "gradient_clipping": hparams["max_grad_norm"],
        "bf16": {"enabled": trainer["dtype"] == "bfloat16"},
        "zero_optimization": {"stage": trainer["zero_stage"]},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def apply_update(engine: Any) -> float:
    """Take the optimizer step for which gradients are accumulated; return the global gradient norm before clipping."""
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) if engine.zero_optimization_stage() == 0 else None
    engine.step()
    return float(norm if norm is not None else engine.get_global_grad_norm())


def completion_logits(model: Any, ids: Tensor, attention: Tensor, length: int) -> Tensor:
    """Return the logits (B, length, V) that predict the last `length` tokens of left-padded rows ids (B, T)."""
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    output = model(input_ids=ids, attention_mask=attention, position_ids=positions, logits_to_keep=length + 1, use_cache=False)
    logits: Tensor = output.logits[:, :-1]
    return logits
