"""The queue of stages, and what pilots tell of themselves."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmzero.core.errors import DamagedFileError
from llmzero.core.stage import StageDir
from llmzero.runners.pilot_files import PilotFiles, Record
from tests.integration.damages import WHOLE, field_damages


def stage(home: Path, name: str) -> Path:
    directory = home / name
    directory.mkdir(parents=True)
    (directory / "stage.json").write_text("{}")
    return directory


@pytest.fixture
def files(tmp_path: Path) -> PilotFiles:
    files = PilotFiles(tmp_path / "s")
    files.home.mkdir()
    return files


def test_stages_wait_in_order_and_each_goes_to_one_pilot(files: PilotFiles) -> None:
    names = ["nodes/0001", "test/base", "confirm/strategy-0001/seed-1000/nodes/0001", "nodes/0002"]
    entries = [files.add(stage(files.home, name)) for name in names]
    assert files.queued() == files.work() == entries
    assert [files.stage(entry) for entry in entries] == [files.home / name for name in names]
    assert files.take(entries[0], "0001")
    assert not files.take(entries[0], "0002")
    assert (files.queued(), files.holders()) == (entries[1:], {entries[0]: "0001"})
    assert files.add(files.home / names[0]) == entries[0], "it is there"
    files.give_back(entries[0], "0001")
    assert files.queued() == entries, "at its old place"
    assert files.withdraw(entries[0])
    assert not files.withdraw(entries[0])
    assert files.entry_of(files.home / names[0]) is None
    assert files.take(entries[1], "0001")
    files.finish(entries[1], "0001")
    assert files.holders() == {}


def test_of_many_pilots_one_gets_a_stage(files: PilotFiles) -> None:
    entries = [files.add(stage(files.home, f"nodes/{number:04d}")) for number in range(40)]

    def pilot(number: int) -> list[str]:
        own = PilotFiles(files.home)
        return [entry for entry in entries if own.take(entry, f"{number:04d}")]

    with ThreadPoolExecutor(8) as pool:
        taken = [entry for of_one in pool.map(pilot, range(8)) for entry in of_one]
    assert sorted(taken) == entries
    assert sorted(files.holders()) == entries


def test_a_rename_whose_answer_was_lost_has_succeeded(
    files: PilotFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS tells that there is no such file where the same request came twice."""
    entry = files.add(stage(files.home, "nodes/0001"))
    rename = os.rename

    def twice(source: Path, target: Path) -> None:
        rename(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", twice)
    assert files.take(entry, "0001")
    assert not files.take(entry, "0002")


@pytest.mark.parametrize(
    "name",
    ["..%2Foutside", "%2Fetc", "nodes%2F..%2F..%2Foutside", "linked", "nodes%2F9999", ".", "%2E", "nodes"],
)
def test_names_lead_to_no_directory_but_that_of_a_stage_below_the_search(
    files: PilotFiles, name: str
) -> None:
    stage(files.home, "nodes/0001")
    outside = stage(files.home.parent, "outside")
    (files.home / "linked").symlink_to(outside)
    (files.home / "stage.json").write_text("{}")
    files.make()
    (files.waiting / f"000001-{name}").touch()
    assert files.stage(f"000001-{name}") is None
    assert files.work() == [], "no pilot is asked for"


def test_a_stage_that_has_ended_waits_for_no_pilot(files: PilotFiles) -> None:
    entry = files.add(stage(files.home, "nodes/0001"))
    StageDir(files.home / "nodes/0001").result_file.touch()
    assert (files.queued(), files.work()) == ([entry], [])


def test_other_names_are_no_entries(files: PilotFiles) -> None:
    files.make()
    for name in ("x", "1-nodes%2F0001", "000001-a@b", ".000001-nodes.tmp"):
        (files.waiting / name).touch()
        (files.taken / name).touch()
    assert files.queued() == []
    assert files.holders() == {}


def test_a_pilots_record_is_read_as_it_was_written(files: PilotFiles) -> None:
    files.make()
    record = Record("12", "busy", "000001-nodes%2F0001", 2, 100.0, 150.0, 90.0, 3000.0, [[16, 90.0]])
    files.write("0001", record, 3)
    assert files.pilots() == ["0001"]
    assert files.read("0001") == record
    assert record.idle == 50.0
    assert files.finished() == [[16, 90.0]]
    assert files.read("0002") is None


def test_a_damaged_record_is_named_and_teaches_pilots_nothing(files: PilotFiles) -> None:
    files.make()
    files.record_file("0001").write_text('{"job_id": 5}')
    with pytest.raises(DamagedFileError, match=r"0001\.json"):
        files.read("0001")
    assert files.finished() == []


def test_every_damage_of_a_record_is_named_or_does_not_matter(files: PilotFiles) -> None:
    files.make()
    record = Record("12", "busy", "000001-nodes%2F0001", 2, 100.0, 150.0, 90.0, 3000.0, [[16, 90.0]])
    files.write("0001", record, 3)
    file = files.record_file("0001")
    pristine, named = file.read_bytes(), 0
    for _, damage in (*WHOLE.items(), *field_damages(file)):
        damage(file)
        try:
            read = files.read("0001")
        except DamagedFileError as error:
            named += str(file) in str(error)
        else:
            assert read is None or read.idle >= 0
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        file.write_bytes(pristine)
    assert named > 50
