"""Evidence as a prompt: Jinja templates that users can edit, filled with texts that keep a budget of tokens.

Where everything does not fit, the oldest is summarised first: stages in full become a line each, lines become
a count; once few lines are left, there are fewer and shorter rollouts and tables with fewer rows, before the
last lines go.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from traceback import extract_tb
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmzero.agents.standing import cost_text, standing_text
from llmzero.agents.text import clean, estimated_tokens, fenced, one_line, value_text
from llmzero.core.balance import HALF_RIGHT, balanced
from llmzero.core.errors import UserError
from llmzero.core.hparams import HParams, Parameter
from llmzero.core.length import flops_text
from llmzero.core.metrics import Metric
from llmzero.evidence.dynamics import NEGLIGIBLE, column, dynamics_text, is_timing, number, thinned
from llmzero.evidence.evidence import Evidence, Prediction, StageView
from llmzero.evidence.plots import draw_plots
from llmzero.evidence.proposal import PATHOLOGIES

PROMPTS = Path(__file__).resolve().parents[3] / "conf" / "agent" / "prompts"
TOKENS_AN_IMAGE = 1100  # of 1024 x 768 pixels, by the arithmetic of today's endpoints
FEW_LINES = 8  # stages in a line each, of every kind, before rollouts and tables are shortened
POINTS_SHOWN = 8  # validations of a stage that was tried from the parent
WORDS_LIMIT = 400  # characters of a stage's rationale or error


@dataclass(frozen=True)
class Portion:
    """How much a prompt shows.

    Attributes:
        full: the newest stages that are shown with all their words.
        listed: the newest that have a line, those in full among them.
        rollouts: number of sampled rollouts, each text of up to `characters`.
        rows: of tables over steps.
    """

    full: int
    listed: int
    rollouts: int
    characters: int
    rows: int


@dataclass(frozen=True)
class Shown:
    """What an agent gets to see; each False is an ablation.

    Attributes:
        images: training dynamics as plots, for models that see.
        descriptions: what metrics and hyperparameters mean.
        history: what was tried elsewhere in the search, and how expectations turned out.
        metrics: training dynamics, scores and rollouts.
    """

    images: bool = False
    descriptions: bool = True
    history: bool = True
    metrics: bool = True

    @property
    def sections(self) -> set[str]:
        """The sections of evidence that the agent is shown. One that is not named here, no agent sees."""
        sections = {"stage", "setting", "budget", "catalogue", "path", "standing"}
        if self.history:
            sections |= {"tried"}
        if self.metrics:
            sections |= {"outcomes", "dynamics", "rollouts"}
        if self.history and self.metrics:
            sections |= {"incumbent", "predictions"}
        return sections


class Folders(FileSystemLoader):
    """Templates of folders, and of nowhere else: links that lead out of them are not followed."""

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        """Return a template's text, its path, and whether it is still the same."""
        text, path, same = super().get_source(environment, template)
        if not any(Path(path).resolve().is_relative_to(Path(each).resolve()) for each in self.searchpath):
            raise TemplateNotFound(template, f"{path} is a link that leads out of its folder")
        return text, path, same


class Prompts:
    """The templates, each looked for in the user's folder first.

    Args:
        folder: the user's; None is none.
    """

    def __init__(self, folder: str | None) -> None:
        if folder is not None and not Path(folder).is_dir():
            raise UserError(f"llm.prompts={folder}: no such folder; copy {PROMPTS} and edit the copy")
        folders: list[str | Path] = [*([folder] if folder else []), PROMPTS]
        self._environment = ImmutableSandboxedEnvironment(
            loader=Folders(folders), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )

    def render(self, name: str, **values: Any) -> str:
        """Return a template's text.

        Raises:
            UserError: the template is broken, uses a name that does not exist, or does what it may not.
        """
        try:
            return self._environment.get_template(f"{name}.jinja").render(**values).strip()
        except Exception as error:  # any expression of a template may fail, in its own way
            inside = [frame for frame in extract_tb(error.__traceback__) if frame.filename.endswith(".jinja")]
            file = getattr(error, "filename", None) or (inside[-1].filename if inside else f"{name}.jinja")
            line = getattr(error, "lineno", None) or (inside[-1].lineno if inside else "?")
            raise UserError(f"prompt template {file}, line {line}: {error}") from error


