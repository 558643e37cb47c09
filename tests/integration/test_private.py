"""What stays the user's own: directories of searches, and keys that stages have no use for."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmzero.core.stage import StageDir, StageSpec
from llmzero.mirrors.tracking import WandbTracking
from llmzero.mirrors.tracking.settings import TrackingSettings
from llmzero.runners.directory import submitit_folder
from llmzero.runners.environment import hidden, withheld
from llmzero.runners.local import LocalHandle, LocalRunner, LocalRunnerSettings
from tests.integration.conftest import Run

KEYS = {
    name: f"secret-{number}"
    for number, name in enumerate(
        (
            *(
                "OPENAI_API_KEY",
                "ANTHROPIC_API_KEY",
                "my_api_key",
                "WANDB_API_KEY",
                "GITHUB_TOKEN",
                "HF_TOKEN",
            ),
            *("AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "DB_PASSWORD", "JUDGE_API_KEY", "SERVER_KEY", "PLAIN"),
        )
    )
}
ORDINARY = {"TOKENIZERS_PARALLELISM": "false", "HF_HOME": "/hf", "KEYBOARD": "de", "MONKEY": "1"}
ENTRY_POINT = "tests.integration.recorders.environment"


def spec_in(directory: Path, **config: Any) -> StageSpec:
    spec = StageSpec("0001", "0000", 1, directory, None, {}, 4, 0, config)
    StageDir(directory).write_spec(spec)
    return spec


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wait_for_the_end_of(handle: LocalHandle) -> None:
    deadline = time.monotonic() + 120
    while not handle.poll().final:
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.05)
    assert handle.result().state == "completed", handle.result().error


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**KEYS, **ORDINARY}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("warm", [True, False])
def test_a_stage_gets_no_key_that_it_has_no_use_for(warm: bool, tmp_path: Path) -> None:
    spec = spec_in(tmp_path / "0001", model={"path": str(tmp_path)}, rollout={"api_key_env": "SERVER_KEY"})
    settings = LocalRunnerSettings(ENTRY_POINT, warm, threads=1, pass_env=["JUDGE_API_KEY"])
    wait_for_the_end_of(LocalRunner(settings, secrets=["PLAIN"]).start(spec))
    given = json.loads((spec.directory / "environment.json").read_text())
    assert KEYS.keys() & given.keys() == {"JUDGE_API_KEY", "SERVER_KEY"}
    assert not {value for name, value in KEYS.items() if name not in given} & set(given.values())
    assert ORDINARY.items() <= given.items()
    assert {**KEYS, **ORDINARY}.items() <= os.environ.items(), "the driver keeps them"


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("warm", [True, False])
def test_a_stage_writes_no_key_that_it_has(warm: bool, tmp_path: Path) -> None:
    spec = spec_in(tmp_path / "0001", rollout={"api_key_env": "SERVER_KEY"})
    settings = LocalRunnerSettings("tests.integration.recorders.tell_keys", warm, threads=1)
    handle = LocalRunner(settings).start(spec)
    while not handle.poll().final:
        time.sleep(0.05)
    stage = StageDir(spec.directory)
    said = stage.log_file.read_text()
    assert "printed [key]\n" in said
    assert "logged [key]\n" in said
    assert handle.result().error == "the server said [key]"
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in files if KEYS["SERVER_KEY"].encode() in file.read_bytes()]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("config", "passed"),
    [
        ({"model": {"path": "Qwen/Qwen3-1.7B"}}, True),
        ({"task": {"source": "some/data"}}, True),
        ({"task": {"source": "generated"}, "model": {"recipe": {}}}, False),
        ({"model": {"path": "/"}}, False),
        ({}, False),
    ],
)
def test_the_token_of_the_hub_goes_where_something_is_loaded_from_it(
    config: dict[str, Any], passed: bool, tmp_path: Path
) -> None:
    left = withheld(spec_in(tmp_path / "0001", **config), ())
    assert ("HF_TOKEN" not in left) == passed
    assert {"OPENAI_API_KEY", "WANDB_API_KEY"} <= set(left)


def test_hidden_variables_come_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "1")
    while_hidden = []

    def start_that_fails() -> None:
        with hidden(["A_KEY", "MISSING_KEY"]):
            while_hidden.append("A_KEY" in os.environ)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        start_that_fails()
    assert while_hidden == [False]
    assert os.environ["A_KEY"] == "1"


@pytest.mark.usefixtures("keys")
def test_the_mirror_gets_the_key_of_its_server_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = WandbTracking(TrackingSettings(), secrets=["PLAIN"])
    code = f"import os, json; json.dump(dict(os.environ), open({str(tmp_path / 'given')!r}, 'w'))"
    monkeypatch.setattr(tracking, "command", lambda search_dir: [sys.executable, "-c", code])
    tracking.start(tmp_path)
    tracking.finish(60)
    given = json.loads((tmp_path / "given").read_text())
    assert KEYS.keys() & given.keys() == {"WANDB_API_KEY"}
    assert ORDINARY.items() <= given.items()


class Planted:
    """A pickle that leaves a mark where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickles_that_lie_in_a_stage_directory_are_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "0001/submitit"
    folder.mkdir(parents=True)
    (folder / "7_submitted.pkl").write_bytes(pickle.dumps(Planted(tmp_path / "run")))
    assert submitit_folder(folder.parent) == folder
    assert list(folder.iterdir()) == [], "submitit loads what has the number of its job"
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    assert not submitit_folder(folder.parent).exists(), "and writes through no link"


def test_a_new_search_is_its_owners_alone_and_an_old_directory_keeps_its_mode(
    launch: Run, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    for search in (tmp_path / "runs/new", shared):
        launch("search", "experiment=simulated", "budget.stages=1", f"search_dir={search}")
    assert mode(tmp_path / "runs/new") == 0o700
    assert mode(tmp_path / "runs") & 0o055, "what lies above is as everywhere"
    assert mode(shared) == 0o770
    assert mode(shared / "nodes") & 0o055, "what is shared is shared as a whole"


def test_a_new_study_is_its_owners_alone(launch: Run, tmp_path: Path) -> None:
    small = ["methods={paper: ['search=paper']}", "tasks={easy: ['runner.landscape=easy']}", "seeds=1"]
    common = "common=['experiment=simulated', 'budget.stages=1', 'search.workers=1']"
    launch("compare", *small, common, f"study_dir={tmp_path}/study")
    assert mode(tmp_path / "study") == 0o700


@pytest.mark.skipif(shutil.which("su") is None or os.geteuid() != 0, reason="takes two users")
def test_another_user_reads_nothing_of_a_search(launch: Run, tmp_path: Path) -> None:
    launch("search", "experiment=simulated", "budget.stages=1", f"search_dir={tmp_path}/s")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(mode(folder) | 0o005)
    command = ["su", "nobody", "-s", "/bin/sh", "-c", f"cat {tmp_path}/s/*.yaml {tmp_path}/s/config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert "Permission denied" in done.stderr
