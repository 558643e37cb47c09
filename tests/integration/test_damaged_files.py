"""Each kind of file of a search, damaged in many ways, before each command that reads it.

What comes of it is one of two things: the command does not need the file or writes it anew, and its result
is the same; or it ends with one error that names the file and says what to do, and leaves the file as it is.
There is no traceback, no wait without end and no wrong number, and once the file is restored the search goes
on to the result that it would have had.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import pandas as pd
import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from llmzero.cli import BAD_INPUT, composed, explain
from llmzero.config import LAUNCHERS
from llmzero.core.errors import UserError
from llmzero.core.files import write_json
from llmzero.runners.tables.format import SUFFIX
from llmzero.search.driver import Driver
from llmzero.tree.lease import Lease
from tests.integration.conftest import MICRO, Run, last_checkpoint
from tests.integration.damages import WHOLE, Damage, field_damages
from tests.integration.searches import FORESEEABLE
from tests.integration.test_answers import freely, said
from tests.integration.test_llm import ALWAYS_ASKING, asking
from tests.integration.test_skill import WHOLE as SESSION
from tests.integration.test_skill import player
from tests.llm_server import LLMServer, scripted
from tests.made_tables import made_table

SEARCH = ("experiment=simulated", "budget.stages=3", "search.workers=1")
CONFIRMED = ("search.confirm_seeds=1", "search.confirm_top=1")
TESTED = (*SEARCH, "search.test_incumbents=true", "search.test_constant=true", *CONFIRMED)
SKILL = (*SEARCH, "search=skill", "stopper=none")
LIMIT_S = 60.0  # of a command that takes a tenth of a second
FIELDS = 12  # of a file that are damaged, each by one of `damages.OTHERS`; all are given to many
TURNS = 3  # in how many turns the files take the ways in which a whole file is damaged
ANALYSES = ("dynamics", "stopping", "calibration", "compare")
OTHERS = ("propose", "stop", *ANALYSES)
# One of each kind of file; of stages the last but one, which has children and is on the best path.
FILES = (
    *("config.yaml", "tree.jsonl", "driver.json", "summary.json", "test.json", "confirmation.json"),
    *("strategy.yaml", "rule.yaml", "tracking.json", "report.html"),
    *(
        f"nodes/0002/{name}"
        for name in (
            *("stage.json", "proposal.json", "metrics.jsonl", "validation.jsonl", "rollouts.jsonl"),
            *("status.json", "stopper.jsonl", "result.json", "log.txt", "job.json", "requeues.jsonl"),
            "checkpoints/step_*/COMPLETE",
        )
    ),
    *("nodes/0003/result.json", "nodes/0003/status.json", "nodes/0000/result.json"),
    *("test/base/result.json", "test/base/stage.json", "test/base/validation.jsonl"),
    *("fixed/*/summary.json", "fixed/*/tree.jsonl", "fixed/*/nodes/0001/result.json"),
    *("confirm/strategy-*/seed-1000/summary.json", "confirm/strategy-*/seed-1000/tree.jsonl"),
    *("confirm/strategy-*/seed-1000/config.yaml", "confirm/strategy-*/seed-1000/nodes/0001/result.json"),
)


class HangError(BaseException):
    """A command takes far too long. No `Exception`, so that nothing takes it for one of its own."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, -1 where a traceback would be printed, and its error's text."""

    code: int
    error: str = ""


