"""Catalogues of metrics: those of a search directory may come from anywhere."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmzero.core.errors import UserError
from llmzero.core.metrics import metric_catalogue, usual_entries


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("level", "first", "level=first: must be of type int or null"),
        ("table", [1], "table=[1]: must be of type int or null"),
        ("meaning", None, "meaning=None: must be of type str"),
        ("healthy", [0.0], "healthy=[0.0]: must be two values"),
        ("healthy", ["low", "high"], "healthy[0]=low: must be of type int or float or null"),
        ("plot", ["reward", "solid", "wide"], "plot=['reward', 'solid', 'wide']: must be two values"),
        ("depends_on", "temperature", "depends_on=temperature: must be of type list"),
    ],
)
def test_a_field_of_a_wrong_kind_is_refused_by_name(field: str, value: Any, problem: str) -> None:
    entries = usual_entries()
    wrong = {**entries, "entropy": {**entries["entropy"], field: value}}
    with pytest.raises(UserError, match=re.escape(f"metrics.metrics.entropy.{problem}")):
        metric_catalogue(wrong)
