"""The W&B mirror by the real wandb: offline runs are read back, a local server records online ones."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmzero.core.files import append_jsonl
from llmzero.core.stage import FinalState, StageDir, StageResult, StageSpec, ValidationPoint
from llmzero.mirrors.tracking import NoTracking, WandbTracking
from llmzero.mirrors.tracking.names import group_of
from llmzero.mirrors.tracking.settings import TrackingSettings
from llmzero.tree.store import EventStore
from tests.wandb_reader import OfflineRun, read_runs
from tests.wandb_server import Run, WandbServer, wandb_server

STEPS = 4
CHECKPOINT = "checkpoints/step_00004"


class Search:
    """A search directory that grows as a driver would make it grow, with made-up training."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        (path / "config.yaml").write_text("search: {name: llmzero}\n")
        self.path = path
        self.store = EventStore(path / "tree.jsonl")

    def create(self, parent: str | None) -> str:
        """Decide on a stage below `parent`, and start it."""
        tree = self.store.tree
        node_id, depth = tree.next_id(), len(tree.path(parent)) if parent else 0
        hparams, steps = {"learning_rate": 1e-3 / (1 + len(tree)), "kl_coef": 0.0}, STEPS if parent else 0
        changes = {"kl_coef": 0.0} if parent else {}
        proposal = {"agent": "rules", "diagnosis": ["Entropy falls."], "rationale": "", "changes": changes}
        resume_from = self.path / "nodes" / parent / CHECKPOINT if parent else None
        stage = StageDir(self.path / "nodes" / node_id)
        stage.write_spec(StageSpec(node_id, parent, depth, stage.path, resume_from, hparams, steps, seed=7))
        self._record(
            "created",
            node_id=node_id,
            parent_id=parent,
            depth=depth,
            hparams=hparams,
            steps=steps,
            resume_from=str(resume_from) if resume_from else None,
            proposal=proposal,
        )
        self._record("started", node_id=node_id)
        return node_id

    def finish(self, node_id: str, score: float = 0.5, state: FinalState = "completed") -> None:
        """Train the stage in no time: metrics every step, validation at its last."""
        node, stage = self.store.tree[node_id], StageDir(self.path / "nodes" / node_id)
        before = STEPS * max(0, node.depth - 1)
        steps = range(1, node.steps + 1)
        append_jsonl(
            stage.metrics_file,
            [{"step": s, "global_step": before + s, "kl": 0.1 * s, "loss": None} for s in steps],
        )
        point = ValidationPoint(node.steps, before + node.steps, score, stderr=0.05, n=100, seconds=1.0)
        result = StageResult(
            state, [point], node.steps, score, stage.path / CHECKPOINT, seconds=2.0, gpu_seconds=3.0
        )
        stage.write_result(result)
        self._record("finished", node_id=node_id, result=result.to_dict(stage.path))

    def add(self, parent: str | None, score: float = 0.5, state: FinalState = "completed") -> str:
        """Create a stage and finish it."""
        node_id = self.create(parent)
        self.finish(node_id, score, state)
        return node_id

    def end(self) -> None:
        """Record that the search is over."""
        self._record("ended")

    def _record(self, event: str, **fields: Any) -> None:
        self.store.append(event, elapsed=1.0, **fields)

    @property
    def runs(self) -> dict[str, OfflineRun]:
        """The offline runs by what follows the search's name in theirs."""
        return {name.removeprefix(f"{self.path.name}/"): run for name, run in read_runs(self.path).items()}

    @property
    def recordings(self) -> dict[Path, int]:
        """Every recording with the time it was last written to."""
        return {file: file.stat().st_mtime_ns for file in self.path.glob("wandb/*run-*/run-*.wandb")}


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """A search whose base model was evaluated and whose first stage has ended."""
    search = Search(tmp_path / "my search")
    search.add(search.add(None, score=0.3), score=0.6)
    return search


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A W&B server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        yield


