"""Restores search directories from Weights & Biases: `python -m analysis.wandb_source --help`."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from analysis.commands import command_parser
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import make_private
from llmzero.core.settings import path_argument
from llmzero.mirrors.tracking.content import SEARCH_FILES, STAGE_FILES
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
MAX_BYTES = 4 * 1024**3  # of an unpacked search
MAX_FILES = 1_000_000
BLOCK = 1024**2
FILE = re.compile(
    "|".join(re.escape(name) for name in SEARCH_FILES)
    + r"|nodes/[0-9]{4,}/("
    + "|".join(re.escape(name) for name in STAGE_FILES)
    + ")"
)


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
    """Unpack an archive, all of whose files are below one folder, and return that folder.

    The archive may be anybody's: it gives files that searches have and nothing else, into a new folder.

    Raises:
        UserError: it holds anything else, or too much, or the folder exists.
    """
    make_private(directory)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".pulled-") as scratch:
        plain, files = Path(scratch, "archive"), Path(scratch, "files")
        try:
            _decompress(archive, plain)
            with _Bounded(plain) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                members = list(itertools.islice(tar, MAX_FILES + 1))
                folder = _folder(members)
                tar.extractall(files, members, filter="data")
        except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
            raise UserError(f"{archive}: cannot be unpacked ({error}); leave this search out") from error
        target = directory / folder
        if os.path.lexists(target):
            raise UserError(f"{target}: exists already; delete it, or choose another --into")
        (files / folder).chmod(0o700)
        (files / folder).rename(target)
    return target


class _Bounded(io.FileIO):
    """A file that is read a little at a time: headers of an archive may state any size."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes.

        Raises:
            ValueError: these are more than a block.
        """
        if size is None or not 0 <= size <= BLOCK:
            raise ValueError(f"a header states {size} bytes")
        return super().read(size)


def _decompress(archive: Path, plain: Path) -> None:
    """Decompress a file as far as the limit allows."""
    with gzip.open(archive) as packed, plain.open("wb") as file:
        while block := packed.read(BLOCK):
            if file.tell() + len(block) > MAX_BYTES:
                raise ValueError(f"it holds more than {MAX_BYTES} bytes")
            file.write(block)


def _folder(members: Sequence[tarfile.TarInfo]) -> str:
    """Return the one folder that all files lie in, once each of them is a file that searches have.

    Raises:
        ValueError: one is not, or there are none.
    """
    if len(members) > MAX_FILES:
        raise ValueError(f"it has more than {MAX_FILES} files")
    folders = set()
    for member in members:
        folder, _, name = member.name.partition("/")
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if not plain or folder in ("", ".", "..") or not FILE.fullmatch(name):
            raise ValueError(f"{member.name!r} is no file of a search")
        folders.add(folder)
    if len(folders) != 1:
        raise ValueError(f"it has {len(folders)} folders in place of one")
    return folders.pop()


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
