"""One stage, as its own process: the directory contract, branching, interruption."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmzero.core.documents import dump_yaml
from tests.conftest import REPOSITORY
from tests.integration.conftest import MICRO, Run, Stages, command, last_checkpoint, read_lines

SMALL = "values={prompts_per_step: 8, group_size: 4, learning_rate: 1e-3}"


@pytest.fixture(scope="module")
def whole(run_here: Run, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps without interruption."""
    directory = tmp_path_factory.mktemp("whole") / "stage"
    run_here(
        "train",
        *MICRO,
        SMALL,
        "steps=8",
        "trainer.validation_every=4",
        f"resume_from={root}",
        f"stage_dir={directory}",
    )
    rows = read_lines(directory / "metrics.jsonl")
    assert all(row["grad_norm"] > 1e-3 and row["reward_std"] > 0 for row in rows), (
        "equality means nothing where nothing is learnt"
    )
    return directory


def same_weights(a: Path, b: Path) -> bool:
    files = ("model.safetensors", "optimizer.safetensors")
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in files)


def test_the_directory_holds_what_the_contract_says(whole: Path) -> None:
    assert json.loads((whole / "stage.json").read_text())["hparams"]["group_size"] == 4
    metrics = read_lines(whole / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 9))
    assert [row["global_step"] for row in metrics] == list(range(1, 9))
    promised = set(yaml.safe_load((REPOSITORY / "conf/metrics.yaml").read_text())["metrics"])
    assert promised <= set(metrics[0])
    rates = [row["learning_rate"] for row in metrics]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3] + [1e-3] * 6), "three steps of warm-up, then constant"
    validation = read_lines(whole / "validation.jsonl")
    assert [set(row) for row in validation] == [
        {"step", "global_step", "score", "stderr", "n", "seconds", "flops"}
    ] * 2
    assert [row["flops"] for row in validation] == [metrics[3]["flops"], metrics[7]["flops"]]
    assert [row["step"] for row in validation] == [4, 8]
    assert {"prompt", "completion", "reward"} <= set(read_lines(whole / "rollouts.jsonl")[0])
    result = json.loads((whole / "result.json").read_text())
    assert (result["state"], result["error"]) == ("completed", None)
    assert json.loads((whole / "status.json").read_text())["state"] == "completed"
    kept = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert set(kept) == {Path(result["checkpoint"]).name, Path(result["last_checkpoint"]).name}
    assert all((whole / "checkpoints" / name / "COMPLETE").exists() for name in kept)


def test_compute_is_summed_along_the_stage_and_along_the_path(
    run_here: Run, whole: Path, tmp_path: Path
) -> None:
    spent = [row["step_flops"] for row in read_lines(whole / "metrics.jsonl")]
    assert min(spent) > 1e7
    so_far = list(itertools.accumulate(spent))
    assert [row["flops"] for row in read_lines(whole / "metrics.jsonl")] == so_far
    assert json.loads((whole / "result.json").read_text())["flops"] == so_far[-1]
    child = tmp_path / "child"
    start = f"resume_from={whole}/checkpoints/step_00008"
    run_here("train", *MICRO, SMALL, "steps=1", start, f"stage_dir={child}")
    (row,) = read_lines(child / "metrics.jsonl")
    assert row["flops"] == so_far[-1] + row["step_flops"]
    assert json.loads((child / "result.json").read_text())["flops"] == row["step_flops"]
    assert json.loads((child / "status.json").read_text())["flops"] == row["step_flops"]


def test_a_stage_sized_in_flops_is_the_same_training_and_ends_nearest_to_its_length(
    run_here: Run, root: Path, whole: Path, tmp_path: Path
) -> None:
    rows = read_lines(whole / "metrics.jsonl")
    common = [*MICRO, SMALL, "steps=null", f"resume_from={root}", "trainer.validations=2"]
    for name, length, steps in (
        ("under", rows[5]["flops"] - 0.3 * rows[5]["step_flops"], 6),
        ("over", rows[5]["flops"] + 0.3 * rows[6]["step_flops"], 6),
        ("least", 1.0, 1),
    ):
        stage = tmp_path / name
        run_here("train", *common, f"flops={length}", f"stage_dir={stage}")
        result = json.loads((stage / "result.json").read_text())
        assert (result["state"], result["flops"]) == ("completed", rows[steps - 1]["flops"]), name
        trained = read_lines(stage / "metrics.jsonl")
        assert [row["loss"] for row in trained] == [row["loss"] for row in rows[:steps]]
        validated = [point["step"] for point in result["validation"]]
        assert validated == ([1] if steps == 1 else [3 if name == "under" else 4, 6]), name