def conversation(
    prompts: Prompts, name: str, evidence: Evidence, shown: Shown, budget: int
) -> list[dict[str, Any]]:
    """Return the messages `<name>_system` and `<name>` with the evidence, in about `budget` tokens at most.

    Raises:
        UserError: the budget is too small even for the least that can be shown.
    """
    evidence = evidence.only(shown.sections)
    plots = draw_plots(evidence) if shown.images else []
    images = [_image(plot.png) for plot in plots]
    captions = "\n".join(f"{i}. {plot.caption}" for i, plot in enumerate(plots, 1))
    for portion in portions(len(evidence.history) + 1):  # with the base model
        values = {**texts(evidence, shown, portion), "images": len(images), "captions": captions}
        system, user = prompts.render(f"{name}_system", **values), prompts.render(name, **values)
        needed = estimated_tokens(system + user) + TOKENS_AN_IMAGE * len(images)
        if needed <= budget:
            content = [{"type": "text", "text": user}, *images] if images else user
            return [{"role": "system", "content": system}, {"role": "user", "content": content}]
    raise UserError(
        f"max_prompt_tokens={budget}: the shortest prompt takes about {needed} tokens; raise it, or shorten "
        "the templates and catalogues"
    )


def portions(stages: int) -> Iterator[Portion]:
    """Yield ever smaller portions for a search of so many stages."""
    most = Portion(full=min(stages, 24), listed=min(stages, 96), rollouts=6, characters=1500, rows=12)
    yield most
    for full in _halves(most.full):
        yield replace(most, full=full)
    lines = [listed for listed in _halves(most.listed) if listed >= FEW_LINES]
    for listed in lines:
        yield replace(most, full=0, listed=listed)
    fewest = lines[-1] if lines else most.listed
    for rollouts, characters, rows in ((4, 800, 10), (3, 500, 8), (2, 300, 6), (1, 200, 4), (0, 0, 3)):
        yield Portion(0, fewest, rollouts, characters, rows)
    for listed in _halves(fewest):
        yield Portion(0, listed, 0, 0, 3)


def texts(evidence: Evidence, shown: Shown, portion: Portion) -> dict[str, Any]:
    """Return what the templates are filled with, by name."""
    apart = {view.node_id for view in (*evidence.path, *evidence.children)}
    best = [view for view in evidence.best_path if view.node_id not in apart]
    elsewhere = [
        view for view in evidence.history if view.node_id not in apart | {view.node_id for view in best}
    ]
    hparams = {
        view.node_id: view.hparams for view in (*evidence.path, *evidence.best_path, *evidence.history)
    }
    return {
        "evidence": evidence,
        "shown": shown,
        "setting": "\n".join(f"- {name}: {value}" for name, value in evidence.setting.items()),
        "pathologies": PATHOLOGIES,
        "standing": standing_text(evidence),
        "path": stage_list(evidence.path, hparams, portion),
        "siblings": stage_list(
            evidence.children, hparams, portion, partial(_course, evidence.metric_catalogue)
        ),
        "best_path": stage_list(best, hparams, portion, partial(_course, evidence.metric_catalogue)),
        "elsewhere": stage_list(elsewhere, hparams, portion, lambda view: ""),
        "dynamics": dynamics_text(evidence, rows=portion.rows) if shown.metrics else "",
        "rollouts": _rollouts(evidence, portion),
        "predictions": predictions_text(evidence.predictions),
        "budget": _budget(evidence),
        "cost": cost_text(evidence),
        "metrics": _metrics(evidence) if shown.descriptions else "",
        "hparams": _hparams(evidence, shown.descriptions),
        "free": bool(evidence.standing and evidence.standing.others),
        "sized": evidence.lengths[0] < evidence.lengths[1],
        "resumable": _resumable(evidence),
    }


