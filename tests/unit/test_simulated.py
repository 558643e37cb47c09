"""The simulator: what its landscapes are like, that agents can name what is wrong on them, and its clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from llmzero.agents.diagnosis import diagnose
from llmzero.agents.evidence import EvidenceBuilder
from llmzero.agents.rules import RuleAgent
from llmzero.cli import CONF
from llmzero.config import catalogue_of, register
from llmzero.runners.landscapes import LANDSCAPES, Policy, step
from llmzero.runners.simulated import SimulatedHandle, SimulatedRunner
from llmzero.search.tree import Node, Tree
from llmzero.stage import StageDir, StageSpec

register()
with initialize_config_dir(str(CONF), version_base="1.3"):
    CATALOGUE = catalogue_of(compose("search", overrides=["experiment=simulated"]))
STEPS = 16


def spec(directory: Path, parent: StageDir | None = None, *, seed: int = 0, split: str = "val", steps: int = STEPS, **changes: Any) -> StageSpec:
    result = parent.result() if parent else None
    directory.mkdir(parents=True)
    config = {"trainer": {"validation_every": 4, "evaluation_split": split}}
    return StageSpec(
        directory.name, None, 1, directory, result.last_checkpoint if result else None, {**CATALOGUE.defaults(), **changes}, steps, seed, config
    )


def ran(runner: SimulatedRunner, wanted: StageSpec) -> StageDir:
    """Run one stage to its end."""
    handle = runner.start(wanted)
    while not handle.poll().final:
        pass
    return StageDir(wanted.directory)


def final(path: list[dict[str, Any]], landscape: str) -> float:
    """Return the true score at the end of a path of stages, on the family's middle."""
    land = LANDSCAPES[landscape]
    policy, hparams = Policy(land.start, land.length), CATALOGUE.defaults()
    for changes in path:
        hparams |= changes
        for _ in range(STEPS):
            policy = step(policy, hparams, land).policy
    return policy.score(hparams, land)


CAREFUL, FAST, LARGE = {"learning_rate": 4e-7}, {"learning_rate": 4e-6}, {"group_size": 32}


def test_deceptive_paths_that_lead_early_end_behind_those_that_start_slowly() -> None:
    practitioner: dict[str, Any] = {}
    assert final([practitioner], "deceptive") > final([CAREFUL], "deceptive")
    assert final([CAREFUL] * 6, "deceptive") > final([practitioner] * 6, "deceptive") + 0.05


def test_a_plateau_moves_with_larger_groups() -> None:
    start = LANDSCAPES["plateau"].start
    assert final([{}], "plateau") - start < 0.03
    assert final([LARGE], "plateau") - start > 0.05


def test_divergence_breaks_a_policy_for_good() -> None:
    assert final([FAST], "kl_collapse") > final([{}], "kl_collapse"), "it looks good at first"
    assert final([FAST, FAST], "kl_collapse") < final([{}, {}], "kl_collapse") - 0.1
    assert final([FAST, FAST, CAREFUL, CAREFUL], "kl_collapse") < 0.2, "and careful steps do not bring it back"


def test_without_entropy_nothing_more_is_learnt_and_a_bonus_keeps_it() -> None:
    fast = {"learning_rate": 2e-6}
    assert final([fast] * 6, "entropy_collapse") - final([fast] * 4, "entropy_collapse") < 0.01
    assert final([fast | {"entropy_coef": 0.02}] * 6, "entropy_collapse") > final([fast] * 6, "entropy_collapse") + 0.1


def test_lengths_explode_unless_there_is_room_or_a_leash() -> None:
    fast = {"learning_rate": 2e-6}
    peak, end = final([fast] * 2, "length_explosion"), final([fast] * 5, "length_explosion")
    assert end < peak - 0.2
    assert final([fast, fast, fast, {**fast, "max_completion_length": 4096}, {}], "length_explosion") > end + 0.2