@dataclass
class Bench:
    """A search that is damaged over and over.

    Attributes:
        pristine: the copy that it is restored from.
        directory: where it lies while commands read it.
        overrides: of the command that began it.
        expected: its summary once it is finished.
        undamaged: how commands end that find something wrong where nothing is damaged, as comparisons of
            unfinished searches do.
    """

    pristine: Path
    directory: Path
    overrides: Sequence[str]
    expected: dict[str, Any] = field(default_factory=dict)
    undamaged: dict[str, Outcome] = field(default_factory=dict)

    def restore(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(self.pristine, self.directory)

    def file(self, pattern: str) -> Path:
        found = sorted(self.directory.glob(pattern))
        if not found:
            pytest.skip(f"this search has no {pattern}")
        return found[0]

    def summary(self) -> dict[str, Any]:
        """The summary but for seconds; in a session that lost its end, the model is asked once more."""
        summary: dict[str, Any] = json.loads((self.directory / "summary.json").read_text())
        budget = {name: summary["budget"][name] for name in ("stages", "gpu_seconds")}
        return {**summary, "budget": budget}

    def commands(self) -> dict[str, Callable[[], object]]:
        there = str(self.directory)
        scratch = self.directory.with_name("scratch")
        replay = (*SEARCH, f"search_dir={scratch}", "dry_run=true")
        return {
            "status": command("launchers.status", there),
            "stop": command("launchers.stop", there),
            "repair": command("launchers.repair", there),
            "propose": launcher("propose", f"search_dir={there}", "node=0001", "agent=rules"),
            "resume": launcher("search", *self.overrides, f"search_dir={there}"),
            "strategy": launcher("replay", *replay, f"strategy={there}/strategy.yaml"),
            "rule": launcher("replay", *replay, f"rule={there}/rule.yaml", "stages=2"),
            "load": command("analysis.load", there, "--out", str(scratch)),
            **{name: command(f"analysis.{name}", there) for name in ANALYSES},
        }

    def scores(self) -> list[float | None]:
        """The scores that the tables of the last `load` have: of the search, and of its stages."""
        tables = {
            name: pd.read_parquet(self.directory.with_name("scratch") / f"{name}.parquet")
            for name in ("searches", "stages")
        }
        wanted = tables["searches"].reindex(columns=["base_score", "test_base"]).iloc[0].tolist()
        scores: list[float | None] = [*wanted, *tables["stages"]["score"].tolist()]
        return [None if score is None or score != score else score for score in scores]


def command(module: str, *arguments: str) -> Callable[[], object]:
    def run() -> None:
        with patch.object(sys, "argv", [module, *arguments]):
            import_module(module).main()

    return run


@cache
def _composed(name: str, *overrides: str) -> Any:
    return composed(name, LAUNCHERS[name], overrides)


def launcher(name: str, *overrides: str) -> Callable[[], object]:
    return lambda: import_module(f"launchers.{name}").run(deepcopy(_composed(name, *overrides)))


def outcome(run: Callable[[], object]) -> Outcome:
    """Run a command as `launch` and `run_command` do, in this process, within the limit of time."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed), _limited():
            run()
    except SystemExit as error:
        return Outcome(int(error.code or 0), printed.getvalue())
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        message = explain(error)
        return Outcome(-1, repr(error)) if message is None else Outcome(BAD_INPUT, message)
    except HangError:
        return Outcome(-1, "it hangs")
    except Exception as error:
        logging.getLogger(__name__).error("traceback", exc_info=True)
        return Outcome(-1, repr(error))
    return Outcome(0)


@contextmanager
def _limited() -> Iterator[None]:
    def end(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def content(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file below a directory, by size and time of change."""
    files = {path: path.lstat() for path in directory.rglob("*") if not path.is_dir()}
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in files.items()}


def assert_right(bench: Bench, name: str, file: Path, label: str) -> None:
    """Run a command before a damaged file and require one of the two right outcomes."""
    before = content(bench.directory)
    ended = outcome(bench.commands()[name])
    what = f"{name} before {file.relative_to(bench.directory)}, damaged: {label}; {ended}"
    assert ended.code in (0, BAD_INPUT), what
    if ended == bench.undamaged.get(name):
        return
    after = content(bench.directory)
    if ended.code == BAD_INPUT:
        assert str(bench.directory) in ended.error, what
        assert len(ended.error) < 3000, what
        if label != "a bit flipped":  # which may make another name of a name: the file itself can be read
            assert file.name in ended.error, what
            assert before.get(str(file)) == after.get(str(file)), f"the file is changed: {what}"
    if name not in ("resume", "stop", "repair"):
        assert before == after, f"files are changed: {what}"
    if name == "load" and ended.code == 0:
        assert set(bench.scores()) <= {*_known_scores(bench), None}, what
    if name == "resume":
        if ended.code == BAD_INPUT:
            _put_back(bench, file)
            again = outcome(bench.commands()["resume"])
            assert again.code == 0, f"restored, after {what}: {again}"
        assert bench.summary() == bench.expected, what


