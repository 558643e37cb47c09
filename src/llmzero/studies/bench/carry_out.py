"""The agent bench from its launcher to its tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmzero.agents.base import AsksModel
from llmzero.agents.llm import LlmAgent
from llmzero.agents.text import estimated_tokens
from llmzero.cli import composed
from llmzero.config import WITHOUT, BenchConfig
from llmzero.core.documents import dump_yaml
from llmzero.core.errors import UserError
from llmzero.core.files import make_private, remove_temporary, write_atomic, write_json
from llmzero.core.parts import make
from llmzero.core.terminal import Terminal
from llmzero.core.text import visible_line
from llmzero.runners.table import TableRunner, TableRunnerSettings
from llmzero.runners.tables.format import TABLES, Table
from llmzero.search.checks import check_models
from llmzero.search.session import Session
from llmzero.search.settings import Group, SearchConfig
from llmzero.search.thinking import in_background
from llmzero.studies.bench.asking import RANDOM, UNCHANGED, Asked, Bill, Ground, Record, answers
from llmzero.studies.bench.outcomes import Alternatives, Outcomes
from llmzero.studies.bench.pages import bench_page
from llmzero.studies.bench.points import DecisionPoint, files_of, read_points
from llmzero.studies.bench.staged import staged
from llmzero.studies.bench.summary import summary_of
from llmzero.tree.lease import Lease
from llmzero.tree.workspace import ENDPOINT, differences, read_config, without_secrets

RULES = {"_target_": "llmzero.agents.rules.RuleAgent", "name": "rules"}
MISSING = 1  # exit code
LOCAL_AT_ONCE = 2  # points in hand where nobody is waited for
IMAGES = "image_url"
CHANGEABLE = tuple(f"llm.{key}" for key in ENDPOINT)


@dataclass(frozen=True)
class Contestant:
    """An agent as it is configured; `key` names the folder of its calls."""

    name: str
    key: str
    group: Group


@dataclass
class Bench:
    """Points and agents, checked and ready.

    Attributes:
        files: digests of points and tables, by name.
        grounds: by the file of a table.
    """

    config: BenchConfig
    files: Mapping[str, str]
    points: Sequence[DecisionPoint]
    contestants: Sequence[Contestant]
    grounds: Mapping[Path, Ground]

    @classmethod
    def of(cls, config: BenchConfig) -> Bench:
        """Read points and tables and check all; nothing is asked.

        Raises:
            UserError: something cannot work.
        """
        contestants = contestants_of(config)
        tables = Path(config.tables) if config.tables else TABLES
        files = files_of(config.points)
        points = [point for file in files for point in _some(read_points(file, tables), config.per_task)]
        if len({point.name for point in points}) < len(points):
            raise UserError("points: two files have the same name; rename one")
        known = {point.table.file: point.table for point in points}
        digests = {
            **{f"points {file.stem}": _digest(file) for file in files},
            **{f"table {file.name}": _digest(file) for file in known},
        }
        grounds = {file: _ground(config, contestants, table) for file, table in known.items()}
        return cls(config, digests, points, contestants, grounds)

    @property
    def directory(self) -> Path:
        """Of calls and results."""
        return Path(self.config.bench_dir).absolute()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the directory, after checking that it is of the same agent and points.

        Raises:
            UserError: it is of others, or another process works in it.
        """
        make_private(self.directory)
        file = self.directory / "config.yaml"
        wanted = {"agent": self.config.agent, "llm": asdict(self.config.llm), "files": dict(self.files)}
        with Lease(self.directory / "driver.json", "bench_dir").held():
            remove_temporary(self.directory)
            if file.exists():
                stored = read_config(file)
                known: dict[str, Any] = dict(stored["files"]) if isinstance(stored.get("files"), dict) else {}
                shared = {name: digest for name, digest in self.files.items() if name in known}
                there = {**stored, "files": {name: known[name] for name in shared}}
                if listed := differences(there, {**wanted, "files": shared}, CHANGEABLE):
                    raise UserError(
                        f"bench_dir={self.directory} holds the calls of another bench: {listed}. "
                        "Choose another bench_dir, or give the same values"
                    )
                wanted["files"] = {**known, **self.files}
            write_atomic(file, dump_yaml(without_secrets(wanted)))
            yield


