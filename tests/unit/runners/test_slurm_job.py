"""What a stage asks SLURM for, and what the driver makes of SLURM's answers.

The SLURM here is a script; tests/integration has the real one.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from llmzero.cli import composed
from llmzero.core.documents import dump_yaml
from llmzero.core.errors import UserError
from llmzero.core.files import read_json, write_json
from llmzero.core.stage import StageDir, StageResult, StageSpec
from llmzero.runners.sbatch import NotNowError, RefusedError, sbatch
from llmzero.runners.slurm import SlurmRunner, SlurmRunnerSettings, outside_a_job
from llmzero.runners.slurm_job import requeue
from llmzero.runners.slurm_queue import JobState, Queue, job_name, name_within, squeue
from llmzero.runners.slurm_resources import JobResources
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.studies.jobs import SearchJob, job_array
from llmzero.studies.pool import run_cell
from llmzero.tree.lease import SILENCE_S, Lease
from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY

HPARAMS = {"max_completion_length": 2048, "group_size": 4}


def test_resources_grow_with_hyperparameters_and_never_shrink() -> None:
    job = JobResources(
        mem_gb=32,
        timeout_min=100,
        scale={"timeout_min": {"max_completion_length": 1024, "group_size": 8}, "mem_gb": {"group_size": 2}},
    )
    asked = job.parameters(HPARAMS, "name", None)
    assert (asked["time"], asked["mem"]) == (200, "64GB")
    assert "partition" not in asked, "what is not told is left to the cluster"
    with pytest.raises(
        UserError,
        match=r"runner\.scale\.mem_gb\.none: no such hyperparameter; "
        r"known: max_completion_length, group_size",
    ):
        JobResources(mem_gb=1, scale={"mem_gb": {"none": 1}}).check_scale(HPARAMS)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"seconds": {"group_size": 1}}, r"runner\.scale\.seconds: must be one of timeout_min, mem_gb"),
        ({"mem_gb": {"group_size": 0}}, r"runner\.scale\.mem_gb\.group_size=0: must be a number above 0"),
        ({"mem_gb": {"group_size": "a"}}, r"group_size=a: must be a number above 0"),
        ({"mem_gb": {"group_size": float("nan")}}, r"group_size=nan: must be a number above 0"),
    ],
)
def test_a_scale_that_cannot_work_is_refused(scale: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        JobResources(scale=scale)


def test_a_scale_by_an_unknown_hyperparameter_is_refused_before_a_search() -> None:
    overrides = ["runner=slurm", "+runner.scale={timeout_min: {group_sise: 8}}"]
    with pytest.raises(UserError, match=r"timeout_min\.group_sise: no such .*; did you mean group_size"):
        Session.from_config(composed("search", SearchConfig, overrides))


def test_the_example_profile_composes() -> None:
    command = [
        sys.executable,
        "launchers/search.py",
        "--config-dir",
        "slurm",
        "+cluster=example",
        "runner=slurm",
    ]
    shown = subprocess.run(
        [*command, "--cfg", "job"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert yaml.safe_load(shown.stdout)["runner"]["scale"] == {"timeout_min": {"max_completion_length": 4096}}


def test_a_stage_has_one_process_a_gpu_unless_told_otherwise() -> None:
    assert JobResources(nodes=2, gpus_per_node=8).devices == 16
    assert JobResources(gpus_per_node=8, tasks_per_node=1).devices == 1
    assert JobResources().devices == 1


def test_what_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"runner\.timeout_min=3: leaves no time to train"):
        JobResources(timeout_min=3)
    with pytest.raises(UserError, match=r"runner\.max_gpus=4: one stage takes 8"):
        SlurmRunner(SlurmRunnerSettings(entry_point="a.b", gpus_per_node=8, max_gpus=4))


def test_a_job_that_no_node_could_start_counts_as_dead() -> None:
    assert JobState("PENDING", reason="Resources").alive
    assert JobState("PENDING", reason="JobHeldUser").alive
    assert not JobState("PENDING", reason="launch failed requeued held").alive
    assert not JobState("TIMEOUT").alive


def test_jobs_do_not_take_themselves_for_the_drivers_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_CONF", "RANK", "SUBMITIT_EXECUTOR"):
        monkeypatch.setenv(name, "1")
    with outside_a_job():
        assert "SLURM_CONF" in os.environ
        assert not {"SLURM_JOB_ID", "RANK", "SUBMITIT_EXECUTOR"} & os.environ.keys()
    assert os.environ["SLURM_JOB_ID"] == "1"


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files squeue and sacct print; without a file they fail. `log` names every call."""
    for name in ("squeue", "sacct", "scancel"):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/log\ncat {tmp_path}/{name}.txt\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def calls(answers: Path) -> list[str]:
    return [line.split()[0] for line in (answers / "log").read_text().splitlines()]


