#!/usr/bin/env python
"""Trains a complete tree of stages, and packs it as a table for `runner=table` (docs/tables.md).

Usage: python -m benchmarks.make_table NAME --seed N            (hours; the same command goes on where it was)
       python -m benchmarks.make_table NAME --seed N --check 5  (trains five paths of a table anew)

benchmarks/tables/NAME.yaml says what is trained. The result is benchmarks/tables/NAME-N.jsonl.xz; what is
known until then lies in --state.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import lzma
import math
import os
import platform
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.tree_growing import Grower, Plan, bits
from llmzero.cli import run_command
from llmzero.core.errors import UserError
from llmzero.core.files import read_json, read_jsonl, write_json
from llmzero.core.hparams import Parameter
from llmzero.core.settings import path_argument
from llmzero.core.terminal import Terminal
from llmzero.runners.tables.format import (
    FORMAT,
    SUFFIX,
    TABLES,
    VERSION,
    Path_,
    paths_of,
    read_table,
    write_table,
)

REPOSITORY = Path(__file__).resolve().parents[1]
LICENCE = "Apache-2.0"
PACKAGES = ("torch", "transformers", "deepspeed", "numpy", "llmzero")
MACHINE = ("cpu", "packages", "python")  # of a header: with another of these the bits may differ
LOOK_S = 2.0  # between two looks at what is done
SIGMAS = 3.0  # that the mean difference of a check elsewhere may lie from zero

Row = Mapping[str, Any]


def main() -> None:
    """Grow a tree, or check a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of a recipe NAME.yaml")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=positive, default=1, help="processes, of one thread each")
    parser.add_argument("--state", type=path_argument, help="what is known so far: runs/tables/NAME-SEED")
    parser.add_argument("--scratch", type=path_argument, help="for stages in hand: STATE/work")
    parser.add_argument("--tables", type=path_argument, default=TABLES, help="where recipe and table lie")
    parser.add_argument("--check", type=positive, metavar="K", help="train K paths of the table anew")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here or in processes of ours
    plan = Plan.of(options.name, options.seed, options.tables)
    name = f"{plan.name}-{plan.seed}"
    table = options.tables / f"{name}{SUFFIX}"
    state = (options.state or REPOSITORY / "runs" / "tables" / name).absolute()
    scratch = (options.scratch or state / "work").absolute()
    if options.check is not None:
        if not table.is_file():
            raise UserError(f"--check: there is no table {table} yet; grow it first, without --check")
        check(plan, table, options.check, scratch / "check")
        return
    (state / "stages").mkdir(parents=True, exist_ok=True)
    with _alone(state):
        made = _made_alike(plan, state / "made.json")
        grow(plan, state / "stages", scratch, options.workers)
        pack(plan, made, state / "stages", table)


def positive(text: str) -> int:
    """Return a number of the command line that is above zero."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the lock of a tree while the block runs."""
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--state={state}: another process grows this tree; wait for it") from error
        yield


def _made_alike(plan: Plan, file: Path) -> dict[str, Any]:
    """Note with a tree's first stage what makes it; return that.

    Raises:
        UserError: the stages that are known were made otherwise.
    """
    own, known = made_by(plan), read_json(file)
    if known is None:
        write_json(file, own)
    elif differing := _differing(known, own):
        raise UserError(
            f"{file}: the stages there were made with another {', '.join(differing)}; go on with the "
            "same, or begin anew with another --state"
        )
    return known or own


def _differing(known: Row, own: Row) -> list[str]:
    """Return the keys of what is known that are otherwise now. Settings that came later do not count: stages
    that are trained again on the way have to come out with the same bits.
    """
    own = json.loads(json.dumps(own))
    return [key for key in own if key != "commit" and not _covers(own[key], known.get(key))]


def _covers(own: Any, known: Any) -> bool:
    if isinstance(own, dict) and isinstance(known, dict):
        return all(_covers(own.get(key), value) for key, value in known.items())
    return bool(own == known)


def made_by(plan: Plan) -> dict[str, Any]:
    """Return what decides the bits of a tree."""
    from llmzero.grpo.checkpoint import commit

    model = {key: value for key, value in plan.config.model.items() if key not in ("cache_dir", "hparams")}
    return {
        "name": plan.name,
        "seed": plan.seed,
        "depth": plan.recipe.depth,
        "stage": {"steps": plan.recipe.steps, "flops": plan.recipe.flops},
        "parameters": {name: _entry(parameter) for name, parameter in plan.catalogue.items()},
        "fixed": plan.fixed,
        **plan.config.stage_groups,
        "model": model,
        "command": f"python -m benchmarks.make_table {plan.name} --seed {plan.seed}",
        "commit": commit(),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "cpu": cpu(),
    }


def _entry(parameter: Parameter) -> dict[str, Any]:
    """Return a parameter as a catalogue's file has it."""
    entry = {key: value for key, value in vars(parameter).items() if key != "name" and value is not None}
    return {**entry, "choices": list(parameter.choices or ())}


