"""Whole searches through the launcher, simulated and trained; crashes at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from llmzero.tree.store import EventStore
from tests.conftest import REPOSITORY
from tests.integration.conftest import MICRO, Run, command, read_lines

SIMULATED = ["experiment=simulated"]
TRAINED = [*MICRO, "tracking=none", "budget.stages=4", "search.stage_steps=6", "trainer.validation_every=3"]


def summary(search_dir: Path) -> dict:
    return json.loads((search_dir / "summary.json").read_text())


def assert_consistent(search_dir: Path, stages: int) -> None:
    """The same number of nodes, every stage paid once, and a ledger that is the sum of the results."""
    store = EventStore(search_dir / "tree.jsonl")
    finished = [
        event["node_id"] for event in read_lines(search_dir / "tree.jsonl") if event["event"] == "finished"
    ]
    assert sorted(finished) == [f"{i:04d}" for i in range(stages + 1)]
    assert all(node.final for node in store.tree)
    results = [
        json.loads((search_dir / "nodes" / node.node_id / "result.json").read_text())
        for node in store.tree.stages()
        if node.usable
    ]
    failed = [node.result for node in store.tree.stages() if not node.usable]
    total = sum(r["gpu_seconds"] for r in results) + sum(r.gpu_seconds for r in failed if r)
    outcome = summary(search_dir)
    assert outcome["budget"]["gpu_seconds"] == pytest.approx(total, abs=0.01)
    assert outcome["budget"]["stages"] == stages
    assert outcome["nodes"]["total"] == stages + 1
    assert sum(outcome["nodes"][state] for state in ("completed", "stopped", "failed")) == stages + 1
    assert outcome["state"] == "finished"


def trained_steps_are_continuous(search_dir: Path) -> bool:
    return all(
        [row["step"] for row in read_lines(file)] == list(range(1, 1 + len(read_lines(file))))
        for file in search_dir.glob("nodes/*/metrics.jsonl")
    )


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


def test_one_worker_and_the_same_seed_give_the_same_tree(launch: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        launch("search", *SIMULATED, "search.workers=1", "seed=3", f"search_dir={tmp_path}/{name}")

    def decisions(name: str) -> list:
        events = read_lines(tmp_path / name / "tree.jsonl")
        return [(e["node_id"], e["parent_id"], e["hparams"]) for e in events if e["event"] == "created"]

    assert decisions("a") == decisions("b")


def test_a_finished_search_is_not_run_again_and_a_larger_budget_extends_it(
    launch: Run, tmp_path: Path
) -> None:
    search = tmp_path / "s"
    launch("search", *SIMULATED, "budget.stages=4", f"search_dir={search}")
    events = len(read_lines(search / "tree.jsonl"))
    launch("search", *SIMULATED, "budget.stages=4", f"search_dir={search}")
    assert len(read_lines(search / "tree.jsonl")) == events
    launch("search", *SIMULATED, "budget.stages=6", f"search_dir={search}")
    assert_consistent(search, 6)


def test_the_practitioner_method_is_one_chain_of_one_configuration(launch: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    launch("search", *SIMULATED, "search=practitioner", "search.max_depth=3", f"search_dir={search}")
    store = EventStore(search / "tree.jsonl")
    assert [node.depth for node in store.tree] == [0, 1, 2, 3]
    assert len({json.dumps(node.hparams) for node in store.tree}) == 1


@pytest.mark.parametrize(("limit", "value"), [("gpu_seconds", 120), ("seconds", 0.3)])
def test_time_budgets_end_a_search(launch: Run, tmp_path: Path, limit: str, value: float) -> None:
    search = tmp_path / "s"
    launch("search", *SIMULATED, "budget.stages=500", f"budget.{limit}={value}", f"search_dir={search}")
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
    (conf / "runner/table.yaml").write_text("_target_: outside.Runner\n")
    choices = "{group: capacity, kind: choice, choices: [red, green, blue], default: blue}"
    spin = "{group: regularization, kind: int, choices: [1, 2, 3], default: 1}"
    (conf / "hparams/odd.yaml").write_text(f"parameters:\n  colour: {choices}\n  spin: {spin}\n")
    overrides = [
        "task=none",
        "model=none",
        "runner=table",
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
            "task=counting: must be one of chem, countdown, jsonl, math, none, reasoning_gym, ssmr",
        ),
        (["model=giant"], "nano"),
        (["agent=oracle"], "rules"),
        (
            ["budget.stagess=3"],
            "known there: stages, seconds, gpu_seconds, llm_dollars, llm_tokens, disk_gb, deadline",
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
def test_bad_input_ends_in_seconds_with_the_key_and_what_is_allowed(
    launch: Run, tmp_path: Path, overrides: list[str], message: str
) -> None:
    default = [] if any("search_dir" in o for o in overrides) else [f"search_dir={tmp_path}/s"]
    done = launch("search", *default, *overrides, ok=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_a_dry_run_checks_everything_and_starts_nothing(launch: Run, tmp_path: Path) -> None:
    printed = launch("search", "dry_run=true", f"search_dir={tmp_path}/s").stdout
    assert "dry run: everything fits; nothing was started" in printed
    assert "256 GRPO steps of 32 to 1024 completions" in printed
    assert not (tmp_path / "s").exists()
    assert "group=option" in launch("search", "--help").stdout
    assert yaml.safe_load(launch("search", "--cfg", "job").stdout)["budget"]["stages"] == 16


def test_a_directory_of_another_search_is_refused(launch: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    launch("search", *SIMULATED, "budget.stages=2", f"search_dir={search}")
    before = (search / "tree.jsonl").read_bytes()
    done = launch("search", *SIMULATED, "budget.stages=2", "seed=5", f"search_dir={search}", ok=False)
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


def test_a_full_disk_is_said_and_loses_nothing(launch: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        assert not os.environ.get("CI"), "a small file system cannot be mounted"
        pytest.skip("mounting a small file system needs root")
    try:
        done = launch("search", *SIMULATED, "budget.stages=400", f"search_dir={disk}/s", ok=False)
        assert done.returncode == 2
        assert "the disk is full; free some space" in done.stderr
        ended = len([e for e in read_lines_forgiving(disk / "s/tree.jsonl") if e["event"] == "finished"])
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        launch("search", *SIMULATED, f"budget.stages={ended + 2}", f"search_dir={disk}/s")
        assert_consistent(disk / "s", ended + 2)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def read_lines_forgiving(path: Path) -> list[dict]:
    from llmzero.core.files import read_jsonl

    return read_jsonl(path)


# --- crashes ---


def start(environment: dict[str, str], *overrides: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("search", *overrides),
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def start_and_kill(seconds: float, environment: dict[str, str], *overrides: str) -> None:
    process = start(environment, *overrides)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


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


@pytest.fixture(scope="module")
def trained(launch: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    search = tmp_path_factory.mktemp("trained") / "s"
    launch("search", *TRAINED, f"search_dir={search}")
    return search


def test_a_search_trains_for_real(trained: Path) -> None:
    assert_consistent(trained, 4)
    outcome = summary(trained)
    assert outcome["test"]["practitioner"]["steps"] == outcome["test"]["best"]["steps"]
    specs = [json.loads(file.read_text()) for file in sorted(trained.glob("nodes/*/stage.json"))]
    assert specs[0]["steps"] == 0
    assert all(spec["resume_from"] for spec in specs[1:])
    assert {spec["trainer"]["evaluation_split"] for spec in specs} == {"val"}
    assert "test" not in json.dumps(
        [json.loads(f.read_text()) for f in trained.glob("nodes/*/proposal.json")]
    )
    assert trained_steps_are_continuous(trained)


def test_two_processes_a_stage_within_a_disk_quota(launch: Run, root: Path, tmp_path: Path) -> None:
    """Stages side by side below the base model, with a checkpoint each: weights and optimizer, 1 and 2 in size.

    So the base model takes 1, the practitioner's stage and the best one 3 each, all others 1 without their
    optimizer states.
    """
    search, conf = tmp_path / "s", tmp_path / "conf"
    (conf / "task").mkdir(parents=True)
    sizes = {"train_size": 400, "val_size": 32, "test_size": 32}
    (conf / "task/terse.yaml").write_text(
        yaml.safe_dump({"_target_": "tests.integration.odd_parts.Terse", "difficulty": "nano", **sizes})
    )
    quota = int(8.5 * size_of(root))
    below_the_base = [
        "search.workers=1",
        "search.max_depth=1",
        "search.method.k_max=12",
        "budget.stages=12",
        f"budget.disk_gb={quota / 1e9}",
    ]
    training = [
        "runner.processes_per_stage=2",
        "trainer.zero_stage=2",
        "hparams.parameters.learning_rate.default=1e-3",
        "trainer.validation_every=6",
    ]
    settings = ["task=terse", *TRAINED, *below_the_base, *training, f"search_dir={search}"]
    launch("search", "--config-dir", str(conf), *settings)
    results = {
        file.parent.name: json.loads(file.read_text()) for file in sorted(search.glob("nodes/*/result.json"))
    }
    assert_consistent(search, len(results) - 1)
    assert all(result["state"] == "completed" for result in results.values())
    assert all(
        result["gpu_seconds"] == pytest.approx(2 * result["seconds"], abs=0.01) for result in results.values()
    )
    best = max(results, key=lambda node: results[node]["best_score"])
    assert len(results) - 1 == (6 if best == "0001" else 4), "it grows while dropping helps, and no further"
    assert sum(size_of(checkpoints) for checkpoints in search.glob("nodes/*/checkpoints")) >= quota
    drops = [event for event in read_lines(search / "tree.jsonl") if event["event"] == "dropped"]
    dead = results.keys() - {"0000", "0001", best}
    assert sorted((event["node_id"], event["files"]) for event in drops) == sorted(
        (node, [f"{optimizer_of(node)}"]) for node in dead
    )
    assert [node for node in results if (search / "nodes" / optimizer_of(node)).exists()] == sorted(
        {"0001", best}
    )
    assert all(
        (search / "nodes" / optimizer_of(node)).with_name("model.safetensors").exists() for node in dead
    )


def optimizer_of(node: str) -> str:
    return f"{node}/checkpoints/step_00006/optimizer.safetensors"


def size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def test_a_base_model_that_failed_is_tried_again(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    overrides = [*TRAINED, "budget.stages=1", f"search_dir={tmp_path}/s"]
    blocked = tmp_path / "file"
    blocked.touch()
    first = launch("search", *overrides, ok=False, LLMZERO_CACHE=str(blocked / "cache"))
    assert first.returncode == 2
    assert "the base model could not be prepared" in first.stderr
    assert summary(tmp_path / "s")["state"] == "interrupted"
    launch("search", *overrides)
    outcome = summary(tmp_path / "s")
    assert (
        outcome["state"],
        outcome["nodes"]["total"],
        outcome["nodes"]["failed"],
        outcome["budget"]["stages"],
    ) == (
        "finished",
        2,
        0,
        1,
    )


def test_a_polite_end_leaves_an_interrupted_search(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    search = tmp_path / "s"
    driver = start(environment, *TRAINED, f"search_dir={search}")
    wait_until(lambda: stage_processes(search), driver)
    driver.terminate()
    assert driver.wait() == 130
    assert summary(search)["state"] == "interrupted"
    assert stage_processes(search), "the stage goes on by itself"
    kill_all(driver, search)


def test_a_second_driver_refuses(launch: Run, environment: dict[str, str], tmp_path: Path) -> None:
    search = tmp_path / "s"
    first = start(environment, *TRAINED, f"search_dir={search}")
    try:
        wait_until(lambda: (search / "tree.jsonl").exists(), first)
        second = launch("search", *TRAINED, f"search_dir={search}", ok=False)
        assert second.returncode == 2
        assert "another driver is running this search" in second.stderr
    finally:
        kill_all(first, search)


def wait_until(condition: Callable[[], object], driver: subprocess.Popen[bytes]) -> None:
    """Wait for what has to come about while the driver runs."""
    while not condition():
        assert driver.poll() is None, "the search ended too early"
        time.sleep(0.02)


def stage_processes(search_dir: Path) -> list[psutil.Process]:
    """The processes that train a stage of this search (not submitit's controllers)."""
    processes = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "submitit.core._submit" in words and any(word.startswith(str(search_dir)) for word in words):
            processes.append(process)
    return processes


def kill_all(driver: subprocess.Popen[bytes], search_dir: Path) -> None:
    driver.kill()
    driver.wait()
    for process in stage_processes(search_dir):
        process.kill()


def test_three_kills_of_the_driver_and_three_of_stages(
    launch: Run, environment: dict[str, str], root: Path, tmp_path: Path
) -> None:
    """Every round may start two stages more than the one before, so that each has a stage to kill."""
    search, rng = tmp_path / "s", random.Random(1)
    for budget in (2, 4, 6):
        driver = start(environment, *TRAINED, f"budget.stages={budget}", f"search_dir={search}")
        kill_a_stage_and_the_driver(driver, search, rng)
    launch("search", *TRAINED, "budget.stages=6", f"search_dir={search}")
    assert_consistent(search, 6)
    tree = EventStore(search / "tree.jsonl").tree
    assert sum(node.attempts - 1 + (node.state == "failed") for node in tree) >= 3, "every kill was noticed"
    assert all(node.deaths for node in tree if node.state == "failed")
    assert trained_steps_are_continuous(search)


def kill_a_stage_and_the_driver(
    driver: subprocess.Popen[bytes], search_dir: Path, rng: random.Random
) -> None:
    """Kill both at random moments, once the base model is there."""
    base = search_dir / "nodes/0000/result.json"
    wait_until(base.exists, driver)
    lifetime = json.loads(base.read_text())["seconds"]  # the other stages live a little longer
    wait_until(lambda: kill_a_stage(search_dir, rng.random() * lifetime), driver)
    time.sleep(rng.random() * lifetime / 4)
    driver.kill()
    driver.wait()


def kill_a_stage(search_dir: Path, after: float) -> bool:
    """Kill a stage, but the base model, after some seconds; return whether it had not ended by then."""
    for process in stage_processes(search_dir):
        stage = next(
            Path(word).parent for word in process.info["cmdline"] if word.startswith(str(search_dir))
        )  # of submitit's directory
        if stage.parent.name == "nodes" and stage.name != "0000":
            with suppress(psutil.TimeoutExpired):
                process.wait(after)
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait()
            return not (stage / "result.json").exists()
    return False


def test_a_stage_that_dies_twice_is_failed_with_its_error_and_the_search_goes_on(
    launch: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    search = tmp_path / "s"
    driver = start(environment, *TRAINED, "search.workers=1", f"search_dir={search}")
    killed = 0
    while killed < 2:
        wait_until(lambda: (search / "nodes/0001/status.json").exists(), driver)
        for process in stage_processes(search):
            if any("nodes/0001" in word for word in process.cmdline()):
                process.kill()
                process.wait()
                killed += 1
        time.sleep(0.02)
    driver.wait()
    store = EventStore(search / "tree.jsonl")
    assert (store.tree["0001"].state, store.tree["0001"].attempts) == ("failed", 2)
    assert "died without a result" in str(store.tree["0001"].result.error)  # type: ignore[union-attr]
    assert_consistent(search, 4)


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