def _known_scores(bench: Bench) -> set[float]:
    points = re.findall(r'"(?:best_score|score)": ([\d.]+)', json.dumps(bench.expected))
    events = (bench.pristine / "tree.jsonl").read_text()
    return {float(each) for each in (*points, *re.findall(r'"score": ([\d.]+)', events))}


def _put_back(bench: Bench, file: Path) -> None:
    if file.is_dir():
        shutil.rmtree(file)
    file.unlink(missing_ok=True)
    if (whole := bench.pristine / file.relative_to(bench.directory)).exists():
        shutil.copy2(whole, file)


def damages_of(file: Path) -> Iterator[tuple[str, Damage]]:
    """Yield a share of the damages of a whole file, and one of each of its fields, of `FIELDS` at most."""
    turn = crc32(f"{file.parent.name}/{file.name}".encode()) % TURNS
    yield from list(WHOLE.items())[turn::TURNS]
    if file.suffix in (".yaml", ".json", ".jsonl") or file.name == "COMPLETE":
        fields = [list(group) for _, group in itertools.groupby(field_damages(file), _field)]
        yield from (
            group[number % len(group)] for number, group in enumerate(fields[:: 1 + len(fields) // FIELDS])
        )


def _field(damage: tuple[str, Damage]) -> str:
    return damage[0].rsplit(" is ", 1)[0]


def readers_of(file: Path, number: int) -> tuple[str, ...]:
    """The commands that a damage is tried with: those that read most, and of the others one in turn."""
    own = {"strategy.yaml": ("strategy",), "rule.yaml": ("rule",)}.get(file.name, ())
    return ("status", "load", *own, OTHERS[number % len(OTHERS)], "resume")


def add_files_of_trainers(directory: Path) -> None:
    """Add to simulated stages what only stages that train, or jobs, leave."""
    for stage in directory.glob("nodes/*"):
        heartbeat = {"state": "running", "phase": "training", "progress": 0.5, "seconds": 1.5}
        write_json(stage / "status.json", {**heartbeat, "gpu_seconds": 1.5, "pid": 1, "error": None})
        rollout = {"step": 2, "prompt": "2 + 2", "completion": "4", "reward": 1.0}
        (stage / "rollouts.jsonl").write_text(f"{json.dumps(rollout)}\n" * 3)
        (stage / "log.txt").write_text("step 1\nstep 2\n")
        write_json(stage / "job.json", {"job_id": "17"})
        (stage / "requeues.jsonl").write_text(json.dumps({"checkpoint": "step_00002"}) + "\n")


def made(pristine: Path, overrides: Sequence[str], *, collected: int | None = None) -> Bench:
    """Make a search, whole or interrupted at a look of its driver, and what is expected of it."""
    bench = Bench(pristine, pristine.with_name("work") / "search", overrides)
    assert outcome(bench.commands()["resume"]).code == 0
    bench.expected = bench.summary()
    if collected is not None:
        shutil.rmtree(bench.directory)
        _interrupt(bench, collected)
    add_files_of_trainers(bench.directory)
    write_json(bench.directory / "tracking.json", {"id": "0123456789ab", "offline": {"0000": "a"}})
    shutil.copytree(bench.directory, bench.pristine)
    ended = {name: outcome(bench.commands()[name]) for name in ("propose", *ANALYSES)}
    bench.undamaged = {name: each for name, each in ended.items() if each.code == BAD_INPUT}
    return bench


def _interrupt(bench: Bench, collected: int) -> None:
    """Begin the search and end it within; the lease of a process that is gone stays, as after kill -9.

    Looks while a model is asked do not count: their number depends on how long it takes.
    """
    looks = itertools.count()
    collect = Driver._collect

    def until_then(driver: Driver) -> bool:
        if not driver._questions() and next(looks) == collected:
            raise KeyboardInterrupt
        return collect(driver)

    with patch.object(Driver, "_collect", until_then), pytest.raises(KeyboardInterrupt):
        outcome(bench.commands()["resume"])
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    claim = Lease(bench.directory / "driver.json")._claim
    write_json(bench.directory / "driver.json", {**claim, "pid": int(gone.stdout), "renewals": 3})


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    with patch.dict(os.environ, COLUMNS="200"):
        logging.disable(logging.WARNING)
        yield
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return made(tmp_path_factory.mktemp("finished") / "pristine", TESTED)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return made(tmp_path_factory.mktemp("interrupted") / "pristine", SEARCH, collected=9)


def try_all(bench: Bench, pattern: str, damages: Callable[[Path], Iterator[tuple[str, Damage]]]) -> None:
    """Have every command meet a file in every state, each time in a search that is whole otherwise."""
    bench.restore()
    file = bench.file(pattern)
    wrong = []
    for number, (label, damage) in enumerate(damages(file)):
        damage(file)
        for name in readers_of(file, number):
            try:
                assert_right(bench, name, file, label)
            except AssertionError as error:  # all are told at once
                wrong.append(str(error).splitlines()[0])
        bench.restore()
    assert not wrong, "\n".join([f"{len(wrong)} times:", *wrong[:30]])


# --- the whole matrix ---


@pytest.mark.parametrize("pattern", FILES)
def test_every_damage_of_a_finished_search(finished: Bench, pattern: str) -> None:
    try_all(finished, pattern, damages_of)


@pytest.mark.parametrize("pattern", [name for name in FILES if not name.startswith(("test", "confirm"))])
def test_every_damage_of_an_interrupted_search(interrupted: Bench, pattern: str) -> None:
    try_all(interrupted, pattern, damages_of)


@pytest.mark.parametrize("which", ["finished", "interrupted"])
def test_a_log_that_is_damaged_or_lost_is_made_again(request: pytest.FixtureRequest, which: str) -> None:
    bench: Bench = request.getfixturevalue(which)
    for label, damage in WHOLE.items():
        if label == "a bit flipped":  # another name in a line that can be read
            continue
        bench.restore()
        file = bench.directory / "tree.jsonl"
        damage(file)
        ended = outcome(bench.commands()["repair"])
        assert ended.code in (0, BAD_INPUT), (label, ended)
        if ended.code == BAD_INPUT:
            assert str(file) in ended.error and label in ("a directory", "a FIFO"), (label, ended)
            continue
        assert outcome(bench.commands()["resume"]).code == 0, label
        assert bench.summary() == bench.expected, label


@pytest.mark.parametrize("pattern", ["session.jsonl", "nodes/0002/calls/*.json"])
def test_every_damage_of_a_session_with_a_model(tmp_path: Path, pattern: str) -> None:
    with LLMServer(player(SESSION)) as server:
        overrides = (*SKILL, *asking(server))
        bench = made(tmp_path / "pristine", overrides, collected=5)
        # Half a session looks like one that was interrupted there, and its model may go on otherwise.
        try_all(bench, pattern, lambda file: (each for each in damages_of(file) if each[0] != "half"))


ANSWERS = r"(action|parent|length|alternative|expected)"
NEW = re.compile(
    rf"withdrawn (\w+|proposal\.\w+)|proposing (why|others)(\.N)?|(created proposal\.)?{ANSWERS}(\.\w+)?"
)


# A search of which known stages are withdrawn.
ANSWERED = (*SEARCH, *FORESEEABLE, "budget.stages=6", ALWAYS_ASKING, "stopper=none")


def answered(file: Path, *, lacking: bool) -> Iterator[tuple[str, Damage]]:
    """Yield a damage of each field that tells what a model answered beside changes.

    Fields that are `lacking`, or null, are what earlier versions and other models have not said.
    """
    fields = itertools.groupby(field_damages(file), _field)
    for number, (name, group) in enumerate(fields):
        damages = [each for each in group if each[0].endswith((" is missing", " is null")) == lacking]
        if NEW.fullmatch(name.strip()):
            yield damages[number % len(damages)]


@pytest.mark.parametrize("pattern", ["tree.jsonl", "nodes/0002/proposal.json"])
def test_every_damage_of_what_a_model_answered_beside_changes(tmp_path: Path, pattern: str) -> None:
    with LLMServer(said(freely)) as server:
        overrides = (*ANSWERED, *asking(server))
        bench = made(tmp_path / "pristine", overrides, collected=14)
        log = (bench.pristine / "tree.jsonl").read_text()
        assert '"event":"withdrawn"' in log.replace(": ", ":") and '"alternative":{' in log.replace(": ", ":")
        try_all(bench, pattern, partial(answered, lacking=False))
        for label, damage in answered(bench.directory / pattern, lacking=True):
            file = bench.directory / pattern
            damage(file)
            ended = outcome(bench.commands()["resume"])
            assert ended.code == 0 or (ended.code == BAD_INPUT and file.name in ended.error), (label, ended)
            bench.restore()


@pytest.mark.parametrize("kind", ["proposing", "withdrawn"])
def test_a_log_without_a_withdrawn_stage_is_repaired(tmp_path: Path, kind: str) -> None:
    """What the model answered is in the stage's calls: it is not asked again, and nothing else changes."""
    with LLMServer(said(freely)) as server:
        overrides = (*ANSWERED, *asking(server))
        bench = made(tmp_path / "pristine", overrides, collected=14)
        bench.restore()
        file = bench.directory / "tree.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        events = [json.loads(line) for line in lines]
        gone = next(event["node_id"] for event in events if event["event"] == "withdrawn")
        keys = [(event["event"], event.get("node_id")) for event in events]
        lines[keys.index((kind, gone))] = b"{\n"
        file.write_bytes(b"".join(lines))
        assert outcome(bench.commands()["status"]).code == BAD_INPUT
        assert outcome(bench.commands()["repair"]).code == 0
        asked = len(server.requests)
        assert outcome(bench.commands()["resume"]).code == 0
        assert bench.summary() == bench.expected
        assert not any(f"Propose the stage {gone} " in each.text for each in server.requests[asked:])
    again = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["node_id"] for each in again if each["event"] == "withdrawn"].count(gone) == 1


# --- agent benches ---

PLAUSIBLE = r"(error|text|cut|trouble) is .*"  # of a call: what may as well have been so


@pytest.mark.parametrize(
    "pattern", ["config.yaml", "driver.json", "bench.json", "bench.md", "calls/full/hand-1/*/calls/*.json"]
)
def test_every_damage_of_a_bench(tmp_path: Path, pattern: str) -> None:
    """Either its file is named, and nothing is asked; or it is not read, and the results are the same."""
    shared = {"table": made_table(tmp_path).name.removesuffix(SUFFIX), "source": "", "why": "", "budget": 9}
    points = [
        {"stages": [[0], [5]], "parent": [0], "others": [[5]]},
        {"stages": [], "parent": [], "others": []},
    ]
    (tmp_path / "hand.jsonl").write_text("".join(json.dumps({**shared, **each}) + "\n" for each in points))
    there, whole = tmp_path / "work" / "bench", tmp_path / "whole"
    with LLMServer(scripted) as server:
        given = (f"points=[{tmp_path}/hand.jsonl]", f"tables={tmp_path}", f"bench_dir={there}")
        run = launcher("bench_agent", *asking(server), *given)
        assert outcome(run) == Outcome(0)
        write_json(there / "driver.json", {**Lease(there / "driver.json")._claim, "pid": 1, "renewals": 3})
        shutil.copytree(there, whole)
        expected, asked = json.loads((there / "bench.json").read_text()), len(server.requests)
        (file,) = there.glob(pattern)
        for label, damage in damages_of(whole / file.relative_to(there)):
            if file.parent.name == "calls" and re.match(PLAUSIBLE, label.strip()):
                continue
            damage(file)
            before = content(there).get(str(file))
            ended, what = outcome(run), f"{file} damaged: {label}"
            assert ended.code in (0, BAD_INPUT), (what, ended)
            if ended.code == BAD_INPUT:
                assert "bench_dir" in ended.error or str(file) in ended.error, (what, ended)
                assert content(there).get(str(file)) == before, f"the file is changed: {what}"
            else:
                assert json.loads((there / "bench.json").read_text()) == expected, what
            assert len(server.requests) == asked, what
            shutil.rmtree(there)
            shutil.copytree(whole, there)


# --- tables, studies and real checkpoints ---


@pytest.mark.parametrize("name", ["searches", "steps", "changes"])
def test_every_damage_of_a_table(finished: Bench, tmp_path: Path, name: str) -> None:
    finished.restore()
    load = command("analysis.load", str(finished.directory), "--out", str(tmp_path / "tables"))
    assert outcome(load).code == 0
    file = tmp_path / "tables" / f"{name}.parquet"
    whole, table = file.read_bytes(), pd.read_parquet(file)
    for label, damage in WHOLE.items():
        damage(file)
        ended = outcome(command("analysis.dynamics", str(file.parent)))
        told = ended.code == BAD_INPUT and str(file) in ended.error and "write the tables anew" in ended.error
        same = ended.code == 0 and table.equals(pd.read_parquet(file))  # not every byte counts
        assert told or same, (label, ended)
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink()
        file.write_bytes(whole)


def test_every_damage_of_a_checkpoint(run_here: Run, root: Path, tmp_path: Path) -> None:
    """A stage that cannot begin says so, names the file, and writes no score."""
    first = tmp_path / "first"
    few = (
        *MICRO,
        "values={prompts_per_step: 8, group_size: 4, learning_rate: 1e-3, max_completion_length: 12}",
    )
    run_here("train", *few, "steps=1", f"resume_from={root}", f"stage_dir={first}")
    checkpoint = last_checkpoint(first)
    for number, (name, (label, damage)) in enumerate(
        itertools.product(("trainer.json", "model.safetensors", "optimizer.safetensors"), WHOLE.items())
    ):
        if label in ("a byte flipped", "a bit flipped", "NUL in the middle"):
            continue  # of numbers, which no reader can tell from others
        if (name, label) == ("trainer.json", "a byte less"):
            continue  # a newline
        copied = tmp_path / f"{number}" / "nodes" / "0001" / "checkpoints" / checkpoint.name
        shutil.copytree(checkpoint, copied)
        damage(copied / name)
        stage = tmp_path / f"{number}" / "nodes" / "0002"
        done = run_here("train", *few, "steps=1", f"resume_from={copied}", f"stage_dir={stage}", ok=False)
        assert done.returncode == BAD_INPUT, (name, label, done)
        assert str(copied / name) in done.stderr, (name, label, done.stderr)
        result = json.loads((stage / "result.json").read_text())
        assert result["state"] == "failed" and result["best_score"] is None, (name, label)


# --- a little of it, for every day ---


@pytest.mark.parametrize(
    ("pattern", "label"),
    [
        ("config.yaml", "half"),
        ("config.yaml", "nested"),
        ("tree.jsonl", "NUL"),
        ("tree.jsonl", "a FIFO"),
        ("driver.json", "null"),
        ("nodes/0002/result.json", "NUL at the end"),
        ("nodes/0002/metrics.jsonl", "a byte less"),
        ("nodes/0002/status.json", "{}"),
        ("summary.json", "garbage"),
        ("test.json", "a directory"),
    ],
)
def test_a_damaged_file_is_named_or_does_not_matter(finished: Bench, pattern: str, label: str) -> None:
    finished.restore()
    if pattern == "driver.json":
        (finished.directory / pattern).write_text("{}")
    file = finished.file(pattern)
    WHOLE[label](file)
    for name in ("status", "load", "resume"):
        assert_right(finished, name, file, label)


def test_nesting_beyond_all_bounds_ends_no_process(finished: Bench, launch: Run) -> None:
    """In processes of their own, which a parser that recurses would end by a segmentation fault."""
    finished.restore()
    nested = finished.directory / "strategy.yaml"
    WHOLE["nested"](nested)
    done = launch("replay", *SEARCH, f"strategy={nested}", f"search_dir={nested.parent}/r", ok=False)
    assert done.returncode == BAD_INPUT and str(nested) in done.stderr
    WHOLE["nested objects"](finished.directory / "config.yaml")
    done = launch("status", str(finished.directory), ok=False)
    assert done.returncode == BAD_INPUT and str(finished.directory / "config.yaml") in done.stderr
