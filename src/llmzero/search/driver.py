"""The search loop: ask the method, start stages, watch them, stop hopeless ones, record everything."""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmzero.agents.base import EarlyStopper
from llmzero.core.errors import UserError
from llmzero.core.files import reading, write_json
from llmzero.core.locations import stored
from llmzero.core.stage import StageDir, StageSpec, StageStatus, State
from llmzero.core.text import visible_line
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.evidence.proposal import Proposal, Resume
from llmzero.runners.base import StageHandle, StageRunner
from llmzero.search.judgements import Judgements
from llmzero.search.methods.base import Expansion, SearchMethod, WatchingMethod
from llmzero.search.rounds import Rounds
from llmzero.tree.budget import Budget
from llmzero.tree.retention import Retention
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node
from llmzero.tree.workspace import Workspace

log = logging.getLogger(__name__)

RESTARTS = 1  # of a stage whose process died while the driver watched
# Limits that end running stages, and the reason that is recorded.
TIME_LIMITS = {
    "seconds": "budget.seconds is spent",
    "gpu_seconds": "budget.gpu_seconds is spent",
    "deadline": "budget.deadline is spent",
    "stop": "the search was asked to end",
}
STOP_FACTS = ("reason", "details", "step", "gpu_seconds", "incumbent")  # of a judgement, for the event log


@dataclass
class Running:
    """A stage that runs, as the driver sees it."""

    handle: StageHandle
    status: StageStatus
    judgements: Judgements
    stopping: bool = False

    @property
    def step(self) -> int:
        """The step that was validated last; 0 before the first validation."""
        return self.status.validation[-1].step if self.status.validation else 0


@dataclass
class Plan:
    """What all stages of a search have in common.

    Attributes:
        stage_config: the groups of the configuration that stages are made of.
        audit_fraction: share of the stages that the early stopper would end, but which run on.
    """

    stage_steps: int
    workers: int
    seed: int
    stage_config: dict[str, Any]
    audit_fraction: float = 0.0


