"""Archives of searches may be anybody's: they give files of a search into a new folder, or nothing."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from analysis import wandb_source
from analysis.wandb_source import pull
from llmzero.core.errors import UserError
from llmzero.mirrors.tracking.names import FILES, SEARCH_RUN

GOOD = ("s-3fc2a1/tree.jsonl", "s-3fc2a1/nodes/0001/stage.json", "s-3fc2a1/nodes/10000/metrics.jsonl")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 2) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return info


def archive_in(folder: Path, members: Iterable[tarfile.TarInfo]) -> Path:
    """Write the archive of an offline run with these members, each of two bytes."""
    archive = folder / f"offline-run-1-{SEARCH_RUN}" / "files" / FILES
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(b"x\n") if info.isreg() else None)
    return archive


def test_a_search_is_unpacked_into_a_new_folder_of_its_owner(tmp_path: Path) -> None:
    archive_in(tmp_path / "wandb", map(member, GOOD))
    (tmp_path / "pulled").mkdir(mode=0o755)
    [search] = pull(str(tmp_path / "wandb"), tmp_path / "pulled")
    assert search == tmp_path / "pulled/s-3fc2a1"
    files = {str(path.relative_to(tmp_path / "pulled")) for path in search.rglob("*") if path.is_file()}
    assert files == set(GOOD)
    assert stat.S_IMODE(search.stat().st_mode) == 0o700
    with pytest.raises(UserError, match="exists already"):
        pull(str(tmp_path / "wandb"), tmp_path / "pulled")


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [member("/etc/passwd")],
        [member("../tree.jsonl")],
        [member("s/../../tree.jsonl")],
        [member("s/nodes/../../x/stage.json")],
        [member("./tree.jsonl")],
        [member("/tree.jsonl")],
        [member("")],
        [member("tree.jsonl")],
        [member("s/.bashrc")],
        [member("s/nodes/0001/submitit/1_submitted.pkl")],
        [member("s/code/llmzero/__init__.py")],
        [member("s/nodes/1/stage.json")],
        [member("s/tree.jsonl"), member("t/tree.jsonl")],
        [member("s", tarfile.SYMTYPE, "/tmp"), member("s/tree.jsonl")],
        [member("s/tree.jsonl", tarfile.SYMTYPE, "/etc/passwd")],
        [member("s/config.yaml"), member("s/tree.jsonl", tarfile.LNKTYPE, "s/config.yaml")],
        [member("s/tree.jsonl", tarfile.FIFOTYPE)],
        [member("s/tree.jsonl", tarfile.CHRTYPE)],
        [member("s/nodes", tarfile.DIRTYPE)],
    ],
    ids=lambda members: ",".join(info.name or "empty" for info in members) or "nothing",
)
def test_anything_else_is_refused_and_leaves_nothing(bad: list[tarfile.TarInfo], tmp_path: Path) -> None:
    archive_in(tmp_path / "wandb", [*(map(member, GOOD[:1]) if len(bad) == 1 else ()), *bad])
    with pytest.raises(UserError, match="cannot be unpacked"):
        pull(str(tmp_path / "wandb"), tmp_path / "pulled")
    assert not list((tmp_path / "pulled").iterdir())
    assert sorted(os.listdir(tmp_path)) == ["pulled", "wandb"]


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_source, "MAX_BYTES", 3 * 1024**2)
    archive = archive_in(tmp_path / "wandb", ())
    for content, reason in (
        (bytes(8 * 1024**2), "more than 3145728 bytes"),
        (member("x", tarfile.XHDTYPE).tobuf() + bytes(100), "cannot be unpacked"),
        (b"no archive", "cannot be unpacked"),
        (header_of(2 * 1024**2), "a header states"),
    ):
        archive.write_bytes(gzip.compress(content))
        with pytest.raises(UserError, match=reason):
            pull(str(tmp_path / "wandb"), tmp_path / "pulled")
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(UserError, match="cannot be unpacked"):
        pull(str(tmp_path / "wandb"), tmp_path / "pulled")
    archive_in(tmp_path / "many", map(member, GOOD))
    monkeypatch.setattr(wandb_source, "MAX_FILES", 2)
    with pytest.raises(UserError, match="more than 2 files"):
        pull(str(tmp_path / "many"), tmp_path / "pulled")
    assert not list((tmp_path / "pulled").iterdir())


def header_of(size: int) -> bytes:
    """Return an extended header of that size."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(size)