def test_one_question_is_about_all_jobs(answers: Path) -> None:
    (answers / "squeue.txt").write_text("".join(f"{i}|RUNNING|llmzero-x-{i:04d}|None\n" for i in range(500)))
    queue = Queue(3600.0)
    for number in range(500):
        queue.follow(str(number))
    assert all(queue.state(str(number)).alive for number in range(500))
    assert queue.alive == 500
    assert queue.named("llmzero-x-0007") == "7"
    assert calls(answers) == ["squeue"]


def test_silence_changes_nothing_and_the_accounts_know_what_the_queue_has_forgotten(answers: Path) -> None:
    queue = Queue(0.0)
    queue.follow("7")
    assert queue.state("7").state == "PENDING", "squeue fails: the job still counts as submitted"
    (answers / "squeue.txt").write_text("8|RUNNING|other|None\n")
    (answers / "sacct.txt").write_text("7|CANCELLED by 0\n")
    assert queue.state("7") == JobState("CANCELLED")
    (answers / "sacct.txt").unlink()
    assert queue.state("7") == JobState("GONE"), "a cluster without accounts"


def test_a_controller_that_does_not_answer_ends_status_and_stop_in_a_sentence(answers: Path) -> None:
    search = answers / "search"
    (search / "nodes" / "0000").mkdir(parents=True)  # a stage that has begun, whose job is asked for
    config = composed("search", SearchConfig, ["task=none", "model=none", "runner=slurm"])
    (search / "config.yaml").write_text(dump_yaml(asdict(config)))
    store = EventStore(search / "tree.jsonl")
    store.append(
        "created",
        elapsed=0.0,
        node_id="0000",
        parent_id=None,
        depth=0,
        hparams={},
        steps=0,
        resume_from=None,
        proposal={},
    )
    for launcher in ("status", "stop"):
        done = subprocess.run(
            [sys.executable, REPOSITORY / f"launchers/{launcher}.py", search], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: SLURM does not tell the jobs of this search"), done.stderr
        assert "squeue.txt" in done.stderr, "what squeue said"


@pytest.mark.parametrize(
    ("recorded", "taken"),
    [
        ("12", True),
        ("12_3", True),
        ("7", False),
        ("--user=me", False),
        ("12 7", False),
        ("12;7", False),
        ("١٢", False),
        ("", False),
        (12, False),
        (["12"], False),
        ({"_target_": "x"}, False),
        (None, False),
    ],
)
def test_a_recorded_id_is_followed_where_it_can_be_the_stages_own(
    answers: Path, recorded: Any, taken: bool
) -> None:
    """A stranger's file may name any job of this user's, or an option of scancel."""
    (answers / "squeue.txt").write_text("7|PENDING|the user's other job|None\n")
    stage = answers / "nodes/0001"
    stage.mkdir(parents=True)
    (stage / "job.json").write_text(json.dumps({"job_id": recorded}))
    spec = StageSpec("0001", "0000", 1, stage, None, {}, 4, 0)
    handle = SlurmRunner(SlurmRunnerSettings()).attach(spec)
    assert (handle.job_id if handle else None) == (recorded if taken else None)
    assert set(calls(answers)) <= {"squeue", "sacct"}


def test_a_copied_stage_does_not_take_the_originals_job_for_its_own(answers: Path) -> None:
    """Also while SLURM does not tell the names of jobs, or has forgotten that one."""
    for number, known in enumerate((None, "", "12|PENDING|{name}|None\n")):
        original, copy = (answers / f"{number}/{place}/nodes/0001" for place in ("original", "copy"))
        original.mkdir(parents=True)
        name = job_name(original)
        (original / "job.json").write_text(json.dumps({"job_id": "12", "name": name}))
        shutil.copytree(original, copy)
        (answers / "squeue.txt").unlink(missing_ok=True)
        if known is not None:
            (answers / "squeue.txt").write_text(known.format(name=name))
        runner = SlurmRunner(SlurmRunnerSettings())
        handles = [runner.attach(StageSpec("0001", "0000", 1, d, None, {}, 4, 0)) for d in (original, copy)]
        assert [handle and handle.job_id for handle in handles] == ["12", None], known


def test_the_pickle_of_an_earlier_job_is_not_loaded(answers: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (answers / "proof",)

    (answers / "squeue.txt").write_text("")
    (answers / "sacct.txt").write_text("JobID|State|NodeList\n7|RUNNING|n1\n")
    jobs, search = answers / "jobs", answers / "search"
    jobs.mkdir()
    (jobs / "7_0_result.pkl").write_bytes(pickle.dumps(("success", Hostile())))
    job = SearchJob(Queue(0.0), "7", str(search))
    assert (job.alive, job.done()) == (True, False)
    assert "job 7 ended before the search did" in (job.result() or "")
    search.mkdir()
    (search / "summary.json").write_text('{"state": "finished"}')
    assert (job.done(), job.result()) == (True, None)
    assert not (answers / "proof").exists()


def test_a_job_that_comes_back_into_the_queue_is_cancelled(answers: Path) -> None:
    (answers / "squeue.txt").write_text("7|PENDING|name|BeginTime\n")
    (answers / "scancel.txt").write_text("")
    queue = Queue(0.0)
    queue.follow("7")
    queue.leave("7")
    assert queue.alive == 1
    assert calls(answers)[-1] == "scancel"
    (answers / "squeue.txt").write_text("7|CANCELLED|name|None\n")
    assert queue.alive == 0


# --- what SLURM says, and how it may be misread ---


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("7|RUNNING|llmzero-x|None", "RUNNING"),
        ("7|RUNNING|llmzero-x|Reason|with|bars", "RUNNING"),
        ("7|RUNNING|a", "RUNNING"),  # and a new line in the name
        ("7|RUNNING", "RUNNING"),
        ("7|NEW_STATE|llmzero-x|None", "NEW_STATE"),
        ("7||llmzero-x|None", "UNKNOWN"),
        ("7|?", "UNKNOWN"),
        ("7|CANCELLED by 1000|llmzero-x|None", "CANCELLED"),
        ("7|CANCELLED+", "CANCELLED"),
    ],
)
@pytest.mark.parametrize(
    "noise",
    ["", "CLUSTER: gpu", "b|None", "a notice\n|x|\n7", "7.batch|FAILED", "7+0|FAILED", "\u2028\x0b|é"],
)
def test_a_line_that_does_not_read_hides_no_other(answers: Path, line: str, state: str, noise: str) -> None:
    printed = f"{noise}\n{line}\n{noise}\n\n"
    (answers / "squeue.txt").write_text(printed, encoding="latin-1", errors="replace")
    queue = Queue(0.0)
    queue.follow("7")
    assert queue.state("7").state == state
    assert queue.state("7").alive == (state != "CANCELLED"), "what is not known to have ended may run"
    assert set(calls(answers)) == {"squeue"}


