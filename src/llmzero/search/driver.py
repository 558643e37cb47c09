"""The search loop: ask the method, start stages, watch them, stop hopeless ones, record everything."""

from __future__ import annotations

import logging
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from llmzero.agents.base import AsksModel, EarlyStopper
from llmzero.core.decay import WHOLE
from llmzero.core.errors import UserError
from llmzero.core.files import reading, write_json
from llmzero.core.hparams import HParams
from llmzero.core.length import Length
from llmzero.core.locations import stored
from llmzero.core.stage import StageDir, StageSpec, StageStatus, State
from llmzero.core.text import visible_line
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.evidence.evidence import Choice
from llmzero.evidence.proposal import Proposal, Resume, StopDecision
from llmzero.runners.base import StageHandle, StageRunner
from llmzero.search.judgements import Judgements
from llmzero.search.methods.base import Expansion, FreeMethod, SearchMethod, ThinkingMethod, WatchingMethod
from llmzero.search.rounds import POLL_S, Rounds
from llmzero.search.thinking import Prefetches, Think, in_background
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
class Verdict:
    """What the early stopper is asked about a stage; `record` holds the question."""

    running: Running
    record: dict[str, Any]
    decision: Future[StopDecision]


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
        length: of a stage that has none of its own.
        stage_config: the groups of the configuration that stages are made of.
        audit_fraction: share of the stages that the early stopper would end, but which run on.
        prefetch_depth: stages below this depth have their likely child proposed before they end.
        path_stages: how many stages `lr_schedule` spans; None where each stage has its own.
        retries_failed: whether stages that failed under an earlier driver are tried again.
    """

    length: Length
    workers: int
    seed: int
    stage_config: dict[str, Any]
    audit_fraction: float = 0.0
    prefetch_depth: int = 0
    path_stages: int | None = None
    retries_failed: bool = False

    def schedule(self, depth: int) -> tuple[float, float]:
        """Return the shares of `lr_schedule` at which a stage at this depth begins and ends."""
        if self.path_stages is None or depth == 0:
            return WHOLE
        return (depth - 1) / self.path_stages, min(1.0, depth / self.path_stages)


class Driver:
    """Runs one search to its end, or continues one that was interrupted.

    Language models are asked in threads: while they think, stages are polled, judged and stopped. Simulated
    stages stand still meanwhile, as thinking takes no simulated time.

    Every decision is in the event log before it takes effect, so the process may be killed at any moment: a
        restart folds the log, re-attaches to stages that still run, and repeats nothing that was charged.

    Args:
        on_change: called whenever something on display has changed.
        think: prepares a question to a language model, for methods that leave a proposal open.
        settle: charges the calls of language models that were made.
        idle: tells what the runner has held without a stage, where this search is charged for it.
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
        think: Think | None = None,
        settle: Callable[[], None] = lambda: None,
        idle: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.workspace, self.store = workspace, store
        self.method, self.runner, self.stopper, self.evidence = method, runner, stopper, evidence
        self.budget, self.plan, self.root_hparams = budget, plan, root_hparams
        self._watcher = method if isinstance(method, WatchingMethod) else None
        self._thinker = method if isinstance(method, ThinkingMethod) else None
        self._free = method if isinstance(method, FreeMethod) else None
        self.on_change, self.settle = on_change, settle
        self._think = think
        self._proposals: dict[str, Future[Proposal]] = {}  # of nodes that are being proposed
        self._verdicts: dict[str, Verdict] = {}  # by stage, one at a time
        self._prefetches = Prefetches(store, self._record, think)
        self.idle = idle
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
            self._create("", self.root_hparams, Proposal("base", (), "The base model.", {}))
        self._adopt()
        self._keep_disk_quota()
        while True:
            self._fill()
            if not self.running and not self._waits_for_a_model():
                break
            yield self._collect()
        self._prefetches.end()
        self._require_root()

    def end(self) -> None:
        """Record that the search is over."""
        if not self.store.ended:
            self._record("ended")

    # --- growing ---

    def _fill(self) -> None:
        """Start stages, or have them proposed, while workers are free, budget is left, and method asks."""
        while self._may_grow():
            expansion = self.method.ask(self.store.tree)
            if expansion is None:
                return
            self._prefetches.decided(expansion)
            if expansion.proposal is None:
                self._have_proposed(expansion)
            else:
                self._start(
                    self._create(
                        expansion.parent_id,
                        expansion.hparams,
                        self._within_bounds(expansion.proposal, self.store.tree.planned),
                        length=expansion.length,
                        memo=expansion.memo,
                        schedule=expansion.schedule,
                    )
                )

    def _may_grow(self) -> bool:
        root = self.store.tree.root
        free = len(self.running) + len(self._proposals) < self.plan.workers
        return free and root.final and root.usable and not self.spent_limits()

    def _have_proposed(self, expansion: Expansion) -> None:
        """Record a node, and have a language model asked what it changes, unless that was prefetched."""
        assert self._think is not None, "a method leaves proposals open only where they can be thought out"
        tree = self.store.tree
        node_id, parent = tree.next_id(), tree[expansion.parent_id]
        prefetched = self._prefetches.take(parent.node_id)
        question = (
            prefetched.result
            if prefetched
            else self._think(self.store, parent.node_id, None, expansion.choice)
        )
        self._record(
            "proposing",
            node_id=node_id,
            parent_id=parent.node_id,
            depth=parent.depth + 1,
            **vars(expansion.length or self.plan.length),
            memo=expansion.memo,
            prefetched=prefetched is not None,
            why=expansion.why,
            others=list(expansion.others),
        )
        self._proposals[node_id] = in_background(question)
        self.on_change(self)

    def _propose_again(self, node: Node) -> None:
        """Ask what an earlier driver asked, on what was known then; what was answered is not paid again."""
        assert self._think is not None
        assert node.parent_id is not None
        prefetched = node.asked is not None and node.asked.get("prefetched")
        if prefetched and self.store.tree[node.parent_id].prefetch is not None:
            question = self._prefetches.question(node.parent_id)
        else:
            before = self.store.before("proposing", node.node_id)
            asked = node.asked or {}
            choice = Choice(asked.get("why", ""), tuple(asked.get("others", ())))
            question = self._think(before, node.parent_id, None, choice)
        self._proposals[node.node_id] = in_background(question)

    def _take_proposals(self) -> bool:
        """Start the stages whose proposals have come, unless the time is over; return whether any had."""
        answered = sorted(node_id for node_id, proposal in self._proposals.items() if proposal.done())
        ready = answered[
            : max(0, self.plan.workers - len(self.running))
        ]  # fewer workers than before a restart
        if not ready or self._time_is_over():
            return False
        for node_id in ready:
            self._answered(self.store.tree[node_id], self._proposals.pop(node_id).result())
        return True

    def _answered(self, node: Node, proposal: Proposal) -> None:
        """Start the stage that was proposed, or withdraw it.

        It is withdrawn where the agent closes its parent, unless that is the only node left to grow from by
        now, or where it names another parent that may get no more children by now. The method goes on then.
        """
        tree, asked = self.store.tree, node.parent_id
        assert asked is not None
        parent_id = proposal.parent or asked
        may_grow = self._free.open_nodes(tree) if self._free else ()
        closes = proposal.action == "close"
        only = closes and not any(each != asked for each in may_grow)
        if not closes and (parent_id == asked or parent_id in may_grow):
            proposal = self._within_bounds(proposal, tree.planned - 1.0)
            hparams = {**tree[parent_id].hparams, **proposal.changes}
            self._start(self._create(parent_id, hparams, proposal, node=node))
            return
        reason = proposal.rationale if closes else f"it was to continue {parent_id}, which is closed by now"
        if only:
            reason = f"the agent would close {asked}, the only stage that can be continued now: {reason}"
        self._record(
            "withdrawn",
            node_id=node.node_id,
            reason=reason,
            closes=closes and not only,
            proposal=proposal.to_dict(),
        )
        self._fill()  # before the next answer is taken: a driver that begins here decides alike

    def _within_bounds(self, proposal: Proposal, others: float) -> Proposal:
        """Return a proposal whose stage is no longer than what is left, unless that is less than usual, and
        not beyond the lengths of the search.

        `others` is the length of all other stages, in usual ones.
        """
        if proposal.length == 1.0:
            return proposal
        least, most = self.evidence.lengths
        left = math.inf if self.budget.stages is None else self.budget.stages - others
        if self.budget.flops is not None:
            flops = self.budget.flops - (self.store.ledger.flops or 0.0) - self._flops_under_way()
            usual = self._usual_flops()
            left = min(left, flops / usual if usual else math.inf)
        most = min(most, max(1.0, float(f"{left:.3g}")))
        length = min(max(proposal.length, least), most)
        if length == proposal.length:
            return proposal
        why = "as no more is left of the budget" if most < self.evidence.lengths[1] else "a bound of lengths"
        note = f"length={proposal.length:g}: taken for {length:g}, {why}."
        return replace(proposal, length=length, notes=(*proposal.notes, note))

    def _time_is_over(self) -> bool:
        return bool(self._spent_time())

    def _spent_time(self) -> list[str]:
        """Return the names of the reached limits that end running stages."""
        return [name for name in self.spent_limits() if name in TIME_LIMITS]

    def _questions(self) -> list[Future[Any]]:
        """Return all that language models are asked now."""
        own = self._thinker.question if self._thinker else None
        verdicts = [verdict.decision for verdict in self._verdicts.values()]
        prefetches = self._prefetches.under_way.values()
        return [*self._proposals.values(), *verdicts, *prefetches, *([own] if own else [])]

    def _waits_for_a_model(self) -> bool:
        """Whether an answer leads to a stage: without running ones the search goes on for its sake."""
        own = self._thinker is not None and self._thinker.question is not None and self._may_grow()
        return own or (bool(self._proposals) and not self._time_is_over())

    def spent_limits(self) -> list[str]:
        """Return the names of the limits that are reached; `stop` where the user asked for the end."""
        self.store.ledger.seconds = self.elapsed
        limits = self.store.ledger.spent_limits(
            self.budget,
            planned_stages=self.store.tree.planned,
            running_gpu_seconds=sum(r.status.gpu_seconds for r in self.running.values())
            + self.store.uncharged_idle(self.idle()),
            planned_flops=self._planned_flops() if self.budget.flops is not None else 0.0,
        )
        return [*limits, "stop"] if self.workspace.stop_file.exists() else limits

    def _planned_flops(self) -> float:
        """Return the compute that stages under way will have cost, and half of that of the next one."""
        return self._flops_under_way() + self._usual_flops() / 2

    def _flops_under_way(self) -> float:
        """Return the compute that stages under way will have cost: of one in steps, as others did so far."""
        usual = self._usual_flops()
        under_way = [self.store.tree[node_id] for node_id in (*self.running, *self._proposals)]
        stages = [node for node in under_way if node.parent_id is not None]
        return sum(usual * node.multiple if node.flops is None else node.flops for node in stages)

    def _usual_flops(self) -> float:
        """Return the compute of a stage of the usual length: of one in steps, what it was on average."""
        ledger = self.store.ledger
        if self.plan.length.flops is not None:
            return self.plan.length.flops
        return (ledger.flops or 0.0) / max(1.0, ledger.lengths)

    def _create(
        self,
        parent_id: str,
        hparams: HParams,
        proposal: Proposal,
        *,
        length: Length | None = None,
        memo: Mapping[str, Any] | None = None,
        schedule: tuple[float, float] | None = None,
        node: Node | None = None,
    ) -> Node:
        """Record a new node in the log, or what `node` changes, which was being proposed; return it."""
        tree = self.store.tree
        node_id = node.node_id if node else tree.next_id()
        parent = tree[parent_id] if parent_id else None
        resume_from = self._checkpoint(parent, proposal.resume) if parent else None
        length = (node.length if node else length or self.plan.length).times(proposal.length)
        depth = parent.depth + 1 if parent else 0
        self._record(
            "created",
            node_id=node_id,
            parent_id=parent.node_id if parent else None,
            depth=depth,
            hparams=hparams,
            **vars(length if parent else Length(0)),
            resume_from=stored(resume_from, self.workspace.nodes / node_id),
            proposal=proposal.to_dict(),
            memo=node.memo if node else memo or {},
            schedule=schedule or self.plan.schedule(depth),
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
            schedule=node.schedule,
            flops=node.flops,
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

        A base model that failed is tried again, as without it there is no search, and other stages where the
        plan says so.
        """
        tried = self.store.tree if self.plan.retries_failed else [self.store.tree.root]
        failed = [node for node in tried if node.final and not node.usable]
        for node in failed:
            StageDir(self.workspace.nodes / node.node_id).result_file.unlink(missing_ok=True)
            self._start(node)
        if self.store.tree.root in failed:
            return
        over = self._time_is_over()
        self._prefetches.take_up(over)
        for node in [node for node in self.store.tree if node.under_way and node.node_id not in self.running]:
            if node.state == "proposing":
                if not over:
                    self._propose_again(node)
                continue
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
        """Take what language models have answered and poll every stage once; return whether anything was new.

        Stages that have ended since the last poll are processed in the order of their ends, and workers get
        their next stages before the next end is processed: decisions do not depend on when stages are polled.
        """
        if self._stands_still():
            return True
        self.settle()
        changed = False
        while self._take_proposals():
            changed = True
            if self._stands_still():  # for the question that follows a stage that was withdrawn
                return True
        self._take_verdicts()
        changed |= self._poll()
        for node_id in self._ended():
            self._end_stage(node_id, self.running[node_id])
            self._fill()
        self._watch_stages()
        self.on_change(self)
        return changed

    def _poll(self) -> bool:
        """Poll every stage once, then judge them; return whether any was validated or ended."""
        told = {}
        for node_id, running in self.running.items():
            status = running.handle.poll()
            if status is not running.status:
                told[node_id] = len(status.validation) > len(running.status.validation)
                running.status = status
        spent = self._spent_time()  # once, as that looks at all stages
        for node_id in self.running if spent else told:
            running, news = self.running[node_id], told.get(node_id, False)
            trains = self.store.tree[node_id].parent_id is not None
            if trains and not running.status.final and not running.stopping:
                self._judge(node_id, running, news, spent)
                if news and not running.stopping:
                    self._prefetch(node_id, running)
        return any(news or self.running[node_id].status.final for node_id, news in told.items())

    def _stands_still(self) -> bool:
        """Whether simulated stages wait for language models, and are not polled in this round."""
        questions = self._questions()
        if not questions or not self.runner.repeatable or self._time_is_over():
            return False
        if not wait(questions, POLL_S).not_done:
            own = self._thinker.question if self._thinker else None
            if own is None:
                return False
            if not self._may_grow():  # else the method goes on when it is asked
                self._watch_stages()
        self.on_change(self)
        return True

    def _watch_stages(self) -> None:
        """Let a method that watches stages stop one."""
        if self._watcher and self.running:
            request = self._watcher.watch(self.store.tree)
            if request is not None and not self._stop_stands(request.node_id):
                self._stop(request.node_id, self.running[request.node_id], request.reason)

    def _prefetch(self, node_id: str, running: Running) -> None:
        """Have the likely child of a stage proposed, at its last validation before its end."""
        node, every = self.store.tree[node_id], running.status.validation[0].step
        last = node.length.expected_steps(running.step, running.status.flops)
        near = running.step < last <= running.step + every
        wanted = (
            near and node.depth < self.plan.prefetch_depth and node.prefetch is None and node.stop is None
        )
        if wanted and not self.spent_limits():
            self._prefetches.begin(node_id, running.step)

    def _ended(self) -> list[str]:
        """Return the running stages that have ended, in that order; those without an end time come last."""

        def moment(node_id: str) -> tuple[bool, float]:
            ended_at = self.running[node_id].handle.result().ended_at
            return ended_at is None, ended_at or 0.0

        return sorted(
            (node_id for node_id, running in self.running.items() if running.status.final), key=moment
        )

    def _judge(self, node_id: str, running: Running, news: bool, spent: list[str]) -> None:
        """Stop a stage where a time budget is spent, the search is to end, or the stopper decides so."""
        stop = self.store.tree[node_id].stop
        if stop is not None and self._stop_stands(node_id):  # an earlier driver's, or of an earlier attempt
            if running.step >= stop.get("step", 0):
                self._carry_out_stop(running)
            return
        if spent:
            self._stop(node_id, running, TIME_LIMITS[spent[0]])
        elif news and stop is None:
            self._ask_stopper(node_id, running)

    def _ask_stopper(self, node_id: str, running: Running) -> None:
        """Act on a decision about the last validation, new or found in the file, or have it made."""
        judgement = running.judgements.about(running.step)
        seconds = running.status.seconds
        due = seconds - running.judgements.latest(seconds) >= self.stopper.interval_s
        if judgement is not None:
            self._act_on(judgement, node_id, running)
        elif due and node_id not in self._verdicts:
            self._have_judged(node_id, running)

    def _act_on(self, judgement: Mapping[str, Any], node_id: str, running: Running) -> None:
        """Stop a stage where the decision says so; audited stages run on."""
        if not judgement["stop"]:
            return
        reasons: dict[str, Any] = {name: judgement.get(name) for name in STOP_FACTS}
        # Drawn from seed and stage alone, so that a restarted search decides alike.
        if random.Random(f"{self.plan.seed}/audit/{node_id}").random() < self.plan.audit_fraction:
            self._record("audited", node_id=node_id, **reasons)
        else:
            self._stop(node_id, running, **reasons)

    def _have_judged(self, node_id: str, running: Running) -> None:
        """Ask the stopper about the last validation, a language model in the background."""
        evidence = self.evidence.for_stopping(self.store.tree, node_id, running.status)
        record = {
            "step": running.step,
            "seconds": running.status.seconds,
            "gpu_seconds": running.status.gpu_seconds,
            "flops": running.status.flops,
            "incumbent": evidence.incumbent_score,
            "validation": [[point.step, point.score, point.stderr] for point in evidence.validation],
        }
        if isinstance(self.stopper, AsksModel):
            decision = in_background(partial(self.stopper.decide, evidence))
            self._verdicts[node_id] = Verdict(running, record, decision)
        else:
            self._decided(node_id, running, record, self.stopper.decide(evidence))

    def _take_verdicts(self) -> None:
        """Take what language models have decided; of a stage that has ended it is written down alone."""
        for node_id in sorted(name for name, verdict in self._verdicts.items() if verdict.decision.done()):
            verdict = self._verdicts.pop(node_id)
            running = self.running.get(node_id, verdict.running)
            self._decided(node_id, running, verdict.record, verdict.decision.result())

    def _decided(
        self, node_id: str, running: Running, record: Mapping[str, Any], decision: StopDecision
    ) -> None:
        """Log a decision with its evidence, and act on it."""
        judgement = {"elapsed": self.elapsed, **record, **vars(decision)}
        running.judgements.add(judgement)
        node = self.store.tree[node_id]
        if node.stop is None and not node.final and not running.stopping:
            self._act_on(judgement, node_id, running)

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
        self._prefetches.stage_ended(node)
        self.store.charge_idle(self.idle(), self.elapsed)
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
