"""The meter of every comparison: floating-point operations by formula, equal on every machine.

A map of n inputs to m outputs costs 2 n m a token, attention 4 times its width a token and key; what is
elementwise is left out. Counted are model FLOPs: what the passes need that are taken, and not what an engine
does beyond that, such as padding, recomputed activations, a prompt once more for each of several
micro-batches, or a step that a killed attempt took in vain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_FLOPS = 1e30  # that anything may be said to take; the largest trainings are far below


def summed(parts: Iterable[float | None]) -> float | None:
    """Return the sum of amounts of compute; None, unknown, where one of them is."""
    known = list(parts)
    return None if None in known else float(sum(part for part in known if part is not None))


@dataclass(frozen=True)
class Work:
    """What a pass over completions and their prompts is made of; a prompt passes once for its group.

    Attributes:
        tokens: that pass through the layers: prompts, and completions but for their last tokens, which
            predict nothing.
        predicted: that the output layer predicts: all of completions.
        keys: that tokens attend to, all together: in a sequence, the first to itself, the t-th to t.
    """

    tokens: int
    predicted: int
    keys: int

    @classmethod
    def of(cls, groups: Iterable[tuple[int, Sequence[int]]]) -> Work:
        """Return the work of groups: the length of each prompt, and of each of its completions."""
        tokens = predicted = keys = 0
        for prompt, completions in groups:
            tokens += prompt
            keys += prompt * (prompt + 1) // 2
            for length in completions:
                tokens += length - 1
                predicted += length
                keys += (length - 1) * prompt + length * (length - 1) // 2
        return cls(tokens, predicted, keys)


@dataclass(frozen=True)
class Arithmetic:
    """The FLOPs of an architecture's passes.

    Attributes:
        linear: a token, of all linear maps but the output layer: two for each of their weights.
        head: a predicted token, of the output layer, tied or not.
        attention: a key, of scores and weighted sums of all layers.
        adapter: a token, of a LoRA adapter's maps; 0 where all weights are trained.
    """

    linear: int
    head: int
    attention: int
    adapter: int = 0

    def forward(self, work: Work, adapter: bool = True) -> int:
        """Return the cost of a forward pass; `adapter=False` leaves the adapter out."""
        linear = self.linear + (self.adapter if adapter else 0)
        return linear * work.tokens + self.head * work.predicted + self.attention * work.keys

    def update(self, work: Work) -> int:
        """Return the cost of a forward and a backward pass.

        The backward pass costs twice the forward pass, half for inputs and half for weights. Frozen weights
        need no gradients of their own.
        """
        forward = self.forward(work)
        frozen = self.linear * work.tokens + self.head * work.predicted if self.adapter else 0
        return 3 * forward - frozen
