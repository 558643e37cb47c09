"""Secrets are taken out of texts in every form that programs give to them, and of nothing else."""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from llmzero.core import redaction
from llmzero.core.redaction import (
    MARK,
    keep_keys_in,
    keep_secret,
    looks_like_key,
    masked,
    redacted,
    redacted_data,
)

KEY = "sk-proj-0123456789abcdef"
ODD = "pass\"word\\with/all 'of' é & + <it>"


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_kept", set())


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in upper case": str.upper,
    "bytes": lambda s: repr(s.encode()),
    "repr": repr,
    "repr of repr": lambda s: repr(repr(s)),
    "JSON": json.dumps,
    "JSON in JSON": lambda s: json.dumps(json.dumps(s)),
    "JSON in JSON in JSON": lambda s: json.dumps(json.dumps(json.dumps(s))),
    "JSON of PHP": lambda s: json.dumps(s).replace("/", "\\/"),
    "escapes": lambda s: "".join(f"\\u{ord(c):04X}" for c in s),
    "escapes in part": lambda s: (
        "".join(f"\\u{ord(c):04x}" if i % 3 else c for i, c in enumerate(s[:8])) + s[8:]
    ),
    "URL": lambda s: quote(s, safe=""),
    "path": quote,
    "query": quote_plus,
    "percent": lambda s: "".join(f"%{byte:02x}" for byte in s.encode()),
    "HTML": html.escape,
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "user and password": lambda s: base64.b64encode(b"user:" + s.encode()).decode(),
    "password alone": lambda s: base64.b64encode(b":" + s.encode()).decode(),
    "base64 of a URL": lambda s: base64.urlsafe_b64encode(b"ab" + s.encode() + b"c").decode(),
}


@pytest.mark.parametrize("secret", [KEY, ODD])
@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_secret_passes(form: str, secret: str) -> None:
    keep_secret(secret)
    text = FORMS[form](secret)
    said = redacted(f"Illegal header value b'Bearer {text}' was sent")
    assert MARK in said
    assert said.startswith("Illegal header value") and said.endswith("was sent")
    assert len(said) < len("Illegal header value b'Bearer ' was sent") + len(MARK) + 20, said


def test_variables_whose_names_say_so_hold_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "WANDB_API_KEY",
        "HF_TOKEN",
        "MY_SECRET",
        "db_password",
        "AWS_SECRET_ACCESS_KEY",
        "X_API_KEY",
        "OPENAI_KEY",
        "GITHUB_PAT",
        "PGPASSWORD",
        "SMTP_PASSWD",
    ):
        monkeypatch.setenv(name, f"value-of-{name.lower()}\r\n")
        assert redacted(f"<value-of-{name.lower()}>") == f"<{MARK}>"
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "not-a-secret-at-all")
    assert redacted("not-a-secret-at-all") == "not-a-secret-at-all"


