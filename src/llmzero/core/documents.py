"""Files that people write, YAML and JSON lines: errors name file, line or key, value and what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from llmzero.core.errors import UserError
from llmzero.core.files import MAX_DEPTH, parsed, read_text, reading, too_deep, write_atomic
from llmzero.core.hparams import suggestion


class _Loader(yaml.CSafeLoader):
    """Reads 1e-4 as the number that everyone means; YAML 1.1 wants 1.0e-4.

    What YAML takes otherwise than it is meant, without a word, is a `ValueError` that names the line: keys
    that are there twice, 010 (which is 8) and 1:30 (which is 90).
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node whose keys are all different."""
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"{_line(key_node)}: a key must be a text or a number")
            key = self.construct_object(key_node)
            if key in seen:
                raise ValueError(f"{_line(key_node)}: the key {key!r} is there twice; remove one")
            seen.add(key)
        constructed: dict[Any, Any] = super().construct_mapping(node, deep)
        return constructed


class _Dumper(yaml.CSafeDumper):
    """Writes everything in full: an alias is refused on reading."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return that nothing is written as a reference to what was written before."""
        return True


for each in (_Loader, _Dumper):
    each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )

NEWLINE = b"\n"
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
MAX_YAML_CHARACTERS = 20 * 1024**2
OTHERWISE = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9_]+(:[0-9_.]+)+")  # to the bases of 8 and 60
INDENTING_TAB = re.compile(r"^ *\t", re.MULTILINE)
MAX_NUMBER_CHARACTERS = 400  # no float has more digits; Python takes quadratic time for long numbers
# What the constructors of the loader raise for a value that is not of the tag that it has.
_WRONG_TAG = (yaml.YAMLError, AttributeError, IndexError, KeyError, OverflowError, TypeError)


def _number(construct: Callable[[_Loader, Any], Any], loader: _Loader, node: yaml.ScalarNode) -> Any:
    if len(node.value) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"a number has {len(node.value)} characters, of at most {MAX_NUMBER_CHARACTERS}")
    if OTHERWISE.fullmatch(node.value):
        raise ValueError(f"{_line(node)}: {node.value}: write a text in quotes, a number in decimal digits")
    return construct(loader, node)


def _tagged(_loader: _Loader, node: yaml.Node) -> Any:
    raise ValueError(f"{_line(node)}: the tag {node.tag[:100]}: must be plain data, without tags")


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


for kind in ("int", "float"):
    construct = getattr(_Loader, f"construct_yaml_{kind}")
    _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", partial(_number, construct))
_Loader.add_constructor(None, _tagged)


def load_yaml(text: str) -> Any:
    """Return the plain data of a YAML document. All YAML that was given to the project is read here.

    Raises:
        ValueError: it is no YAML, too long or too deep, or has aliases, which may stand for gigabytes.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise ValueError(f"has {len(text)} characters, of at most {MAX_YAML_CHARACTERS}")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):  # event by event, as libyaml's composer recurses
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"aliases (*{event.anchor}) are not allowed; write out what they stand for")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"lists and mappings lie more than {MAX_DEPTH} deep within each other")
        return yaml.load(text, Loader=_Loader)
    except _WRONG_TAG as error:
        problem = str(error) if isinstance(error, yaml.YAMLError) else f"a value is none of its type: {error}"
        problem = " ".join(problem.replace('"<unicode string>", ', "").split())
        tabs = "; indent with spaces, not with tabs" if INDENTING_TAB.search(text) else ""
        raise ValueError(f"is no YAML: {problem}{tabs}") from error


def dump_yaml(value: Any, **style: Any) -> str:
    """Return plain data as a YAML document that `load_yaml` reads, keys in their order."""
    if too_deep(value):
        raise ValueError(f"lists and mappings lie more than {MAX_DEPTH} deep within each other")
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, **style)
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping of a YAML file that a program wrote, such as a search's `config.yaml`.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it holds anything else.
    """
    text = read_text(path)
    with reading(path):
        value = load_yaml(text)
        if not isinstance(value, dict):
            raise ValueError(f"must be a mapping, but is {type(value).__name__}")
    return value


def read_document(key: str, path: Path, number: int, fields: Sequence[str]) -> dict[str, Any]:
    """Return the mapping that a file holds; `key` is the option that named it, `number` its required format.

    Raises:
        UserError: it is missing, no YAML, of another format, or lacks one of `fields` or has others.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file; a finished search writes one into its search_dir")
    try:
        document = load_yaml(read_text(path))
    except ValueError as error:
        raise UserError(f"{key}={path}: {error}") from error
    form = "" if isinstance(document, dict) else f"is {_form(document)}, not a mapping; "
    document = document if isinstance(document, dict) else {}
    version = document.get("format", "missing")
    if type(version) is not int or version != number:
        quoted = repr(version)[:100] if version != "missing" else version
        raise UserError(
            f"{key}={path}: {form}format is {quoted}: must be {number}, "
            "the one that this version reads and writes"
        )
    missing = [f"{name}: missing" for name in fields if name not in document and name != "provenance"]
    refuse(key, path, [*unknown_keys(document, ("format", *fields)), *missing])
    return document


def _form(value: Any) -> str:
    return "empty" if value is None else "a list" if isinstance(value, list) else "a single value"


def read_lines(key: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines, each with `file:line` for messages; `key` named the file.

    Lines end with a newline alone: the other separators that Unicode has may stand inside of a text.

    Raises:
        UserError: it cannot be read, or a line is no object, states a key twice, or holds half a character.
    """
    try:
        data = path.read_bytes()
        if name := next((name for start, name in COMPRESSED.items() if data.startswith(start)), None):
            raise UserError(f"{key}={path}: is compressed by {name}; unpack it first")
        lines = data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be read ({error})") from error
    except UnicodeDecodeError as error:
        where = f"{path}:{data.count(NEWLINE, 0, error.start) + 1}"
        raise UserError(f"{where}: cannot be read ({error}); {key} must be a file in UTF-8") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}:{number}", _object(f"{path}:{number}", line)


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        record = parsed(line, once=True)
        if "\\u" in line:  # only an escape can be half of a pair
            json.dumps(record, ensure_ascii=False).encode()
        return record
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: is no JSON ({error})") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise UserError(
            f"{where}: holds {json.dumps(half)}, half of a character, which no model can be given; remove it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {error}") from error


def write_document(path: Path, header: str, document: dict[str, Any]) -> None:
    """Write a file that `read_document` reads, atomically; innermost lists and mappings take one line."""
    write_atomic(
        path,
        header + dump_yaml(document, default_flow_style=None, width=120),
        sync=False,
    )


def refuse(key: str, path: Path, problems: Iterable[str]) -> None:
    """Raise `UserError` where there are problems, one a line."""
    if lines := list(problems):
        raise UserError(
            f"{key}={path}:"
            + (f" {lines[0]}" if len(lines) == 1 else "".join(f"\n  {line}" for line in lines))
        )


def unknown_keys(keys: Iterable[Any], allowed: Sequence[str]) -> list[str]:
    """Return a problem for every key that is not allowed."""
    return [f"{name}: unknown key{suggestion(str(name), allowed)}" for name in keys if name not in allowed]


def is_whole(value: Any, low: int) -> bool:
    """Return whether a value is an integer of at least `low`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
