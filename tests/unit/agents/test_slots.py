"""Slots on a machine that is shared with strangers: folders, links, locks held for ever, no locks at all."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from llmzero.agents import slots
from llmzero.agents.slots import slot
from llmzero.core.errors import UserError

STRANGER = 12345  # a user id

HOLD = """
import sys, time
from llmzero.agents.slots import slot
with slot("endpoint", 1, 5.0):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the locks lie."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "runtime").mkdir(mode=0o700)
    slots._warn.cache_clear()
    return tmp_path / "runtime" / "llmzero-slots"


@contextmanager
def another_process() -> Iterator[subprocess.Popen[str]]:
    """Hold the only slot elsewhere."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_folder_and_its_locks_are_ours_alone(folder: Path) -> None:
    with slot("endpoint", 2, 1.0), slot("endpoint", 2, 1.0):
        files = list(folder.iterdir())
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_a_session_directory_the_cache_has_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/no/such/directory")
    with slot("endpoint", 1, 1.0):
        assert (tmp_path / "cache/llmzero-slots").is_dir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with slot("endpoint", 1, 1.0):
        assert (tmp_path / "home/.cache/llmzero-slots").is_dir()
    assert not folder.exists()


def test_a_link_in_place_of_a_lock_is_not_followed(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "thesis.tex"
    victim.write_text("years of work")
    with slot("endpoint", 1, 1.0):
        pass
    (lock,) = folder.iterdir()
    lock.unlink()
    lock.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), slot("endpoint", 1, 1.0):
        pass
    assert victim.read_text() == "years of work"


def test_a_file_that_is_there_is_not_emptied(folder: Path) -> None:
    with slot("endpoint", 1, 1.0):
        pass
    (lock,) = folder.iterdir()
    lock.write_text("somebody's words")
    with slot("endpoint", 1, 1.0):
        assert lock.read_text() == "somebody's words"


@pytest.mark.parametrize("trick", ["link", "file", "open", "group", "foreign"])
def test_a_folder_that_others_have_access_to_is_refused(folder: Path, tmp_path: Path, trick: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if trick == "link":
        folder.symlink_to(elsewhere)
    elif trick == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod({"open": 0o777, "group": 0o750, "foreign": 0o700}[trick])
    if trick == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root gives folders away")
        os.chown(folder, STRANGER, STRANGER)
    with pytest.raises(UserError, match=r"llmzero-slots: .*remove it"), slot("endpoint", 1, 1.0):
        pass
    assert not list(elsewhere.iterdir())


def test_a_lock_that_is_never_let_go_is_not_waited_for_for_ever() -> None:
    with another_process():
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="max_at_once"), slot("endpoint", 1, 0.3):
            pass
        assert 0.3 <= time.monotonic() - began < 20
        with slot("another endpoint", 1, 1.0):
            pass


def test_a_killed_holder_frees_its_slot() -> None:
    with another_process() as process:
        process.kill()
        with slot("endpoint", 1, 20.0):
            pass


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_limits_nothing_and_says_so_once(
    reason: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with caplog.at_level(logging.WARNING), ExitStack() as held:
        for _ in range(3):
            held.enter_context(slot("endpoint", 1, 1.0))
    assert [record.getMessage() for record in caplog.records] == [
        "llm.max_at_once: calls at one time are not limited: the file system of their locks has none"
    ]


def test_without_a_folder_calls_are_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file/cache"))
    with caplog.at_level(logging.WARNING), slot("endpoint", 1, 1.0), slot("endpoint", 1, 1.0):
        pass
    assert "no folder can be made" in caplog.text


def test_no_descriptor_stays_open() -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    for _ in range(5):
        with slot("endpoint", 1, 1.0), pytest.raises(TimeoutError), slot("endpoint", 1, 0.0):
            pass
    assert opened() == before


def test_a_full_disk_of_the_locks_limits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid():
        assert not os.environ.get("CI"), "a small file system cannot be mounted"
        pytest.skip("mounting a small file system needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "nr_inodes=2,mode=0700", "tmpfs", str(tmp_path)]
    subprocess.run(mount, check=True)
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        with slot("http://full", 2, 5.0):
            pass
        assert "the disk of their locks is full" in caplog.text
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