def test_a_checkpoint_is_an_ordinary_model_directory(whole: Path) -> None:
    checkpoint = whole / "checkpoints/step_00008"
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    ids = tokenizer("12,3,4=19:", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] == ids.shape[1] + 3
    assert tokenizer.decode(tokenizer.encode("12+3+4")) == "12+3+4"
    assert not list(checkpoint.glob("*.pt"))
    assert not list(checkpoint.glob("*.bin"))


def test_a_stage_continued_unchanged_is_bit_equal_to_one_never_interrupted(
    run_here: Run, root: Path, whole: Path, tmp_path: Path
) -> None:
    common = [*MICRO, SMALL, "steps=4", "trainer.validation_every=4"]
    run_here("train", *common, f"resume_from={root}", f"stage_dir={tmp_path}/a")
    run_here("train", *common, f"resume_from={tmp_path}/a/checkpoints/step_00004", f"stage_dir={tmp_path}/b")
    assert same_weights(tmp_path / "b/checkpoints/step_00004", whole / "checkpoints/step_00008")
    assert [row["global_step"] for row in read_lines(tmp_path / "b/metrics.jsonl")] == [5, 6, 7, 8]


def test_a_checkpoint_validates_equal_whatever_its_stages_length_limit(
    root: Path, run_stages: Stages, spec: dict[str, Any], tmp_path: Path
) -> None:
    """The limit is the catalogue's largest, 32; a stage of an earlier version, which names none, has its
    own."""
    assert spec["trainer"]["validation_max_tokens"] == 32
    wanted = {
        tmp_path / f"{limit}-{own}": {
            "steps": 0,
            "hparams": {"max_completion_length": own},
            "trainer": {"validation_max_tokens": limit},
        }
        for limit in (32, 3, None)
        for own in (3, 32)
    }
    run_stages(wanted)
    scores, texts = {}, {}
    for stage in wanted:
        (point,) = read_lines(stage / "validation.jsonl")
        scores[stage.name] = (point["score"], point["stderr"])
        texts[stage.name] = [row["completion"] for row in read_lines(stage / "rollouts.jsonl")]
    assert scores["32-3"] == scores["32-32"] == scores["None-32"]
    assert scores["3-3"] == scores["3-32"] == scores["None-3"]
    assert texts["32-3"] == texts["32-32"] == texts["None-32"]
    assert texts["3-3"] == texts["3-32"] == texts["None-3"] == [text[:3] for text in texts["32-3"]]
    assert max(map(len, texts["32-3"])) > 3, "the limit matters"


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_zero_stages_resume_bit_equal_too_and_from_each_others_checkpoints(
    run_here: Run, root: Path, whole: Path, tmp_path: Path, zero_stage: int
) -> None:
    common = [*MICRO, SMALL, "trainer.validation_every=4", f"trainer.zero_stage={zero_stage}"]
    run_here("train", *common, "steps=8", f"resume_from={root}", f"stage_dir={tmp_path}/long")
    run_here("train", *common, "steps=4", f"resume_from={root}", f"stage_dir={tmp_path}/a")
    run_here(
        "train",
        *common,
        "steps=4",
        f"resume_from={tmp_path}/a/checkpoints/step_00004",
        f"stage_dir={tmp_path}/b",
    )
    assert same_weights(tmp_path / "b/checkpoints/step_00004", tmp_path / "long/checkpoints/step_00008")
    run_here(
        "train",
        *common,
        "steps=1",
        f"resume_from={whole}/checkpoints/step_00008",
        f"stage_dir={tmp_path}/from_zero_0",
    )
    assert read_lines(tmp_path / "from_zero_0/metrics.jsonl")[0]["grad_norm"] > 0


def test_the_childs_configuration_wins_from_the_first_step(
    run_here: Run, whole: Path, tmp_path: Path
) -> None:
    values = (
        "values={prompts_per_step: 16, group_size: 8, learning_rate: 2e-5, max_completion_length: 8, "
        "clip_high: 0.5, minibatches: 2}"
    )
    run_here(
        "train",
        *MICRO,
        values,
        "steps=1",
        f"resume_from={whole}/checkpoints/step_00008",
        f"stage_dir={tmp_path}/child",
    )
    (row,) = read_lines(tmp_path / "child/metrics.jsonl")
    assert row["learning_rate"] == pytest.approx(2e-5)
    assert row["completion_length_max"] <= 8
    before = load_file(whole / "checkpoints/step_00008/model.safetensors")
    after = load_file(tmp_path / "child/checkpoints/step_00001/model.safetensors")
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < moved < 2 * 2e-5 * 2, "two updates of a rate of 2e-5, not one of the parent's 1e-3"
    state = json.loads((tmp_path / "child/checkpoints/step_00001/trainer.json").read_text())["position"]
    assert (state["prompts_seen"], state["optimizer_steps"]) == (8 * 8 + 16, 8 + 2)


