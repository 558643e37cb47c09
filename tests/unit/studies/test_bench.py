"""The scores of the agent bench, by values computed by hand, and files of decision points."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest

from llmzero.core.errors import DamagedFileError, UserError
from llmzero.runners.tables.format import Path_, Table, read_table
from llmzero.studies.bench.outcomes import Alternatives, Outcomes, nearest
from llmzero.studies.bench.points import DecisionPoint, files_of, read_points
from llmzero.studies.bench.summary import agent_scores, mean_of, ratio_of, summary_of
from tests.integration.damages import WHOLE, field_damages
from tests.made_tables import made_table

RECORD: dict[str, Any] = {
    "table": "made-0",
    "source": "by hand",
    "why": "It ended last.",
    "budget": 12,
    "stages": [[0], [5]],
    "parent": [0],
    "others": [[], [5]],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A tree of six configurations; a stage gains 0.01 more for each number, a test score is 0.02 less."""
    return read_table(made_table(tmp_path_factory.mktemp("tables")))


def point_of(
    table: Table, stages: list[Path_], parent: Path_, others: tuple[Path_, ...] = ()
) -> DecisionPoint:
    return DecisionPoint("made-1", table, "by hand", 12, tuple(stages), parent, others, "")


def alternatives(table: Table, *, stages: list[Path_], parent: Path_) -> Alternatives:
    return Alternatives(point_of(table, stages, parent), Outcomes(table))


# --- regret ---


def test_regret_is_what_the_best_recorded_alternative_has_more(table: Table) -> None:
    found = alternatives(table, stages=[(0,), (5,)], parent=(0,))
    assert astuple(found.regret((0, 2))) == pytest.approx((0.03, 0.03, 0.03, 0.03))  # 0.12 against 0.09
    assert astuple(found.regret((0, 5))) == pytest.approx((0, 0, 0, 0))


def test_stages_that_the_search_has_are_no_alternatives(table: Table) -> None:
    found = alternatives(table, stages=[(0,), (0, 5)], parent=(0,))
    assert found.regret((0, 2)).val == pytest.approx(0.02)  # against the fifth
    assert found.regret((0, 5)).val == pytest.approx(0), (
        "one that is proposed all the same is its own measure"
    )
    assert found.expected().val == pytest.approx((0.04 + 0.03 + 0.02 + 0.01 + 0) / 5)


def test_a_random_choice_has_the_mean_regret_of_all_alternatives(table: Table) -> None:
    found = alternatives(table, stages=[(0,), (5,)], parent=(0,))
    assert astuple(found.expected()) == pytest.approx((0.025, 0.025, 0.025, 0.025))


def test_nothing_follows_the_last_level(table: Table) -> None:
    found = alternatives(table, stages=[(0,), (0, 1)], parent=(0, 1))
    assert astuple(found.regret((0, 1, 3))) == pytest.approx((0.02, 0.02, None, None))
    assert found.expected().path is None


def test_a_child_of_another_stage_is_measured_by_the_best_of_both(table: Table) -> None:
    found = alternatives(table, stages=[(0,), (5,)], parent=(0,))
    # (3,) scores 0.09 and 0.21 at its path's end; (0, 5) 0.12 and 0.18, (4,) 0.10 and 0.22.
    regret = found.regret((3,))
    assert (regret.val, regret.path) == pytest.approx((0.03, 0.01))


def test_validation_chooses_and_test_tells(table: Table) -> None:
    def lucky(path: Path_, test: float) -> Table:
        stage = table.stages[path]
        points = tuple(replace(point, test=test) for point in stage.points)
        return replace(table, stages={**table.stages, path: replace(stage, points=points)})

    unlucky = alternatives(lucky((0, 1, 5), 0.01), stages=[(0,), (0, 1)], parent=(0, 1))
    assert unlucky.regret((0, 1, 4)).test == pytest.approx(0.01 - 0.11), "the best by validation is worse"
    assert not unlucky.matters()
    plain = alternatives(table, stages=[(0,), (0, 1)], parent=(0, 1))
    assert not plain.matters()  # 0.03 on test beyond the mean of the others, with an error of 0.022
    better = alternatives(lucky((0, 1, 5), 0.14), stages=[(0,), (0, 1)], parent=(0, 1))
    assert better.matters()  # 0.05
    deeper = alternatives(lucky((0, 5, 5), 0.2), stages=[(0,)], parent=(0,))
    assert deeper.matters(), "what follows counts: 0.2 against a mean of 0.13"


