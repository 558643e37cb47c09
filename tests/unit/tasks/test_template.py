"""Prompt templates of strangers: they reach nothing but a problem's fields, and always end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llmzero.cli import composed
from llmzero.config import InspectTaskConfig
from llmzero.core.errors import UserError
from llmzero.core.parts import make
from llmzero.tasks import template
from llmzero.tasks.template import prompt_template

CODE = [
    "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "{{ lipsum.__globals__['os'].popen('touch ran').read() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ question.__class__ }}{{ question.__class__.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{% for c in ().__class__.__base__.__subclasses__() %}{{ c.__init__.__globals__ }}{% endfor %}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{{ '%s'.format.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(question) }}",
    "{{ ('{0.__class__.__mro__}'|format(question)).x }}{{ ''.__class__.__mro__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% set _ = numbers.append(1) %}",
    "{{ numbers.clear() }}",
]
ENDLESS = [
    "{% for i in range(999999999) %}x{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ question * 10**10 }}",
    "{{ 9**(9**(9**9)) }}",
    "{{ (numbers[0] + 8)**(9**(9**9)) }}",
    "{{ '%09999999999d' % 1 }}",
    "{{ question.center(10**10) }}",
    "{% set n = namespace(x='xx') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{{ 'x' * 2000000 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
]
WRONG = [
    "{{ nothing }}",
    "{{ question.nothing }}",
    "{{ 1 / 0 }}",
    "{% if",
    "{{ question + 1 }}",
    "{{ numbers[9] }}",
]


def render(tmp_path: Path, source: str) -> str:
    file = tmp_path / "ask.jinja"
    file.write_text(source)
    made = prompt_template("math", str(file))
    try:
        return made.render(question="What is 1 + 1?", numbers=[1, 2])
    finally:
        assert made._guard is not None
        made._guard.close()


@pytest.mark.parametrize("source", [*CODE, *WRONG])
def test_a_template_reaches_the_fields_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"task\.template=.*ask\.jinja: cannot be rendered: \w+"):
        render(tmp_path, source)
    assert [file.name for file in tmp_path.iterdir()] == ["ask.jinja"]


@pytest.mark.parametrize("source", ENDLESS)
def test_a_template_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(template, "RENDER_S", 0.5)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"task\.template=.*ask\.jinja: cannot be rendered: \w+"):
        render(tmp_path, source)
    assert time.monotonic() - began < 30


def test_a_harmless_template_is_rendered(tmp_path: Path) -> None:
    source = "{% for n in numbers %}{{ loop.index }}:{{ n }} {% endfor %}{{ question|upper }} €"
    assert render(tmp_path, source) == "1:1 2:2 WHAT IS 1 + 1? €"
    assert len(render(tmp_path, "{{ 'x' * 100000 }}")) == 100_000


@pytest.mark.parametrize("kind", ["none", "folder", "binary", "large", "device"])
def test_what_is_no_template_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / kind
    if kind == "folder":
        file.mkdir()
    elif kind in ("binary", "large"):
        file.write_bytes(b"\xff\xfe\x00" if kind == "binary" else b"x" * 2_000_000)
    path = "/dev/zero" if kind == "device" else str(file)
    with pytest.raises(UserError, match=rf"task\.template={path}: cannot be read"):
        prompt_template("math", path)


@pytest.mark.parametrize("task", ["countdown", "math", "chem", "ssmr", "reasoning_gym", "jsonl"])
def test_every_task_names_a_template_that_it_cannot_render(tmp_path: Path, task: str) -> None:
    file = tmp_path / "ask.jinja"
    file.write_text("{{ cycler.__init__.__globals__ }}")
    (tmp_path / "problems.jsonl").write_text('{"prompt": "a", "answer": "b", "self": 1, "fields": 2}\n')
    needed = {
        "reasoning_gym": ["task.dataset=leg_counting"],
        "jsonl": [f"task.path={tmp_path}/problems.jsonl"],
    }
    overrides: list[Any] = [
        f"task={task}",
        f"task.template={file}",
        *needed.get(task, ["task.difficulty=full"]),
    ]
    with pytest.raises(UserError, match=r"task\.template=.*ask\.jinja: cannot be rendered: SecurityError"):
        make(composed("inspect_task", InspectTaskConfig, overrides).task, "task").split("train")
