"""YAML and JSON of strangers: plain data, bounded, or one error that names the file."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from llmzero.core.documents import dump_yaml, load_yaml, read_document, read_lines, read_yaml
from llmzero.core.errors import UserError
from llmzero.core.files import parsed

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


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e", "é"])
def test_a_line_ends_with_a_newline_alone(tmp_path: Path, separator: str) -> None:
    """Other separators of lines may stand in a text; JSON itself escapes the ASCII ones."""
    file = tmp_path / "lines.jsonl"
    text = f"a{separator}b"
    line = json.dumps({"x": text}, ensure_ascii=separator.isascii())
    file.write_bytes(f"\ufeff{line}\r\n\r\n{line}".encode())
    assert [*read_lines("task.path", file)] == [(f"{file}:1", {"x": text}), (f"{file}:3", {"x": text})]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"x": "\\ud800"}', r':2: holds "\\ud800", half of a character'),
        (b'{"x": [{"y\\uDFFF": 1}]}', r':2: holds "\\udfff", half of a character'),
        (b'{"x": 1, "y": 2, "x": 1}', r":2: states 'x' more than once"),
        (b'{"x": {"y": 1, "y": 2}}', r":2: states 'y' more than once"),
        (b'{"x": "\xe9"}', r":2: cannot be read \(.*task\.path must be a file in UTF-8"),
        (b'{"x": ' + b"9" * 5000 + b"}", r":2: Exceeds the limit"),
        (b"[" * 100_000, r":2: "),
    ],
)
def test_lines_that_cannot_be_used_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"x": "\\ud83d\\ude00"}\n' + data + b"\n")
    with pytest.raises(UserError, match=message):
        list(read_lines("task.path", file))


def test_a_compressed_file_is_named_as_such(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"x": 1}\n'))
    with pytest.raises(UserError, match=r"task\.path=.*gz: is compressed by gzip; unpack it first"):
        list(read_lines("task.path", file))


HOSTILE = {
    "brackets": "[" * 100_000,
    "mappings": "{a: " * 100_000,
    "indented": "\n".join(f"{' ' * depth}a:" for depth in range(3000)),
    "dashes": "- " * 100_000,
    "an alias": "a: &x [1]\nb: *x",
    "a bomb": BOMB,
    "a merge": "a: &x {b: 1}\nc: {<<: *x}",
    "an object": "!!python/object/apply:os.system [touch here]",
    "a name": "!!python/name:os.system ''",
    "a tag": "!mine {a: 1}",
    "two documents": "a: 1\n---\nb: 2",
    "a NUL": "a: \0",
    "half": "{a: [1, 2",
    "a tab": "a:\n\t- b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_yaml_is_refused_with_its_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_yaml(text)
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=f"{file}: cannot be read"):
        read_yaml(file)
    with pytest.raises(UserError, match=f"strategy={file}: "):
        read_document("strategy", file, 1, ("stages",))


@pytest.mark.parametrize("text", ["", "5", "text", "[]", "null"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="must be a mapping"):
        read_yaml(tmp_path / "config.yaml")


def test_what_is_written_is_read_again() -> None:
    shared = [1, 2]
    value = {"a": shared, "b": shared, "rate": 1e-5, "text": "1e-5", "long": "x" * 300, "nothing": None}
    assert load_yaml(dump_yaml(value)) == value
    assert load_yaml("rate: 1e-4") == {"rate": 1e-4}


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "5", '{"a": ' * 60 + "1" + "}" * 60, '{"a": 1', "\0", ""]
)
def test_json_is_an_object_that_is_not_too_deep(tmp_path: Path, text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parsed(text)
    file = tmp_path / "data.jsonl"
    file.write_text('{"a": 1}\n' + text + "\n")
    if text:
        with pytest.raises(UserError, match=f"{file}:2: "):
            list(read_lines("task.path", file))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("format: 1\nstages: []\nformat: 1", "line 3: the key 'format' is there twice"),
        ("format: 1\nstages:\n- a: 1\n  'a': 2", "line 4: the key 'a' is there twice"),
        ("format: 1\nstages: {x: {1: a, 1: b}}", "line 2: the key 1 is there twice"),
        ("format: 1\nstages: {[1, 2]: a}", "line 2: a key must be a text or a number"),
        ("format: 1\nstages: !mine x", "line 2: the tag !mine: must be plain data, without tags"),
        ("format: 1\nstages:\n\t- a", "line 3, column 1; indent with spaces, not with tabs"),
        ("format: 1\nstages: 010", "line 2: 010: write a text in quotes, a number in decimal digits"),
        ("format: 1\nstages: 1:30", "line 2: 1:30: write a text in quotes"),
        ("format: '1'\nstages: []", "format is '1': must be 1,"),
        ("format: 1.0\nstages: []", "format is 1.0: must be 1,"),
        ("format: true\nstages: []", "format is True: must be 1,"),
        ("format: .nan\nstages: []", "format is nan: must be 1,"),
        ("format:\nstages: []", "format is None: must be 1,"),
        ("", "is empty, not a mapping; format is missing"),
        ("# a note\n", "is empty, not a mapping; format is missing"),
        ("- 1\n", "is a list, not a mapping; format is missing"),
        ("words", "is a single value, not a mapping; format is missing"),
    ],
)
def test_what_is_wrong_with_a_document_is_said_with_its_file_and_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "strategy.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        read_document("strategy", file, 1, ("stages",))
    assert str(refused.value).startswith(f"strategy={file}: ")
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_texts_that_look_like_numbers_stay_texts() -> None:
    value = {"0002": "010", "1:30": ["1:30:00", "0_7", "-01"], "zero": 0, "half": 0.5, "time": "00:10"}
    assert load_yaml(dump_yaml(value)) == value
