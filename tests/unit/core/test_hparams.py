from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue, catalogue_of

SMALL = {
    "rate": {
        "group": "regularization",
        "kind": "float",
        "low": 1e-6,
        "high": 1e-2,
        "scale": "log",
        "default": 1e-4,
    },
    "kl": {
        "group": "regularization",
        "kind": "float",
        "low": 0.0,
        "high": 0.2,
        "scale": "log",
        "default": 0.001,
    },
    "warm": {"group": "optimization", "kind": "int", "low": 0, "high": 50, "default": 0},
    "size": {"group": "capacity", "kind": "int", "choices": [4, 8, 16], "default": 8},
    "shape": {
        "group": "optimization",
        "kind": "choice",
        "choices": ["cosine", "constant", None, True],
        "default": "constant",
    },
}


@given(st.floats(0, 1), st.sampled_from(["rate", "kl", "warm", "size", "shape"]))
def test_every_position_is_an_allowed_value_and_comes_back(position: float, name: str) -> None:
    parameter = Catalogue.from_config(SMALL)[name]
    value = parameter.at(position)
    assert parameter.problem(value) is None
    steps = len(parameter.choices or ()) - 1 if parameter.choices else 50 if name == "warm" else 1000
    assert abs(parameter.position(value) - position) <= 0.51 / steps + 2e-3


def test_samples_are_allowed_and_reach_both_ends() -> None:
    catalogue, rng = Catalogue.from_config(SMALL), random.Random(0)
    for parameter in catalogue.values():
        draws = [parameter.sample(rng) for _ in range(300)]
        assert not any(parameter.problem(value) for value in draws)
        positions = [parameter.position(value) for value in draws]
        assert min(positions) < 0.1
        assert max(positions) > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0.1),
        ("rate", "0.001"),
        ("rate", True),
        ("rate", float("nan")),
        ("warm", 2.5),
        ("warm", -1),
        ("size", 5),
        ("shape", 1),
        ("shape", "x"),
    ],
)
def test_a_value_outside_the_bounds_is_named_with_what_is_allowed(name: str, value: object) -> None:
    (problem,) = Catalogue.from_config(SMALL).problems({name: value})
    assert problem.startswith(f"{name}={value!r}")
    assert Catalogue.from_config(SMALL)[name].allowed in problem


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="siz: unknown parameter; did you mean size"):
        Catalogue.from_config(SMALL).complete({"siz": 4})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": "speed"}, "group='speed': must be one of capacity"),
        ({"low": 1.0}, "needs choices, or low < high"),
        ({"default": 1.0}, "default: rate=1.0"),
        ({"lo": 0.1}, "unknown field lo"),
        ({"scale": "log", "low": -1.0}, "log scale"),
    ],
)
def test_a_malformed_entry_says_where_and_why(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Catalogue.from_config({"rate": SMALL["rate"] | change})


def test_model_and_algorithm_override_single_fields() -> None:
    changed = Catalogue.from_config(
        SMALL,
        {"model": {"rate": {"default": 1e-3}}, "algorithm": {"size": {"choices": [2, 4], "default": 2}}},
    )
    assert changed.defaults() == Catalogue.from_config(SMALL).defaults() | {"rate": 1e-3, "size": 2}
    with pytest.raises(UserError, match=r"model\.hparams\.ratee: unknown parameter; did you mean rate"):
        Catalogue.from_config(SMALL, {"model": {"ratee": {"default": 1e-3}}})


def test_distance_is_the_largest_move_on_a_parameters_own_scale() -> None:
    catalogue = Catalogue.from_config(SMALL)
    a = catalogue.defaults()
    assert catalogue.distance(a, a) == 0
    assert catalogue.distance(a, a | {"size": 16}) == 0.5
    assert catalogue.distance(a, a | {"rate": 1e-3}) == pytest.approx(0.25)
    assert catalogue.changes(a, a | {"size": 16}) == {"size": 16}


def test_the_shipped_catalogue_is_complete(catalogue: Catalogue) -> None:
    assert {p.group for p in catalogue.values()} == {"capacity", "regularization", "optimization"}
    for parameter in catalogue.values():
        assert len(parameter.description) > 40, parameter.name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("default", {"_target_": "x"}),
        ("default", float("nan")),
        ("default", 10**400),
        ("low", float("nan")),
        ("low", "a"),
        ("high", float("inf")),
        ("high", [1]),
        ("choices", "abc"),
        ("choices", 3),
        ("choices", [[1]]),
        ("choices", [{"_target_": "x"}]),
        ("choices", []),
        ("description", ["x"]),
        ("unit", 3),
        ("kind", ["int"]),
        ("group", {}),
        ("scale", None.__class__),
    ],
)
def test_a_field_of_an_entry_has_its_type(field: str, value: Any) -> None:
    entry = {"group": "capacity", "kind": "float", "default": 1.0, "low": 0.0, "high": 2.0, field: value}
    with pytest.raises(UserError, match=r"^hparams\.parameters\.size"):
        Catalogue.from_config({"size": entry})


@pytest.mark.parametrize(
    "config",
    [
        {"hparams": 3, "model": None, "algorithm": None},
        {"hparams": {"parameters": [1]}, "model": None, "algorithm": None},
        {"hparams": {"parameters": {3: {}}}, "model": None, "algorithm": None},
        {"hparams": {"parameters": {}}, "model": "x", "algorithm": None},
        {"hparams": {"parameters": {}}, "model": {"hparams": [1]}, "algorithm": None},
        {"hparams": {"parameters": {"a": {}}}, "model": {"hparams": {"a": 1}}, "algorithm": None},
        {
            "hparams": {"parameters": {"a": {"group": None, "kind": "int", "default": 1}}},
            "model": None,
            "algorithm": None,
        },
    ],
)
def test_a_configuration_of_other_types_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"must be a mapping|missing"):
        catalogue_of(config)
