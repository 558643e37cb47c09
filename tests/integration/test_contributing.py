"""CONTRIBUTING.md is followed from outside the repository: its example, and one of each row of its table."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmzero.cli import composed
from llmzero.config import CompareConfig, PlanConfig, TrainConfig
from llmzero.core.parts import make
from llmzero.grpo.loss import loss_of
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig
from llmzero.studies.study import search_config
from tests.conftest import REPOSITORY

PARTS = '''
"""One part of each kind, which knows nothing of the repository but its protocols."""

from llmzero.evidence.proposal import Proposal, StopDecision
from llmzero.runners.simulated import SimulatedRunner, SimulatedRunnerSettings
from llmzero.search.methods.base import expand, practitioner_stage
from llmzero.tasks.base import Example, Reward


class Doubling:
    metric = "correct"
    alphabet = "0123456789+="

    def __init__(self, difficulty, top):
        self.difficulty, self.top = difficulty, top

    def split(self, name):
        start = {"train": 0, "val": 1, "test": 2}[name]
        return [Example(str(n), f"{n}+{n}=", str(2 * n)) for n in range(start, self.top, 3)]

    def reward(self, example, completion):
        right = float(completion == example.answer)
        return Reward(right, {"correct": right})

    def demonstration(self, example):
        return example.answer


class Engine:
    def __init__(self, temperature, workers):
        self.temperature, self.workers = temperature, workers

    def start(self, policy):
        pass


class Halving:
    def __init__(self, name, temperature):
        self.temperature = temperature

    def propose(self, evidence):
        rate = max(evidence.stage.hparams["learning_rate"] / 2, 1e-6)
        return Proposal("halving", ("kl_blowup",), "Smaller steps.", {"learning_rate": rate})


class Patient:
    interval_s = 0.0

    def __init__(self, patience):
        self.patience = patience

    def decide(self, evidence):
        return StopDecision(False, f"patience of {self.patience}")


class Widest:
    """Always a child of the base model."""

    def __init__(self, context, selection):
        self.context, self.selection = context, selection

    def ask(self, tree):
        if not tree.root.children:
            return practitioner_stage(self.context, tree.root)
        return expand(self.context, tree, tree.root.node_id)

    def tell(self, tree, node):
        pass


class Counting(SimulatedRunner):
    started = 0

    def __init__(self, landscape):
        super().__init__(SimulatedRunnerSettings(landscape=landscape))

    def start(self, spec):
        Counting.started += 1
        return super().start(spec)


class Journal:
    def __init__(self, file, mode):
        self.file, self.mode = file, mode

    def start(self, search_dir):
        (search_dir / self.file).write_text("started")

    def finish(self, timeout_s):
        pass
'''

LOSS = """
from dataclasses import replace

from llmzero.grpo.loss import LOSSES

mine = replace(LOSSES["grpo"])
"""

FILES: dict[str, dict[str, Any]] = {
    "task/doubling": {"_target_": "theirs.Doubling", "difficulty": "hard", "top": 30},
    "rollout/mine": {"_target_": "theirs.Engine", "temperature": 9, "workers": 0},
    "agent/halving": {"_target_": "theirs.Halving", "name": "halving", "temperature": 9},
    "stopper/patient": {"_target_": "theirs.Patient", "patience": "endless"},
    "search/widest": {"name": "widest", "method": {"_target_": "theirs.Widest", "selection": "none"}},
    "runner/counting": {"_target_": "theirs.Counting", "landscape": "easy"},
    "tracking/journal": {"_target_": "theirs.Journal", "file": "journal.txt", "mode": "mine"},
    "hparams/mine": {"defaults": ["grpo", "_self_"], "parameters": {"learning_rate": {"low": 1e-9}}},
    "algorithm/mine": {"defaults": ["grpo", "_self_"], "loss": "their_loss.mine"},
    "study/mine": {"methods": {"w": ["search=widest"]}, "tasks": {"t": ["agent=halving"]}, "seeds": 1},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of somebody else's parts, importable and with a config file for each."""
    directory = tmp_path / "parts"
    for name, content in FILES.items():
        file = directory / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        package = "# @package _global_\n" if name.startswith("study") else ""
        file.write_text(package + yaml.safe_dump(content))
    model = (REPOSITORY / "conf/model/qwen3_0_6b.yaml").read_text()
    (directory / "model").mkdir()
    (directory / "model/mine.yaml").write_text(re.sub(r"(?m)^path: .*", "path: somebody/model", model))
    (directory / "theirs.py").write_text(PARTS)
    (directory / "their_loss.py").write_text(LOSS)
    monkeypatch.syspath_prepend(str(directory))
    return directory


