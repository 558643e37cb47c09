r"""The one reader of numbers, in right answers and in completions. Exact, bounded, and nothing is executed.

    number   = [sign] [currency [sign]] value [percent] [currency]
    value    = power | mixed | fraction | repeating | decimal
    power    = [decimal "×"] "10^" digits                               1.5 \times 10^{3}
    mixed    = digits (digits "/" digits | \frac{digits}{digits})       3 1/2, 3\frac12, 3½
    fraction = decimal "/" decimal | \frac{decimal}{decimal}            1/2, \dfrac12
    repeating = [digits] "." [digits] \overline{digits}                 0.1\overline{6}
    decimal  = integer ["." digits] ["e" digits] | "." digits           1,234.5, 1e-3
    integer  = digits | 1 to 3 digits, then groups of three behind commas or spaces

Typography is undone first: minus signs, wide and thin spaces, full-width characters, `\$`, `\%`, `\,`, `{,}`.
A list (1, 2), a range (3-5), a calculation (3 + 4) and a number with a variable (2x) are no numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

MAX_CHARS = 512  # of a text that is one number
MAX_EXPONENT = 999  # of ten
RELATIVE_ERROR = Fraction(1, 1_000_000)

_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5",
    "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_CHARACTERS = str.maketrans(
    {
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width
        **dict.fromkeys(_SPACES, " "),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63", "-"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff"),  # of no width
        **{character: f" {text}" for character, text in _VULGAR.items()},
        **dict.fromkeys("\u2044\u2215", "/"),
        "\u22c5": "·",
    }
)
_LATEX = re.compile(
    r"\\\\|\\[dtc]?frac(?![A-Za-z])|\\(?:times|cdot|approx|left|right|quad|qquad)(?![A-Za-z])|\\! ?"
    r"|\\[$%,;: ()\[\]]|\^\{?\\circ\}?|\\degree(?![A-Za-z])|[°~]|\{,\}|\$\$"
)
_MEANING = {  # of any other command: a space
    r"\\": r"\\", r"\frac": r"\frac", r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac",
    r"\times": "×", r"\cdot": "×", r"\approx": "≈", r"\$": "$", r"\%": "%", r"\!": "", r"\! ": "",
    "{,}": ",", "$$": "$",
}  # fmt: skip
_RAISED = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+)|([₀₁₂₃₄₅₆₇₈₉]+)")
_LEVEL = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻₀₁₂₃₄₅₆₇₈₉", "0123456789+-0123456789")
_ALONE_MINUS = re.compile(r"(?:^|(?<=[=:(]))\s{0,3}-\s{1,3}(?=[\d$.\\])")

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:\ \d{3})+(?![\d/])|\d+)"
_DECIMAL = rf"(?:(?:{_INTEGER}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?)"
_CURRENCY = r"(?:US\$|[$€£¥₹₩])"
_NUMBER = re.compile(
    rf"""(?<![A-Za-z_^.])(?<![_^]\{{)(?<![_^]-)(?<![_^]\{{-)(?P<sign>[-+]?)(?:\s?{_CURRENCY}\s?(?P<inner>[-+]?))?
    (?: (?:(?P<factor>{_DECIMAL})\s?[×·*x]\s?)?10\s?\^\s?\{{?(?P<exponent>[-+]?\d+)\}}?
      | (?:(?P<whole>\d+)[ \t]{{0,3}})?\\frac\s?(?:\{{\s?(?P<above>-?{_DECIMAL})\s?\}}|(?P<above_1>\d))
        \s?(?:\{{\s?(?P<below>-?{_DECIMAL})\s?\}}|(?P<below_1>\d))
      | (?P<fixed>\d*\.\d*)\\(?:overline|bar)\s?\{{\s?(?P<repeated>\d+)\s?\}}
      | (?P<whole_2>\d+)[ \t]{{1,3}}(?P<above_2>\d+)/(?P<below_2>\d+)(?![\d.])
      | (?P<above_3>{_DECIMAL})(?:\s?/\s?(?P<below_3>[-+]?{_DECIMAL}))?
    )
    (?P<percent>\s{{0,3}}(?:%|percent\b|per\ cent\b))?(?:\s?{_CURRENCY})?""",
    re.VERBOSE | re.ASCII,
)
_INTEGERS = re.compile(r"\s*([-+]?[0-9]{1,18})\s*")  # most answers are no more
_WRAPPED = re.compile(r"\{(.*)\}|\((.*)\)|\*\*(.*)\*\*|`(.*)`|(.*)\.|\$\s*(.*?)\s*\$", re.DOTALL)
_LAST_DIGIT = re.compile(r".*[0-9０-９½⅓⅔¼¾⅕-⅚⅛-⅞]", re.DOTALL)

_WORDS = (
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|boldsymbol|bf|rm|emph|underline|displaystyle"
    r"|unit|mbox|boxed|fbox|in|implies|therefore|Rightarrow|begin|end|tag|label|square|blacksquare|qed)(?![A-Za-z])"
)
_MARKS = r"[ \t$*'\"()\[\]{}]{0,6}"
# Between two numbers: these make one thing of them, which is no number.
_JOINED = re.compile(
    rf":|[ \t$]*|{_MARKS}\)[ \t]?\({_MARKS}|{_MARKS}(?:[,;/+×÷·^&|-]|\\\\|\*\*?|,?[ \t]?(?:\\text\{{[ ]?)?"
    rf"(?:and|or|to|x|by)){_MARKS}"
)
_SAME = re.compile(r"[\s$*,]{0,4}(?:\(|or\b|≈|i\.e\.|that is\b)[\s$*,(=]{0,4}")  # 1/2 (0.5)
# Before a number and behind it: these make it a part of a formula.
_BEFORE = re.compile(
    r"(?:[√∛±<>≤≥≠|^]|\b(?:not|\w{2,6}n['’]t|negative|minus|plus|times|over|sqrt|log(?:_\w{1,3})?|ln|sin|cos"
    r"|tan)"
    rf"|(?!{_WORDS})\\[A-Za-z]+[\[({{]?|(?<!\\)\b[A-Za-z]+\("
    r"|[\w)}\]][ \t]?(?:[+/×÷·^]|(?<!\*)\*)"
    r"|(?:\b[A-Za-z]|[)}\]])[ \t]?-)[ \t]?$"
)
_SCALE = r"(?:hundred|thousand|[mb]illion|trillion|dozen|squared|cubed|factorial|mod|plus|minus|times|over)\b"
_BEHIND = re.compile(
    r"[abcdefjopqrtuvw](?![A-Za-z.'])"
    rf"|\s?\\(?:text|mathrm|mathit|textit)\s?\{{\s?(?:[a-fijknopqrtu-z]\s?\}}|{_SCALE})"
    rf"|\s?(?:[\^_√π∞]|(?!{_WORDS})\\[A-Za-z]|[xyzXYZnikKMBe](?![A-Za-z])|[*/×÷·+-]\s?[xyzn](?![A-Za-z])"
    r"|[*×÷·+][ \t]?[(\\]|\d"
    rf"|{_SCALE})"
)
_COMMAND = re.compile(rf"(?!{_WORDS})\\[A-Za-z]")
# Digits that are no numbers may be exponents, indices, units (cm^2, x_1, m2); others make a text unreadable.
_SMALL = re.compile(r"[_^]\s?\{?\s?[-+]?\d+|(?<=m)[23](?![\d.])")
_LISTED = re.compile(r"[,;]\s|\b(?:and|or)\b")  # after the first of several equations


@dataclass(frozen=True)
class Number:
    """A number as it was written: 60% has the value 60, and is a percentage."""

    value: Fraction
    percent: bool = False


def same(first: Number, second: Number) -> bool:
    """Return whether two numbers are equal: integers exactly, others up to a millionth of the second.

    Where one of them alone is a percentage, it may mean its number or a hundredth of it: 60% is 60 and 0.6.
    """
    if first.percent == second.percent:
        return _close(first.value, second.value)
    percentage, other = (first.value, second.value) if first.percent else (second.value, first.value)
    return _close(percentage, other) or _close(percentage / 100, other)


def _close(first: Fraction, second: Fraction) -> bool:
    if first.denominator == 1 and second.denominator == 1:
        return first == second
    return abs(first - second) <= RELATIVE_ERROR * abs(second)


def read(text: str) -> Number | None:
    """Return the number that a text is as a whole; None where it is none, or one beyond the bounds."""
    return _read(text) if len(text) <= MAX_CHARS else None


@lru_cache(4096)
def _read(text: str) -> Number | None:
    if integer := _INTEGERS.fullmatch(text):
        return Number(Fraction(int(integer[1])))
    plain = spelled(text).strip()
    for _ in range(4):
        if match := _NUMBER.fullmatch(plain):
            return _number(match)
        wrapped = _WRAPPED.fullmatch(plain)
        if wrapped is None:
            break
        plain = wrapped[wrapped.lastindex or 0].strip()
    return None


def only(text: str) -> Number | None:
    """Return the one number of a stated answer, with a unit or in words (42 apples, x = 42).

    None where it has no number, several different ones, or one that is part of a formula.
    """
    return _only(text) if len(text) <= MAX_CHARS else None


@lru_cache(4096)
def _only(text: str) -> Number | None:
    number = _read(text)
    if number is not None:
        return number
    before, equals, text = spelled(text).rpartition("=")
    if equals and (_LISTED.search(before.partition("=")[2]) or before.endswith(("<", ">", "!"))):
        return None
    found = list(_NUMBER.finditer(text))
    between = [text[one.end() : two.start()] for one, two in pairwise(found)]
    if not found or not all(map(_SAME.fullmatch, between)):
        return None
    rest = _NUMBER.sub("", text)
    if _COMMAND.search(rest) or _odd_digits(rest):
        return None
    if any(_in_formula(text, match) or text.startswith("!", match.end()) for match in found):
        return None
    numbers = [_number(match) for match in found]
    first = numbers[0]
    return first if first and all(number and same(number, first) for number in numbers) else None


def last(text: str) -> str:
    """Return the last number of a text without a stated answer, as it is written there; empty for none.

    What ends with a list, a range, a calculation or a formula has no last number.
    """
    digit = _LAST_DIGIT.match(text)
    if digit is None:
        return ""
    begin = max(0, digit.end() - MAX_CHARS)
    window = spelled(text[begin : digit.end() + 64])
    found = list(_NUMBER.finditer(window))
    if not found or (begin and found[-1].start() == 0) or _in_formula(window, found[-1]):
        return ""
    if _odd_digits(window[found[-1].end() :]):
        return ""
    if len(found) > 1 and _JOINED.fullmatch(window, found[-2].end(), found[-1].start()):
        return ""
    return found[-1][0]


def spelled(text: str) -> str:
    """Return a text with its typography undone: signs, spaces and digits in ASCII, LaTeX's as plain ones."""
    if not text.isascii():
        text = _RAISED.sub(_level, text.translate(_CHARACTERS))
    if "\\" in text or "{" in text or "$" in text or "~" in text or not text.isascii():
        text = _LATEX.sub(lambda command: _MEANING.get(command[0], " "), text)
    return _ALONE_MINUS.sub("-", text)


def _level(match: re.Match[str]) -> str:
    return f"{'^' if match[1] else '_'}{{{match[0].translate(_LEVEL)}}}"


def _odd_digits(text: str) -> bool:
    return re.search(r"\d", _SMALL.sub("", text)) is not None


def _in_formula(text: str, match: re.Match[str]) -> bool:
    """Return whether a number is part of something that has another value: 2x, sqrt(2), x + 2, 2^3."""
    before = text[max(0, match.start() - 24) : match.start()]
    return bool(_BEFORE.search(before) or _BEHIND.match(text, match.end()))


def _number(match: re.Match[str]) -> Number | None:
    value = _value(match)
    if value is None or (match["sign"] and match["inner"]):
        return None
    return Number(-value if "-" in (match["sign"], match["inner"]) else value, match["percent"] is not None)


def _value(match: re.Match[str]) -> Fraction | None:
    """Return the value without sign; None where it exceeds the bounds, divides by zero, or is ambiguous."""
    if match["exponent"]:
        factor, power = _decimal(match["factor"] or "1"), _decimal(f"1e{match['exponent']}")
        return factor * power if factor is not None and power is not None else None
    if match["repeated"]:
        return _repeating(match["fixed"], match["repeated"])
    whole = match["whole"] or match["whole_2"]
    above = _decimal(match["above"] or match["above_1"] or match["above_2"] or match["above_3"])
    below = _decimal(match["below"] or match["below_1"] or match["below_2"] or match["below_3"] or "1")
    if above is None or not below:
        return None
    if whole is None:
        return above / below
    units = _decimal(whole)  # of a mixed number, whose fraction is less than one
    return units + above / below if units is not None and 0 < above < below else None


def _decimal(text: str) -> Fraction | None:
    mantissa, _, exponent = text.lower().replace(",", "").replace(" ", "").partition("e")
    if len(mantissa) > MAX_CHARS or len(exponent) > 8 or abs(int(exponent or 0)) > MAX_EXPONENT:
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def _repeating(fixed: str, repeated: str) -> Fraction:
    places = len(fixed.partition(".")[2])
    return Fraction(f"0{fixed}0") + Fraction(int(repeated), 10**places * (10 ** len(repeated) - 1))
