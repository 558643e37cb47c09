"""A Weights & Biases Report as plain text, for reading it without a server."""

from __future__ import annotations

from typing import Any

import wandb_workspaces.reports.v2 as wr


def as_text(report: wr.Report) -> str:
    """Return what a report says, and which panels of which runs it has."""
    return "\n\n".join([f"# {report.title}", *(_block_text(block) for block in report.blocks)])


def _block_text(block: Any) -> str:
    if isinstance(block, wr.H2):
        return f"## {block.text}"
    if not isinstance(block, wr.PanelGrid):
        return str(block.text)
    lines = []
    for runset in block.runsets:
        by = f", by {', '.join(runset.groupby)}" if runset.groupby else ""
        lines.append(f"runs: {runset.name}, where {runset.filters}{by}")
    return "\n".join([*lines, *(f"- {_panel_text(panel)}" for panel in block.panels)])


def _panel_text(panel: Any) -> str:
    match panel:
        case wr.LinePlot():
            shown = f"{', '.join(map(str, panel.y))} over {panel.x}"
        case wr.ParallelCoordinatesPlot():
            shown = ", ".join(column.metric.name for column in panel.columns)
        case wr.WeavePanelSummaryTable():
            shown = panel.table_name
        case wr.MediaBrowser():
            shown = ", ".join(panel.media_keys)
        case _:  # a bar plot
            shown = ", ".join(map(str, panel.metrics))
    return f"{type(panel).__name__}: {shown}"
