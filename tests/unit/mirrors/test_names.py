"""Names that W&B takes, and variables that name somebody else's run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmzero.cli import composed
from llmzero.core.errors import UserError
from llmzero.mirrors.tracking import WandbTracking
from llmzero.mirrors.tracking.names import group_of, suggested
from llmzero.mirrors.tracking.settings import TrackingSettings
from llmzero.search.session import Session
from llmzero.search.settings import SearchConfig


@pytest.mark.parametrize(
    ("project", "remedy"),
    [
        ("lab/countdown", "lab-countdown"),
        ("a\\b", "a-b"),
        ("run#1", "run-1"),
        ("why?", "why-"),
        ("50%", "50-"),
        ("a:b", "a-b"),
        ("a\nb", "a-b"),
        (" a ", "a"),
        ("", "llmzero"),
        ("   ", "llmzero"),
        ("x" * 129, "x" * 100),
    ],
)
def test_a_name_that_wandb_refuses_is_refused_at_the_start(project: str, remedy: str) -> None:
    for key in ("project", "entity"):
        with pytest.raises(UserError, match=rf"tracking\.{key}=") as refused:
            TrackingSettings(**{key: project})
        assert str(refused.value).endswith(f"e.g. tracking.{key}={remedy}")
    TrackingSettings(project=suggested(project))


@pytest.mark.parametrize("project", ["llmzero", "a b", "Größe", "a.b_c-d=1,2", "x" * 128, "(a)[b]"])
def test_a_name_that_wandb_takes_is_taken(project: str) -> None:
    from wandb import Settings

    assert TrackingSettings(project=project, entity="lab").project == Settings(project=project).project


def test_a_search_with_such_a_project_does_not_begin(tmp_path: Path) -> None:
    search = tmp_path / "s"
    overrides = ["experiment=simulated", "tracking=online", "tracking.project=a/b", f"search_dir={search}"]
    with pytest.raises(UserError, match=r"tracking\.project='a/b'"):
        Session.from_config(composed("search", SearchConfig, overrides)).run()
    assert not search.exists()


def test_the_name_of_a_directory_gives_a_group_that_wandb_takes(tmp_path: Path) -> None:
    for name in ("a#b:c?d%e", "y" * 200):
        search = tmp_path / name
        search.mkdir()
        (search / "tree.jsonl").write_text("{}\n")
        assert group_of(search) == suggested(group_of(search)[:100]) + group_of(search)[100:]
        assert len(group_of(search)) <= 128


def test_variables_of_another_run_do_not_reach_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ("API_KEY", "BASE_URL", "ENTITY", "HTTP_TIMEOUT", "X_EXTRA_HTTP_HEADERS", "HTTPS_PROXY")
    foreign = (
        *("RUN_ID", "NAME", "RUN_NAME", "RUN_GROUP", "RESUME", "RESUME_FROM", "FORK_FROM", "SWEEP_ID"),
        *("SWEEP_PARAM_PATH", "NOTES", "RUN_NOTES", "TAGS", "RUN_TAGS", "JOB_TYPE", "RUN_JOB_TYPE", "DIR"),
        *("RUN_DIR", "PROJECT", "MODE", "SERVICE", "LAUNCH", "JOB_NAME", "PROGRAM", "X_LABEL", "X_PRIMARY"),
        *("IGNORE_GLOBS", "HOST", "USERNAME", "DISABLED", "GIT_COMMIT", "DOCKER", "CONFIG_PATHS", "REINIT"),
    )
    for name in (*needed, *foreign):
        monkeypatch.setenv(f"WANDB_{name}", "1")
    given = WandbTracking(TrackingSettings()).environment()
    assert {name for name in given if name.startswith("WANDB_")} == {f"WANDB_{name}" for name in needed}
    assert given["PATH"]
