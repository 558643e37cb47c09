from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from llmzero.core.documents import dump_yaml
from llmzero.core.files import append_jsonl, read_jsonl, write_json
from llmzero.core.stage import StageDir, StageResult, StageSpec, ValidationPoint, commit_checkpoint


def point(step: int, score: float) -> ValidationPoint:
    return ValidationPoint(step=step, global_step=step + 10, score=score, stderr=0.01, n=100, seconds=0.5)


def test_a_spec_survives_its_file(tmp_path: Path) -> None:
    spec = StageSpec(
        "0007",
        "0003",
        2,
        tmp_path / "0007",
        tmp_path / "c",
        {"learning_rate": 1e-4},
        25,
        3,
        {"task": {"x": [1, None]}, "trainer": {}},
    )
    stage = StageDir(spec.directory)
    stage.write_spec(spec)
    assert stage.read_spec() == spec


def test_an_infinite_setting_of_a_spec_survives_its_file(tmp_path: Path) -> None:
    config = {"trainer": {"collective_timeout_s": float("inf")}}
    spec = StageSpec("0001", None, 1, tmp_path / "0001", None, {"learning_rate": 1e-4}, 25, 3, config)
    stage = StageDir(spec.directory)
    stage.write_spec(spec)
    assert stage.read_spec() == spec


def test_the_spec_of_an_earlier_version_is_read_until_it_is_written_anew(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "0001")
    assert not stage.has_spec()
    spec = StageSpec(
        "0001", "0000", 1, stage.path, tmp_path / "c", {"learning_rate": 1e-05}, 25, 3, {"task": {}}
    )
    stage.path.mkdir()
    (stage.path / "stage.yaml").write_text(dump_yaml(spec.to_dict()))
    assert stage.has_spec()
    assert stage.read_spec() == spec
    longer = replace(spec, steps=50)
    stage.write_spec(longer)
    assert stage.read_spec() == longer


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = StageResult(
        "stopped", [point(5, 0.3), point(10, 0.2)], 5, 0.3, tmp_path / "a", 12.5, 25.0, None, tmp_path / "b"
    )
    stage = StageDir(tmp_path)
    assert stage.result() is None
    stage.write_result(result)
    assert stage.result() == result


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    append_jsonl(file, [{"step": 1}, {"step": 2}])
    with file.open("a") as handle:
        handle.write('{"step": 3, "rew')
    assert read_jsonl(file) == [{"step": 1}, {"step": 2}]


def test_what_is_not_a_number_is_written_as_null(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"loss": float("nan"), "deep": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"loss": None, "deep": [None, 1.5]}


def test_a_half_written_checkpoint_does_not_exist(tmp_path: Path) -> None:
    stage = StageDir(tmp_path)
    for step in (5, 10):
        building = stage.checkpoints / f".writing-{step}"
        building.mkdir(parents=True)
        (building / "model.safetensors").write_text("weights")
        commit_checkpoint(building, stage.checkpoint(step))
    half = stage.checkpoint(15)
    half.mkdir()
    (half / "model.safetensors").write_text("wei")
    assert stage.complete_checkpoints() == [stage.checkpoint(5), stage.checkpoint(10)]


def test_a_failed_stage_offers_its_best_whole_checkpoint(tmp_path: Path) -> None:
    stage = StageDir(tmp_path)
    for step, score in ((5, 0.3), (10, 0.6), (15, 0.5)):
        append_jsonl(stage.validation_file, [vars(point(step, score))])
    for step in (5, 15):
        stage.checkpoint(step).mkdir(parents=True)
        (stage.checkpoint(step) / "COMPLETE").touch()
    failure = stage.failure("out of memory", 3.0, 6.0)
    assert (failure.state, failure.best_step, failure.best_score, failure.error) == (
        "failed",
        15,
        0.5,
        "out of memory",
    )
    assert failure.checkpoint == failure.last_checkpoint == stage.checkpoint(15)


def test_a_retried_stage_forgets_what_it_will_write_again(tmp_path: Path) -> None:
    stage = StageDir(tmp_path)
    append_jsonl(stage.metrics_file, [{"step": s} for s in range(1, 9)])
    append_jsonl(stage.validation_file, [vars(point(s, 0.1)) for s in (5, 8)])
    stage.truncate_after(5)
    assert [row["step"] for row in stage.metrics()] == [1, 2, 3, 4, 5]
    assert [p.step for p in stage.validation()] == [5]


def test_a_log_that_is_shortened_is_never_seen_shorter_than_it_becomes(tmp_path: Path) -> None:
    """A process that is killed while it shortens its log leaves what a reader sees at that moment."""
    stage = StageDir(tmp_path)
    append_jsonl(stage.metrics_file, [{"step": s} for s in range(1, 9)])
    before = stage.metrics_file.stat().st_ino
    code = "from pathlib import Path; from llmzero.core.stage import StageDir\n"
    code += f"while True: StageDir(Path({str(tmp_path)!r})).truncate_after(5)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        while stage.metrics_file.stat().st_ino == before:
            assert process.poll() is None
        assert {len(stage.metrics()) for _ in range(2000)} == {5}
    finally:
        process.kill()
        process.wait()


def test_only_whole_checkpoints_stay_after_an_interruption(tmp_path: Path) -> None:
    stage = StageDir(tmp_path)
    for content in ("old", "new"):
        building = stage.checkpoints / ".writing-step_00005"
        building.mkdir(parents=True)
        (building / "model.safetensors").write_text(content)
        commit_checkpoint(building, stage.checkpoint(5))
    assert [path.name for path in stage.checkpoints.iterdir()] == ["step_00005"]
    assert (stage.checkpoint(5) / "model.safetensors").read_text() == "new"
    for unfinished in (".writing-step_00007", "step_00006"):
        (stage.checkpoints / unfinished).mkdir()
    stage.remove_unfinished()
    assert [path.name for path in stage.checkpoints.iterdir()] == ["step_00005"]
