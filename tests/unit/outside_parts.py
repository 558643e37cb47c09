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


class Protocols:
    """What a search asks of an agent, an early stopper, a method and tracking."""

    interval_s = 1.0

    def _never(self, *_: Any) -> Any:
        raise AssertionError("these parts are made, and not used")

    propose = decide = ask = tell = start = finish = _never


class Part(Protocols):
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


class PartWithSettings(Protocols):
    """Takes them as an object."""

    def __init__(self, settings: PartSettings) -> None:
        self.values: dict[str, Any] = vars(settings)


class _Runner(StageRunner):
    def start(self, spec: StageSpec) -> Any:
        raise AssertionError("these parts are made, and not used")

    def attach(self, spec: StageSpec) -> None:
        return None


class Runner(_Runner, Part):
    """A runner that takes its settings one by one."""


class RunnerWithSettings(_Runner, PartWithSettings):
    """A runner that takes them as an object."""
