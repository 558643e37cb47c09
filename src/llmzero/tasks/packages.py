"""Optional packages that some tasks need."""

from __future__ import annotations

from importlib.util import find_spec

from llmzero.core.errors import UserError


def require(package: str, key: str) -> None:
    """Raise `UserError` where an optional package is not installed; `key` is the setting that needs it."""
    if find_spec(package) is None:
        name = package.replace("_", "-")
        raise UserError(f"{key}: needs the package {name}: pip install 'llmzero[tasks]'")
