"""What users may set of the Weights & Biases mirror."""

from __future__ import annotations

from dataclasses import dataclass

from llmzero.core.settings import setting


@dataclass
class TrackingSettings:
    """`tracking=offline` and `tracking=online`."""

    mode: str = setting(
        "offline",
        "offline leaves runs in <search_dir>/wandb, for `wandb sync`; online sends them",
        choices=("offline", "online"),
    )
    project: str = setting("llmzero", "W&B project")
    entity: str | None = setting(None, "W&B user or team; null is the account's default")
    fork: bool = setting(False, "a stage's run is a fork of its parent's, where the server has forks")
    checkpoint: bool = setting(True, "keep the winning checkpoint's weights as an artifact")
