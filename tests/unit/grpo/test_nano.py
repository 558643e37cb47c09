"""What the nano model is warm-started on, and the key that its checkpoint is cached by."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
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
        leave_for_room(stage, World(0, 1, 0, None), Heartbeat(stage), caught.value)
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
    assert directory.name == "nano-3edffbcdeaeae80f"
