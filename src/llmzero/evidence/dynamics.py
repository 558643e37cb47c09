"""Training dynamics as text: a stage's validation points and metrics in few words and numbers.

Numbers have three significant digits, steps count from the start of the stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, linear_regression
from typing import Any, TypeGuard, TypeVar

from llmzero.core.metrics import Metric, listed
from llmzero.core.stage import ValidationPoint, best_point
from llmzero.evidence.diagnosis import slope
from llmzero.evidence.evidence import Evidence

Points = list[tuple[int, float]]  # step and value
Range = tuple[float | None, float | None]  # None is no bound
Squares = Callable[[int, int], float]  # of the values from one index to before another
T = TypeVar("T")

POSITIONS = ("step", "global_step", "flops")
TOTAL_SECONDS = "gpu_seconds"
LARGEST = 1e100  # what lies beyond is no measurement, and its square no float
NEGLIGIBLE = 1e-9  # rounding errors, and shares and divergences that nobody acts on
NOISY_SHARE = 0.1  # noise over range above which single values mislead
BOUND_TOLERANCE = 1e-3  # of a healthy bound: less than three digits show
MIN_SEGMENT = 3  # values: fewer make a spike and no level
# Times log(n) for a change point; BIC's 2, for position and level, finds too many in dozens of short series.
CHANGE_PENALTY = 3.5
LINE_PENALTY = 1.0
RESIDUAL_FLOOR = 1e-12  # mean square, of a range of 1: far below any noise, above rounding

HEADER = (
    "first -> last value; means of the first and last third where noisy; relative change of these; "
    "slope a step ± standard error; extremes; levels between change points; last values; three digits each; "
    "UNHEALTHY is what is so over the last third; a bound may be a share of the level at the path's start"
)


def dynamics_text(evidence: Evidence, *, rows: int = 12) -> str:
    """Return the training dynamics of a stage as text for a language model.

    Args:
        evidence: of the stage.
        rows: most lines of the validation trajectory and of the table over steps (at least 2); longer ones
            are thinned evenly.
    """
    sections = [_validation(evidence, rows), _metrics(evidence), _table(evidence, rows)]
    return (
        "\n\n".join(filter(None, sections))
        or f"No metrics and no validation points of stage {evidence.stage.node_id} were recorded."
    )


# --- values ---


def series(evidence: Evidence, metric: str) -> Points:
    """Return the steps at which a metric has a finite value, with the values in the metric's unit."""
    points = [(step, _value(row, metric)) for step, row in numbered_rows(evidence)]
    return [(step, value) for step, value in points if value is not None]


