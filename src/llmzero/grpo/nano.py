"""The nano model: an ordinary Hugging Face directory small enough to learn on a laptop CPU, warm-started on
solutions.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from llmzero.core.files import no_room
from llmzero.grpo.failures import is_disk_full
from llmzero.grpo.limits import SPECIAL_TOKENS
from llmzero.grpo.settings import NanoRecipe
from llmzero.tasks.base import Careless, Demonstrating, Example, Varied

WARM_START_THREADS = 1  # a fixed number: sums in another order give other bits
RECIPE_VERSION = 3  # raise it when the code below changes what a recipe makes
PAD, EOS, UNKNOWN = SPECIAL_TOKENS
Progress = Callable[[str, float], None]
Taught = tuple[str, str]  # a prompt and its completion


def base_checkpoint(recipe: NanoRecipe, task: Any, cache_dir: Path, progress: Progress) -> Path:
    """Return the base model's directory for a task, warm-starting it where the cache has none for that recipe
    and these demonstrations.

    Raises:
        ValueError: the task has no demonstrations to warm-start on.
    """
    if not isinstance(task, Demonstrating):
        raise ValueError(
            f"model=nano needs a task with demonstrations and an alphabet; "
            f"{type(task).__name__} has not both: use model=hf"
        )
    taught = demonstrations(task, recipe)
    demonstrated = hashlib.sha256(json.dumps([task.alphabet, taught]).encode()).hexdigest()
    key = {"version": RECIPE_VERSION, "recipe": asdict(recipe), "demonstrations": demonstrated}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    directory = cache_dir / f"nano-{digest}"
    if (directory / "COMPLETE").exists():
        return directory
    cache_dir.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".nano-{digest}-", dir=cache_dir))
    try:
        _build(recipe, task, taught, building, progress)
        (building / "recipe.json").write_text(json.dumps(key, indent=2, sort_keys=True))
        (building / "COMPLETE").touch()
        # Another process may have been faster; both made the same bytes.
        if not (directory / "COMPLETE").exists():
            shutil.rmtree(directory, ignore_errors=True)
            os.replace(building, directory)
    except Exception as error:
        if is_disk_full(error):  # of the cache, which may be another than the stage's
            raise no_room(directory) from error
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return directory


def demonstrations(task: Any, recipe: NanoRecipe) -> list[Taught]:
    """Return what is taught of the train split: the demonstration of each problem, a share of them careless
    where the task has bad habits to teach; with several writings of a task that has them all those of the
    first problem, then those of the second, and so on.
    """
    if (writings := _writings(task, recipe)) > 1:
        return [
            (e.prompt, task.writing(e, number)) for e in task.split("train") for number in range(writings)
        ]
    rng = random.Random(recipe.seed)
    careless = task.careless if isinstance(task, Careless) else task.demonstration
    examples: Sequence[Example] = task.split("train")
    return [
        (e.prompt, careless(e) if rng.random() < recipe.careless_share else task.demonstration(e))
        for e in examples
    ]


def _writings(task: Any, recipe: NanoRecipe) -> int:
    """Return how often each problem is among what is taught."""
    return recipe.writings if isinstance(task, Varied) else 1


def _build(
    recipe: NanoRecipe, task: Any, taught: Sequence[Taught], directory: Path, progress: Progress
) -> None:
    tokenizer = character_tokenizer(task.alphabet)
    threads = torch.get_num_threads()
    torch.set_num_threads(WARM_START_THREADS)
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(_architecture(recipe, tokenizer))
    _warm_start(model, tokenizer, taught, _writings(task, recipe), recipe, progress)
    torch.set_num_threads(threads)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Return a fast tokenizer with one token a character of `alphabet`."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *sorted(set(alphabet))])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def _architecture(recipe: NanoRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden_size // recipe.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=recipe.initializer_std,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def _warm_start(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    taught: Sequence[Taught],
    writings: int,
    recipe: NanoRecipe,
    progress: Progress,
) -> None:
    """Train on demonstrations: AdamW, cosine decay, loss on the completion alone.

    Problems are drawn at random; each is met in its next writing, and after the last in its first again.
    """
    ids, labels = _padded(tokenizer, taught)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    visits: dict[int, Iterator[int]] = defaultdict(count)
    for step in range(recipe.steps):
        problems = torch.randint(len(taught) // writings, (recipe.batch_size,), generator=generator)
        rows = problems * writings + torch.tensor([next(visits[i]) % writings for i in problems.tolist()])
        warm = min(1.0, (step + 1) / 20)
        optimizer.param_groups[0]["lr"] = (
            recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        )
        loss = model(input_ids=ids[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress("warm start", (step + 1) / recipe.steps)


def _padded(tokenizer: PreTrainedTokenizerFast, taught: Sequence[Taught]) -> tuple[Tensor, Tensor]:
    """Return right-padded token ids and labels, both (N, T); labels are -100 on prompts and padding."""
    prompts = [tokenizer.encode(prompt) for prompt, _ in taught]
    solutions = [[*tokenizer.encode(text), tokenizer.eos_token_id] for _, text in taught]
    width = max(len(p) + len(s) for p, s in zip(prompts, solutions, strict=True))
    ids = torch.full((len(taught), width), tokenizer.pad_token_id)
    labels = torch.full((len(taught), width), -100)
    for row, (prompt, solution) in enumerate(zip(prompts, solutions, strict=True)):
        end = len(prompt) + len(solution)
        ids[row, :end] = torch.tensor(prompt + solution)
        labels[row, len(prompt) : end] = torch.tensor(solution)
    return ids, labels
