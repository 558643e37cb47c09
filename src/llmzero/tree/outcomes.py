"""What a search came to: its summary, final test and confirmation, checked as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmzero.core.files import read_json, reading
from llmzero.core.shapes import NOTHING, NUMBER, NUMBER_OR_NOTHING, SCALAR, Shape, require

AGAIN = "delete it; the command that began the search writes it again"
AGAIN_BY_CONFIRMING = (
    "delete it; the command that began the search, with search.confirm_seeds, writes it again"
)

_MEASURED: Shape = {
    "score": NUMBER,
    "stderr": NUMBER,
    "n": int,
    "validation?": NUMBER_OR_NOTHING,
    "steps": int,
    "flops?": NUMBER_OR_NOTHING,
    "gpu_seconds": NUMBER,
    "node_id?": str,
}
_CONSTANT: Shape = {**_MEASURED, "about": str, "arms": int, "tuning_flops": NUMBER_OR_NOTHING}  # type: ignore[dict-item]
TEST: Shape = {
    "base": _MEASURED,
    "practitioner": (NOTHING, _MEASURED),
    "constant?": (NOTHING, _CONSTANT),
    "best": {**_MEASURED, "node_id": str},  # type: ignore[dict-item]
    "failed?": {str: str},
    "trajectory?": [
        {
            "stages": int,
            "gpu_seconds": NUMBER,
            "flops?": NUMBER_OR_NOTHING,
            "node_id": str,
            "score": NUMBER,
            "stderr": NUMBER,
        },
    ],
}
_MEAN: dict[str, Shape] = {"test": [NUMBER], "mean": NUMBER, "stderr": NUMBER_OR_NOTHING}
_REPLAYED: dict[str, Shape] = {
    **_MEAN,
    "steps": int,
    "flops?": NUMBER_OR_NOTHING,
    "validation": [NUMBER],
    "validation_mean": NUMBER,
    "incomplete": int,
    "node_id?": str,
}
_PRACTITIONER: dict[str, Shape] = {
    **_REPLAYED,
    "mean": NUMBER_OR_NOTHING,  # none where its training failed on all seeds
    "validation_mean": NUMBER_OR_NOTHING,
}
_DIFFERENCE: Shape = {
    "difference": NUMBER_OR_NOTHING,
    "p_paired": NUMBER_OR_NOTHING,
    "p_welch": NUMBER_OR_NOTHING,
}
CONFIRMATION: Shape = {
    "stages": int,
    "seeds": [int],
    "winner": str,
    "strategies": {str: {**_REPLAYED, "against": {"practitioner": _DIFFERENCE, "base": _DIFFERENCE}}},
    "practitioner": _PRACTITIONER,
    "base": _MEAN,
}
SUMMARY: Shape = {
    "search_id": str,
    "method": str,
    "agent": str,
    "state": str,
    "base_score": NUMBER_OR_NOTHING,
    "validation_max_tokens?": (int, NOTHING),
    "nodes": {str: int},
    "best": (
        NOTHING,
        {"node_id": str, "score": NUMBER, "path": [str], "course?": {str: [SCALAR]}},
    ),
    "trajectory": [
        {"stages": int, "gpu_seconds": NUMBER, "flops?": NUMBER_OR_NOTHING, "best": NUMBER_OR_NOTHING}
    ],
    "budget": {str: NUMBER_OR_NOTHING},
    "stopper": {str: NUMBER},
    "test": (NOTHING, TEST),
    "confirmation": (NOTHING, CONFIRMATION),
}


def read_summary(search_dir: Path) -> dict[str, Any] | None:
    """Return the content of `summary.json`; None where there is none.

    Raises:
        DamagedFileError: it is something else.
    """
    return _read(search_dir / "summary.json", SUMMARY, AGAIN)


def read_test(search_dir: Path) -> dict[str, Any] | None:
    """Return the content of `test.json`; None where there is none.

    Raises:
        DamagedFileError: it is something else.
    """
    return _read(search_dir / "test.json", TEST, AGAIN)


def read_confirmation(search_dir: Path) -> dict[str, Any] | None:
    """Return the content of `confirmation.json`; None where there is none.

    Raises:
        DamagedFileError: it is something else.
    """
    file = search_dir / "confirmation.json"
    confirmation = _read(file, CONFIRMATION, AGAIN_BY_CONFIRMING)
    if confirmation and confirmation["winner"] not in confirmation["strategies"]:
        with reading(file, AGAIN_BY_CONFIRMING):
            raise ValueError(f"winner={confirmation['winner']}: is none of its strategies")
    return confirmation


def _read(file: Path, shape: Shape, remedy: str) -> dict[str, Any] | None:
    content = read_json(file, remedy)
    with reading(file, remedy):
        if content is not None:
            require(content, shape)
    return content
