"""What strangers give is data: strategies, rules, replies and stored configurations name no code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.sync import Target
from launchers.train import spec_of
from llmzero.cli import BAD_INPUT, composed
from llmzero.config import TrainConfig
from llmzero.core.documents import dump_yaml
from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue
from llmzero.core.stage import StageDir
from llmzero.stored import OTHERS, refuse_foreign, runner_of, stored_config
from llmzero.strategies.rule import load_rule
from llmzero.strategies.schedule import load_strategy
from tests.conftest import METRICS, REPOSITORY
from tests.integration.conftest import Run
from tests.llm_server import Answer, LLMServer, Request, answer_json, asked_schema, scripted

SIMULATED = ["experiment=simulated", "search.workers=1"]
SECRET = "sk-of-the-environment-0123456789"
COMMON = "common=['experiment=simulated']"
TASKS = "tasks={easy: ['runner.landscape=easy']}"
INTERPOLATIONS = ["${oc.env:UNTRUSTED_SECRET}", "${", "${nope}", "???", "${seed}", "${label:a}", "\\${seed}"]
STAGE = {"steps": 4, "changes": {"group_size": 16}}
CLAUSE = {"parameter": "kl_coef", "factor": 2.0, "when": {"observe": "gain", "at_most": 1.0}}

Place = Callable[[Any], dict[str, Any]]  # a document with a value somewhere in it

# Places at which a stage of a strategy, or a clause of a rule, can hold a value.
STRATEGY_PLACES: dict[str, Place] = {
    "diagnosis": lambda value: {**STAGE, "diagnosis": value},
    "diagnosis item": lambda value: {**STAGE, "diagnosis": [value]},
    "diagnosis nested": lambda value: {**STAGE, "diagnosis": [[value]]},
    "node_id": lambda value: {**STAGE, "node_id": value},
    "best_step": lambda value: {**STAGE, "best_step": value},
    "score": lambda value: {**STAGE, "score": value},
    "steps": lambda value: {**STAGE, "steps": value},
    "stop_at": lambda value: {**STAGE, "stop_at": value},
    "resume": lambda value: {**STAGE, "resume": value},
    "notes": lambda value: {**STAGE, "notes": [value]},
    "_target_": lambda value: {**STAGE, "_target_": value},
    "changes": lambda value: {**STAGE, "changes": value},
    "changes value": lambda value: {**STAGE, "changes": {"group_size": value}},
    "hparams": lambda value: {**STAGE, "hparams": value},
    "hparams value": lambda value: {"steps": 4, "hparams": {"group_size": value}},
    "hparams list": lambda value: {"steps": 4, "hparams": {"group_size": [value]}},
}
RULE_PLACES: dict[str, Place] = {
    **{
        field: lambda value, field=field: {**CLAUSE, field: value}  # type: ignore[misc]
        for field in ("parameter", "factor", "notches", "support", "improved", "gain", "basis", "_target_")
    },
    **{
        f"when.{field}": lambda value, field=field: {**CLAUSE, "when": {**CLAUSE["when"], field: value}}  # type: ignore[misc, dict-item]
        for field in ("observe", "at_most", "at_least", "_target_")
    },
    "when": lambda value: {**CLAUSE, "when": value},
}


def written(path: Path, **document: Any) -> Path:
    path.write_text(dump_yaml({"format": 1, **document}))
    return path


def hostile(proof: Path) -> dict[str, Any]:
    """A value that writes a file where it is made into an object."""
    return {
        "_target_": "llmzero.core.files.write_atomic",
        "path": {"_target_": "pathlib.Path", "_args_": [str(proof)]},
        "text": "x",
    }


def importing(proof: Path) -> dict[str, Any]:
    """A value that imports a module where it is made into an object; the import writes a file."""
    name = f"stranger_{uuid.uuid4().hex}"  # a module is imported once in a process
    (proof.parent / f"{name}.py").write_text(f"open({str(proof)!r}, 'w').close()\n\ndef made(**_): ...\n")
    return {"_target_": f"{name}.made"}


# --- strategies and rules ---


def test_no_field_of_a_strategy_is_made_into_an_object(
    run_here: Run, launch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    values = (hostile(tmp_path / "proof"), importing(tmp_path / "proof"))
    stages = [place(value) for place in STRATEGY_PLACES.values() for value in values]
    strategy = written(tmp_path / "s.yaml", stages=stages)
    replay = [*SIMULATED, f"strategy={strategy}", f"search_dir={tmp_path}/r"]
    transfer = [f"strategies={{a: {strategy}}}", TASKS, COMMON, f"study_dir={tmp_path}/t"]
    for done in (
        launch("replay", *replay, "dry_run=true", ok=False, PYTHONPATH=str(tmp_path)),
        run_here("replay", *replay, "transfer=relative", ok=False),
        run_here("transfer", *transfer, ok=False),
    ):
        assert done.returncode == BAD_INPUT
        assert f"strategy={strategy}:\n" in done.stderr
        assert all(f"\n  stage {number}: " in done.stderr for number in range(1, 1 + len(stages)))
    assert not any((tmp_path / name).exists() for name in ("r", "t", "proof"))


@pytest.mark.parametrize("place", STRATEGY_PLACES)
def test_a_field_of_a_strategy_has_its_type(catalogue: Catalogue, tmp_path: Path, place: str) -> None:
    """Each alone, so that no other problem hides one."""
    values = [
        hostile(tmp_path / "proof"),
        float("nan"),
        float("inf"),
        10**40,
        [1],
        "x" * 10**5,
        date(2026, 1, 2),
        b"x",
    ]
    for value in values:
        path = written(tmp_path / "s.yaml", stages=[STAGE, STRATEGY_PLACES[place](value)])
        with pytest.raises(UserError, match=r"^strategy=.*/s\.yaml:") as caught:
            load_strategy(path, catalogue)
        assert "stage 2: " in str(caught.value)
        assert len(str(caught.value)) < 2000


def test_provenance_is_data_whatever_it_says(launch: Run, run_here: Run, tmp_path: Path) -> None:
    """It is read with real processes, and with values moved by it."""
    proof = tmp_path / "proof"
    provenance = {
        "a": hostile(proof),
        "b": [importing(proof)],
        "c": INTERPOLATIONS,
        "defaults": {"group_size": hostile(proof)},
        "choices": {},
    }
    strategy = written(tmp_path / "s.yaml", stages=[STAGE], provenance=provenance)
    arguments = [*SIMULATED, f"strategy={strategy}", f"search_dir={tmp_path}/r"]
    launch("replay", *arguments, "dry_run=true", PYTHONPATH=str(tmp_path))
    launch("replay", *arguments, "transfer=relative", PYTHONPATH=str(tmp_path))
    rule = written(tmp_path / "rule.yaml", clauses=[CLAUSE], provenance=provenance)
    run_here("replay", *SIMULATED, f"rule={rule}", "stages=2", f"search_dir={tmp_path}/by-rule")
    assert not proof.exists()


def test_no_field_of_a_rule_is_made_into_an_object(run_here: Run, launch: Run, tmp_path: Path) -> None:
    values = (hostile(tmp_path / "proof"), importing(tmp_path / "proof"))
    clauses = [place(value) for place in RULE_PLACES.values() for value in values]
    rule = written(tmp_path / "rule.yaml", clauses=clauses)
    for done in (
        launch(
            "replay",
            *SIMULATED,
            f"rule={rule}",
            f"search_dir={tmp_path}/r",
            ok=False,
            PYTHONPATH=str(tmp_path),
        ),
        run_here(
            "search",
            *SIMULATED,
            "agent=rule_file",
            f"agent.path={rule}",
            f"search_dir={tmp_path}/r",
            ok=False,
        ),
    ):
        assert done.returncode == BAD_INPUT
        assert f"{rule}:\n" in done.stderr
        assert all(f"\n  clause {number}: " in done.stderr for number in range(1, 1 + len(clauses)))
    assert not any((tmp_path / name).exists() for name in ("r", "proof"))


@pytest.mark.parametrize("place", RULE_PLACES)
def test_a_field_of_a_rule_has_its_type(catalogue: Catalogue, tmp_path: Path, place: str) -> None:
    for value in (hostile(tmp_path / "proof"), float("nan"), float("inf"), 10**40, [1], "x" * 10**5, True):
        path = written(tmp_path / "rule.yaml", clauses=[CLAUSE, RULE_PLACES[place](value)])
        with pytest.raises(UserError, match=r"^rule=.*/rule\.yaml: clause 2: |\n  clause 2: ") as caught:
            load_rule("rule", path, catalogue, METRICS)
        assert len(str(caught.value)) < 3000


def test_a_diagnosis_is_kept_to_the_letter(
    launch: Run, run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTRUSTED_SECRET", SECRET)
    strategy = written(tmp_path / "s.yaml", stages=[{**STAGE, "diagnosis": INTERPOLATIONS}])
    arguments = [*SIMULATED, f"strategy={strategy}", f"search_dir={tmp_path}/r"]
    run_here("replay", *arguments, "dry_run=true")
    launch("replay", *arguments, UNTRUSTED_SECRET=SECRET)
    stored = yaml.safe_load((tmp_path / "r/strategy.yaml").read_text())
    assert stored["stages"][0]["diagnosis"] == INTERPOLATIONS
    assert not holding(tmp_path / "r", SECRET)


def test_a_reply_is_kept_to_the_letter_and_ends_no_search(
    run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its words become part of the configurations of replays that confirm the search."""
    monkeypatch.setenv("UNTRUSTED_SECRET", SECRET)

    def parrot(request: Request) -> Answer:
        if not asked_schema(request):  # the token by which the start checks that the model is there
            return Answer(content="o")
        words = {
            **json.loads(scripted(request).content or "{}"),
            "diagnosis": INTERPOLATIONS,
            "rationale": INTERPOLATIONS[0],
        }
        return answer_json(request, words)

    search = tmp_path / "s"
    with LLMServer(parrot) as server:
        model = ["agent=openai", "llm.model=m", f"llm.base_url={server.url}", "llm.api_key_env=null"]
        run_here(
            "search",
            *SIMULATED,
            *model,
            "search.method.unchanged_fraction=0",
            "budget.stages=4",
            "search.confirm_seeds=1",
            f"search_dir={search}",
        )
    assert json.loads((search / "summary.json").read_text())["state"] == "finished"
    told = [json.loads(path.read_text())["diagnosis"] for path in search.glob("nodes/*/proposal.json")]
    assert INTERPOLATIONS in told
    replays = list(search.glob("confirm/strategy-*/*/nodes/*/proposal.json"))
    assert any(json.loads(path.read_text())["diagnosis"] == INTERPOLATIONS for path in replays)
    assert not holding(search, SECRET)


