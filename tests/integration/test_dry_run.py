"""`dry_run=true` looks at what the stages would load: data, model, tokenizer and disk."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from llmzero.search import look
from tests.integration.conftest import Run
from tests.tiny_model import write_tiny_model

SPLITS = ("train", "val", "test")
PROBLEMS = [{"prompt": f"{n}+1=", "answer": n + 1, "split": SPLITS[n % 3]} for n in range(30)]


@pytest.fixture
def search(run_here: Run, tmp_path: Path) -> Run:
    """A dry run on a data file and a model that are fine; overrides make it another."""
    write_tiny_model(tmp_path / "model", max_position_embeddings=1000)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))

    def run(*overrides: str, ok: bool = True) -> object:
        fine = ["dry_run=true", "task=jsonl", f"task.path={data}", "task.verifier=numeric", "model=hf"]
        fine += [f"model.path={tmp_path}/model", "stopper=none", f"search_dir={tmp_path}/s"]
        return run_here("search", *fine, *overrides, ok=ok)

    return run  # type: ignore[return-value]


def test_it_says_what_there_is(search: Run, tmp_path: Path) -> None:
    printed = search("budget.stages=4", "trainer.lora.rank=4").stdout
    assert "examples     10 train, 10 val, 10 test" in printed
    assert "weights      Qwen3ForCausalLM" in printed
    assert "4 stages" in printed and "GB are free" in printed
    assert "dry run: everything fits" in printed
    assert not (tmp_path / "s").exists()


def test_it_says_when_there_are_more_workers_than_paths(run_here: Run, tmp_path: Path) -> None:
    common = ["experiment=simulated", "dry_run=true", "budget.stages=30", f"search_dir={tmp_path}/s"]
    told = "6 are more than 30 stages keep busy: 5 path(s) of 6"
    assert told in run_here("search", *common, "search.workers=6").stdout
    assert "keep busy" not in run_here("search", *common, "search.workers=5").stdout


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.path={}/none.jsonl", "none.jsonl: cannot be read"),
        ("task.test_size=11", "split test has 10 problems, and needs 11"),
        ("task.verifier=no.such.function", "task.verifier=no.such.function"),
        ("model.path={}/none", "is no directory, and no name of the hub"),
        ("rollout=vllm_server rollout.urls=[]", "rollout.urls=[]: name the servers"),
        ("model.path={}", "has neither model.safetensors nor"),
    ],
)
def test_what_is_not_there_is_found(search: Run, tmp_path: Path, override: str, message: str) -> None:
    refused = search(*override.format(tmp_path).split(), ok=False)
    assert refused.returncode == 2
    assert message in refused.stderr


def test_what_a_stage_would_fail_of_is_found(search: Run, tmp_path: Path) -> None:
    said = search().stdout
    assert said.count("completions of 8192") == 1, "completions may be cut by the model's context"
    model = tmp_path / "model"
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.6}))
    assert "generation_config.json cannot be saved again" in search().stdout
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    assert str(model) in search(ok=False).stderr
    shutil.rmtree(model)
    assert "is no directory" in search(ok=False).stderr


def test_a_disk_without_room_for_a_stage_is_found(search: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(look.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**3))
    assert "0.0 GB are free, but a stage's checkpoints take" in search(ok=False).stderr