def test_a_failed_stage_scores_nothing(table: Table) -> None:
    failed = replace(table.stages[(2,)], points=(), error="it diverged")
    found = alternatives(replace(table, stages={**table.stages, (2,): failed}), stages=[(0,)], parent=())
    assert found.regret((2,)).val == pytest.approx(0.11)


@pytest.mark.parametrize(
    ("wanted", "number", "exact"),
    [
        ({"max_completion_length": 16, "learning_rate": 1e-3}, 3, True),
        # 15 is 1/24 of the span from 16; 3e-4 is 0.48 of the span of a logarithmic scale from 1e-4.
        ({"max_completion_length": 15, "learning_rate": 3e-4}, 2, False),
        ({"max_completion_length": 15, "learning_rate": 3.3e-4}, 3, False),
        ({"max_completion_length": 1000, "learning_rate": 1e-4}, 4, False),
        ({"max_completion_length": 8, "learning_rate": "fast"}, 0, False),
    ],
)
def test_the_nearest_configuration_stands_for_one_that_was_not_recorded(
    table: Table, wanted: dict[str, Any], number: int, exact: bool
) -> None:
    assert nearest(table, wanted) == (number, exact)


# --- sums ---


def test_means_and_ratios_have_standard_errors() -> None:
    assert mean_of([0.0, 0.1]) == pytest.approx({"mean": 0.05, "stderr": 0.05, "n": 2})
    assert mean_of([0.3]) == {"mean": 0.3, "stderr": None, "n": 1}
    assert mean_of([]) == {"mean": None, "stderr": None, "n": 0}
    # Residuals from the ratio of 0.5 are 0.5 and -0.5: sqrt(0.5 / 1 * 2) / 2.
    assert ratio_of([1.0, 0.0], [1.0, 1.0]) == pytest.approx({"mean": 0.5, "stderr": 0.5, "n": 2})
    assert ratio_of([0.0], [0.0])["mean"] is None


def row(regret: float, chance: float, **more: Any) -> dict[str, Any]:
    kinds = ("val", "test", "path", "path_test")
    return {
        "agent": "a",
        "task": "made",
        "answered": True,
        "regret": dict.fromkeys(kinds, regret),
        "chance": dict.fromkeys(kinds, chance),
        **more,
    }


def said(**expected: Any) -> dict[str, Any]:
    whole = {
        "score": 0.5,
        "improved": True,
        "was_best": False,
        "expected_score": 0.4,
        "low": 0.3,
        "high": 0.6,
        "probability": 0.8,
        "probability_best": 0.1,
        "metrics": [],
        **expected,
    }
    return {
        "validity": "first",
        "action": "change",
        "elsewhere": False,
        "exact": True,
        "calls": 2,
        "tokens": 100,
        "dollars": 0.5,
        "seconds": 6.0,
        "expected": whole,
    }


def test_an_agents_scores_are_those_of_its_answers() -> None:
    hits = [["entropy", "down", True], ["kl", "up", False], ["kl", "up", True]]
    rows = [
        row(0.02, 0.04, **said(metrics=hits)),
        row(0.04, 0.06, **said(probability=0.5, improved=False, low=0.6, high=0.7, probability_best=None)),
        row(0.9, 0.1, **{**said(), "answered": False}),
    ]
    scores = agent_scores(rows)
    assert (scores["points"], scores["unanswered"]) == (3, 1)
    assert scores["regret_val"]["mean"] == pytest.approx(0.03)
    assert scores["of_chance_val"]["mean"] == pytest.approx(0.6)
    assert scores["brier"]["mean"] == pytest.approx((0.2**2 + 0.5**2) / 2)
    assert scores["brier_best"] == pytest.approx({"mean": 0.01, "stderr": None, "n": 1})
    assert (scores["coverage"]["mean"], scores["width"]["mean"]) == pytest.approx((0.5, 0.2))
    assert (scores["score_error"]["mean"], scores["score_bias"]["mean"]) == pytest.approx((0.1, -0.1))
    assert (scores["directions"]["mean"], scores["directions"]["n"]) == (pytest.approx(2 / 3), 3)
    assert (scores["calls"], scores["tokens"], scores["dollars"]) == (4, 200, 1.0)
    assert scores["seconds_a_call"] == 3.0
    assert scores["validity"] == {"first": 2, "repaired": 0, "part": 0, "never": 0}


