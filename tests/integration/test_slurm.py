"""On a real SLURM of one machine: `slurm/dev-cluster.sh` brings it up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from llmzero.cli import INTERRUPTED, composed
from llmzero.core.files import append_jsonl
from llmzero.core.stage import StageDir, StageResult
from llmzero.runners.slurm import SlurmRunner, SlurmRunnerSettings
from llmzero.runners.slurm_job import REQUEUES, requeue
from llmzero.runners.slurm_queue import Queue, job_name, name_within
from llmzero.search.settings import SearchConfig
from llmzero.studies.jobs import job_array
from llmzero.studies.pool import run_cell
from tests.conftest import REPOSITORY
from tests.integration.conftest import Run, command, read_lines
from tests.integration.on_slurm import (  # noqa: F401 - fixtures among them
    DEADLINE_S,
    ENTRY_POINT,
    TRAINED,
    a_cluster,
    a_long_spec,
    assert_same,
    decisions,
    job_of,
    jobs_alive,
    jobs_ever,
    slurm,
    steps,
    wait_for,
)
from tests.integration.searches import assert_consistent, summary

QUICK = ["--config-dir", str(REPOSITORY / "slurm"), "+cluster=dev", "runner=slurm"]


# --- one stage ---


def run(
    spec: dict[str, Any], stage: Path, meanwhile: Callable[[Path], None] = lambda stage: None, **settings: Any
) -> StageResult:
    """Run a stage as a job, let something happen meanwhile, and return its result."""
    stage.mkdir(parents=True)
    (stage / "stage.json").write_text(json.dumps(spec))
    asked = {"cpus_per_task": 1, "poll_s": 0.3, "grace_s": 2.0, **settings}
    runner = SlurmRunner(SlurmRunnerSettings(**{"entry_point": ENTRY_POINT, **asked}))
    handle = runner.start(StageDir(stage).read_spec())
    meanwhile(stage)
    wait_for(lambda: handle.poll().final)
    return handle.result()


def test_a_preempted_stage_goes_on_in_the_queue_and_comes_out_the_same(
    long_spec: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    spec, whole = long_spec
    stage = tmp_path / "nodes/0001"

    def preempt(stage: Path) -> None:
        wait_for(lambda: steps(stage) >= 20)
        slurm(
            "sbatch",
            "--partition=main",
            "--nodes=2",
            "--exclusive",
            "--time=1",
            "--output=/dev/null",
            "--wrap=sleep 3",
        )

    result = run(spec, stage, preempt, partition="low")
    assert len(read_lines(stage / REQUEUES)) == 1
    assert_same(stage, whole, result)


def test_a_stage_longer_than_its_time_limit_spans_jobs(spec: dict[str, Any], tmp_path: Path) -> None:
    """Limits are whole minutes and the signal may come a minute early, so this stage is slowed down."""
    spec = deepcopy(spec) | {"steps": 40}
    spec["task"] |= {"_target_": "tests.integration.odd_parts.Slow", "pause_s": 0.06}
    stage = tmp_path / "nodes/0001"
    result = run(spec, stage, timeout_min=2, signal_delay_s=59)
    assert result.state == "completed", result.error
    assert [row["step"] for row in read_lines(stage / "metrics.jsonl")] == list(range(1, 41))
    assert len(read_lines(stage / REQUEUES)) >= 1
    assert result.seconds > 40 * spec["hparams"]["prompts_per_step"] * spec["hparams"]["group_size"] * 0.06, (
        "all jobs are paid for"
    )


def test_a_stage_that_never_gets_anywhere_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    append_jsonl(tmp_path / REQUEUES, 5 * [{"job_id": "1", "time": 0.0, "checkpoint": "none"}])
    requeue(StageDir(tmp_path))
    result = StageDir(tmp_path).result()
    assert result is not None
    assert result.state == "failed"
    assert "runner.timeout_min" in str(result.error)


def test_a_cancelled_job_ends_its_stage_as_failed(
    long_spec: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    stage = tmp_path / "nodes/0001"

    def cancel(stage: Path) -> None:
        wait_for(lambda: steps(stage) >= 5)
        slurm("scancel", str(job_of(stage)))

    result = run(long_spec[0], stage, cancel)
    assert result.state == "failed"
    assert "CANCELLED" in str(result.error)
    assert 0 < result.gpu_seconds < DEADLINE_S
    wait_for(lambda: not jobs_alive())  # SLURM lists it for a moment more, as completing


def test_a_job_that_comes_back_after_its_result_changes_nothing(spec: dict[str, Any], tmp_path: Path) -> None:
    stage = tmp_path / "nodes/0001"

    def requeue_late(stage: Path) -> None:
        wait_for((stage / "result.json").exists)
        subprocess.run(["scontrol", "requeue", str(job_of(stage))], check=False, capture_output=True)

    result = run(deepcopy(spec) | {"steps": 2}, stage, requeue_late)
    before = (stage / "metrics.jsonl").stat().st_mtime_ns
    wait_for(lambda: not jobs_alive())
    assert result.state == "completed"
    assert (stage / "metrics.jsonl").stat().st_mtime_ns == before


def test_processes_on_two_nodes_train_one_stage(spec: dict[str, Any], tmp_path: Path) -> None:
    stage = tmp_path / "nodes/0001"
    result = run(deepcopy(spec) | {"steps": 3}, stage, nodes=2, tasks_per_node=2)
    assert result.state == "completed", result.error
    assert result.gpu_seconds == pytest.approx(4 * result.seconds, rel=0.05)
    assert steps(stage) == 3
    assert slurm("sacct", "--noheader", "-X", "--format=NodeList%20", f"--jobs={job_of(stage)}") == ["n[1-2]"]


def test_a_refused_job_names_the_setting(spec: dict[str, Any], launch: Run, tmp_path: Path) -> None:
    done = launch(
        "search", *QUICK, *TRAINED, "runner.partition=nowhere", f"search_dir={tmp_path}/s", ok=False
    )
    assert done.returncode == 2
    assert "sbatch refuses the job of stage 0000" in done.stderr
    assert "invalid partition" in done.stderr


def test_jobs_run_the_code_as_it_was_at_their_submission(spec: dict[str, Any], tmp_path: Path) -> None:
    stage = tmp_path / "nodes/0001"
    result = run(deepcopy(spec) | {"steps": 1}, stage)
    assert result.state == "completed", result.error
    code = next((tmp_path / "code").iterdir())
    (code / "llmzero/grpo/main.py").write_text("raise RuntimeError('the snapshot is what runs')")
    handle = SlurmRunner(
        SlurmRunnerSettings(entry_point=ENTRY_POINT, cpus_per_task=1, poll_s=0.3, grace_s=1.0)
    )
    again = tmp_path / "nodes/0002"
    again.mkdir()
    shutil.copy(stage / "stage.json", again)
    second = handle.start(StageDir(again).read_spec())
    wait_for(lambda: second.poll().final)
    assert "the snapshot is what runs" in str(second.result().error)


def test_jobs_get_no_key_that_they_have_no_use_for(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "JUDGE_TOKEN", "KEYBOARD"):
        monkeypatch.setenv(name, f"value of {name}")
    stage = tmp_path / "nodes/0001"
    result = run(spec, stage, entry_point="tests.integration.recorders.environment", pass_env=["JUDGE_TOKEN"])
    assert result.state == "completed", result.error
    given = json.loads((stage / "environment.json").read_text())
    values = {value for value in given.values() if value.startswith("value of")}
    assert values == {"value of JUDGE_TOKEN", "value of KEYBOARD"}


# --- sbatch and squeue on a bad day: the real ones, with a script before them ---


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return a function that puts a script in front of a SLURM command.

    The script has $REAL, and $N, the number of this call.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    real = {name: shutil.which(name) for name in ("sbatch", "squeue", "sacct")}
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("llmzero.runners.slurm.RETRY_S", 1.0)

    def put(name: str, script: str) -> Path:
        calls = folder / f"{name}.calls"
        lines = ["#!/bin/bash", f"echo >> {calls}", f"N=$(wc -l < {calls})", f"REAL={real[name]}", script]
        (folder / name).write_text("\n".join(lines))
        (folder / name).chmod(0o755)
        return calls

    return put


REPORTED = {
    "it says that it timed out": "echo 'Batch job submission failed: Socket timed out' >&2; exit 1",
    "it is killed": "kill -9 $$",
    "it says nothing": "exit 0",
    "it says what nobody knows": "echo 'Batch job submission failed: Odd thing' >&2; exit 1",
}


@pytest.mark.parametrize("end", REPORTED.values(), ids=REPORTED)
def test_a_job_that_sbatch_queued_without_saying_so_is_found_by_its_name(
    spec: dict[str, Any], tmp_path: Path, before: Callable[[str, str], Path], end: str
) -> None:
    """Also where squeue does not answer at first: nothing is submitted before it has."""
    submissions = before("sbatch", f'"$REAL" "$@" > /dev/null; {end}')
    before("squeue", 'if ((N == 2 || N == 3)); then exit 1; fi; exec "$REAL" "$@"')
    stage = tmp_path / "nodes/0001"
    result = run(spec, stage, entry_point="tests.integration.recorders.work")
    assert result.state == "completed", result.error
    assert len(submissions.read_text().splitlines()) == 1
    assert jobs_ever(job_name(stage)) == [job_of(stage)]
    assert (stage / "starts.txt").read_text().split() == [job_of(stage)]


def test_a_refusal_that_passes_is_waited_out(
    spec: dict[str, Any],
    tmp_path: Path,
    before: Callable[[str, str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = "I/O error writing script/environment to file"
    before("sbatch", f'if ((N < 3)); then echo "sbatch: error: {words}" >&2; exit 1; fi; exec "$REAL" "$@"')
    stage = tmp_path / "nodes/0001"
    result = run(spec, stage, entry_point="tests.integration.recorders.environment")
    assert result.state == "completed", result.error
    assert len(jobs_ever(job_name(stage))) == 1
    assert words in caplog.text, "why it waits"


def test_of_two_jobs_in_one_directory_the_second_ends(
    spec: dict[str, Any], tmp_path: Path, before: Callable[[str, str], Path]
) -> None:
    """And the driver, which was told of that one, goes on with the first."""
    before("sbatch", '"$REAL" "$@" > /dev/null; sleep 2; exec "$REAL" "$@"')
    stage = tmp_path / "nodes/0001"
    result = run(spec, stage, entry_point="tests.integration.recorders.work")
    first, second = sorted(jobs_ever(job_name(stage)), key=int)
    assert result.state == "completed", result.error
    assert (stage / "starts.txt").read_text().split() == [first]
    assert f"job {second} ends: process" in (stage / "log.txt").read_text()


def test_lines_that_do_not_read_end_nothing(
    spec: dict[str, Any],
    tmp_path: Path,
    before: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With SLURM_CLUSTERS squeue begins with the cluster's name."""
    monkeypatch.setenv("SLURM_CLUSTERS", "llmzero")
    noise = [
        "CLUSTER: gpu",
        "slurm: maintenance on Monday",
        "12|",
        "|RUNNING|x|None",
        "1.batch|RUNNING",
        "",
        "\xff",
    ]
    printed = "".join(f"echo $'{line}'; " for line in noise)
    for name in ("squeue", "sacct"):
        before(name, f'{printed} exec "$REAL" "$@"')
    stage = tmp_path / "nodes/0001"
    result = run(spec, stage, entry_point="tests.integration.recorders.environment")
    assert result.state == "completed", result.error


