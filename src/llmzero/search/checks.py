"""Checks before a search starts, of its parts and of its language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmzero.agents.base import AsksModel
from llmzero.core.decay import DECAYS
from llmzero.core.documents import is_number
from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.files import RESTORE
from llmzero.core.hparams import Catalogue
from llmzero.core.model_files import check_model
from llmzero.core.parts import make
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.runners.base import StageRunner
from llmzero.search.confirm import fresh_seeds
from llmzero.search.settings import SearchConfig
from llmzero.tree.budget import Budget, Ledger
from llmzero.tree.store import EventStore
from llmzero.tree.tree import ROOT, Node, Tree

NANO = "llmzero.grpo.models.NanoModel"
PROTOCOLS = {
    "agent": ("propose",),
    "stopper": ("interval_s", "decide"),
    "search.method": ("ask", "tell"),
    "tracking": ("start", "finish"),
}


def check_protocols(config: SearchConfig, parts: Mapping[str, Any]) -> None:
    """Check that parts, by their group, have what a search asks of them; those from outside may lack some.

    Raises:
        UserError: one does not.
    """
    for group, part in parts.items():
        target = (config.search.method if group == "search.method" else getattr(config, group))["_target_"]
        if group == "runner" and not isinstance(part, StageRunner):
            raise UserError(f"runner._target_={target}: must derive from llmzero.runners.base.StageRunner")
        if missing := [name for name in PROTOCOLS.get(group, ()) if not hasattr(part, name)]:
            raise UserError(f"{group}._target_={target}: lacks {', '.join(missing)}")
    if not config.agent.get("name"):
        raise UserError("agent.name: needs a value, which reports call the agent")
    audited = config.stopper.get("audit_fraction")
    if audited is not None and not (is_number(audited) and 0 <= audited <= 1):
        raise UserError(f"stopper.audit_fraction={audited}: must be from 0 to 1")


def check_stages(store: EventStore, catalogue: Catalogue, budget: Budget) -> None:
    """Check that the stages of an event log have hyperparameters of this catalogue, and count for the budget.

    Raises:
        DamagedFileError: one has not.
        UserError: compute is limited, and that of a stage is unknown.
    """
    if budget.flops is not None and store.ledger.flops is None:
        raise UserError(
            f"budget.flops={budget.flops:g}: what stages of this search have cost is unknown, as an earlier "
            "version, or its runner, did not count it; give budget.flops=null and another limit"
        )
    for node in store.tree:
        if node.state in ("proposing", "withdrawn"):
            continue
        if problems := catalogue.problems(node.hparams):
            raise DamagedFileError(store.path, f"stage {node.node_id}: {problems[0]}", RESTORE)


def check_parts(config: SearchConfig, runner: StageRunner, models: Sequence[AsksModel]) -> None:
    """Check that the groups of a configuration fit together; `models` are agents that call a language model.

    Raises:
        UserError: they do not.
    """
    name = str(config.runner["_target_"]).rsplit(".", 1)[-1]
    for group, part in (("task", config.task), ("model", config.model)):
        if runner.trains and part.get("_target_") is None:
            raise UserError(
                f"{group}=none: {name} trains, so it needs a {group}; name one, or use runner=simulated"
            )
    if config.table is not None and (config.task or {}).get("_target_") is not None:
        raise UserError("task: runner=table has the task of its table; leave task out")
    if config.stages == 0:
        raise UserError(
            f"budget.flops={config.budget.flops:g}: less than half of search.stage_flops="
            f"{config.search.stage_flops:g}, so no stage would begin; raise it, or shorten the stages"
        )
    processes, shared = runner.processes_per_node, (config.rollout or {}).get("tensor_parallel", 1)
    if runner.trains and processes % shared:
        raise UserError(
            f"rollout.tensor_parallel={shared}: must divide the {processes} processes that {name} starts "
            "on a node; set its GPUs or processes"
        )
    schedule = config.catalogue.get("lr_schedule")
    if schedule and (unknown := set(schedule.choices or (schedule.default,)) - set(DECAYS)):
        raise UserError(
            f"hparams.parameters.lr_schedule.choices: {min(map(str, unknown))} is none of {', '.join(DECAYS)}"
        )
    unpriced = None in (config.llm.price_input, config.llm.price_output)
    if "llm_dollars" in config.budget.limits and models and unpriced:
        raise UserError(
            "budget.llm_dollars: needs llm.price_input and llm.price_output, in dollars a million tokens"
        )
    if (config.trainer or {}).get("evaluation_split") == "test":
        raise UserError(
            "trainer.evaluation_split=test: a search selects on val; test is read once, at its end"
        )
    seeds = [config.seed, *fresh_seeds(config)]
    runner.check(seeds, config.catalogue, config.search.length, config.search.max_depth)


def check_sources(task: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Check that a task of ours can read its data, all of its splits, and that a model's directory holds one.

    A task that generates its data has nothing to read. What this finds out of many right answers, the stages
    find in the user's cache.

    Raises:
        UserError: a file or an answer cannot be used, a split has too few problems, there is no model, or it
            cannot begin with this task.
    """
    if model.get("path"):
        check_model(model["path"])
    if str(task.get("_target_")).startswith("llmzero."):
        made = make(task, "task")
        if hasattr(made, "check"):
            made.check()
        if model.get("_target_") == NANO and not hasattr(made, "demonstration"):
            raise UserError(
                f"model=nano: its warm start needs demonstrations, which {type(made).__name__} has not; give "
                "model=hf model.path=NAME, or another task"
            )


def check_models(
    models: Sequence[AsksModel], evidence: EvidenceBuilder, catalogue: Catalogue, budget: Budget
) -> None:
    """Check the set-up of agents that call a language model, with the evidence before the first stage.

    Raises:
        UserError: a key is missing, nobody answers, a prompt template is broken or does not fit its budget.
    """
    tree = Tree()
    tree.add(Node(ROOT, None, 0, catalogue.defaults(), 0, None, {}))
    for agent in models:
        agent.check(evidence.for_proposal(tree, ROOT, Ledger().left(budget)))
        agent.endpoint.check()
