"""Settings as dataclass fields, their check, and the parts that are made with them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.core.parts import make, settings_type
from llmzero.core.settings import REQUIRED, allowed, explained, problems, read, setting


@dataclass
class Inner:
    share: float = setting(0.5, "of what there is", low=0, high=1)
    label: str | None = setting(None)


@dataclass
class Settings:
    path: str = setting(REQUIRED, "where it lies")
    steps: int = setting(3, "how many", low=1)
    rate: float = setting(0.1, high=1)
    limit: float | None = setting(None, low=0)
    flag: bool = setting(False)
    kind: str = setting("mean", choices=("mean", "max"))
    names: list[str] = setting([])
    more: dict[str, Any] = setting({})
    parts: dict[str, Inner] = setting({})
    inner: Inner = setting(Inner)


def read_it(**values: Any) -> Settings:
    return read(Settings, {"path": "p", **values}, "group")


def test_what_is_not_said_has_its_default() -> None:
    assert read_it() == Settings(path="p")
    assert read_it(inner={"share": 0.25}).inner == Inner(0.25)
    assert read_it(parts={"a": {"label": "x"}}).parts == {"a": Inner(label="x")}


def test_defaults_are_made_anew() -> None:
    one, other = read_it(), read_it()
    one.names.append("a")
    one.more["a"] = 1
    one.inner.share = 1.0
    assert (other.names, other.more, other.inner) == ([], {}, Inner())


def test_what_hydra_says_to_itself_is_passed_over() -> None:
    assert read_it(_target_="some.where", _partial_=True) == read_it()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "group.step: unknown key; known there: path, steps, rate"),
        ({"b": 1, "a": 2}, "group.a, b: unknown key"),
        ({"steps": "many"}, "group.steps='many': must be of type int"),
        ({"steps": 2.5}, "group.steps=2.5: must be of type int"),
        ({"steps": math.nan}, "group.steps=nan: must be of type int"),
        ({"limit": "high"}, "group.limit='high': must be of type float or null"),
        ({"flag": "yes"}, "group.flag='yes': must be of type bool"),
        ({"names": [1]}, "group.names=[1]: must be of type list"),
        ({"path": 3}, "group.path=3: must be of type str"),
        ({"path": None}, "group.path=None: must be of type str"),
        ({"path": "???"}, "group.path: needs a value, e.g. path=..."),
        ({"steps": 0}, "group.steps=0: must be at least 1"),
        ({"rate": 1.5}, "group.rate=1.5: must be at most 1"),
        ({"rate": math.inf}, "group.rate=inf: must be at most 1"),
        ({"rate": math.nan}, "group.rate=nan: must be a number, at most 1"),
        ({"limit": -0.5}, "group.limit=-0.5: must be at least 0"),
        ({"limit": math.nan}, "group.limit=nan: must be a number, at least 0"),
        ({"kind": "median"}, "group.kind=median: must be one of max, mean"),
        ({"inner": {"share": 2.0}}, "group.inner.share=2.0: must be from 0 to 1"),
        ({"inner": {"share": math.nan}}, "group.inner.share=nan: must be a number, from 0 to 1"),
        ({"inner": {"share": "all"}}, "group.inner.share='all': must be of type float"),
        ({"parts": {"a": {"share": -1.0}}}, "group.parts.a.share=-1.0: must be from 0 to 1"),
    ],
)
def test_what_is_wrong_is_refused_with_its_key_and_what_is_allowed(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_it(**values)
    assert message in str(caught.value)


def test_an_unknown_key_of_a_nested_group_is_named() -> None:
    with pytest.raises(UserError, match="shar"):
        read_it(inner={"shar": 0.5})


def test_none_passes_bounds_and_choices_where_it_is_a_value() -> None:
    assert read_it(limit=None, inner={"label": None}) == read_it()


def test_every_value_that_is_not_allowed_is_named() -> None:
    settings = Settings(path=REQUIRED, steps=0, kind="x", inner=Inner(2.0))
    said = problems(settings, "")
    assert [text.partition(":")[0] for text in said] == ["path", "steps=0", "kind=x", "inner.share=2.0"]


def test_a_missing_value_without_a_default_is_named() -> None:
    @dataclass
    class Bare:
        depth: int

    with pytest.raises(UserError, match=r"^group\.depth: needs a value"):
        read(Bare, {}, "group")


def test_settings_are_explained_by_dotted_keys() -> None:
    said = {key: (each.metadata["explanation"], allowed(each)) for key, each in explained(Settings)}
    assert said["path"] == ("where it lies", "")
    assert said["steps"] == ("how many", "at least 1")
    assert said["rate"] == ("", "at most 1")
    assert said["kind"] == ("", "one of max, mean")
    assert said["inner.share"] == ("of what there is", "from 0 to 1")
    assert list(said)[-2:] == ["inner.share", "inner.label"]
    assert len(said) == len(fields(Settings)) + 1


# --- parts ---


class WithSettings:
    def __init__(self, settings: Inner, clock: str = "ours") -> None:
        self.settings, self.clock = settings, clock


class WithKeywords:
    def __init__(self, share: float, clock: str = "ours", *, workers: int = 1) -> None:
        self.share, self.clock, self.workers = share, clock, workers


class WithAnything:
    def __init__(self, **anything: Any) -> None:
        self.anything = anything


class Childless(WithSettings):
    """Its constructor is its parent's."""


