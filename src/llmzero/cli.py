"""What all launchers share: one way to run under Hydra, and errors that a user can act on."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from llmzero.agents.endpoint import LlmSettings
from llmzero.config import checked, register
from llmzero.core.errors import UserError
from llmzero.core.redaction import keep_keys_in
from llmzero.core.terminal import guard_output

CONF = Path(__file__).resolve().parents[2] / "conf"
C = TypeVar("C")
FREE_SPACE = "free some space, then run the same command again: nothing is lost"
KEYS_IN_NOTES = (
    "llm: there are keys among its settings, and Hydra writes the command line of a multirun to files; put "
    "them into environment variables, and give '${oc.env:NAME}' in their places"
)
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that it cannot decode
BAD_INPUT = 2
INTERRUPTED = 130
UNREAD = 141  # what shells report of a command whose reader has gone


def launch(name: str, kind: type[C], run: Callable[[C], Any]) -> None:
    """Compose `conf/<name>.yaml` with the command line and call `run` with the checked configuration.

    Bad input ends with exit code 2 and a message, without a traceback. `HYDRA_FULL_ERROR=1` shows it.
    """
    verbose = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole; Hydra's own printing would cut them
    register()
    keys = keep_keys_in(sys.argv)  # Hydra quotes arguments in its errors
    guard_output()
    _require_text(sys.argv)
    if keys and {"-m", "--multirun"} & {*sys.argv}:
        _print_error(KEYS_IN_NOTES)
        sys.exit(BAD_INPUT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end is an interruption like Ctrl-C

    def job(config: DictConfig) -> Any:
        guard_output()  # again, for the log's handlers that Hydra has set up by now
        with _for_a_reader():
            return run(checked(kind, resolved(config)))

    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        message = explain(error)
        if verbose or message is None:
            raise
        _print_error(message)
        sys.exit(BAD_INPUT)


def run_command(main: Callable[[], None]) -> None:
    """Run a command that is not Hydra's; bad input ends it with a message and exit code 2."""
    guard_output()
    _require_text(sys.argv)
    try:
        with _for_a_reader():
            main()
    except (UserError, OSError) as error:
        if (message := explain(error)) is None:
            raise
        _print_error(message)
        sys.exit(BAD_INPUT)


def _require_text(arguments: Sequence[str]) -> None:
    """End the command where an argument is none in the locale's encoding: no file could hold it."""
    for argument in arguments:
        if LONE_SURROGATE.search(argument):
            _print_error(
                f"{argument}: cannot be read in the encoding of this locale ({sys.getfilesystemencoding()}); "
                "set PYTHONUTF8=1, or use other characters"
            )
            sys.exit(BAD_INPUT)


def _print_error(message: str) -> None:
    """Print an error; its further lines are indented, so that none passes for output of another kind."""
    print("error: " + re.sub(r"\n(?=\S)", "\n  ", message), file=sys.stderr)


@contextmanager
def _for_a_reader() -> Iterator[None]:
    """End quietly when the reader of a pipe has gone (`... | head`).

    Standard output is redirected, as Python would print another error when it closes it.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UNREAD)


def composed(name: str, kind: type[C], overrides: Sequence[str] = ()) -> C:
    """Return the checked configuration of `conf/<name>.yaml` with overrides, in a launcher or elsewhere."""
    register()
    running = GlobalHydra.instance().is_initialized()
    with nullcontext() if running else initialize_config_dir(str(CONF), version_base="1.3"):
        return checked(kind, resolved(compose(name, list(overrides))))


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain containers, interpolations resolved.

    Raises:
        UserError: a mandatory value is missing.
    """
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{', '.join(missing)}: needs a value, e.g. {missing[0]}=...")
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def explain(error: BaseException) -> str | None:
    """Return what went wrong and what to do, in a line or two; None for an error that is not the user's."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return _explain_os(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: must be one of {', '.join(error.options)}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InterpolationResolutionError):
            of_resolver = cause.__context__  # OmegaConf raises its error anew, without a cause
            while of_resolver is not None and not isinstance(of_resolver, UserError):
                of_resolver = of_resolver.__context__
            if of_resolver is not None:
                return str(of_resolver)
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            return _unknown_key(cause)
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return f"{cause.full_key}: {_mismatch(str(cause.msg or cause).splitlines()[0])}"
        cause = cause.__cause__
    return str(error)


def _mismatch(words: str) -> str:
    """Return what OmegaConf says of a value, in words that a user can act on."""
    if words.endswith("is not Optional"):
        return "null is no value of this setting; leave it out for its default, or give {} for a mapping"
    if words.endswith("does not support deletion"):
        return "a setting cannot be taken away, only an entry of a mapping, as in ~llm.extra.NAME"
    return words


def _unknown_key(error: OmegaConfBaseException) -> str:
    """Return a message about an unknown key, with the keys that exist, or with `llm.KEY` for one of those."""
    group, _, name = str(error.full_key).partition(".")
    if group in ("agent", "stopper") and name in {each.name for each in fields(LlmSettings)}:
        return f"{error.full_key}: unknown key; language models are configured by llm.{name}"
    parent = error.parent_node
    known = ", ".join(map(str, parent)) if isinstance(parent, DictConfig) else ""
    return f"{error.full_key}: unknown key" + (f"; known there: {known}" if known else "")


def _explain_os(error: OSError) -> str | None:
    reasons = {
        errno.ENOSPC: f"the disk is full; {FREE_SPACE}",
        errno.EDQUOT: f"the disk quota is used up; {FREE_SPACE}",
        errno.EACCES: "no permission to write there; choose another directory",
        errno.EROFS: "the file system is read-only; choose another directory",
        errno.EISDIR: "is a directory, where a file has to be; move it away",
        errno.ENOTDIR: "is a file, where a directory has to be; move it away",
    }
    reason = reasons.get(error.errno or 0)
    return f"{error.filename or 'writing'}: {reason}" if reason else None
