"""What `--help` and a dry run say of settings is read from the settings themselves."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from llmzero.cli import CONF, composed
from llmzero.config import LAUNCHERS, changed_settings, register, settings_help
from llmzero.search.settings import SearchConfig

STAGE = ("algorithm.kl_estimator=k3", "(one of k1, k2, k3)", "trainer.lora.alpha=32.0")
SEARCH = (*STAGE, "search.workers=2", "stages that run at the same time (from 1 to 1024)", "stopper.z=0.5")
STUDY = ("at_once=2", "searches that run at the same time (at least 1)", "dry_run=false")
LINES = {
    **dict.fromkeys(("search", "replay", "propose"), SEARCH),
    "bench_agent": ("also=[]", "dry_run=false"),
    **dict.fromkeys(("train", "plan", "evaluate"), STAGE),
    **dict.fromkeys(("compare", "transfer"), STUDY),
    **dict.fromkeys(("inspect_task", "score"), ("task.difficulty=nano", "(one of full, nano)")),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_explains_every_setting(launcher: str) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(launcher, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        text = settings_help(_root_=config)
    for expected in LINES[launcher]:
        assert expected in text


def test_a_dry_run_lists_what_is_not_at_its_default() -> None:
    overrides = ["stopper.z=2", "search.workers=3", "trainer.lora.rank=8", "search.method.exploration=1"]
    lines = changed_settings(composed("search", SearchConfig, overrides))
    changed = {line.split("=")[0]: line for line in lines}
    assert {"stopper.z", "search.workers", "trainer.lora.rank", "search.method.exploration"} <= changed.keys()
    assert "search.workers=3 (default 2)" in changed["search.workers"]
    assert "stages that run at the same time" in changed["search.workers"]
    assert "budget.stages" not in changed


def test_settings_of_every_model_and_machine_can_be_listed() -> None:
    lines = changed_settings(composed("search", SearchConfig, ["model=qwen3_0_6b", "hardware=one_80gb"]))
    assert any(line.startswith("model.architecture={...} (default null)") for line in lines)


def test_help_shows_the_keys_of_a_part_from_outside() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["runner._target_=theirs.Runner", "+runner.depth=7"]
        config = compose("search", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        assert "\nrunner.depth=7\n" in settings_help(_root_=config)