@pytest.mark.parametrize("short", ["", "a", "none", "EMPTY", "\n", "1234567"])
def test_a_short_key_is_a_word_like_any_other(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", short)
    keep_secret(short)
    text = f"none of a thousand EMPTY lines, 1234567 {short} of them"
    assert redacted(text) == text


def test_words_of_a_header_are_secret_one_by_one() -> None:
    keep_secret(f"Bearer {KEY}")
    assert redacted(f"got {KEY}") == f"got {MARK}"


def test_of_two_secrets_one_inside_the_other_nothing_is_left() -> None:
    keep_secret("abcdefgh")
    keep_secret("abcdefgh-ijklmnop")
    assert redacted("abcdefgh-ijklmnop abcdefgh") == f"{MARK} {MARK}"


def test_plain_data_is_redacted_at_any_depth() -> None:
    keep_secret(KEY)
    assert redacted_data({"a": [{KEY: (KEY, 1, None)}]}) == {"a": [{MARK: [MARK, 1, None]}]}


def test_settings_keep_what_is_no_secret() -> None:
    extra = {
        "reasoning_effort": "low",
        "max_completion_tokens": 100,
        "stop": ["</answer>"],
        "models": ["meta-llama/Llama-3.1-8B-Instruct", "text-embedding-3-large"],
        "extra_headers": {"X-Title": "mine", "Authorization": f"Bearer {KEY}"},
        "extra_query": {"api-version": "2024-02-01"},
        "extra_body": {"api_key": "short", "top_k": 5, "metadata": {"session": [KEY]}},
    }
    assert masked(extra) == {
        **extra,
        "extra_headers": {"X-Title": MARK, "Authorization": MARK},
        "extra_query": {"api-version": MARK},
        "extra_body": {"api_key": MARK, "top_k": 5, "metadata": {"session": [MARK]}},
    }
    assert masked(masked(extra)) == masked(extra)
    assert redacted(KEY) == MARK
    assert redacted("</answer> short mine") == "</answer> short mine"


def test_names_of_variables_and_models_are_no_keys() -> None:
    keys = (KEY, "hf_AbCdEfGhIjKlMnOp1234", "0123456789abcdef0123456789abcdef", f" {KEY}\n")
    names = ("OPENAI_API_KEY", "MY_TEAMS_GATEWAY_KEY_2", "hf_token", "gpt-5.2", "low", "Qwen/Qwen3-32B")
    assert all(map(looks_like_key, keys))
    assert not any(map(looks_like_key, names))


def test_all_that_a_process_prints_and_logs_is_redacted() -> None:
    program = f"""
import logging, threading, warnings
from llmzero.core.terminal import Terminal, guard_output
guard_output(); guard_output()
logging.basicConfig()
key = {KEY!r}
logging.getLogger("some.library").warning("sent %s and %r", key, key.encode())
logging.getLogger("some.library").warning("wrong %s %s", key)
try:
    raise ValueError(f"Illegal header value b'Bearer {{key}}'")
except ValueError:
    logging.getLogger("another").exception("failed")
warnings.warn(f"deprecated: {{key}}")
print("printed", key)
Terminal().print(f"shown {{key}}")
thread = threading.Thread(target=lambda: {{}}[key]); thread.start(); thread.join()
raise RuntimeError(key)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "SOME_API_KEY": f"{KEY}\r"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert KEY not in done.stdout + done.stderr
    assert done.stdout == "printed [key]\nshown [key]\n"
    for words in (
        "sent [key] and b'[key]'",
        "wrong",
        "ValueError: Illegal header value b'Bearer [key]'",
        "UserWarning: deprecated: [key]",
        "KeyError: '[key]'",
        "RuntimeError: [key]",
    ):
        assert words in done.stderr
    assert logging.getLogRecordFactory() is logging.LogRecord


def test_keys_on_a_command_line_are_secret_and_its_paths_are_not() -> None:
    folder = "/scratch/0123456789abcdef0123456789abcdef"
    keep_keys_in([f"+llm.extra={{extra_headers: {{X: 'Bearer {KEY}'}}}}", f"llm.cassette_dir={folder}"])
    assert redacted(f"{KEY} in {folder}") == f"{MARK} in {folder}"


@pytest.mark.parametrize(
    ("argument", "secret"),
    [
        ("+llm.extra.extra_headers={X-Gateway: 'open sesame-of-mine'}", "sesame-of-mine"),
        ("++llm.extra={extra_query: {pin: swordfish-1}}", "swordfish-1"),
        ("llm.extra.password=swordfish-2", "swordfish-2"),
        ("llm.base_url=http://swordfish-3@host/v1", "swordfish-3"),
        (f"llm.api_key_env={KEY}", KEY),
    ],
)
def test_what_stands_for_a_key_on_a_command_line_is_one(argument: str, secret: str) -> None:
    assert keep_keys_in([argument])
    assert secret not in redacted(f"Error: {secret}")


def test_names_of_variables_on_a_command_line_are_no_keys() -> None:
    arguments = ["+llm.extra.extra_headers={X-Gateway: '${oc.env:GATEWAY_SECRET}'}"]
    arguments += ["llm.api_key_env=OPENAI_API_KEY", "llm.base_url=http://localhost:8000/v1", "seed=0,1"]
    arguments += ["+llm.extra.reasoning_effort=low-effort"]
    assert not keep_keys_in(arguments)
    text = "X-Gateway GATEWAY_SECRET OPENAI_API_KEY localhost low-effort"
    assert redacted(text) == text