@pytest.mark.parametrize("length", [{"steps": 1000}, {"steps": None, "flops": 1e18}])
def test_a_stop_file_ends_the_stage_with_its_checkpoint_and_score(
    run_here: Run, root: Path, tmp_path: Path, length: dict[str, Any]
) -> None:
    stage = tmp_path / "stage"
    run_here("train", *MICRO, SMALL, "steps=0", f"resume_from={root}", f"stage_dir={stage}")
    spec = json.loads((stage / "stage.json").read_text())
    stage = tmp_path / "stopped"
    stage.mkdir()
    (stage / "stage.json").write_text(json.dumps({**spec, **length}))
    (stage / "stop").touch()
    run_here("train", *MICRO, f"stage_dir={stage}")
    result = json.loads((stage / "result.json").read_text())
    assert (result["state"], result["best_step"]) == ("stopped", 1)
    (row,) = read_lines(stage / "metrics.jsonl")
    assert result["flops"] == row["step_flops"] > 0
    assert (stage / result["checkpoint"] / "COMPLETE").exists()


def test_a_stage_that_an_earlier_version_described_in_yaml_goes_on(
    run_here: Run, whole: Path, tmp_path: Path
) -> None:
    stage = tmp_path / "earlier"
    shutil.copytree(whole, stage)
    (stage / "result.json").unlink()
    spec = json.loads((stage / "stage.json").read_text())
    (stage / "stage.json").unlink()
    (stage / "stage.yaml").write_text(dump_yaml({**spec, "steps": 10}))
    run_here("train", f"stage_dir={stage}")
    assert json.loads((stage / "result.json").read_text())["state"] == "completed"
    assert [row["step"] for row in read_lines(stage / "metrics.jsonl")] == list(range(1, 11))
    assert not (stage / "stage.json").exists()


