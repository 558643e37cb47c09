"""The exceptions that mean: what was given or found cannot work, and here is what to do."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Bad input, found before any compute is spent. The message names the key, the value and the remedy."""


class DamagedFileError(UserError):
    """A file that a program wrote cannot be read as such.

    Args:
        where: the file, or the file and what part of it, such as `file:line`.
        problem: what is wrong there.
        remedy: what to do; the file itself is never changed.
    """

    def __init__(self, where: Path | str, problem: object, remedy: str) -> None:
        text = " ".join(str(problem).split())[:300]
        super().__init__(f"{where}: cannot be read ({text}); {remedy}")
