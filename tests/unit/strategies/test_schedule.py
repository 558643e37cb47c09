from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmzero.cli import composed
from llmzero.core.documents import dump_yaml
from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue
from llmzero.core.stage import StageResult, ValidationPoint
from llmzero.search.replay import replay_config
from llmzero.search.settings import SearchConfig
from llmzero.strategies.schedule import StrategyStage, export_strategy, load_strategy
from llmzero.tree.budget import Budget
from llmzero.tree.tree import ROOT, Node, Tree

HEADER = {"format": 1, "provenance": {}}


def write(path: Path, stages: Any, **document: Any) -> Path:
    path.write_text(dump_yaml({**HEADER, "stages": stages, **document}))
    return path


def result(state: Any, steps: int, best: int, directory: Path) -> StageResult:
    points = [
        ValidationPoint(step, step, 0.5 if step == best else 0.3, 0.01, 100, 0.0)
        for step in range(4, steps + 1, 4)
    ]
    return StageResult(
        state,
        points,
        best,
        0.5,
        directory / f"step_{best:05d}",
        1.0,
        1.0,
        last_checkpoint=directory / f"step_{steps:05d}",
    )


@pytest.fixture
def tree(catalogue: Catalogue, tmp_path: Path) -> Tree:
    """Two stages: the first was stopped at step 12 of 16, the second went on from its step 8."""
    tree = Tree()
    hparams = catalogue.defaults()
    tree.add(Node(ROOT, None, 0, hparams, 0, None, {}))
    tree.add(Node("0001", ROOT, 1, hparams, 16, None, {"diagnosis": ["untrained"], "resume": "best"}))
    tree.add(
        Node(
            "0002",
            "0001",
            2,
            {**hparams, "group_size": 16, "kl_coef": 0.01},
            20,
            None,
            {"diagnosis": ["plateau"], "resume": 8},
        )
    )
    tree.finish("0001", result("stopped", 12, 8, tmp_path))
    tree.finish("0002", result("completed", 20, 16, tmp_path))
    return tree


def exported(tree: Tree, catalogue: Catalogue, path: Path) -> dict[str, Any]:
    export_strategy(path, tree, tree["0002"], catalogue, {"seed": 3})
    return yaml.safe_load(path.read_text())


def test_a_strategy_holds_what_it_takes_to_train_the_path_again(
    tree: Tree, catalogue: Catalogue, tmp_path: Path
) -> None:
    document = exported(tree, catalogue, tmp_path / "strategy.yaml")
    first, second = document["stages"]
    assert (first["steps"], first["stop_at"], first["resume"], first["best_step"], first["changes"]) == (
        16,
        12,
        "best",
        8,
        {},
    )
    assert (second["steps"], second["resume"], second["best_step"], second["changes"]) == (
        20,
        8,
        16,
        {"group_size": 16, "kl_coef": 0.01},
    )
    assert "stop_at" not in second
    assert document["provenance"]["seed"] == 3
    assert document["provenance"]["defaults"] == catalogue.defaults()
    assert document["provenance"]["choices"]["group_size"] == [4, 8, 16]


def test_what_is_written_is_read_again(tree: Tree, catalogue: Catalogue, tmp_path: Path) -> None:
    exported(tree, catalogue, tmp_path / "strategy.yaml")
    assert load_strategy(tmp_path / "strategy.yaml", catalogue) == [
        StrategyStage(16, tree["0001"].hparams, {}, "best", 12, ("untrained",), "0001", 8, 0.5),
        StrategyStage(
            20,
            tree["0002"].hparams,
            {"group_size": 16, "kl_coef": 0.01},
            8,
            None,
            ("plateau",),
            "0002",
            16,
            0.5,
        ),
    ]


def test_a_stage_is_trained_to_its_stop_and_no_further_than_the_step_that_the_next_one_resumes_from(
    tree: Tree, catalogue: Catalogue, tmp_path: Path
) -> None:
    document = exported(tree, catalogue, tmp_path / "strategy.yaml")
    config = composed("search", SearchConfig, ["search.workers=3", "budget.seconds=5"])
    replayed = replay_config(config, load_strategy(tmp_path / "strategy.yaml", catalogue))
    assert [StrategyStage(**stage).end for stage in replayed.search.method["stages"].values()] == [
        8,
        20,
    ]
    assert (
        replayed.search.stage_steps,
        replayed.search.max_depth,
        replayed.search.workers,
    ) == (20, 2, 1)
    assert replayed.budget == Budget(stages=2)
    document["stages"][1]["resume"] = "last"
    replayed = replay_config(
        config, load_strategy(write(tmp_path / "last.yaml", document["stages"]), catalogue)
    )
    assert [StrategyStage(**stage).end for stage in replayed.search.method["stages"].values()] == [
        12,
        20,
    ]


