"""What the nano model is warm-started on, and the key that its checkpoint is cached by."""

from __future__ import annotations

import errno
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmzero.core.stage import StageDir, StageSpec
from llmzero.grpo import nano
from llmzero.grpo.distributed import World
from llmzero.grpo.heartbeat import Heartbeat
from llmzero.grpo.main import leave_for_room
from llmzero.grpo.settings import NanoRecipe
from llmzero.runners.directory import DirectoryHandle
from llmzero.tasks.base import Example, Reward
from llmzero.tasks.countdown import Countdown, CountdownSettings

TINY = NanoRecipe(hidden_size=16, layers=1, heads=2, intermediate_size=16, steps=2, batch_size=2)

NO_SPACE = "Error while serializing: I/O error: No space left on device (os error 28)"


class Doubling:
    """A task from outside the repository that conforms to `Demonstrating`, and has no careless habits."""

    metric = "correct"
    alphabet = "0123456789="

    def split(self, name: str) -> list[Example]:
        return [Example(str(i), f"{i}=", str(2 * i)) for i in range(20)]

    def reward(self, example: Example, completion: str) -> Reward:
        value = float(completion == example.answer)
        return Reward(value, {"correct": value})

    def demonstration(self, example: Example) -> str:
        return example.answer


class Shouting(Doubling):
    def careless(self, example: Example) -> str:
        return "0"


class Wordy(Doubling):
    """Writes a problem in many ways; a way's number is its text."""

    def writing(self, example: Example, number: int) -> str:
        return str(number)


class Silent:
    metric = "correct"


def nothing(phase: str, progress: float) -> None:
    pass


def test_a_task_without_careless_answers_is_taught_right_ones_alone() -> None:
    pairs = nano.demonstrations(Doubling(), TINY)
    assert pairs == [(f"{i}=", str(2 * i)) for i in range(20)]
    careless = [text for _, text in nano.demonstrations(Shouting(), TINY)]
    assert 0 < sum(text == "0" for text in careless[1:]) < 19
    assert all(text in ("0", str(2 * i)) for i, text in enumerate(careless))


def test_each_visit_of_a_problem_is_taught_its_next_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(TINY, writings=3, steps=40, batch_size=4)
    taught = nano.demonstrations(Wordy(), recipe)
    assert taught == [(f"{i}=", str(number)) for i in range(20) for number in range(3)]
    assert len(nano.demonstrations(Doubling(), recipe)) == 20, "a task with one way is taught that"
    met: dict[str, list[str]] = defaultdict(list)
    forward = nano.Qwen3ForCausalLM.forward

    def spying(self: Any, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
        for row, label in zip(input_ids, labels, strict=True):
            problem, text = (characters(tokens) for tokens in (row[label < 0], label[label >= 0]))
            met[problem].append(text)
        return forward(self, input_ids=input_ids, labels=labels)

    tokenizer = nano.character_tokenizer(Wordy.alphabet)

    def characters(tokens: torch.Tensor) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    monkeypatch.setattr(nano.Qwen3ForCausalLM, "forward", spying)
    nano.base_checkpoint(recipe, Wordy(), tmp_path, nothing)
    assert sum(map(len, met.values())) == 160
    for texts in met.values():
        assert texts == [str(visit % 3) for visit in range(len(texts))]


def test_weights_begin_with_the_deviation_that_the_recipe_says(tmp_path: Path) -> None:
    for std in (0.02, 0.1):
        recipe = replace(TINY, hidden_size=64, initializer_std=std, learning_rate=0.0)
        directory = nano.base_checkpoint(recipe, Doubling(), tmp_path / str(std), nothing)
        model = AutoModelForCausalLM.from_pretrained(directory)
        assert model.model.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(std, rel=0.1)


def test_a_task_from_outside_the_repository_gets_a_base_model(tmp_path: Path) -> None:
    directory = nano.base_checkpoint(TINY, Doubling(), tmp_path, nothing)
    assert AutoModelForCausalLM.from_pretrained(directory).config.vocab_size == 3 + len(Doubling.alphabet)
    assert nano.base_checkpoint(TINY, Doubling(), tmp_path, nothing) == directory


def test_a_cache_on_a_full_disk_is_named_and_left_empty(tmp_path: Path) -> None:
    """Libraries pass the system's error on as text, without a file."""
    full = patch("transformers.Qwen3ForCausalLM.save_pretrained", side_effect=RuntimeError(NO_SPACE))
    with full, pytest.raises(OSError, match=f"{tmp_path}/nano-") as caught:
        nano.base_checkpoint(TINY, Doubling(), tmp_path, nothing)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    stage = StageDir(tmp_path / "stage")
    stage.path.mkdir()
    with pytest.raises(OSError, match=f"{tmp_path}/nano-"):
        leave_for_room(stage, World(0, 1, None), Heartbeat(stage), caught.value)
    with pytest.raises(OSError, match=f"{tmp_path}/nano-"):
        Ended(StageSpec("0001", "0000", 1, stage.path, None, {}, 4, 0)).poll()


class Ended(DirectoryHandle):
    def alive(self) -> bool:
        return False


def test_a_task_without_demonstrations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"model=nano needs a task with demonstrations.*Silent.*use model=hf"
    ):
        nano.base_checkpoint(TINY, Silent(), tmp_path, nothing)


def test_the_default_recipe_keeps_its_cache_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints in people's caches are found again."""

    def build(*arguments: Any) -> None:
        pass

    monkeypatch.setattr(nano, "_build", build)
    directory = nano.base_checkpoint(NanoRecipe(), Countdown(CountdownSettings()), tmp_path, nothing)
    assert directory.name == "nano-0420fee546469a83"
