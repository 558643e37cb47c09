#!/usr/bin/env python
"""Kills searches and studies at random moments, runs the same commands again, and checks what came of it.

Usage: PYTHONPATH=. python benchmarks/kill_searches.py [KILLS] [--result FILE]   (200 in a quarter of an hour)
Writes benchmarks/results/kill_searches.json.

Every process is real and ended by SIGKILL: drivers of simulated searches, also while they ask a language
model (a server of the protocol on this machine), confirm, test or write reports; a comparison with its
workers; drivers and stages of real, tiny searches. All is imported once, and every driver is a fork of that.
A search is killed a few times before it comes to its end; then it must be as if nothing had been.
The exit code is 1 where anything was lost, paid twice, torn, left behind or different.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from llmzero.core.files import write_json
from llmzero.core.stage import StageDir
from llmzero.tree.store import EventStore
from tests.integration.conftest import MICRO
from tests.integration.searches import assert_consistent
from tests.integration.stage_processes import stage_processes
from tests.llm_server import Answer, LLMServer, Request, scripted

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results/kill_searches.json"
FORKS = multiprocessing.get_context("forkserver")
IMPORTED = ["launchers.search", "launchers.compare", "llmzero.search.session", "llmzero.grpo.main"]
IMPORTED += ["torch", "transformers", "deepspeed", "openai", "matplotlib.pyplot"]
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
SHARE = 0.6  # of an uninterrupted run, in which an attempt is killed: a search is killed several times
MOST = 6  # kills of one search; then it comes to its end
# Who is killed in searches with stages apart, by the number of kills before.
WHOM = (("driver", "stage"), ("driver",), ("driver",), ("stage",))
PATIENCE_S = 1200.0
TIMES = ("elapsed", "seconds")  # that differ from run to run; `gpu_seconds` of the simulator do not
SIMULATED = ["experiment=simulated"]
REAL = [*MICRO, "tracking=none", "search.workers=1", "budget.stages=2", "search.stage_steps=6"]
REAL += ["trainer.validation_every=3", "runner.threads=1", "stopper.interval_s=0", "stopper.min_step=1000"]
STUDY = [
    "tasks={easy: ['runner.landscape=easy'], deceptive: ['runner.landscape=deceptive']}",
    "methods={llmzero: ['search=llmzero'], random: ['search=random']}",
    "common=['experiment=simulated', 'budget.stages=12', 'search.workers=2']",
    "seeds=2",
]

Begun = Callable[[Path], bool]


@dataclass(frozen=True)
class Kind:
    """A kind of moment at which processes are killed.

    Attributes:
        share: of 200 kills.
        variants: overrides of the commands that are killed; taken in turn.
        begun: whether a directory has come to the moments that are meant.
        prepared: overrides of a command that is run first, uninterrupted; None where there is none.
        stages: kills stages too, and not only drivers.
    """

    name: str
    share: int
    variants: Sequence[Sequence[str]]
    begun: Begun = lambda directory: True
    launcher: str = "search"
    prepared: Sequence[str] | None = None
    stages: bool = False


@dataclass
class Outcome:
    """What came of the kills of a kind."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    attempts: int = 0
    stages: int = 0
    problems: list[str] = field(default_factory=list)


def kinds(url: str) -> list[Kind]:
    """Return all kinds; `url` is that of a language model."""
    model = ["agent=openai", "llm.model=scripted", f"llm.base_url={url}", "llm.api_key_env=null"]
    judge = ["stopper=llm", "stopper.interval_s=0", "agent.max_prompt_tokens=100000", "llm.retries=0"]
    searches = [
        [*SIMULATED, "budget.stages=40", f"search={method}", f"search.workers={workers}", f"seed={workers}"]
        for method in ("llmzero", "paper", "tpe", "pbt", "random", "asha", "cmaes")
        for workers in (1, 4)
    ]
    small = [*SIMULATED, "budget.stages=12"]
    thoughtful = [[*small, f"search.workers={workers}", *model, *judge] for workers in (2, 4)]
    confirmed, tested = (
        [[*small, *wanted, f"search.workers={workers}"] for workers in (1, 4)]
        for wanted in (
            ["search.confirm_seeds=2", "search.confirm_top=2"],
            ["search.test_incumbents=true"],
        )
    )
    return [
        Kind("simulated search", 104, searches),
        Kind("report", 16, [[*SIMULATED, "budget.stages=40"]], prepared=[*SIMULATED, "budget.stages=40"]),
        Kind("final test", 16, tested, lambda directory: (directory / "test").exists(), prepared=small),
        Kind("confirmation", 16, confirmed, lambda it: (it / "confirm").exists(), prepared=small),
        Kind("agent call", 20, thoughtful),
        Kind("study", 16, [STUDY], launcher="compare"),
        Kind("real search, stages in the driver", 8, [[*REAL, "runner=inline"]]),
        Kind("real search, stages apart", 4, [[*REAL, "budget.stages=1"]], stages=True),
    ]


