"""Search methods from outside the repository: any keywords, whatever ours are called."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from llmzero.cli import composed
from llmzero.config import checked
from llmzero.core.parts import make
from llmzero.search.methods.base import MethodContext
from llmzero.search.settings import SearchConfig
from tests.unit.search.test_baselines import context


class Outside:
    """Takes keywords that methods of ours have, with values that ours refuse."""

    def __init__(self, context: MethodContext, sampler: str, name: str, selection: str, k_max: int) -> None:
        self.context, self.settings = context, (sampler, name, selection, k_max)


class WithoutContext:
    """Takes what it is configured with, and nothing else."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


def test_an_outside_method_gets_its_keywords_and_the_context() -> None:
    keywords = {"sampler": "botorch", "name": "mine", "selection": "best", "k_max": 0}
    search = context()
    method = make({"_target_": f"{__name__}.Outside", **keywords}, "search.method", context=search)
    assert (method.context, method.settings) == (search, ("botorch", "mine", "best", 0))
    method = make({"_target_": f"{__name__}.WithoutContext", **keywords}, "search.method", context=search)
    assert method.settings == keywords


def test_the_check_of_a_configuration_leaves_outside_methods_to_themselves() -> None:
    document = asdict(composed("search", SearchConfig, ["experiment=simulated"]))
    document["search"]["method"] = {"_target_": "outside.Method", "selection": "best", "k_max": 0}
    assert checked(SearchConfig, document).search.method["selection"] == "best"
