"""Files that survive a crash: atomic replacement, fsynced appends, a reader that skips a torn last line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SAFE = (str, int, bool, type(None))  # they hold no floats


def write_atomic(path: Path, text: str, *, sync: bool = True) -> None:
    """Replace a file's content; a reader sees the old text or the new, with `sync` even after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Write a JSON document atomically. NaN and infinities become null, so that any parser reads it."""
    write_atomic(path, json.dumps(finite(value), indent=2) + "\n", sync=sync)


def append_jsonl(path: Path, records: Iterable[dict[str, Any]], *, sync: bool = False) -> None:
    """Append records, one JSON object a line; with `sync` they are on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(records))
        file.flush()
        if sync:
            os.fsync(file.fileno())


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replace a file's records atomically."""
    write_atomic(path, _lines(records))


def _lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(finite(record)) + "\n" for record in records)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file that may still be written to: an unfinished last line is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None where the file does not exist."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    value: dict[str, Any] = json.loads(text)
    return value


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finite(value: Any) -> Any:
    """Return the value with NaN and infinite floats replaced by None, at any depth."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: item if type(item) in _SAFE else finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [item if type(item) in _SAFE else finite(item) for item in value]
    return value
