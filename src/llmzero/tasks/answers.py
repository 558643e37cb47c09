r"""The answer that a completion states: in an <answer> tag, a LaTeX box or behind ####.

Every task finds stated answers here. What counts as one:

- the content of a tag, `<answer> 42 </answer>`, from the last `<answer>` before its `</answer>`. Tags that
  are only spoken of (`between <answer> and </answer>`) and empty ones are no answers;
- the content of `\boxed{42}`, `\fbox{42}` or `\boxed 42`;
- what stands behind `####`, where it reads as an answer; a Markdown heading (`#### Step 2: add`) does not.

A tag goes before a box, a box before ####, and among several of a kind the last counts. A box within a tag is
taken out of it. Reasoning that ends with `</think>` states nothing, unless nothing follows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_COMPLETION_CHARS = 100_000  # the end of a longer completion counts
MAX_ANSWER_CHARS = 512
_LAST = 32  # boxes and lines of #### that are looked at, from the end
_THOUGHT = "</think>"
_TAG = re.compile(r"<\s{0,9}(/?)\s{0,9}answer\s{0,9}>", re.IGNORECASE)
_SPOKEN_OF = re.compile(r"[.…\s_-]*|\[?(?:your|the|final|\s){1,9}answer(?: here)?\]?", re.IGNORECASE)
_BETWEEN = re.compile(r"[`'\"]?\s*(?:and|or|,|/)\s*[`'\"]?", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s{0,9}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"(?:\\[A-Za-z]|[^\s$\\{]*\d|[^\s$\\{][.,;:]?(?:[\s$]|$))[^\s$]*")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)")
_LABEL = re.compile(
    r"\W{0,3}(?:(?:the|final|answer|is)\b[ \t]*){1,6}(?:[:=]\W{0,3}|(?<=\bis )|(?<=answer ))", re.IGNORECASE
)
_HEADING = re.compile(
    r"(?:step|part|case|section|chapter|phase|stage|problem|question|task|example|solution|answer|result|"
    r"conclusion|summary|explanation|verification|check|calculation|note|analysis|approach|final)s?\b"
    r"|\d+[.)]\s|.*:",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"[^\w\s]{0,3}\d[\d.,/]*(?<!\.)\s?%?(?: [a-z]+){0,3}\.?")  # 42 apples
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def stated(completion: str) -> str | None:
    """Return the answer that a completion states, stripped of white space; None where it states none."""
    text = final(completion)
    tags = [content for content in _tagged(text) if not _SPOKEN_OF.fullmatch(content)]
    meant = [content for content in tags if not _BETWEEN.fullmatch(content)]
    if meant:
        return _boxed(meant[-1]) or meant[-1]
    return _boxed(text) or _behind_hashes(text) or (tags[-1] if tags else None)


def final(completion: str) -> str:
    """Return the part of a completion that may state an answer: what follows its reasoning."""
    text = completion[-MAX_COMPLETION_CHARS:]
    return text.rpartition(_THOUGHT)[2].strip() or text


def _tagged(text: str) -> Iterator[str]:
    """Yield the contents of tags; of nested ones the innermost."""
    opened: int | None = None
    for tag in _TAG.finditer(text):
        if tag[1] and opened is not None:
            yield text[opened : tag.start()].strip()
        opened = None if tag[1] else tag.end()


def _boxed(text: str) -> str | None:
    """Return the content of the last LaTeX box that is closed and holds an answer."""
    for box in reversed(list(_BOX.finditer(text))[-_LAST:]):
        read = _braced if text.startswith("{", box.end()) else _unbraced
        content = read(text, box.end())
        if content and not _SPOKEN_OF.fullmatch(content):
            return content
    return None


def _braced(text: str, begin: int) -> str | None:
    """Return what stands in the braces that begin at a position; None where they are not closed."""
    depth = 0
    for brace in _BRACE.finditer(text, begin, begin + MAX_ANSWER_CHARS):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0 and brace[0] == "}":
            return text[begin + 1 : brace.start()].strip()
    return None


def _unbraced(text: str, begin: int) -> str | None:
    r"""Return the number, letter or command that stands behind `\boxed` without braces."""
    match = _UNBRACED.match(text, begin, begin + MAX_ANSWER_CHARS)
    if match is None:
        return None
    return re.split(r"\\[)\]]", match[0].strip())[0].rstrip("$.,;:")


def _behind_hashes(text: str) -> str | None:
    """Return what stands behind the last #### that is no heading."""
    end = len(text.rstrip())
    for line in reversed(list(_HASHES.finditer(text))[-_LAST:]):
        answer = _LABEL.sub("", line[1].strip()[:MAX_ANSWER_CHARS], count=1)
        if answer and _reads_as_answer(answer, last=line.end() >= end):
            return answer
    return None


def _reads_as_answer(text: str, last: bool) -> bool:
    """Return whether a line is an answer: no words, a number of things, or a last line and no heading."""
    if _COUNTED.fullmatch(text):
        return True
    if not _WORD.search(text):
        return not text.endswith((":", ")."))
    return last and not _HEADING.match(text)
