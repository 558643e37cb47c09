"""The plan of a search and what it can cost at most: printed before it starts, and by `dry_run=true`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from llmzero.agents.llm import LlmAgent
from llmzero.core.length import flops_text
from llmzero.core.text import visible_line
from llmzero.search.session import Session


def describe(session: Session) -> str:
    """Return the plan in a few lines; of a dry run with what there is of data, model and disk.

    Raises:
        UserError: a dry run finds what the first stage would fail of.
    """
    config = session.config
    search = config.search
    limits = (
        ", ".join(
            f"{name} {f'{value:g}' if isinstance(value, float) else value}"
            for name, value in asdict(config.budget).items()
            if value is not None
        )
        or "none"
    )
    stages = config.stages
    steps = (stages or 0) * (search.stage_steps or 0)
    groups = Counter(parameter.group for parameter in session.catalogue.values())
    lines = [
        f"LLMZero: search={search.name} agent={session.agent_name} seed={config.seed}",
        f"  search_dir   {visible_line(session.workspace.path)}",
        f"  task, model  {_target(config.task)}, {_target(config.model)}; runner {_target(config.runner)}",
        f"  budget       {limits}; {search.workers} at a time, {search.length} a stage, "
        f"depth up to {search.max_depth}",
        f"  tunables     {len(session.catalogue)}: "
        + ", ".join(f"{count} {name}" for name, count in sorted(groups.items())),
    ]
    if steps:
        completions = _completions(session)
        lines.append(
            f"  at most      {steps} GRPO steps"
            + (f" of {completions[0]} to {completions[1]} completions" if completions else "")
        )
    if stages and search.stage_flops:
        lines.append(f"  at most      {stages} stages, about {flops_text(stages * search.stage_flops)}")
    if stages and search.workers > (paths := max(1, stages // search.max_depth)):
        lines.append(
            f"  workers      {search.workers} are more than {stages} stages keep busy: {paths} path(s) of "
            f"{search.max_depth}, one stage behind the other; some will wait, or paths stay short"
        )
    if search.confirm_seeds:
        top, seeds = search.confirm_top, search.confirm_seeds
        lines.append(
            f"  confirm      the best {top} strategies and the practitioner's on {seeds} fresh seeds, "
            "beyond the budget"
        )
    if isinstance(session.proposer, LlmAgent):
        lines.append(_model(session.proposer, stages))
    if session.agent_name == "rules":
        lines.append("  No language model is configured: the rule-based agent proposes (agent=rules).")
    if config.dry_run:
        lines += [*session.look(), "dry run: everything fits; nothing was started"]
    return "\n".join(lines)


def _model(agent: LlmAgent, stages: int | None) -> str:
    """Return the line on the agent's language model, with an upper bound of the cost where prices are set."""
    settings, llm = agent.settings, agent.endpoint.settings
    line = (
        f"  model        {llm.model} at {llm.base_url or 'OpenAI'}, "
        f"prompts of up to {settings.max_prompt_tokens} tokens"
    )
    if stages and llm.price_input is not None and llm.price_output is not None:
        call = settings.max_prompt_tokens * llm.price_input + llm.max_reply_tokens * llm.price_output
        line += (
            f"; at most about ${stages * call / 1e6:.2f} for proposals, "
            f"{1 + settings.repairs} times that if every answer is sent back"
        )
    return line


def _target(group: dict[str, Any]) -> str:
    return str(group.get("_target_") or "none").rsplit(".", 1)[-1]


def _completions(session: Session) -> tuple[int, int] | None:
    """Return the smallest and the largest number of completions a step that the catalogue allows."""
    prompts, group = session.catalogue.get("prompts_per_step"), session.catalogue.get("group_size")
    if prompts is None or group is None:
        return None
    return int(prompts.at(0) * group.at(0)), int(prompts.at(1) * group.at(1))