class Deliveries(LLMServer):
    """A slow language model that knows which of its replies went out whole.

    Attributes:
        delivered: replies by the conversation that they answer.
        cut: requests whose client was gone before the reply.
    """

    def __init__(self) -> None:
        super().__init__(lambda request: Answer(content=scripted(request).content, delay_s=0.15))
        self.delivered: Counter[str] = Counter()
        self.cut = 0

    @contextmanager
    def busy_with(self, request: Request) -> Iterator[None]:
        """Count the request by whether its client was there to the end."""
        with super().busy_with(request):
            try:
                yield
            except ConnectionError:
                self.cut += 1
                raise
            self.delivered[json.dumps(request.body["messages"])] += 1


def command(launcher: str, overrides: Sequence[str], directory: Path) -> ForkServerProcess:
    """Start a launcher on a directory."""
    key = "study_dir" if launcher == "compare" else "search_dir"
    process = FORKS.Process(target=_launch, args=(launcher, [*overrides, f"{key}={directory}"], directory))
    process.start()
    return process


def _launch(launcher: str, overrides: list[str], directory: Path) -> None:
    log = os.open(directory.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [f"{launcher}.py", *overrides]
    runpy.run_path(str(REPOSITORY / f"launchers/{launcher}.py"), run_name="__main__")


class Killing:
    """One kind of kills in a folder."""

    def __init__(self, kind: Kind, folder: Path, rng: random.Random) -> None:
        self.kind, self.folder, self.rng = kind, folder, rng
        self.outcome = Outcome()
        self._whole: dict[int, tuple[Path, float]] = {}

    def run(self, kills: int) -> Outcome:
        """Kill until there were so many; every run ends by itself at last and is checked."""
        while self.outcome.kills.total() < kills:
            number = self.outcome.runs % len(self.kind.variants)
            whole, seconds = self._whole.get(number) or self._uninterrupted(number)
            directory = self._prepared(f"killed-{self.outcome.runs}")
            self._kill_until_it_ends(number, directory, SHARE * seconds, kills)
            self.outcome.runs += 1
            found = problems(whole, directory, real=self.kind.name.startswith("real"))
            print(*found, sep="\n", end="\n" if found else "", flush=True)
            self.outcome.problems += found
            self.outcome.stages += len(list(directory.rglob("stage.json")))
        return self.outcome

    def _prepared(self, name: str) -> Path:
        directory = self.folder / name / "s"
        directory.parent.mkdir(parents=True)
        if self.kind.prepared:
            self._end(command(self.kind.launcher, self.kind.prepared, directory), directory)
        return directory

    def _uninterrupted(self, number: int) -> tuple[Path, float]:
        """Run a variant to its end; return its directory, and the seconds of what is meant."""
        directory = self._prepared(f"whole-{number}")
        process = command(self.kind.launcher, self.kind.variants[number], directory)
        self._wait_until_begun(process, directory)
        began = time.monotonic()
        self._end(process, directory)
        self._whole[number] = directory, time.monotonic() - began
        return self._whole[number]

    def _kill_until_it_ends(self, number: int, directory: Path, window: float, kills: int) -> None:
        kills = min(kills, self.outcome.kills.total() + MOST)
        while True:
            process = command(self.kind.launcher, self.kind.variants[number], directory)
            self.outcome.attempts += 1
            if self.outcome.kills.total() >= kills:
                return self._end(process, directory)
            self._wait_until_begun(process, directory)
            process.join(window * self.rng.random())
            if process.exitcode is not None:
                return self._end(process, directory)
            self._kill(process, directory)

    def _wait_until_begun(self, process: ForkServerProcess, directory: Path) -> None:
        """Wait until an attempt has the lease, on which it writes `config.yaml`, and is at what is meant."""
        since = time.time_ns()
        files = "*/*/*/config.yaml" if self.kind.launcher == "compare" else "config.yaml"
        while process.exitcode is None:
            written = [file.stat().st_mtime_ns for file in directory.glob(files)]
            if max(written, default=0) > since and self.kind.begun(directory):
                return
            time.sleep(0.002)

    def _kill(self, process: ForkServerProcess, directory: Path) -> None:
        """Kill the driver; of a search with stages apart the driver and a stage, the driver, or a stage."""
        chosen = WHOM[self.outcome.kills.total() % len(WHOM)] if self.kind.stages else ("driver",)
        stage = self._running_stage(process, directory) if "stage" in chosen else None
        if "driver" in chosen:
            process.kill()
            process.join()
            self.outcome.kills["driver"] += 1
        if stage is not None:
            os.kill(stage, signal.SIGKILL)
            self.outcome.kills["stage"] += 1
        if "driver" not in chosen:  # which takes note: the stage would have failed if it died twice
            self._end(process, directory)
        if self.kind.launcher == "compare":
            time.sleep(0.5)  # its workers notice

    def _running_stage(self, process: ForkServerProcess, directory: Path) -> int | None:
        """Return the process of a stage, once one is at work; None where the driver ends before."""
        while process.exitcode is None:
            for stage, path in stage_processes(directory):
                if path.parent == directory / "nodes" and not StageDir(path).result_file.exists():
                    return stage.pid
            time.sleep(0.01)
        return None

    def _end(self, process: ForkServerProcess, directory: Path) -> None:
        process.join(PATIENCE_S)
        if process.exitcode != 0:
            log = directory.with_suffix(".log").read_text(errors="replace")
            process.kill()
            raise RuntimeError(f"{self.kind.name}: exit code {process.exitcode}: {log[-3000:]}")


def problems(whole: Path, killed: Path, *, real: bool) -> list[str]:
    """Return what is wrong with a killed directory that has come to its end."""
    found = [problem for file in sorted(killed.rglob("*")) if (problem := _broken(file))]
    for log in sorted(killed.rglob("tree.jsonl")):
        found += _inconsistent(log.parent)
    return found + (_other_weights(whole, killed) if real else _other_content(whole, killed))


def _broken(file: Path) -> str | None:
    """Return what is wrong with a file by itself: torn, temporary, left behind."""
    if file.name.startswith(".") or ".lost-" in file.name or file.name.endswith(".lost"):
        return f"{file} is left"
    if file.is_dir():
        checkpoint = file.parent.name == "checkpoints"
        return f"{file} is half a checkpoint" if checkpoint and not (file / "COMPLETE").exists() else None
    try:
        READERS.get(file.suffix, Path.stat)(file)
    except (ValueError, yaml.YAMLError) as error:
        return f"{file} is torn: {error}"
    return None


def _read_lines(file: Path) -> list[dict[str, Any]]:
    *lines, rest = file.read_text().split("\n")
    if rest:
        raise ValueError("the last line is unfinished")
    return [json.loads(line) for line in lines]


def _read_page(file: Path) -> str:
    text = file.read_text()
    if not text.rstrip().endswith("</html>"):
        raise ValueError("the page has no end")
    return text


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda file: json.loads(file.read_text()),
    ".jsonl": _read_lines,
    ".yaml": lambda file: yaml.safe_load(file.read_text()),
    ".html": _read_page,
}


