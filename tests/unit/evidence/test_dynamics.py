from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, pvariance
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmzero.core.hparams import Catalogue
from llmzero.core.metrics import Metric
from llmzero.core.stage import ValidationPoint
from llmzero.evidence.dynamics import MIN_SEGMENT, change_points, dynamics_text, number, range_text, thinned
from llmzero.evidence.evidence import Evidence, StageView

Build = Callable[..., Evidence]


def staged(
    catalogue: Catalogue,
    metrics: dict[str, Metric],
    rows: list[dict[str, Any]],
    scores: Sequence[float] = (),
    **changes: Any,
) -> Evidence:
    """Return evidence of a stage: rows of metrics, and a validation point each 5 steps."""
    stage = StageView("0003", 2, "completed", catalogue.defaults(), {}, (), None, None, None)
    fields: dict[str, Any] = {
        "stage": stage,
        "start_score": 0.25,
        "validation": [
            ValidationPoint(5 * i, 5 * i, score, 0.01, 500, 0.1) for i, score in enumerate(scores, 1)
        ],
        "metrics": rows,
        "rollouts": [],
        "path": [stage],
        "children": [],
        "history": [],
        "incumbent_score": 0.6,
        "steps": 25,
        "catalogue": catalogue,
        "metric_catalogue": metrics,
    }
    return Evidence(**{**fields, **changes})


@pytest.fixture
def build(catalogue: Catalogue, metrics: dict[str, Metric]) -> Build:
    """Return a function of columns of metrics, a value for each step, to evidence."""

    def from_columns(
        scores: Sequence[float] = (),
        columns: Mapping[str, Sequence[Any]] = MappingProxyType({}),
        **changes: Any,
    ) -> Evidence:
        rows = [
            {"step": i, **dict(zip(columns, values, strict=True))}
            for i, values in enumerate(zip(*columns.values(), strict=True), 1)
        ]
        return staged(catalogue, metrics, rows, scores, **changes)

    return from_columns


def line(text: str, metric: str) -> str:
    """Return what the text says of a metric."""
    lines = [
        candidate for candidate in text.splitlines() if candidate.startswith((f"{metric} [", f"{metric}:"))
    ]
    assert len(lines) == 1, text
    return lines[0].split(": ", 1)[1]


def table(text: str) -> list[list[str]]:
    """Return the cells of the table over steps, its header first."""
    return [row.split(" | ") for row in text.splitlines() if " | " in row]


# --- validation ---


def test_the_validation_trajectory_is_told_point_by_point(build: Build) -> None:
    assert dynamics_text(build([0.3, 0.5, 0.4])).splitlines() == [
        "Validation score ± standard error (n examples); the stage began at 0.25, "
        "the last number is the difference to it:",
        "step 5: 0.3 ± 0.01 (n 500), +0.05",
        "step 10: 0.5 ± 0.01 (n 500), +0.25",
        "step 15: 0.4 ± 0.01 (n 500), +0.15",
        "slope +0.01 ± 0.00141 a step; best 0.5 at step 10",  # 5 (0.4 - 0.3) / 50, and 0.01 sqrt(50) / 50
    ]


def test_a_single_point_has_no_slope_and_no_difference_without_a_start(build: Build) -> None:
    text = dynamics_text(build([0.3], start_score=None))
    assert text.splitlines()[1:] == ["step 5: 0.3 ± 0.01 (n 500)", "best 0.3 at step 5"]


def test_a_long_trajectory_is_thinned_and_keeps_both_ends_and_the_best_score(build: Build) -> None:
    lines = dynamics_text(build([0.4] * 31 + [0.9] + [0.4] * 68), rows=8).splitlines()
    steps = [int(row.split(":")[0].removeprefix("step ")) for row in lines[1:-1]]
    assert len(steps) == 8
    assert (steps[0], steps[-1]) == (5, 500)
    assert max(b - a for a, b in pairwise(steps)) - min(b - a for a, b in pairwise(steps)) <= 5
    assert lines[-1].endswith("best 0.9 at step 160")


