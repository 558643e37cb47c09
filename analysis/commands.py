"""Argument parsers and output that the commands of this package share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmzero.core.files import write_atomic, write_json
from llmzero.core.settings import path_argument

if TYPE_CHECKING:
    import pandas as pd


def command_parser(module: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of `python -m analysis.MODULE`; its `--help` keeps the line breaks of both texts."""
    return argparse.ArgumentParser(
        f"python -m analysis.{module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def search_parser(module: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of a command that takes directories of searches or of tables."""
    parser = command_parser(module, description, examples)
    parser.add_argument(
        "directories",
        nargs="+",
        type=path_argument,
        metavar="DIRECTORY",
        help="a search, a folder of searches, or a folder of tables",
    )
    return parser


def add_null_option(parser: argparse.ArgumentParser, explanation: str) -> None:
    """Add `--null`, which takes directories of searches that the others are tested against."""
    parser.add_argument(
        "--null", nargs="+", type=path_argument, default=[], metavar="DIRECTORY", help=explanation
    )


def print_table(table: pd.DataFrame) -> None:
    """Print a table as CSV."""
    print(table.to_csv(index=False), end="")


def publish(name: str, document: Any, markdown: str, directory: Path | None) -> None:
    """Print a Markdown text; write it into the directory, if any, as NAME.md, the document as NAME.json."""
    print(markdown)
    if directory:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / f"{name}.json", document)
        write_atomic(directory / f"{name}.md", markdown)
