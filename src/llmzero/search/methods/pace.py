"""How many stages a search has under way at once, and which: a free worker may do more good waiting."""

from __future__ import annotations

from collections import Counter

from llmzero.tree.tree import Node, Tree


class Pace:
    """Holds workers back where their stages would keep paths short, or would not be the best ones.

    One worker decides every stage on all the others. With many, a stage is *under way* while others are
    decided on. Two things go wrong then, and each has a rule here; with nothing under way, none applies.

    - Stages that are cheap end first. A stage that ended early is the best of few, and would get all free
      workers. It is *outranked* as long as more than one of those under way at its depth is expected to
      come before it, and waits for them. Of stages whose order nobody knows, one under way comes before
      that which is the r-th of e that have ended with a chance of r / (e + 1).
    - All stages may be spent on the first levels. A further path is *affordable* where the stages left pay
      for the other levels of its kind for every stage under way. So where stages are few, paths are few and
      long; short ones, from far down, are affordable to the end.
    """

    def __init__(self, max_depth: int) -> None:
        self.max_depth = max_depth
        self._under_way: list[Node] = []
        self._ended: Counter[int] = Counter()  # by depth

    def created(self, node: Node) -> None:
        """Record a stage that was decided on."""
        self._under_way.append(node)

    def ended(self, node: Node) -> None:
        """Record the end of a stage."""
        self._ended[node.depth] += 1

    def under_way(self) -> int:
        """Return how many stages are under way; one that was withdrawn is not."""
        self._under_way = [node for node in self._under_way if node.under_way]
        return len(self._under_way)

    def outranked(self, tree: Tree) -> dict[int, float]:
        """Return, by depth, beyond which rank a node waits; at depths that are left out, none does."""
        self.under_way()
        pending = Counter(
            tree[node.asked_below].depth + 1 for node in self._under_way if node.asked_below is not None
        )
        return {depth: (self._ended[depth] + 1) / number for depth, number in pending.items()}

    def affordable(self, depth: int, stages_left: int | None) -> bool:
        """Whether a stage below a node at this depth may be begun; `stages_left` None is no limit."""
        others = self.under_way()
        if not others or stages_left is None:
            return True
        return (others + 1) * (self.max_depth - depth - 1) < stages_left