@pytest.mark.parametrize(
    ("landscape", "changes", "problem"),
    [
        ("kl_collapse", {"learning_rate": 4e-6}, "kl_blowup"),
        ("entropy_collapse", {"learning_rate": 4e-6}, "entropy_collapse"),
        ("length_explosion", {"learning_rate": 4e-6}, "truncation"),
        ("plateau", {}, "no_reward_variance"),
        ("memory_wall", {"group_size": 32}, "failure"),
        ("easy", {}, "healthy"),
    ],
)
def test_agents_can_name_what_is_wrong(tmp_path: Path, landscape: str, changes: dict[str, Any], problem: str) -> None:
    """On the second stage of a path, from what the stages wrote."""
    runner, tree = SimulatedRunner(landscape, instance=3), Tree()
    parent = None
    for number in range(3):
        directory = tmp_path / f"{number:04d}"
        stage = spec(directory, parent, steps=STEPS if number else 0, **(changes if number else {}))
        node = Node(directory.name, f"{number - 1:04d}" if number else None, number, stage.hparams, stage.steps, None, {})
        tree.add(node)
        parent = ran(runner, stage)
        result = parent.result()
        assert result is not None
        tree.finish(node.node_id, result)
        if result.state == "failed":
            break
    evidence = EvidenceBuilder(tmp_path, CATALOGUE, {}, 0).for_proposal(tree, node.node_id, {})
    assert problem in diagnose(evidence)
    assert RuleAgent().propose(evidence).changes


def test_what_does_not_fit_fails_as_a_stage_on_a_gpu_does(tmp_path: Path) -> None:
    result = ran(SimulatedRunner("memory_wall"), spec(tmp_path / "0001", group_size=32, prompts_per_step=256)).result()
    assert result is not None
    assert (result.state, result.checkpoint) == ("failed", None)
    assert result.cause == {
        "kind": "out_of_memory",
        "phase": "generation",
        "requested_bytes": result.cause["requested_bytes"],  # type: ignore[index]
        "hparams": {"max_completion_length": 1024, "group_size": 32, "prompts_per_step": 256},
    }
    assert 0 < result.gpu_seconds < 60, "it is charged for its one step"


def test_a_path_comes_out_alike_wherever_it_stands(tmp_path: Path) -> None:
    """Whatever a node is called, and whatever ran before; another seed is another problem, and another split draws anew."""

    def scores(name: str, **kwargs: Any) -> list[float]:
        runner = SimulatedRunner()
        first = ran(runner, spec(tmp_path / name / "a", seed=kwargs.get("seed", 0)))
        result = ran(runner, spec(tmp_path / name / "b", first, learning_rate=2e-6, **kwargs)).result()
        assert result is not None
        return [point.score for point in result.validation]

    assert scores("one") == scores("other")
    assert scores("seeded", seed=1) != scores("one_more")
    assert scores("tested", split="test") != scores("last")


def test_stages_side_by_side_end_in_the_order_of_their_durations(tmp_path: Path) -> None:
    runner = SimulatedRunner()
    handles = {name: runner.start(spec(tmp_path / name, prompts_per_step=prompts)) for name, prompts in (("slow", 256), ("quick", 16), ("mid", 64))}
    ended: list[str] = []
    while len(ended) < 3:
        ended += [name for name, handle in handles.items() if name not in ended and handle.poll().final]
    assert ended == ["quick", "mid", "slow"]
    moments = [handles[name].result().ended_at for name in ended]
    assert moments == [handles[name].result().seconds for name in ended]
    late = runner.start(spec(tmp_path / "late", prompts_per_step=16))
    while not late.poll().final:
        pass
    assert late.result().ended_at == pytest.approx(moments[-1] + late.result().seconds)  # type: ignore[operator]
    again = SimulatedRunner()
    assert again.attach(spec_of(tmp_path / "late")) is not None
    assert again.now == late.result().ended_at, "a restarted driver's clock goes on"


def spec_of(directory: Path) -> StageSpec:
    return StageSpec(directory.name, None, 1, directory, None, CATALOGUE.defaults(), STEPS, 0, {"trainer": {"validation_every": 4}})


def test_one_stage_is_waited_for_while_others_run(tmp_path: Path) -> None:
    runner = SimulatedRunner()
    runner.start(spec(tmp_path / "quick", prompts_per_step=16))
    assert len(ran(runner, spec(tmp_path / "slow", prompts_per_step=256)).validation()) == 4


def test_a_stage_that_is_stopped_ends_at_its_last_validation(tmp_path: Path) -> None:
    for polls, steps in ((0, 4), (1, 4), (2, 8)):
        handle: SimulatedHandle = SimulatedRunner().start(spec(tmp_path / str(polls)))
        for _ in range(polls):
            handle.poll()
        handle.stop()
        while not handle.poll().final:
            pass
        assert (handle.result().state, handle.result().validation[-1].step) == ("stopped", steps)


def test_instances_of_a_family_differ_and_a_noisy_one_says_so() -> None:
    assert len({LANDSCAPES["easy"].instance(number).speed for number in range(20)}) == 20
    assert LANDSCAPES["noisy"].examples < LANDSCAPES["easy"].examples / 5
