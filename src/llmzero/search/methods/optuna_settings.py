"""Settings of the methods that use Optuna, apart from these: launchers read them without importing it."""

from __future__ import annotations

from dataclasses import dataclass

from llmzero.core.settings import REQUIRED, setting


@dataclass
class OptunaSettings:
    """`search=tpe` and `search=cmaes`."""

    sampler: str = setting(REQUIRED, choices=("tpe", "cmaes"))
    n_startup_trials: int = setting(
        REQUIRED, "trials that end before suggestions begin to follow their values", low=1
    )