# --- stages ---


def stage_list(
    views: Sequence[StageView],
    hparams: Mapping[str, HParams],
    portion: Portion,
    told: Callable[[StageView], str] | None = None,
) -> str:
    """Return stages: the newest in full, older ones in a line, the oldest as a count.

    Args:
        views: the stages.
        hparams: configurations by the id of the stage.
        portion: how many are shown.
        told: what is told of a stage in full beside its line; None is its words.
    """
    told = told or _words
    counted = views[: max(0, len(views) - portion.listed)]
    lines = [_counted(counted)] if counted else []
    for i, view in enumerate(views[len(counted) :], len(counted)):
        brief = _line(view, hparams.get(view.parent_id or ""))
        lines.append(f"- {brief}" + (told(view) if i >= len(views) - portion.full else ""))
    return "\n".join(lines)


def _line(view: StageView, before: HParams | None) -> str:
    """Return a stage in one line: what it is, what it changed, how it went."""
    if view.parent_id is None:
        return f"{view.node_id}: the base model" + (
            f", score {view.score:.3f}" if view.score is not None else ""
        )
    values = {name: value_text(value) for name, value in (before or {}).items()}
    changes = [
        f"{name} {f'{values[name]} ->' if name in values else '='} {value_text(new)}"
        for name, new in view.changes.items()
    ]
    if view.state == "withdrawn":
        return f"{view.node_id} from {view.parent_id}: was withdrawn, there is no such stage"
    if view.state == "proposing":
        return (
            f"{view.node_id} from {view.parent_id}: is being proposed at this moment; its changes are unknown"
        )
    score = f"score {view.score:.3f}" if view.score is not None else "no score"
    gain = f" ({view.gain:+.3f} against its parent)" if view.gain is not None else ""
    cause = _cause(view.cause) if view.cause else ""
    cost = f", {_cost(view)}" if view.gpu_seconds or view.flops else ""
    diagnosis = (
        f"; the diagnosis of {view.parent_id} was {', '.join(view.diagnosis)}" if view.diagnosis else ""
    )
    resumed = f" at {view.resume}" if view.resume != "best" else ""
    resumed += f", {view.stretch:g} x the usual length" if view.stretch != 1 else ""
    outcome = f"{view.state}{cause}, {score}{gain}{cost}{diagnosis}"
    return f"{view.node_id} from {view.parent_id}{resumed}: {', '.join(changes) or 'no change'} -> {outcome}"


def _cost(view: StageView) -> str:
    """Return what a stage has cost, in seconds and compute, and each of its steps."""
    a_step = f", {flops_text(view.flops / view.steps)} a step" if view.flops and view.steps else ""
    seconds = f", {number(view.gpu_seconds / view.steps)} s a step" if view.steps else ""
    return f"{view.gpu_seconds:.0f} device seconds, {flops_text(view.flops)}{a_step}{seconds}"


def _course(metrics: Mapping[str, Metric], view: StageView) -> str:
    """Return how a stage went: its validations, levels of its metrics, what ended it, and its words."""
    points = [
        f"step {point.step} {number(point.score)} ± {number(point.stderr)}"
        for point in thinned(view.points, POINTS_SHOWN)
    ]
    levels = [_level(metrics[name], ends, view.changes) for name, ends in view.levels.items()]
    parts = [
        f"validation: {', '.join(points)}" if points else "",
        f"by subtask: {', '.join(_subtasks(view.subtasks))}" if view.subtasks else "",
        f"first and last third: {', '.join(levels)}" if levels else "",
        _stopped(view.stop) if view.stop else "",
    ]
    return "".join(f"\n  {part}" for part in parts if part) + _words(view)