def cpu() -> str:
    """Return the kind of this machine's processor."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


# --- growing ---


def grow(plan: Plan, logs: Path, scratch: Path, workers: int) -> None:
    """Train all stages that are missing; each process takes first stages with all below them."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
    with Progress(TextColumn("stages"), *columns, console=Terminal()) as progress:
        whole, before, began = plan.subtree(()), _stages(logs), time.monotonic()
        bar = progress.add_task("stages", total=whole, completed=before, left="")
        try:
            pending: set[Future[None]] = {
                pool.submit(_grow_below, plan, logs / f"{unit}.jsonl", scratch / str(unit), unit, os.getpid())
                for unit in range(len(plan.configurations))
            }
            while pending:
                ended, pending = wait(pending, LOOK_S, FIRST_COMPLETED)
                done = _stages(logs)
                rate = (done - before) / (time.monotonic() - began) * 3600
                left = f"{(whole - done) / rate:.1f} hours left" if rate else ""
                progress.update(bar, completed=done, left=left)
                for future in ended:
                    future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _grow_below(plan: Plan, log: Path, scratch: Path, unit: int, parent: int) -> None:
    """Train a first stage and all below it, in a process that ends when the one that started it has gone."""
    with log.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a killed command's process ends after the stage in hand
        grower = Grower(plan, log, scratch, _ending_with(parent))
        if not grower.complete((unit,)):
            grower.train(())
            grower.grow((unit,))
        shutil.rmtree(scratch)


def _ending_with(parent: int) -> Callable[[], None]:
    def look() -> None:
        if os.getppid() != parent:
            os._exit(1)

    return look


def _stages(logs: Path) -> int:
    """Return how many stages are known, but for the base model's."""
    return len(_known(logs).keys() - {()})


def _known(logs: Path) -> dict[Path_, Row]:
    """Return all rows that are known, by path."""
    return {tuple(row["path"]): row for log in sorted(logs.glob("*.jsonl")) for row in read_jsonl(log)}


def pack(plan: Plan, made: Row, logs: Path, file: Path) -> None:
    """Write the table of a tree that is complete."""
    rows = _known(logs)
    base = rows.pop(())
    point = base["points"][0]
    header = {
        "format": FORMAT,
        "version": VERSION,
        **made,
        "base": {key: point[key] for key in ("score", "stderr", "test", "test_stderr", "seconds")},
        "val_n": base["val_n"],
        "test_n": base["test_n"],
        "cpu_seconds": round(sum(row["points"][-1]["seconds"] for row in rows.values() if row["points"])),
        "licence": LICENCE,
    }
    paths = paths_of(len(plan.configurations), plan.recipe.depth)
    write_table(file, header, [rows[path] for path in paths if path in rows])
    print(f"{file}: {len(read_table(file).stages)} stages, {file.stat().st_size / 1e6:.2f} MB")


# --- the check ---


def check(plan: Plan, file: Path, count: int, scratch: Path) -> None:
    """Train random paths of a table anew and compare all stages on them.

    On a machine like that which made the table, with the same packages, they must have the same bits.
    Elsewhere the mean difference of their scores must be zero but for its noise.

    Raises:
        UserError: they are not, or the table was made of something else.
    """
    header, own = read_table(file).header, made_by(plan)
    differing = _differing(header, own)
    if others := [key for key in differing if key not in MACHINE]:
        raise UserError(f"{file}: was made with another {', '.join(others)} than {plan.name}.yaml has now")
    lines = [json.loads(line) for line in lzma.decompress(file.read_bytes()).splitlines()[1:]]
    known = {tuple(row["path"]): row for row in lines}
    longest = [path for path in known if len(path) == plan.recipe.depth]
    grower = Grower(plan, scratch / "stages.jsonl", scratch)
    grower.train(())
    pairs: list[tuple[Row, Row]] = []
    for path in sorted(random.Random().sample(longest, min(count, len(longest)))):
        for length in range(1, len(path) + 1):
            if path[:length] not in grower.rows:
                pairs.append((known[path[:length]], grower.train(path[:length])))
                print(_compared(*pairs[-1]), flush=True)
    shutil.rmtree(scratch)
    equal = sum(bits(old) == bits(new) for old, new in pairs)
    kind = f"with another {', '.join(differing)}" if differing else "on the same kind of machine"
    print(f"{equal} of {len(pairs)} stages have the same bits, {kind}")
    if differing:
        _check_noise([_test(new) - _test(old) for old, new in pairs if old["points"] and new["points"]])
    elif equal < len(pairs):
        raise UserError(f"{file}: {len(pairs) - equal} of {len(pairs)} stages came out otherwise")


def _compared(old: Row, new: Row) -> str:
    same = "the same bits" if bits(old) == bits(new) else "other bits"
    return f"stage {old['path']}: {same}; test {_test(old):.3f} in the table, {_test(new):.3f} now"


def _test(row: Row) -> float:
    return float(row["points"][-1]["test"]) if row["points"] else math.nan


def _check_noise(differences: Sequence[float]) -> None:
    """Judge the differences of test scores that were trained elsewhere, as training has luck.

    Raises:
        UserError: their mean lies further from zero than its own error explains.
    """
    if len(differences) < 2:
        raise UserError("--check: give more paths, as one difference has no error")
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    print(f"mean difference of test scores {mean:+.4f} ± {error:.4f}")
    if abs(mean) > SIGMAS * error:
        raise UserError(f"the mean difference of test scores is beyond {SIGMAS:g} times its error")


if __name__ == "__main__":
    run_command(main)