def test_changes_alone_are_against_the_stage_before_and_hparams_alone_against_the_practitioner(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    stages = [
        {"steps": 4, "changes": {"group_size": 16}},
        {"steps": 4, "changes": {"learning_rate": 2e-4}},
        {"steps": 4, "hparams": {"kl_coef": 0}},
        {"steps": 4, "changes": {}},
    ]
    loaded = load_strategy(write(tmp_path / "s.yaml", stages), catalogue)
    practitioner = catalogue.defaults()
    assert [stage.hparams for stage in loaded] == [
        practitioner | {"group_size": 16},
        practitioner | {"group_size": 16, "learning_rate": 2e-4},
        practitioner | {"kl_coef": 0.0},
        practitioner | {"kl_coef": 0.0},
    ]
    assert [stage.changes for stage in loaded] == [
        {"group_size": 16},
        {"learning_rate": 2e-4},
        {"group_size": 8, "learning_rate": 1e-4, "kl_coef": 0.0},
        {},
    ]
    assert isinstance(loaded[2].hparams["kl_coef"], float)


def test_numbers_are_read_as_people_write_them(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "format: 1\nstages:\n- steps: 4\n  changes: {learning_rate: 2e-4, kl_coef: 1E-2}\n"
    )
    assert load_strategy(tmp_path / "s.yaml", catalogue)[0].changes == {
        "learning_rate": 2e-4,
        "kl_coef": 0.01,
    }


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"steps": 0}, r"stage 2: steps=0: must be an integer of at least 1"),
        ({"steps": True}, r"stage 2: steps=True: must be"),
        ({"steps": None}, r"stage 2: steps=None: must be"),
        ({"stop_at": 5}, r"stage 2: stop_at=5: must be an integer from 1 to steps=4"),
        ({"stop_at": 0}, r"stage 2: stop_at=0: must be an integer from 1 to steps"),
        ({"resume": "first"}, r"stage 2: resume='first': must be best, last, or a step"),
        ({"resume": 9}, r"stage 2: resume=9: must be from 1 to 8, where stage 1 ends"),
        ({"diagnosis": "plateau"}, r"stage 2: diagnosis='plateau': must be a list of words"),
        ({"changes": [1]}, r"stage 2: changes=\[1\]: must be a mapping of names to values"),
        ({"changes": None}, r"stage 2: changes=None: must be a mapping"),
        ({"hparam": {}}, r"stage 2: hparam: unknown key; did you mean hparams\?"),
        ({"changes": {"group_siz": 4}}, r"stage 2: group_siz: unknown parameter; did you mean group_size\?"),
        ({"changes": {7: 4}}, r"stage 2: 7: unknown parameter"),
        (
            {"changes": {"group_size": 7}},
            r"stage 2: group_size=7: must be one of 4, 8, 16\n  edit the file, or give transfer=relative",
        ),
        (
            {"changes": {"learning_rate": "much"}},
            r"stage 2: learning_rate='much': must be float from 1e-05 to 0.001",
        ),
        (
            {"hparams": {"group_size": 16}, "changes": {"group_size": 4}},
            r"stage 2: changes.group_size=4 but hparams.group_size=16: change both",
        ),
        (
            {"hparams": {}, "changes": {"group_size": 4}},
            r"stage 2: changes.group_size=4 but hparams.group_size=None",
        ),
    ],
)
def test_a_problem_is_named_with_file_stage_key_value_and_what_is_allowed(
    catalogue: Catalogue, tmp_path: Path, stage: dict[str, Any], message: str
) -> None:
    path = write(
        tmp_path / "s.yaml",
        [{"steps": 10, "stop_at": 8, "changes": {}}, {"steps": 4, "changes": {}, **stage}],
    )
    with pytest.raises(UserError, match=message) as caught:
        load_strategy(path, catalogue)
    assert str(caught.value).startswith(f"strategy={path}:")


