"""The one reader of choices: the letter of an option, in right answers and in completions.

The article A and the pronoun I are no letters of options: `A cat`, `I think`.
"""

from __future__ import annotations

import re

from llmzero.tasks.answers import MAX_ANSWER_CHARS, MAX_COMPLETION_CHARS
from llmzero.tasks.numbers import spelled

_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed|fbox)(?![A-Za-z])|[{}$*_`]")
_QUOTED = re.compile(r"['‘](.*)['’]", re.DOTALL)
_LETTER = r"[(\[]?(?<![\w'’.+\\-])(?P<letter>[A-Z])(?![\w'’+#-]|\.\w)[)\]]?"
_STANDING = re.compile(rf"{_LETTER}|(?<!\w)[(\[](?P<small>[a-z])[)\]]")
_NAME = r"(?:(?:option|choice|answer)\s?:?\s?)?"
_ALONE = re.compile(rf"{_NAME}[(\[]?([A-Z])[)\]]?[.:,]?", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(
    rf"{_NAME}(?:[(\[]([A-Z])[)\]][.:]?|([A-Z])[).:])\s+(?P<text>\S.*)", re.I | re.A | re.DOTALL
)
_IS = r"(?:\s{1,3}(?:is|was|be|must\s+be|would\s+be|should\s+be|option|choice)){0,4}\s{0,3}[:=]?\s{0,3}"
_SAID = [
    re.compile(rf"(?i:\b{said}){_IS}(?:{_LETTER}|[(\[](?P<small>[a-z])[)\]]|(?P<bare>[b-hj-z])(?=[.,]?\s*$))")
    for said in ("answer", "(?:option|choice|choose|pick|select)")
]
_REASON = r"(?:because|since|as|is|was|due|but|and|or|so)\b"
_PROSE = re.compile(rf"[ \t]+(?!{_REASON})[a-z]")  # behind an article or a pronoun
_EXPLAINED = re.compile(rf"{_LETTER}(?:,?\s+(?:as|is|due|so)\b|\s+[-–—]\s)")  # at the beginning
_BECAUSE = re.compile(rf"(?<!not ){_LETTER},?\s+(?:because|since)\b")
# A letter that is denied: not B, neither A nor B, B is wrong.
_NOT = re.compile(
    r"(?:\b(?:not|nor|neither|cannot|never|except)|n['’]t)\s+(?:be\s+)?(?:(?:option|choice)\s+)?"
    r"(?:[(\[]?[A-Z][)\]]?\s+(?:or|nor|and)\s+)?$",
    re.IGNORECASE,
)
_WRONG = re.compile(r"\s+(?:is\s+|was\s+|can|is(?=n))(?:not|n['’]t|wrong|incorrect|false)\b")
# The label of another option, in the text behind one: A. cat B. dog.
_OTHER = re.compile(
    r"(?<![\w(])(?:[(\[](?P<in>[A-H])[)\]]|(?P<closed>[A-H])\))\s+(?!(?:and|or|are|is)\b)\S"
    r"|(?:[\n,;]|\b(?:and|or)\b)\s*(?P<listed>[A-H])[.:]\s+\S|(?<!\w)(?P<next>[A-H])[.:]\s+\S"
)
_GOES_ON = re.compile(rf"[\s.):\]]*(?:,|;|/|&|(?:and|or)\b)?\s*{_LETTER}(?:[.,:;)]|\s*$|\s*(?:and|or)\b)")


def read(text: str) -> str | None:
    """Return the letter that a text is as a whole: B, (b), B., Option B, or B. and the option's text."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    text = _plain(text)
    if match := _ALONE.fullmatch(text):
        return match[1].upper()
    match = _LABEL.fullmatch(text)
    if match is None or _GOES_ON.match(match["text"]):
        return None
    letter = (match[1] or match[2]).upper()
    return None if _lists_another(match["text"], letter) else letter


def _lists_another(text: str, letter: str) -> bool:
    """Return whether a text behind a label has another one; in John F. Kennedy, F. is one only behind E."""
    for other in _OTHER.finditer(text):
        name = other[other.lastgroup or 0]
        if name != letter and (other.lastgroup != "next" or ord(name) == ord(letter) + 1):
            return True
    return False


def only(text: str) -> str | None:
    """Return the one letter that a stated answer chooses; None where it chooses none or several."""
    letter, plain = _meant(text)
    if letter is not None:
        return letter or None
    if (match := _EXPLAINED.match(plain)) and not _denied(plain, match):
        return match["letter"]
    found = _standing(plain)
    letters = {_letter(match) for match in found}
    return letters.pop() if len(letters) == 1 and not any(_denied(plain, match) for match in found) else None


def last(text: str) -> str:
    """Return the letter that a text without a stated answer ends with; empty where it has none or a list."""
    letter, plain = _meant(text)
    if letter is not None:
        return letter
    found = [match for match in _standing(plain) if not _denied(plain, match)]
    if not found or any(_listed(plain, one.end(), found[-1]) for one in found[-2:-1]):
        return ""
    return _letter(found[-1])


def _meant(text: str) -> tuple[str | None, str]:
    """Return the letter that a text names as its answer (empty: several; None: none), and the text, plain."""
    letter, plain = read(text), _plain(text[-MAX_COMPLETION_CHARS:])
    if letter is None:
        letter = _said(plain)
    if letter is None and (reasons := list(_BECAUSE.finditer(plain))):
        letter = reasons[-1]["letter"]
    return letter, plain


def _plain(text: str) -> str:
    text = _MARKUP.sub("", spelled(text)).strip()
    quoted = _QUOTED.fullmatch(text)
    return quoted[1] if quoted else text


def _said(text: str) -> str | None:
    """Return the letter of the last `the answer is B`, else of the last `option B`; empty for several."""
    for said in _SAID:
        found = [m for m in said.finditer(text) if not (_in_prose(text, m) or _denied(text, m))]
        if found:
            goes_on = _GOES_ON.match(text, found[-1].end())
            if goes_on and goes_on["letter"] != found[-1]["letter"] and not _PROSE.match(text, goes_on.end()):
                return ""
            return (found[-1]["letter"] or found[-1]["small"] or found[-1]["bare"]).upper()
    return None


def _standing(text: str) -> list[re.Match[str]]:
    """Return the letters that stand alone."""
    return [match for match in _STANDING.finditer(text) if not _in_prose(text, match)]


def _denied(text: str, match: re.Match[str]) -> bool:
    """Return whether a text says of a letter that it is not the answer."""
    end = match.end("letter") if match["letter"] else match.end()
    before = text[max(0, match.start() - 32) : match.start()]
    return bool(_NOT.search(before) or _WRONG.match(text, end + text.startswith((")", "]"), end)))


def _letter(match: re.Match[str]) -> str:
    return str(match["letter"] or match["small"]).upper()


def _in_prose(text: str, match: re.Match[str]) -> bool:
    """Return whether a letter is the article A or the pronoun I."""
    return match["letter"] in ("A", "I") and match[0][-1] in "AI" and bool(_PROSE.match(text, match.end()))


def _listed(text: str, end: int, letter: re.Match[str]) -> bool:
    return bool(re.fullmatch(r"\s{0,4}(?:,|;|/|&|,?\s?(?:and|or))?\s{0,4}", text[end : letter.start()]))
