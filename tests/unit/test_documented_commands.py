"""The commands of all pages: every one composes, parses its options, or names a target that exists."""

from __future__ import annotations

import re
import shlex
import sys
from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from llmzero.cli import composed
from llmzero.config import LAUNCHERS
from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
VARIABLE = re.compile(r"[A-Z_]+=\S*")


def commands(page: Path) -> list[str]:
    """Return the commands of a page, each on a line."""
    text = page.read_text()
    blocks = [*FENCED.findall(text), *INDENTED.findall(FENCED.sub("", text))]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"\s*([A-Z_]+=\S* )*(python|make) ", line)]


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]


def words(line: str) -> list[str]:
    """Return the words of a command without its variables, and without comments."""
    found = shlex.split(line, comments=True)
    while VARIABLE.fullmatch(found[0]):
        found = found[1:]
    return [word for word in found if word != "..."]


def single(override: Override) -> str:
    """Return an override as a job of a sweep has it: with the first of its values."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"


def compose(launcher: str, arguments: list[str]) -> Any:
    """Return the configuration that a launcher would run with."""
    searchpath = []
    if "--config-dir" in arguments:
        position = arguments.index("--config-dir")
        searchpath = [f"hydra.searchpath=[file://{REPOSITORY / arguments[position + 1]}]"]
        del arguments[position : position + 2]
    given = [word for word in arguments if word not in ("-m", "--help")]
    parsed = OverridesParser.create().parse_overrides(given)
    # Its own place depends on Hydra's choices, which only a launcher of its own has.
    place = ["search_dir=runs/replayed"] if launcher == "replay" else []
    return composed(launcher, LAUNCHERS[launcher], [*searchpath, *place, *map(single, parsed)])


class OptionsReadError(Exception):
    """Ends a command that has accepted its options."""


def parse(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a command read its options, and no more."""
    read = ArgumentParser.parse_args

    def stop(parser: ArgumentParser, *given: Any) -> Any:
        read(parser, *given)
        raise OptionsReadError

    monkeypatch.setattr(ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(OptionsReadError):
        import_module(module).main()


@pytest.mark.parametrize(
    ("page", "line"), COMMANDS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(COMMANDS)]
)
def test_a_documented_command_is_one(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_AUTH", "token")
    program, *arguments = words(line)
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in arguments if "=" not in word} <= targets
    elif arguments[0] == "-m":
        if not arguments[1].startswith("vllm"):
            parse(arguments[1], arguments[2:], monkeypatch)
    elif Path(arguments[0]).stem in LAUNCHERS:
        compose(Path(arguments[0]).stem, arguments[1:])
    else:
        parse(f"{Path(arguments[0]).parent.name}.{Path(arguments[0]).stem}", arguments[1:], monkeypatch)


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 60
    assert {page for page, _ in COMMANDS} >= {"README.md", "agents.md", "cluster.md", "tasks.md", "wandb.md"}
