"""Shapes of paths, and null hypotheses about them."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.nulls import Null, NullSamples, flip_searches, flip_stages, redraw_values, reorder_stages
from analysis.paths import SHAPES, Counts, Paths, SearchPath
from analysis.synthetic_searches import PLANTED, nodes_of, paths_of, tables_of


@pytest.mark.parametrize(
    ("directions", "shape", "turns"),
    [
        ([0, 0, 0], "constant", 0),
        ([0, 1, 0], "single change", 0),
        ([1, 0, 1], "monotone up", 0),
        ([-1, -1, -1], "monotone down", 0),
        ([1, 0, -1], "oscillating", 1),
        ([1, -1, -1, 1], "oscillating", 2),
        ([0, -1, 0, 1, -1], "oscillating", 2),
    ],
)
def test_shapes(directions: list[int], shape: str, turns: int) -> None:
    counts = Counts.of(np.array(directions, np.int8)[:, None])
    assert SHAPES[int(counts.shapes[0])] == shape
    assert counts.turns[0] == turns


def path_with(*columns: list[int], values: float = np.nan) -> SearchPath:
    signs = np.array(columns, np.int8).T
    return SearchPath("s", "e", signs, np.full(len(columns), 0.5), np.full(len(columns), values))


@pytest.mark.parametrize("null", [flip_searches, flip_stages, reorder_stages, redraw_values])
@pytest.mark.parametrize("values", [np.nan, 5.0])
def test_nulls_change_the_same_parameters_as_often(null: Null, values: float) -> None:
    line = path_with([1, 0, -1, 1, 1], [0, 0, 1, 0, -1], [1, 1, 1, 1, 1], values=values)
    versions = Counts.of(null(line, 200, np.random.default_rng(0)))
    assert (versions.changes == line.counts.changes).all()


@pytest.mark.parametrize(
    ("null", "column", "grown", "turning"),
    [
        (flip_searches, [1, 1], 1 / 2, 0),
        (flip_stages, [1, 1], 1 / 4, 1 / 2),
        (reorder_stages, [1, 1, -1], 0, 2 / 3),
        (redraw_values, [1, 1], 1 / 8, 1 - 2 / 8),
    ],
)
def test_nulls_give_what_can_be_counted_by_hand(
    null: Null, column: list[int], grown: float, turning: float
) -> None:
    counts = Counts.of(null(path_with(column), 20_000, np.random.default_rng(0)))
    assert (counts.ups == counts.changes).mean() == pytest.approx(grown, abs=0.02)
    assert (counts.turns / (counts.changes - 1)).mean() == pytest.approx(turning, abs=0.02)


def test_the_p_value_of_short_paths_is_what_coins_give() -> None:
    """Two searches that changed a parameter twice, upwards both times: four heads in a row."""
    versions = NullSamples.draw(
        "chance",
        flip_stages,
        lambda c: (c.ups == c.changes).astype(float),
        [path_with([1, 1]), path_with([1, 0, 1])],
        20_000,
    )
    outcome = versions.outcome()
    assert outcome is not None
    assert (outcome.p, outcome.floor, outcome.expected) == pytest.approx((1 / 16, 1 / 16, 1 / 4), abs=0.01)


def test_paths_are_those_of_the_trees() -> None:
    tables = tables_of(PLANTED, range(3))
    paths = Paths.of(tables)
    for seed, line in enumerate(paths.best):
        nodes = {node.node_id: node for node, _ in nodes_of(PLANTED, seed)}
        node = nodes[line.end]
        positions: list[list[float]] = []
        while node.parent_id is not None:
            positions.insert(
                0, [node.hparams[name] - nodes[node.parent_id].hparams[name] for name in paths.parameters]
            )
            node = nodes[node.parent_id]
        assert (np.sign(positions) == line.signs).all()
    assert len(paths.leaves) == sum(
        node.startswith("0") and leaf
        for node, leaf in zip(tables.stages["node"], tables.stages["leaf"], strict=True)
    )


def test_synthetic_paths_are_those_of_their_tables() -> None:
    made, read = paths_of(PLANTED, range(4)), Paths.of(tables_of(PLANTED, range(4)))
    columns = [made.parameters.index(name) for name in read.parameters]
    assert (made.groups[columns] == read.groups).all()
    for ours, theirs in zip(made.best, read.best, strict=True):
        assert (ours.search, ours.end) == (theirs.search, theirs.end)
        same = ours.select(columns)
        assert (same.signs == theirs.signs).all()
        assert same.start == pytest.approx(theirs.start)
        assert np.isnan(theirs.values).all() and np.isnan(ours.values).all()
