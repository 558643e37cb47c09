"""Tables of real trees: their format, the walk of stages through them, and searches on them."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tree_growing import Plan
from llmzero.cli import composed
from llmzero.config import ReplayConfig
from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.files import read_json
from llmzero.core.length import Length
from llmzero.core.stage import StageDir, StageResult, StageSpec
from llmzero.runners.table import TableRunner, TableRunnerSettings
from llmzero.runners.tables import format as tables
from llmzero.runners.tables.format import Table, read_table, table_file, write_table
from llmzero.runners.tables.walk import Place, walk
from llmzero.search.briefing import briefing
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.studies.study import Pair
from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY
from tests.integration.damages import WHOLE, field_damages
from tests.made_tables import DEPTH, LENGTHS, RATES, STEPS, made_table, row, score, step_flops

METHODS = sorted({file.stem for file in (REPOSITORY / "conf/search").glob("*.yaml")} - {"skill"})
SECONDS = 1e-7  # of a FLOP


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return made_table(tmp_path)


@pytest.fixture
def table(file: Path) -> Table:
    return read_table(file)


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lzma.decompress(file.read_bytes()).splitlines()]


# --- the format ---


def test_a_table_is_read_as_it_was_written(file: Path) -> None:
    table = read_table(file)
    assert len(table.stages) == 6 + 36 + 216
    assert table.configurations[1] == {"max_completion_length": 8, "learning_rate": 1e-3}
    assert table.number({"max_completion_length": 32, "learning_rate": 1e-4, "group_size": 8}) == 4
    assert table.number({"max_completion_length": 9, "learning_rate": 1e-4}) is None
    assert table.stages[4, 1].points[-1].score == pytest.approx(0.05 + 0.05 + 0.02)
    again = file.read_bytes()
    write_table(file, *_split(lines_of(file)))
    assert file.read_bytes() == again, "the same content gives the same bytes"


def _split(lines: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return lines[0], lines[1:]


def test_plain_python_reads_a_table_as_the_docs_say(file: Path, tmp_path: Path) -> None:
    docs = (REPOSITORY / "docs/tables.md").read_text()
    example = docs.split("```python\n")[1].split("```")[0]
    assert "metro-0.jsonl.xz" in example
    code = example.replace("benchmarks/tables/metro-0.jsonl.xz", str(file))
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert f"{score((5, 5, 5), STEPS) - 0.02:.3f}" in ended.stdout


@pytest.mark.parametrize("label", WHOLE)
def test_a_damaged_file_is_refused_by_name(file: Path, label: str) -> None:
    WHOLE[label](file)
    with pytest.raises(DamagedFileError, match="copy the file anew") as error:
        read_table(file)
    assert str(file) in str(error.value)


def test_a_damaged_field_is_refused_with_its_line(file: Path, tmp_path: Path) -> None:
    header, *stages = lines_of(file)
    header["depth"], stages = 1, [line for line in stages if len(line["path"]) == 1]
    few = tmp_path / "few.jsonl"
    refused = 0
    for lines in ([header], stages[:1]):  # a header, and a stage
        few.write_text("".join(json.dumps(line) + "\n" for line in lines))
        for _, damage in field_damages(few):
            whole = few.read_bytes()
            damage(few)
            damaged = few.read_text().splitlines()
            few.write_bytes(whole)
            text = "\n".join(
                [*damaged, *map(json.dumps, stages)]
                if lines[0] is header
                else [json.dumps(header), *damaged, *map(json.dumps, stages[1:])]
            )
            file.write_bytes(lzma.compress(f"{text}\n".encode(), preset=0))
            refused += _refused_or_usable(file)
    assert refused > 100


def _refused_or_usable(file: Path) -> bool:
    """Whether a table is refused by its name; else it can be walked, as the damage is allowed there."""
    try:
        table = read_table(file)
    except DamagedFileError as error:
        return str(file) in str(error)
    walk(table, Place(), 0, Length(STEPS))
    return False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.pop(7), r"path=\[.*\]: is missing"),
        (lambda lines: lines.append(lines[3]), "is there twice"),
        (lambda lines: lines.append({**lines[3], "path": [0, 9]}), r"path=\[0, 9\]: is none of this tree"),
        (lambda lines: lines[0].update(version=2), "version=2: must be 'llmzero-table', version 1"),
        (lambda lines: lines[0].update(depth=40), "depth=40: must be from 1 to 16"),
        (lambda lines: lines[0].update(depth=15), "a tree may have 100000 stages at most"),
        (lambda lines: lines[0].update(stage={"steps": 4, "flops": 1e9}), "exactly one of steps and flops"),
        (lambda lines: lines[0]["parameters"]["learning_rate"].pop("choices"), "needs choices"),
        (lambda lines: lines[5]["points"].reverse(), "their steps must rise"),
        (lambda lines: lines[5]["points"][1].update(flops=1.0), "their flops must not fall"),
        (lambda lines: lines[5]["metrics"]["kl"].pop(), "metrics.kl: must have a value for each of 4 steps"),
        (lambda lines: lines[5].update(points=[]), "there are none, and no error"),
        (lambda lines: lines[5]["points"][0].update(score=1.5), r"score=1.5: must be from 0 to 1"),
        (lambda lines: lines[5]["points"][0].update(score=10**400), "must be a number up to 1e308"),
        (lambda lines: lines[5]["points"][1].update(flops=1e300), r"flops=1e\+300: must be from 0 to 1e\+30"),
        (lambda lines: lines[5]["points"][0].update(seconds=-1), "seconds=-1: must be from 0"),
        (lambda lines: lines[0]["base"].update(test_stderr=-0.1), "base.test_stderr=-0.1: must be from 0"),
        (lambda lines: lines[0].update(stage={"steps": None, "flops": 1e300}), r"stage.length=1e\+300"),
        (lambda lines: lines[5]["metrics"].update(step=[None] * 4), "metrics.step: readers make it"),
    ],
)
def test_what_is_no_tree_is_refused(
    file: Path, change: Callable[[list[dict[str, Any]]], object], message: str
) -> None:
    lines = lines_of(file)
    change(lines)
    write_table(file, *_split(lines))
    with pytest.raises(DamagedFileError, match=message):
        read_table(file)


def test_a_file_that_unpacks_to_gigabytes_is_refused(file: Path) -> None:
    file.write_bytes(lzma.compress(b" " * 2 * tables.MAX_TEXT, preset=0))
    assert file.stat().st_size < 100_000
    with pytest.raises(DamagedFileError, match="unpacks to more than"):
        read_table(file)


def test_below_a_failed_stage_there_is_nothing(file: Path) -> None:
    header, *stages = lines_of(file)
    stages = [line for line in stages if line["path"][:1] != [2] or line["path"] == [2]]
    stages[[line["path"] for line in stages].index([2])] |= {"error": "not finite"}
    write_table(file, header, stages)
    walked = walk(read_table(file), Place(), 2, Length(STEPS * 2))
    assert len(walked.visits) == 2 and walked.failure == "not finite"


def test_names_are_those_of_trees_with_their_seed_or_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    zero, seven = made_table(tmp_path), made_table(tmp_path, "made-7")
    assert table_file("made", 7) == seven and table_file("made-0", 7) == zero == table_file(str(zero), 3)
    with pytest.raises(UserError, match="table=made: there is none of seed 1; known: made-0, made-7"):
        table_file("made", 1)
    with pytest.raises(UserError, match="there is no such file"):
        table_file("../made-0.jsonl.xz", 0)


# --- the walk ---


def test_a_stage_begins_at_its_parents_end_and_takes_one_of_the_tree(table: Table) -> None:
    walked = walk(table, Place((3,), 2, 2), 5, Length(STEPS))
    assert [visit.stage.path for visit in walked.visits] == [(3, 5), (3, 5)]
    assert walked.before.steps == STEPS and walked.before.flops == STEPS * step_flops(3)
    assert walked.visits[-1].used.flops == STEPS * step_flops(5) and not walked.first.steps


def test_what_a_stopped_parent_left_is_paid_by_its_child(table: Table) -> None:
    half = STEPS // 2
    other = walk(table, Place((3,), 1, 1), 5, Length(STEPS))
    assert other.first.steps == half and other.first.flops == half * step_flops(3)
    assert other.before.steps == STEPS, "the child's own steps begin after it"
    assert [visit.used.steps for visit in other.visits] == [half, STEPS]
    same = walk(table, Place((3,), 1, 1), 3, Length(STEPS))
    assert not same.first.steps, "under its own configuration it is a part of the stage"
    assert [visit.stage.path for visit in same.visits] == [(3,), (3, 3)]
    assert same.visits[-1].used.steps == STEPS


def test_a_best_checkpoint_in_the_middle_costs_nothing_again(table: Table) -> None:
    walked = walk(table, Place((3,), points=1, paid=2), 5, Length(STEPS))
    assert not walked.first.steps and walked.before.steps == STEPS


@pytest.mark.parametrize("length", [Length(STEPS * 3), Length(flops=STEPS * 3 * step_flops(4))])
def test_a_longer_stage_is_several_of_the_tree(table: Table, length: Length) -> None:
    walked = walk(table, Place(), 4, length)
    assert [visit.stage.path for visit in walked.visits[1::2]] == [(4,), (4, 4), (4, 4, 4)]
    assert walked.visits[-1].used.steps == STEPS * 3 and walked.failure is None


def test_compute_is_kept_where_steps_differ(table: Table) -> None:
    """A stage of the compute of a whole path of short ones ends at the nearest validation of long ones."""
    compute = STEPS * 3 * step_flops(0)
    walked = walk(table, Place(), 4, Length(flops=compute))
    assert walked.visits[-1].used.flops == compute / step_flops(4) // 2 * 2 * step_flops(4)
    assert walked.visits[-1].used.steps < STEPS * 3


def test_beyond_the_tree_a_stage_is_refused(table: Table) -> None:
    walked = walk(table, Place((0, 1, 2), 2, 2), 0, Length(STEPS))
    assert walked.failure is not None and "give a shorter stage, or search.max_depth=3" in walked.failure
    assert not walked.visits


# --- stages ---


def runner_of(file: Path) -> TableRunner:
    return TableRunner(TableRunnerSettings(str(file)))


def spec(
    directory: Path, parent: Path | None, number: int, *, steps: int = STEPS, split: str = "val"
) -> StageSpec:
    directory.mkdir(parents=True)
    hparams = {"max_completion_length": LENGTHS[number // 2], "learning_rate": RATES[number % 2]}
    config = {"trainer": {"evaluation_split": split}}
    return StageSpec(directory.name, None, 1, directory, parent, hparams, steps, 0, config)


def ran(runner: TableRunner, wanted: StageSpec) -> StageResult:
    handle = runner.start(wanted)
    while not handle.poll().final:
        pass
    return handle.result()


def test_stages_leave_what_a_trainer_leaves(file: Path, tmp_path: Path) -> None:
    runner = runner_of(file)
    base = ran(runner, spec(tmp_path / "0", None, 2, steps=0))
    assert base.best_score == 0.05 and base.seconds == 0.25 and base.flops == 0
    first = ran(runner, spec(tmp_path / "1", base.checkpoint, 3))
    second = ran(runner, spec(tmp_path / "2", first.checkpoint, 5))
    stage = StageDir(tmp_path / "2")
    assert stage.result() == second and second.state == "completed"
    assert second.best_score == score((3, 5), STEPS) and second.flops == STEPS * step_flops(5)
    assert second.gpu_seconds == pytest.approx(STEPS * step_flops(5) * SECONDS)
    assert [(point.step, point.global_step, point.n) for point in stage.validation()] == [
        (2, 6, 100),
        (4, 8, 100),
    ]
    before = STEPS * step_flops(3)
    assert stage.validation()[-1].flops == pytest.approx(before + STEPS * step_flops(5))
    metrics = stage.metrics()
    assert [line["reward_mean"] for line in metrics] == row((3, 5))["metrics"]["reward_mean"]
    assert [line["global_step"] for line in metrics] == [5, 6, 7, 8]
    assert [line["flops"] for line in metrics] == pytest.approx(
        [before + i * step_flops(5) for i in (1, 2, 3, 4)]
    )
    assert metrics[-1]["gpu_seconds"] == pytest.approx(second.gpu_seconds)
    assert [line["global_step"] for line in stage.rollouts()] == [8]
    test = ran(runner, spec(tmp_path / "test", second.checkpoint, 5, steps=0, split="test"))
    assert test.best_score == pytest.approx(score((3, 5), STEPS) - 0.02)
    assert test.validation[0].n == 120 and test.checkpoint == second.checkpoint


def test_a_stopped_stage_ends_at_its_validation_and_its_child_goes_on(file: Path, tmp_path: Path) -> None:
    runner = runner_of(file)
    base = ran(runner, spec(tmp_path / "0", None, 2, steps=0))
    handle = runner.start(spec(tmp_path / "1", base.checkpoint, 3))
    while not handle.poll().validation:
        pass
    handle.stop()
    while not handle.poll().final:
        pass
    stopped = handle.result()
    assert stopped.state == "stopped" and stopped.flops == 2 * step_flops(3)
    child = ran(runner, spec(tmp_path / "2", stopped.checkpoint, 5))
    assert child.best_score == score((3, 5), STEPS)
    assert child.flops == 2 * step_flops(3) + STEPS * step_flops(5)
    assert "2 steps that the parent left undone come first" in (tmp_path / "2/log.txt").read_text()


def test_a_stage_of_no_configuration_of_the_table_fails_with_a_reason(file: Path, tmp_path: Path) -> None:
    runner = runner_of(file)
    base = ran(runner, spec(tmp_path / "0", None, 2, steps=0))
    wanted = spec(tmp_path / "1", base.checkpoint, 3)
    wanted.hparams["learning_rate"] = 2e-4
    failed = ran(runner, wanted)
    assert failed.state == "failed" and failed.error is not None and "learning_rate" in failed.error
    assert failed.flops == 0 and failed.seconds == 0


def test_a_driver_takes_its_stages_up_where_they_stood(file: Path, tmp_path: Path) -> None:
    whole = ran(runner_of(file), spec(tmp_path / "a/nodes/1", None, 3))
    wanted = spec(tmp_path / "b/nodes/1", None, 3)
    handle = runner_of(file).start(wanted)
    while not handle.poll().validation:
        pass
    taken = runner_of(file).attach(wanted)
    assert taken is not None
    while not taken.poll().final:
        pass
    assert taken.result().validation == whole.validation and taken.result().ended_at == whole.ended_at
    assert len(StageDir(wanted.directory).metrics()) == STEPS


def test_a_checkpoint_that_is_no_place_in_the_table_is_refused(file: Path, tmp_path: Path) -> None:
    runner = runner_of(file)
    base = ran(runner, spec(tmp_path / "0", None, 2, steps=0))
    assert base.checkpoint is not None
    marker = base.checkpoint / "COMPLETE"
    for state in (
        {"path": [9], "points": 1, "paid": 1},
        {"path": [1], "points": 3, "paid": 3},
        {"path": []},
        {},
    ):
        marker.write_text(json.dumps(state))
        with pytest.raises(DamagedFileError, match="COMPLETE"):
            runner.start(spec(tmp_path / f"at-{len(list(tmp_path.iterdir()))}", base.checkpoint, 1))


# --- searches ---


def search(file: Path, directory: Path, *overrides: str) -> SearchConfig:
    own = ["runner=table", f"table={file}", f"search_dir={directory}", "search.report=false"]
    return composed("search", SearchConfig, [*own, *overrides])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gets_the_scores_of_the_table(
    file: Path, table: Table, tmp_path: Path, method: str
) -> None:
    config = search(file, tmp_path / "s", f"search={method}", "budget.stages=12")
    summary = Session.from_config(config).run()
    tree = EventStore(tmp_path / "s/tree.jsonl").tree
    for node in tree.stages():
        assert node.result is not None and node.result.error is None, node
        path = tuple(table.number(each.hparams) for each in tree.path(node.node_id)[1:])
        last = node.result.validation[-1]
        if len(path) == node.depth and last.global_step == STEPS * node.depth:
            assert last.score == score(path, STEPS), path  # type: ignore[arg-type]
    assert len(tree.stages()) >= 3
    assert summary["test"]["best"]["score"] == pytest.approx(summary["best"]["score"] - 0.02)


def test_one_tree_is_searched_with_any_seed_as_studies_do(file: Path, tmp_path: Path) -> None:
    config = search(file, tmp_path / "s", "agent=random", "budget.stages=6")
    paths = set()
    for seed in (0, 7):
        own = replace(config, seed=seed, search_dir=str(tmp_path / str(seed)))
        assert Session.from_config(own).run()["state"] == "finished"
        stages = EventStore(tmp_path / str(seed) / "tree.jsonl").tree.stages()
        paths.add(tuple(tuple(node.hparams.values()) for node in stages))
    assert len(paths) == 2, "each seed makes its own choices"


def test_the_catalogue_depth_and_length_are_the_tables(file: Path, tmp_path: Path) -> None:
    config = search(file, tmp_path / "s")
    assert {name: list(each.choices or ()) for name, each in config.catalogue.items()} == {
        "max_completion_length": LENGTHS,
        "learning_rate": RATES,
    }
    assert config.search.max_depth == DEPTH and config.search.stage_steps == STEPS
    assert config.stage_groups["trainer"]["validation_max_tokens"] == 40
    assert config.task == {"_target_": None}, "a table names no code"
    assert briefing(config)["task"] == "getcwd name=made", "agents know what was learnt"
    assert "rules and reward" not in briefing(config, asks_model=True), "nor is a stranger's code imported"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.max_depth=4", "search.max_depth=4: made-0.jsonl.xz has paths of 3 stages of 4 steps"),
        ("search.stage_steps=8", "and 3 of 8 steps were asked for"),
        ("task=tower", "task: runner=table has the task of its table"),
        ("search.confirm_seeds=2", "has no stages of a fresh seed 1000; set search.confirm_seeds=0"),
        (
            "+model.hparams={max_completion_length: {choices: [16, 64]}}",
            "hparams.parameters.max_completion_length: made-0.jsonl.xz has one of 8, 16, 32",
        ),
    ],
)
def test_what_the_table_has_not_is_refused_before_anything_runs(
    file: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Session.from_config(search(file, tmp_path / "s", override))
    assert not (tmp_path / "s").exists()


def test_a_table_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="table: needs a value with runner=table"):
        composed("search", SearchConfig, ["runner=table"])


def test_fresh_seeds_are_confirmed_where_their_trees_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    for seed in (0, 1000, 1001):
        made_table(tmp_path, f"made-{seed}", seed=seed)
    config = search(Path("made"), tmp_path / "s", "search.confirm_seeds=2", "budget.stages=6")
    Session.from_config(config).run()
    confirmed = read_json(tmp_path / "s/confirmation.json")
    assert confirmed is not None and confirmed["seeds"] == [1000, 1001]
    winner = confirmed["strategies"][confirmed["winner"]]
    assert winner["incomplete"] == 0 and len(set(winner["test"])) == 1


def test_a_study_of_seeds_without_trees_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    for seed in (0, 1):
        made_table(tmp_path, f"made-{seed}", seed=seed)
    config = replace(search(Path("made"), tmp_path / "s"), seed=0)
    Pair("greedy", "made", config, tmp_path / "study").check([0, 1])
    with pytest.raises(UserError, match=r"made.*seed 2"):
        Pair("greedy", "made", config, tmp_path / "study").check([0, 1, 2])


def test_a_strategy_is_replayed_on_the_tree_of_another_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launchers.replay import run

    monkeypatch.setattr(tables, "TABLES", tmp_path)
    for seed in (0, 1):
        made_table(tmp_path, f"made-{seed}", seed=seed)
    best = Session.from_config(search(Path("made"), tmp_path / "s")).run()["best"]["score"]
    strategy = tmp_path / "s/strategy.yaml"
    overrides = ["runner=table", "table=made", "seed=1", f"strategy={strategy}", f"search_dir={tmp_path}/r"]
    assert run(composed("replay", ReplayConfig, overrides)) == best


@pytest.mark.parametrize("name", sorted(each.stem for each in tables.TABLES.glob("*.yaml")))
def test_in_the_committed_recipes_the_practitioner_has_the_defaults_of_task_and_model(name: str) -> None:
    plan = Plan.of(name, 0)
    whole = plan.config.catalogue.defaults()
    assert plan.catalogue.defaults() == {each: whole[each] for each in plan.catalogue}
    assert all({*plan.fixed, *configuration} == set(whole) for configuration in plan.configurations)


@pytest.mark.parametrize("name", sorted(each.name.split(".")[0] for each in tables.TABLES.glob("*.xz")))
def test_a_committed_table_is_the_whole_tree_of_its_recipe(name: str) -> None:
    table = read_table(tables.table_file(name, 0))
    plan = Plan.of(name.rpartition("-")[0], int(name.rpartition("-")[2]))
    assert (table.header["name"], table.header["seed"]) == (plan.name, plan.seed)
    assert (table.depth, table.length, table.header["fixed"]) == (plan.recipe.depth, plan.length, plan.fixed)
    assert table.configurations == plan.configurations
    assert len(table.stages) == plan.subtree(()) and not any(each.error for each in table.stages.values())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.155, 0.33, 1.0", "0.001, 1.0", r"parameters: .*easiest.*0.001"),
        ("0.155, 0.33, 1.0", "a, 1.0", r"easiest"),
        ("choices: [0.155, 0.33, 1.0]", "choices: 0.3", r"parameters.easiest: must be \{choices"),
        ("0.155, 0.33, 1.0", "1.0, 0.33, 1.0", r"parameters.easiest.choices: has a value twice"),
        (
            "easiest: {choices: [0.155, 0.33, 1.0], default: 1.0}",
            "easiest: 8",
            r"parameters.easiest: must be",
        ),
        ("default: 1.0", "default: 0.5", r"easiest"),
        ("easiest:", "easyest:", r"parameters.easyest: is none of the catalogue"),
        ("kl_coef: 0.0", "learning_rate: 1.0e-3", r"values.learning_rate: is one of parameters"),
        ("kl_coef: 0.0", "kl: 0.0", r"\bkl\b"),
        ("kl_coef: 0.0", "kl_coef: much", r"kl_coef"),
        ("task=tower", "task=tower, seed=7", r"overrides: seed: is not the recipe's to set"),
        ("task=tower", "task=tower, flops=1e9", r"overrides: flops: is not"),
        ("depth: 4", "depth: 16", r"depth=16: with 6 configurations; a tree may be 16 deep and have 100000"),
        ("depth: 4", "depth: 0", r"depth"),
        ("flops: 3.75e+9", "flops: 0", r"flops: must be above 0"),
        ("flops: 3.75e+9", "flops: 3.75e+9\nsteps: 3", r"steps"),
        ("flops: 3.75e+9", "", r"steps"),
        ("depth: 4", "depth: [", r"odd.yaml"),
    ],
)
def test_a_recipe_that_cannot_be_grown_is_refused_by_file_and_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    whole = (tables.TABLES / "tower.yaml").read_text()
    assert old in whole
    (tmp_path / "odd.yaml").write_text(whole.replace(old, new, 1))
    with pytest.raises(UserError, match=said) as error:
        Plan.of("odd", 0, tmp_path)
    assert str(tmp_path / "odd.yaml") in str(error.value)