@pytest.mark.parametrize(
    ("most", "items"),
    [(2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (50, list(range(10))), (0, [0, 9])],
)
def test_thinning_is_even_and_keeps_both_ends(most: int, items: list[int]) -> None:
    assert thinned(range(10), most) == items


def test_greedy_and_sampled_scores_are_set_against_each_other(build: Build) -> None:
    """Training samples: of six steps, the last two scored 0.1 and 0.14 on average."""
    facts = build([0.5, 0.625], columns={"train_score": [0.3, 0.3, 0.2, 0.2, 0.1, 0.14]})
    gap = "0.625 greedy against 0.12 sampled over the last third, a gap of +0.505"
    greedy = replace(facts, validation_temperature=0.0)
    assert f"Validation is greedy, training samples at temperature 1: {gap}" in dynamics_text(greedy)
    for unknown in (facts, replace(facts, validation_temperature=0.7), replace(greedy, metrics=[])):
        assert "greedy" not in dynamics_text(unknown)
    easy = replace(greedy.stage, hparams={**greedy.stage.hparams, "easiest": 0.25})
    share = ", of which much is due to the problems: training has the easiest 0.25, validation all"
    assert gap + share in dynamics_text(replace(greedy, stage=easy))
    assert "easiest" not in dynamics_text(greedy)


# --- metrics ---


def test_what_little_is_to_be_said_of_shares_a_line(build: Build) -> None:
    """Metrics with the values of another, and those whose level is enough, unless values are missing."""
    rewards = [0.1, 0.3, 0.2, 0.4, 0.3, 0.5]
    columns = {
        "reward_mean": rewards,
        "train_score": rewards,
        "reward_correct": rewards,
        "loss": [0.0, 0.1, 0.2, 0.3, 0.5, 0.7],
        "tokens": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
    }
    said = dynamics_text(build(columns=columns))
    assert "\nthe same values: train_score as reward_mean, reward_correct as reward_mean\n" in said
    assert "\nover the last third: loss 0.6, tokens 55\n" in said
    assert "\nstep | reward_mean\n1 | 0.1\n" in said, "nor does the table say it twice"
    broken = dynamics_text(build(columns={**columns, "loss": [0.0, 0.1, 0.2, 0.3, 0.5, float("nan")]}))
    assert line(broken, "loss").endswith("missing or not finite at 1 of 6 steps, first at step 6")


def test_a_metric_is_described_by_the_numbers_that_matter(build: Build) -> None:
    # slope 4 / 5; the residuals' sum of squares is 5 - 0.8^2 5 = 1.8, hence an error of sqrt(1.8 / 5 / 2)
    assert line(dynamics_text(build(columns={"kl": [1.0, 3.0, 2.0, 4.0]})), "kl") == (
        "1 -> 4 (+300%); slope +0.8 ± 0.424; min 1 (step 1), max 4 (step 4); last 3, 2, 4; "
        "UNHEALTHY (healthy: 0 to 1) at 3 of 4 steps"
    )


def test_noisy_metrics_are_judged_by_thirds_and_smooth_ones_by_their_ends(build: Build) -> None:
    noisy = dynamics_text(build(columns={"reward_mean": [0.0, 2.0, 0.0, 4.0, 6.0, 4.0]}))
    assert line(noisy, "reward_mean").startswith("0 -> 4, thirds 1 -> 5 (+400%); slope")
    smooth = dynamics_text(build(columns={"reward_mean": [float(10 + i) for i in range(11)]}))
    assert (
        line(smooth, "reward_mean")
        == "10 -> 20 (+100%); slope +1; min 10 (step 1), max 20 (step 11); last 18, 19, 20"
    )


def test_change_points_are_told_by_step_with_the_means_around_them(build: Build) -> None:
    values = [0.5, 0.52, 0.48] * 4 + [0.1, 0.12, 0.08] * 4
    assert "level 0.5, 0.1 from step 13;" in line(
        dynamics_text(build(columns={"entropy": values})), "entropy"
    )


def test_what_stands_still_gets_few_words(build: Build) -> None:
    columns = {
        "clip_fraction_high": [0.0] * 5,
        "mismatch_ratio_max": [1.000001, 1.000002] * 2 + [1.0],
        "offpolicy_kl": [1e-13, 3e-13] * 2 + [2e-13],
    }
    text = dynamics_text(build(columns=columns))
    assert text.splitlines()[1:] == [
        "constant: offpolicy_kl at most 3e-13 nats, mismatch_ratio_max 1, clip_fraction_high 0 share"
    ]


def test_units_and_order_are_the_catalogues_and_strangers_come_last(build: Build) -> None:
    columns = {
        "reward_poetry": [1.0, 2.0],
        "global_step": [7, 8],
        "kl": [0.1, 0.2],
        "entropy": [0.5, 0.4],
        "grad_norm": [0.0, 0.1],
    }
    lines = dynamics_text(build(columns=columns)).splitlines()
    assert [line.split(":")[0] for line in lines[1:5]] == [
        "entropy [nats]",
        "kl [nats]",
        "grad_norm",
        "reward_poetry",
    ]
    assert "global_step" not in "".join(lines)


def test_a_metric_of_another_catalogue_is_told_in_its_unit_and_range(build: Build) -> None:
    heat = Metric("heat", "K", "Temperature.", "High: it burns.", (None, 300.0))
    text = dynamics_text(build(columns={"heat": [290.0, 310.0]}, metric_catalogue={"heat": heat}))
    assert "heat [K]: 290 -> 310 (+6.9%)" in text
    assert "UNHEALTHY (healthy: at most 300) at 1 of 2 steps" in text


@pytest.mark.parametrize(
    ("values", "mark"),
    [
        ([0.0, 0.0, 0.0, 0.04, 0.2, 0.2], "UNHEALTHY (healthy: 0 to 0.05) at 2 of 6 steps"),
        ([0.0, 0.2, 0.0, 0.2, 0.0, 0.0], "unhealthy at 2 of 6 steps, last at step 4 (healthy: 0 to 0.05)"),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.05001], None),  # three digits show no difference to the bound
    ],
)
def test_what_is_unhealthy_is_marked_and_loudly_where_it_is_so_of_late(
    build: Build, values: list[float], mark: str | None
) -> None:
    shown = line(dynamics_text(build(columns={"truncated_fraction": values})), "truncated_fraction")
    assert shown.endswith(f"; {mark}") if mark else "healthy" not in shown.lower()


