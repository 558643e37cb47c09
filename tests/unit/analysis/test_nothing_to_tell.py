"""Every command of the analysis, on what holds no search, or none of which there is anything to tell."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from llmzero.cli import BAD_INPUT, run_command
from tests.conftest import REPOSITORY
from tests.unit.analysis.searches import simulated_search

COMMANDS = sorted(
    file.stem for file in (REPOSITORY / "analysis").glob("*.py") if "\ndef main()" in file.read_text("utf-8")
)
OPTIONS = {
    "load": ["--out", "out"],
    "report": ["--out", "out"],
    "figures": ["--out", "out"],
    "wandb_source": ["--into", "out"],
    "wandb_report": ["--print"],
    "sync": ["--mode", "offline"],
}
ELSEWHERE = ("synthetic",)  # it takes no directory


def said(
    command: str, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    """Run a command; return its exit code and the lines of its error output."""
    monkeypatch.chdir(directory.parent)
    monkeypatch.setattr(sys, "argv", [command, str(directory), *OPTIONS.get(command, [])])
    with pytest.raises(SystemExit) as ended:
        run_command(import_module(f"analysis.{command}").main)
    output = capsys.readouterr()
    assert not output.out
    return int(ended.value.code or 0), output.err.splitlines()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated_search(tmp_path_factory.mktemp("finished") / "s", "budget.stages=1")


@pytest.mark.parametrize("kind", ["empty", "missing", "file", "other files"])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ELSEWHERE])
def test_a_place_without_a_search_is_one_line(
    command: str,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = tmp_path / "here"
    if kind == "file":
        directory.write_text("")
    elif kind != "missing":
        directory.mkdir()
    if kind == "other files":
        (directory / "tree.jsonl").mkdir()
        (directory / "notes.txt").write_text("")
    code, [line] = said(command, directory, monkeypatch, capsys)
    assert code == BAD_INPUT
    assert line.startswith(f"error: {directory}")


@pytest.mark.parametrize("events", [0, 1, 2, 3])
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in (*ELSEWHERE, "sync")])
def test_a_search_without_a_trained_stage_is_one_line(
    command: str,
    events: int,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With no event in its log, then with a base model that waits, runs and has ended."""
    search = tmp_path / "s"
    search.mkdir()
    (search / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    lines = (finished / "tree.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["event"] for line in lines[:3]] == ["created", "started", "finished"]
    (search / "tree.jsonl").write_text("".join(lines[:events]))
    code, [line] = said(command, tmp_path, monkeypatch, capsys)
    assert code == BAD_INPUT
    assert line.startswith("error: ")


@pytest.mark.parametrize("command", ["curves", "paths"])
def test_rows_are_printed_as_csv(
    command: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [command, str(finished)])
    run_command(import_module(f"analysis.{command}").main)
    head, *rows = capsys.readouterr().out.splitlines()
    expected = {
        "curves": "search,node,stages,gpu_seconds,flops,best",
        "paths": "paths,search,end,parameter,group",
    }
    assert head.startswith(expected[command])
    assert command == "paths" or len(rows) == 2
