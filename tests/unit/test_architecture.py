"""The two halves: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.conftest import REPOSITORY, TIERS

HEAVY = ("torch", "transformers", "deepspeed", "vllm", "wandb", "openai", "matplotlib", "scipy")


def test_the_search_half_loads_no_deep_learning_library() -> None:
    modules = (
        "search.session",
        "search.plan",
        "search.methods.skill",
        "agents.llm",
        "runners.local",
        "runners.inline",
        "runners.simulated",
        "mirrors.tracking",
        "studies.carry_out",
    )
    assert loaded(modules, HEAVY) == "[]"


@pytest.mark.parametrize("module", ["evidence.dynamics", "evidence.plots"])
def test_evidence_loads_no_numpy_and_no_plotting_library(module: str) -> None:
    assert loaded([module], ("numpy", "matplotlib")) == "[]"


def loaded(modules: Sequence[str], libraries: tuple[str, ...]) -> str:
    """Import modules of the package in a new process; return which of the libraries that loads."""
    code = f"import sys, {', '.join(f'llmzero.{name}' for name in modules)}\n"
    code += f"print([name for name in {libraries} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_functions_fit_on_a_screen_and_are_annotated() -> None:
    for file in [
        *REPOSITORY.glob("src/**/*.py"),
        *REPOSITORY.glob("launchers/*.py"),
        *REPOSITORY.glob("benchmarks/*.py"),
        *REPOSITORY.glob("analysis/*.py"),
    ]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 80, f"{file}:{node.lineno} {node.name}"
                assert node.returns is not None, f"{file}:{node.lineno} {node.name}"


def test_every_name_of_a_tier_is_that_of_a_test_a_file_or_a_fixture() -> None:
    files = [*REPOSITORY.glob("tests/**/*.py")]
    names = {file.name for file in files}
    for file in files:
        functions = (
            node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)
        )
        names |= {function.name for function in functions}
    assert set().union(*TIERS.values()) <= names
