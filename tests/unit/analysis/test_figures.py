"""Names of a stranger's in figures: dollar signs, which Matplotlib would take for formulas."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd

from analysis.figures import STYLE, save_all, scaling
from analysis.report import _data_url
from analysis.tables import Rows, Tables

NAME = "$\\frac{$"


def test_names_are_no_formulas(tmp_path: Path) -> None:
    scores = {"test_base": 0.3, "test_practitioner": 0.4, "test_best": 0.5}
    named = {"method": NAME, "agent": NAME, "stopper": None, "task": NAME}
    rows = [{"search": f"{i}", **named, "model": f"{NAME}${i}", **scores} for i in range(4)]
    tables = Tables(**{**dict(Rows().tables().items()), "searches": pd.DataFrame(rows)})
    with mpl.rc_context(STYLE):
        figure = scaling(tables)
    assert figure is not None
    save_all({"scaling": figure}, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"scaling.png", "scaling.pdf"}
    assert _data_url(figure).startswith("data:image/svg+xml;base64,")
