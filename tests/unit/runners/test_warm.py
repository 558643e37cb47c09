"""Stages of the local runner, warm and cold: real processes that are killed, crash, leave things behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmzero.core.stage import StageDir, StageSpec
from llmzero.runners import entry, local
from llmzero.runners.local import LocalHandle, LocalRunner, LocalRunnerSettings
from llmzero.runners.warm import UNSEEN, WarmParent, WarmStage
from tests.conftest import REPOSITORY

ENTRY_POINT = "tests.integration.odd_stages.run"
LIMIT_S = 120  # after which something hangs


@pytest.fixture(autouse=True)
def _own_parents(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test has warm parents of its own."""
    parents: dict[Any, WarmParent] = {}
    monkeypatch.setattr(local, "_parents", parents)
    yield
    for parent in parents.values():
        parent.close()


def stage_in(directory: Path, what: str) -> StageSpec:
    spec = StageSpec("0001", "0000", 1, directory, None, {}, 4, 0)
    StageDir(directory).write_spec(spec)
    (directory / "what").write_text(what)
    return spec


def runner(warm: bool = True, **settings: Any) -> LocalRunner:
    return LocalRunner(LocalRunnerSettings(ENTRY_POINT, warm, threads=1, **settings))


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.005)
    return value


def ended(handle: LocalHandle) -> str:
    until(lambda: handle.poll().final)
    return handle.poll().state


def facts(directory: Path, warm: bool = True, **settings: Any) -> dict[str, Any]:
    """What a stage that writes down what it finds has found."""
    assert ended(runner(warm, **settings).start(stage_in(directory, "record"))) == "completed"
    found: dict[str, Any] = json.loads((directory / "facts.json").read_text())
    return found


def the_parent() -> WarmParent:
    [parent] = local._parents.values()
    return parent


def status_of(handle: LocalHandle) -> int:
    assert handle._processes is not None
    until(lambda: handle._processes.poll() is not None)  # type: ignore[union-attr]
    status = handle._processes.poll()
    assert status is not None
    return status


def works(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def started(directory: Path) -> list[int]:
    """The processes that have begun with a stage that waits."""
    file = directory / "starts"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


VARYING = dict.fromkeys(("pid", "parent_threads", "drawn", "files", "cuda_check"))


def test_a_warm_stage_finds_what_a_cold_one_finds_whatever_ran_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(
        "PYTORCH_NVML_BASED_CUDA_CHECK", raising=False
    )  # DeepSpeed has set it if imported here
    cold = facts(tmp_path / "cold", warm=False)
    cold["environment"]["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # as the real trainer finds it, warm and cold
    spoilt = stage_in(tmp_path / "spoilt", "spoil")
    assert facts(tmp_path / "first") | VARYING == cold | VARYING
    handle = runner().start(spoilt)
    assert ended(handle) == "completed"
    assert status_of(handle) == 0
    for child in json.loads((spoilt.directory / "children.json").read_text()):
        until(lambda child=child: not works(child))
    warm = facts(tmp_path / "warm")
    assert warm | VARYING == cold | VARYING
    assert warm["parent_threads"] == 1
    assert (cold["cuda_check"], warm["cuda_check"]) == (None, "1"), (
        "CUDA's own check would spoil it for forks"
    )
    assert [Path(name).name for name in warm["files"]] == [Path(name).name for name in cold["files"]]
    drawn = [json.loads((tmp_path / name / "facts.json").read_text())["drawn"] for name in ("first", "warm")]
    assert not {*drawn[0]} & {*drawn[1]}, "no two stages draw the same by chance"


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("segfault", -signal.SIGSEGV, "the process died without a result, of signal 11 (Segmentation fault)"),
        ("take_all_memory", 1, "MemoryError"),
        ("fail", 1, "ValueError: it is wrong"),
        ("leave", 3, "the process died without a result (its log"),
    ],
)
def test_a_stage_that_crashes_ends_alone(
    what: str, status: int, said: str, warm: bool, tmp_path: Path
) -> None:
    beside = runner(warm).start(stage_in(tmp_path / "beside", "wait"))
    handle = runner(warm).start(stage_in(tmp_path / "crash", what))
    assert status_of(handle) == status
    assert ended(handle) == "failed"
    assert handle.poll().died
    assert said in str(handle.result().error)
    assert ended(runner(warm).start(stage_in(tmp_path / "next", "record"))) == "completed"
    (tmp_path / "beside/go").touch()
    assert ended(beside) == "completed"


