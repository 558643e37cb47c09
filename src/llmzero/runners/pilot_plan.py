"""What pilots are ruled by: whether a stage fits, when a pilot is replaced, how many there are."""

from __future__ import annotations

from collections.abc import Sequence

MARGIN = 1.2  # on the longest stage so far, as the next one may be longer


def expected_seconds(left: float, finished: Sequence[Sequence[float]]) -> float | None:
    """Return how long a stage may take; None where there is nothing to learn from.

    Args:
        left: to train of the stage, in GRPO steps or FLOPs.
        finished: the same of stages that have ended, and their seconds.
    """
    alike = [seconds for length, seconds in finished if length == left]
    if alike:
        return MARGIN * max(alike)
    if not finished:
        return None
    return MARGIN * max(seconds * max(1.0, left / max(1.0, length)) for length, seconds in finished)


def fits(expected: float | None, left: float | None, whole: float | None) -> bool:
    """Return whether a pilot should take a stage.

    A stage that is longer than any pilot is taken by one that has more than half of its time left, and goes
    on in the next one.

    Args:
        expected: seconds of the stage, where they are known.
        left: seconds until the pilot is told to end; None is no limit.
        whole: the same when it began.
    """
    if left is None or whole is None:
        return True
    if left <= 0:
        return False
    return expected is None or expected <= left or (expected > whole and left > whole / 2)


def longest_expected(finished: Sequence[Sequence[float]]) -> float | None:
    """Return how long any stage may take, after those that have ended."""
    return MARGIN * max(seconds for _, seconds in finished) if finished else None


def is_leaving(left: float | None, whole: float, longest: float | None, queue_wait: float) -> bool:
    """Return whether a pilot is to be replaced: when the next one has come, no stage fits into it any more.

    Args:
        left: seconds until it is told to end; None is no limit.
        whole: the same when it began. Into stages that are longer it puts all that it has left.
        longest: expected seconds of a stage, where they are known.
        queue_wait: seconds that pilots have waited in SLURM's queue.
    """
    needed = longest if longest is not None and longest <= whole else 0.0
    return left is not None and left < needed + queue_wait


def pilots_to_submit(
    stages: int, serving: int, alive: int, pilots: int, devices: int, max_gpus: int | None
) -> int:
    """Return how many pilots to ask SLURM for.

    Args:
        stages: that run or wait.
        serving: pilots that run, or wait in SLURM's queue, and are not about to leave.
        alive: pilots that may hold devices, those that leave among them.
        pilots: to have at most, without those that leave.
        devices: of a pilot.
        max_gpus: devices that all of them may hold at a time.
    """
    wanted = min(min(stages, pilots) - serving, 2 * pilots - alive)
    if max_gpus is not None:
        wanted = min(wanted, max_gpus // devices - alive)
    return max(0, wanted)
