"""Pilots on a real SLURM of one machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmzero.core.errors import UserError
from llmzero.core.stage import StageDir, StageResult, StageSpec
from llmzero.runners.pilot_files import PilotFiles
from llmzero.runners.slurm_job import REQUEUES
from llmzero.runners.slurm_pilot import PilotHandle, SlurmPilotRunner, SlurmPilotSettings
from llmzero.runners.slurm_queue import name_within
from tests.conftest import REPOSITORY
from tests.integration.conftest import Run, command, read_lines
from tests.integration.on_slurm import (  # noqa: F401 - a fixture among them
    ENTRY_POINT,
    TRAINED,
    a_cluster,
    a_long_spec,
    assert_same,
    jobs_alive,
    jobs_ever,
    slurm,
    steps,
    wait_for,
)
from tests.integration.searches import assert_consistent, summary

QUICK = ["--config-dir", str(REPOSITORY / "slurm"), "+cluster=dev", "runner=slurm_pilot"]
WALK = "tests.integration.recorders.walk"


def runner_for(home: Path, **settings: Any) -> SlurmPilotRunner:
    home.mkdir(exist_ok=True)
    asked = {"cpus_per_task": 1, "poll_s": 0.3, "grace_s": 1.0, "entry_point": WALK, **settings}
    return SlurmPilotRunner(SlurmPilotSettings(**asked), home)


def stage_of(home: Path, number: int, steps: int) -> StageSpec:
    spec = StageSpec(f"{number:04d}", None, 1, home / f"nodes/{number:04d}", None, {}, steps, 0)
    StageDir(spec.directory).write_spec(spec)
    return spec


def finish(runner: SlurmPilotRunner, handles: list[PilotHandle]) -> list[StageResult]:
    """Poll stages to their ends, as a driver does; start those again that die; end the pilots."""

    def all_ended() -> bool:
        for number, handle in enumerate(handles):
            if handle.poll().died:
                handles[number] = runner.start(handle.spec)
        return all(handle.poll().final for handle in handles)

    wait_for(all_ended)
    runner.close()
    assert jobs_of(runner) == [], "no pilot is left"
    return [handle.result() for handle in handles]


def jobs_of(runner: SlurmPilotRunner) -> list[str]:
    return [name for name in jobs_alive() if name.startswith(name_within(runner.files.folder))]


def starts(spec: StageSpec) -> list[tuple[str, str, int]]:
    lines = (spec.directory / "starts.txt").read_text().splitlines()
    return [(job, rank, int(first)) for job, rank, first in map(str.split, lines)]


def begun(spec: StageSpec, at: int) -> Callable[[], bool]:
    return lambda: len(StageDir(spec.directory).complete_checkpoints()) >= at


def process_of_pilot(home: Path, name: str) -> int:
    """Return rank 0 of a pilot, not the srun that started it."""
    return next(
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "llmzero.runners.pilot_job" in (process.info["cmdline"] or ())
        and {str(home), name} < set(process.info["cmdline"])
        and "python" in process.name()
    )


def assert_all_is_charged(runner: SlurmPilotRunner, results: list[StageResult]) -> None:
    """Stages and idle time together are what pilots have held."""
    used = sum(result.gpu_seconds for result in results)
    held = sum(pilot.record.held * pilot.record.devices for pilot in runner.pilots.values() if pilot.record)
    assert used + sum(runner.idle().values()) == pytest.approx(held, abs=0.05)


def test_one_pilot_runs_one_stage_after_another(tmp_path: Path) -> None:
    runner = runner_for(tmp_path / "s")
    specs = [stage_of(tmp_path / "s", number, 3) for number in range(3)]
    results = finish(runner, [runner.start(spec) for spec in specs])
    assert [result.state for result in results] == ["completed"] * 3
    [job] = jobs_ever(name_within(runner.files.folder))
    assert [starts(spec) for spec in specs] == [[(job, "0", 0)]] * 3
    assert_all_is_charged(runner, results)


def test_two_pilots_share_the_stages(tmp_path: Path) -> None:
    runner = runner_for(tmp_path / "s", pilots=2)
    specs = [stage_of(tmp_path / "s", number, 40) for number in range(4)]
    results = finish(runner, [runner.start(spec) for spec in specs])
    assert [result.state for result in results] == ["completed"] * 4
    assert len({starts(spec)[0][0] for spec in specs}) == 2
    assert all(len(starts(spec)) == 1 for spec in specs)
    assert_all_is_charged(runner, results)


def test_processes_on_two_nodes_train_one_stage_after_another(spec: dict[str, Any], tmp_path: Path) -> None:
    runner = runner_for(tmp_path / "s", nodes=2, tasks_per_node=1, entry_point=ENTRY_POINT)
    handles = []
    for number in range(2):
        directory = tmp_path / f"s/nodes/{number:04d}"
        StageDir(directory).write_spec(
            StageSpec.from_dict(deepcopy(spec) | {"steps": 2, "node_id": directory.name}, directory)
        )
        handles.append(runner.start(StageDir(directory).read_spec()))
    results = finish(runner, handles)
    assert [result.state for result in results] == ["completed"] * 2, [result.error for result in results]
    assert all(result.gpu_seconds == pytest.approx(2 * result.seconds, rel=0.05) for result in results)
    assert len(jobs_ever(name_within(runner.files.folder))) == 1
    assert_all_is_charged(runner, results)


def test_a_preempted_pilot_comes_back_and_its_stage_comes_out_the_same(
    long_spec: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    spec, whole = long_spec
    runner = runner_for(tmp_path / "s", partition="low", entry_point=ENTRY_POINT)
    directory = tmp_path / "s/nodes/0001"
    StageDir(directory).write_spec(StageSpec.from_dict(spec, directory))
    handle = runner.start(StageDir(directory).read_spec())
    wait_for(lambda: steps(directory) >= 20)
    main = ["--partition=main", "--nodes=2", "--exclusive", "--time=1", "--output=/dev/null"]
    slurm("sbatch", *main, "--wrap=sleep 3")
    [result] = finish(runner, [handle])
    assert len(read_lines(directory / REQUEUES)) == 1
    assert_same(directory, whole, result)
    assert_all_is_charged(runner, [result])


def test_a_stage_that_does_not_fit_is_left_to_the_next_pilot(tmp_path: Path) -> None:
    """Limits are whole minutes, and the signal may come a minute early: half a minute of two is sure."""
    runner = runner_for(tmp_path / "s", timeout_min=2, signal_delay_s=30)
    specs = [stage_of(tmp_path / "s", 1, 100), stage_of(tmp_path / "s", 2, 200)]
    results = finish(runner, [runner.start(spec) for spec in specs])
    assert [result.state for result in results] == ["completed"] * 2
    [first], [second] = map(starts, specs)
    assert first[0] != second[0]
    assert 2 <= len(jobs_ever(name_within(runner.files.folder))) <= 4
    assert_all_is_charged(runner, results)


def test_a_stage_longer_than_a_pilot_goes_on_in_the_next(tmp_path: Path) -> None:
    runner = runner_for(tmp_path / "s", timeout_min=2, signal_delay_s=30)
    spec = stage_of(tmp_path / "s", 1, 950)
    [result] = finish(runner, [runner.start(spec)])
    assert result.state == "completed", result.error
    parts = [first for _, _, first in starts(spec)]
    assert len(parts) >= 2
    assert parts == sorted(set(parts)), "each goes on where the one before has left"
    assert len(read_lines(spec.directory / REQUEUES)) == len(parts) - 1
    assert_all_is_charged(runner, [result])


def test_an_idle_pilot_ends_by_itself_and_another_one_comes(tmp_path: Path) -> None:
    runner = runner_for(tmp_path / "s", idle_min=0.05)
    first = runner.start(stage_of(tmp_path / "s", 1, 3))
    wait_for(lambda: first.poll().final)
    wait_for(lambda: not jobs_of(runner))
    second = runner.start(stage_of(tmp_path / "s", 2, 3))
    finish(runner, [first, second])
    assert len(jobs_ever(name_within(runner.files.folder))) == 2
    records = [runner.files.read(name) for name in runner.files.pilots()]
    assert [record.state for record in records if record] == ["ended", "ended"]
    assert_all_is_charged(runner, [first.result(), second.result()])


def test_the_stage_of_a_cancelled_pilot_goes_on_in_another(tmp_path: Path) -> None:
    runner = runner_for(tmp_path / "s")
    spec = stage_of(tmp_path / "s", 1, 60)
    handle = runner.start(spec)
    wait_for(begun(spec, 5))
    [job] = jobs_ever(name_within(runner.files.folder))
    slurm("scancel", job)
    [result] = finish(runner, [handle])
    assert result.state == "completed", result.error
    (first, _, zero), (second, _, at) = starts(spec)
    assert (first, zero) == (job, 0)
    assert second != job
    assert at >= 5
    assert_all_is_charged(runner, [result])


def test_whoever_cancels_all_pilots_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmzero.runners.slurm_pilot.LOST_PILOTS", 1)
    runner = runner_for(tmp_path / "s")
    handle = runner.start(stage_of(tmp_path / "s", 1, 6000))

    def cancelled_again() -> bool:
        for job in jobs_ever(name_within(runner.files.folder)):
            subprocess.run(["scancel", job], check=False)
        handle.poll()
        return False

    with pytest.raises(UserError, match=r"pilots ended before a stage did, at last job \d+ \(CANCELLED\)"):
        wait_for(cancelled_again)
    runner.close()


@pytest.mark.parametrize("victim", ["pilot", "stage", "warm parent"])
def test_a_killed_process_costs_one_restart(tmp_path: Path, victim: str) -> None:
    home = tmp_path / "s"
    runner = runner_for(home)
    spec = stage_of(home, 1, 80)
    handle = runner.start(spec)
    wait_for(begun(spec, 5))
    worker = int(StageDir(spec.directory).status()["pid"])
    victims = {"stage": worker, "pilot": process_of_pilot(home, "0001")}
    victims["warm parent"] = psutil.Process(victims["pilot"]).children()[0].pid
    os.kill(victims[victim], signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(worker))
    reached = len(StageDir(spec.directory).complete_checkpoints())
    assert reached < 60, "the stage ends with its pilot"
    [result] = finish(runner, [handle])
    assert result.state == "completed", result.error
    jobs = len(jobs_ever(name_within(runner.files.folder)))
    assert jobs == (2 if victim == "pilot" else 1)
    assert [first for _, _, first in starts(spec)] == [0, reached]
    assert_all_is_charged(runner, [result])


def test_a_stage_that_waits_is_described_and_taken_back(tmp_path: Path) -> None:
    home = tmp_path / "s"
    runner = runner_for(home, extra={"begin": "now+600"})
    spec = stage_of(home, 1, 3)
    handle = runner.start(spec)
    wait_for(lambda: "BeginTime" in runner.describe([spec.directory])["0001"])
    assert runner.describe([spec.directory]) == {"0001": "waits for a pilot: 1 job(s) PENDING (BeginTime)"}
    assert handle.poll().state == "queued"
    other = runner_for(home)
    assert other.cancel([spec.directory]) == ["0001"]
    wait_for(lambda: not jobs_of(runner))
    assert PilotFiles(home).queued() == []


def test_a_pilot_that_ends_before_it_tells_of_itself_is_paid_for(tmp_path: Path) -> None:
    """As one does whose imports hang; SLURM alone knows what it held."""
    home = tmp_path / "s"
    runner = runner_for(home, setup=["sleep 60"], tasks_per_node=2)
    runner.start(stage_of(home, 1, 3))
    [job] = jobs_ever(name_within(runner.files.folder))
    wait_for(lambda: slurm("squeue", "--noheader", f"--jobs={job}", "--format=%T") == ["RUNNING"])
    time.sleep(4)
    slurm("scancel", job)
    wait_for(lambda: "CANCELLED" in slurm("sacct", "-nX", f"--jobs={job}", "--format=State")[0])
    runner.close()
    [elapsed] = slurm("sacct", "-nX", f"--jobs={job}", "--format=ElapsedRaw")
    assert int(elapsed) >= 3
    assert runner.idle() == {"pilot 0001": 2.0 * int(elapsed)}
    assert runner_for(home).files.read("0001") is not None, "the next driver knows of it"
    shutil.rmtree(home)
    anew = runner_for(home)
    finish(anew, [anew.start(stage_of(home, 1, 3))])
    assert list(anew.idle()) == ["pilot 0002"], "what a deleted search has paid is its own"


def test_what_a_pilot_holds_before_it_begins_is_paid_for(tmp_path: Path) -> None:
    runner = runner_for(tmp_path / "s", setup=["sleep 5"])
    [result] = finish(runner, [runner.start(stage_of(tmp_path / "s", 1, 3))])
    [job] = jobs_ever(name_within(runner.files.folder))
    [elapsed] = slurm("sacct", "-nX", f"--jobs={job}", "--format=ElapsedRaw")
    assert sum(runner.idle().values()) >= 4, "whole seconds"
    assert result.gpu_seconds + sum(runner.idle().values()) <= int(elapsed) + 2
    assert_all_is_charged(runner, [result])


def test_a_pilot_that_an_interrupted_end_left_in_the_queue_is_taken_back(tmp_path: Path) -> None:
    """The driver was killed between telling pilots of the end and taking back those that wait."""
    home = tmp_path / "s"
    first = runner_for(home, extra={"begin": "now+600"})
    first.start(stage_of(home, 1, 3))
    first.files.end_file.touch()
    runner_for(home).close()
    wait_for(lambda: not jobs_of(first))


# --- whole searches ---


def test_a_search_on_pilots_is_paid_exactly_and_leaves_nothing(launch: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    launch("search", *QUICK, *TRAINED, "budget.stages=3", "search.workers=2", f"search_dir={search}")
    assert_consistent(search, 3)
    assert not any(name.startswith(name_within(search / "pilots")) for name in jobs_alive())
    files, ledger = PilotFiles(search), summary(search)["budget"]
    records = [files.read(name) for name in files.pilots()]
    held = sum(record.held * record.devices for record in records if record)
    paid = ledger["gpu_seconds"] + ledger["setup_gpu_seconds"] + ledger["idle_gpu_seconds"]
    assert paid == pytest.approx(held, abs=0.1)
    assert 1 <= len(records) <= 2
    again = (search / "tree.jsonl").read_bytes()
    launch("search", *QUICK, *TRAINED, "budget.stages=3", "search.workers=2", f"search_dir={search}")
    assert (search / "tree.jsonl").read_bytes() == again, "nothing is charged twice"
    (search / "pilots").rename(tmp_path / "outside")
    (search / "pilots").symlink_to(tmp_path / "outside")
    (tmp_path / "outside/end").unlink()
    refused = launch("stop", str(search), ok=False)
    assert (refused.returncode, "leads out of the search directory" in refused.stderr) == (2, True)
    assert not (tmp_path / "outside/end").exists()


def test_a_killed_driver_finds_its_pilots_again(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    search = tmp_path / "s"
    longer = ["budget.stages=3", "search.workers=1", "search.stage_steps=20", f"search_dir={search}"]
    overrides = [*QUICK, *TRAINED, *longer]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    driver = subprocess.Popen(command("search", *overrides), env=environment, text=True, **quiet)
    wait_for(lambda: (search / "nodes/0001/metrics.jsonl").exists(), driver)
    driver.kill()
    driver.wait()
    time.sleep(1.0)
    status = subprocess.run(
        command("status", str(search)), env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "pilot 0001: job" in status or "not begun" not in status
    launch("search", *overrides)
    assert_consistent(search, 3)
    started = [event["node_id"] for event in read_lines(search / "tree.jsonl") if event["event"] == "started"]
    assert started == ["0000", "0001", "0002", "0003"], "nothing was started twice"
    assert len(jobs_ever(name_within(search / "pilots"))) == 1, "the same pilot"
    files, ledger = PilotFiles(search), summary(search)["budget"]
    held = sum(record.held for record in map(files.read, files.pilots()) if record)
    paid = ledger["gpu_seconds"] + ledger["setup_gpu_seconds"] + ledger["idle_gpu_seconds"]
    assert paid == pytest.approx(held, abs=0.1)