def test_a_stage_of_a_killed_parent_goes_on_and_the_next_has_a_new_one(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    handle = runner().start(stage_in(directory, "wait"))
    until(lambda: started(directory))
    first = the_parent()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: not works(first.pid))
    assert ended(runner().start(stage_in(tmp_path / "b", "record"))) == "completed"
    assert the_parent() is not first
    assert handle.poll().state == "running"
    assert runner().attach(stage_in(directory, "wait")) is not None
    (directory / "go").touch()
    assert ended(handle) == "completed"
    assert len(started(directory)) == 1
    assert status_of(handle) == UNSEEN


def test_a_stage_that_a_killed_parent_had_not_forked_has_died_and_starts_again(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    spec = stage_in(directory, "wait")
    local_runner = runner()
    local_runner.warm_up({})
    first = the_parent()
    os.kill(first.pid, signal.SIGSTOP)
    handle = local_runner.start(spec)
    assert handle.poll().state == "running", "its lock is on its way"
    assert local_runner.start(spec).poll().state == "running", "and keeps a second start out"
    os.kill(first.pid, signal.SIGKILL)
    assert ended(handle) == "failed"
    assert handle.poll().died
    assert status_of(handle) == UNSEEN
    assert "the process that starts stages has died" in (directory / "log.txt").read_text()
    (directory / "go").touch()
    assert ended(local_runner.start(spec)) == "completed"
    assert len(started(directory)) == 1


@pytest.mark.parametrize("warm", [True, False])
def test_a_killed_stage_has_died_and_nothing_else_has(warm: bool, tmp_path: Path) -> None:
    directories = [tmp_path / name for name in "ab"]
    handles = [runner(warm).start(stage_in(directory, "wait")) for directory in directories]
    until(lambda: all(started(directory) for directory in directories))
    os.kill(started(directories[0])[0], signal.SIGKILL)
    assert ended(handles[0]) == "failed"
    assert status_of(handles[0]) == -signal.SIGKILL
    assert handles[1].poll().state == "running"
    (directories[1] / "go").touch()
    assert ended(handles[1]) == "completed"


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_makes_a_stage_leave(number: int, warm: bool, tmp_path: Path) -> None:
    handle = runner(warm).start(stage_in(tmp_path, "wait"))
    [pid] = until(lambda: started(tmp_path))
    os.kill(pid, number)
    assert status_of(handle) == 0
    assert (tmp_path / "left").exists()
    assert handle.poll().died, "without a result it goes on elsewhere"


@pytest.mark.parametrize("warm", [True, False])
def test_one_rank_that_ends_badly_ends_the_others(warm: bool, tmp_path: Path) -> None:
    handle = runner(warm, processes_per_stage=3).start(stage_in(tmp_path, "rank_one_fails"))
    until(lambda: all((tmp_path / f"rank-{rank}").exists() for rank in range(3)))
    assert status_of(handle) == 7
    assert ended(handle) == "failed"
    pids = [int((tmp_path / f"rank-{rank}").read_text()) for rank in range(3)]
    assert not any(map(works, pids))


DRIVER = """
import sys, time
from pathlib import Path
from tests.unit.runners.test_warm import runner, stage_in, local
runner(sys.argv[2] == "True").start(stage_in(Path(sys.argv[1]), "wait"))
print(*[parent.pid for parent in local._parents.values()], flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stage_outlives_the_driver(number: int, warm: bool, tmp_path: Path) -> None:
    """Ctrl-C sends its signal to the driver's whole process group, and so does this."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), str(warm)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        process_group=0,
    )
    assert driver.stdout is not None
    parents = [int(word) for word in driver.stdout.readline().split()]
    assert len(parents) == warm
    if number == signal.SIGINT:
        until(lambda: started(tmp_path))
    os.killpg(driver.pid, number)
    driver.wait()
    driver.stdout.close()
    until(lambda: started(tmp_path))
    until(lambda: not any(map(works, parents)))
    handle = runner(warm).attach(stage_in(tmp_path, "wait"))
    assert handle is not None
    assert handle.poll().state == "running"
    (tmp_path / "go").touch()
    assert ended(handle) == "completed"
    assert len(started(tmp_path)) == 1


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("name", ["tests.integration.no_such_module.run", "tests.integration.odd_stages.no"])
def test_an_entry_point_that_cannot_be_imported_is_named(name: str, warm: bool, tmp_path: Path) -> None:
    settings = LocalRunnerSettings(name, warm, threads=1)
    handle = LocalRunner(settings).start(stage_in(tmp_path, "record"))
    assert ended(handle) == "failed"
    assert name.rpartition(".")[2 if name.endswith("no") else 0] in str(handle.result().error)


