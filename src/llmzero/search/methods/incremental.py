"""A base class for methods that take in what happens in the tree event by event."""

from __future__ import annotations

from abc import ABC, abstractmethod

from llmzero.tree.tree import Node, Tree


class IncrementalMethod(ABC):
    """Keeps what a method derives from the tree up to date, in constant time a stage.

    After a restart it gets all creations and then all ends. So what it derives may depend on the order of
    either, and not on how creations and ends alternated.
    """

    def __init__(self) -> None:
        self._created = 0
        self._ended = 0

    @abstractmethod
    def created(self, tree: Tree, node: Node) -> None:
        """Record a stage that was decided on."""

    @abstractmethod
    def ended(self, tree: Tree, node: Node) -> None:
        """Record a stage that ended."""

    def catch_up(self, tree: Tree) -> None:
        """Process what has happened since the last call; in the first call, everything."""
        for node in tree.since(self._created):
            self._created += 1
            self.created(tree, node)
        for node in tree.finished[self._ended :]:
            self._ended += 1
            self.ended(tree, node)

    def tell(self, tree: Tree, node: Node) -> None:
        """Record the stage's end."""
        self.catch_up(tree)
