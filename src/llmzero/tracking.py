"""The Weights & Biases mirror of a search: one run a stage and one for the search, made from the search directory alone.

Mirroring is a process of its own (`python -m llmzero.tracking SEARCH_DIR`), so that a slow, failing or missing W&B delays
no search. It only reads what the search writes. Run again it adds what is missing; `tracking.json` remembers what is
there, and without that file everything is mirrored anew, under the same run ids.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import logging
import os
import select
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from llmzero.files import read_json, write_json
from llmzero.search.store import EventStore
from llmzero.search.tree import Node, Tree
from llmzero.stage import StageDir, StageResult

if TYPE_CHECKING:
    from wandb import Run, Settings, Table

log = logging.getLogger(__name__)

Mode = Literal["offline", "online"]

POLL_S = 1.0
INIT_TIMEOUT_S = 30.0  # for W&B to answer when a run begins; a failed run is tried again at the next pass
NICENESS = 10  # the stages' processes come first on a shared machine
SEARCH_RUN = "search"


class WandbTracking:
    """Starts the mirroring process beside a search, and sees it off.

    Args:
        mode: `offline` leaves runs in `<search_dir>/wandb`, for `wandb sync`; `online` sends them.
        project: W&B project.
        entity: W&B user or team; None is the account's default.
    """

    def __init__(self, mode: Mode, project: str = "llmzero", entity: str | None = None) -> None:
        self.mode, self.project, self.entity = mode, project, entity
        self._search_dir = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, search_dir: Path) -> None:
        """Start mirroring. A mirror that cannot be started is worth a warning, and no search."""
        self._search_dir = search_dir.resolve()
        command = [*self._command(), "--follow"]
        try:
            with (self._search_dir / "tracking.log").open("ab") as output:
                # A session of its own: Ctrl-C at the driver ends the driver, and lets a run under way be mirrored to its end.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            log.warning("W&B: mirroring could not be started (%s)", error)

    def finish(self, timeout_s: float) -> None:
        """Tell the mirror that no more is to come, and wait at most `timeout_s` for it to be complete."""
        if self._process is None:
            return
        try:
            self._process.communicate(b"\n", timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode == 0:
            log.info("W&B: %s", self._whereabouts())
        else:
            why, command = self._search_dir / "tracking.log", shlex.join(["python", *self._command()[1:]])
            log.warning("W&B: mirroring failed or took too long, see %s; `%s` completes it", why, command)

    def _command(self) -> list[str]:
        entity = ["--entity", self.entity] if self.entity else []
        arguments = [str(self._search_dir), "--mode", self.mode, "--project", self.project, *entity]
        return [sys.executable, "-m", "llmzero.tracking", *arguments]

    def _whereabouts(self) -> str:
        if self.mode == "online":
            return f"the runs are in project {self.project}, group {self._search_dir.name}"
        folder = self._search_dir / "wandb"
        return f"the runs are in {folder}; `wandb sync {shlex.quote(str(folder))}/offline-run-*` sends them"


class NoTracking:
    """Mirrors nothing."""

    def start(self, search_dir: Path) -> None:
        """Do nothing."""

    def finish(self, timeout_s: float) -> None:
        """Do nothing."""


class Mirror:
    """Writes what a search directory holds as W&B runs, each run once.

    A run counts as mirrored once it was finished; one that was cut short is written again from its beginning.
    """

    def __init__(self, search_dir: Path, mode: Mode, project: str, entity: str | None) -> None:
        self.search_dir, self.mode, self.project, self.entity = search_dir, mode, project, entity
        self._memory_file = search_dir / "tracking.json"
        self._memory: dict[str, Any] = read_json(self._memory_file) or {}
        self._settings = _quiet_settings()  # without a wandb to import there is no mirror

    @property
    def log_size(self) -> int:
        """Bytes of the event log; 0 before there is one."""
        events = self.search_dir / "tree.jsonl"
        return events.stat().st_size if events.exists() else 0

    def read(self) -> EventStore:
        """Fold the event log as it stands now."""
        return EventStore(self.search_dir / "tree.jsonl", repair=False)

    def write_stages(self, store: EventStore) -> bool:
        """Mirror the stages that have ended since; return whether all could be."""
        complete = True
        for node in store.tree:
            if node.result is not None:
                complete &= self._once(node.node_id, _digest(node), partial(self._write_stage, store.tree, node, node.result))
        return complete

    def write_search(self, store: EventStore) -> bool:
        """Mirror the search as a whole, if it is not there as it stands; return whether it could be."""
        content = [store.ended, store.trajectory, [_digest(node) for node in store.tree]]
        return not len(store.tree) or self._once(SEARCH_RUN, _hash(content), partial(self._write_search, store))

    def _once(self, name: str, digest: str, write: Callable[[], None]) -> bool:
        """Write a run unless it was written with this content; return whether it is there now."""
        mirrored = self._memory.setdefault(self.mode, {})
        if mirrored.get(name) == digest:
            return True
        try:
            write()
        except Exception:  # W&B fails in many ways, and none may keep the other runs from being mirrored
            log.warning("run %s could not be mirrored; it will be tried again", name, exc_info=True)
            return False
        mirrored[name] = digest
        write_json(self._memory_file, self._memory)
        log.info("mirrored %s", name)
        return True

    def _write_stage(self, tree: Tree, node: Node, result: StageResult) -> None:
        stage = StageDir(self.search_dir / "nodes" / node.node_id)
        with self._run(node.node_id, "stage", _stage_config(tree, node, stage), [node.state]) as run:
            run.define_metric("global_step")
            run.define_metric("*", step_metric="global_step")
            for row in stage_history(stage, result):
                run.log(row)
            run.summary.update(_stage_summary(result))

    def _write_search(self, store: EventStore) -> None:
        with self._run(SEARCH_RUN, "search", {"search_dir": str(self.search_dir)}, []) as run:
            run.define_metric("stages")
            run.define_metric("*", step_metric="stages")
            for point in store.trajectory:
                run.log({name: value for name, value in point.items() if value is not None})
            run.log({"nodes": _node_table(store.tree)})
            run.summary.update(_search_summary(store))

    def _run(self, name: str, job_type: str, config: dict[str, Any], tags: list[str]) -> Run:
        """Open a run in place of what an earlier try may have left behind."""
        import wandb

        run_id = f"{self._search_uid()}-{name}"
        for leftover in (self.search_dir / "wandb").glob(f"{'offline-run' if self.mode == 'offline' else 'run'}-*-{run_id}"):
            shutil.rmtree(leftover)
        search_id, method = self.search_dir.name, self._method()
        return wandb.init(
            dir=self.search_dir,
            mode=self.mode,
            project=self.project,
            entity=self.entity,
            group=search_id,
            job_type=job_type,
            name=f"{search_id}/{name}",
            id=run_id,
            tags=[*method, *tags],
            config=config | {"method": method[0] if method else None},
            reinit="create_new",
            settings=self._settings,
        )

    def _search_uid(self) -> str:
        """Return what sets this search's run ids apart from any other's; a directory that moves keeps it."""
        if "id" not in self._memory:
            with (self.search_dir / "tree.jsonl").open() as events:
                self._memory["id"] = _hash([str(self.search_dir), events.readline()])
        uid: str = self._memory["id"]
        return uid

    def _method(self) -> list[str]:
        """Return the search method's name, as a list of one; empty where the directory has no `config.yaml`."""
        config_file = self.search_dir / "config.yaml"
        if not config_file.exists():
            return []
        return [yaml.load(config_file.read_text(), Loader=yaml.CSafeLoader)["search"]["name"]]