def a_function(settings: Inner) -> tuple[str, Inner]:
    return "made", settings


def not_typed(settings: dict[str, Any]) -> dict[str, Any]:
    return settings


def group(target: str, /, **values: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{target}", **values}


@pytest.mark.parametrize("name", ["WithSettings", "Childless"])
def test_a_constructor_with_settings_gets_them_as_an_object(name: str) -> None:
    part = make(group(name, share=0.25), "group", clock="theirs", others="unwanted")
    assert type(part).__name__ == name
    assert (part.settings, part.clock) == (Inner(0.25), "theirs")
    assert make(group(name), "group").clock == "ours"


def test_a_function_makes_a_part_too() -> None:
    assert make(group("a_function", label="x"), "group") == ("made", Inner(label="x"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 2.0}, "group.share=2.0: must be from 0 to 1"),
        ({"share": math.nan}, "group.share=nan"),
        ({"luck": 1}, "group.luck: unknown key; known there: share, label"),
        ({"share": "x"}, "group.share='x': must be of type float"),
    ],
)
def test_wrong_settings_make_no_part(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        make(group("WithSettings", **values), "group")
    assert message in str(caught.value)


def test_a_constructor_without_settings_gets_keywords_as_they_are() -> None:
    part = make(group("WithKeywords", share="a third", workers=0), "group", clock="theirs", workers=7)
    assert (part.share, part.clock, part.workers) == ("a third", "theirs", 0)
    assert make(group("WithKeywords", share=1), "group", workers=7).workers == 7


def test_a_constructor_of_any_keywords_gets_all_keys_those_that_are_offered_too() -> None:
    values = {"share": 1, "name": "theirs", "nested": {"a": [1, 2]}}
    assert make(group("WithAnything", **values), "group", name=None).anything == values
    assert make(group("WithAnything", **values), "group").anything == values


def test_of_what_is_offered_too_a_constructor_gets_what_it_has_parameters_for() -> None:
    part = make(group("WithKeywords", share=1, name="theirs"), "group", name=None)
    assert not hasattr(part, "name")


def test_a_parameter_settings_that_is_no_dataclass_is_a_keyword() -> None:
    from tests.unit.core import test_settings

    assert settings_type(test_settings.not_typed) is None
    assert settings_type(test_settings.WithSettings) is Inner
    assert make(group("not_typed", settings={"depth": 2}), "group") == {"depth": 2}


@pytest.mark.parametrize("target", ["no.such.module", f"{__name__}.NoSuch", "None"])
def test_a_target_that_cannot_be_imported_is_named(target: str) -> None:
    with pytest.raises(UserError, match=rf"^group\._target_={target}: cannot be imported"):
        make({"_target_": target}, "group")
