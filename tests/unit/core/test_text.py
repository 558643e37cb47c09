"""Text of others: written out, whatever it tells a terminal to do."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llmzero.core.terminal import GuardedStream, OneLine, Terminal
from llmzero.core.text import visible, visible_line
from llmzero.studies.tables import markdown
from tests.conftest import REPOSITORY

ORDERS = {
    "clear the screen": "\x1b[2J",
    "a link": "\x1b]8;;http://evil\x07here\x1b]8;;\x07",
    "the clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "C1": "\x9b2J",
    "begin the line anew": "real\rforged",
    "backspaces": "9\b1",
    "bidi override": "\u202e0001\u202c",
    "isolate": "\u2066x\u2069",
    "zero width": "a\u200bb\ufeff",
    "another line separator": "a\u2028b\u2029c\x85d\x0bd\x0ce",
    "a lone surrogate": "\udcff",
    "NUL and DEL": "\x00\x7f",
    "tags": "\U000e0041",
}
ORDINARY = "Ångström 数学 \N{EM DASH} e\u0301 \N{FACE WITH TEARS OF JOY} \xa0 [/red] ${x} <b> \\"


@pytest.mark.parametrize("text", ORDERS.values(), ids=ORDERS.keys())
def test_orders_are_written_out(text: str) -> None:
    for show in (visible, visible_line):
        assert show(text).isprintable()
        assert len(show(text).splitlines()) == 1
        assert json.loads(f'"{show(text)}"') == text, "JSON can read it"


def test_ordinary_text_stays_as_it_is() -> None:
    assert visible(ORDINARY) == visible_line(ORDINARY) == ORDINARY
    assert visible("a\n\tb") == "a\n\tb"
    assert visible_line("a\n\tb") == r"a\n\tb"
    assert visible_line(Path("/a/b")) == "/a/b"
    assert visible_line(None) == "None"


@pytest.mark.parametrize("text", ORDERS.values(), ids=ORDERS.keys())
def test_a_guarded_stream_shows_what_is_written(text: str) -> None:
    out = io.StringIO()
    print(f"says {text}", ORDINARY, file=GuardedStream(out))  # type: ignore[arg-type]
    assert out.getvalue() == f"says {visible(text)} {ORDINARY}\n"


def test_progress_bars_of_libraries_may_begin_their_line_anew() -> None:
    out = io.StringIO()
    GuardedStream(out).writelines(["\r 10 %", "\r 20 %\rforged"])
    assert out.getvalue() == "\r 10 %\r 20 %\\rforged"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_shows_markup_and_escapes_in_whatever_holds_them(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", GuardedStream(out))
    console = Terminal(force_terminal=terminal, color_system=None, width=200)
    said = "[/red][link=http://evil]x :smile: \x1b[2J"
    table = Table("head [b]", title=Text(said))
    table.add_row(said)
    for thing in (said, Text(said), table):
        console.print(thing)
    with Live(console=console) as live:
        live.update(Text(said))
    shown = "[/red][link=http://evil]x :smile: \\u001b[2J"
    assert out.getvalue().count(shown) == 5
    assert "\x1b[2J" not in out.getvalue()


def test_a_record_of_the_log_takes_one_line() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.addFilter(OneLine())
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("%s\nforged \x1b[2J", "stage\n0009")
    log.warning("%d", "no number")  # logging tells of it by itself, and nothing breaks
    assert out.getvalue() == "stage\\n0009\\nforged \\u001b[2J\n"


def test_commands_guard_what_they_print_log_and_die_of() -> None:
    code = """
import logging, sys
from llmzero.cli import run_command
from llmzero.core.errors import UserError
def main():
    print("out \\x1b[2J")
    logging.getLogger("a").warning("log \\x1b[2J\\nforged")
    if len(sys.argv) > 1:
        raise ValueError("trace \\x1b[2J")
    raise UserError("bad \\x1b[2J\\nforged\\n  ours")
run_command(main)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert done.stdout == "out \\u001b[2J\n"
    assert done.stderr == "log \\u001b[2J\\nforged\nerror: bad \\u001b[2J\n  forged\n  ours\n"
    done = subprocess.run([*command, "die"], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: trace \\u001b[2J\n")


def test_cells_of_a_table_cannot_end_their_row_or_become_links() -> None:
    table = markdown(["a", "b"], [["x | y \\", "[l](javascript:x) <b>\n| forged | row |"]])
    assert table.splitlines() == [
        "| a | b |",
        "| --- | ---: |",
        r"| x \| y \\ | [l]\(javascript:x) \<b>\\n\| forged \| row \| |",
    ]
