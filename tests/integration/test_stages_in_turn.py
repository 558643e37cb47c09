"""Stages that follow one another in a process leave nothing behind; what they share is made beforehand."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.integration.conftest import write_stage

STAGES = 8


def measured(environment: dict[str, str], size: int, *arguments: str) -> list[Any]:
    """Run this file as a script, in `size` processes; return what the first one measured."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"] if size > 1 else []
    command = [sys.executable, *torchrun, "tests/integration/test_stages_in_turn.py", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("0: ")]


@pytest.mark.parametrize(("size", "zero"), [(1, 0), (1, 1), (1, 3), (2, 1)])
def test_nothing_is_left_of_a_stage(
    environment: dict[str, str], spec: dict[str, Any], root: Path, tmp_path: Path, size: int, zero: int
) -> None:
    for number in range(STAGES):
        changes = {"steps": 1, "resume_from": str(root), "trainer": {"zero_stage": zero}}
        write_stage(tmp_path / str(number), spec, changes)
    found = measured(environment, size, "leaks", *(str(tmp_path / str(number)) for number in range(STAGES)))
    assert len(found) == STAGES
    assert found[2:] == [found[2]] * (STAGES - 2), "neither threads, files, exit functions nor log handlers"
    assert found[-1]["engines"] == found[-1]["models"] == 0


def test_stages_share_problems_and_imports_with_the_process_that_forks_them(
    environment: dict[str, str], spec: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    write_stage(tmp_path / "stage", spec, {"steps": 1, "resume_from": str(root)})
    [found] = measured(environment, 1, "fork", str(tmp_path / "stage"))
    assert found == {"threads": 1, "drawn": 0, "imported": [], "state": "completed"}


def leaks(directories: list[str]) -> None:
    from llmzero.grpo.main import run_stage

    for directory in directories:
        run_stage(directory)
        gc.collect()
        kinds = Counter(type(each).__name__ for each in gc.get_objects())
        process, loggers = psutil.Process(), logging.Logger.manager.loggerDict.values()
        tell(
            engines=kinds["DeepSpeedEngine"],
            models=kinds["Qwen3ForCausalLM"],
            threads=process.num_threads(),
            files=process.num_fds(),
            exit_functions=atexit._ncallbacks(),
            handlers=sum(len(getattr(each, "handlers", [])) for each in loggers),
        )


def fork(directory: str) -> None:
    from llmzero.grpo.main import prepare_stages, run_stage
    from llmzero.tasks import countdown

    prepare_stages(directory)
    threads, modules, draw, drawn = (
        psutil.Process().num_threads(),
        set(sys.modules),
        countdown.Countdown.draw,
        0,
    )

    def counted(*arguments: Any) -> Any:
        nonlocal drawn
        drawn += 1
        return draw(*arguments)

    countdown.Countdown.draw = counted  # type: ignore[method-assign]
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        return
    result = run_stage(directory)
    assert result is not None
    tell(threads=threads, drawn=drawn, imported=sorted(set(sys.modules) - modules), state=result.state)


def tell(**facts: Any) -> None:
    print(f"{os.environ.get('RANK', '0')}: {json.dumps(facts)}", flush=True)


if __name__ == "__main__":
    kind, *stages = sys.argv[1:]
    if kind == "leaks":
        leaks(stages)
    else:
        fork(*stages)
