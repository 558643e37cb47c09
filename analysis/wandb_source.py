"""Restores search directories from Weights & Biases: `python -m analysis.wandb_source --help`."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from analysis.commands import command_parser
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.settings import path_argument
from llmzero.mirrors.tracking.names import FILES, SEARCH_RUN

HELP = """\
Bring searches back from Weights & Biases. The run of a search holds the files of its directory that analysis
reads (not its checkpoints); each becomes a folder below DIR, named as the group of its runs is.

SOURCE is a group or a whole project of a server, ENTITY/PROJECT/GROUP or ENTITY/PROJECT, or a folder with
offline runs.
"""
EXAMPLES = """\
examples:
  python -m analysis.wandb_source lab/llmzero/countdown-3fc2a1 --into pulled
  python -m analysis.wandb_source runs/countdown/wandb --into pulled
  python -m analysis.load pulled --out tables
"""


def pull(source: str, directory: Path) -> list[Path]:
    """Unpack the searches of a source below a directory, and return the directories of the searches.

    Raises:
        UserError: the source has none, or cannot be read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        archives: Iterable[Path]
        if Path(source).is_dir():
            archives = sorted(Path(source).rglob(f"offline-run-*-{SEARCH_RUN}/files/{FILES}"))
        else:
            archives = _online(source, Path(scratch))
        # Each archive is unpacked before the next is downloaded under the same name.
        searches = [_unpack(archive, directory) for archive in archives]
    if not searches:
        raise UserError(
            f"{source}: holds no run of a search with its {FILES}; that run is written when the search ends"
        )
    return searches


def _online(source: str, scratch: Path) -> Iterator[Path]:
    """Yield the archives of the searches of a group or a project, each downloaded into `scratch`."""
    import wandb

    entity, _, rest = source.partition("/")
    project, _, group = rest.partition("/")
    if not entity or not project:
        raise UserError(
            f"{source}: is no folder with offline runs; "
            "a server's searches are ENTITY/PROJECT or ENTITY/PROJECT/GROUP"
        )
    filters = {"jobType": SEARCH_RUN} | ({"group": group} if group else {})
    try:
        for search in wandb.Api().runs(f"{entity}/{project}", filters=filters):
            for file in search.files(names=[FILES]):  # a run that was cut short has none
                yield Path(file.download(str(scratch), replace=True).name)
    except Exception as error:  # the client raises errors of many classes
        raise UserError(
            f"{source}: cannot be read from W&B ({error}); check the name, WANDB_API_KEY and WANDB_BASE_URL"
        ) from error


def _unpack(archive: Path, directory: Path) -> Path:
    """Unpack an archive, all of whose files are below one folder, and return that folder."""
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
        return directory / Path(tar.getnames()[0]).parts[0]


def main() -> None:
    """Restore the searches of the sources on the command line, and print their directories."""
    parser = command_parser("wandb_source", HELP, EXAMPLES)
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="ENTITY/PROJECT/GROUP, ENTITY/PROJECT, or a folder"
    )
    parser.add_argument(
        "--into", type=path_argument, required=True, metavar="DIR", help="where the searches' folders go"
    )
    arguments = parser.parse_args()
    for source in arguments.sources:
        for search in pull(source, arguments.into):
            print(search)


if __name__ == "__main__":
    run_command(main)