def column(rows: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """Return the finite values of a metric in rows, in the metric's unit."""
    return [value for row in rows if (value := _value(row, metric)) is not None]


def numbered_rows(evidence: Evidence) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of metrics with their steps, counted where a row has none."""
    steps = [_value(row, "step") for row in evidence.metrics]
    return [
        (i if step is None else int(step), row)
        for i, (step, row) in enumerate(zip(steps, evidence.metrics, strict=True), 1)
    ]


def thinned(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items (at least 2), evenly spaced, the first and the last among them."""
    count = max(2, most)
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def number(value: float) -> str:
    """Return a number with three significant digits, below a million without exponent; whole ones in full."""
    if abs(value) < 1e6 and value == int(value):
        return str(int(value))
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text


def range_text(healthy: Range) -> str:
    """Return a range in words: `0 to 0.05`, `at least 0.05`, `at most 10`; empty where there is no bound."""
    low, high = healthy
    if low is None:
        return "" if high is None else f"at most {number(high)}"
    if high is None:
        return f"at least {number(low)}"
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def _value(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if _is_number(value) and abs(value) <= LARGEST else None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _signed(value: float) -> str:
    return f"+{number(value)}" if value >= 0 else number(value)


def thirds(values: Sequence[float]) -> tuple[float, float]:
    """Return the means of the first and the last third."""
    size = max(1, len(values) // 3)
    return fmean(values[:size]), fmean(values[-size:])


# --- validation ---


def _validation(evidence: Evidence, rows: int) -> str:
    points, start = evidence.validation, evidence.start_score
    best = best_point(points)
    if best is None:
        return ""
    began = (
        f"; the stage began at {number(start)}, the last number is the difference to it"
        if start is not None
        else ""
    )
    lines = [
        f"step {point.step}: {number(point.score)} ± {number(point.stderr)} (n {point.n})"
        + (f", {_signed(point.score - start)}" if start is not None else "")
        for point in thinned(points, rows)
    ]
    summary = f"{_validation_slope(points)}best {number(best.score)} at step {best.step}"
    header = f"Validation score ± standard error (n examples){began}:"
    return "\n".join([header, *lines, summary, *_greedy_gap(evidence)])


def _greedy_gap(evidence: Evidence) -> list[str]:
    """Return how far greedy validation lies above what training samples, where both are known."""
    sampled = [value for _, value in series(evidence, "train_score")]
    if evidence.validation_temperature != 0 or not sampled:
        return []
    greedy, score = evidence.validation[-1].score, thirds(sampled)[1]
    at = evidence.stage.hparams.get("temperature")
    temperature = f" at temperature {number(at)}" if at is not None else ""
    said = (
        f"Validation is greedy, training samples{temperature}: {number(greedy)} greedy against "
        f"{number(score)} sampled over the last third, a gap of {_signed(greedy - score)}"
    )
    share = evidence.stage.hparams.get("easiest", 1)  # is not in every catalogue
    easier = (
        f", of which much is due to the problems: training has the easiest {number(share)}, validation all"
    )
    return [said + (easier if share < 1 else "")]


def _validation_slope(points: Sequence[ValidationPoint]) -> str:
    if len({point.step for point in points}) < 2:
        return ""
    value, error = slope(points)
    return f"slope {_signed(value)} ± {number(error)} a step; "


# --- metrics ---


def _metrics(evidence: Evidence) -> str:
    """Return a line for each recorded metric; those of which less is to be said share some."""
    names = _recorded(evidence)
    if not names:
        return ""
    timings = [name for name in names if is_timing(name)]
    constant = [name for name in names if name not in timings and _is_constant(evidence, name)]
    twins = _twins(evidence, [name for name in names if name not in (*timings, *constant)])
    plain = [
        name for name in names if name not in (*timings, *constant, *twins) and _is_plain(evidence, name)
    ]
    shared = {*timings, *constant, *twins, *plain}
    lines = [_line(evidence, name) for name in names if name not in shared]
    if twins:
        lines.append(f"the same values: {', '.join(f'{name} as {first}' for name, first in twins.items())}")
    if constant:
        lines.append(f"constant: {', '.join(_constant(evidence, name) for name in constant)}")
    if plain:
        late = {name: thirds([value for _, value in series(evidence, name)])[1] for name in plain}
        lines.append(f"over the last third: {', '.join(f'{name} {number(late[name])}' for name in plain)}")
    if timings:
        lines.append(_timing_line(evidence, timings))
    steps = [step for step, _ in numbered_rows(evidence)]
    extent = f"steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"
    planned = f" of {evidence.steps} planned" if evidence.steps else ""
    return "\n".join([f"Metrics of {extent}{planned} ({HEADER}):", *lines])


def _recorded(evidence: Evidence) -> list[str]:
    """Return the names of the numeric metrics in the rows, those of the catalogue first and in its order."""
    recorded = dict.fromkeys(
        name for row in evidence.metrics for name, value in row.items() if value is None or _is_number(value)
    )
    first = [name for name in evidence.metric_catalogue if name in recorded]
    return [name for name in dict.fromkeys([*first, *recorded]) if name not in POSITIONS]


def _is_constant(evidence: Evidence, name: str) -> bool:
    """Whether all that is to be said of a metric is its value."""
    points, metric = series(evidence, name), evidence.metric_catalogue.get(name)
    still = len(points) > 1 and is_still([value for _, value in points])
    return still and not _gaps(evidence, points) and not (metric and _mark(evidence, points, metric))


def _twins(evidence: Evidence, names: Sequence[str]) -> dict[str, str]:
    """Return the metrics that have the values of an earlier one at every step, with that one."""
    first: dict[tuple[tuple[int, float], ...], str] = {}
    for name in names:
        first.setdefault(tuple(series(evidence, name)), name)
    found = {name: first[tuple(series(evidence, name))] for name in names}
    return {name: earlier for name, earlier in found.items() if earlier != name}


def _is_plain(evidence: Evidence, name: str) -> bool:
    """Whether a metric's level is enough: the catalogue thinks little of it, and no value is missing."""
    metric, points = evidence.metric_catalogue.get(name), series(evidence, name)
    return metric is not None and metric.is_plain and bool(points) and not _gaps(evidence, points)


def _constant(evidence: Evidence, name: str) -> str:
    metric, values = evidence.metric_catalogue.get(name), [value for _, value in series(evidence, name)]
    unit = f" {metric.unit}" if metric and metric.unit else ""
    peak = max(map(abs, values))
    small = 0 < peak < NEGLIGIBLE
    return f"{name} at most {number(peak)}{unit}" if small else f"{name} {number(values[0])}{unit}"


def is_timing(name: str) -> bool:
    """Whether a metric tells where the time went."""
    return name.startswith("seconds_") or name in ("step_seconds", TOTAL_SECONDS)


def _timing_line(evidence: Evidence, names: Sequence[str]) -> str:
    columns = {name: [value for _, value in series(evidence, name)] for name in names}
    means = [
        f"{name} {number(fmean(values))}"
        for name, values in columns.items()
        if values and name != TOTAL_SECONDS
    ]
    total = [
        f"{TOTAL_SECONDS} {number(values[-1])} in all"
        for name, values in columns.items()
        if values and name == TOTAL_SECONDS
    ]
    return f"time [s], means a step: {', '.join([*means, *total])}"


def _line(evidence: Evidence, name: str) -> str:
    metric, points = evidence.metric_catalogue.get(name), series(evidence, name)
    label = f"{name} [{metric.unit}]" if metric and metric.unit else name
    parts = [_course(points), _gaps(evidence, points)]
    if metric:
        parts += [_mark(evidence, points, metric), _moved_by_itself(evidence, metric)]
    return f"{label}: {'; '.join(filter(None, parts))}"


def _course(points: Points) -> str:
    """Return how a metric went, in as few words as it deserves."""
    values = [value for _, value in points]
    if not values:
        return "no finite value"
    if len(values) == 1:
        return f"{number(values[0])} at step {points[0][0]} alone"
    if is_still(values):
        return f"{number(values[0])} throughout"
    last = f"last {', '.join(map(number, values[-3:]))}"
    parts = [_ends(values), _slope(points), _extremes(points), _levels(points), last]
    return "; ".join(filter(None, parts))


def is_still(values: Sequence[float]) -> bool:
    """Whether three digits show no change, or nothing but rounding errors."""
    return len({number(value) for value in values}) < 2 or max(map(abs, values)) < NEGLIGIBLE


def _ends(values: Sequence[float]) -> str:
    start, end = values[0], values[-1]
    text = f"{number(start)} -> {number(end)}"
    if _is_noisy(values):
        start, end = thirds(values)
        text += f", thirds {number(start)} -> {number(end)}"
    return f"{text} ({_signed(100 * (end - start) / abs(start))}%)" if abs(start) > NEGLIGIBLE else text


def _is_noisy(values: Sequence[float]) -> bool:
    """Whether noise, judged by how much neighbours differ, is large beside the range."""
    noise = (fmean((b - a) ** 2 for a, b in pairwise(values)) / 2) ** 0.5
    return len(values) >= 2 * MIN_SEGMENT and noise > NOISY_SHARE * (max(values) - min(values))


def _slope(points: Points) -> str:
    """Return the least-squares slope a step and its standard error, judged by the scatter around the line."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    centre = fmean(steps)
    spread = sum((step - centre) ** 2 for step in steps)
    if spread == 0:
        return ""
    rate, residual = _line_fit(steps, values)
    error = (residual / spread / max(1, len(points) - 2)) ** 0.5
    return f"slope {_signed(rate)}" + (f" ± {number(error)}" if error > NEGLIGIBLE * abs(rate) else "")


def _extremes(points: Points) -> str:
    (low_step, low), (high_step, high) = (pick(points, key=lambda point: point[1]) for pick in (min, max))
    return f"min {number(low)} (step {low_step}), max {number(high)} (step {high_step})"


def _levels(points: Points) -> str:
    values = [value for _, value in points]
    changes = change_points(values)
    means = [number(fmean(values[a:b])) for a, b in pairwise([0, *changes, len(values)])]
    later = [f"{mean} from step {points[i][0]}" for i, mean in zip(changes, means[1:], strict=True)]
    return f"level {', '.join([means[0], *later])}" if later else ""


def _gaps(evidence: Evidence, points: Points) -> str:
    """Return where a metric has no finite value although its step has a row."""
    present = {step for step, _ in points}
    missing = [step for step, _ in numbered_rows(evidence) if step not in present]
    return (
        f"missing or not finite at {len(missing)} of {len(evidence.metrics)} steps, "
        f"first at step {missing[0]}"
        if missing
        else ""
    )


def _moved_by_itself(evidence: Evidence, metric: Metric) -> str:
    """Return which changes of this stage move a metric by themselves, whatever the policy does."""
    changed = [name for name in metric.depends_on if name in evidence.stage.changes]
    return (
        f"not comparable with the stage before: {', '.join(changed)} changed, on which it depends by itself"
        if changed
        else ""
    )


def healthy_range(evidence: Evidence, metric: Metric) -> Range:
    """Return the healthy range of a metric in this stage, its relative bounds as values."""
    low, high = metric.healthy
    least, most = metric.healthy_ratio
    if least is None and most is None:
        return low, high
    level = _level_at_start(evidence, metric)
    lows = [bound for bound in (low, None if least is None else least * level) if bound is not None]
    highs = [bound for bound in (high, None if most is None else most * level) if bound is not None]
    return max(lows, default=None), min(highs, default=None)


def _level_at_start(evidence: Evidence, metric: Metric) -> float:
    """Return the level of a metric at the start of the path, or of the part of it over which nothing moved
    the metric by itself.
    """
    level = thirds([value for _, value in series(evidence, metric.name)])[0]
    now = [evidence.stage.hparams.get(name) for name in metric.depends_on]
    for view in reversed(evidence.path[:-1]):
        if [view.hparams.get(name) for name in metric.depends_on] != now:
            break
        level = view.levels.get(metric.name, (level, level))[0]
    return level


def _mark(evidence: Evidence, points: Points, metric: Metric) -> str:
    """Return whether a metric lies outside its healthy range over the last third, or did so at some step."""
    if not points:
        return ""
    bounds = healthy_range(evidence, metric)
    outside = [step for step, value in points if not _is_healthy(value, bounds)]
    if not outside:
        return ""
    count, healthy = f"at {len(outside)} of {len(points)} steps", f"(healthy: {range_text(bounds)})"
    if _is_healthy(thirds([value for _, value in points])[1], bounds):
        return f"unhealthy {count}, last at step {outside[-1]} {healthy}"
    return f"UNHEALTHY {healthy} {count}"


def _is_healthy(value: float, bounds: Range) -> bool:
    low, high = bounds
    above = low is None or value >= low - BOUND_TOLERANCE * abs(low)
    return above and (high is None or value <= high + BOUND_TOLERANCE * abs(high))


# --- table ---


def _table(evidence: Evidence, rows: int) -> str:
    """Return a table over steps of the metrics that the catalogue puts there, as far as they change."""
    columns = {
        name: [value for _, value in series(evidence, name)]
        for name in listed(evidence.metric_catalogue.values(), "table")
    }
    names = [name for name, values in columns.items() if len(values) > 1 and not is_still(values)]
    twins = _twins(evidence, names)
    names = [name for name in names if name not in twins]
    if not names:
        return ""
    numbered = numbered_rows(evidence)
    shown = thinned(numbered, rows)
    lines = [_left_out([step for step, _ in numbered], [step for step, _ in shown])]
    lines = [*filter(None, lines), f"step | {' | '.join(names)}"]
    for step, row in shown:
        values = [_value(row, name) for name in names]
        cells = ["-" if value is None else number(value) for value in values]
        lines.append(" | ".join([str(step), *cells]))
    return "\n".join(lines)


def _left_out(steps: Sequence[int], shown: Sequence[int]) -> str:
    """Return which steps a table leaves out, runs of them as `2 to 4`; empty where it has all."""
    runs: list[list[int]] = [[]]
    for step in steps:
        if step in shown:
            runs.append([])
        else:
            runs[-1].append(step)
    told = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs if run]
    return f"The table leaves out the steps {', '.join(told)}." if told else ""


# --- change points ---


def change_points(values: Sequence[float], most: int = 2) -> list[int]:
    """Return the indices at which the level of a series changes, in order: each is the first of a new level.

    Binary segmentation of the mean (Scott and Knott, 1974), with the number of changes chosen by a BIC with a
    penalty that is stricter than usual. Levels are at least MIN_SEGMENT values long. A constant or noisy
    series has no change points, and neither has one that is better described by a straight line, such as a
    ramp, or by one level and a single outlier.

    Args:
        values: finite, in any unit.
        most: the most changes to find.
    """
    n = len(values)
    if n < 2 * MIN_SEGMENT:
        return []
    scaled = _scaled(values)
    squares, bounds = _squares(scaled), [0, n]
    _, ramp = _line_fit(range(n), scaled)
    spike = _squares(sorted(scaled, key=abs)[:-1])(0, n - 1)
    one_level = ((squares(0, n), 0.0), (ramp, LINE_PENALTY), (spike, CHANGE_PENALTY))
    fits = [(_criterion(residual, n, penalty), bounds) for residual, penalty in one_level]
    for count in range(1, most + 1):
        bounds = _split(bounds, squares)
        residual = sum(squares(a, b) for a, b in pairwise(bounds))
        fits.append((_criterion(residual, n, CHANGE_PENALTY * count), bounds))
    return min(fits, key=lambda fit: fit[0])[1][1:-1]


def _split(bounds: list[int], squares: Squares) -> list[int]:
    """Return the bounds and the one that lowers the sum of squares most, where there is room for one."""
    cuts = [(a, i, b) for a, b in pairwise(bounds) for i in range(a + MIN_SEGMENT, b - MIN_SEGMENT + 1)]
    if not cuts:
        return bounds
    _, best, _ = min(
        cuts, key=lambda cut: squares(cut[0], cut[1]) + squares(cut[1], cut[2]) - squares(cut[0], cut[2])
    )
    return sorted([*bounds, best])


def _scaled(values: Sequence[float]) -> list[float]:
    """Return a series with range 1 and mean 0; zeros for a constant one."""
    peak = max(map(abs, values)) or 1.0
    shares = [value / peak for value in values]  # first, as the range itself may be no float
    centre, extent = fmean(shares), max(shares) - min(shares)
    return [(share - centre) / (extent or 1.0) for share in shares]


def _squares(values: Sequence[float]) -> Squares:
    """Return a function of (a, b): the sum of squared differences of values[a:b] to their mean."""
    sums, squares = [0.0], [0.0]
    for value in values:
        sums.append(sums[-1] + value)
        squares.append(squares[-1] + value * value)
    return lambda a, b: squares[b] - squares[a] - (sums[b] - sums[a]) ** 2 / (b - a)


def _line_fit(steps: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the least-squares line and the sum of squared differences to it."""
    line = linear_regression(steps, values)
    return line.slope, sum(
        (value - line.intercept - line.slope * step) ** 2 for step, value in zip(steps, values, strict=True)
    )


def _criterion(residual: float, n: int, penalty: float) -> float:
    """Return n log(residual / n) + penalty log(n): the lower, the better the model."""
    return n * math.log(max(residual / n, RESIDUAL_FLOOR)) + penalty * math.log(n)