def test_a_fall_is_unhealthy_however_far_the_bound_below_it(build: Build) -> None:
    """Entropy falls fivefold and stays above 0.05: 0.4 of the level at the start of the path is the least."""
    fallen = build(columns={"entropy": [1.0, 1.0, 0.6, 0.4, 0.2, 0.2]})
    mark = "UNHEALTHY (healthy: at least 0.4) at 2 of 6 steps"
    assert line(dynamics_text(fallen), "entropy").endswith(mark)
    before = replace(fallen.stage, levels={"entropy": (2.0, 1.0)})
    along = replace(fallen, path=[before, fallen.stage])
    assert "(healthy: at least 0.8) at 4 of 6" in line(dynamics_text(along), "entropy")
    warmer = replace(before, hparams={**before.hparams, "temperature": 1.4})
    along = replace(fallen, path=[warmer, fallen.stage])
    assert line(dynamics_text(along), "entropy").endswith(mark), "another temperature is no measure"


def test_what_a_change_moves_by_itself_is_said(build: Build) -> None:
    facts = build(columns={"entropy": [0.5, 0.4], "kl": [0.1, 0.2]})
    changed = replace(facts, stage=replace(facts.stage, changes={"temperature": 1.2, "learning_rate": 1e-5}))
    said = "not comparable with the stage before: temperature changed, on which it depends by itself"
    assert line(dynamics_text(changed), "entropy").endswith(f"; {said}")
    assert "not comparable" not in line(dynamics_text(changed), "kl")
    assert "not comparable" not in dynamics_text(facts)


def test_the_table_says_which_steps_it_leaves_out(build: Build) -> None:
    facts = build(columns={"kl": [i / 100 for i in range(1, 11)]})
    text = dynamics_text(facts, rows=4)
    assert "The table leaves out the steps 2 to 3, 5 to 6, 8 to 9." in text.splitlines()
    assert [row[0] for row in table(text)] == ["step", "1", "4", "7", "10"]
    assert "leaves out" not in dynamics_text(facts, rows=10)


def test_a_lower_bound_alone_is_watched_too(build: Build) -> None:
    assert (
        line(dynamics_text(build(columns={"entropy": [0.01, 0.01]})), "entropy")
        == "0.01 throughout; UNHEALTHY (healthy: at least 0.05) at 2 of 2 steps"
    )


