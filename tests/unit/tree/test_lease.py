"""One driver a search, on any machine that shares its directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmzero.core.errors import UserError
from llmzero.core.files import remove_temporary
from llmzero.tree import lease
from llmzero.tree.lease import Lease, is_alive


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_S", 0.05)
    monkeypatch.setattr(lease, "SILENCE_S", 0.5)
    monkeypatch.setattr(lease, "SETTLING_S", 0.05)


def test_a_lease_is_held_once_and_given_back(tmp_path: Path) -> None:
    file = tmp_path / "driver.json"
    with Lease(file).held():
        assert is_alive(file)
        with pytest.raises(UserError, match="another process is at work there"), Lease(file).held():
            pass
        assert is_alive(file), "a refusal leaves it alone"
    assert list(tmp_path.iterdir()) == []


def test_a_copy_is_no_ones_while_the_original_is_driven(tmp_path: Path) -> None:
    """But a directory that is reached by another path, or was renamed, is the same one."""
    original, copy, link = (tmp_path / name for name in ("original", "copy", "link"))
    original.mkdir()
    link.symlink_to(original)
    with Lease(original / "driver.json").held():
        shutil.copytree(original, copy)
        assert not is_alive(copy / "driver.json")
        with Lease(copy / "driver.json").held():
            assert is_alive(copy / "driver.json") and is_alive(link / "driver.json")
        original.rename(tmp_path / "renamed")
        assert is_alive(tmp_path / "renamed/driver.json")
        (tmp_path / "renamed").rename(original)
    assert [*original.iterdir(), *copy.iterdir()] == []


def test_a_claim_of_a_killed_driver_is_deleted_and_one_that_was_deleted_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds the lease deletes temporary files, and may meet the claim of another at that moment."""
    code = "import os, pathlib; from llmzero.tree.lease import Lease; os.link = lambda *_: os._exit(9); "
    code += f"Lease(pathlib.Path({str(tmp_path / 'driver.json')!r}))._create()"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert [file.suffix for file in tmp_path.iterdir()] == [".tmp"]
    link = os.link

    def late(claim: Path, file: Path) -> None:
        remove_temporary(tmp_path)
        assert not list(tmp_path.iterdir())
        link(claim, file)

    monkeypatch.setattr("os.link", late)
    assert not Lease(tmp_path / "driver.json")._create()


def test_a_dead_process_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    file = tmp_path / "driver.json"
    code = "import os; from pathlib import Path; from llmzero.tree.lease import Lease; "
    code += f"Lease(Path({str(file)!r}))._take(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert file.exists()
    assert not is_alive(file)
    with Lease(file).held():
        assert is_alive(file)


def write_elsewhere(file: Path, renewals: int) -> None:
    lease_record = {
        "token": "x",
        "host": "elsewhere",
        "machine": "elsewhere",
        "pid": 1,
        "began": 0.0,
        "renewals": renewals,
    }
    file.with_suffix(".new").write_text(json.dumps(lease_record))
    file.with_suffix(".new").replace(file)


def test_a_driver_of_another_machine_lives_while_it_renews(tmp_path: Path) -> None:
    file = tmp_path / "driver.json"
    write_elsewhere(file, 0)
    ended = threading.Event()

    def renew() -> None:
        renewals = 0
        while not ended.wait(0.1):
            write_elsewhere(file, renewals := renewals + 1)

    renewing = threading.Thread(target=renew)
    renewing.start()
    with pytest.raises(UserError, match="process 1 on elsewhere"), Lease(file).held():
        pass
    ended.set()
    renewing.join()
    with Lease(file).held():
        assert json.loads(file.read_text())["host"] != "elsewhere"


def test_of_those_that_take_over_at_once_one_wins(tmp_path: Path) -> None:
    file = tmp_path / "driver.json"
    write_elsewhere(file, 0)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from llmzero.core.errors import UserError; from llmzero.tree import lease\n"
        "lease.SILENCE_S = 1.0\n"
        f"try:\n    with lease.Lease(Path({str(file)!r})).held():\n"
        "        print('held', flush=True)\n        sys.stdin.read()\n"
        "except UserError:\n    print('refused', flush=True)"
    )
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    outcomes = sorted(driver.stdout.readline().strip() for driver in drivers if driver.stdout)
    for driver in drivers:
        driver.communicate()
    assert outcomes == ["held", "refused", "refused", "refused"]
    assert not file.exists()


def test_a_driver_that_overslept_ends_itself(tmp_path: Path) -> None:
    file = tmp_path / "driver.json"
    code = (
        f"import time; from pathlib import Path; from llmzero.tree import lease; lease.RENEWAL_S = 0.05\n"
        f"with lease.Lease(Path({str(file)!r})).held():\n    time.sleep(30)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    while not file.exists():
        time.sleep(0.01)
    write_elsewhere(file, 0)
    assert driver.wait(timeout=20) != 0
    assert json.loads(file.read_text())["host"] == "elsewhere"
