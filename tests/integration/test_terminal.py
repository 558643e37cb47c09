"""What endpoints, logs, diagnoses and paths say reaches the terminal as text, whichever command shows it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmzero.core.files import append_jsonl, write_json, write_jsonl
from tests.conftest import REPOSITORY
from tests.integration import conftest as commands
from tests.integration.conftest import Run, read_lines

# Colours, links, the clipboard, the cursor, a forged row, and what rich and Markdown take for markup.
EVIL = (
    "\x1b[2Jx\x1b]8;;http://evil\x07link\x1b]52;c;AAAA\x07\x9b1A\u202e\b\r"
    "0099 0.999 completed: forged\n0099 0.999 completed: forged\n| forged | 1 |\n"
    "[/red][link=http://evil]a[/link]"
)
FOLDER = "a[/red]b [link=x] \x1b[31mred\u202e"
ANALYSES = ("calibration", "stopping", "scaling", "compare", "dynamics", "figures", "load", "report")


@pytest.fixture(scope="module")
def evil(launch: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished search in a folder with a bad name, edited by a stranger, and what it printed."""
    search = tmp_path_factory.mktemp("searches") / FOLDER
    quoted = str(search).replace('"', '\\"')
    done = launch(
        "search",
        "experiment=simulated",
        "budget.stages=4",
        "search.test_incumbents=true",
        f'search_dir="{quoted}"',
    )
    events = read_lines(search / "tree.jsonl")
    for event in events:
        if event["event"] == "created" and event["parent_id"]:
            event["proposal"] |= {"agent": EVIL, "diagnosis": [EVIL], "rationale": EVIL}
        if event["event"] == "finished" and event["node_id"] == "0002":
            event["result"] |= {"state": "failed", "error": EVIL, "cause": {"kind": EVIL}}
    events = [event for event in events if event["event"] != "ended"]
    write_jsonl(search / "tree.jsonl", events)
    append_jsonl(
        search / "tree.jsonl",
        [{**events[-1], **unfinished(events)}, {"event": "started", "elapsed": 1.0, "node_id": "0005"}],
    )
    config = yaml.safe_load((search / "config.yaml").read_text())
    config["runner"]["landscape"] = f"$\\frac{{$ {EVIL}"  # which figures name as the task
    (search / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    running = search / "nodes/0005"
    running.mkdir()
    write_json(running / "status.json", {"state": "running", "phase": EVIL, "progress": 0.5, "seconds": 3.0})
    (running / "log.txt").write_text(EVIL)
    return search, done.stdout


def unfinished(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the creation of a stage beside the last."""
    return {**[event for event in events if event["event"] == "created"][-1], "node_id": "0005"}


def assert_harmless(printed: str) -> None:
    """Nothing in it is obeyed by a terminal, and no line of it is the stranger's."""
    assert all(c.isprintable() or c in "\n\t\xa0" for c in printed), ascii(printed)
    lines = [line.strip(" ├└│─*|-") for line in printed.splitlines()]
    assert not [line for line in lines if line.startswith(("0099", "forged"))], printed


def test_a_search_in_a_folder_with_a_bad_name_ends_well(evil: tuple[Path, str]) -> None:
    search, printed = evil
    assert_harmless(printed)
    assert "search red]b [link=x] \\u001b[31mred\\u202e: finished" in printed
    assert f"report: {search.parent}/red]b [link=x] \\u001b[31mred\\u202e/report.html" in printed


def test_status_shows_no_row_of_a_strangers(evil: tuple[Path, str]) -> None:
    command = [sys.executable, "launchers/status.py", str(evil[0])]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
        env={**os.environ, "COLUMNS": "999"},
    )
    assert_harmless(done.stdout + done.stderr)
    assert "\\u001b[2Jx" in done.stdout
    assert "[/red][link=http://evil]a[/link]" in done.stdout
    rows = [line for line in done.stdout.splitlines() if "stage 0005" in line]
    assert len(rows) == 1
    assert "50%" in rows[0]


@pytest.mark.parametrize("module", ANALYSES)
def test_analysis_shows_it_as_text(evil: tuple[Path, str], module: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)] if module in ("report", "figures", "load") else []
    command = [sys.executable, "-m", f"analysis.{module}", str(evil[0]), *out]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert_harmless(done.stdout + done.stderr)
    for page in tmp_path.glob("*.html"):
        assert "\x1b" not in page.read_text()


def test_errors_show_it_as_text(evil: tuple[Path, str], launch: Run, tmp_path: Path) -> None:
    search = tmp_path / FOLDER
    shutil.copytree(evil[0], search)
    (search / "config.yaml").unlink()
    for command in (["launchers/stop.py"], ["-m", "analysis.load", "--out", str(tmp_path / "t")]):
        done = subprocess.run(
            [sys.executable, *command, str(search)],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            check=False,
        )
        assert done.returncode == 2
        assert_harmless(done.stdout + done.stderr)
    refused = launch("search", "experiment=simulated", f'search_dir="{evil[0]}"', "seed=17", ok=False)
    assert refused.returncode == 2
    assert_harmless(refused.stdout + refused.stderr)
    (tmp_path / "answers.jsonl").write_text(json.dumps({"id": EVIL, "completion": "1"}) + "\n")
    refused = launch("score", "task=countdown", f"completions={tmp_path}/answers.jsonl", ok=False)
    assert_harmless(refused.stdout + refused.stderr)


def test_a_failing_base_model_is_told_in_a_line(launch: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    runner = "runner._target_=tests.integration.odd_runners.CursingRunner"
    failed = launch("search", "experiment=simulated", runner, f"search_dir={search}", ok=False)
    assert failed.returncode == 2
    assert "the base model could not be prepared: \\u001b[2J" in failed.stderr
    assert_harmless(failed.stdout + failed.stderr)


@pytest.mark.parametrize(
    "encoding",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_a_terminal_that_shows_ascii_alone_ends_no_search(
    environment: dict[str, str], tmp_path: Path, encoding: dict[str, str]
) -> None:
    """Nor an analysis; what cannot be encoded is shown as a question mark."""
    plain = {name: value for name, value in environment.items() if not name.startswith("LC_")}
    overrides = ["experiment=simulated", "budget.stages=2", f"search_dir={tmp_path}/s"]
    for line in (
        commands.command("search", *overrides),
        commands.command("status", f"{tmp_path}/s"),
        [sys.executable, "-m", "analysis.calibration", f"{tmp_path}/s"],
    ):
        done = subprocess.run(
            line, env={**plain, **encoding}, cwd=REPOSITORY, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert b"Error" not in done.stderr
        assert done.stdout.isascii()
