from __future__ import annotations

import time
from pathlib import Path

import pytest

from llmzero.core.documents import load_yaml, read_document
from llmzero.core.errors import UserError

ODD_VALUES = [
    *('!!int ""', "!!int _", "!!int -", "!!int x", "!!int 089", '!!float ""', "!!float .", "!!bool x"),
    *("!!timestamp x", "2001-99-99", "2001-01-01 00:00:00 +99:99", "!!binary abc", '!!binary "ü"'),
    *("!!omap x", "!!omap [x]", "!!pairs [{a: b, c: d}]", "!!set [x]", "!!seq {x: y}", "!!map [x]"),
    *("!!str [x]", "!!python/object/apply:os.system [id]", "!!value x", "=", "{<<: [x]}", "{<<: 3}"),
    *("{? [a] : b}", "{? {a: b} : c}", "{? !!set {a} : c}", "*there", "\x00"),
    *(str(9) * 5000, "0x" + 5000 * "f", "0b" + 5000 * "1", "1" + 300 * ":59", "1" + 300 * ":59" + ".5"),
]


@pytest.mark.parametrize("text", ODD_VALUES, ids=lambda text: repr(text[:20]))
def test_a_value_that_is_none_of_its_tag_is_one_error(text: str, tmp_path: Path) -> None:
    """Constructors of tags raise whatever they like."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        load_yaml(f"a: {text}")
    assert len(str(caught.value)) < 1000
    file = tmp_path / "strategy.yaml"
    file.write_text(f"format: {text}\n")
    with pytest.raises(UserError, match=r"^strategy=.*strategy\.yaml: "):
        read_document("strategy", file, 1, ())


def test_long_numbers_take_no_time() -> None:
    """Numbers to base 60 take quadratic time in PyYAML: this one hours."""
    began = time.monotonic()
    with pytest.raises(ValueError, match="a number has 6000001 characters, of at most 400"):
        load_yaml("a: 1" + 2_000_000 * ":59")
    assert time.monotonic() - began < 60