def test_a_parent_that_dies_of_an_import_says_so_in_the_stages_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fatal.py").write_text("import os\nprint('this is the end')\nos._exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    spec = stage_in(tmp_path / "a", "record")
    handle = LocalRunner(LocalRunnerSettings("fatal.run", threads=1)).start(spec)
    assert ended(handle) == "failed"
    assert status_of(handle) == UNSEEN
    assert "this is the end" in (spec.directory / "log.txt").read_text()


def test_a_parent_ends_with_its_driver_although_an_import_has_left_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["import threading, time", "threading.Thread(target=time.sleep, args=(1000,)).start()"]
    (tmp_path / "threaded.py").write_text("\n".join([*lines, "def run(directory): pass", ""]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with WarmParent("threaded.run", os.environ) as parent:
        (tmp_path / "a").mkdir()
        stage = parent.start(tmp_path / "a", [os.environ])
        until(lambda: stage.poll() is not None)
    until(lambda: not parent.alive)


def test_starts_do_not_wait_for_a_parent_that_is_busy(tmp_path: Path) -> None:
    """As it is while it imports: 40 requests with an environment that would fill the socket."""
    environment = {**os.environ, "LARGE": "x" * 100_000}
    with WarmParent(ENTRY_POINT, os.environ) as parent:
        os.kill(parent.pid, signal.SIGSTOP)
        directories = [tmp_path / str(number) for number in range(40)]
        for directory in directories:
            stage_in(directory, "complete")
        stages = [parent.start(directory, [environment]) for directory in directories]
        assert [stage.poll() for stage in stages] == [None] * 40
        os.kill(parent.pid, signal.SIGCONT)
        until(lambda: None not in [stage.poll() for stage in stages])
        assert [stage.poll() for stage in stages] == [0] * 40


def test_no_secret_reaches_the_parent_or_what_proc_shows_of_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "secret-judge")
    monkeypatch.setenv("PLAIN", "secret-plain")
    settings = LocalRunnerSettings(ENTRY_POINT, threads=1, pass_env=["JUDGE_API_KEY"])
    local_runner = LocalRunner(settings, secrets=["PLAIN"])
    local_runner.start(stage_in(tmp_path / "a", "wait"))
    [pid] = until(lambda: started(tmp_path / "a"))
    for process in (pid, the_parent().pid):
        shown = Path(f"/proc/{process}/environ").read_bytes() + Path(f"/proc/{process}/cmdline").read_bytes()
        assert b"PATH=" in shown
        assert not [secret for secret in (b"secret-judge", b"secret-plain") if secret in shown]
    (tmp_path / "a/go").touch()
    assert ended(local_runner.start(stage_in(tmp_path / "b", "record"))) == "completed"
    given = json.loads((tmp_path / "b/facts.json").read_text())["environment"]
    assert given["JUDGE_API_KEY"] == "secret-judge"
    assert "PLAIN" not in given


def test_a_parent_serves_one_rank_for_a_caller_of_its_own(tmp_path: Path) -> None:
    """As a pilot does, which has the ranks' variables of its job."""
    environment = {**os.environ, "RANK": "3", "WORLD_SIZE": "4"}
    with WarmParent(ENTRY_POINT, os.environ) as parent:
        stage_in(tmp_path / "a", "wait")
        stage = parent.start(tmp_path / "a", [environment])
        assert stage.poll() is None
        until(lambda: started(tmp_path / "a"))
        assert stage.pids == started(tmp_path / "a")
        stage.signal(signal.SIGUSR2)
        until(lambda: stage.poll() is not None)
        assert stage.poll() == 0
        assert (tmp_path / "a/left").exists()
        stage.signal(signal.SIGUSR2)  # to nobody
        stage_in(tmp_path / "b", "segfault")
        second = parent.start(tmp_path / "b", [environment])
        until(lambda: second.poll() is not None)
        assert second.poll() == -signal.SIGSEGV
    until(lambda: not parent.alive)
    with pytest.raises(OSError, match="Bad file descriptor"):
        parent.start(tmp_path / "a", [environment])


def test_a_parent_that_cannot_fork_ends_the_stage_and_goes_on(tmp_path: Path) -> None:
    """The second fork of this parent fails, as where there is no memory."""
    with WarmParent(ENTRY_POINT, os.environ, ["tests.integration.few_forks"]) as parent:
        stage_in(tmp_path / "a", "wait")
        stage = parent.start(tmp_path / "a", [os.environ, os.environ])
        until(lambda: stage.poll() is not None)
        assert stage.poll() in (1, -signal.SIGKILL)
        assert not any(map(works, started(tmp_path / "a")))
        assert "Resource temporarily unavailable" in (tmp_path / "a/log.txt").read_text()
        stage_in(tmp_path / "b", "record")
        next_one = parent.start(tmp_path / "b", [os.environ])
        until(lambda: next_one.poll() is not None)
        assert next_one.poll() == 0


def test_runners_of_one_process_share_a_parent_while_the_environment_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        assert ended(runner().start(stage_in(tmp_path / name, "record"))) == "completed"
    assert the_parent().alive
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # which libraries read when they are imported
    assert facts(tmp_path / "c")["environment"]["HF_HOME"] == str(tmp_path)
    assert len(local._parents) == 2


def test_a_parent_that_was_asked_for_nothing_ends_at_once() -> None:
    local_runner = runner()
    local_runner.warm_up({})
    pid = the_parent().pid
    the_parent().close()
    assert not works(pid)
    assert not LocalRunner(LocalRunnerSettings(ENTRY_POINT, warm=False)).warm_up({})
    assert len(local._parents) == 1, "nothing is warmed up for cold starts"


def test_the_real_trainers_parent_has_one_thread_when_it_forks(tmp_path: Path) -> None:
    """Also where libraries may use two: a pool that is there already would be dead in the fork."""
    environment = {**os.environ, **entry.thread_limits(2)}
    with WarmParent("llmzero.grpo.main.run_stage", environment, ["tests.integration.odd_stages"]) as parent:
        stage_in(tmp_path, "wait")
        stage: WarmStage = parent.start(tmp_path, [environment])
        until(lambda: stage.poll() is not None or None not in stage.pids)
        assert len(os.listdir(f"/proc/{parent.pid}/task")) == 1
