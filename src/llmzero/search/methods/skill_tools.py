"""The tools of `search=skill`: read skills, stages and budget; start, stop and await stages; finish.

Every call is answered by a text. A call that is wrong has no effect, and the text says what is wrong with it.
Tools read skills and the directories of stages alone, so that no test score is within reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmzero.agents.answer import PARAGRAPH, length_of
from llmzero.agents.changes import (
    MOST,
    PHRASE,
    SENTENCE,
    Remarks,
    checkpoint_of,
    usable_changes,
    useless,
)
from llmzero.agents.prompt import Portion, Shown, texts
from llmzero.agents.text import clean, fenced, one_line, value_text
from llmzero.core.errors import UserError
from llmzero.core.files import read_text
from llmzero.core.length import flops_text
from llmzero.core.stage import StageDir
from llmzero.evidence.dynamics import dynamics_text
from llmzero.evidence.evidence import Evidence
from llmzero.evidence.fit import nearly_equal
from llmzero.evidence.proposal import Proposal, Resume
from llmzero.search.methods.base import Expansion, MethodContext
from llmzero.search.methods.skill_schemas import NAMED, RefusedError, check_arguments, tool_schemas
from llmzero.tree.tree import ROOT, Node, Tree

SKILLS = Path(__file__).resolve().parents[4] / "conf" / "agent" / "skills"
ENDED = -1  # in place of a number of validation points: the end of the stage was reported
ROLLOUTS = Portion(full=0, listed=0, rollouts=4, characters=1000, rows=2)
NEWEST, BEST = 40, 20  # stages that are listed, of long searches


@dataclass(frozen=True)
class Outcome:
    """The result of a call.

    Attributes:
        text: the answer to the model.
        facts: what the transcript has to remember: `stage` that starts, `stop` of a stage, what was `told` of
            stages, `finished`.
        expansion: the stage to be started.
    """

    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    expansion: Expansion | None = None


Tool = Callable[[Tree, Mapping[str, int], Mapping[str, Any]], Outcome | None]


def read_skills(folder: str | None) -> dict[str, str]:
    """Return the skill files (`*.md`) of a folder by name; None is `conf/agent/skills`.

    Raises:
        UserError: there are none, or one is empty or no text.
    """
    path = Path(folder) if folder else SKILLS
    skills = {file.stem: read_text(file, "write it as UTF-8") for file in sorted(path.glob("*.md"))}
    if empty := [name for name, text in skills.items() if not text.strip()]:
        raise UserError(f"{path / empty[0]}.md: is empty; write what the model shall know, or delete it")
    if not skills:
        raise UserError(
            f"search.method.skills={path}: no such folder, or no *.md in it; copy {SKILLS} and edit the copy"
        )
    return skills


class Tools:
    """The tools of one search.

    Args:
        evidence: gathers the evidence on a stage.
        model: the model's name, which proposals bear.
        skills: texts by name.
    """

    def __init__(
        self,
        context: MethodContext,
        evidence: Callable[[Tree, str], Evidence],
        model: str,
        skills: Mapping[str, str],
    ) -> None:
        self.context, self.evidence, self.model, self.skills = context, evidence, model, skills
        self.schemas = tool_schemas(context.catalogue, context.lengths)
        self._parameters = {
            schema["function"]["name"]: schema["function"]["parameters"] for schema in self.schemas
        }
        self._tools: dict[str, Tool] = {
            "list_skills": self._list_skills,
            "read_skill": self._read_skill,
            "list_runs": self._list_runs,
            "read_metrics": self._read_metrics,
            "read_rollouts": self._read_rollouts,
            "start_stage": self._start_stage,
            "stop_stage": self._stop_stage,
            "wait": self._wait,
            "finish": self._finish,
        }

    def run(
        self, name: str, arguments: Mapping[str, Any], tree: Tree, reported: Mapping[str, int]
    ) -> Outcome | None:
        """Carry out a call; return None of a `wait` for something that has not happened yet.

        Args:
            name: of the tool.
            arguments: of the call, as the model gave them.
            tree: the search's.
            reported: of each stage, how many validation points were reported to the model, or `ENDED`.
        """
        try:
            if name not in self._tools:
                raise RefusedError(
                    f"There is no tool {one_line(name, NAMED)}; there are {', '.join(self._tools)}."
                )
            present = {key: value for key, value in arguments.items() if value is not None}
            check_arguments(present, self._parameters[name])
            return self._tools[name](tree, reported, present)
        except RefusedError as refusal:
            return Outcome(f"Nothing was done. {refusal}")

    # --- reading ---

    def _list_skills(self, tree: Tree, reported: Mapping[str, int], arguments: Mapping[str, Any]) -> Outcome:
        return Outcome(self.list_skills())

    def list_skills(self) -> str:
        """Return a line for each skill."""
        return "\n".join(f"- {name}: {_summary(text)}" for name, text in self.skills.items())

    def _read_skill(self, tree: Tree, reported: Mapping[str, int], arguments: Mapping[str, Any]) -> Outcome:
        name = arguments["name"].removesuffix(".md")
        if name not in self.skills:
            raise RefusedError(
                f"There is no skill {one_line(name, NAMED)}; there are {', '.join(self.skills)}."
            )
        return Outcome(self.skills[name])

    def _list_runs(self, tree: Tree, reported: Mapping[str, int], arguments: Mapping[str, Any]) -> Outcome:
        ranked = sorted(tree.stages(), key=lambda node: (node.score is None, -(node.score or 0.0)))
        listed = {node.node_id for node in (*tree.stages()[-NEWEST:], *ranked[:BEST])}
        lines = [
            f"- {ROOT}: the base model, score {tree.root.score:.3f}",
            *(self._line(tree, node) for node in tree.stages() if node.node_id in listed),
        ]
        hidden = len(tree.stages()) - len(listed)
        best, left = tree.best(), self.evidence(tree, ROOT).budget_left
        running = [node for node in tree.stages() if not node.final]
        begun = sum(node.multiple for node in running)
        left |= {"stages": left["stages"] - begun} if "stages" in left else {}
        budget = ", ".join(f"{name} {value:g}" for name, value in left.items())
        parts = [
            *lines,
            f"{hidden} older stages with lower scores are not listed." if hidden else "",
            f"Best so far: {best.node_id}, score {best.score:.3f}." if best else "",
            f"Left of the budget: {budget or 'it has no limit'}; {len(running)} running.",
            f"Paths may have {self.context.max_depth} stages.",
        ]
        return Outcome("\n".join(filter(None, parts)))

    def _read_metrics(self, tree: Tree, reported: Mapping[str, int], arguments: Mapping[str, Any]) -> Outcome:
        node = _node(tree, arguments["stage"])
        parts = [self.status(tree, node)]
        if node.result and node.result.error:
            parts.append(fenced(clean(node.result.error, PARAGRAPH), "error"))
        parts.append(dynamics_text(self.evidence(tree, node.node_id)))
        return Outcome("\n\n".join(filter(None, parts)))

    def _read_rollouts(
        self, tree: Tree, reported: Mapping[str, int], arguments: Mapping[str, Any]
    ) -> Outcome:
        node = _node(tree, arguments["stage"])
        rollouts = texts(self.evidence(tree, node.node_id), Shown(), ROLLOUTS)["rollouts"]
        return Outcome(rollouts or f"No rollouts of {node.node_id} were recorded.")

    def _line(self, tree: Tree, node: Node) -> str:
        assert node.parent_id is not None
        before = tree[node.parent_id].hparams
        changed = self.context.catalogue.changes(before, node.hparams)
        changes = ", ".join(
            f"{name} {value_text(before[name])} -> {value_text(new)}" for name, new in changed.items()
        )
        resume = node.proposal.get("resume", "best")
        where = f"step {resume}" if isinstance(resume, int) else resume
        return (
            f"- {node.node_id} from {node.parent_id} at {where}, depth {node.depth}: "
            f"{changes or 'nothing changed'}; {self.status(tree, node)}"
        )

    def status(self, tree: Tree, node: Node) -> str:
        """Return a stage's progress, or its result, in a line."""
        if node.result is None:
            points = StageDir(self._directory(node)).validation()
            last = (
                f"{points[-1].score:.3f} ± {points[-1].stderr:.3f} at step {points[-1].step} of {node.length}"
                if points
                else "none"
            )
            stopping = ", about to be stopped" if node.stop else ""
            return f"{node.state}{stopping}, {len(points)} validation points, the last: {last}"
        result, before = node.result, tree[node.parent_id].score if node.parent_id else None
        score = (
            f"best score {node.score:.3f} at step {result.best_step}"
            if node.score is not None
            else "no score"
        )
        gain = (
            f" ({node.score - before:+.3f} against its parent)"
            if node.score is not None and before is not None
            else ""
        )
        cause = f" ({one_line(result.cause.get('kind', '?'), PHRASE)})" if result.cause else ""
        error = f", error {one_line(result.error, SENTENCE)!r}" if result.error else ""
        cost = f"{result.gpu_seconds:.0f} device seconds, {flops_text(result.flops)}"
        return f"{node.state}{cause}, {score}{gain}, {cost}{error}"

    def _directory(self, node: Node) -> Path:
        return self.context.directory / "nodes" / node.node_id

    # --- acting ---

    def _start_stage(self, tree: Tree, reported: Mapping[str, int], arguments: Mapping[str, Any]) -> Outcome:
        parent = _node(tree, arguments["parent"])
        if not parent.usable:
            raise RefusedError(
                f"{parent.node_id} cannot be continued; only what was completed or stopped can: "
                f"{self.status(tree, parent)}."
            )
        if parent.depth >= self.context.max_depth:
            raise RefusedError(
                f"{parent.node_id} is at depth {parent.depth}, and paths may have {self.context.max_depth} "
                "stages; start from a shallower one."
            )
        proposal = self._proposal(self.evidence(tree, parent.node_id), arguments)
        stage = tree.next_id()
        changes = ", ".join(f"{name}={value_text(value)}" for name, value in proposal.changes.items())
        sized = f", {proposal.length:g} times the usual length" if proposal.length != 1 else ""
        text = (
            f"{stage} starts now from {parent.node_id}, checkpoint {proposal.resume}, "
            f"with {changes or 'nothing changed'}{sized}."
        )
        return Outcome(
            text,
            {"stage": stage},
            Expansion(parent.node_id, {**parent.hparams, **proposal.changes}, proposal),
        )

    def _proposal(self, evidence: Evidence, arguments: Mapping[str, Any]) -> Proposal:
        """Return what a call proposes, with changes within the catalogue's bounds."""
        changes, parent = arguments["changes"], evidence.stage
        resume = _checkpoint(arguments["checkpoint"], evidence)
        diagnosis = (one_line(arguments["diagnosis"], PHRASE),) if "diagnosis" in arguments else ()
        if not changes and nearly_equal(evidence, parent.hparams):
            raise RefusedError(f"{parent.node_id} was trained on with nearly the same values already.")
        remarks = Remarks()
        length = length_of(arguments.get("length"), evidence, remarks)
        entries = [{"name": name, "value": value} for name, value in changes.items()]
        usable, _ = usable_changes(entries, evidence, remarks, MOST)
        blocked = useless(usable, resume, evidence) if changes else None
        if remarks.complaints or blocked:
            raise RefusedError(" ".join([*remarks.complaints, *([blocked] if blocked else [])]))
        reason = clean(arguments["reason"], PARAGRAPH)
        return Proposal(self.model, diagnosis, reason, usable, resume, length=length)

    def _stop_stage(self, tree: Tree, reported: Mapping[str, int], arguments: Mapping[str, Any]) -> Outcome:
        node = _node(tree, arguments["stage"])
        if node.final or node.stop or node.parent_id is None:
            raise RefusedError(f"{node.node_id} cannot be stopped: {self.status(tree, node)}.")
        text = (
            f"{node.node_id} is asked to stop: it ends after the step in hand, and keeps its checkpoints "
            "and its score."
        )
        return Outcome(text, {"stop": {node.node_id: one_line(arguments["reason"], SENTENCE)}})

    def _finish(self, tree: Tree, reported: Mapping[str, int], arguments: Mapping[str, Any]) -> Outcome:
        return Outcome("The session is over.", {"finished": True})

    # --- waiting ---

    def _wait(self, tree: Tree, reported: Mapping[str, int], arguments: Mapping[str, Any]) -> Outcome | None:
        """Return what is new. The end of any stage is, as a worker is free then."""
        running = {node.node_id: node for node in tree.stages() if not node.final}
        named = _node(tree, arguments["stage"]) if "stage" in arguments else None
        watched = (
            [node for node in running.values() if named in (None, node)]
            if arguments.get("until") != "end"
            else []
        )
        points = {node.node_id: self._points(node) for node in watched}
        news = {node_id: count for node_id, count in points.items() if count > reported.get(node_id, 0)}
        news |= {
            node.node_id: ENDED
            for node in tree.stages()
            if node.final and reported.get(node.node_id) != ENDED
        }
        if news:
            return Outcome(
                "\n".join(f"{node_id}: {self.status(tree, tree[node_id])}" for node_id in news),
                {"told": news},
            )
        if named is not None and named.node_id not in running:
            raise RefusedError(f"{named.node_id} has ended: {self.status(tree, named)}.")
        if not running:
            raise RefusedError(
                "Nothing is running, so there is nothing to wait for: start a stage, or finish."
            )
        return None

    def _points(self, node: Node) -> int:
        """Return the number of validation points of a running stage; called several times a second."""
        file = StageDir(self._directory(node)).validation_file
        return file.read_bytes().count(b"\n") if file.exists() else 0


def _node(tree: Tree, stage: str) -> Node:
    if stage not in tree.nodes:
        raise RefusedError(
            f"There is no stage {one_line(stage, NAMED)}; ids are {ROOT} to {next(reversed(tree.nodes))}."
        )
    return tree[stage]


def _checkpoint(wish: Any, evidence: Evidence) -> Resume:
    """Return the checkpoint that a call asks for; small models write steps as texts."""
    step = (
        int(wish) if isinstance(wish, str) and wish.isascii() and wish.isdigit() and len(wish) < 9 else wish
    )
    resume, complaints = checkpoint_of(step, evidence)
    if complaints:
        raise RefusedError(" ".join(complaints).replace("resume_from", "checkpoint"))
    return resume


def _summary(text: str) -> str:
    """Return a skill's title and its first paragraph."""
    title, _, rest = text.strip().partition("\n")
    return f"{title.lstrip('# ')}. {one_line(rest.strip().partition(chr(10) * 2)[0], SENTENCE)}"
