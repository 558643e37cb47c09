"""Names of a search and its runs in W&B: the same whenever, wherever and in whatever mode it is mirrored."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from llmzero.core.files import read_json, reading
from llmzero.core.shapes import require

SEARCH_RUN = "search"  # where a stage's run has its node id
LONGEST, LONGEST_TAG = 128, 64  # characters that W&B takes for a name, and for a tag
REFUSED = re.compile(r"[/\\#?%:\x00-\x1f\x7f\ud800-\udfff]")  # by W&B, or by its protocol
LONGEST_FOLDER = 100  # characters of a directory's name within a run's: the rest is ours
FILES = "search.tar.gz"  # of the search's run: the search directory without what is large


def memory_file(search_dir: Path) -> Path:
    """Return the file that remembers what was mirrored."""
    return search_dir / "tracking.json"


def read_memory(search_dir: Path) -> dict[str, Any]:
    """Return what was mirrored: the search's id, and by destination a digest of each run.

    Raises:
        DamagedFileError: the file holds something else.
    """
    file, remedy = memory_file(search_dir), "delete it, and all runs are written once more"
    memory = read_json(file, remedy) or {}
    with reading(file, remedy):
        require(memory, {str: (str, {str: str})})
    return memory


def search_uid(search_dir: Path) -> str:
    """Return the search's unique id; a directory that moves keeps it once it was mirrored."""
    recorded = read_memory(search_dir).get("id")
    if is_uid(recorded):
        return str(recorded)
    with (search_dir / "tree.jsonl").open(encoding="utf-8", errors="replace") as events:
        return hash_of([str(search_dir), events.readline()])


def is_uid(value: Any) -> bool:
    """Return whether a value is such an id; anything else in the file could name paths outside."""
    return re.fullmatch(r"[0-9a-f]{12}", str(value)) is not None


def suggested(name: str) -> str:
    """Return a name that W&B takes, as like the given one as can be."""
    return REFUSED.sub("-", name.strip())[:LONGEST_FOLDER] or "llmzero"


def group_of(search_dir: Path) -> str:
    """Return the group of a search's runs.

    The directory's name alone would not do: in a study many are called `seed-0`.
    """
    return f"{suggested(search_dir.name)}-{search_uid(search_dir)[:6]}"


def hash_of(value: Any) -> str:
    """Return a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
