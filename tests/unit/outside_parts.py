"""Parts from outside the repository: names of their settings are ours too, with other types and bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmzero.core.settings import setting
from llmzero.core.stage import StageSpec
from llmzero.runners.base import StageRunner

VALUES = {
    "difficulty": "hard",
    "sampler": "botorch",
    "temperature": 5,
    "name": "theirs",
    "workers": 0,
    "seed": -1,
    "source": "elsewhere",
    "timeout_s": 0,
}


class Part:
    """Takes its settings one by one."""

    def __init__(
        self,
        difficulty: str,
        sampler: str,
        temperature: int,
        name: str,
        workers: int,
        seed: int,
        source: str,
        timeout_s: int,
    ) -> None:
        self.values = {key: value for key, value in locals().items() if key != "self"}


@dataclass
class PartSettings:
    """Settings of `PartWithSettings`."""

    difficulty: str = setting("easy")
    sampler: str = setting("none")
    temperature: int = setting(1, high=10)
    name: str = setting("nobody")
    workers: int = setting(1)
    seed: int = setting(0)
    source: str = setting("nowhere")
    timeout_s: int = setting(1)


class PartWithSettings:
    """Takes them as an object."""

    def __init__(self, settings: PartSettings) -> None:
        self.values: dict[str, Any] = vars(settings)


class _Runner(StageRunner):
    def start(self, spec: StageSpec) -> Any:
        raise NotImplementedError

    def attach(self, spec: StageSpec) -> None:
        return None


class Runner(Part, _Runner):
    """A runner that takes its settings one by one."""


class RunnerWithSettings(PartWithSettings, _Runner):
    """A runner that takes them as an object."""