def _level(metric: Metric, ends: tuple[float, float], changes: HParams) -> str:
    """Return a metric's levels over the first and the last third, and which changes alone moved it."""
    first, last = (number(0 if abs(value) < NEGLIGIBLE else value) for value in ends)
    moved = [name for name in metric.depends_on if name in changes]
    by = f" (depends on {', '.join(moved)} by itself)" if moved else ""
    return f"{metric.name} {first if first == last else f'{first} -> {last}'}{by}"


def _stopped(stop: Mapping[str, Any]) -> str:
    """Return when and why a stage was stopped, with the numbers of who decided so."""
    details = stop.get("details")
    facts = details if isinstance(details, Mapping) else {}
    said = [f"{one_line(name, 80)} {number(value)}" for name in facts for value in column([facts], name)]
    verb = "stopped" if stop.get("event") == "stop_requested" else "would have been stopped, and ran on,"
    return f"{verb} at step {stop.get('step')}: {one_line(stop.get('reason'), WORDS_LIMIT)!r}" + (
        f" ({', '.join(said)})" if said else ""
    )


def _words(view: StageView) -> str:
    """Return the agent's reasons and the stage's error, quoted: neither is to be trusted."""
    reasons = (
        f"\n  {view.agent or 'its agent'} wrote: {one_line(view.rationale, WORDS_LIMIT)!r}"
        if view.rationale and view.parent_id is not None
        else ""
    )
    error = f"\n  error: {one_line(view.error, WORDS_LIMIT)!r}" if view.error else ""
    return reasons + error


def _counted(views: Sequence[StageView]) -> str:
    gains = [view.gain for view in views if view.gain is not None]
    failed = sum(view.state == "failed" for view in views)
    outcome = (
        f": gains from {min(gains):+.3f} to {max(gains):+.3f}, {fmean(gains):+.3f} on average"
        if gains
        else ""
    )
    return f"- {len(views)} older stage{'s' if len(views) > 1 else ''}{outcome}" + (
        f"; {failed} failed" if failed else ""
    )


def _cause(cause: Mapping[str, Any]) -> str:
    size = (
        f", {cause['requested_bytes'] / 2**30:.2f} GiB more were asked for"
        if cause.get("requested_bytes")
        else ""
    )
    drivers = ", ".join(f"{name}={value_text(value)}" for name, value in (cause.get("hparams") or {}).items())
    kind, phase = cause["kind"].replace("_", " "), cause.get("phase", "training")
    return f" ({kind} during {phase}{size}{'; driven by ' + drivers if drivers else ''})"


# --- the rest ---


def _resumable(evidence: Evidence) -> str:
    """Return from which checkpoints the stage may be continued, with the scores that they validated at."""
    points = {point.step: f", {point.score:.3f} ± {point.stderr:.3f}" for point in evidence.validation}
    best, last = evidence.best_step, max(evidence.checkpoints, default=None)
    between = [str(step) for step in evidence.checkpoints if step not in (best, last)]
    named = [
        f"{name}{f' (step {step}{points[step]})' if step in points else ''}"
        for name, step in (("`best` by validation", best), ("`last`", last))
    ]
    return ", ".join(named) + (f", or one of the steps {', '.join(between)}" if between else "")


def predictions_text(predictions: Sequence[Prediction]) -> str:
    """Return expectations of earlier stages beside outcomes, and how well they are calibrated."""
    if not predictions:
        return ""
    parent = [(p.probability, p.improved) for p in predictions if p.probability is not None]
    best = [
        (p.probability_best, p.was_best)
        for p in predictions
        if p.probability_best is not None and p.was_best is not None
    ]
    hits = [hit for p in predictions for _, _, hit in p.metrics]
    summary = [
        _score_errors(predictions),
        _coverage(predictions),
        _calibration("passing the parent's best score", parent),
        _calibration("passing the search's best score", best),
        f"{sum(hits)} of {len(hits)} metrics moved as expected" if hits else "",
    ]
    return "\n".join(
        [
            *map(_prediction, predictions),
            "In all, " + "; ".join(filter(None, summary)) + "." if any(summary) else "",
        ]
    ).strip()


