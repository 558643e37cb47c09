"""Right answers are put through their own verifier before a model is trained on them.

One that does not earn full marks for itself can be earned by nobody, or by a wrong answer: its problem is
refused, left out or kept, as `task.unverified` says, and never in silence.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.files import make_private, read_json, write_json
from llmzero.tasks import answers
from llmzero.tasks.base import Example
from llmzero.tasks.guard import TIMEOUTS_A_WORKER
from llmzero.tasks.splits import Split, first_of
from llmzero.tasks.template import PromptTemplate
from llmzero.tasks.verified import Verified, shown

FULL_MARKS = 1 - 1e-6
LISTED = 5  # problems that a message names; it counts all
TRIED = 16  # right answers that are tried where they are kept whatever comes of it
MANY = 200  # right answers, which take seconds
MAX_WORKERS = 8
NO_ANSWER = "\x00 \x01"  # no right answer, which a regular expression that takes anything takes
REPEATED = 40  # characters, of which (a+)+b tries 2 ** 40 ways
_ESCAPED = re.compile(r"\\.", re.DOTALL)
log = logging.getLogger(__name__)


@dataclass
class Rows:
    """The problems of a source, as far as it has been read, and what of it is no problem.

    Attributes:
        source: the settings that name it, for messages: `task.path=problems.jsonl`.
        unverified: what is done with a row that is no problem: `refuse`, `skip` or `keep`. What no problem
            can be made of is not kept either.
    """

    source: str
    unverified: str
    examples: list[tuple[str, Example]] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)
    _first: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, where: str, example: Example, answer: str | None = None) -> None:
        """Add a problem, once; `where` names its row.

        One that was there before with another answer is unusable, as one of the two is wrong. `answer` is the
        right one where the example's is its letter.
        """
        answer = " ".join((answer or example.answer).split())
        first, known = self._first.setdefault(example.id, (where, answer))
        if first == where:
            self.examples.append((where, example))
        elif known != answer:
            self.leave(where, f"answers {shown(answer)}; {first} answers the same prompt {shown(known)}")

    def leave(self, where: str, why: str) -> None:
        """Leave out a row of which no problem can be made."""
        self.unusable.append((where, why))

    def settle(self, unverified: Sequence[tuple[str, str]] = ()) -> None:
        """Say what is left out, `unverified` and what is unusable.

        Raises:
            UserError: something is, and it is to be refused.
        """
        left = [*self.unusable, *unverified]
        if not left:
            return
        total = len(self.examples) + len(self.unusable)
        count = f"{self.source}: {len(left)} of {total} problems"
        listed = [f"{where}: {why}" for where, why in left[:LISTED]]
        more = [f"and {len(left) - LISTED} more"] * (len(left) > LISTED)
        if self.unverified == "refuse":
            lines = "".join(f"\n  {line}" for line in [*listed, *more])
            raise UserError(
                f"{count} cannot be used:{lines}\nmend them, or give task.unverified=skip to leave them out "
                "(keep takes right answers that are no examples of themselves)"
            )
        log.warning(
            "%s are left out (task.unverified=%s): %s", count, self.unverified, "; ".join([*listed, *more])
        )


class ReadProblems:
    """A task whose problems are read from rows of others; `check` is known by what begins a search.

    Attributes:
        source: names them, for messages.
        sizes: examples in each split; None is all.
        template: makes the prompts.
    """

    source: str
    sizes: Mapping[str, int | None]
    template: PromptTemplate
    _splits: Callable[[], Mapping[Any, Sequence[Example]]]

    def split(self, name: Split) -> Sequence[Example]:
        """Return the examples of a split, in the order of their rows.

        Raises:
            UserError: they cannot be used, or are fewer.
        """
        return first_of(self._splits()[name], name, self.sizes[name], self.source)

    def check(self) -> None:
        """Read all splits that there are, and end the processes that this took.

        Raises:
            UserError: they cannot be used, or one has too few problems.
        """
        for name in self._splits():
            self.split(name)
        if isinstance(self, Verified):
            self.close()
        self.template.close()


def verified(task: Verified, rows: Rows) -> list[tuple[str, Example]]:
    """Return the problems whose right answers earn full marks for themselves, with where they stand.

    Raises:
        UserError: one does not and is to be refused; or the verifier fails for all of them.
    """
    unique = list(dict.fromkeys(example.answer for _, example in rows.examples))
    keep = rows.unverified == "keep"
    problems = {} if not unique else tried(task, unique) if keep else _known_or_found(task, unique)
    rows.settle(
        []
        if keep
        else [
            (where, f"the right answer {shown(example.answer)}: {problems[example.answer]}")
            for where, example in rows.examples
            if example.answer in problems
        ]
    )
    return [(w, example) for w, example in rows.examples if keep or example.answer not in problems]


def tried(task: Verified, unique: Sequence[str]) -> dict[str, str]:
    """Try some right answers, so that a verifier that never works is noticed; say that the rest is not."""
    problems = found(task, unique[:TRIED])
    task.say_once(
        "kept",
        "with task.unverified=keep no right answer has to earn full marks for itself: "
        f"{len(problems)} of the first {min(TRIED, len(unique))} do not",
    )
    return problems


def found(task: Verified, unique: Sequence[str]) -> dict[str, str]:
    """Return what is wrong with right answers that do not earn full marks for themselves.

    Raises:
        UserError: the verifier fails for all of them.
    """
    problems: dict[str, str] = {}
    failures = 0
    unstated = "cannot be stated in <answer> tags"
    with _checker(task, len(unique)) as (checker, size):
        for chunk in _chunks(unique, size):
            pairs = [_pair(task, answer) for answer in chunk]
            for answer, (score, why) in zip(chunk, checker.judged(pairs), strict=True):
                failures += bool(why)
                if problem := why or _shortfall(task, score):
                    problems[answer] = problem
            problems |= {answer: unstated for answer, (text, _) in zip(chunk, pairs, strict=True) if not text}
            if task.verifier == "regex":
                problems |= _endless(checker, chunk)
    if task.outside and failures == len(unique):
        reason = problems[unique[0]]
        raise UserError(f"task.verifier={task.verifier}: fails for every right answer: {reason}")
    return problems


def _pair(task: Verified, answer: str) -> tuple[str, str]:
    """Return what a completion with the right answer states, as the verifier would be given it."""
    if task.verifier == "regex":
        return NO_ANSWER, answer
    return answers.stated(f"<answer>{answer}</answer>") or "", answer


def _endless(checker: Verified, patterns: Sequence[str]) -> dict[str, str]:
    """Return what is wrong with regular expressions that try all ways through a few dozen characters."""
    texts = [next(filter(str.isalpha, _ESCAPED.sub("", pattern)), "1") * REPEATED for pattern in patterns]
    pairs = [(f"{text}{NO_ANSWER}", pattern) for text, pattern in zip(texts, patterns, strict=True)]
    return {
        pattern: f"takes too long on {shown(text)} and more"
        for text, pattern, (_, why) in zip(texts, patterns, checker.judged(pairs), strict=True)
        if why
    }


def _shortfall(task: Verified, score: float) -> str:
    """Return what is wrong with a right answer that was judged; empty where nothing is."""
    if task.verifier != "regex":
        return "" if score >= FULL_MARKS else f"earns {score:g} of 1 from task.verifier={task.verifier}"
    return "matches any text" if score else ""


def _known_or_found(task: Verified, unique: Sequence[str]) -> dict[str, str]:
    """Return what `found` finds, from the user's cache where an earlier process has found it."""
    if task.verifier == "regex":
        wrong = {answer: problem for answer in unique if (problem := _pattern_problem(answer))}
        return wrong | found(task, [answer for answer in unique if answer not in wrong])
    if task.quick:
        return found(task, unique)
    key = json.dumps([task.verifier, task.timeout_s, _code(task.verifier), unique])
    file = _folder() / f"{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()}.json"
    with _locked(file.parent):
        problems = _read(file, unique)
        if problems is None:
            problems = found(task, unique)
            with suppress(OSError):
                write_json(file, {"answers": len(unique), "problems": problems}, sync=False)
    return problems


