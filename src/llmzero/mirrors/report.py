"""`report.html`: a search on one self-contained page, rebuilt from its files after every finished stage."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from llmzero.core.files import finite, write_atomic
from llmzero.core.hparams import Catalogue
from llmzero.core.metrics import Metric
from llmzero.mirrors.report_data import Detail, report_data
from llmzero.tree.store import EventStore

REFRESH_SECONDS = 5
DATA_LIMIT = 1_750_000  # characters; the chart library adds 1.1 MB, and the page stays below 3 MB
MIN_TEXT = 20  # characters

_DATA_MARK = "@data@"


def write_report(
    search_dir: Path,
    store: EventStore,
    catalogue: Catalogue,
    metrics: Mapping[str, Metric],
    summary: Mapping[str, Any],
    *,
    live: bool,
) -> None:
    """Write `report.html` atomically; a `live` page reloads itself and keeps its scroll position."""
    before, after = _shell(live)
    payload = _payload(search_dir, store, catalogue, metrics, summary)
    write_atomic(search_dir / "report.html", before + payload + after, sync=False)


def _payload(
    search_dir: Path,
    store: EventStore,
    catalogue: Catalogue,
    metrics: Mapping[str, Metric],
    summary: Mapping[str, Any],
) -> str:
    """Return the page's data as text that no HTML parser can leave: `<` never occurs in it."""
    detail = Detail.for_nodes(len(store.tree))
    while True:
        data = finite(report_data(search_dir, store, catalogue, metrics, summary, detail))
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        text = text.replace("<", "\\u003c")
        if len(text) <= DATA_LIMIT or detail.text < MIN_TEXT:
            return text
        detail = detail.halved()


@functools.cache
def _shell(live: bool) -> tuple[str, str]:
    """Return the page before and after its data: template, style and scripts, which never change."""
    library, script = _asset("echarts.min.js"), _asset("report.js")
    page = _asset("report.html")
    parts = {
        "policy": _policy(library, script),
        "seconds": str(REFRESH_SECONDS if live else 0),
        # The script keeps the scroll position, which a refresh by the browser would lose.
        "refresh": f'<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}"></noscript>'
        if live
        else "",
        "style": _asset("report.css"),
        "library": library,
        "script": script,
    }
    for name, text in parts.items():
        page = page.replace(f"@{name}@", text)
    before, _, after = page.partition(_DATA_MARK)
    return before, after


def _policy(*scripts: str) -> str:
    """Return a content security policy: only these very scripts run, and nothing is fetched from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


def _asset(name: str) -> str:
    return resources.files("llmzero.mirrors").joinpath("report_assets", name).read_text(encoding="utf-8")