def _score_errors(predictions: Sequence[Prediction]) -> str:
    errors = [
        p.expected_score - p.score
        for p in predictions
        if p.expected_score is not None and p.score is not None
    ]
    if not errors:
        return ""
    off, absolute = _off(fmean(errors), ".3f"), fmean(map(abs, errors))
    return f"scores were expected {off} on average (mean absolute error {absolute:.3f})"


def _off(error: float, form: str) -> str:
    """Return by how much what was expected lies above what came, in words."""
    size = format(abs(error), form)
    if not float(size.rstrip("%")):
        return "neither too high nor too low"
    return f"{size} too {'high' if error > 0 else 'low'}"


def _coverage(predictions: Sequence[Prediction]) -> str:
    """Return how many 80 % intervals held the score, and what that says of them."""
    held = [
        p.low <= p.score <= p.high
        for p in predictions
        if p.score is not None and p.low is not None and p.high is not None
    ]
    if not held:
        return ""
    share = sum(held) / len(held)
    advice = ": they are too narrow" if share < 0.65 else ": they are too wide" if share > 0.95 else ""
    few = advice if len(held) >= 5 else ""
    return f"{sum(held)} of {len(held)} of the 80 % intervals held the score{few}"


def _calibration(event: str, said: Sequence[tuple[float, bool]]) -> str:
    """Return how well probabilities of an event agree with how often it came."""
    if not said:
        return ""
    brier = fmean((probability - came) ** 2 for probability, came in said)
    mean, share = fmean(probability for probability, _ in said), fmean(came for _, came in said)
    return (
        f"{event} was held {mean:.0%} likely on average and came in {share:.0%} of {len(said)}, so "
        f"probabilities were {_off(mean - share, '.0%')}, with a Brier score of {brier:.2f} (0 is perfect, "
        "0.25 a coin)"
    )


def _prediction(p: Prediction) -> str:
    expected = f"{p.expected_score:.3f}" if p.expected_score is not None else "nothing said"
    interval = f" ({p.low:.3f} to {p.high:.3f})" if p.low is not None and p.high is not None else ""
    came = f"{p.score:.3f}" if p.score is not None else "no score"
    chances = [
        f", {event} held {probability:.0%} likely and it {'came' if outcome else 'did not come'}"
        for event, probability, outcome in (
            ("improvement", p.probability, p.improved),
            ("a new best score", p.probability_best, p.was_best),
        )
        if probability is not None and outcome is not None
    ]
    moved = ", ".join(f"{name} {way}: {'yes' if hit else 'no'}" for name, way, hit in p.metrics)
    return (
        f"- {p.node_id}: score expected {expected}{interval}, came {came}{''.join(chances)}"
        f"{'; ' + moved if moved else ''}"
    )


def _rollouts(evidence: Evidence, portion: Portion) -> str:
    """Return scores by subtask, and right and wrong rollouts of the latest validations, fenced as the
    untrusted texts that they are.
    """
    told = []
    if evidence.subtasks:
        figures = ", ".join(_subtasks(evidence.subtasks))
        order = "" if by_difficulty(evidence.subtasks) else ", the lowest first"
        told.append(f"Score by subtask at the latest validation{order}: {figures}.")
    latest = sorted(evidence.rollouts, key=lambda row: -(row.get("step") or 0))
    chosen = balanced(latest, [_is_right(row) for row in latest], portion.rollouts)
    rows = sorted(chosen, key=lambda row: row.get("step") or 0)
    if rows:
        right = sum(map(_is_right, rows))
        told.append(f"{right} right and {len(rows) - right} wrong ones, chosen for balance as far as stored:")
    return "\n\n".join([*told, *(fenced(_rollout(row, portion.characters), "rollout") for row in rows)])


