"""Writes a search directory as W&B runs: stages as they end, the search once it is over."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmzero.core.files import write_json
from llmzero.core.stage import StageDir, StageResult
from llmzero.mirrors.tracking.content import (
    STAGE_FILES,
    artifacts,
    inside,
    node_table,
    pack_files,
    refuse_outside,
    search_summary,
    stage_config,
    stage_history,
    stage_summary,
)
from llmzero.mirrors.tracking.names import (
    FILES,
    LONGEST_TAG,
    SEARCH_RUN,
    group_of,
    hash_of,
    is_uid,
    memory_file,
    read_memory,
    search_uid,
    suggested,
)
from llmzero.mirrors.tracking.settings import TrackingSettings
from llmzero.tree.outcomes import read_summary
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node, Tree
from llmzero.tree.workspace import read_config

if TYPE_CHECKING:
    from wandb import Run, Settings

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 30.0  # for W&B to answer when a run begins; a failed run is tried again at the next pass


class Mirror:
    """Writes what a search directory holds as W&B runs, each run once.

    A run counts as mirrored once it was finished; one that was cut short is written again from its beginning.

    Args:
        search_dir: the search directory, absolute.
        settings: where the runs go, and what they hold.

    Attributes:
        written: runs that were written so far.
    """

    def __init__(self, search_dir: Path, settings: TrackingSettings) -> None:
        self.search_dir, self.settings = search_dir, settings
        self.written = 0
        self._memory = read_memory(search_dir)
        online = f"online {settings.entity or ''}/{settings.project}"
        self._destination = online if settings.mode == "online" else "offline"
        self._forks = settings.fork  # until a server turns out to have none
        self._run_settings = _quiet_settings()  # without a wandb to import there is no mirror

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
                complete &= self._once(
                    node.node_id, _digest(node), partial(self._write_stage, store.tree, node, node.result)
                )
        return complete

    def write_search(self, store: EventStore) -> bool:
        """Mirror the search as a whole, if it is not there as it stands; return whether it could be."""
        summary = read_summary(self.search_dir)
        content = [store.ended, store.trajectory, [_digest(node) for node in store.tree], summary]
        return not len(store.tree) or self._once(
            SEARCH_RUN, hash_of(content), partial(self._write_search, store)
        )

    def _once(self, name: str, digest: str, write: Callable[[], None]) -> bool:
        """Write a run unless it was written with this content; return whether it is there now."""
        mirrored = self._memory.setdefault(self._destination, {})
        if mirrored.get(name) == digest:
            return True
        try:
            write()
        except Exception:  # W&B fails in many ways, and none may keep the other runs from being mirrored
            log.warning("run %s could not be mirrored; it will be tried again", name, exc_info=True)
            return False
        mirrored[name] = digest
        write_json(memory_file(self.search_dir), self._memory)
        self.written += 1
        log.info("mirrored %s", name)
        return True

    def _write_stage(self, tree: Tree, node: Node, result: StageResult) -> None:
        stage = StageDir(self.search_dir / "nodes" / node.node_id)
        refuse_outside(self.search_dir, [stage.path / name for name in STAGE_FILES])
        history = stage_history(stage, result)
        config = stage_config(tree, node, stage)
        with self._stage_run(node, config, history) as run:
            run.define_metric("global_step")
            run.define_metric("*", step_metric="global_step")
            for row in history:
                run.log(row, step=int(row["global_step"]))
            run.summary.update(stage_summary(result))

    def _stage_run(self, node: Node, config: dict[str, Any], history: list[dict[str, float]]) -> Run:
        """Open a stage's run: as a fork of its parent's where that is wanted and the server has it."""
        import wandb

        open_run = partial(self._run, node.node_id, "stage", config, [node.state])
        point = self._fork_point(node, history)
        if point is None:
            return open_run()
        try:
            return open_run(point)
        except wandb.errors.Error as error:
            log.warning(
                "run %s: no fork could be made (%s); this run and those after it are written without",
                node.node_id,
                error,
            )
        self._forks = False
        wandb.teardown()  # its process keeps the id of the run that was refused
        return open_run()

    def _fork_point(self, node: Node, history: list[dict[str, float]]) -> str | None:
        """Return the parent's run and the last step that it shares with the child's; None without one."""
        if not self._forks or node.parent_id is None or not history or history[0]["global_step"] < 1:
            return None
        return f"{self._run_id(node.parent_id)}?_step={int(history[0]['global_step']) - 1}"

    def _write_search(self, store: EventStore) -> None:
        import wandb

        with self._run(SEARCH_RUN, "search", {}, []) as run:
            run.define_metric("stages")
            run.define_metric("*", step_metric="stages")
            for point in store.trajectory:
                run.log({name: value for name, value in point.items() if value is not None})
            page = self.search_dir / "report.html"
            tree = {"tree": wandb.Html(str(page), inject=False)} if inside(self.search_dir, [page]) else {}
            run.log({"nodes": node_table(store.tree), **tree})
            run.summary.update(search_summary(store))
            pack_files(self.search_dir, Path(run.dir, FILES), group_of(self.search_dir))
            run.save(str(Path(run.dir, FILES)), base_path=run.dir, policy="now")
            for artifact in artifacts(
                self.search_dir, store.tree, self._uid(), checkpoint=self.settings.checkpoint
            ):
                run.log_artifact(artifact)

    def _run(
        self, name: str, job_type: str, config: dict[str, Any], tags: list[str], fork_from: str | None = None
    ) -> Run:
        """Open a run in place of what an earlier try may have left behind."""
        import wandb

        run_id = self._run_id(name)
        online = self.settings.mode == "online"
        prefix = "run" if online else "offline-run"
        for leftover in (self.search_dir / "wandb").glob(f"{prefix}-*"):
            if leftover.name.endswith(f"-{run_id}") and not leftover.is_symlink():
                shutil.rmtree(leftover)
        config_file = self.search_dir / "config.yaml"
        method = read_config(config_file)["search"]["name"] if config_file.exists() else None
        search = {
            "search": self.search_dir.name,
            "search_uid": self._uid(),
            "search_dir": str(self.search_dir),
        }
        return wandb.init(
            dir=self.search_dir,
            mode="online" if online else "offline",
            project=self.settings.project,
            entity=self.settings.entity,
            group=group_of(self.search_dir),
            job_type=job_type,
            name=f"{suggested(self.search_dir.name)}/{name}",
            id=run_id,
            fork_from=fork_from,
            tags=[method[:LONGEST_TAG], *tags] if method else tags,
            config=search | config | {"method": method},
            reinit="create_new",
            settings=self._run_settings.model_copy(),  # wandb notes the arguments of a run in it
        )

    def _run_id(self, name: str) -> str:
        return f"{self._uid()}-{name}"

    def _uid(self) -> str:
        """Return what sets this search's run ids apart from any other's, and remember it."""
        if not is_uid(self._memory.get("id")):
            self._memory["id"] = search_uid(self.search_dir)
        uid: str = self._memory["id"]
        return uid


def _digest(node: Node) -> str:
    """Return a hash of all that a stage was and became: its id is used again where the log lost its tail.

    It is the same wherever the search directory lies.
    """
    result = node.result.to_dict(Path("nodes", node.node_id)) if node.result else None
    for name in ("checkpoint", "last_checkpoint"):
        if result and result[name]:
            result[name] = Path(result[name]).name
    return hash_of([node.parent_id, node.hparams, str(node.length), node.proposal, result])


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