def test_values_that_are_missing_or_not_finite_are_told_and_left_out(build: Build) -> None:
    text = dynamics_text(build(columns={"loss": [1.0, None, float("nan"), 3.0], "kl": [None] * 4}))
    assert line(text, "loss").startswith("1 -> 3 (+200%)")
    assert line(text, "loss").endswith("missing or not finite at 2 of 4 steps, first at step 2")
    assert line(text, "kl").startswith("no finite value")
    assert "nan" not in text


def test_text_and_flags_among_the_metrics_are_ignored(build: Build) -> None:
    text = dynamics_text(
        build(columns={"kl": [0.1, "high", True], "phase": ["a", "b", "c"], "done": [False, False, True]})
    )
    assert line(text, "kl") == "0.1 at step 1 alone; missing or not finite at 2 of 3 steps, first at step 2"
    assert "phase" not in text
    assert "done" not in text


def test_rows_without_steps_are_counted(catalogue: Catalogue, metrics: dict[str, Metric]) -> None:
    text = dynamics_text(staged(catalogue, metrics, [{"kl": 0.5}, {"kl": 0.2}, {"kl": 0.9}]))
    assert "min 0.2 (step 2), max 0.9 (step 3)" in text
    assert [row[0] for row in table(text)] == ["step", "1", "2", "3"]


def test_times_share_a_line_of_means_with_the_stages_total(build: Build) -> None:
    columns = {
        "step_seconds": [1.0, 3.0],
        "seconds_update": [0.5, 1.5],
        "gpu_seconds": [10.0, 13.0],
        "seconds_dreaming": [0.25, 0.25],
        "kl": [0.1, 0.1],
    }
    lines = dynamics_text(build(columns=columns)).splitlines()
    assert (
        "time [s], means a step: step_seconds 2, seconds_update 1, seconds_dreaming 0.25, "
        "gpu_seconds 13 in all" in lines
    )
    assert sum("seconds" in text for text in lines) == 1


# --- table ---


def test_the_table_shows_telling_metrics_that_move_at_thinned_steps(build: Build) -> None:
    columns: dict[str, list[Any]] = {
        "kl": [*(i / 100 for i in range(24)), None],
        "reward_mean": [float(i) for i in range(25)],
        "truncated_fraction": [0.0] * 25,
        "loss": [0.1 * i for i in range(25)],
    }
    header, *rows = table(dynamics_text(build(columns=columns), rows=5))
    assert header == ["step", "reward_mean", "kl"]
    assert [row[0] for row in rows] == ["1", "7", "13", "19", "25"]
    assert rows[1] == ["7", "6", "0.06"]
    assert rows[-1] == ["25", "24", "-"]


# --- as a whole ---


def test_nothing_recorded_is_said(build: Build) -> None:
    assert dynamics_text(build()) == "No metrics and no validation points of stage 0003 were recorded."
    assert "Metrics" not in dynamics_text(build([0.3]))
    assert "Validation" not in dynamics_text(build(columns={"kl": [0.1]}))


def test_a_usual_stage_fits_the_budget(build: Build, metrics: dict[str, Metric]) -> None:
    rng = random.Random(0)
    text = dynamics_text(
        build(
            [0.3123, 0.3234, 0.3345, 0.3456, 0.3567],
            {name: [rng.uniform(0.0101, 2.0) for _ in range(25)] for name in metrics},
        )
    )
    assert len(text) < 10_000
    assert all(f"{name} " in text or f"{name}:" in text for name in metrics)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.integers(),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from([0.0, 1e300, -1e300, 5e-324, 10**400]),
)


@settings(max_examples=150)
@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(["kl", "reward_mean", "loss", "odd", "seconds_update", "gpu_seconds"]), values
        ),
        max_size=12,
    ),
    scores=st.lists(st.floats(0, 1), max_size=12),
    most=st.integers(2, 6),
)
def test_any_rows_give_a_text_of_bounded_length(
    catalogue: Catalogue,
    metrics: dict[str, Metric],
    rows: list[dict[str, Any]],
    scores: list[float],
    most: int,
) -> None:
    text = dynamics_text(staged(catalogue, metrics, rows, scores), rows=most)
    assert text
    assert "inf" not in text
    assert len(table(text)) <= most + 1
    assert sum(each.startswith("step ") and ":" in each for each in text.splitlines()) <= most


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123"),
        (0.0, "0"),
        (-0.0, "0"),
        (1024.0, "1024"),
        (1023.7, "1020"),
        (999.7, "1000"),
        (-1234.5, "-1230"),
        (1234567.0, "1.23e+06"),
        (0.00001234, "1.23e-05"),
    ],
)
def test_numbers_have_three_digits_and_whole_ones_all(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("healthy", "text"),
    [
        ((0.0, 0.05), "0 to 0.05"),
        ((0.05, None), "at least 0.05"),
        ((None, 10.0), "at most 10"),
        ((0.0, 0.0), "0"),
        ((None, None), ""),
    ],
)
def test_ranges_are_told_in_words(healthy: tuple[float | None, float | None], text: str) -> None:
    assert range_text(healthy) == text