class Driver:
    """Runs one search to its end, or continues one that was interrupted.

    Every decision is in the event log before it takes effect, so the process may be killed at any moment: a
        restart folds the log, re-attaches to stages that still run, and repeats nothing that was charged.

    Args:
        on_change: called whenever something on display has changed.
    """

    def __init__(
        self,
        *,
        workspace: Workspace,
        store: EventStore,
        method: SearchMethod,
        runner: StageRunner,
        stopper: EarlyStopper,
        evidence: EvidenceBuilder,
        budget: Budget,
        plan: Plan,
        root_hparams: dict[str, Any],
        on_change: Callable[[Driver], None],
    ) -> None:
        self.workspace, self.store = workspace, store
        self.method, self.runner, self.stopper, self.evidence = method, runner, stopper, evidence
        self.budget, self.plan, self.root_hparams = budget, plan, root_hparams
        self._watcher = method if isinstance(method, WatchingMethod) else None
        self.on_change = on_change
        self.retention = Retention(workspace.nodes)
        self.running: dict[str, Running] = {}
        self._started = time.monotonic()
        self._elapsed_before = store.ledger.seconds

    @property
    def elapsed(self) -> float:
        """Wall seconds of the driver, earlier runs included."""
        return round(self._elapsed_before + time.monotonic() - self._started, 3)

    def rounds(self) -> Rounds[None]:
        """Search until the budget is spent or the method has nothing more to ask."""
        self._set_aside_unknown_directories()
        if not len(self.store.tree):
            self._create(Expansion("", self.root_hparams, Proposal("base", (), "The base model.", {})))
        self._adopt()
        self._keep_disk_quota()
        while True:
            self._fill()
            if not self.running:
                break
            yield self._collect()
        self._require_root()

    def end(self) -> None:
        """Record that the search is over."""
        if not self.store.ended:
            self._record("ended")

    # --- growing ---

    def _fill(self) -> None:
        """Start stages while there are free workers, budget, and stages that the method wants."""
        if not self.store.tree.root.final or not self.store.tree.root.usable:
            return
        while len(self.running) < self.plan.workers and not self.spent_limits():
            expansion = self.method.ask(self.store.tree)
            if expansion is None:
                return
            self._start(self._create(expansion))

    def spent_limits(self) -> list[str]:
        """Return the names of the limits that are reached; `stop` where the user asked for the end."""
        self.store.ledger.seconds = self.elapsed
        limits = self.store.ledger.spent_limits(
            self.budget,
            planned_stages=len(self.store.tree) - 1,
            running_gpu_seconds=sum(r.status.gpu_seconds for r in self.running.values()),
        )
        return [*limits, "stop"] if self.workspace.stop_file.exists() else limits

    def _create(self, expansion: Expansion) -> Node:
        """Record a new node in the log; return it."""
        tree = self.store.tree
        node_id = tree.next_id()
        parent = tree[expansion.parent_id] if expansion.parent_id else None
        resume_from = self._checkpoint(parent, expansion.proposal.resume) if parent else None
        self._record(
            "created",
            node_id=node_id,
            parent_id=parent.node_id if parent else None,
            depth=parent.depth + 1 if parent else 0,
            hparams=expansion.hparams,
            steps=(expansion.steps or self.plan.stage_steps) if parent else 0,
            resume_from=stored(resume_from, self.workspace.nodes / node_id),
            proposal=expansion.proposal.to_dict(),
            memo=expansion.memo,
        )
        return tree[node_id]

    def _checkpoint(self, node: Node, resume: Resume) -> Path | None:
        """Return the checkpoint of a finished stage that a child resumes from."""
        assert node.result is not None
        named = {
            "best": node.result.checkpoint,
            "last": node.result.last_checkpoint or node.result.checkpoint,
        }
        return (
            named[resume]
            if isinstance(resume, str)
            else StageDir(self.workspace.nodes / node.node_id).checkpoint(resume)
        )

    def _spec(self, node: Node) -> StageSpec:
        return StageSpec(
            node_id=node.node_id,
            parent_id=node.parent_id,
            depth=node.depth,
            directory=self.workspace.nodes / node.node_id,
            resume_from=node.resume_from,
            hparams=node.hparams,
            steps=node.steps,
            seed=self.plan.seed,
            config=self.plan.stage_config,
        )

    def _start(self, node: Node) -> None:
        spec = self._spec(node)
        stage = StageDir(spec.directory)
        stage.write_spec(spec)
        memo = {"memo": node.memo} if node.memo else {}  # with which a damaged log is repaired
        write_json(stage.proposal_file, {**node.proposal, **memo}, sync=False)
        self._record("started", node_id=node.node_id, attempt=node.attempts + 1)
        self._watch(spec, self.runner.start(spec), "queued")
        self.on_change(self)

    def _watch(self, spec: StageSpec, handle: StageHandle, state: State) -> None:
        judgements = Judgements(spec.directory / "stopper.jsonl")
        self.running[spec.node_id] = Running(handle, StageStatus(state), judgements)

    # --- after a restart ---

    def _adopt(self) -> None:
        """Attach to stages of an earlier driver that run or have ended, and restart the others.

        A base model that failed is tried again: without it there is no search.
        """
        root = self.store.tree.root
        if root.final and not root.usable:
            StageDir(self.workspace.nodes / ROOT).result_file.unlink(missing_ok=True)
            self._start(root)
            return
        for node in [node for node in self.store.tree if not node.final]:
            spec = self._spec(node)
            handle = self.runner.attach(spec) if node.attempts else None
            if handle is not None:
                self._watch(spec, handle, "running")
            else:
                self._start(node)

    def _set_aside_unknown_directories(self) -> None:
        """Rename stage directories that are not in the log, whose tail was lost: the names are free then."""
        for directory in sorted(self.workspace.nodes.iterdir()):
            stage = StageDir(directory)
            # Without a specification it holds the calls of a language model for the next stage.
            if directory.name.isdigit() and directory.name not in self.store.tree.nodes and stage.has_spec():
                stage.request_stop()
                aside = directory.with_name(f"{directory.name}.lost-{time.time_ns()}")
                log.warning(
                    "%s is not in %s: set aside as %s", directory, self.workspace.tree_file.name, aside.name
                )
                shutil.move(directory, aside)

    # --- watching ---

    def _collect(self) -> bool:
        """Poll every running stage once; return whether anything was new.

        Stages that have ended since the last poll are processed in the order of their ends, and workers get
        their next stages before the next end is processed: decisions do not depend on when stages are polled.
        """
        changed = False
        for node_id, running in self.running.items():
            status = running.handle.poll()
            news = len(status.validation) > len(running.status.validation)
            running.status = status
            if not status.final and self.store.tree[node_id].parent_id is not None and not running.stopping:
                self._judge(node_id, running, news)
            changed |= news or status.final
        for node_id in self._ended():
            self._end_stage(node_id, self.running[node_id])
            self._fill()
        if self._watcher and self.running:
            request = self._watcher.watch(self.store.tree)
            if request is not None and not self._stop_stands(request.node_id):
                self._stop(request.node_id, self.running[request.node_id], request.reason)
        self.on_change(self)
        return changed

    def _ended(self) -> list[str]:
        """Return the running stages that have ended, in that order; those without an end time come last."""

        def moment(node_id: str) -> tuple[bool, float]:
            ended_at = self.running[node_id].handle.result().ended_at
            return ended_at is None, ended_at or 0.0

        return sorted(
            (node_id for node_id, running in self.running.items() if running.status.final), key=moment
        )

    def _judge(self, node_id: str, running: Running, news: bool) -> None:
        """Stop a stage where a time budget is spent, the search is to end, or the stopper decides so."""
        stop = self.store.tree[node_id].stop
        if stop is not None and self._stop_stands(node_id):  # an earlier driver's, or of an earlier attempt
            if running.step >= stop.get("step", 0):
                self._carry_out_stop(running)
            return
        spent = [name for name in self.spent_limits() if name in TIME_LIMITS]
        if spent:
            self._stop(node_id, running, TIME_LIMITS[spent[0]])
        elif news and stop is None:
            self._ask_stopper(node_id, running)

    def _ask_stopper(self, node_id: str, running: Running) -> None:
        """Act on a decision about the last validation, new or found in the file; audited stages run on."""
        judgement = running.judgements.about(running.step)
        seconds = running.status.seconds
        if judgement is None and seconds - running.judgements.latest(seconds) >= self.stopper.interval_s:
            judgement = self._judgement(node_id, running)
        if judgement is None or not judgement["stop"]:
            return
        reasons: dict[str, Any] = {name: judgement.get(name) for name in STOP_FACTS}
        # Drawn from seed and stage alone, so that a restarted search decides alike.
        if random.Random(f"{self.plan.seed}/audit/{node_id}").random() < self.plan.audit_fraction:
            self._record("audited", node_id=node_id, **reasons)
        else:
            self._stop(node_id, running, **reasons)

    def _judgement(self, node_id: str, running: Running) -> dict[str, Any]:
        """Ask the stopper about the last validation; return the decision, logged with its evidence."""
        evidence = self.evidence.for_stopping(self.store.tree, node_id, running.status)
        decision = self.stopper.decide(evidence)
        record = {
            "elapsed": self.elapsed,
            "step": running.step,
            "seconds": running.status.seconds,
            "gpu_seconds": running.status.gpu_seconds,
            "incumbent": evidence.incumbent_score,
            **vars(decision),
            "validation": [[point.step, point.score, point.stderr] for point in evidence.validation],
        }
        running.judgements.add(record)
        return record

    def _stop(self, node_id: str, running: Running, reason: str, **facts: Any) -> None:
        self._record("stop_requested", node_id=node_id, **{"reason": reason, "step": running.step, **facts})
        self._carry_out_stop(running)

    def _stop_stands(self, node_id: str) -> bool:
        stop = self.store.tree[node_id].stop
        return stop is not None and stop["event"] == "stop_requested"

    def _carry_out_stop(self, running: Running) -> None:
        running.stopping = True
        running.handle.stop()

    def _end_stage(self, node_id: str, running: Running) -> None:
        node = self.store.tree[node_id]
        del self.running[node_id]
        if running.status.died and node.deaths < RESTARTS:
            log.warning("stage %s died; it is tried once more from its last complete checkpoint", node_id)
            self._record("died", node_id=node_id)
            self._start(node)
            return
        directory = self.workspace.nodes / node_id
        with reading(StageDir(directory).result_file):
            self._record("finished", node_id=node_id, result=running.handle.result().to_dict(directory))
        self.method.tell(self.store.tree, node)
        self._keep_disk_quota()

    def _keep_disk_quota(self) -> None:
        """Drop optimizer states of dead branches while checkpoints take more than `budget.disk_gb`."""
        if self.budget.disk_gb is None:
            return
        for drop in self.retention.drops(self.store.tree, self.budget.disk_gb):
            files = [str(file.relative_to(self.workspace.nodes)) for file in drop.files]
            self._record(
                "dropped",
                node_id=drop.node_id,
                files=files,
                bytes=drop.size,
                reason=f"budget.disk_gb={self.budget.disk_gb}",
            )
            for file in drop.files:
                file.unlink()
        self.store.ledger.disk_gb = self.retention.used_gb(self.store.tree)

    def _require_root(self) -> None:
        root = self.store.tree[ROOT]
        if not root.usable:
            error = visible_line(root.result.error) if root.result else "it never ran"
            raise UserError(
                f"the base model could not be prepared: {error}; "
                f"see {self.workspace.nodes / ROOT / 'log.txt'}"
            )

    def _record(self, event: str, **fields: Any) -> None:
        self.store.append(event, elapsed=self.elapsed, **fields)
