"""The JSON object in what a language model wrote: behind its reasoning, between prose, among drafts."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from typing import Any

from llmzero.core.files import MAX_DEPTH, too_deep

SEARCHED = 400_000  # characters at the end of a reply in which JSON is looked for
# What holds the answer in a call that is written out, or in an envelope.
CALLED_WITH = ("arguments", "parameters", "input", "function", "answer", "final_answer", "response", "result")

Span = tuple[int, int]

_MARK = re.compile(r'\\[\\"]|["{}]')  # what structures JSON; a quote behind a backslash ends no string
_BEGINNING = re.compile(r'\{\s*["}]')
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[\]}])', re.DOTALL)  # a comma that nothing follows
_END = re.compile(r"(?:[\s`]|</?\w[^<>]*>|<\|[^<>|]*\|>)*\Z")  # nothing but the ends of fences and tags

_NAMES = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
# Marks of reasoning, as models and the templates of their chats write them.
_REASONING = re.compile(
    rf"(?P<closes></{_NAMES}\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final)"
    rf"|<{_NAMES}(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>(?:analysis|commentary)",
    re.IGNORECASE,
)


def json_object(text: str, *keys: str) -> dict[str, Any] | None:
    """Return the last JSON object in a text that has one of the keys, or any for an empty key, or None.

    What comes before the last one are taken to be drafts, and so is what stands in a model's reasoning. An
    object inside another counts only as the arguments of a call that is written out. Line ends within texts
    and commas at the ends of lists are accepted. Takes time linear in the text, whatever it is.
    """
    text = text[-SEARCHED:]
    objects = _objects(text)
    tags = list(_REASONING.finditer(_blanked(text, [span for span, _ in objects])))
    starts = [tag.start() for tag in tags]
    for (start, end), value in reversed(objects):
        found = next((held for key in keys if (held := _having(value, key)) is not None), None)
        position = bisect_left(starts, start)
        if found is not None and not _is_draft(tags[position - 1 : position], tags[position:][:1], text, end):
            return found
    said = _loaded(text)
    return json_object(said, *keys) if isinstance(said, str) else None


def _is_draft(before: list[re.Match[str]], after: list[re.Match[str]], text: str, end: int) -> bool:
    """Return whether an object that ends at `end` is part of the reasoning, by the nearest tags around it.

    Some templates write no opening tag. Some models write no closing one: then what ends the text counts.
    What stands between two closing ones follows the reasoning, and the second is a slip.
    """
    if after and after[0]["closes"]:
        return not before or not before[0]["closes"]
    opened = bool(before) and not before[0]["closes"]
    return opened and _END.match(text, end) is None


def _objects(text: str) -> list[tuple[Span, dict[str, Any]]]:
    """Return the whole JSON objects of a text that lie in no other, and where, in their order."""
    marks = [(mark[0], mark.start()) for mark in _MARK.finditer(text)]
    objects: list[tuple[Span, dict[str, Any]]] = []
    free = len(text)  # what follows is taken
    for start, end in sorted(
        {*_balanced(marks, False), *_balanced(marks, True)}, key=lambda s: (-s[1], s[0])
    ):
        if end <= free and _BEGINNING.match(text, start):
            value = _loaded(text[start:end])
            if isinstance(value, dict) and not too_deep(value):
                objects.append(((start, end), value))
                free = start
    return objects[::-1]


def _balanced(marks: list[tuple[str, int]], quoted: bool) -> list[Span]:
    """Return the spans from a brace to the one that closes it, read from the end of the text.

    From a closing brace of JSON to the left, each quote begins or ends a string, so that one reading finds
    the spans of all objects that have an even number of quotes behind them, and another those that have an
    odd one, whatever lies between them.

    Args:
        marks: quotes and braces with their positions.
        quoted: whether the end of the text is taken to be inside of a string.
    """
    spans: list[Span] = []
    open_ends: list[list[int]] = []  # of each brace that waits for its partner: its end, the depth inside it
    for mark, position in reversed(marks):
        if mark == '"':
            quoted = not quoted
        elif quoted or mark[0] == "\\":
            continue
        elif mark == "}":
            open_ends.append([position + 1, 0])
        elif open_ends:
            end, depth = open_ends.pop()
            if open_ends:
                open_ends[-1][1] = max(open_ends[-1][1], depth + 1)
            if depth < MAX_DEPTH:
                spans.append((position, end))
    return spans


def _blanked(text: str, spans: list[Span]) -> str:
    """Return a text with blanks in place of spans, given in their order."""
    pieces, position = [], 0
    for start, end in spans:
        pieces += [text[position:start], " " * (end - start)]
        position = end
    return "".join([*pieces, text[position:]])


def _having(value: dict[str, Any], key: str, depth: int = 3) -> dict[str, Any] | None:
    """Return the object that has a key (any, for an empty one): this one, or what a call in it is given."""
    if not key or key in value:
        return value
    for name in CALLED_WITH if depth else ():
        given = value.get(name)
        given = _loaded(given) if isinstance(given, str) else given
        found = _having(given, key, depth - 1) if isinstance(given, dict) and not too_deep(given) else None
        if found is not None:
            return found
    return None


def _loaded(text: str) -> Any:
    """Return what a text says in JSON; None where it is none."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        mended = _STRING_OR_COMMA.sub(r"\1", text) if "," in text else text
        return None if mended == text else _loaded(mended)