def holding(directory: Path, text: str) -> list[Path]:
    """The files below a directory that hold a text."""
    return [path for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


# --- stored configurations ---


@pytest.fixture(scope="module")
def searched(run_here: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    search = tmp_path_factory.mktemp("searched") / "s"
    run_here("search", *SIMULATED, "budget.stages=2", f"search_dir={search}")
    return search


@pytest.fixture
def theirs(searched: Path, tmp_path: Path) -> Path:
    """A copy of a search, as a stranger may pass it on, with a stage that has not ended."""
    copied = tmp_path / "theirs"
    shutil.copytree(searched, copied)
    lines = (copied / "tree.jsonl").read_text().splitlines()
    ended = [line for line in lines if '"finished"' in line or '"ended"' in line or '"setup"' in line]
    left = [line for line in lines if line not in ended[1:]]
    (copied / "tree.jsonl").write_text("".join(f"{line}\n" for line in left))
    return copied


def change(search: Path, values: dict[str, Any]) -> None:
    """Change dotted keys of a stored configuration."""
    config = yaml.safe_load((search / "config.yaml").read_text())
    for key, value in values.items():
        *groups, name = key.split(".")
        group = config
        for part in groups:
            group = group[part]
        group[name] = value
    (search / "config.yaml").write_text(dump_yaml(config))


def command_line(launcher: str, search: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, REPOSITORY / f"launchers/{launcher}.py", search],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{search.parent}:{REPOSITORY}/src:{REPOSITORY}", **env},
        timeout=900,
    )


NAMING = (
    *(f"{group}._target_" for group in ("runner", "tracking", "task", "model", "rollout", "search.method")),
    *("runner.entry_point", "algorithm.loss", "task.verifier"),
)


@pytest.mark.parametrize("key", NAMING)
def test_a_stored_configuration_imports_nothing_unless_it_is_trusted(
    run_here: Run, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    target = importing(tmp_path / "proof")["_target_"]
    change(theirs, {"runner": {"_target_": "llmzero.runners.local.LocalRunner"}, key: target})
    where = [f"search_dir={theirs}", "node=0001"]
    refused = run_here("propose", *where, ok=False)
    assert refused.returncode == BAD_INPUT
    assert f"{key}={target}: is none of this program" in refused.stderr
    assert "trusted=true" in refused.stderr
    assert not (tmp_path / "proof").exists()
    run_here("propose", *where, "trusted=true", ok=False)
    made = key in ("runner._target_", "tracking._target_", "search.method._target_")
    assert (tmp_path / "proof").exists() == made


def test_what_the_command_itself_names_may_stand_in_the_stored_configuration(
    run_here: Run, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    target = importing(tmp_path / "proof")["_target_"]
    change(theirs, {"task": {"_target_": target}})
    where = [f"search_dir={theirs}", "node=0001"]
    proposal = run_here("propose", *where, "task=none", f"task._target_={target}").stdout
    assert json.loads(proposal)["agent"] == "rules"


def test_classes_of_ours_in_the_wrong_place_are_not_made(
    run_here: Run, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is said to be a runner would import its verifier; settings would be made of anything."""
    monkeypatch.syspath_prepend(tmp_path)
    stranger = importing(tmp_path / "proof")
    jsonl = {"_target_": "llmzero.tasks.jsonl.JsonLines", "path": "x", "verifier": stranger["_target_"]}
    nested = {"_target_": "llmzero.runners.local.LocalRunner", "settings": stranger}
    odd = {"_target_": "llmzero.runners.slurm.SlurmRunner", "nodes": stranger, "setup": "touch proof"}
    where = ["propose", f"search_dir={theirs}", "node=0001"]
    for runner in (jsonl, nested, odd, {}):
        change(theirs, {"runner": runner})
        assert runner_of(stored_config(theirs / "config.yaml"), theirs) is None
        assert run_here(*where, ok=False).returncode == BAD_INPUT
    for damaged in ({"_target_": [stranger["_target_"]]}, stranger["_target_"], None):
        change(theirs, {"runner": damaged})
        with pytest.raises(UserError, match="must be of type"):
            stored_config(theirs / "config.yaml")
        assert run_here(*where, ok=False).returncode == BAD_INPUT
    for group in ("tracking", "search.method"):
        change(theirs, {"runner": {"_target_": "llmzero.runners.local.LocalRunner"}, group: jsonl})
        assert f"{group}._target_=llmzero.tasks" in run_here(*where, ok=False).stderr
    assert not (tmp_path / "proof").exists()


def test_status_and_stop_do_without_a_runner_from_outside(theirs: Path, tmp_path: Path) -> None:
    target = importing(tmp_path / "proof")["_target_"]
    change(theirs, {"runner": {"_target_": target}})
    shown = command_line("status", theirs)
    assert shown.returncode == 0, shown.stderr
    assert f"runner._target_={target}: is none of this program" in shown.stderr
    assert "0001" in shown.stdout
    stopped = command_line("stop", theirs)
    assert stopped.returncode == 0, stopped.stderr
    assert "asked 2 stage(s) to end" in stopped.stdout
    assert sorted(path.parent.name for path in theirs.glob("nodes/*/stop")) == ["0001", "0002"]
    assert not (tmp_path / "proof").exists()


def test_a_resumed_search_makes_nothing_of_what_is_stored(
    run_here: Run, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runner and tracking may be others than before, so they are not even compared."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("UNTRUSTED_SECRET", SECRET)
    own = {**importing(tmp_path / "proof"), "name": "rules", "a": "${oc.env:UNTRUSTED_SECRET}"}
    change(theirs, {"runner": own, "tracking": own, "model.cache_dir": own})
    run_here("search", *SIMULATED, "budget.stages=2", f"search_dir={theirs}")
    assert json.loads((theirs / "summary.json").read_text())["state"] == "finished"
    assert "stranger" not in (theirs / "config.yaml").read_text()
    assert not holding(theirs, SECRET)
    for key in ("agent", "stopper", "search.method", "task"):
        change(theirs, {key: own})
        refused = run_here("search", *SIMULATED, "budget.stages=2", f"search_dir={theirs}", ok=False)
        assert refused.returncode == BAD_INPUT
        assert "holds another search" in refused.stderr
    assert not (tmp_path / "proof").exists()


def test_a_stage_that_is_found_imports_nothing_unless_it_is_trusted(
    run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    target = importing(tmp_path / "proof")["_target_"]
    config = composed("train", TrainConfig, ["task=jsonl", "task.path=x", f"stage_dir={tmp_path}/stage"])
    stage, spec = StageDir(tmp_path / "stage"), spec_of(config, tmp_path / "stage")
    groups = {"task": "_target_", "model": "_target_", "rollout": "_target_", "algorithm": "loss"}
    changed = {group: {**spec.config[group], key: target} for group, key in groups.items()}
    changed["task"]["verifier"] = target
    stage.write_spec(replace(spec, config={**spec.config, **changed}))
    refused = run_here("train", f"stage_dir={tmp_path}/stage", ok=False)
    assert refused.returncode == BAD_INPUT
    for key in (*(f"{group}.{key}" for group, key in groups.items()), "task.verifier"):
        assert f"{key}={target}: is none of this program" in refused.stderr
    assert not stage.status_file.exists()
    assert not (tmp_path / "proof").exists()
    run_here("train", f"stage_dir={tmp_path}/stage", "trusted=true", ok=False)
    assert (tmp_path / "proof").exists()


def test_only_the_command_says_which_endpoint_gets_its_key(
    run_here: Run, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTRUSTED_SECRET", SECRET)
    asked = ["propose", f"search_dir={theirs}", "node=0001", "agent=openai", "llm.model=m"]
    with LLMServer(scripted) as server:
        change(theirs, {"llm.base_url": server.url, "llm.api_key_env": "UNTRUSTED_SECRET"})
        refused = run_here(*asked, ok=False)
        assert refused.returncode == BAD_INPUT
        assert "llm.base_url, llm.api_key_env: other than this command's" in refused.stderr
        assert not server.requests
        run_here(*asked, "dry_run=true")
        run_here(*asked, f"llm.base_url={server.url}", "llm.api_key_env=null")
        assert SECRET not in server.requests[-1].headers.get("authorization", "")
        run_here(*asked, "trusted=true")
        assert SECRET in server.requests[-1].headers["authorization"]
        change(theirs, {"llm.prompts": str(theirs)})
        assert "llm.prompts: other than" in run_here(*asked, "dry_run=true", ok=False).stderr


def test_what_is_sent_to_trackers_has_its_types(theirs: Path) -> None:
    for value in ([{"_target_": "x"}], {"project": ["--x"]}, {"entity": {"a": 1}}, {"fork": "yes"}):
        change(theirs, {"tracking": value})
        with pytest.raises(UserError, match=r"config\.yaml"):
            Target("offline").tracking(theirs)


def test_every_class_that_our_options_name_is_known(searched: Path) -> None:
    """So that whatever this version searched with can be asked about."""
    for file in (REPOSITORY / "conf").rglob("*.yaml"):
        config = yaml.safe_load(file.read_text()) or {}
        group = file.parent.name
        named = {group: config.get("method") if group == "search" else config}
        stored = {"search": {"method": named["search"]}} if group == "search" else named
        refuse_foreign("", stored, {}, trusted=False)
    assert "replay.ReplayMethod" in str(OTHERS)


@pytest.mark.parametrize(
    "arguments",
    [
        "search|search_dir=",
        "search|search_dir='  '",
        "search|llm.cassette_dir=|search_dir=s",
        "replay|strategy=s.yaml|search_dir=",
        "replay|strategy=|search_dir=r",
        "replay|rule=|search_dir=r",
        "propose|search_dir=|node=0001",
        "train|stage_dir=",
        "train|resume_from=|stage_dir=s",
        "evaluate|checkpoint=",
        "compare|study_dir=|study=small",
        "transfer|study_dir=",
    ],
)
def test_an_empty_path_is_refused(
    run_here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    """It is what an unset variable of a shell leaves, and would stand for the current directory."""
    monkeypatch.chdir(tmp_path)
    done = run_here(*arguments.split("|"), ok=False)
    assert done.returncode == BAD_INPUT
    assert ": needs a value" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["launchers/status.py", ""],
        ["launchers/stop.py", " "],
        ["-m", "analysis.load", "", "--out", "t"],
        ["-m", "analysis.load", ".", "--out", ""],
        ["-m", "analysis.sync", ""],
    ],
)
def test_an_empty_path_of_a_command_is_refused(searched: Path, command: list[str]) -> None:
    before = sorted(searched.rglob("*"))
    arguments = [str(REPOSITORY / part) if part.endswith(".py") else part for part in command]
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=searched,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}/src:{REPOSITORY}"},
        timeout=900,
    )
    assert done.returncode == BAD_INPUT
    assert "needs a path, and was given an empty text" in done.stderr
    assert sorted(searched.rglob("*")) == before
