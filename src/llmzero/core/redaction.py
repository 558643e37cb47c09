"""Secrets that the program holds, taken out of every text on its way to a file, a log or the terminal.

They are the values of environment variables whose names say so, and whatever `keep_secret` was told. A secret
is found as it is and in the forms that programs give to texts: escaped by JSON, Python, HTML or a URL, wholly
or in part, and inside of base64.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

MARK = "[key]"
SHORTEST = 8  # characters; shorter values, such as "none", are words that texts may contain
# Ends of names of variables.
NAMES = ("_KEY", "APIKEY", "_TOKEN", "_SECRET", "PASSWORD", "_PASSWD", "_PASSPHRASE", "_PAT")
# Names of settings that hold secrets, with all that is inside of them.
CREDENTIAL = re.compile(
    r"^extra_(headers|query)$|(api|access|private|secret)[-_]?key|^key$|token$|secret|passw|auth|credential"
    r"|cookie",
    re.IGNORECASE,
)
# What services give out as keys: a known beginning, or many letters and digits in a row, as no name has.
KEY_LIKE = re.compile(
    r"(?=\S*\d)(?:(?:sk|pk|hf|gh[pousr]|glpat|xox[abp]|AIza)[-_]?\S{12,}|\S*[A-Za-z0-9]{24,}\S*)", re.ASCII
)

_kept: set[str] = set()


def keep_secret(text: str) -> None:
    """Have a text and its words redacted from now on, but for those shorter than `SHORTEST`."""
    _kept.update(_parts(text))


def keep_keys_in(arguments: Iterable[str]) -> bool:
    """Have the secrets in a command line's settings of endpoints redacted from now on.

    Secret are words behind a name that says so, such as that of a header, and what looks like a key.

    Returns:
        Whether there are any. What names a variable, `${oc.env:NAME}`, is none.
    """
    found = False
    for argument in arguments:
        name, _, value = argument.partition("=")
        setting = re.match(r"[+~]*llm\.(extra|base_url|api_key_env)", name)
        if setting is None:
            continue
        literal = re.sub(r"\$\{[^{}]*\}", "", value)
        secret = (setting[1] == "extra" and any(map(CREDENTIAL.search, re.split(r"[^\w-]+", argument)))) or (
            setting[1] == "base_url" and any(mark in literal for mark in "@?")
        )
        for word in re.split(r"[\s=:{}\[\],'\"@/?&]+", literal):
            if looks_like_key(word) or (secret and len(word) >= SHORTEST and not _is_name(word, literal)):
                keep_secret(word)
                found = True
    return found


def _is_name(word: str, value: str) -> bool:
    """Return whether a word of a setting's value is the name of a part of it."""
    return re.search(rf"{re.escape(word)}['\"]?\s*:", value) is not None


def redacted(text: str) -> str:
    """Return a text with `[key]` in place of every secret."""
    for name, value in os.environ.items():
        if name.upper().endswith(NAMES):
            keep_secret(value)
    return _pattern(frozenset(_kept)).sub(MARK, text) if _kept else text


def redacted_data(value: Any) -> Any:
    """Return plain data with the secrets in its texts redacted, those of keys, too."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted_data(key): redacted_data(item) for key, item in value.items()}
    return [redacted_data(item) for item in value] if isinstance(value, list | tuple) else value


def masked(value: Any, secret: bool = False) -> Any:
    """Return settings with `[key]` in place of secret values, which are redacted elsewhere from now on, too.

    Secret are headers, queries, whatever stands under a name such as `api_key`, and what looks like a key.
    """
    if isinstance(value, Mapping):
        return {
            name: masked(item, secret or CREDENTIAL.search(str(name)) is not None)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(item, secret) for item in value]
    if isinstance(value, str) and (secret or looks_like_key(value)):
        keep_secret(value)
        return MARK
    return value


def looks_like_key(text: str) -> bool:
    """Return whether a text is probably a key, and no name."""
    return KEY_LIKE.fullmatch(text.strip()) is not None


def redact_log() -> None:
    """Redact what this process logs from now on, whoever logs it to whatever handler: tracebacks, too."""
    make_record = logging.getLogRecordFactory()
    if getattr(make_record, "redacts", False):
        return

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        record.msg, record.args = redacted(_message(record)), ()
        if record.exc_info:
            record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_redacted)


def _message(record: logging.LogRecord) -> str:
    """Return a record's text; the bare message where its arguments do not fit, which is no reason to fail."""
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg} {record.args}"


def _parts(text: str) -> Iterator[str]:
    """Yield a text and its words, such as the key in `Bearer KEY`."""
    return (part for part in {text.strip(), *text.split()} if len(part) >= SHORTEST)


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    """Return what matches every form of the secrets, of those that overlap the longest."""
    forms = [
        form
        for secret in sorted(secrets, key=len, reverse=True)
        for form in ("".join(map(_character, secret)), *_base64_forms(secret))
    ]
    return re.compile("|".join(forms), re.IGNORECASE)


@lru_cache(maxsize=1024)
def _character(character: str) -> str:
    """Return what matches a character in all its forms; escaped ones may be escaped again."""
    code, raw = ord(character), character.encode(errors="surrogatepass")
    forms = {
        character,
        json.dumps(character)[1:-1],
        repr(character)[1:-1],
        repr(raw)[2:-1],
        html.escape(character),
        quote(raw, safe=""),
        "".join(f"%{byte:02x}" for byte in raw),
        "".join(f"\\x{byte:02x}" for byte in raw),
        f"\\u{code:04x}",
        f"&#{code};",
        f"&#x{code:x};",
        *((f"\\{character}",) if not character.isalnum() else ()),
        *(("+",) if character == " " else ()),
    }
    ordered = sorted(forms, key=len, reverse=True)
    return f"(?:{'|'.join(re.escape(form).replace(chr(92) * 2, chr(92) * 2 + '{1,8}') for form in ordered)})"


def _base64_forms(secret: str) -> Iterator[str]:
    """Yield what matches a secret inside of base64, at each of the three places where it can begin."""
    raw = secret.encode(errors="surrogatepass")
    for before in range(3):
        text = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        inner = text[-(-8 * before // 6) : 8 * (before + len(raw)) // 6]  # without bits of its neighbours
        yield "".join({"+": "[+-]", "/": "[/_]"}.get(each, each) for each in inner)
