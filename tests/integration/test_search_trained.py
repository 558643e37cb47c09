"""Whole searches that train for real, also where they or their stages are killed at random moments."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from llmzero.tree.store import EventStore
from tests.integration.conftest import Run, read_lines
from tests.integration.searches import TRAINED, assert_consistent, start, summary
from tests.integration.stage_processes import stage_processes


def trained_steps_are_continuous(search_dir: Path) -> bool:
    return all(
        [row["step"] for row in read_lines(file)] == list(range(1, 1 + len(read_lines(file))))
        for file in search_dir.glob("nodes/*/metrics.jsonl")
    )


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
    """Stages side by side below the base model, with one checkpoint each: weights of size 1, optimizer of 2.

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
    long = ["search.stage_steps=2000", "trainer.validation_every=1000"]
    driver = start(environment, *TRAINED, *long, f"search_dir={search}")
    wait_until(lambda: any(stage.name == "0001" for _, stage in stage_processes(search)), driver)
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
        assert "another process is at work there" in second.stderr
    finally:
        kill_all(first, search)


def wait_until(condition: Callable[[], object], driver: subprocess.Popen[bytes]) -> None:
    """Wait for what has to come about while the driver runs."""
    while not condition():
        assert driver.poll() is None, "the search ended too early"
        time.sleep(0.02)


def kill_all(driver: subprocess.Popen[bytes], search_dir: Path) -> None:
    driver.kill()
    driver.wait()
    for process, _ in stage_processes(search_dir):
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
    for process, stage in stage_processes(search_dir):
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
        for process, stage in stage_processes(search):
            if stage.name == "0001":
                process.kill()
                process.wait()
                killed += 1
        time.sleep(0.02)
    driver.wait()
    store = EventStore(search / "tree.jsonl")
    assert (store.tree["0001"].state, store.tree["0001"].attempts) == ("failed", 2)
    assert "died without a result" in str(store.tree["0001"].result.error)  # type: ignore[union-attr]
    assert_consistent(search, 4)
