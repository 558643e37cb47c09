"""The JSON object in what a model wrote: behind reasoning, between prose, among drafts, in linear time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from llmzero.agents.found_json import json_object

DRAFT = '{"changes": [0]}'
FINAL = '{"changes": [1], "rationale": "of } and { and \\" and <think> and </think>"}'
HIDDEN = "".join("{ maybe {this} " for _ in range(200))
HARMONY = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}"


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{HIDDEN}</think>{FINAL}",
        f"<think>{HIDDEN}{DRAFT}</think>\n```json\n{FINAL}\n```\nI hope that helps {{or}} not.",
        f"<thinking>{DRAFT}</thinking>{FINAL}",
        f"<THINK >{DRAFT}</THINK>{FINAL}",
        f"<reasoning effort='low'>{DRAFT}</reasoning> {FINAL}",
        f"[THINK]{DRAFT}[/THINK]{FINAL}",
        f"<seed:think>{DRAFT}</seed:think>{FINAL}",
        HARMONY.format(DRAFT, FINAL),
        f"{HIDDEN}{DRAFT} so\n</think>\n\n{FINAL}",
        f"<think>{DRAFT} never closed. {FINAL}",
        f"<think>{DRAFT}\n```json\n{FINAL}\n```\n</answer>\n",
        f"{FINAL}<think>was {DRAFT} better?</think>",
        f"Draft: {DRAFT} Final: {FINAL} Note: {{}}",
        f"[{DRAFT}, {FINAL}]",
        f'A 5" wall {{ {FINAL} and a 6" one }}',
        f"{{{FINAL}}}",
        f'{{"name": "answer", "arguments": {FINAL}}}',
        f'<tool_call>{{"name": "answer", "arguments": {json.dumps(FINAL)}}}</tool_call>',
        json.dumps(FINAL),
        json.dumps(FINAL.replace("1]", '1], "expected": {}')),
        '{"changes": [1,], "rationale": "a, ] b\nand ,}",\n}\n',
        f"<think>{DRAFT}</think>{FINAL}\n</think>",
        f"{DRAFT}</think>{FINAL} where </think> ends what I thought",
        f'{{"type": "function", "function": {{"name": "answer", "arguments": {json.dumps(FINAL)}}}}}',
        f'{{"name": "answer", "input": {FINAL}}}',
        f'{{"final_answer": {FINAL}}}',
        FINAL.replace("\n", "\r\n").join(["\ufeff", "\r\n"]),
    ],
)
def test_the_answer_is_found(text: str) -> None:
    assert (json_object(text, "changes") or {}).get("changes") == [1]


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{DRAFT}</think>",
        f"<think>{DRAFT}</think> I would rather not say.",
        f"<think>{DRAFT} or rather",
        f"{DRAFT}</think>",
        f'{{"example": {DRAFT}}}',
        '{"changes": [0]',
        "{'changes': [0]}",
        '"changes"',
        "[1, 2]",
        "null",
    ],
)
def test_a_draft_and_a_fragment_are_no_answer(text: str) -> None:
    assert json_object(text, "changes") is None


FLOODS: tuple[Any, ...] = (
    "{" * 100_000,
    "}" * 100_000,
    '{"' * 50_000,
    '"' * 100_000,
    "\\" * 100_000,
    '{"a":' * 20_000,
    '{"a":' * 10_000 + "1" + "}" * 10_000,
    '{"a":[' * 16_000,
    '{"a" }' * 16_000,
    "{" * 50_000 + "}" * 50_000,
    '{"changes": [1, 2, ' * 5_000,
    "<think>" * 14_000,
    f"<think>{DRAFT}" * 4_000,
    '{"k":"' + "a" * 100_000,
    "<" * 100_000,
)


@pytest.mark.parametrize("flood", FLOODS, ids=range(len(FLOODS)))
def test_a_flood_hides_nothing_and_takes_linear_time(flood: str) -> None:
    started = time.process_time()
    answer = json_object(f"{flood}</think>{FINAL}", "changes")
    json_object(flood, "changes")
    assert time.process_time() - started < 5
    assert answer == json.loads(FINAL)
