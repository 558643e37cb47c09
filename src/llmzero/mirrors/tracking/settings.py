"""What users may set of the Weights & Biases mirror."""

from __future__ import annotations

from dataclasses import dataclass

from llmzero.core.errors import UserError
from llmzero.core.settings import setting
from llmzero.mirrors.tracking.names import LONGEST, REFUSED, suggested


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

    def __post_init__(self) -> None:
        require_name("tracking.project", self.project)
        if self.entity is not None:
            require_name("tracking.entity", self.entity)


def require_name(key: str, name: str) -> None:
    """Check a name of a project or of an entity as W&B does, before there is a run that it would fail.

    Raises:
        UserError: it is no text, empty, too long, or has a character that W&B refuses.
    """
    if not isinstance(name, str):
        raise UserError(f"{key}={name!r}: must be a text; put it in quotes")
    if not 1 <= len(name) <= LONGEST or name != name.strip() or REFUSED.search(name):
        raise UserError(
            f"{key}={name[:LONGEST]!r}: must have 1 to {LONGEST} characters and none of / \\ # ? % : among "
            f"them, nor control characters or spaces around it; e.g. {key}={suggested(name)}"
        )
