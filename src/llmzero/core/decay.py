"""How the learning rate falls over a stage or a path: the values of the tunable `lr_schedule`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from llmzero.core.errors import UserError

COOLDOWN, FLOOR = 0.2, 0.1  # of wsd: the share of the length over which the rate falls, and to what
WHOLE = (0.0, 1.0)  # what a stage covers of a schedule that is its own

# Share of the peak by the share of the length that is done, 0 to 1; the first step of all has the peak.
DECAYS: Mapping[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "wsd": lambda done: 1.0 - (1 - FLOOR) * max(0.0, done - (1 - COOLDOWN)) / COOLDOWN,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1.0 - done,
}


def decayed(schedule: str, covered: tuple[float, float], done: float) -> float:
    """Return the learning rate of a step, as a share of its peak, without warm-up.

    Args:
        schedule: a key of `DECAYS`.
        covered: the shares of the schedule at which the stage begins and ends.
        done: share of the stage's length, 0 to 1, that the steps before it have done.

    Raises:
        UserError: there is no such schedule.
    """
    if schedule not in DECAYS:
        raise UserError(f"lr_schedule={schedule}: must be one of {', '.join(DECAYS)}")
    begins, ends = covered
    return DECAYS[schedule](begins + (ends - begins) * done)
