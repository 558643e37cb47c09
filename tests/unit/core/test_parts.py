"""Parts from anywhere are made of their group's keys, or refused with what is wrong and what to do."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.core.parts import about, make
from llmzero.core.settings import setting

HERE = "tests.unit.core.test_parts"
elsewhere = ModuleType("elsewhere")


@dataclass
class WidthSettings:
    width: int = setting(1, low=1)


elsewhere.WidthSettings = WidthSettings  # type: ignore[attr-defined]
sys.modules["elsewhere"] = elsewhere


class Dotted:
    def __init__(self, settings: elsewhere.WidthSettings) -> None:  # type: ignore[name-defined]
        self.settings = settings


class Defaulted:
    def __init__(self, settings: WidthSettings | None = None) -> None:
        self.settings = settings


class Newly:
    settings: WidthSettings

    def __new__(cls, settings: WidthSettings) -> Newly:
        made = super().__new__(cls)
        made.settings = settings
        return made


halved = partial(Dotted)


class Anything:
    def __init__(self, **settings: Any) -> None:
        self.values = settings


class WithKeyCalledSettings:
    def __init__(self, settings: str) -> None:
        self.settings = settings


class Abstract(ABC):
    @abstractmethod
    def start(self) -> None: ...


number = 3


@pytest.mark.parametrize("name", ["Dotted", "Defaulted", "Newly", "halved"])
def test_settings_are_recognised_however_they_are_annotated(name: str) -> None:
    assert make({"_target_": f"{HERE}.{name}", "width": 4}, "part").settings.width == 4
    with pytest.raises(UserError, match=r"part\.width=0: must be at least 1"):
        make({"_target_": f"{HERE}.{name}", "width": 0}, "part")


def test_a_constructor_of_any_keywords_gets_all_of_them() -> None:
    group = {"_target_": f"{HERE}.Anything", "name": "a", "workers": 2, "llm": "b"}
    assert make(group, "part", name=None, workers=1, llm=None).values == {
        "name": "a",
        "workers": 2,
        "llm": "b",
    }


def test_a_key_may_be_called_settings() -> None:
    assert make({"_target_": f"{HERE}.WithKeyCalledSettings", "settings": "x"}, "part").settings == "x"


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (None, r"part: needs a `_target_`"),
        ([1], r"part: needs a `_target_`"),
        ({"_target_": None}, r"part: needs a `_target_`"),
        ({"_target_": f"{HERE}.number"}, r"is no class or function"),
        ({"_target_": f"{HERE}.Abstract"}, r"lacks start"),
        ({"_target_": f"{HERE}.missing"}, r"cannot be imported"),
        ({"_target_": f"{HERE}.WithKeyCalledSettings"}, r"missing a required argument: 'settings'"),
        ({"_target_": f"{HERE}.Dotted", "widht": 2}, r"part\.widht: unknown key; known there: width"),
        (
            {"_target_": f"{HERE}.WithKeyCalledSettings", "settings": "a", "b": 1},
            r"unexpected keyword argument 'b'",
        ),
    ],
)
def test_what_cannot_be_made_is_refused(group: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(group, "part")


class Described:
    """A part that says what it is; it cannot be made."""

    about = "A task of mine. Reward: 1 at the most."

    def __init__(self, needed: int) -> None:
        raise AssertionError("it is not to be made")


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ({"_target_": f"{HERE}.Described"}, "A task of mine. Reward: 1 at the most."),
        ({"_target_": "llmzero.tasks.metro.Metro", "stops": 30}, "on a ring line of 30 stops, "),
        ({"_target_": "llmzero.tasks.mathematics.mathematics"}, "`3/7:` ask for an equal fraction"),
        ({"_target_": "llmzero.tasks.metro.Metro", "stops": "many"}, ""),
        ({"_target_": "os.getcwd"}, ""),
        ({"_target_": "no.such.module"}, ""),
        ({"_target_": None}, ""),
        ({}, ""),
    ],
)
def test_a_part_is_told_in_its_own_words_without_being_made(group: dict[str, Any], told: str) -> None:
    said = about(group)
    assert told in said and bool(said) == bool(told)


@pytest.mark.parametrize("difficulty", ["nano", "full"])
@pytest.mark.parametrize(
    "target",
    ["countdown.Countdown", "mathematics.mathematics", "chemistry.chemistry", "music.sheet_music"],
)
def test_every_task_tells_rules_reward_and_maximum(target: str, difficulty: str) -> None:
    said = about({"_target_": f"llmzero.tasks.{target}", "difficulty": difficulty})
    assert "Reward: 0.1 for" in said and "1 for a right one, which is the most; the score is" in said
