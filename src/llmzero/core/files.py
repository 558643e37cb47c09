"""Files that survive a crash, and readers that refuse damaged ones.

Replacement is atomic and appends are whole, or the error names the file and nothing of the attempt stays.
Readers take nothing on trust: whatever is wrong with a file is a `DamagedFileError` that names it.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from llmzero.core.errors import DamagedFileError, UserError

T = TypeVar("T")

MAX_DEPTH = 50  # of lists and mappings within each other: what the project writes has about ten
RESTORE = "restore it from a copy, or leave this search out"
MAX_BYTES = 512 * 1024**2  # of a file that is read at once
FULL = (errno.ENOSPC, errno.EDQUOT)  # of the disk, or of the user's share of it
_SAFE = (str, int, bool, type(None))  # they hold no floats
_WRONG_CONTENT = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


def write_atomic(path: Path, text: str | bytes, *, sync: bool = True) -> None:
    """Replace a file's content; a reader sees the old one or the new, with `sync` even after a power cut.

    A link in its place is replaced, and what it leads to stays as it is.

    Raises:
        OSError: it names the file; the old content stays, and no temporary file does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _naming(path):
        try:
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            data = text if isinstance(text, bytes) else text.encode(errors="replace")
            _write(descriptor, data, sync)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Write a JSON document atomically. NaN and infinities become null, so that any parser reads it."""
    write_atomic(path, json.dumps(finite(value), indent=2) + "\n", sync=sync)


def append_jsonl(path: Path, records: Iterable[Mapping[str, Any]], *, sync: bool = False) -> None:
    """Append records, one JSON object a line; with `sync` they are on disk when this returns."""
    append(path, _lines(records), sync=sync)


def append(path: Path, text: str, *, sync: bool = False) -> None:
    """Append to a file, creating it; an unfinished line that a killed process left at its end is cut off.

    Raises:
        OSError: it names the file, which holds what it held before.
    """
    with _naming(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        end = _cut_unfinished_line(descriptor)
        try:
            _write(descriptor, text.encode(errors="replace"), sync)
        except OSError:
            with suppress(OSError):
                os.truncate(path, end)
            raise


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file's records atomically."""
    write_atomic(path, _lines(records))


def read_text(path: Path, remedy: str = RESTORE) -> str:
    """Return the text of a file.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is no regular file, too large, or not encoded as UTF-8.
    """
    data = read_bytes(path, remedy)
    with reading(path, remedy):
        return data.decode("utf-8")


def read_bytes(path: Path, remedy: str = RESTORE) -> bytes:
    """Return the content of a file; all files of a search are read here.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is no regular file, such as a directory, or a pipe that one would wait for
            forever; or it is too large.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DamagedFileError(path, "it is no regular file", remedy)
    if status.st_size > MAX_BYTES:
        raise DamagedFileError(path, f"it has {status.st_size} bytes", remedy)
    return path.read_bytes()


def read_json(path: Path, remedy: str = RESTORE) -> dict[str, Any] | None:
    """Return a JSON object, or None where the file does not exist.

    Raises:
        DamagedFileError: it holds anything else.
    """
    try:
        text = read_text(path, remedy)
    except FileNotFoundError:
        return None
    with reading(path, remedy):
        return parsed(text)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file that may still be written to: an unfinished last line is left out.

    Raises:
        DamagedFileError: a finished line is no JSON object.
    """
    return read_records(path, lambda record: record)


def read_records(
    path: Path,
    kind: Callable[[dict[str, Any]], T],
    remedy: str = "restore the file from a copy, or delete that line",
    *,
    whole: bool = False,
) -> list[T]:
    """Return what `kind` makes of the records of a file, as `read_jsonl` reads them.

    Args:
        path: the file.
        kind: makes something of a record, and raises where it cannot.
        remedy: what to do where a line is damaged.
        whole: whether nothing is written to it any more, so that an unfinished last line is damage.

    Raises:
        DamagedFileError: a finished line is no JSON object, or `kind` raises; the message names the line.
    """
    try:
        *lines, rest = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return []
    if rest and whole:
        raise DamagedFileError(f"{path}:{len(lines) + 1}", "the last line is not finished", remedy)
    records: list[T] = []
    number = 0
    with reading(path, remedy, line=lambda: number):
        for line in lines:
            number += 1
            if line:
                records.append(kind(parsed(line)))
    return records


def parsed(text: str | bytes, *, once: bool = False) -> dict[str, Any]:
    """Return the JSON object that a text is.

    Args:
        text: it.
        once: whether a key may stand once only in an object; else its last value counts.

    Raises:
        ValueError: it is none, or lists and mappings lie too deep within each other.
    """
    value = json.loads(text, object_pairs_hook=_stated_once if once else None)
    if not isinstance(value, dict):
        raise ValueError(f"must be an object, {{...}}, but is {type(value).__name__}")
    opening = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    few = sum(map(text.count, opening)) <= MAX_DEPTH  # type: ignore[arg-type]
    if not few and too_deep(value):
        raise ValueError(f"lists and mappings lie more than {MAX_DEPTH} deep within each other")
    return value


def _stated_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"states {twice!r} more than once")
    return record


def too_deep(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Return whether lists and mappings lie more than `depth` deep within each other."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    return items is not None and (depth == 0 or any(too_deep(item, depth - 1) for item in items))


@contextmanager
def reading(path: Path, remedy: str = RESTORE, *, line: Callable[[], int] | None = None) -> Iterator[None]:
    """Raise `DamagedFileError` for what the block finds wrong with the content of a file.

    Args:
        path: the file.
        remedy: what to do, for the message.
        line: returns the line in hand, for the message; None names the file alone.
    """
    try:
        yield
    except _WRONG_CONTENT as error:
        where = f"{path}:{line()}" if line else path
        problem = f"{error} is missing" if isinstance(error, KeyError) else error or type(error).__name__
        raise DamagedFileError(where, problem, remedy) from error


def open_own(path: Path) -> TextIO:
    """Open a file for appending line by line, creating it: one to lock, or a log that others write too.

    Raises:
        UserError: a link lies there, which is not followed.
    """
    with _naming(path):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UserError(f"{path}: is a link, through which nothing is written; remove it") from error
            raise
        return os.fdopen(descriptor, "a", buffering=1, encoding="utf-8", errors="replace")


def make_private(path: Path) -> None:
    """Create a directory that only its owner may enter; one that exists keeps its permissions.

    Raises:
        NotADirectoryError: a file, or a link to nothing, lies in its place or above it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error


def no_room(file: Path | str) -> OSError:
    """Return the error that says, with the file, that a disk is full; for one that came as another kind."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(directory: Path) -> None:
    """Delete what killed writers left in a directory that nobody writes to now."""
    for file in directory.glob(".*.tmp"):
        file.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """Return the value with NaN and infinite floats replaced by None, at any depth."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: item if type(item) in _SAFE else finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [item if type(item) in _SAFE else finite(item) for item in value]
    return value


def _lines(records: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(finite(record)) + "\n" for record in records)


def _write(descriptor: int, data: bytes, sync: bool) -> None:
    """Write all bytes and close; a full disk may take a part of them, and may tell of it at the close."""
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if sync:
            os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)


def _cut_unfinished_line(descriptor: int) -> int:
    """Cut off what follows the last newline of a file; return its size then."""
    size = end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536) if end < size else end - 1  # as a rule the last byte is the newline
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        end = start + newline + 1 if newline >= 0 else start
        if newline >= 0:
            break
    if end < size:
        os.ftruncate(descriptor, end)
    return end


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have an operating system's error name the file that was to be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
