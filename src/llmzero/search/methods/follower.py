"""A method that hears of everything in the tree once."""

from __future__ import annotations

from abc import ABC, abstractmethod

from llmzero.tree.tree import Node, Tree


class Follower(ABC):
    """Keeps what a method knows of the tree up to date, in constant time a stage.

    After a restart it is told of all creations and then of all ends, so what it keeps may depend on the order of either, and not on how
    the two lay between each other.
    """

    def __init__(self) -> None:
        self._created = 0
        self._ended = 0

    @abstractmethod
    def created(self, tree: Tree, node: Node) -> None:
        """Hear of a stage that was decided on."""

    @abstractmethod
    def ended(self, tree: Tree, node: Node) -> None:
        """Hear of a stage that ended."""

    def catch_up(self, tree: Tree) -> None:
        """Hear of what has happened since the last time; at first, of everything."""
        for node in tree.since(self._created):
            self._created += 1
            self.created(tree, node)
        for node in tree.finished[self._ended :]:
            self._ended += 1
            self.ended(tree, node)

    def tell(self, tree: Tree, node: Node) -> None:
        """Take in the stage's end."""
        self.catch_up(tree)