def test_scores_are_summed_by_task_and_over_all_of_them() -> None:
    summary = summary_of([row(0.1, 0.2), {**row(0.3, 0.2), "task": "other"}])
    means = {task: agents["a"]["regret_val"]["mean"] for task, agents in summary.items()}
    assert means == pytest.approx({"all": 0.2, "made": 0.1, "other": 0.3})


# --- files of points ---


def written(folder: Path, *records: dict[str, Any]) -> Path:
    file = folder / "some.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_points_are_read_with_the_ids_of_their_search(table: Table, tmp_path: Path) -> None:
    file = written(tmp_path, RECORD, {**RECORD, "parent": [], "others": []})
    first, second = read_points(file, table.file.parent)
    assert (first.name, second.name) == ("some-1", "some-2")
    assert [first.node_id(path) for path in ((), *first.stages)] == ["0000", "0001", "0002"]
    assert first.untried(()) == [(1,), (2,), (3,), (4,)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"table": "../made-0"}, "table='../made-0': must be a name"),
        ({"table": "/etc/passwd"}, "must be a name"),
        ({"table": 5}, "table=5: must be of type str"),
        ({"budget": 2}, "budget=2: must be more than 2 stages"),
        ({"budget": 10**9}, "1000 at most"),
        ({"why": "x" * 2000}, "why: has more than 1000 characters"),
        ({"stages": [[0], [9]]}, r"stages: [9]: is no stage of made-0"),
        ({"stages": [[0], [0]]}, "stands there twice"),
        ({"stages": [[0], [1, 1]]}, "before its parent"),
        ({"stages": [["0"]]}, "stages[0][0]=0: must be of type int"),
        ({"parent": [3]}, "parent: [3]: is no stage of the search"),
        ({"stages": [[0], [0, 0], [0, 0, 0]], "parent": [0, 0, 0]}, "can be continued"),
        ({"stages": [[0], *([0, n] for n in range(6))]}, "parent: [0]: has no child left"),
        ({"others": [[0]]}, "others: must be different stages, and not the parent"),
        ({"others": [[4]]}, "others: [4]: is no stage"),
    ],
)
def test_a_point_that_cannot_be_is_refused(
    table: Table, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, RECORD, {**RECORD, **change})
    with pytest.raises(DamagedFileError) as refused:
        read_points(file, table.file.parent)
    assert str(refused.value).startswith(f"{file}:2:") and said in str(refused.value)
    assert "make_points" in str(refused.value)


@pytest.mark.parametrize("text", ["", "5\n", "{\n", "\0" * 100, "[" * 10000 + "\n", "null\n"])
def test_a_file_that_holds_no_points_is_refused(table: Table, text: str, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text(text)
    with pytest.raises(DamagedFileError, match=r"some\.jsonl"):
        read_points(file, table.file.parent)


def test_every_damage_of_a_file_of_points_is_told_or_does_no_harm(table: Table, tmp_path: Path) -> None:
    whole = written(tmp_path, {**RECORD, "stages": [[0], [5], [5, 1]]})
    file = tmp_path / "damaged.jsonl"
    for label, damage in itertools.chain(WHOLE.items(), field_damages(whole)):
        shutil.copy(whole, file)
        damage(file)
        found, said = 0, ""
        try:
            found = len(read_points(file, table.file.parent))
        except UserError as error:
            said = str(error)
        assert found == 1 or str(file) in said, label
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink()


def test_a_table_that_is_missing_is_named_with_the_remedy(table: Table, tmp_path: Path) -> None:
    file = written(tmp_path, {**RECORD, "table": "other-3"})
    with pytest.raises(UserError, match=r"some\.jsonl:1: table=other-3: there is no .*make_table"):
        read_points(file, table.file.parent)


@pytest.mark.parametrize("name", ["no-such", "../points/metro", "no/such.jsonl"])
def test_points_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"points={name}: there is no such file; known: all, "):
        files_of([name])
