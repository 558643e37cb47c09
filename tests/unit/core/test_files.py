"""Writes are whole or do not happen; readers name what they cannot read."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmzero.cli import explain
from llmzero.core.errors import UserError
from llmzero.core.files import append_jsonl, make_private, read_json, read_jsonl, write_atomic, write_json
from llmzero.core.shapes import NUMBER, require


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        assert not os.environ.get("CI"), "a small file system cannot be mounted"
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_write_that_does_not_fit_leaves_the_old_file_and_nothing_else(small_disk: Path) -> None:
    file = small_disk / "file.json"
    write_json(file, {"old": 1})
    with pytest.raises(OSError, match=str(file)) as failure:
        write_atomic(file, "x" * 100_000)
    assert failure.value.errno == errno.ENOSPC
    assert read_json(file) == {"old": 1}
    assert [path.name for path in small_disk.iterdir()] == ["file.json"]


@pytest.mark.parametrize("sync", [False, True])
def test_lines_that_do_not_fit_are_not_there_in_part(small_disk: Path, sync: bool) -> None:
    file = small_disk / "lines.jsonl"
    written = 0

    def fill() -> None:
        nonlocal written
        for written in range(10_000):
            append_jsonl(file, [{"number": written, "text": "x" * 700}], sync=sync)

    with pytest.raises(OSError, match=str(file)) as failure:
        fill()
    assert failure.value.errno == errno.ENOSPC
    assert file.read_bytes().endswith(b"}\n")
    assert [record["number"] for record in read_jsonl(file)] == list(range(written))


@pytest.mark.parametrize("tail", [b'{"a": 1', b"x" * 200_000, b"\0\0\0", b""])
def test_an_unfinished_line_is_cut_off_before_the_next_is_written(tmp_path: Path, tail: bytes) -> None:
    file = tmp_path / "lines.jsonl"
    append_jsonl(file, [{"n": 1}])
    with file.open("ab") as opened:
        opened.write(tail)
    append_jsonl(file, [{"n": 2}, {"n": 3}])
    assert read_jsonl(file) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    for name in ("lines.jsonl", "file.json"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"lines\.jsonl"):
        append_jsonl(tmp_path / "lines.jsonl", [{"a": 1}])
    write_json(tmp_path / "file.json", {"a": 1})  # takes the link's place
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "file.json").is_symlink()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"5", b"[" * 100_000, b"{", b"\0" * 4096])
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}: cannot be read \(.+\); delete it"):
        read_json(file, "delete it")


def test_a_directory_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("directory", "pipe"):
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            read_json(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            read_jsonl(tmp_path / name)


@pytest.mark.parametrize("value", [True, "5", None, float("nan"), float("inf"), 10**400, [], {}])
def test_a_number_is_a_finite_number(value: object) -> None:
    require({"a": 5, "b": 0.5}, {"a": int, "b": NUMBER})
    with pytest.raises(ValueError, match="a="):
        require({"a": value}, {"a": NUMBER})


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_file_where_a_directory_has_to_be_is_told_as_such(tmp_path: Path, below: str) -> None:
    """As launchers explain it: `FileExistsError`, which `mkdir` raises, would end in a traceback."""
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError) as refused:
        make_private(file / below)
    assert explain(refused.value) == (
        f"{refused.value.filename}: is a file, where a directory has to be; move it away"
    )
    assert str(refused.value.filename).startswith(str(file))
