"""Whole simulated searches: what they leave, how they go on, what they refuse."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.full_disk import trials_of
from llmzero.cli import BAD_INPUT
from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY
from tests.integration.conftest import Run, command, read_lines
from tests.integration.searches import SIMULATED, assert_consistent, start_and_kill, summary

# --- simulated ---


def test_a_simulated_search_leaves_everything_it_promises(launch: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    printed = launch("search", *SIMULATED, f"search_dir={search}").stdout
    assert_consistent(search, 16)
    outcome = summary(search)
    assert outcome["best"]["path"][0] == "0000"
    assert outcome["best"]["score"] > outcome["base_score"]
    assert [point["stages"] for point in outcome["trajectory"]] == list(range(1, 17))
    assert outcome["test"] == json.loads((search / "test.json").read_text())
    assert {
        name: set(outcome["test"][name]) >= {"score", "stderr"} for name in outcome["test"]
    } == dict.fromkeys(["base", "practitioner", "best"], True)
    for name in ("config.yaml", "strategy.yaml", "report.html"):
        assert (search / name).stat().st_size > 0
    proposal = json.loads((search / "nodes/0002/proposal.json").read_text())
    assert proposal["agent"] == "rules"
    assert proposal["diagnosis"]
    assert proposal["rationale"]
    assert "No language model is configured" in printed


def test_one_worker_and_the_same_seed_give_the_same_tree(run_here: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_here("search", *SIMULATED, "search.workers=1", "seed=3", f"search_dir={tmp_path}/{name}")

    def decisions(name: str) -> list:
        events = read_lines(tmp_path / name / "tree.jsonl")
        return [(e["node_id"], e["parent_id"], e["hparams"]) for e in events if e["event"] == "created"]

    assert decisions("a") == decisions("b")


def test_a_finished_search_is_not_run_again_and_a_larger_budget_extends_it(
    run_here: Run, tmp_path: Path
) -> None:
    search = tmp_path / "s"
    run_here("search", *SIMULATED, "budget.stages=4", f"search_dir={search}")
    events = len(read_lines(search / "tree.jsonl"))
    run_here("search", *SIMULATED, "budget.stages=4", f"search_dir={search}")
    assert len(read_lines(search / "tree.jsonl")) == events
    run_here("search", *SIMULATED, "budget.stages=6", f"search_dir={search}")
    assert_consistent(search, 6)


def test_the_practitioner_method_is_one_chain_of_one_configuration(run_here: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    run_here("search", *SIMULATED, "search=practitioner", "search.max_depth=3", f"search_dir={search}")
    store = EventStore(search / "tree.jsonl")
    assert [node.depth for node in store.tree] == [0, 1, 2, 3]
    assert len({json.dumps(node.hparams) for node in store.tree}) == 1


@pytest.mark.parametrize(("limit", "value"), [("gpu_seconds", 120), ("seconds", 0.3)])
def test_time_budgets_end_a_search(run_here: Run, tmp_path: Path, limit: str, value: float) -> None:
    search = tmp_path / "s"
    run_here("search", *SIMULATED, "budget.stages=500", f"budget.{limit}={value}", f"search_dir={search}")
    spent = summary(search)["budget"]
    assert spent["stages"] < 500
    assert spent[limit] >= value


OUTSIDE_RUNNER = '''
from dataclasses import dataclass
from pathlib import Path
from llmzero.core.stage import StageResult, StageStatus, ValidationPoint
from llmzero.runners.base import StageRunner

class Runner(StageRunner):
    """A table of scores: it trains nothing, and its parameters are called as it likes."""
    trains = False
    def start(self, spec): return Handle(spec)
    def attach(self, spec): return None

@dataclass
class Handle:
    spec: object
    def poll(self): return StageStatus("completed")
    def stop(self): pass
    def result(self):
        score = (spec := self.spec).depth * 0.1 + (0.05 if spec.hparams.get("colour") == "red" else 0.0)
        point = ValidationPoint(spec.steps, spec.depth * spec.steps, score, 0.01, 100, 0.0)
        somewhere = Path("somewhere")
        return StageResult("completed", [point], spec.steps, score, somewhere, 1.0, 2.0, None, somewhere)
'''


@pytest.mark.parametrize("agent", ["rules", "random"])
def test_a_runner_and_a_catalogue_from_outside_the_repository(
    launch: Run, tmp_path: Path, agent: str
) -> None:
    conf = tmp_path / "conf"
    for group in ("runner", "hparams"):
        (conf / group).mkdir(parents=True)
    (tmp_path / "outside.py").write_text(OUTSIDE_RUNNER)
    (conf / "runner/outside.yaml").write_text("_target_: outside.Runner\n")
    choices = "{group: capacity, kind: choice, choices: [red, green, blue], default: blue}"
    spin = "{group: regularization, kind: int, choices: [1, 2, 3], default: 1}"
    (conf / "hparams/odd.yaml").write_text(f"parameters:\n  colour: {choices}\n  spin: {spin}\n")
    overrides = [
        "task=none",
        "model=none",
        "runner=outside",
        "hparams=odd",
        f"agent={agent}",
        "tracking=none",
        f"search_dir={tmp_path}/s",
    ]
    launch("search", "--config-dir", str(conf), *overrides, PYTHONPATH=str(tmp_path))
    outcome = summary(tmp_path / "s")
    assert outcome["nodes"]["completed"] == 17
    assert outcome["budget"]["gpu_seconds"] == 32.0


# --- bad input ---


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["task=counting"],
            "task=counting: must be one of chem, countdown, jsonl, math, metro, none, reasoning_gym, ssmr, "
            "tower",
        ),
        (["model=giant"], "nano"),
        (["agent=oracle"], "rules"),
        (
            ["budget.stagess=3"],
            "known there: stages, seconds, gpu_seconds, flops, llm_dollars, llm_tokens, disk_gb, deadline",
        ),
        (
            ["search.workers=many"],
            "search.workers: Value 'many' of type 'str' could not be converted to Integer",
        ),
        (["search.workers=0"], "search.workers=0: must be from 1 to 1024"),
        (["hparams.parameters.kl_coef.default=7"], "kl_coef=7: must be float from 0 to 0.2"),
        (["model=hf"], "model.path: needs a value"),
        (["search_dir=/proc/nowhere"], "search_dir=/proc/nowhere: cannot be written"),
    ],
)
def test_bad_input_is_refused_with_the_key_and_what_is_allowed(
    run_here: Run, tmp_path: Path, overrides: list[str], message: str
) -> None:
    default = [] if any("search_dir" in o for o in overrides) else [f"search_dir={tmp_path}/s"]
    refused = run_here("search", *default, *overrides, ok=False)
    assert refused.returncode == BAD_INPUT
    assert message in refused.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.workers=0", "search.workers=0: must be from 1 to 1024"),
        ("budget.stagess=3", "known there: stages"),
    ],
)
def test_bad_input_ends_a_launcher_with_a_message_alone(
    launch: Run, tmp_path: Path, override: str, message: str
) -> None:
    refused = launch("search", override, f"search_dir={tmp_path}/s", ok=False)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "s").exists()


def test_a_dry_run_checks_everything_and_starts_nothing(launch: Run, tmp_path: Path) -> None:
    printed = launch("search", "dry_run=true", f"search_dir={tmp_path}/s").stdout
    assert "dry run: everything fits; nothing was started" in printed
    assert "256 GRPO steps of 32 to 1024 completions" in printed
    assert not (tmp_path / "s").exists()
    assert "group=option" in launch("search", "--help").stdout
    assert yaml.safe_load(launch("search", "--cfg", "job").stdout)["budget"]["stages"] == 16


def test_a_directory_of_another_search_is_refused(run_here: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    run_here("search", *SIMULATED, "budget.stages=2", f"search_dir={search}")
    before = (search / "tree.jsonl").read_bytes()
    done = run_here("search", *SIMULATED, "budget.stages=2", "seed=5", f"search_dir={search}", ok=False)
    assert done.returncode == 2
    assert "holds another search: seed is 0 there and 5 here" in done.stderr
    assert (search / "tree.jsonl").read_bytes() == before


def test_output_that_nobody_reads_on_ends_a_command_without_a_word(environment: dict[str, str]) -> None:
    lines = subprocess.Popen(
        command("inspect_task", "task=countdown", "n=2000", "json=true"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert lines.stdout and lines.stderr
    assert json.loads(lines.stdout.readline())["prompt"]
    lines.stdout.close()
    assert lines.stderr.read() == b""
    assert lines.wait() == 141


def test_multirun_runs_one_search_after_another(launch: Run, tmp_path: Path) -> None:
    launch("search", "-m", *SIMULATED, "budget.stages=2", "seed=0,1", f"search_dir={tmp_path}/s-${{seed}}")
    assert [summary(tmp_path / f"s-{seed}")["nodes"]["total"] for seed in (0, 1)] == [3, 3]


@pytest.mark.parametrize(("kind", "sizes"), [("simulated", 4), ("trained", 2), ("processes", 1)])
def test_disks_that_are_full_at_any_moment_lose_nothing(kind: str, sizes: int) -> None:
    if os.geteuid():
        assert not os.environ.get("CI"), "small file systems cannot be mounted"
        pytest.skip("mounting a small file system needs root")
    trials = list(trials_of(kind, sizes))
    assert sum(trial.full > 0 for trial in trials) >= sizes - 1
    assert all(trial.same and trial.named and not trial.temporary for trial in trials), trials


# --- crashes ---


def test_killing_a_simulated_search_twenty_times_changes_nothing(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    """With one worker decisions depend on the seed alone: the tree is that of an uninterrupted search."""
    overrides = [*SIMULATED, "search.workers=1", "budget.stages=30"]
    launch("search", *overrides, f"search_dir={tmp_path}/whole")
    rng = random.Random(0)
    for _ in range(20):
        start_and_kill(0.25 + rng.random() * 0.4, environment, *overrides, f"search_dir={tmp_path}/killed")
    launch("search", *overrides, f"search_dir={tmp_path}/killed")
    assert_consistent(tmp_path / "killed", 30)
    trees = [EventStore(tmp_path / name / "tree.jsonl").tree for name in ("whole", "killed")]
    assert [(n.parent_id, n.hparams, n.score) for n in trees[0]] == [
        (n.parent_id, n.hparams, n.score) for n in trees[1]
    ]


def test_the_first_line_comes_at_once() -> None:
    """Without torch: a driver lives on a login node."""
    code = "import sys, runpy; sys.argv=['search.py','dry_run=true']; "
    code += "runpy.run_path('launchers/search.py', run_name='__main__'); "
    code += "print('torch' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    ).stdout
    assert printed.startswith("LLMZero:")
    assert printed.strip().endswith("False")
