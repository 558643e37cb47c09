"""One length limit for all scores of a search, said in its files; earlier searches keep theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load
from llmzero.cli import composed
from llmzero.core.documents import dump_yaml, read_yaml
from llmzero.core.errors import DamagedFileError, UserError
from llmzero.search.briefing import briefing
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig

LENGTH = "hparams.parameters.max_completion_length"


def config(directory: Path, *overrides: str) -> SearchConfig:
    common = ["experiment=simulated", "budget.stages=3", f"search_dir={directory}", "stopper=none"]
    return composed("search", SearchConfig, [*common, *overrides])


def limits(search: Path) -> dict[str, Any]:
    """Return the limit that each stage's description names, those of the final test too."""
    specs = {file.parent.name: json.loads(file.read_text()) for file in search.glob("*/*/stage.json")}
    return {name: spec["trainer"].get("validation_max_tokens", "none named") for name, spec in specs.items()}


@pytest.mark.parametrize(
    ("overrides", "limit"),
    [
        ([], 8192),
        ([f"{LENGTH}.choices=[64,128]", f"{LENGTH}.default=64"], 128),
        ([f"{LENGTH}.choices=null", f"+{LENGTH}.low=10", f"+{LENGTH}.high=2000"], 2000),
        (["trainer.validation_max_tokens=100"], 100),
        ([f"~{LENGTH}"], None),
    ],
)
def test_every_stage_and_test_of_a_search_names_the_same_limit(
    tmp_path: Path, overrides: list[str], limit: int | None
) -> None:
    search = Session.from_config(config(tmp_path / "s", *overrides))
    summary = search.run()
    assert len(limits(tmp_path / "s")) >= 6
    assert set(limits(tmp_path / "s").values()) == {limit}
    assert summary["validation_max_tokens"] == limit
    if limit:
        told = briefing(search.config)["search"]
        assert told.endswith(f"validations score completions of up to {limit} tokens")


def test_a_search_of_an_earlier_version_goes_on_within_its_stages_own_limits(
    tmp_path: Path,
) -> None:
    search = tmp_path / "s"
    Session.from_config(config(search)).run()
    earlier = read_yaml(search / "config.yaml")
    del earlier["trainer"]["validation_max_tokens"]
    (search / "config.yaml").write_text(dump_yaml(earlier))
    for file in search.glob("*/*/stage.json"):
        spec = json.loads(file.read_text())
        del spec["trainer"]["validation_max_tokens"]
        file.write_text(json.dumps(spec))
    (search / "test.json").unlink()
    for again in (search / "test").glob("*/result.json"):
        again.unlink()
    compared = Session.from_config(config(search, "budget.stages=5", "search.test_constant=true"))
    with pytest.raises(UserError, match="validate within their own length limits"):
        compared.run()
    more = Session.from_config(config(search, "budget.stages=5"))
    summary = more.run()
    assert summary["nodes"]["total"] == 6
    assert limits(search).items() >= {"0003": "none named", "0004": None, "0005": None}.items()
    assert summary["validation_max_tokens"] is None
    assert load([search]).searches["validation_max_tokens"].isna().all()
    assert "within its own length limit" in (search / "report.html").read_text()


def test_a_damaged_limit_is_named_with_its_file(tmp_path: Path) -> None:
    search = tmp_path / "s"
    Session.from_config(config(search)).run()
    file = search / "nodes/0000/stage.json"
    spec = json.loads(file.read_text())
    spec["trainer"]["validation_max_tokens"] = "many"
    file.write_text(json.dumps(spec))
    with pytest.raises(DamagedFileError, match=r"stage\.json.*validation_max_tokens"):
        Session.from_config(config(search, "budget.stages=4")).run()