def _subtasks(subtasks: Mapping[str, Sequence[float]]) -> list[str]:
    """Return scores by subtask, the lowest first, or by difficulty, the easiest first."""
    graded = by_difficulty(subtasks)
    found = sorted(subtasks.items(), key=lambda entry: graded.get(entry[0], entry[1][0]))
    return [f"{one_line(name, 80)} {score:.3f} ± {error:.3f} (n {n:g})" for name, (score, error, n) in found]


def by_difficulty(names: Iterable[str]) -> dict[str, float]:
    """Return how difficult subtasks are, where all of their names say so; else nothing."""
    found = {name: re.match(r"difficulty (-?[\d.e+]+)", name) for name in names}
    return {name: float(match[1]) for name, match in found.items() if match} if all(found.values()) else {}


def _is_right(row: Mapping[str, Any]) -> bool:
    """Whether a rollout counts as right, by its score, or its reward where that was not stored."""
    value = row.get("score", row.get("reward"))
    return isinstance(value, int | float) and value >= HALF_RIGHT


def _rollout(row: Mapping[str, Any], characters: int) -> str:
    reward = row.get("reward")
    amount = value_text(reward) if isinstance(reward, int | float) else one_line(reward, 80)
    prompt, completion = (clean(row.get(name) or "", characters) for name in ("prompt", "completion"))
    subtask = f", {one_line(row['subtask'], 80)}" if row.get("subtask") else ""
    answer = f"\nright answer: {clean(row['answer'], characters)}" if row.get("answer") else ""
    return (
        f"step {row.get('step')}, reward {amount}{subtask}\nprompt: {prompt}\n"
        f"completion: {completion}{answer}"
    )


def _budget(evidence: Evidence) -> str:
    left = [f"- {name.replace('_', ' ')} left: {value:g}" for name, value in evidence.budget_left.items()]
    seconds = [view.gpu_seconds for view in evidence.history if view.gpu_seconds]
    flops = [view.flops for view in evidence.history if view.flops]
    means = [f"{fmean(seconds):.0f} device seconds"] if seconds else []
    means += [flops_text(fmean(flops))] if flops else []
    cost = [f"- a stage took {' and '.join(means)} on average"] if means else []
    return "\n".join([*cost, *left]) or "- no limit is set"


def _metrics(evidence: Evidence) -> str:
    recorded = {name for row in evidence.metrics for name in row} or set(evidence.metric_catalogue)
    shown = [
        metric
        for name, metric in evidence.metric_catalogue.items()
        if name in recorded and not metric.is_plain and not is_timing(name)
    ]
    lines = []
    for m in shown:
        movers = [name for name in m.depends_on if name in evidence.catalogue]
        by = f" Depends by itself on {', '.join(movers)}." if movers else ""
        unit = f" [{m.unit}]" if m.unit else ""
        lines.append(f"- {m.name}{unit}: {m.meaning} {m.unhealthy}".rstrip() + by)
    return "\n".join(lines)


def _hparams(evidence: Evidence, descriptions: bool) -> str:
    """Return the tunables by group: present value, allowed values, the practitioner's value, and meaning."""
    groups: dict[str, list[Parameter]] = {}
    for parameter in evidence.catalogue.values():
        groups.setdefault(parameter.group, []).append(parameter)
    return "\n\n".join(
        f"## {name}\n" + "\n".join(_hparam(p, evidence, descriptions) for p in group)
        for name, group in groups.items()
    )


def _hparam(parameter: Parameter, evidence: Evidence, descriptions: bool) -> str:
    now = value_text(evidence.stage.hparams[parameter.name])
    unit = f" {parameter.unit}" if parameter.unit else ""
    text = f"- {parameter.name}: now {now}{unit}; {parameter.allowed}; usual {value_text(parameter.default)}."
    return f"{text} {parameter.description}" if descriptions and parameter.description else text


def _halves(number: int) -> Iterator[int]:
    while number:
        number //= 2
        yield number


def _image(png: bytes) -> dict[str, Any]:
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"},
    }