# --- whole searches ---


def test_a_search_of_eight_stages_four_at_a_time_under_a_cap(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    search = tmp_path / "s"
    overrides = [
        *QUICK,
        *TRAINED,
        "budget.stages=8",
        "search.workers=4",
        "search.confirm_seeds=2",
        "search.confirm_top=1",
        "runner.max_gpus=3",
        f"search_dir={search}",
    ]
    driver = subprocess.Popen(
        command("search", *overrides),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    most = 0
    while driver.poll() is None:
        most = max(most, len(jobs_alive()))
        time.sleep(0.1)
    assert driver.returncode == 0, driver.stdout.read() if driver.stdout else ""
    assert most == 3, "the cap is used and never exceeded"
    assert_consistent(search, 8)
    wait_for(lambda: not jobs_alive())
    assert len({job_of(stage) for stage in (search / "nodes").iterdir()}) == 9
    printed = subprocess.run(
        command("status", str(search)), env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "stages 8/8" in printed
    assert "finished" in printed


def test_the_tree_is_the_same_as_without_slurm(launch: Run, tmp_path: Path) -> None:
    shared = [*TRAINED, "budget.stages=3", "search.workers=1", "seed=5"]
    launch("search", *QUICK, *shared, f"search_dir={tmp_path}/slurm")
    launch("search", *shared, "runner.threads=1", f"search_dir={tmp_path}/local")
    assert decisions(tmp_path / "slurm") == decisions(tmp_path / "local")


def test_a_killed_driver_finds_its_jobs_again(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    search = tmp_path / "s"
    overrides = [
        *QUICK,
        *TRAINED,
        "budget.stages=4",
        "search.workers=2",
        "search.stage_steps=25",
        f"search_dir={search}",
    ]
    driver = subprocess.Popen(
        command("search", *overrides),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    wait_for(lambda: (search / "nodes/0002/metrics.jsonl").exists(), driver)
    driver.kill()
    driver.wait()
    assert jobs_alive()
    launch("search", *overrides)
    assert_consistent(search, 4)
    started = [event["node_id"] for event in read_lines(search / "tree.jsonl") if event["event"] == "started"]
    assert len(started) == len(set(started)) == 5, "nothing was submitted twice"
    wait_for(lambda: not jobs_alive())


def test_a_search_is_ended_cleanly_from_elsewhere(environment: dict[str, str], tmp_path: Path) -> None:
    search = tmp_path / "s"
    overrides = [
        *QUICK,
        *TRAINED,
        "budget.stages=50",
        "search.workers=2",
        "search.stage_steps=200",
        f"search_dir={search}",
    ]
    driver = subprocess.Popen(
        command("search", *overrides),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: (search / "nodes/0002/metrics.jsonl").exists(), driver)
    status = subprocess.run(
        command("status", str(search)), env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert f"job {job_of(search / 'nodes/0002')} RUNNING" in status
    subprocess.run(command("stop", str(search)), env=environment, check=True)
    assert driver.wait() == 0, driver.stdout.read() if driver.stdout else ""
    ended = summary(search)
    assert (ended["state"], ended["nodes"]["stopped"], ended["nodes"]["failed"]) == ("finished", 2, 0)
    assert ended["test"]["base"]
    wait_for(lambda: not jobs_alive())


def test_hydra_runs_whole_searches_as_jobs(launch: Run, tmp_path: Path) -> None:
    """Their stages are jobs in turn."""
    overrides = [
        *QUICK,
        *TRAINED,
        "budget.stages=2",
        "seed=1,2",
        f"search_dir={tmp_path}/${{seed}}",
        f"hydra.sweep.dir={tmp_path}/sweep",
    ]
    launch(
        "search",
        "--multirun",
        *overrides,
        "hydra/launcher=search_job",
        "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.mem_gb=null",
    )
    for seed in ("1", "2"):
        assert_consistent(tmp_path / seed, 2)
    wait_for(lambda: not jobs_alive())


def test_a_driver_that_is_a_job_goes_on_after_its_own_time_limit(
    environment: dict[str, str], tmp_path: Path
) -> None:
    search, sweep = tmp_path / "s", tmp_path / "sweep"
    overrides = [*QUICK, *TRAINED, "budget.stages=3", "search.stage_steps=20", f"search_dir={search}"]
    as_a_job = [f"hydra.sweep.dir={sweep}", "hydra/launcher=search_job", "hydra.launcher.mem_gb=null"]
    waiting = subprocess.Popen(
        command("search", "--multirun", *overrides, *as_a_job),
        env=environment,
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: StageDir(search / "nodes/0001").metrics(), waiting)
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait() == INTERRUPTED, "what waits for the job may be ended; the job goes on"
    [job] = slurm("squeue", "--noheader", "--me", "--name=llmzero-search", "--format=%A")
    slurm("scancel", "--signal=USR2", job)  # as SLURM does some time before the limit
    wait_for(lambda: (search / "summary.json").exists() and summary(search)["state"] == "finished")
    assert_consistent(search, 3)
    [log] = sweep.glob(".submitit/*/*_log.err")
    assert "Caught signal SIGUSR2" in log.read_text()
    shown = subprocess.run(
        ["scontrol", "show", "job", job], capture_output=True, text=True, check=True
    ).stdout
    assert "Restarts=1" in shown
    wait_for(lambda: not jobs_alive())


def test_a_study_is_an_array_of_jobs_that_outlive_the_launcher(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    shared = [
        "methods={paper: ['search=paper'], practitioner: ['search=practitioner']}",
        "tasks={easy: ['runner.landscape=easy']}",
        "common=['experiment=simulated', 'budget.stages=8', 'search.workers=1']",
        "seeds=2",
    ]
    study = tmp_path / "jobs"
    as_jobs = [*shared, "cluster=slurm", "slurm={cpus_per_task: 1, mem_gb: null}", f"study_dir={study}"]
    launcher = subprocess.Popen(command("compare", *as_jobs), env=environment)
    wait_for(lambda: (study / "jobs.json").exists(), launcher)
    launcher.kill()
    launcher.wait()
    launch("compare", *as_jobs)
    assert len(list((study / "jobs").glob("*_submitted.pkl"))) == 4, "nothing was submitted twice"
    assert len(set(json.loads((study / "jobs.json").read_text()).values())) == 4
    assert len(jobs_ever(name_within(study))) == 4
    launch("compare", *shared, f"study_dir={tmp_path}/here")
    here, there = (json.loads((path / "comparison.json").read_text()) for path in (tmp_path / "here", study))
    assert here == there
    wait_for(lambda: not jobs_alive())


@pytest.mark.parametrize("queued", [True, False])
def test_a_study_finds_the_array_that_sbatch_did_not_tell_of_and_waits_where_it_has_to(
    tmp_path: Path, before: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, queued: bool
) -> None:
    monkeypatch.setattr("llmzero.studies.jobs.RETRY_S", 1.0)
    timed_out = "echo 'Batch job submission failed: Socket timed out' >&2; exit 1"
    real = '"$REAL" "$@" > /dev/null; ' if queued else ""
    calls = before("sbatch", f'if ((N == 1)); then {real}{timed_out}; fi; exec "$REAL" "$@"')
    (tmp_path / "study").mkdir()
    search = [f"{tmp_path}/study/{seed}" for seed in range(2)]
    configs = [
        composed("search", SearchConfig, ["experiment=simulated", "budget.stages=2", f"search_dir={each}"])
        for each in search
    ]
    resources = {"cpus_per_task": 1, "timeout_min": 5}
    with job_array(run_cell, tmp_path / "study", "slurm", 2, resources) as submit:
        jobs = submit(configs)
        wait_for(lambda: all(job.done() for job in jobs))
        assert [job.result() for job in jobs] == [None, None]
    assert len(calls.read_text().splitlines()) == (1 if queued else 2)
    assert sorted(jobs_ever(name_within(tmp_path / "study"))) == sorted(job.job_id for job in jobs)
    with job_array(run_cell, tmp_path / "study", "slurm", 2, resources) as submit:
        assert [job.job_id for job in submit(configs)] == [job.job_id for job in jobs], "they have finished"
    assert len(calls.read_text().splitlines()) == (1 if queued else 2)


def test_a_study_whose_jobs_slurm_refuses_says_so(launch: Run, tmp_path: Path) -> None:
    small = ["study=small", "cluster=slurm", f"study_dir={tmp_path}/study"]
    for resources, reason in (("slurm_partition: nowhere", "invalid partition"), ("nonsense: 1", "nonsense")):
        refused = launch("compare", *small, f"slurm={{mem_gb: null, {resources}}}", ok=False)
        assert refused.returncode == 2
        assert "error: cluster=slurm slurm=" in refused.stderr
        assert reason in refused.stderr


def test_what_slurm_does_not_know_any_more_is_asked_of_the_accounts() -> None:
    queue = Queue(0.0)
    queue.follow("4000000")
    assert not queue.state("4000000").alive
    assert job_name(Path("/a/nodes/0001")) != job_name(Path("/b/nodes/0001"))
