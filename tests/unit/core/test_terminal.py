"""Output that the terminal's encoding has no characters for is replaced, and ends no command."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.table import Table

from llmzero.core.terminal import Terminal, guard_output

WORDS = "größer ± 0.1 → 中 \udcff ends"


@pytest.mark.parametrize("errors", ["strict", "surrogateescape", "backslashreplace"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_what_cannot_be_encoded_is_replaced(
    encoding: str, errors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    guard_output()
    print(WORDS)
    print(WORDS, file=sys.stderr)
    table = Table("µ", title="Überblick")
    table.add_row(WORDS)
    Terminal(width=80).print(table)
    handler = logging.StreamHandler(sys.stderr)
    handler.emit(logging.LogRecord("a", logging.WARNING, "", 0, WORDS, None, None))
    for stream in streams:
        stream.flush()
        printed = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert printed.count("ends") == 2
        assert "Traceback" not in printed