def simulated(folder: Path, *overrides: str) -> SearchConfig:
    """Compose a simulated search of three stages, as `--config-dir` would."""
    path = [f"hydra.searchpath=[file://{folder}]", f"search_dir={folder.parent / 'search'}"]
    return composed("search", SearchConfig, [*path, "experiment=simulated", "budget.stages=3", *overrides])


def test_a_search_is_made_of_somebody_elses_parts(folder: Path) -> None:
    groups = ["agent=halving", "stopper=patient", "search=widest", "runner=counting", "tracking=journal"]
    config = simulated(folder, *groups, "hparams=mine", "agent.temperature=7")
    summary = Session.from_config(config).run()
    assert summary["method"] == "widest"
    assert summary["agent"] == "halving"
    import theirs

    search = Path(config.search_dir)
    assert theirs.Counting.started >= 4  # the base model, three stages, and the final test
    assert (search / "journal.txt").read_text() == "started"
    events = [json.loads(line) for line in (search / "tree.jsonl").read_text().splitlines()]
    created = [event for event in events if event["event"] == "created"]
    assert [event["parent_id"] for event in created] == [None, "0000", "0000", "0000"]
    assert [event["proposal"]["agent"] for event in created[2:]] == ["halving"] * 2
    assert config.catalogue["learning_rate"].low == 1e-9


def test_a_task_a_model_an_engine_and_a_loss_from_outside_compose_and_are_made(folder: Path) -> None:
    path = f"hydra.searchpath=[file://{folder}]"
    groups = ["task=doubling", "model=mine", "rollout=mine", "algorithm=mine"]
    config = composed("train", TrainConfig, [path, *groups, "task.top=12"])
    task = make(config.task, "task")
    assert (task.difficulty, task.top) == ("hard", 12)
    example = task.split("val")[0]
    assert task.reward(example, task.demonstration(example)).value == 1.0
    engine = make(config.rollout, "rollout")
    assert (engine.temperature, engine.workers) == (9, 0)
    assert loss_of(config.algorithm["loss"]).surrogate is loss_of("grpo").surrogate
    plan = composed("plan", PlanConfig, [path, "model=mine", "hardware=one_80gb"])
    assert plan.model["path"] == "somebody/model"


def test_a_study_from_outside_checks_its_searches(folder: Path) -> None:
    path = f"hydra.searchpath=[file://{folder}]"
    study = composed("compare", CompareConfig, [path, "study=mine"])
    assert study.methods == {"w": ["search=widest"]}
    overrides = [*study.methods["w"], *study.tasks["t"], "experiment=simulated", path]
    assert search_config(overrides).search.name == "widest"


def test_prompts_and_skills_are_copies_of_files(folder: Path) -> None:
    prompts, skills = folder / "prompts", folder / "skills"
    shutil.copytree(REPOSITORY / "conf/agent/prompts", prompts)
    shutil.copytree(REPOSITORY / "conf/agent/skills", skills)
    (skills / "mine.md").write_text("# Waiting\n\nWhen to wait.\n\nWait often.\n")
    system = prompts / "proposer_system.jinja"
    system.write_text("You tune for somebody else.\n" + system.read_text())
    llm = ["llm.model=some", "llm.api_key_env=null", f"llm.prompts={prompts}"]
    config = simulated(folder, "agent=openai", "search=skill", *llm, f"search.method.skills={skills}")
    session = Session.from_config(config)
    assert "mine" in str(session.method.tools.list_skills())
    assert session.proposer.prompts.render


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"```(?:python|yaml)\n# (parts/\S+)\n(.*?)```", page, flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["parts/mine.py", "parts/agent/cautious.yaml"]
    for name, text in blocks:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "parts"))
    config = simulated(tmp_path / "parts", "agent=cautious", "agent.factor=0.7")
    assert Session.from_config(config).run()["agent"] == "cautious"
    with pytest.raises(Exception, match=r"agent\.factor=3\.0: must be from 0\.1 to 1"):
        Session.from_config(simulated(tmp_path / "parts", "agent=cautious", "agent.factor=3.0"))