def contestants_of(config: BenchConfig) -> list[Contestant]:
    """Return who is asked: the agent, the same without something, and the rules beside it.

    Raises:
        UserError: `also` names what the agent has not.
    """
    group = config.agent
    asks = str(group.get("_target_")) == f"{LlmAgent.__module__}.{LlmAgent.__name__}"
    name = config.llm.model if asks and config.llm.model else str(group.get("name") or "agent")
    rows = [Contestant(name, "full", group)]
    for each in dict.fromkeys(config.also):
        if each not in WITHOUT:
            raise UserError(f"also={each}: must be some of {', '.join(WITHOUT)}")
        if not asks:
            raise UserError(f"also={each}: is for language models, whose prompt shows it; give agent=openai")
        if not group.get(WITHOUT[each], each != "no_plots"):
            raise UserError(f"also={each}: agent.{WITHOUT[each]}=false is so already; leave it out")
        rows.append(Contestant(f"{name}, {each}", each, {**group, WITHOUT[each]: False}))
    if group.get("_target_") != RULES["_target_"]:
        rows.append(Contestant("rules", "rules", RULES))
    return rows


def _some(points: Sequence[DecisionPoint], count: int | None) -> list[DecisionPoint]:
    """Return so many points, evenly spread over a file."""
    if count is None or count >= len(points):
        return list(points)
    return [points[round(i * (len(points) - 1) / max(1, count - 1))] for i in range(count)]


def _ground(config: BenchConfig, contestants: Sequence[Contestant], table: Table) -> Ground:
    """Return a table with a search on it, as agents see it, and with the agents that are asked."""
    seed = int(table.header["seed"])
    overrides = [
        *("runner=table", f"table='{table.file}'", f"seed={seed}", "stopper=none"),
        *("search.workers=1", "search_dir=unset"),
    ]
    search = replace(composed("search", SearchConfig, overrides), agent=config.agent, llm=config.llm)
    calls = Path(config.bench_dir).absolute() / "calls"
    agents = [Asked(each.name, _agent(each.group, search), calls / each.key) for each in contestants]
    runner = TableRunner(TableRunnerSettings(str(table.file)))
    return Ground(search, runner, Outcomes(table), agents)


def _agent(group: Group, search: SearchConfig) -> Any:
    catalogue, metrics = search.catalogue, search.metric_catalogue
    agent = make(group, "agent", name=None, llm=search.llm, catalogue=catalogue, metric_catalogue=metrics)
    if not hasattr(agent, "propose"):
        raise UserError(f"agent._target_={group['_target_']}: lacks propose")
    return agent


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def carry_out(config: BenchConfig) -> int:
    """Ask what has not been asked, score everything, and write `bench.json` and `bench.md`.

    Returns:
        the exit code: 1 where a call failed, so that answers are missing. A dry run says what it can cost.
    """
    bench = Bench.of(config)
    print(_described(bench), flush=True)
    if config.dry_run:
        print(_cost(bench))
        return 0
    _check(bench)
    with bench.opened():
        rows = _rows(bench)
        bench_record = {
            "agents": [each.name for each in bench.contestants],
            "llm": _told(config),
            "files": bench.files,
            "points": {point.name: _of_point(point, bench) for point in bench.points},
            "summary": summary_of(rows),
            "answers": rows,
        }
        write_json(bench.directory / "bench.json", bench_record)
        page = bench_page(bench_record)
        write_atomic(bench.directory / "bench.md", page)
    print(page)
    print(f"bench: {visible_line(bench.directory / 'bench.json')}")
    missing = [row for row in rows if not row["answered"]]
    if missing:
        print(
            f"{len(missing)} answers are missing, as calls failed; the same command asks again. The last: "
            f"{missing[-1].get('error', '')}"
        )
    return MISSING if missing else 0


