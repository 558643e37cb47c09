"""Searches back from Weights & Biases, as directories that analysis reads: `python -m analysis.wandb_source ENTITY/PROJECT/GROUP --into DIR`."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from analysis.load import command
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.mirrors.tracking.names import FILES, SEARCH_RUN

HELP = """\
Bring searches back from Weights & Biases. The run of a search holds the files of its directory that analysis reads (not its
checkpoints); each becomes a folder below DIR, named as the group of its runs is.

SOURCE is a group or a whole project of a server, ENTITY/PROJECT/GROUP or ENTITY/PROJECT, or a folder with offline runs.
"""
EXAMPLES = """\
examples:
  python -m analysis.wandb_source lab/llmzero/countdown-3fc2a1 --into pulled
  python -m analysis.wandb_source runs/countdown/wandb --into pulled
  python -m analysis.load pulled --out tables
"""


def pull(source: str, into: Path) -> list[Path]:
    """Unpack the searches of a source below a folder, and return their directories.

    Raises:
        UserError: the source has none, or cannot be read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = [
            _unpacked(archive, into)
            for archive in (
                _offline(Path(source)) if Path(source).is_dir() else _online(source, Path(scratch))
            )
        ]
    if not found:
        raise UserError(
            f"{source}: holds no run of a search with its {FILES}; that run is written when the search ends"
        )
    return found


def _offline(folder: Path) -> Iterator[Path]:
    """Yield the archives of the searches' runs among the recordings below a folder."""
    yield from sorted(folder.rglob(f"offline-run-*-{SEARCH_RUN}/files/{FILES}"))


def _online(source: str, scratch: Path) -> Iterator[Path]:
    """Yield the archives of the searches' runs of a group or a project, each downloaded as the one before is done with."""
    import wandb

    entity, _, rest = source.partition("/")
    project, _, group = rest.partition("/")
    if not entity or not project:
        raise UserError(
            f"{source}: is no folder with offline runs; a server's searches are ENTITY/PROJECT or ENTITY/PROJECT/GROUP"
        )
    filters = {"jobType": SEARCH_RUN} | ({"group": group} if group else {})
    try:
        for search in wandb.Api().runs(f"{entity}/{project}", filters=filters):
            for file in search.files(names=[FILES]):  # none where the run was cut short
                yield Path(file.download(str(scratch), replace=True).name)
    except Exception as error:  # the client's are of many classes
        raise UserError(
            f"{source}: cannot be read from W&B ({error}); check the name, WANDB_API_KEY and WANDB_BASE_URL"
        ) from error


def _unpacked(archive: Path, into: Path) -> Path:
    """Unpack an archive, all of whose files lie below one folder, and return that folder."""
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
        return into / Path(tar.getnames()[0]).parts[0]


def main() -> None:
    """Bring the searches of the sources given."""
    parser = command("wandb_source", HELP, EXAMPLES)
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="ENTITY/PROJECT/GROUP, ENTITY/PROJECT, or a folder"
    )
    parser.add_argument(
        "--into", type=Path, required=True, metavar="DIR", help="where the searches' folders go"
    )
    given = parser.parse_args()
    for source in given.sources:
        for search in pull(source, given.into):
            print(search)


if __name__ == "__main__":
    run_command(main)