# --- change points ---


def noise(seed: int, n: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0.0, 1.0) for _ in range(n)]


@pytest.mark.parametrize(
    "series",
    [
        [],
        [1.0],
        [1.0, 2.0],
        [3.0] * 40,
        [0.0] * 40,
        [i * 0.1 for i in range(40)],
        [2.0 ** -(i // 39) for i in range(40)],
    ],
)
def test_constants_ramps_single_outliers_and_short_series_have_no_change_points(series: list[float]) -> None:
    assert change_points(series) == []


@pytest.mark.parametrize("n", [8, 16, 25, 100])
def test_noise_has_almost_never_a_change_point(n: int) -> None:
    assert sum(bool(change_points(noise(seed, n))) for seed in range(100)) <= 6


@pytest.mark.parametrize("at", [4, 12, 20])
def test_a_clear_step_is_found_within_one_index(at: int) -> None:
    for seed in range(40):
        changes = change_points([value + 8.0 * (i >= at) for i, value in enumerate(noise(seed, 25))])
        assert min(abs(index - at) for index in changes) <= 1


def test_a_bump_has_two_change_points_and_as_many_as_are_asked_for() -> None:
    bump = [0.1 * value + 1.0 * (20 <= i < 35) for i, value in enumerate(noise(0, 60))]
    assert change_points(bump) == [20, 35]
    assert len(change_points(bump, most=1)) <= 1
    stairs = [0.01 * value + (i // 10) ** 2 for i, value in enumerate(noise(1, 40))]
    assert change_points(stairs, most=3) == [10, 20, 30]


def test_ten_thousand_values_are_segmented() -> None:
    assert change_points([value + 3.0 * (i >= 4000) for i, value in enumerate(noise(2, 10_000))]) == [4000]


def test_values_at_the_edge_of_floats_do_no_harm() -> None:
    assert change_points([-1e308] * 10 + [1e308] * 10) == [10]
    assert change_points([0.0] * 10 + [5e-324] * 10) == [10]


@settings(max_examples=200)
@given(series=st.lists(st.integers(-5, 5), min_size=12, max_size=40), share=st.floats(0.3, 0.7))
def test_the_first_split_is_that_of_an_exhaustive_search(series: list[int], share: float) -> None:
    def squares(i: int) -> float:
        return sum(pvariance(part) * len(part) for part in (stepped[:i], stepped[i:]))

    stepped = [value + 15.0 * (i >= share * len(series)) for i, value in enumerate(series)]
    changes = change_points(stepped, most=1)
    assume(changes)
    assert squares(changes[0]) == pytest.approx(
        min(squares(i) for i in range(MIN_SEGMENT, len(series) - MIN_SEGMENT + 1)), abs=1e-6
    )


@settings(max_examples=200)
@given(series=st.lists(st.floats(-1e6, 1e6), max_size=40), most=st.integers(0, 4))
def test_levels_are_long_enough_and_scale_does_not_matter(series: list[float], most: int) -> None:
    changes = change_points(series, most)
    assert len(changes) <= most
    assert all(b - a >= MIN_SEGMENT for a, b in pairwise([0, *changes, len(series)])) or not changes
    assert change_points([1024.0 * value for value in series], most) == changes


def test_the_levels_are_the_means_between_change_points() -> None:
    series = [0.1 * value + 5.0 * (i >= 15) for i, value in enumerate(noise(3, 30))]
    (at,) = change_points(series)
    assert fmean(series[at:]) - fmean(series[:at]) == pytest.approx(5.0, abs=0.2)
