"""Settings of `search=tpe` and `search=cmaes`, apart from the method: launchers read them, and none but a search imports Optuna."""

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