def test_a_line_that_does_not_read_is_said_once(answers: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue(0.0)
    for minute in range(3):
        (answers / "squeue.txt").write_text(
            f"CLUSTER: gpu\nmaintenance starts in {minute} minutes\n7|RUNNING|a|b\n"
        )
        queue.follow("7")
        assert queue.state("7").alive
    assert [record.getMessage() for record in caplog.records] == [
        "squeue: cannot read the line 'maintenance starts in 0 minutes'; such lines are left out"
    ]


def test_waiting_tasks_of_an_array_are_read_from_their_range(answers: Path) -> None:
    (answers / "squeue.txt").write_text(
        "7_[1-3,8-12:2%2]|PENDING|a|None\n7_0|RUNNING|a|None\n8_[]|PENDING\n9_[1-0:0]|PENDING\n"
    )
    (answers / "sacct.txt").write_text("7_4|COMPLETED\n7_4.batch|COMPLETED\n7_[5-6]|FAILED\n")
    queue = Queue(0.0)
    ids = [f"7_{number}" for number in range(13)]
    for job_id in ids:
        queue.follow(job_id)
    states = [queue.state(job_id).state for job_id in ids]
    waiting = ["PENDING", "GONE", "PENDING", "GONE", "PENDING"]
    assert states == ["RUNNING", *3 * ["PENDING"], "COMPLETED", "FAILED", "FAILED", "GONE", *waiting]


@pytest.mark.parametrize(
    "sacct", [None, "echo 'Slurm accounting storage is disabled' >&2; exit 1", "echo disabled", "kill -9 $$"]
)
def test_without_accounts_the_queue_alone_decides(
    answers: Path, monkeypatch: pytest.MonkeyPatch, sacct: str | None
) -> None:
    """No accounts are no silence of the controller: a job that it does not list has ended."""
    if sacct is None:
        (answers / "sacct").unlink()
        (answers / "cat").symlink_to(str(shutil.which("cat")))
        monkeypatch.setenv("PATH", str(answers))
    else:
        (answers / "sacct").write_text(f"#!/bin/sh\n{sacct}\n")
    (answers / "squeue.txt").write_text("")
    queue = Queue(0.0)
    queue.follow("7")
    assert queue.state("7") == JobState("GONE")


def test_a_users_habits_hide_no_job(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "elsewhere")
    monkeypatch.setenv("SLURM_CLUSTERS", "gpu")
    (answers / "squeue").write_text('#!/bin/sh\necho "7|RUNNING|$SQUEUE_PARTITION$SLURM_CLUSTERS|None"\n')
    assert squeue("--me") == {"7": JobState("RUNNING", "gpu", "None")}


@pytest.mark.parametrize(
    ("script", "passes"),
    [
        ("echo 'Socket timed out on send/recv operation' >&2; exit 1", True),
        ("echo 'I/O error writing script/environment to file' >&2; exit 1", True),
        ("echo 'Zero Bytes were transmitted or received' >&2; exit 1", True),
        ("echo 'Slurm temporarily unable to accept job, sleeping and retrying' >&2; exit 1", True),
        ("echo 'Resource temporarily unavailable' >&2; exit 1", True),
        ("echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1", True),
        ("echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1", True),
        ("echo 'sbatch: error: AssocGrpSubmitJobsLimit' >&2; exit 1", True),
        ("echo 'Message send failure' >&2; exit 1", True),
        ("echo 'Message receive failure' >&2; exit 1", True),
        ("echo 'Insane message length' >&2; exit 1", True),
        ("echo 'slurm_open_msg_conn: Network is unreachable' >&2; exit 1", True),
        ("echo 'Unable to connect to database' >&2; exit 1", True),
        ("echo 'Requested operation is presently disabled' >&2; exit 1", True),
        ("echo 'Welcome'; echo 'Submitted batch job 12' >&2", True),  # its name tells the job
        ("kill -9 $$", True),
        ("exit 137", True),
        ("exit 1", True),
        ("echo something else", True),
        ("sleep 60", True),
        ("echo 'invalid partition specified: nowhere' >&2; exit 1", False),
        ("echo 'Invalid account or account/partition combination specified' >&2; exit 1", False),
        ("echo 'Invalid qos specification' >&2; exit 1", False),
        ("echo 'Requested node configuration is not available' >&2; exit 1", False),
        ("echo 'Access/permission denied' >&2; exit 1", False),
        ("echo 'Requested time limit is invalid (missing or exceeds some limit)' >&2; exit 1", False),
        ("echo 'Memory specification can not be satisfied' >&2; exit 1", False),
    ],
)
def test_what_sbatch_says_passes_or_not(
    answers: Path, monkeypatch: pytest.MonkeyPatch, script: str, passes: bool
) -> None:
    monkeypatch.setattr("llmzero.runners.sbatch.TIMEOUT_S", 1.0)
    (answers / "sbatch").write_text(f"#!/bin/sh\n{script}\n")
    (answers / "sbatch").chmod(0o755)
    with pytest.raises(NotNowError if passes else RefusedError):
        sbatch(answers / "script.sh")


def test_the_job_id_is_found_among_notices(answers: Path) -> None:
    (answers / "sbatch").write_text(
        "#!/bin/sh\necho Welcome to 5 nodes\necho Submitted batch job 12 on cluster gpu\n"
    )
    (answers / "sbatch").chmod(0o755)
    assert sbatch(answers / "script.sh") == "12"


def test_nothing_is_submitted_before_slurm_has_told_what_is_queued(answers: Path) -> None:
    queue, submissions = Queue(0.0), []

    def submit() -> str:
        submissions.append(1)
        raise NotNowError("Socket timed out")

    with pytest.raises(NotNowError, match="does not tell"):
        queue.submitted("llmzero-x-0001", submit)
    assert not submissions
    (answers / "squeue.txt").write_text("8|RUNNING|llmzero-x-0002|None\n9|COMPLETED|llmzero-x-0001|None\n")
    with pytest.raises(NotNowError, match="Socket timed out"):
        queue.submitted("llmzero-x-0001", submit)
    (answers / "squeue.txt").write_text("7|PENDING|llmzero-x-0001|None\n")
    assert queue.submitted("llmzero-x-0001", submit) == "7"
    assert len(submissions) == 1


@pytest.mark.parametrize("lease", ["none", "held", "of a dead process", "damaged"])
def test_a_job_works_in_a_directory_where_no_other_does(tmp_path: Path, lease: str) -> None:
    stage = StageDir(tmp_path)
    file = tmp_path / "stage.lease"
    command = [sys.executable, "-m", "llmzero.runners.slurm_job", str(tmp_path)]
    with ExitStack() as stack:
        if lease != "none":
            stack.enter_context(Lease(file).held())
        if lease == "of a dead process":
            write_json(file, {**(read_json(file) or {}), "pid": 2**22 + 1})
        if lease == "damaged":
            file.write_text('{"token"')
        done = subprocess.run(
            [*command, "tests.integration.recorders.environment", "1"], capture_output=True, check=False
        )
        assert done.returncode == 0, stage.log_file.read_text()
        assert (stage.result() is None) == (lease == "held")
        assert lease != "held" or "works on this stage" in stage.log_file.read_text()


def test_a_search_that_finishes_while_it_is_looked_at_is_not_submitted_again(
    answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job runs at the first look, and has ended with a finished search by the second."""
    study, search = answers / "study", answers / "study/a"
    search.mkdir(parents=True)
    write_json(study / "jobs.json", {str(search): "7_0"})
    (answers / "squeue").write_text(
        f"""#!/bin/sh
        [ -e {answers}/again ] && echo '{{"state": "finished"}}' > {search}/summary.json
        [ -e {answers}/again ] && state=COMPLETED || state=RUNNING
        echo "7_0|$state|{name_within(study)}-a|None"
        touch {answers}/again
        """
    )
    monkeypatch.setattr("llmzero.studies.jobs.POLL_S", 0.0)
    for name, words in (("srun", ""), ("sbatch", "Submitted batch job 9")):
        (answers / name).write_text(f"#!/bin/sh\necho {words}\n")
        (answers / name).chmod(0o755)
    config = composed("search", SearchConfig, ["experiment=simulated", f"search_dir={search}"])
    with job_array(run_cell, study, "slurm", 1, {}) as submit:
        assert [job.job_id for job in submit([config])] == ["7_0"]


@pytest.mark.parametrize(
    ("row", "requeued"),
    [
        ("7|RUNNING|a|None", True),
        ("CLUSTER: gpu\n7|RUNNING|a|None", True),
        ("7|?", True),
        ("7|COMPLETING|a|None", False),
        ("7|CANCELLED|a|None", False),
        ("", False),
    ],
)
def test_a_job_puts_itself_back_unless_it_was_cancelled(
    answers: Path, monkeypatch: pytest.MonkeyPatch, row: str, requeued: bool
) -> None:
    """Also where the controller is silent at first."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr("llmzero.runners.slurm_job.PAUSE_S", 0.0)
    monkeypatch.setattr("llmzero.runners.slurm_job.wait_for_the_end", lambda: None)
    (answers / "rows").write_text(row + "\n")
    (answers / "squeue").write_text(
        f"#!/bin/sh\n[ -e {answers}/again ] || {{ touch {answers}/again; exit 1; }}\ncat {answers}/rows\n"
    )
    (answers / "scontrol").write_text(f'#!/bin/sh\necho "scontrol $*" >> {answers}/log\n')
    (answers / "scontrol").chmod(0o755)
    requeue(StageDir(answers))
    asked = (answers / "log").read_text().splitlines() if (answers / "log").exists() else []
    assert asked == (["scontrol requeue 7"] if requeued else [])


def test_a_stage_that_an_unclear_job_has_ended_or_begun_is_not_submitted_nor_undone(
    answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where sbatch has queued a job without saying so, and squeue does not list it in time."""
    (answers / "squeue.txt").write_text("")
    (answers / "sbatch").write_text(f"#!/bin/sh\necho >> {answers}/submissions\necho timed out; exit 1\n")
    (answers / "sbatch").chmod(0o755)
    (answers / "srun").symlink_to(answers / "sbatch")
    runner = SlurmRunner(SlurmRunnerSettings(snapshot=False, poll_s=0.0))
    stages = [StageDir(answers / f"nodes/{number:04d}") for number in range(3)]
    for stage in stages:
        stage.path.mkdir(parents=True)
    ended, begun, neither = [
        runner.start(StageSpec(stage.path.name, "0000", 1, stage.path, None, {}, 4, 0)) for stage in stages
    ]
    stages[0].write_result(StageResult("completed", [], None, None, None, 1.0, 1.0))
    write_json(stages[1].status_file, {"phase": "training", "progress": 0.5, "seconds": 1.0})
    for handle in (ended, begun, neither):
        handle.stop()
    assert [stage.result_file.exists() for stage in stages] == [True, False, True]
    assert [handle.poll().state for handle in (ended, begun, neither)] == ["completed", "running", "failed"]
    (answers / "submissions").unlink()
    monkeypatch.setattr(runner, "_not_before", 0.0)
    begun.poll()
    assert len((answers / "submissions").read_text().splitlines()) == 1, "of the one that has not ended"


def test_a_job_that_renews_its_lease_is_alive_although_squeue_does_not_list_it(
    answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: SILENCE_S / 4 * next(looks), time=time.time)
    monkeypatch.setattr("llmzero.runners.slurm.time", clock)
    stage = StageDir(answers / "nodes/0001")
    stage.path.mkdir(parents=True)
    (stage.path / "job.json").write_text('{"job_id": "7"}')
    (answers / "squeue.txt").write_text("")
    runner = SlurmRunner(SlurmRunnerSettings(poll_s=0.0, grace_s=0.0))
    handle = runner.attach(StageSpec("0001", "0000", 1, stage.path, None, {}, 4, 0))
    assert handle is not None
    assert not handle.alive(), "without a lease only the grace counts"
    lease = stage.path / "stage.lease"
    for renewals in range(4):
        lease.write_text(f'{{"renewals": {renewals}}}')
        assert handle.alive()
        assert handle.alive(), "it may be silent for a while"
    assert not all(handle.alive() for _ in range(9)), "but not for ever"
    lease.write_text('{"renewals": 4}')
    assert handle.alive()
    lease.unlink()
    assert not handle.alive()
    (answers / "squeue.txt").write_text("7|FAILED|llmzero-x|None\n")
    lease.write_text('{"renewals": 5}')
    assert not handle.alive(), "what SLURM says counts"


def test_a_search_that_is_driven_has_not_ended_although_squeue_does_not_list_its_job(
    answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: SILENCE_S / 4 * next(looks), time=time.time)
    monkeypatch.setattr("llmzero.studies.jobs.time", clock)
    (answers / "squeue.txt").write_text("")
    job = SearchJob(Queue(0.0), "7", str(answers))
    for renewals in range(6):
        (answers / "driver.json").write_text(f'{{"renewals": {renewals}}}')
        assert not job.done()
    assert any(job.done() for _ in range(9)), "it is silent"
