"""The harness that compares schedules, on a tower that is trained in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.worlds import Pilot, difference, main, table
from llmzero.core.errors import UserError

PILOT: dict[str, Any] = {
    "question": "Does it train?",
    "overrides": [
        "task=tower",
        "task.seed={seed}",
        "task.val_size=20",
        "task.test_size=20",
        "hparams=curriculum",
        "model=nano_s",
        "model.recipe.steps=30",
    ],
    "flops": 4e8,
    "longest": 8,
    "values": {"max_completion_length": 8},
    "seeds": {"tune": [0], "confirm": [2]},
    "arms": {
        "easy first": [[0.5, {"easiest": 0.02}], [0.5, {}]],
        "all": [[1, {"algorithm.dynamic_sampling": 1}]],
    },
    "claim": {"schedule": "easy first", "against": ["all"], "score": "sampled"},
}


def test_arms_cost_the_same_and_a_rerun_does_what_is_missing(
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "pilot.yaml"
    file.write_text(yaml.safe_dump(PILOT))
    monkeypatch.setenv("LLMZERO_CACHE", environment["LLMZERO_CACHE"])
    for words in (["tune", "all"], ["tune"], ["confirm"], []):
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["worlds.py", str(file), *words])
        main()
    rows = [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]
    assert [(r["phase"], r["arm"], r["seed"]) for r in rows] == [
        ("tune", "all", 0),
        ("tune", "easy first", 0),
        ("confirm", "easy first", 2),
        ("confirm", "all", 2),
    ]
    for each in rows:
        assert sum(stage["flops"] for stage in each["dynamics"]) == pytest.approx(4e8, rel=0.35)
        assert len(each["dynamics"]) == len(each["stages"])
        for stage in each["dynamics"]:
            assert stage["clip_fraction_low"] == stage["clip_fraction_high"] == 0, "one update a batch"
    short, whole = rows[1]["dynamics"]
    assert short["completion_length_mean"] < whole["completion_length_mean"]
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Does it train?"
    assert [line.split("greedy")[0].rstrip() for line in shown[1:]] == [
        "tune    all",
        "tune    easy first",
        "easy first - all, sampled: too few pairs",
        "confirm easy first",
        "confirm all",
        "easy first - all, sampled: too few pairs",
    ]


def row(arm: str, seed: int, score: float, **other: Any) -> dict[str, Any]:
    return {
        "world": Pilot(**PILOT).world,
        "phase": "tune",
        "arm": arm,
        "seed": seed,
        "stages": PILOT["arms"][arm],
        "greedy": 0.0,
        "sampled": score,
        **other,
    }


def test_pairs_are_of_a_seed_and_of_this_world() -> None:
    rows = [row("easy first", seed, 0.5 + 0.1 * seed) for seed in range(5)]
    rows += [row("all", seed, 0.4 + 0.09 * seed) for seed in range(4)]
    rows += [row("all", 4, 0.0, world="another"), row("all", 4, 0.0, stages=[[1, {}]])]
    lines = table(Pilot(**PILOT), rows)
    assert lines[1:3] == [
        f"tune    {'easy first':48s}greedy 0.000 ± 0.000  sampled 0.700 ± 0.071  n = 5",
        f"tune    {'all':48s}greedy 0.000 ± 0.000  sampled 0.535 ± 0.058  n = 4",
    ]
    # Differences 0.10, 0.11, 0.12, 0.13: t = 0.115 / 0.00645; of 16 assignments of signs two are as extreme.
    assert lines[3] == (
        "easy first - all, sampled: +0.115 ± 0.006, 4 of 4 positive, p = 0.0004 (t), 0.1250 (signs)"
    )
    assert difference(rows[:1] + rows[5:6], "easy first", "all", "sampled").endswith("too few pairs")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": {"tune": [0, 1], "confirm": [1, 2]}}, r"seeds: \[1\] would tune and confirm"),
        ({"arms": {**PILOT["arms"], "half": [[0.5, {}]]}}, r"arms\.half: its shares of the compute"),
        ({"claim": {**PILOT["claim"], "against": ["none"]}}, r"claim: none: no arm of the pilot"),
    ],
)
def test_a_protocol_that_decides_nothing_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pilot(**{**PILOT, **changed})