def stage_history(stage: StageDir, result: StageResult) -> list[dict[str, float]]:
    """Return a stage's rows in order of `global_step`: training metrics as `train/<name>`, validation as `val/<name>`."""
    rows: dict[int, dict[str, float]] = {}
    for record in stage.metrics():
        metrics = {f"train/{name}": value for name, value in record.items() if name not in ("step", "global_step")}
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        rows.setdefault(record["global_step"], {}).update(numbers)
    for point in result.validation:
        rows.setdefault(point.global_step, {}).update({"val/score": point.score, "val/stderr": point.stderr})
    return [{"global_step": global_step, **rows[global_step]} for global_step in sorted(rows)]


def _stage_config(tree: Tree, node: Node, stage: StageDir) -> dict[str, Any]:
    return {
        "hparams": node.hparams,
        "node_id": node.node_id,
        "parent": node.parent_id,
        "depth": node.depth,
        "path": [step.node_id for step in tree.path(node.node_id)],
        "resume_from": str(node.resume_from) if node.resume_from else None,
        "steps": node.steps,
        "seed": stage.read_spec().seed,
        "state": node.state,
        "agent": node.proposal.get("agent"),
        "diagnosis": node.proposal.get("diagnosis"),
        "changes": node.proposal.get("changes"),
    }


