"""What strangers give is data: strategies, rules, replies and stored configurations name no code."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmzero.cli import BAD_INPUT
from llmzero.core.documents import dump_yaml
from llmzero.core.errors import UserError
from llmzero.core.hparams import Catalogue
from llmzero.strategies.rule import load_rule
from llmzero.strategies.schedule import load_strategy
from tests.conftest import METRICS
from tests.integration.conftest import Run
from tests.llm_server import Answer, LLMServer, Request, answer_json, scripted

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
    (proof.parent / "stranger.py").write_text(f"open({str(proof)!r}, 'w').close()\n\ndef made(**_): ...\n")
    return {"_target_": "stranger.made"}


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