def test_a_killed_stage_goes_on_from_its_last_complete_checkpoint(
    launch: Run, environment: dict[str, str], root: Path, whole: Path, tmp_path: Path
) -> None:
    stage = tmp_path / "stage"
    arguments = [
        *MICRO,
        SMALL,
        "steps=8",
        "trainer.validation_every=4",
        f"resume_from={root}",
        f"stage_dir={stage}",
    ]
    process = subprocess.Popen(
        command("train", *arguments), env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    while not (stage / "checkpoints/step_00004/COMPLETE").exists():
        assert process.poll() is None, "the stage ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (stage / "result.json").exists()
    half = stage / "checkpoints/step_00006"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half a file")
    launch("train", f"stage_dir={stage}")
    assert [row["step"] for row in read_lines(stage / "metrics.jsonl")] == list(range(1, 9))
    assert [row["step"] for row in read_lines(stage / "validation.jsonl")] == [4, 8]
    assert not half.exists()
    assert same_weights(stage / "checkpoints/step_00008", whole / "checkpoints/step_00008")
    spent, uninterrupted = (
        [row[name] for row in read_lines(each / "metrics.jsonl") for name in ("step_flops", "flops")]
        for each in (stage, whole)
    )
    assert spent == uninterrupted
    costs = [json.loads((each / "result.json").read_text())["flops"] for each in (stage, whole)]
    assert costs == [spent[-1]] * 2, "an attempt that was lost is not counted"


def test_an_error_is_a_result(run_here: Run, root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "COMPLETE").touch()
    (broken / "model.safetensors").write_bytes(b"not weights")
    done = run_here("train", *MICRO, f"resume_from={broken}", f"stage_dir={tmp_path}/stage", ok=False)
    assert done.returncode == 2
    result = json.loads((tmp_path / "stage/result.json").read_text())
    assert result["state"] == "failed"
    assert result["error"]
    assert json.loads((tmp_path / "stage/status.json").read_text())["state"] == "failed"


def test_evaluate_scores_a_checkpoint_on_a_split(run_here: Run, root: Path, whole: Path) -> None:
    printed = run_here("evaluate", *MICRO, f"checkpoint={whole}/checkpoints/step_00008", "split=val").stdout
    expected = read_lines(whole / "validation.jsonl")[-1]["score"]
    assert f"val score {expected:.4f}" in printed
    assert "n=32" in printed
    assert "test score" in run_here("evaluate", *MICRO, "split=test").stdout


def test_any_model_directory_can_be_trained(run_here: Run, root: Path, tmp_path: Path) -> None:
    task = ["task.difficulty=nano", "task.train_size=50", "task.val_size=8", "task.test_size=8"]
    values = "values={max_completion_length: 256, prompts_per_step: 16, group_size: 4}"
    run_here(
        "train", "model=hf", f"model.path={root}", *task, values, "steps=1", f"stage_dir={tmp_path}/stage"
    )
    (row,) = read_lines(tmp_path / "stage/metrics.jsonl")
    assert row["learning_rate"] == pytest.approx(1e-6), (
        "a real model's practitioner's value, not the nano model's"
    )


def test_what_would_fail_or_go_wrong_later_is_known_before_the_first_step(
    run_here: Run, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A generation config that cannot be saved is left out, completions longer than the context are told; a
    model that cannot end a completion is refused, and so are rewards that are none.
    """
    few = ["task.difficulty=nano", "task.train_size=8", "task.val_size=4", "task.test_size=4", "steps=1"]
    model = Path(
        shutil.copytree(root, tmp_path / "model", ignore=shutil.ignore_patterns("trainer.json", "COMPLETE"))
    )
    values = "values={max_completion_length: 256, prompts_per_step: 16, group_size: 4}"

    def train(name: str, *more: str, ok: bool = True) -> Path:
        overrides = ["model=hf", f"model.path={model}", *few, *more, values, f"stage_dir={tmp_path / name}"]
        run_here("train", *overrides, ok=ok)
        return tmp_path / name

    generation = model / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": 1, "temperature": 0.6}))
    kept = train("mended") / "checkpoints/step_00001/generation_config.json"
    assert json.loads(kept.read_text()).get("temperature") is None
    told = [record.getMessage() for record in caplog.records if str(model) in record.getMessage()]
    assert [sum(text in line for line in told) for text in ("temperature", "need 8203")] == [1, 1]

    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked/checkpoints").write_text("in the way")
    refused = {
        "blocked": "can be written",
        "endless": "no file names an end token",
        "odd": "no finite number",
    }
    odd = ["task._target_=tests.integration.odd_parts.Unrewarding"]
    generation.write_text("{}")
    tokens = json.loads((model / "tokenizer_config.json").read_text())
    train("blocked", ok=False)
    train("odd", *odd, ok=False)
    (model / "tokenizer_config.json").write_text(json.dumps(tokens | {"eos_token": None}))
    train("endless", ok=False)
    for name, text in refused.items():
        assert text in json.loads((tmp_path / name / "result.json").read_text())["error"]
        assert not (tmp_path / name / "metrics.jsonl").exists()


def test_the_base_model_leaves_room_and_is_made_once(launch: Run, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    scores = []
    for name in ("a", "b"):
        launch("train", "steps=0", f"stage_dir={tmp_path}/{name}", LLMZERO_CACHE=str(cache))
        scores.append(read_lines(tmp_path / name / "validation.jsonl")[0]["score"])
    assert 0.15 <= scores[0] <= 0.45
    assert scores[0] == scores[1]
    assert len(list(cache.iterdir())) == 1
    assert (
        json.loads((tmp_path / "b/result.json").read_text())["seconds"]
        < json.loads((tmp_path / "a/result.json").read_text())["seconds"]
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("values={learning_rat: 0.1}", "did you mean learning_rate"),
        ("values={group_size: 5}", "group_size=5: must be one of 4, 8, 16"),
        ("resume_from=/nowhere", "no complete checkpoint lies there"),
        ("steps=-1", "steps=-1: must be at least 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    run_here: Run, tmp_path: Path, override: str, message: str
) -> None:
    done = run_here("train", override, f"stage_dir={tmp_path}/stage", ok=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "stage").exists()


def test_a_checkpoint_without_its_position_is_no_base_model(
    root: Path, run_here: Run, tmp_path: Path
) -> None:
    copy = tmp_path / "checkpoints/step_00000"
    shutil.copytree(root, copy)
    (copy / "trainer.json").unlink()
    done = run_here("train", *MICRO, f"resume_from={copy}", f"stage_dir={tmp_path}/stage", ok=False)
    assert done.returncode == 2
    assert f"{copy / 'trainer.json'}: cannot be read" in done.stderr


def test_a_base_model_named_by_a_relative_path_is_found_from_anywhere(
    root: Path, launch: Run, tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path / "models/mine")
    (tmp_path / "models/mine/trainer.json").unlink()
    (tmp_path / "models/mine/COMPLETE").unlink()
    shared = [*MICRO, "task.difficulty=nano", "model=hf", "model.path=models/mine", "values={kl_coef: 0.01}"]
    shared = [value for value in shared if not value.startswith("model.recipe")]
    launch("train", *shared, "steps=1", f"stage_dir={tmp_path}/first", cwd=tmp_path)
    first = last_checkpoint(tmp_path / "first")
    launch(
        "train",
        *shared,
        "steps=1",
        f"resume_from={first}",
        f"stage_dir={tmp_path}/second",
        cwd=tmp_path / "first",
    )
    assert json.loads((tmp_path / "second/result.json").read_text())["state"] == "completed"