def _stage_summary(result: StageResult) -> dict[str, Any]:
    fields = ("best_score", "best_step", "seconds", "gpu_seconds", "error")
    return {name: value for name in fields if (value := getattr(result, name)) is not None}


def _search_summary(store: EventStore) -> dict[str, Any]:
    tree, best = store.tree, store.tree.best()
    summary: dict[str, Any] = {"base_score": tree.root.score, "ended": store.ended, "nodes_total": len(tree)}
    if best is not None:
        path = [node.node_id for node in tree.path(best.node_id)]
        summary |= {"best_score": best.score, "best_node": best.node_id, "best_path": path}
    return summary


def _node_table(tree: Tree) -> Table:
    import wandb

    columns: list[str | int] = ["node_id", "parent", "depth", "state", "score", "gpu_seconds", "changes", "diagnosis"]
    table = wandb.Table(columns=columns)
    for node in tree:
        gpu_seconds = node.result.gpu_seconds if node.result else None
        changes, diagnosis = json.dumps(node.proposal.get("changes")), node.proposal.get("diagnosis")
        table.add_data(node.node_id, node.parent_id, node.depth, node.state, node.score, gpu_seconds, changes, diagnosis)
    return table


def _digest(node: Node) -> str:
    """Return a hash of everything a stage was and became: a node id can be given out again where the log lost its tail."""
    result = node.result.to_dict() if node.result else None
    return _hash([node.parent_id, node.hparams, node.steps, node.proposal, result])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _quiet_settings() -> Settings:
    """Return settings under which W&B records the search and nothing of the mirroring process itself."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        symlink=False,
        save_code=False,
        disable_code=True,
        disable_git=True,
        init_timeout=INIT_TIMEOUT_S,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


def follow(mirror: Mirror) -> bool:
    """Mirror each stage as it finishes, until the search is over; then the search. Return whether all is mirrored.

    A driver holds our standard input as a pipe and says by it, or by being gone, that no more is to come: an `ended` event
    may stand in the log of a search that is being continued with a larger budget. Without a driver `ended` is the end.
    """
    driven = stat.S_ISFIFO(os.fstat(0).st_mode)
    parent = os.getppid()
    size_read, over = -1, False
    while not over:
        told = bool(select.select([0] if driven else [], [], [], POLL_S)[0])
        over = told or os.getppid() != parent
        size = mirror.log_size
        if over or size != size_read:
            size_read, store = size, mirror.read()
            over = over or (store.ended and not driven)
            complete = mirror.write_stages(store)
    return mirror.write_search(store) and complete


def main() -> int:
    """Mirror a search directory to W&B: once, or with `--follow` for as long as the search runs."""
    parser = argparse.ArgumentParser(prog="python -m llmzero.tracking", description=main.__doc__)
    parser.add_argument("search_dir", type=Path)
    parser.add_argument("--mode", choices=("offline", "online"), default="offline")
    parser.add_argument("--project", default="llmzero")
    parser.add_argument("--entity")
    parser.add_argument("--follow", action="store_true", help="mirror stages as they finish, until the search has ended")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.nice(NICENESS)
    search_dir = arguments.search_dir.resolve(strict=True)
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # read by wandb when it is imported
        os.environ[variable] = str(search_dir / "wandb" / "staging")
    with (search_dir / "tracking.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the mirror of an earlier driver to write its last run
        mirror = Mirror(search_dir, arguments.mode, arguments.project, arguments.entity)
        if arguments.follow:
            return 0 if follow(mirror) else 1
        store = mirror.read()
        complete = mirror.write_stages(store)
        return 0 if mirror.write_search(store) and complete else 1


if __name__ == "__main__":
    sys.exit(main())