def test_every_problem_is_told_at_once(catalogue: Catalogue, tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.yaml",
        [{"steps": 0, "chagnes": {}}, {"steps": 4, "changes": {}, "resume": -1}, "twelve steps"],
    )
    with pytest.raises(UserError) as caught:
        load_strategy(path, catalogue)
    assert str(caught.value).splitlines() == [
        f"strategy={path}:",
        "  stage 1: chagnes: unknown key; did you mean changes?",
        "  stage 1: steps=0: must be an integer of at least 1",
        "  stage 1: needs hparams or changes; `changes: {}` trains on as before",
        "  stage 2: resume=-1: must be best, last, or a step",
        "  stage 3: 'twelve steps': must be a mapping with steps, and hparams or changes",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "format is missing: must be 1"),
        ("- 1", "format is missing: must be 1"),
        ("format: 2\nstages: []", "format is 2: must be 1, the one that this version reads and writes"),
        ("format: 1", "stages: missing"),
        ("format: 1\nstages: []", r"stages=\[\]: must be a list of at least one stage"),
        ("format: 1\nstages: {}", r"stages=\{\}: must be a list"),
        ("format: 1\nstags: []\nstages: []", r"stags: unknown key; did you mean stages\?"),
        ("format: [1", "is no YAML: while parsing a flow sequence in .*line 1, column 9"),
        (
            "format: 1\nstages: [{steps: 1, changes: {}, resume: 3}]",
            "stage 1: resume=3: the base model has the checkpoint of step 0 alone",
        ),
    ],
)
def test_a_file_that_is_no_strategy_is_refused(
    catalogue: Catalogue, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_strategy(tmp_path / "s.yaml", catalogue)


# --- to another catalogue ---


@pytest.fixture
def large(entries: dict[str, Any]) -> Catalogue:
    """The catalogue of a language model, whose learning rates are a hundredth of the nano model's."""
    return Catalogue.from_config(entries)


def moved(
    path: Path, changes: dict[str, Any], source: Catalogue, target: Catalogue, transfer: str = "relative"
) -> StrategyStage:
    choices = {name: list(parameter.choices) for name, parameter in source.items() if parameter.choices}
    provenance = {"defaults": source.defaults(), "choices": choices}
    stages = [{"steps": 4, "hparams": source.defaults() | changes}]
    return load_strategy(write(path, stages, provenance=provenance), target, transfer)[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"learning_rate": 2e-4}, {"learning_rate": 2e-6}),
        ({"learning_rate": 3.3e-5}, {"learning_rate": 3.3e-7}),
        ({"max_completion_length": 24}, {"max_completion_length": 2048}),
        ({"max_completion_length": 8}, {"max_completion_length": 256}),
        ({"prompts_per_step": 64, "group_size": 4}, {"prompts_per_step": 128, "group_size": 4}),
        ({"kl_coef": 0.0123456}, {"kl_coef": 0.0123456}),
        (
            {"entropy_coef": 0.01, "rewarm": True, "reference": "parent"},
            {"entropy_coef": 0.01, "rewarm": True, "reference": "parent"},
        ),
    ],
)
def test_values_move_as_far_from_the_practitioners_as_they_were(
    catalogue: Catalogue, large: Catalogue, tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    stage = moved(tmp_path / "s.yaml", changes, catalogue, large)
    assert stage.hparams == large.defaults() | expected
    assert stage.notes == ()
    assert moved(tmp_path / "back.yaml", expected, large, catalogue).hparams[
        "learning_rate"
    ] == pytest.approx(changes.get("learning_rate", 1e-4))


def test_what_goes_beyond_the_bounds_is_cut_and_told(
    catalogue: Catalogue, large: Catalogue, tmp_path: Path
) -> None:
    stage = moved(tmp_path / "s.yaml", {"prompts_per_step": 256, "learning_rate": 1e-7}, large, catalogue)
    assert stage.hparams == catalogue.defaults() | {"prompts_per_step": 64, "learning_rate": 1e-5}
    assert stage.notes == (
        "prompts_per_step=256 goes beyond the bounds here: 64 (must be one of 8, 16, 32, 64)",
    )
    narrow = Catalogue({**catalogue, "learning_rate": replace(catalogue["learning_rate"], high=5e-4)})
    cut = moved(tmp_path / "s.yaml", {"learning_rate": 1e-5}, large, narrow)
    assert (cut.hparams["learning_rate"], cut.notes) == (
        5e-4,
        ("learning_rate=1e-05 goes beyond the bounds here: 0.0005 (must be float from 1e-05 to 0.0005)",),
    )


def test_values_as_they_are_name_the_remedy_where_bounds_differ(
    catalogue: Catalogue, large: Catalogue, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=r"stage 1: learning_rate=0.0001: must be float from 1e-07 to 1e-05\n(.*\n)*"
        r"  edit the file, or give transfer=relative",
    ):
        moved(tmp_path / "s.yaml", {}, catalogue, large, "values")


def test_a_transfer_needs_the_practitioners_values_of_the_source(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    for provenance in (
        {},
        [],
        {"defaults": 3},
        {"defaults": {"group_size": 8}, "choices": {"group_size": 8}},
    ):
        path = write(
            tmp_path / "s.yaml", [{"steps": 4, "changes": {"group_size": 16}}], provenance=provenance
        )
        with pytest.raises(UserError, match="transfer=relative needs `defaults` and `choices` there"):
            load_strategy(path, catalogue, "relative")