def _pattern_problem(pattern: str) -> str:
    try:
        re.compile(pattern, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is no regular expression: {error}"
    return ""


def _read(file: Path, unique: Sequence[str]) -> dict[str, str] | None:
    """Return the problems that a file of the cache holds; None where it holds none that can be used."""
    try:
        stored = read_json(file)
        problems = stored["problems"] if stored and stored["answers"] == len(unique) else None
        if problems is not None and {*map(type, problems.values())} <= {str} and {*problems} <= {*unique}:
            return dict(problems)
    except (DamagedFileError, OSError, KeyError, TypeError, AttributeError):
        pass
    return None


def _folder() -> Path:
    return Path(os.environ.get("LLMZERO_CACHE") or "~/.cache/llmzero").expanduser() / "gold"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process after the other check answers, so that the second finds what the first has found."""
    descriptor = None
    try:
        with suppress(OSError):  # no folder, or no locks: then each checks for itself
            make_private(folder)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@cache
def _code(verifier: str) -> str:
    """Return a hash of the code that judges answers: of this package, of math-verify, of a user's module."""
    state = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        state.update(file.read_bytes())
    for package in ("math-verify", "latex2sympy2_extended", "sympy"):
        with suppress(PackageNotFoundError):
            state.update(f"{package} {version(package)}".encode())
    module = verifier.rpartition(".")[0]
    spec = find_spec(module) if module else None
    if spec and spec.origin and Path(spec.origin).is_file():
        state.update(Path(spec.origin).read_bytes())
    return state.hexdigest()


@contextmanager
def _checker(task: Verified, count: int) -> Iterator[tuple[Verified, int]]:
    """Give what judges `count` right answers, and how many to give it at a time.

    These are so few that none goes unjudged for others that never end. Many are judged on several cores.
    """
    if task.quick or count < MANY:
        yield task, max(1, count) if task.quick else TIMEOUTS_A_WORKER
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(MAX_WORKERS, cores)
    checker = Verified(task.verifier, task.timeout_s, workers)
    try:
        yield checker, TIMEOUTS_A_WORKER * workers
    finally:
        checker.close()


def _chunks(unique: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yield right answers, `size` at a time; a long check shows on a terminal how long the rest takes."""
    chunks = [unique[start : start + size] for start in range(0, len(unique), size)]
    if len(unique) < MANY or len(chunks) == 1:
        yield from chunks
    elif sys.stderr.isatty():
        yield from _shown(chunks)
    else:
        log.info("checking %d right answers, once", len(unique))
        yield from chunks


def _shown(chunks: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Yield chunks while a bar on the terminal shows how long the rest takes."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from llmzero.core.terminal import Terminal

    columns = (TextColumn("checking right answers, once"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=Terminal(sys.stderr)) as bar:
        shown_task = bar.add_task("", total=sum(map(len, chunks)))
        for chunk in chunks:
            yield chunk
            bar.advance(shown_task, len(chunk))
