"""Replays of strategies and rules: whole, edited, on other models and seeds, in one process, interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmzero.cli import INTERRUPTED
from llmzero.core.documents import dump_yaml
from llmzero.core.stage import StageDir
from llmzero.tree.store import EventStore
from llmzero.tree.tree import Node
from tests.conftest import REPOSITORY
from tests.integration.conftest import MICRO, Run, command, read_lines, same_bits

SIMULATED = ["experiment=simulated"]
LEARNING = {"prompts_per_step": 8, "group_size": 4, "learning_rate": 1e-3, "max_completion_length": 12}
TRAINED = [*MICRO, "tracking=none", "trainer.validation_every=3"]


def stages_of(search_dir: Path) -> list[Node]:
    return EventStore(search_dir / "tree.jsonl", repair=False).tree.stages()


def write(path: Path, stages: list[dict[str, Any]]) -> Path:
    path.write_text(dump_yaml({"format": 1, "stages": stages}))
    return path


@pytest.fixture(scope="module")
def searched(run_here: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated search with its strategy and its rule."""
    search = tmp_path_factory.mktemp("searched") / "searched"
    run_here("search", *SIMULATED, f"search_dir={search}")
    return search


@pytest.fixture(scope="module")
def simulated(run_here: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replay of two stages, whose directory holds their strategy as a search would have written it."""
    directory = tmp_path_factory.mktemp("simulated")
    stages = [
        {"steps": 8, "changes": {"learning_rate": 2e-6}},
        {"steps": 8, "changes": {"prompts_per_step": 256}},
    ]
    run_here(
        "replay",
        *SIMULATED,
        f"strategy={write(directory / 's.yaml', stages)}",
        f"search_dir={directory}/searched",
    )
    return directory / "searched"


def test_a_strategy_is_replayed_stage_by_stage(run_here: Run, searched: Path, tmp_path: Path) -> None:
    strategy = yaml.safe_load((searched / "strategy.yaml").read_text())
    printed = run_here(
        "replay", *SIMULATED, f"strategy={searched}/strategy.yaml", "seed=7", f"search_dir={tmp_path}/r"
    ).stdout
    stages = stages_of(tmp_path / "r")
    assert [node.hparams for node in stages] == [stage["hparams"] for stage in strategy["stages"]]
    assert [node.depth for node in stages] == list(range(1, 1 + len(stages)))
    assert {node.proposal["agent"] for node in stages} == {"replay"}
    assert "agent=none" in printed
    assert "No language model" not in printed
    assert (
        yaml.safe_load((tmp_path / "r/strategy.yaml").read_text())["stages"][0]["changes"]
        == strategy["stages"][0]["changes"]
    )


def test_an_edited_strategy_trains_what_it_says(run_here: Run, tmp_path: Path) -> None:
    """The second stage resumes from step 8 of the first, which ends there; the third stopped at step 6."""
    edited = [
        {"steps": 16, "changes": {"group_size": 16}},
        {"steps": 10, "changes": {"learning_rate": 2e-6}, "resume": 8},
        {"steps": 12, "stop_at": 6, "hparams": {"kl_coef": 0.01}, "resume": "last"},
    ]
    run_here(
        "replay", *SIMULATED, f"strategy={write(tmp_path / 's.yaml', edited)}", f"search_dir={tmp_path}/r"
    )
    stages = stages_of(tmp_path / "r")
    assert [node.steps for node in stages] == [8, 10, 6]
    assert [node.resume_from.name for node in stages if node.resume_from] == [
        "step_00000",
        "step_00008",
        "step_00010",
    ]
    assert [node.proposal["changes"] for node in stages] == [
        {"group_size": 16},
        {"learning_rate": 2e-6},
        {"group_size": 8, "learning_rate": 1e-6, "kl_coef": 0.01},
    ]


def test_an_early_stop_is_part_of_a_strategy(run_here: Run, tmp_path: Path) -> None:
    """The budget ends the third stage, and with it the search, at its second validation."""
    quick = ["hparams.parameters.learning_rate.default=3e-6", "search=practitioner", "search.workers=1"]
    run_here("search", *SIMULATED, *quick, "budget.gpu_seconds=16", f"search_dir={tmp_path}/s")
    assert [node.state for node in stages_of(tmp_path / "s")] == ["completed", "completed", "stopped"]
    strategy = yaml.safe_load((tmp_path / "s/strategy.yaml").read_text())
    assert [(stage["steps"], stage.get("stop_at")) for stage in strategy["stages"]] == [
        (16, None),
        (16, None),
        (16, 8),
    ]
    run_here("replay", *SIMULATED, *quick, f"strategy={tmp_path}/s/strategy.yaml", f"search_dir={tmp_path}/r")
    assert [(node.steps, node.state) for node in stages_of(tmp_path / "r")] == [
        (16, "completed"),
        (16, "completed"),
        (8, "completed"),
    ]


def test_another_strategy_in_the_same_directory_is_refused(run_here: Run, tmp_path: Path) -> None:
    strategy = write(
        tmp_path / "s.yaml", [{"steps": 4, "changes": {}}, {"steps": 4, "changes": {"group_size": 16}}]
    )
    run_here("replay", *SIMULATED, f"strategy={strategy}", f"search_dir={tmp_path}/r")
    write(strategy, [{"steps": 4, "changes": {}}, {"steps": 4, "changes": {"group_size": 32}}])
    refused = run_here("replay", *SIMULATED, f"strategy={strategy}", f"search_dir={tmp_path}/r", ok=False)
    assert refused.returncode == 2
    assert "search.method.stages.2.hparams.group_size is 16 there and 32 here" in refused.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "strategy=FILE or rule=FILE: give exactly one of them"),
        (
            ["strategy={search}/strategy.yaml", "rule={search}/strategy.yaml"],
            "strategy=FILE or rule=FILE: give exactly one of them",
        ),
        (
            ["strategy=nowhere.yaml"],
            "nowhere.yaml: no such file; a finished search writes one into its search_dir",
        ),
        (
            ["strategy={search}/strategy.yaml", "model=nano"],
            "stage 1: learning_rate=2e-06: must be float from 1e-05 to 0.001",
        ),
        (
            ["strategy={search}/strategy.yaml", "transfer=exact"],
            "transfer=exact: must be one of relative, values",
        ),
        (["rule={search}/strategy.yaml"], "strategy.yaml:\n  stages: unknown key"),
        (["rule={search}/strategy.yaml", "stages=0"], "stages=0: must be at least 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    run_here: Run, simulated: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    arguments = [override.format(search=simulated) for override in overrides]
    done = run_here("replay", *SIMULATED, *arguments, f"search_dir={tmp_path}/r", ok=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_strategy_moves_to_another_model(run_here: Run, simulated: Path, tmp_path: Path) -> None:
    """From a language model's catalogue to the nano model's: a hundred times the learning rate; simulated."""
    moved = [
        "model=nano",
        "transfer=relative",
        f"strategy={simulated}/strategy.yaml",
        f"search_dir={tmp_path}/r",
    ]
    printed = run_here("replay", *SIMULATED, *moved).stdout
    note = "prompts_per_step=256 goes beyond the bounds here: 64 (must be one of 8, 16, 32, 64)"
    stages = stages_of(tmp_path / "r")
    assert [node.proposal["changes"] for node in stages] == [
        {"learning_rate": 2e-4},
        {"prompts_per_step": 64},
    ]
    assert [node.proposal["notes"] for node in stages] == [[], [note]]
    assert f"  stage 2: {note}" in printed.splitlines()


def test_a_multirun_over_seeds_and_models_gives_every_replay_a_directory(
    launch: Run, simulated: Path, tmp_path: Path
) -> None:
    strategy = f"strategy={simulated}/strategy.yaml"
    launch(
        "replay", "-m", *SIMULATED, strategy, "transfer=relative", "seed=0,1", "model=none,nano", cwd=tmp_path
    )
    summaries = {
        path.name: json.loads((path / "summary.json").read_text())
        for path in (tmp_path / "runs").glob("replay-*")
    }
    assert sorted(summaries) == [
        f"replay-searched-none-{model}-{seed}" for model in ("nano", "none") for seed in (0, 1)
    ]
    assert {summary["state"] for summary in summaries.values()} == {"finished"}
    assert (
        summaries["replay-searched-none-none-0"]["best"]["score"]
        != summaries["replay-searched-none-none-1"]["best"]["score"]
    )


def test_a_rule_decides_on_every_stage_by_the_one_before(
    run_here: Run, searched: Path, tmp_path: Path
) -> None:
    clauses = [
        {"parameter": "prompts_per_step", "notches": 1, "when": {"observe": "gain", "at_most": 1.0}},
        {"parameter": "learning_rate", "factor": 2.0, "when": {"observe": "late entropy", "at_least": 0.0}},
        {"parameter": "kl_coef", "factor": 2.0, "when": {"observe": "late kl", "at_least": 100.0}},
    ]
    (tmp_path / "rule.yaml").write_text(dump_yaml({"format": 1, "clauses": clauses}))
    run_here("replay", *SIMULATED, f"rule={tmp_path}/rule.yaml", "stages=5", f"search_dir={tmp_path}/r")
    stages = stages_of(tmp_path / "r")
    assert [node.hparams["prompts_per_step"] for node in stages] == [64, 128, 256, 256, 256]
    assert [node.hparams["learning_rate"] for node in stages] == [1e-6, 2e-6, 4e-6, 8e-6, 1e-5]
    assert {node.hparams["kl_coef"] for node in stages} == {0.001}
    assert stages[1].proposal["reasons"] == {
        "prompts_per_step": "gain at most 1",
        "learning_rate": "late entropy at least 0",
    }


def test_the_rule_of_a_search_can_be_used_by_another(run_here: Run, searched: Path, tmp_path: Path) -> None:
    rule = yaml.safe_load((searched / "rule.yaml").read_text())
    run_here(
        "search",
        *SIMULATED,
        "agent=rule_file",
        f"agent.path={searched}/rule.yaml",
        "seed=5",
        f"search_dir={tmp_path}/s",
    )
    changed = {
        name
        for node in stages_of(tmp_path / "s")
        if "By the rule" in node.proposal["rationale"]
        for name in node.proposal["changes"]
    }
    assert changed
    assert changed <= {clause["parameter"] for clause in rule["clauses"]}
    refused = run_here(
        "search",
        *SIMULATED,
        "agent=rule_file",
        f"agent.path={searched}/strategy.yaml",
        f"search_dir={tmp_path}/x",
        ok=False,
    )
    assert f"agent.path={searched}/strategy.yaml:\n  stages: unknown key" in refused.stderr
    assert not (tmp_path / "x").exists()


# --- in one process ---


@pytest.fixture(scope="module")
def micro_strategy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stages: list[dict[str, Any]] = [
        {"steps": 6, "changes": LEARNING},
        {"steps": 6, "changes": {"minibatches": 2, "optimizer_state": "reset"}, "resume": "last"},
        {"steps": 9, "stop_at": 4, "changes": {"group_size": 8, "reference": "parent"}},
    ]
    return write(tmp_path_factory.mktemp("micro") / "strategy.yaml", stages)


@pytest.fixture(scope="module")
def by_processes(launch: Run, micro_strategy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replay with a process a stage."""
    search = tmp_path_factory.mktemp("local") / "r"
    launch("replay", *TRAINED, f"strategy={micro_strategy}", f"search_dir={search}", "runner.threads=1")
    return search


def points(search_dir: Path) -> dict[str, list[tuple[int, int, float]]]:
    files = sorted(search_dir.glob("*/*/validation.jsonl"))
    return {
        f"{f.parent.parent.name}/{f.parent.name}": [
            (row["step"], row["global_step"], row["score"]) for row in read_lines(f)
        ]
        for f in files
    }


def assert_same_replay(a: Path, b: Path) -> None:
    assert points(a) == points(b)
    checkpoints = [
        path.relative_to(a)
        for path in sorted(a.glob("nodes/*/checkpoints/step_*"))
        if path.parent.parent.name != "0000"
    ]
    assert len(checkpoints) >= 3
    assert all(same_bits(a / checkpoint, b / checkpoint) for checkpoint in checkpoints)


def test_one_process_trains_the_same_bits_as_a_process_a_stage(
    launch: Run, by_processes: Path, micro_strategy: Path, tmp_path: Path
) -> None:
    search = tmp_path / "r"
    started = time.time()
    launch(
        "replay",
        *TRAINED,
        "runner=inline",
        f"strategy={micro_strategy}",
        f"search_dir={search}",
        "runner.threads=1",
    )
    elapsed = time.time() - started
    assert_same_replay(by_processes, search)
    assert [len(points(search)[f"nodes/000{i}"]) for i in (1, 2, 3)] == [2, 2, 2]
    nodes = [StageDir(path) for path in sorted((search / "nodes").iterdir())]
    assert len({node.status()["pid"] for node in nodes}) == 1
    spent = [node.result().seconds for node in nodes]  # type: ignore[union-attr]
    assert sum(spent) < elapsed, "each stage has its own time, not that of the process"
    assert all(0 < seconds < elapsed for seconds in spent)


def test_one_process_that_is_told_to_leave_goes_on_as_if_nothing_had_been(
    environment: dict[str, str], launch: Run, by_processes: Path, micro_strategy: Path, tmp_path: Path
) -> None:
    search = tmp_path / "r"
    overrides = [
        *TRAINED,
        "runner=inline",
        f"strategy={micro_strategy}",
        f"search_dir={search}",
        "runner.threads=1",
    ]
    for node, number in (
        ("0000", signal.SIGTERM),
        ("0001", signal.SIGTERM),
        ("0002", signal.SIGUSR2),
        ("0003", signal.SIGKILL),
    ):
        stage = StageDir(search / "nodes" / node)
        process = subprocess.Popen(
            command("replay", *overrides), env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL
        )
        while not (
            stage.metrics() or (node == "0000" and stage.status())
        ):  # the base model's stage has no steps: it ends before the driver leaves
            assert process.poll() is None, "the replay ended before it could be told to leave"
            time.sleep(0.001)
        process.send_signal(number)
        assert process.wait() == (INTERRUPTED if number != signal.SIGKILL else -signal.SIGKILL)
        assert json.loads((search / "summary.json").read_text())["state"] in ("interrupted", "running")
    launch("replay", *overrides)
    assert_same_replay(by_processes, search)
    assert json.loads((search / "summary.json").read_text())["nodes"]["completed"] == 4


def test_a_plan_for_one_process_loads_no_deep_learning_library(micro_strategy: Path) -> None:
    code = "import sys, runpy; sys.argv=['replay.py','dry_run=true','runner=inline',sys.argv[1]]; "
    code += "runpy.run_path('launchers/replay.py', run_name='__main__'); print('torch' in sys.modules)"
    argument = f"strategy={micro_strategy}"
    done = subprocess.run(
        [sys.executable, "-c", code, argument], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.strip().endswith("False")
