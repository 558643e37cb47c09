"""What language models are asked in the background, while the driver polls, judges and stops stages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from llmzero.core.stage import best_point
from llmzero.evidence.evidence import Choice
from llmzero.evidence.proposal import Proposal
from llmzero.tree.budget import Budget
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node

if TYPE_CHECKING:
    from llmzero.search.methods.base import Expansion

T = TypeVar("T")
# Prepares the question for a child of a stage of a search, on what that tells up to a step (None: all of it),
# with why the method chose it; what is returned asks it, in any thread.
Think = Callable[[EventStore, str, int | None, Choice], Callable[[], Proposal]]
AHEAD = Choice("It is about to end, and its path is likely to go on.")


def in_background(work: Callable[[], T]) -> Future[T]:
    """Have a function called in a thread of its own; what it returns or raises is in the future.

    The thread is a daemon: the end of the process waits for nobody.
    """
    future: Future[T] = Future()

    def carry_out() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # it is raised again where the result is taken
            future.set_exception(error)

    threading.Thread(target=carry_out, daemon=True).start()
    return future


class Bill:
    """What calls of language models cost, noted by threads and charged by the driver's own.

    So the driver alone appends to the event log. A call is in its file before it is noted here: what is never
    charged, because the driver ends first, the next one charges.
    """

    def __init__(self, store: EventStore, budget: Budget) -> None:
        self._store, self._budget = store, budget
        self._noted: deque[tuple[str, int, float]] = deque()

    def note(self, name: str, tokens: int, dollars: float) -> None:
        """Note the cost of a call; from any thread."""
        self._noted.append((name, tokens, dollars))

    def settle(self) -> None:
        """Charge what was noted."""
        for call in sorted(self._noted.copy()):
            name, tokens, dollars = call
            self._noted.remove(call)
            self._store.append("llm_call", name=name, tokens=tokens, dollars=dollars)

    def spent_limit(self) -> str | None:
        """Return the name of a limit on language models that is reached, with what is not charged yet."""
        noted = self._noted.copy()
        tokens, dollars = sum(call[1] for call in noted), sum(call[2] for call in noted)
        return next(iter(self._store.ledger.spent_llm_limits(self._budget, tokens, dollars)), None)


class Prefetches:
    """Proposals that are asked for before their parent has ended: `search.prefetch`.

    One is used where the stage has ended as expected, and the method expands it next; else it is wasted. As
    expected is: completed, and with a best score that has risen by no more than its standard error since.

    Attributes:
        under_way: what is asked, or answered and not used yet, by the stage that is to be continued.
    """

    def __init__(self, store: EventStore, record: Callable[..., None], think: Think | None) -> None:
        self._store, self._record, self._think = store, record, think
        self.under_way: dict[str, Future[Proposal]] = {}

    def begin(self, node_id: str, step: int) -> None:
        """Have the child of a running stage proposed, on what is known at a step."""
        assert self._think is not None
        question = self._think(self._store, node_id, step, AHEAD)
        self._record("prefetching", node_id=node_id, step=step)
        self.under_way[node_id] = in_background(question)

    def question(self, node_id: str) -> Callable[[], Proposal]:
        """Return the question that an earlier driver asked ahead of a stage's end."""
        prefetch = self._store.tree[node_id].prefetch
        assert self._think is not None
        assert prefetch is not None
        return self._think(self._store.before("prefetching", node_id), node_id, prefetch["step"], AHEAD)

    def take_up(self, over: bool) -> None:
        """Ask again what an earlier driver asked and has not used; not where the search is `over`."""
        for node in [node for node in self._store.tree if node.prefetch_open]:
            if over:
                self._waste(node.node_id, "the search ended")
            else:
                self.under_way[node.node_id] = in_background(self.question(node.node_id))
                if node.final:
                    self.stage_ended(node)

    def stage_ended(self, node: Node) -> None:
        """Drop the proposal for a child of a stage that has not ended as expected."""
        if node.node_id in self.under_way and (reason := _surprise(node)):
            self._waste(node.node_id, reason)

    def decided(self, expansion: Expansion) -> None:
        """Drop the proposals for children of ended stages other than the one that the method expands."""
        expanded = expansion.parent_id if expansion.proposal is None else None
        for node_id in [name for name in self.under_way if self._store.tree[name].final and name != expanded]:
            self._waste(node_id, "the method went on elsewhere, or without an agent")

    def take(self, node_id: str) -> Future[Proposal] | None:
        """Return the proposal for a child of a stage, which is used now; None where there is none."""
        ended = self._store.tree[node_id].final
        return self.under_way.pop(node_id, None) if ended else None

    def end(self) -> None:
        """Drop all that is left at the end of the search."""
        for node_id in list(self.under_way):
            self._waste(node_id, "the search ended")

    def _waste(self, node_id: str, reason: str) -> None:
        self.under_way.pop(node_id, None)
        self._record("prefetch_wasted", node_id=node_id, reason=reason)


def _surprise(node: Node) -> str | None:
    """Return what was not expected of a stage's end when the proposal for its child was asked for."""
    assert node.prefetch is not None
    assert node.result is not None
    if node.state != "completed":
        return f"the stage was {node.state}" if node.state == "stopped" else "the stage failed"
    shown = best_point([point for point in node.result.validation if point.step <= node.prefetch["step"]])
    final = best_point(node.result.validation)
    if shown is None or final is None:
        return "the stage was not validated"
    if final.score - shown.score > final.stderr:
        return f"the score rose by {final.score - shown.score:.3f}, more than its error of {final.stderr:.3f}"
    return None