def key_for(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that records; what the client asked of it in vain is an error."""
    with wandb_server() as server:
        key_for(server, monkeypatch)
        yield server
    assert not server.unknown


def mirror(search: Search, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmzero.mirrors.tracking", str(search.path), *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def mirrored(search: Search) -> set[str]:
    memory = search.path / "tracking.json"
    return set(json.loads(memory.read_text())["offline"]) if memory.exists() else set()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_stage_is_a_run_with_its_place_in_the_tree(search: Search) -> None:
    search.add("0001", score=0.4, state="stopped")
    search.end()
    assert mirror(search).returncode == 0
    assert set(search.runs) == {"0000", "0001", "0002", "search"}
    run = search.runs["0002"]
    assert (run.project, run.group, run.job_type, run.exit_code) == (
        "llmzero",
        group_of(search.path),
        "stage",
        0,
    )
    assert run.tags == ["llmzero", "stopped"]
    config = {
        key: run.config[key]
        for key in ("parent", "depth", "path", "steps", "seed", "state", "diagnosis", "changes")
    }
    assert config == {
        "parent": "0001",
        "depth": 2,
        "path": ["0000", "0001", "0002"],
        "steps": STEPS,
        "seed": 7,
        "state": "stopped",
        "diagnosis": ["Entropy falls."],
        "changes": {"kl_coef": 0.0},
    }
    assert run.config["hparams"] == search.store.tree["0002"].hparams
    assert run.config["resume_from"] == str(search.store.tree["0002"].resume_from)
    assert search.runs["0000"].config["parent"] is None


def test_the_run_that_the_driver_is_part_of_is_none_of_the_searchs(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a sweep or a script with its own run starts the search, or somebody completes the mirror."""
    for name in ("RUN_ID", "NAME", "RUN_GROUP", "JOB_TYPE", "SWEEP_ID", "NOTES", "TAGS", "PROJECT"):
        monkeypatch.setenv(f"WANDB_{name}", "foreign")
    monkeypatch.setenv("WANDB_RESUME", "must")
    monkeypatch.setenv("WANDB_DIR", str(search.path.parent / "elsewhere"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    search.end()
    assert mirror(search).returncode == 0
    assert set(search.runs) == {"0000", "0001", "search"}
    for name, run in search.runs.items():
        assert run.run_id.endswith(f"-{name}")
        assert (run.project, run.group) == ("llmzero", group_of(search.path))
        assert "foreign" not in run.tags


def test_a_directory_whose_name_wandb_would_refuse_is_mirrored(tmp_path: Path) -> None:
    search = Search(tmp_path / f"50%: a#b?{'x' * 150}")
    (search.path / "config.yaml").write_text(f"search: {{name: {'m' * 100}}}\n")
    search.add(None)
    assert mirror(search).returncode == 0
    [run] = [run for name, run in read_runs(search.path).items() if name.endswith("/0000")]
    assert run.group == group_of(search.path)
    assert run.tags == ["m" * 64, "completed"]


def test_searches_of_one_name_are_groups_of_their_own(search: Search, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = Search(tmp_path / "elsewhere" / search.path.name)
    other.add(None)
    assert group_of(other.path) != group_of(search.path)


def test_a_path_reads_as_one_curve_over_global_step(search: Search) -> None:
    search.add("0001", score=0.7)
    mirror(search)
    child, grandchild = search.runs["0001"], search.runs["0002"]
    assert child.axes["*"] == "global_step"
    assert [row["global_step"] for row in child.history + grandchild.history] == list(range(1, 2 * STEPS + 1))
    assert [row["train/kl"] for row in grandchild.history] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [row.get("val/score") for row in grandchild.history] == [None, None, None, 0.7]
    assert grandchild.history[-1]["val/stderr"] == 0.05
    assert not any("train/loss" in row for row in grandchild.history), (
        "a value that was not a number is left out"
    )


def test_the_search_is_a_run_with_its_nodes_and_its_progress(search: Search) -> None:
    search.add("0001", score=0.4)
    search.end()
    mirror(search)
    run = search.runs["search"]
    assert (run.group, run.job_type) == (group_of(search.path), "search")
    progress = [(row["stages"], row["gpu_seconds"], row["best"]) for row in run.history if "best" in row]
    assert progress == [(1, 3.0, 0.6), (2, 6.0, 0.6)]
    assert (run.summary["base_score"], run.summary["best_score"], run.summary["best_node"]) == (
        0.3,
        0.6,
        "0001",
    )
    assert run.fork is None
    [table_file] = search.path.glob("wandb/offline-run-*/files/media/table/*.table.json")
    table = json.loads(table_file.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["node_id"], row["parent"], row["state"], row["score"]) for row in rows] == [
        ("0000", None, "completed", 0.3),
        ("0001", "0000", "completed", 0.6),
        ("0002", "0001", "completed", 0.4),
    ]


def test_everything_w_and_b_writes_is_in_the_search_directory(search: Search, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = ["env", f"HOME={home}", sys.executable, "-m", "llmzero.mirrors.tracking", str(search.path)]
    subprocess.run(command, stdin=subprocess.DEVNULL, cwd=home, check=True)
    assert not list(home.rglob("*"))


def test_mirroring_twice_adds_nothing_and_a_continued_search_only_what_is_new(search: Search) -> None:
    search.end()
    mirror(search)
    before = search.recordings
    mirror(search)
    assert search.recordings == before
    search.add("0001")
    search.end()
    mirror(search)
    unchanged = {
        file: time
        for file, time in search.recordings.items()
        if "search" not in file.name and "0002" not in file.name
    }
    assert unchanged.items() <= before.items()
    assert search.runs["search"].summary["nodes_total"] == 3


def test_a_run_that_was_cut_short_is_written_anew(search: Search) -> None:
    mirror(search)
    [(half, _)] = [entry for entry in search.recordings.items() if "0001" in entry[0].name]
    memory = json.loads((search.path / "tracking.json").read_text())
    del memory["offline"]["0001"]
    (search.path / "tracking.json").write_text(json.dumps(memory))
    half.write_bytes(half.read_bytes()[:100])
    mirror(search)
    assert len(search.runs["0001"].history) == STEPS


def test_the_event_log_is_only_read(search: Search) -> None:
    with search.store.path.open("a") as file:
        file.write('{"event": "finis')  # what a driver is writing just now
    before = search.store.path.read_bytes()
    assert mirror(search).returncode == 0
    assert search.store.path.read_bytes() == before
    assert not list(search.path.glob("tree.jsonl.*"))


def test_one_broken_stage_does_not_keep_the_others_from_being_mirrored(search: Search) -> None:
    (search.path / "nodes" / "0000" / "stage.json").write_text("{")
    result = mirror(search)
    assert result.returncode == 1
    assert "0000 could not be mirrored" in result.stderr
    assert set(search.runs) == {"0001", "search"}


def test_following_mirrors_stages_as_they_finish_and_ends_with_the_search(search: Search) -> None:
    command = [sys.executable, "-m", "llmzero.mirrors.tracking", str(search.path), "--follow"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_for(lambda: mirrored(search) == {"0000", "0001"})
        node_id = search.create("0001")
        search.finish(node_id)
        wait_for(lambda: node_id in mirrored(search))
        assert process.poll() is None
        search.end()
        assert process.wait() == 0
    assert search.runs["search"].summary["ended"] is True


def test_a_driver_gets_all_mirrored_and_one_line(search: Search, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    search.end()
    tracking = WandbTracking(TrackingSettings(mode="offline", project="elsewhere"))
    tracking.start(search.path)
    tracking.finish(timeout_s=30)
    assert set(search.runs) == {"0000", "0001", "search"}
    assert search.runs["0001"].project == "elsewhere"
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert str(search.path / "wandb") in caplog.text


def test_a_continued_search_is_followed_past_its_first_end(search: Search) -> None:
    search.end()
    tracking = WandbTracking(TrackingSettings(mode="offline"))
    tracking.start(search.path)
    wait_for(lambda: mirrored(search) == {"0000", "0001"})
    search.add("0001")
    search.end()
    tracking.finish(timeout_s=30)
    assert set(search.runs) == {"0000", "0001", "0002", "search"}


def test_a_killed_driver_leaves_a_complete_mirror(search: Search) -> None:
    script = "import sys, os, pathlib; "
    script += "from llmzero.mirrors.tracking import WandbTracking as W, TrackingSettings as S"
    script += "; W(S('offline')).start(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(search.path)], check=False)
    wait_for(lambda: mirrored(search) == {"0000", "0001", "search"})


def test_without_wandb_a_search_gets_one_warning(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shadow" / "wandb").mkdir(parents=True)
    (tmp_path / "shadow" / "wandb" / "__init__.py").write_text("raise ImportError('no wandb here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'shadow'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    tracking = WandbTracking(TrackingSettings(mode="offline"))
    tracking.start(search.path)
    tracking.finish(timeout_s=30)
    [warning] = warnings(caplog)
    assert f"-m llmzero.mirrors.tracking '{search.path}' --mode offline" in warning
    assert "no wandb here" in (search.path / "tracking.log").read_text()


def test_a_mirror_that_cannot_be_started_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = WandbTracking(TrackingSettings(mode="offline"))
    tracking.start(tmp_path / "missing")
    tracking.finish(timeout_s=30)
    assert len(warnings(caplog)) == 1


@pytest.mark.usefixtures("unreachable")
def test_a_server_that_never_answers_holds_no_search_up(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = WandbTracking(TrackingSettings(mode="online"))
    tracking.start(search.path)
    begun = time.monotonic()
    tracking.finish(timeout_s=3)
    assert time.monotonic() - begun < 4
    assert len(warnings(caplog)) == 1


def test_the_driver_imports_no_wandb() -> None:
    code = "import sys, llmzero.mirrors.tracking; sys.exit('wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_tracking_leaves_nothing(tmp_path: Path) -> None:
    tracking = NoTracking()
    tracking.start(tmp_path)
    tracking.finish(timeout_s=1)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def delivered(search: Search) -> Search:
    """A search that is over, with all it leaves: a strategy, a page, transcripts, the winner's weights."""
    stage = search.path / "nodes" / "0001"
    for name in (
        "strategy.yaml",
        "report.html",
        "session.jsonl",
        "nodes/0001/calls/proposal-0000-1.json",
        "nodes/0001/log.txt",
    ):
        (search.path / name).parent.mkdir(exist_ok=True)
        (search.path / name).write_text(f"<p>{name}</p>")
    (stage / CHECKPOINT / "adapter").mkdir(parents=True)
    for name in ("model.safetensors", "adapter/model.safetensors", "optimizer.safetensors"):
        (stage / CHECKPOINT / name).write_bytes(name.encode())
    search.end()
    return search


def test_the_search_keeps_what_it_delivered(delivered: Search) -> None:
    mirror(delivered)
    run = delivered.runs["search"]
    assert {kind: set(files) for kind, files in run.artifacts.items()} == {
        "run_table": {"nodes.table.json"},
        "strategy": {"strategy.yaml"},
        "transcripts": {"session.jsonl", "nodes/0001/calls/proposal-0000-1.json"},
        "checkpoint": {"model.safetensors", "adapter/model.safetensors"},
    }
    checkpoints = delivered.path / "nodes" / "0001" / CHECKPOINT
    assert run.artifacts["checkpoint"]["model.safetensors"] == checkpoints / "model.safetensors", (
        "weights are not copied"
    )
    [page] = delivered.path.glob("wandb/offline-run-*/files/media/html/*.html")
    assert page.read_text() == "<p>report.html</p>"


def test_nothing_from_outside_of_a_search_is_sent(delivered: Search, tmp_path: Path) -> None:
    """A stranger's search leads out of its directory by links, and by the paths in its log."""
    private = tmp_path / "private"
    (private / "checkpoints").mkdir(parents=True)
    for name in ("strategy.yaml", "page.html", "call.json", "stage.jsonl", "checkpoints/key.safetensors"):
        (private / name).write_text(f"{{'secret': '{name}'}}\n")
    for link, target in (
        ("strategy.yaml", "strategy.yaml"),
        ("report.html", "page.html"),
        ("session.jsonl", "call.json"),
        ("nodes/0001/calls/proposal-0000-1.json", "call.json"),
        ("nodes/0001/rollouts.jsonl", "stage.jsonl"),
        ("nodes/0001/checkpoints/config.json", "call.json"),
        ("rule.yaml", "nothing"),
    ):
        (delivered.path / link).unlink(missing_ok=True)
        (delivered.path / link).symlink_to(private / target)
    (delivered.path / "nodes/0000/rollouts.jsonl").symlink_to("metrics.jsonl")  # it leads nowhere else
    os.mkfifo(delivered.path / "confirmation.json")
    done = mirror(delivered)
    assert done.returncode == 1
    assert "0001/rollouts.jsonl: is no file of" in done.stderr
    assert "confirmation.json: left out" in done.stderr
    sent = delivered.runs
    assert set(sent) == {"0000", "search"}
    assert {kind: set(files) for kind, files in sent["search"].artifacts.items()} == {
        "run_table": {"nodes.table.json"},
        "checkpoint": {"model.safetensors", "adapter/model.safetensors"},
    }
    assert not list(delivered.path.glob("wandb/offline-run-*/files/media/html/*.html"))
    [archive] = delivered.path.glob("wandb/offline-run-*-search/files/search.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        assert all(member.isreg() for member in tar.getmembers())
    assert "nodes/0000/rollouts.jsonl" in names
    assert not names & {"strategy.yaml", "rule.yaml", "confirmation.json", "nodes/0001/rollouts.jsonl"}
    for file in delivered.path.glob("wandb/**/*"):
        assert file.is_symlink() or file.is_dir() or b"secret" not in file.read_bytes(), file


def test_weights_that_the_log_names_elsewhere_are_not_sent(delivered: Search, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/key").write_text("secret")
    log = delivered.path / "tree.jsonl"
    log.write_text(log.read_text().replace(json.dumps(CHECKPOINT), json.dumps(str(tmp_path / "elsewhere"))))
    done = mirror(delivered)
    assert done.returncode != 0
    assert "tree.jsonl:" in done.stderr and "is no checkpoint of stage" in done.stderr
    assert not [file for file in delivered.path.glob("wandb/**/*") if file.name == "key"]


def test_a_file_of_names_cannot_have_other_directories_deleted(search: Search, tmp_path: Path) -> None:
    victim = tmp_path / "victim-0000"
    victim.mkdir()
    (search.path / "wandb/offline-run-x").mkdir(parents=True)
    for uid in ("x/../../../victim", "../victim", "*", ""):
        (search.path / "tracking.json").write_text(json.dumps({"id": uid}))
        assert mirror(search).returncode == 0
        assert victim.exists()
        assert json.loads((search.path / "tracking.json").read_text())["id"] != uid


def test_a_link_in_place_of_the_lock_empties_no_file(search: Search, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (search.path / "tracking.lock").symlink_to(tmp_path / "precious")
    done = mirror(search)
    assert done.returncode != 0
    assert "tracking.lock: is a link" in done.stderr
    assert (tmp_path / "precious").read_text() == "content"


def test_the_winners_weights_can_be_left_out(delivered: Search) -> None:
    tracking = WandbTracking(TrackingSettings(mode="offline", checkpoint=False))
    subprocess.run(tracking.command(delivered.path), stdin=subprocess.DEVNULL, check=True)
    assert set(delivered.runs["search"].artifacts) == {"run_table", "strategy", "transcripts"}


def test_a_fork_goes_on_where_its_parent_was_left(search: Search) -> None:
    search.add("0001")
    mirror(search, "--fork")
    uid, runs = json.loads((search.path / "tracking.json").read_text())["id"], search.runs
    assert {name: run.fork for name, run in runs.items()} == {
        "0000": None,
        "0001": (f"{uid}-0000", 0),
        "0002": (f"{uid}-0001", STEPS),
        "search": None,
    }
    assert [row["_step"] for row in runs["0002"].history] == list(range(STEPS + 1, 2 * STEPS + 1))


def test_online_a_server_gets_it_all_and_twice_adds_nothing(delivered: Search, server: WandbServer) -> None:
    assert mirror(delivered, "--mode", "online", "--fork").returncode == 0
    runs = {run.name.removeprefix("my search/"): run for run in server.runs.values()}
    stage = runs["0001"]
    assert (stage.group, stage.job_type, stage.exit_code) == (group_of(delivered.path), "stage", 0)
    assert (stage.values["parent"], stage.values["path"], stage.values["state"]) == (
        "0000",
        ["0000", "0001"],
        "completed",
    )
    assert [(row["_step"], row["global_step"]) for row in stage.history.values()] == [
        (step, step) for step in range(1, STEPS + 1)
    ]
    assert stage.branch_point == {"run_id": runs["0000"].run_id, "step": 0}
    assert server.artifact("checkpoint")["model.safetensors"] == b"model.safetensors"
    assert server.artifact("transcripts")["session.jsonl"] == b"<p>session.jsonl</p>"
    before = dict(server.files)
    assert mirror(delivered, "--mode", "online", "--fork").returncode == 0
    assert server.files == before
    assert {run.begun for run in server.runs.values()} == {1}


def test_synced_offline_runs_are_what_online_runs_are(delivered: Search, server: WandbServer) -> None:
    mirror(delivered, "--mode", "online")
    online = {run_id: content(run) for run_id, run in server.runs.items()}
    server.runs, server.artifacts = {}, {}
    mirror(delivered)
    command = [
        str(Path(sys.executable).with_name("wandb")),
        "sync",
        *map(str, delivered.path.glob("wandb/offline-run-*")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert {run_id: content(run) for run_id, run in server.runs.items()} == online
    assert server.artifact("checkpoint")["adapter/model.safetensors"] == b"adapter/model.safetensors"


def content(run: Run) -> list[Any]:
    """Return what is the same whenever a run is written."""
    rows = [
        {
            name: value
            for name, value in row.items()
            if name not in ("_timestamp", "_runtime", "nodes", "tree")
        }
        for row in run.history.values()
    ]
    return [run.name, run.group, run.job_type, run.tags, run.values, rows, run.exit_code]


def test_a_server_without_forks_gets_runs_of_their_own(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    search.add("0001")
    search.end()
    with wandb_server(forks=False) as server:
        key_for(server, monkeypatch)
        result = mirror(search, "--mode", "online", "--fork")
    assert result.returncode == 0
    assert result.stderr.count("no fork could be made") == 1
    assert {run.name: len(run.history) for run in server.runs.values() if run.job_type == "stage"} == {
        "my search/0000": 1,
        "my search/0001": STEPS,
        "my search/0002": STEPS,
    }


def test_without_a_key_one_line_says_so(
    search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = mirror(search, "--mode", "online")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "API key" in result.stderr