def _inconsistent(search: Path) -> list[str]:
    """Return what of a search was lost, or paid or judged twice."""
    events = _read_lines(search / "tree.jsonl")
    paid = [event["node_id"] for event in events if event["event"] == "finished"]
    paid += [event["name"] for event in events if event["event"] in ("setup", "llm_call")]
    found = [f"{search}: {name} is paid {times} times" for name, times in Counter(paid).items() if times > 1]
    calls = {f"{file.parent.parent.name}/{file.stem}" for file in search.glob("nodes/*/calls/*.json")}
    charged = {event["name"] for event in events if event["event"] == "llm_call"}
    found += [f"{search}: call {name} is stored or charged alone" for name in calls ^ charged]
    for file in search.glob("nodes/*/stopper.jsonl"):
        steps = Counter(line["step"] for line in _read_lines(file))
        found += [f"{file}: step {step} is judged {n} times" for step, n in steps.items() if n > 1]
    try:
        assert_consistent(search, len(EventStore(search / "tree.jsonl", repair=False).tree) - 1)
    except AssertionError as error:
        found.append(f"{search}: {error}")
    return found


def _other_content(whole: Path, killed: Path) -> list[str]:
    """Return which files of a simulated search or of a study differ from the uninterrupted one's."""
    names = {
        file.relative_to(top)
        for top in (whole, killed)
        for file in top.rglob("*")
        if file.is_file() and file.suffix in (".json", ".jsonl", ".yaml", ".md")
    }
    names -= {name for name in names if name.name in ("config.yaml", "study.yaml", "driver.json")}
    return [
        f"{name} differs from the uninterrupted one" for name in sorted(names) if _differ(whole, killed, name)
    ]


