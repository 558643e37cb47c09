"""Ways in which a file comes to hold something else than what a program wrote there."""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from llmzero.core.documents import dump_yaml

Damage = Callable[[Path], None]
NESTED = 100_000
SPARSE = 300 * 1024**2
HUGE = "1e400"  # no float: every parser of JSON in Python makes an infinity of it
# What stands in place of a value; texts stand for themselves in the file, as no JSON value says so.
OTHERS: dict[str, Any] = {
    "null": None,
    "a text": "damaged",
    "a number": 5,
    "a fraction": 0.5,
    "a truth value": True,
    "a list": [],
    "a list of lists": [[1], None],
    "an object": {"a": {"b": []}},
    "NaN": float("nan"),
    "Infinity": float("-inf"),
    "1e400": HUGE,
}


def _rewritten(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: _write(path, change(path.read_bytes()))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _flipped(data: bytes, mask: int) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ mask]) + data[middle + 1 :] if data else data


def _zeroed(data: bytes) -> bytes:
    """Return the data with a block of NUL in its middle, as a power cut leaves one."""
    start, end = len(data) // 3, 2 * len(data) // 3
    return data[:start] + b"\0" * (end - start) + data[end:]


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SPARSE)


def _replaced(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


WHOLE: dict[str, Damage] = {
    "half": _rewritten(lambda data: data[: len(data) // 2]),
    "a byte less": _rewritten(lambda data: data[:-1]),
    "empty": _rewritten(lambda data: b""),
    "garbage": _rewritten(lambda data: random.Random(0).randbytes(max(100, len(data)))),
    "a byte flipped": _rewritten(lambda data: _flipped(data, 0xFF)),
    "a bit flipped": _rewritten(lambda data: _flipped(data, 0x40)),
    "[]": _rewritten(lambda data: b"[]\n"),
    "text": _rewritten(lambda data: b'"text"\n'),
    "5": _rewritten(lambda data: b"5\n"),
    "null": _rewritten(lambda data: b"null\n"),
    "{}": _rewritten(lambda data: b"{}\n"),
    "nested": _rewritten(lambda data: b"[" * NESTED + b"]" * NESTED + b"\n"),
    "nested objects": _rewritten(lambda data: b'{"a":' * NESTED + b"1" + b"}" * NESTED + b"\n"),
    "NUL in the middle": _rewritten(_zeroed),
    "NUL at the end": _rewritten(lambda data: data + b"\0" * 4096),
    "NUL": _rewritten(lambda data: b"\0" * len(data)),
    "a directory": _replaced(lambda path: path.mkdir()),
    "a FIFO": _replaced(lambda path: os.mkfifo(path)),
    "300 MB": _sparse,
}


def field_damages(path: Path) -> Iterator[tuple[str, Damage]]:
    """Yield a damage of each field of a document: another value in its place, or nothing."""
    records, write = _document(path)
    common = r"(?<=hparams\.parameters\.)\w+|(?<=metrics\.metrics\.)\w+|(?<=hparams\.)(?!parameters)\w+"
    seen: set[str] = set()
    for number, record in enumerate(records):
        for place in places(record):
            name = re.sub(common, "NAME", re.sub(r"\b\d+\b", "N", ".".join(map(str, place))))
            name = f"{record.get('event', '')} {name}" if isinstance(record, dict) else name
            if name in seen:
                continue
            seen.add(name)
            for other, value in OTHERS.items():
                if _kind(value) is not _kind(_at(record, place)):
                    yield f"{name} is {other}", _changed(records, number, place, value, write)
            if isinstance(place[-1], str):  # a list may as well be shorter
                yield f"{name} is missing", _changed(records, number, place, ..., write)


def _kind(value: Any) -> type:
    """The type of a value, where all numbers are alike: no reader can tell that one is wrong."""
    return float if type(value) is int else type(value)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value within a value; of a list, to its last item."""
    items = (
        value.items()
        if isinstance(value, dict)
        else [*enumerate(value)][-1:]
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield (*above, key)
        yield from places(item, (*above, key))


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def _changed(
    records: list[Any],
    number: int,
    place: tuple[Any, ...],
    value: Any,
    write: Callable[[Path, list[Any]], None],
) -> Damage:
    def damage(path: Path) -> None:
        changed = copy.deepcopy(records)
        container = _at(changed[number], place[:-1])
        if value is ...:
            del container[place[-1]]
        else:
            container[place[-1]] = value
        write(path, changed)

    return damage


def _document(path: Path) -> tuple[list[Any], Callable[[Path, list[Any]], None]]:
    """Return the records of a file and what writes such a file of them."""
    text = path.read_text()
    if path.suffix == ".yaml":
        return [yaml.safe_load(text)], lambda path, records: _write(path, _huge(dump_yaml(records[0])))
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in text.splitlines()]
        return records, lambda path, records: _write(
            path, b"".join(_huge(json.dumps(record) + "\n") for record in records)
        )
    return [json.loads(text)], lambda path, records: _write(path, _huge(json.dumps(records[0])))


def _huge(text: str) -> bytes:
    return text.replace(f'"{HUGE}"', HUGE).encode()
