"""Settings of the training half: which losses there are, and what is refused before anything is computed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from llmzero.cli import resolved
from llmzero.config import TrainConfig, checked, register
from llmzero.core.errors import UserError
from llmzero.grpo import loss, settings
from llmzero.grpo.loss import loss_of
from tests.conftest import REPOSITORY

UNCLIPPED = replace(loss.LOSSES["grpo"], surrogate=lambda ratio, _logprobs, advantages, _: ratio * advantages)


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        yield


def train(*overrides: str) -> TrainConfig:
    return checked(TrainConfig, resolved(compose("train", list(overrides))))


def test_the_names_that_the_configuration_knows_are_those_of_the_table() -> None:
    assert set(settings.LOSSES) == set(loss.LOSSES)
    assert all(loss_of(name) is loss.LOSSES[name] for name in settings.LOSSES)


def test_an_unknown_loss_is_refused_with_the_names_when_the_configuration_is_checked() -> None:
    with pytest.raises(UserError, match=r"algorithm\.loss=ppo: must be one of grpo, bnpo, .*import path"):
        train("algorithm.loss=ppo")


def test_a_loss_from_outside_the_repository_is_named_by_its_import_path() -> None:
    path = f"{__name__}.UNCLIPPED"
    assert train(f"algorithm.loss={path}").algorithm["loss"] == path
    assert loss_of(path) == UNCLIPPED


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_package.losses.MINE", "cannot be imported: .*no_such_package"),
        (f"{__name__}.NO_SUCH", "cannot be imported: .*NO_SUCH"),
        (f"{__name__}.REPOSITORY", "is a .*Path; must be an llmzero.grpo.loss.Loss"),
    ],
)
def test_a_path_that_leads_to_no_loss_is_refused_with_key_and_value(path: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"algorithm\.loss={path}: {reason}"):
        loss_of(path)


def test_settings_and_configuration_need_no_torch() -> None:
    modules = "llmzero.config, llmzero.grpo.settings, llmzero.rollout.settings"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