def _differ(whole: Path, killed: Path, name: Path) -> bool:
    a, b = whole / name, killed / name
    return not (a.exists() and b.exists()) or _content(a) != _content(b)


def _content(file: Path) -> Any:
    """Return what a file says, without times; a stage whose driver died before it began is started again."""
    if file.name == "tree.jsonl":
        lines = [line for line in _read_lines(file) if line["event"] != "started" or line["attempt"] == 1]
        # Replays side by side are charged in the order of their ends, calls in that of their answers, on
        # neither of which anything depends.
        charges = ("setup", "llm_call")
        return _timeless(sorted(lines, key=lambda line: line["name"] if line["event"] in charges else ""))
    if file.suffix == ".jsonl":
        return _timeless(_read_lines(file))
    return _timeless(json.loads(file.read_text())) if file.suffix == ".json" else file.read_text()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _other_weights(whole: Path, killed: Path) -> list[str]:
    """Return which stages and checkpoints of a real search differ from the uninterrupted one's."""
    trees = [EventStore(top / "tree.jsonl", repair=False).tree for top in (whole, killed)]
    a, b = ([(n.parent_id, n.hparams, n.state, n.score) for n in tree] for tree in trees)
    there, here = _weights(whole), _weights(killed)
    learnt = len({weights for file, weights in there.items() if file.name == "model.safetensors"}) > 1
    wrong = {"the tree differs": a != b, "no stage changes the weights": not learnt}
    wrong |= {f"{name} differs": there.get(name) != here.get(name) for name in there | here}
    return [problem for problem, found in wrong.items() if found]


def _weights(search: Path) -> dict[Path, bytes]:
    """Return the content of all weights and optimizer states by path."""
    return {file.relative_to(search): file.read_bytes() for file in search.rglob("*.safetensors")}


def calls(server: Deliveries, folder: Path, runs: int) -> dict[str, int]:
    """Return what became of all requests; `runs` searches asked, one of them uninterrupted."""
    events = [event for log in folder.rglob("tree.jsonl") for event in _read_lines(log)]
    charged = sum(event["event"] == "llm_call" for event in events)
    delivered = server.delivered.total()
    return {
        "searches": runs,
        "received": len(server.requests),
        "cut_by_a_kill": server.cut,
        "delivered": delivered,
        "charged": charged,
        "delivered_but_not_stored": delivered - charged,
    }


def main() -> int:
    """Kill, check, and write the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    FORKS.set_forkserver_preload(IMPORTED)
    began, rng = time.monotonic(), random.Random(0)
    with TemporaryDirectory() as folder, Deliveries() as server:
        os.environ["LLMZERO_CACHE"] = f"{folder}/cache"
        outcomes = {}
        for number, kind in enumerate(kinds(server.url)):
            kills = max(1, round(arguments.kills * kind.share / 200))
            outcomes[kind.name] = Killing(kind, Path(folder, str(number)), rng).run(kills)
            _print(kind.name, outcomes[kind.name])
            if kind.name == "agent call":
                asked = calls(server, Path(folder, str(number)), outcomes[kind.name].runs + 1)
                print(f"  {asked}", flush=True)
    found = [problem for outcome in outcomes.values() for problem in outcome.problems]
    write_json(arguments.result, report(outcomes, asked, time.monotonic() - began))
    print(f"{len(found)} problems: {arguments.result}")
    return 1 if found else 0


def _print(name: str, outcome: Outcome) -> None:
    kills = ", ".join(f"{count} of a {what}" for what, count in outcome.kills.items())
    wrong = len(outcome.problems)
    print(
        f"{name:34} {outcome.runs:3} runs, {outcome.attempts:3} attempts, kills: {kills}; {wrong} problems",
        flush=True,
    )


def report(outcomes: dict[str, Outcome], asked: dict[str, int], seconds: float) -> dict[str, Any]:
    """Return the figures."""
    kills: Counter[str] = sum((outcome.kills for outcome in outcomes.values()), Counter())
    return {
        "kills": kills.total(),
        "killed": dict(kills),
        "kinds": {
            name: {
                "kills": outcome.kills.total(),
                "runs": outcome.runs,
                "attempts": outcome.attempts,
                "stages": outcome.stages,
                "problems": outcome.problems,
            }
            for name, outcome in outcomes.items()
        },
        "calls": asked,
        "problems": sum(len(outcome.problems) for outcome in outcomes.values()),
        "seconds": round(seconds),
    }


if __name__ == "__main__":
    sys.exit(main())