def _described(bench: Bench) -> str:
    tables = ", ".join(sorted({point.table.file.name for point in bench.points}))
    names = ", ".join([*(each.name for each in bench.contestants), RANDOM, UNCHANGED])
    return f"bench {visible_line(bench.directory)}: {len(bench.points)} points of {tables}: {names}"


def _told(config: BenchConfig) -> dict[str, Any]:
    names = ("model", "temperature", "max_reply_tokens", "price_input", "price_output")
    return {name: getattr(config.llm, name) for name in names}


def _of_point(point: DecisionPoint, bench: Bench) -> Record:
    alternatives = Alternatives(point, bench.grounds[point.table.file].outcomes)
    return {
        "source": point.source,
        "stages": len(point.stages),
        "parent": list(point.parent),
        "untried": len(point.untried(point.parent)),
        "matters": alternatives.matters(),
    }


def _check(bench: Bench) -> None:
    """Check the language model: its set-up, and that prompts can be made.

    Raises:
        UserError: it cannot be asked.
    """
    ground = next(iter(bench.grounds.values()))
    search = ground.config
    if bench.config.dollars is not None and None in (search.llm.price_input, search.llm.price_output):
        raise UserError("dollars: needs llm.price_input and llm.price_output, in dollars a million tokens")
    session = Session.from_config(search, runner=ground.runner)
    asking = [each.agent for each in ground.agents if isinstance(each.agent, AsksModel)]
    check_models(asking, session.evidence, session.catalogue, search.budget)


def _cost(bench: Bench) -> str:
    """Return what calls can come to at most, by agent."""
    lines = ["dry run: nothing was asked"]
    sums: dict[str, tuple[int, int]] = {}
    for point in bench.points:
        ground = bench.grounds[point.table.file]
        with staged(point, ground.config, ground.runner) as search:
            for each in ground.agents:
                if isinstance(each.agent, LlmAgent):
                    points, tokens = sums.get(each.name, (0, 0))
                    sums[each.name] = points + 1, tokens + _tokens(each.agent.prompt(search.evidence))
    llm = bench.config.llm
    repairs = int(bench.config.agent.get("repairs") or 0)
    for name, (points, tokens) in sums.items():
        reply = points * llm.max_reply_tokens
        line = f"  {name}: {points} calls, about {tokens:,} tokens of prompts, {reply:,} of replies at most"
        if llm.price_input is not None and llm.price_output is not None:
            line += f", ${(tokens * llm.price_input + reply * llm.price_output) / 1e6:.2f}"
        lines.append(f"{line}; {1 + repairs} times that if every answer is sent back")
    if not sums:
        lines.append("  no language model is asked: no calls")
    return "\n".join(lines)


def _tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    from llmzero.agents.prompt import TOKENS_AN_IMAGE

    tokens = 0
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            tokens += TOKENS_AN_IMAGE if part["type"] == IMAGES else estimated_tokens(part["text"])
    return tokens


def _rows(bench: Bench) -> list[Record]:
    """Return the rows of all points in their order, several points at a time."""
    bill = Bill(bench.config.dollars)
    agents = next(iter(bench.grounds.values())).agents
    for each in agents:
        each.settle(bill)
    asks = any(isinstance(each.agent, AsksModel) for each in agents)
    at_once = bench.config.llm.max_at_once if asks else LOCAL_AT_ONCE
    waiting, under_way = list(bench.points), dict[Future[list[Record]], str]()
    done: dict[str, list[Record]] = {}
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[cost]}"))
    with Progress(TextColumn("points"), *columns, console=Terminal()) as progress:
        bar = progress.add_task("points", total=len(waiting), cost="")
        while waiting or under_way:
            while waiting and len(under_way) < at_once:
                point = waiting.pop(0)
                work = partial(answers, point, bench.grounds[point.table.file], bill)
                under_way[in_background(work)] = point.name
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                done[under_way.pop(future)] = future.result()
                progress.update(bar, advance=1, cost=f"${bill.dollars:.2f}" if bill.dollars else "")
    return [row for point in bench.points for row in done[point.name]]
