"""The prompt of a decision point of a search that branched: all that a good engineer asks is in it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from llmzero.tree.store import EventStore
from llmzero.tree.tree import Tree
from tests.integration.conftest import Run
from tests.integration.searches import SIMULATED
from tests.integration.test_llm import asking
from tests.llm_server import Answer, LLMServer, Request, answer_json, asked_schema, sensible


def by_number(request: Request) -> Answer:
    """Propose by the number of the stage alone; every second one takes steps that ruin it, and is stopped."""
    found = re.search(r"Propose the stage (\d+)", request.text)
    assert found is not None
    number = int(found[1])
    values = {"clip_high": 0.2 + 0.01 * number}
    if number > 4 and number % 2:
        values = {"learning_rate": 1e-5 - 1e-8 * number, "epochs": 4, "minibatches": 8}
    changes = [{"name": name, "value": value, "reason": "It may lift it."} for name, value in values.items()]
    return answer_json(
        request, {**sensible(random.Random(0), asked_schema(request)), "changes": changes, "action": "change"}
    )


@pytest.fixture
def search(run_here: Run, tmp_path: Path) -> tuple[Tree, Request]:
    """A simulated search whose stages were stopped early, and of its questions one about a stage of whose
    children most were stopped.
    """
    with LLMServer(by_number) as server:
        run_here(
            "search",
            *SIMULATED,
            *asking(server),
            "agent.vision=true",
            "agent.max_prompt_tokens=100000",
            "search.method.descent_rank=null",
            "search.method.new_path_weight=0",
            "search.method.subtree_weight=0",
            "stopper.z=0",
            "search.method.exploration=0",
            "search.method.unchanged_fraction=0",
            "search.max_depth=4",
            "search.workers=1",
            "budget.stages=12",
            "budget.flops=1e20",
            f"search_dir={tmp_path}/s",
        )
    tried = "What was already tried from the parent"
    asked = max(server.requests, key=lambda request: section(request.text, tried).count("stopped at step"))
    return EventStore(tmp_path / "s" / "tree.jsonl", repair=False).tree, asked


def section(prompt: str, title: str) -> str:
    """Return the text below a heading."""
    return prompt.partition(f"# {title}\n")[2].partition("\n# ")[0]


def test_a_prompt_holds_what_an_engineer_asks_at_a_decision_point(search: tuple[Tree, Request]) -> None:
    tree, asked = search
    prompt = asked.text
    found = re.search(r"Propose the stage (\d+) that continues (\d+)", prompt)
    assert found is not None
    number, parent = int(found[1]), tree[found[2]]
    known = [node for node in tree if int(node.node_id) < number]

    # Where we stand.
    standing = section(prompt, "Where the search stands")
    best = max(known, key=lambda node: node.score or 0.0)
    assert f"- {parent.node_id} is continued, score {parent.score:.3f}. The search chose it" in standing
    assert f"levels left on a path through it: {4 - parent.depth}; " in standing
    assert f"this one among them: {12 - number + 1}; " in standing
    assert "FLOPs are left" in standing
    assert f"- The best stage is {best.node_id}, depth {best.depth}, score {best.score:.3f}; its " in standing
    assert f"at depth {parent.depth} with " in standing
    others = re.findall(
        r"^  - (\d+): depth \d, score 0.\d{3}, levels left \d, children \d+; ", standing, re.M
    )
    assert len(others) == 5 and parent.node_id not in others

    # What children did.
    tried = section(prompt, "What was already tried from the parent")
    for child in [node for node in tree.children(parent.node_id) if node in known]:
        assert child.result is not None
        told = tried.partition(f"- {child.node_id} from {parent.node_id}: ")[2].partition("\n- ")[0]
        for point in child.result.validation:
            assert f"step {point.step} {point.score:.3g} ± {point.stderr:.3g}" in told
        assert re.search(
            r"first and last third: entropy [\d.]+( -> [\d.]+)?( \(depends on .*?\))?, kl ", told
        )
        assert "clip_fraction_low 0" in told and "clip_fraction_high 0" in told
        assert "scripted wrote: " in told
        if child.stop is not None:
            assert f"stopped at step {child.stop['step']}: 'at best " in told
            assert re.search(r"\(share \S+, level \S+, rise \S+, .*reach \S+, .*incumbent \S+, ", told)
    assert tried.count("stopped at step") >= 2

    # Cost.
    cost = section(prompt, "Cost, as the stages so far tell")
    assert re.search(
        r"a stage of 16 steps .*: about \S+ FLOPs and \S+ device seconds, \S+ of them whatever", cost
    )
    assert "- group_size 8 -> 16: 2.00 x the FLOPs, 1." in cost
    assert "FLOPs a step, " in section(
        prompt, f"The path so far, from the base model to the parent {parent.node_id}"
    )

    # Dynamics without repetition, and plots.
    dynamics = section(prompt, f"Training dynamics of the parent {parent.node_id}")
    assert "Validation is greedy, training samples at temperature " in dynamics
    assert re.search(r"^constant: .*mismatch_ratio_min 1, ", dynamics, re.M)
    assert "mismatch_ratio_min [" not in dynamics
    assert "The table leaves out the steps 3, 7, 10, 14." in dynamics
    assert "3. Path to stage" in dynamics
    images = [part for part in asked.body["messages"][-1]["content"] if part["type"] == "image_url"]
    assert len(images) == 3
    elsewhere = section(prompt, "Other stages of the search")
    assert elsewhere and "wrote:" not in elsewhere
    assert json.dumps(prompt).count("The policy still moves") < len(known), "no words of unrelated stages"
