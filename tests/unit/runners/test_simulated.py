"""The simulator: its landscapes, what agents can diagnose on them, its clock, and what it writes."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmzero.agents.rules import RuleAgent
from llmzero.cli import composed
from llmzero.core.errors import DamagedFileError, UserError
from llmzero.core.settings import read
from llmzero.core.stage import StageDir, StageResult, StageSpec
from llmzero.evidence.builder import EvidenceBuilder
from llmzero.evidence.diagnosis import diagnose
from llmzero.runners.base import StageHandle
from llmzero.runners.simulated import SimulatedHandle, SimulatedRunner, SimulatedRunnerSettings
from llmzero.runners.simulation.clock import Clock
from llmzero.runners.simulation.drive import REFERENCE, drive_of
from llmzero.runners.simulation.landscape import LANDSCAPES
from llmzero.runners.simulation.metrics import NAMES
from llmzero.runners.simulation.policy import Policy, advance, base_policy
from llmzero.search.settings import SearchConfig
from llmzero.tree.tree import Node, Tree
from tests.conftest import REPOSITORY

CONFIG = composed("search", SearchConfig, ["experiment=simulated"])
CATALOGUE = CONFIG.catalogue
DEFAULTS = CATALOGUE.defaults()
STEPS = 16
OF_STAGES = ("reference", "rewarm", "optimizer_state", "warmup_steps", "lr_schedule")
TASK_ONLY = {"reward_format", "reward_correct"}


def simulated(landscape: str = "easy", **settings: Any) -> SimulatedRunner:
    return SimulatedRunner(SimulatedRunnerSettings(landscape, **settings))


def spec(
    directory: Path,
    parent: Path | None = None,
    *,
    seed: int = 0,
    split: str = "val",
    steps: int = STEPS,
    **changes: Any,
) -> StageSpec:
    directory.mkdir(parents=True)
    config = {"trainer": {"validation_every": 4, "evaluation_split": split}}
    return StageSpec(directory.name, None, 1, directory, parent, {**DEFAULTS, **changes}, steps, seed, config)


def ran(runner: SimulatedRunner, wanted: StageSpec) -> StageResult:
    """Run one stage to its end."""
    handle = runner.start(wanted)
    while not handle.poll().final:
        pass
    return handle.result()


def trained(path: list[dict[str, Any]], landscape: str) -> tuple[Policy, float]:
    """Return the policy at the end of a path of stages without luck, and its true score; changes persist."""
    land, hparams = LANDSCAPES[landscape], dict(DEFAULTS)
    policy = base_policy(land)
    for changes in path:
        hparams |= changes
        drive = drive_of(hparams, DEFAULTS)
        for taken in range(STEPS):
            advance(policy, land, drive, taken, 0.0, 0.0)
    return policy, policy.score(land, drive.room)


def final(path: list[dict[str, Any]], landscape: str) -> float:
    return trained(path, landscape)[1]


# --- what the families are like ---


def test_every_family_of_the_configuration_exists() -> None:
    for name in LANDSCAPES:
        simulated(name).problem(0)
        assert read(SimulatedRunnerSettings, {"landscape": name}, "runner").landscape == name
    families = ", ".join(sorted(LANDSCAPES))
    with pytest.raises(UserError, match=f"runner.landscape=moon: must be one of {families}"):
        read(SimulatedRunnerSettings, {"landscape": "moon"}, "runner")


def test_deceptive_paths_that_lead_early_end_behind_those_that_start_slowly() -> None:
    greedy: dict[str, Any] = {"learning_rate": 2e-6}
    explorer: dict[str, Any] = {"learning_rate": 8e-7, "entropy_coef": 0.02}
    push = {"learning_rate": 3e-6, "entropy_coef": 0.0}
    assert final([greedy], "deceptive") > final([explorer], "deceptive")
    assert final([explorer] * 3 + [push] * 3, "deceptive") > final([greedy] * 6, "deceptive") + 0.03
    assert final([greedy] * 3 + [explorer] * 3, "deceptive") < final(
        [explorer] * 3 + [push] * 3, "deceptive"
    ), "what is worn stays worn"


def test_a_plateau_moves_with_capacity_and_with_nothing_else() -> None:
    start = final([{}], "plateau")
    assert final([{}] * 6, "plateau") - start < 0.03
    assert final([{"learning_rate": 3e-6}] * 6, "plateau") - start < 0.03
    assert (
        final([{"group_size": 32, "max_completion_length": 2048, "learning_rate": 2e-6}] * 6, "plateau")
        > start + 0.1
    )


def test_divergence_breaks_a_policy_for_good() -> None:
    fast, careful = {"learning_rate": 3e-6}, {"learning_rate": 3e-7, "kl_coef": 0.1}
    broken, score = trained([fast] * 6, "kl_collapse")
    assert broken.damage > 0.5
    assert final([fast] * 6 + [careful] * 3, "kl_collapse") < 0.2, "and careful steps do not bring it back"
    assert final([fast, careful], "kl_collapse") > score + 0.2, "but going back in time does"


def test_without_entropy_nothing_more_is_learnt_and_a_bonus_keeps_it() -> None:
    fast = {"learning_rate": 2e-6, "prompts_per_step": 256}
    bare, held = (
        trained([fast | {"entropy_coef": bonus}] * 6, "entropy_collapse")[0] for bonus in (0.0, 0.02)
    )
    assert bare.entropy < 0.3 * held.entropy
    assert held.craft < bare.craft


def test_lengths_explode_unless_there_is_room_or_a_leash() -> None:
    fast = {"learning_rate": 2e-6, "prompts_per_step": 256, "minibatches": 4}
    scores = [final([fast] * stages, "length_explosion") for stages in range(1, 9)]
    assert scores[-1] < max(scores) - 0.1
    assert (
        final([fast] * 7 + [{"max_completion_length": 2048, "prompts_per_step": 64}], "length_explosion")
        > scores[-1] + 0.1
    )
    assert (
        trained([fast | {"kl_coef": 0.1}] * 8, "length_explosion")[0].length
        < trained([fast] * 8, "length_explosion")[0].length
    )


@pytest.mark.parametrize(
    "name",
    [name for name in REFERENCE if name not in OF_STAGES],
)
def test_every_parameter_that_matters_in_training_matters(name: str) -> None:
    """From a configuration in which each of them has something to act on."""
    busy = {"minibatches": 4, "learning_rate": 2e-6, "entropy_coef": 0.005}
    low, high = ({**busy, name: CATALOGUE[name].at(position)} for position in (0.2, 0.8))
    assert trained([low] * 2, "entropy_collapse")[0] != trained([high] * 2, "entropy_collapse")[0]


def test_instances_of_a_family_differ_and_keep_its_character() -> None:
    for name, land in LANDSCAPES.items():
        instances = [land.instance(number) for number in range(20)]
        assert len({instance.slow for instance in instances}) == 20, name
        assert all(0 < instance.start < instance.top for instance in instances), name
    assert LANDSCAPES["noisy"].examples < LANDSCAPES["easy"].examples / 5


def test_the_nano_landscape_is_the_one_that_was_fitted() -> None:
    fitted = json.loads((REPOSITORY / "benchmarks/results/simulator_fit.json").read_text())
    nano = LANDSCAPES["nano"]
    assert {name: getattr(nano, name) for name in fitted["constants"]} == fitted["constants"]
    assert {name: getattr(nano.costs, name) for name in fitted["costs"]} == fitted["costs"]


# --- what agents see ---


@pytest.mark.parametrize("instance", range(3))
@pytest.mark.parametrize(
    ("landscape", "changes", "problem"),
    [
        ("kl_collapse", {"learning_rate": 6e-6}, "kl_blowup"),
        ("entropy_collapse", {"learning_rate": 5e-6}, "entropy_collapse"),
        ("length_explosion", {"learning_rate": 8e-6, "prompts_per_step": 256}, "truncation"),
        ("plateau", {}, "no_reward_variance"),
        ("memory_wall", {"group_size": 32}, "failure"),
    ],
)
def test_agents_can_name_what_is_wrong(
    tmp_path: Path, landscape: str, changes: dict[str, Any], problem: str, instance: int
) -> None:
    """Within three stages of a path, from what the stages wrote."""
    runner, tree, problems = simulated(landscape, instance=instance), Tree(), set()
    parent: Path | None = None
    for number in range(4):
        stage = spec(
            tmp_path / f"{number:04d}", parent, steps=STEPS if number else 0, **(changes if number else {})
        )
        node_id = stage.directory.name
        tree.add(
            Node(
                node_id, f"{number - 1:04d}" if number else None, number, stage.hparams, stage.steps, None, {}
            )
        )
        result = ran(runner, stage)
        tree.finish(node_id, result)
        evidence = EvidenceBuilder(tmp_path, CATALOGUE, {}, 0).for_proposal(tree, node_id, {})
        problems |= set(diagnose(evidence))
        parent = result.last_checkpoint
        if parent is None:
            break
    assert problem in problems
    assert RuleAgent().propose(evidence).changes


def test_metrics_are_those_of_the_catalogue(tmp_path: Path) -> None:
    ran(simulated(), spec(tmp_path / "a"))
    rows = StageDir(tmp_path / "a").metrics()
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(set(row) == set(NAMES) for row in rows)
    assert set(CONFIG.metrics["metrics"]) - TASK_ONLY <= set(NAMES)
    for row in rows:
        quiet = row["all_right_groups"], row["all_wrong_groups"]
        assert min(quiet) >= 0
        assert sum(quiet) == pytest.approx(row["zero_variance_groups"], abs=1e-5)
    assert all(value == value and abs(value) < 1e18 for row in rows for value in row.values()), (
        "numbers, all of them finite"
    )
    assert [row["gpu_seconds"] for row in rows] == sorted(row["gpu_seconds"] for row in rows)


def test_no_divergence_is_measured_where_no_reference_is_held(tmp_path: Path) -> None:
    ran(simulated(), spec(tmp_path / "a", kl_coef=0.0))
    assert all(row["kl"] == row["seconds_logprobs"] == 0 for row in StageDir(tmp_path / "a").metrics())


# --- scores ---


def test_without_noise_scores_are_true(tmp_path: Path) -> None:
    quiet = ran(simulated(noise=0.0, instance=7), spec(tmp_path / "a", seed=1))
    other = ran(simulated(noise=0.0, instance=7), spec(tmp_path / "b", seed=2))
    assert [point.score for point in quiet.validation] == [point.score for point in other.validation]
    noisy = ran(simulated(instance=7), spec(tmp_path / "c", seed=1))
    assert [point.score for point in noisy.validation] != [point.score for point in quiet.validation]
    assert noisy.validation[0].stderr > 100 * quiet.validation[0].stderr


def test_a_path_comes_out_alike_wherever_it_stands(tmp_path: Path) -> None:
    """Whatever a node is called and whatever ran before; another seed or another split draws anew."""

    def scores(name: str, **kwargs: Any) -> list[float]:
        runner = simulated(instance=0)
        if name == "busy":
            ran(runner, spec(tmp_path / name / "before", learning_rate=5e-6))
        first = ran(runner, spec(tmp_path / name / "a", seed=kwargs.get("seed", 0)))
        result = ran(
            runner, spec(tmp_path / name / f"b-{name}", first.last_checkpoint, learning_rate=2e-6, **kwargs)
        )
        return [point.score for point in result.validation]

    assert scores("one") == scores("busy")
    assert scores("seeded", seed=1) != scores("unseeded")
    assert scores("tested", split="test") != scores("validated")


def test_a_measurement_starts_from_the_true_policy_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    runner = simulated(noise=0.0)
    stage = ran(runner, spec(tmp_path / "a"))
    measured = ran(runner, spec(tmp_path / "m", stage.last_checkpoint, steps=0, split="test"))
    assert measured.best_score == stage.validation[-1].score
    assert measured.checkpoint == stage.last_checkpoint
    assert not (tmp_path / "m/checkpoints").exists()


def test_what_counts_is_relative_to_the_base_models_own_values(tmp_path: Path) -> None:
    """So a model with a hundred times the learning rate is trained as well; explicit references win."""

    def scores(name: str, default: float, **runner: Any) -> list[float]:
        made = simulated(noise=0.0, **runner)
        root = ran(made, spec(tmp_path / name / "root", steps=0, learning_rate=default))
        return [
            point.score
            for point in ran(
                made, spec(tmp_path / name / "a", root.checkpoint, learning_rate=2 * default)
            ).validation
        ]

    assert scores("small", 1e-6) == scores("large", 1e-4)
    assert scores("explicit", 1e-4, reference={"learning_rate": 1e-6}) != scores("again", 1e-4)


def test_a_foreign_catalogue_is_trained_too(tmp_path: Path) -> None:
    stage = replace(spec(tmp_path / "a"), hparams={"colour": "red", "learning_rate": "high"})
    assert (
        ran(simulated(noise=0.0), stage).validation
        == ran(simulated(noise=0.0), spec(tmp_path / "b")).validation
    )


# --- memory, and the disk ---


@pytest.mark.parametrize(
    ("changes", "phase", "named"),
    [
        (
            {"group_size": 32, "prompts_per_step": 256},
            "generation",
            {"max_completion_length": 1024, "group_size": 32, "prompts_per_step": 256},
        ),
        (
            {"max_completion_length": 8192, "group_size": 4, "prompts_per_step": 16},
            "update",
            {"max_completion_length": 8192, "kl_coef": 0.001},
        ),
    ],
)
def test_what_does_not_fit_fails_as_a_stage_on_a_gpu_does(
    tmp_path: Path, changes: dict[str, Any], phase: str, named: dict[str, Any]
) -> None:
    result = ran(simulated("memory_wall"), spec(tmp_path / "a", **changes))
    assert (result.state, result.checkpoint, result.best_score) == ("failed", None, None)
    assert result.cause is not None and result.error is not None
    assert {key: result.cause[key] for key in ("kind", "phase", "hparams")} == {
        "kind": "out_of_memory",
        "phase": phase,
        "hparams": named,
    }
    assert f"{result.cause['requested_bytes'] / 2**30:.2f} GiB" in result.error
    assert result.gpu_seconds > 0, "it is charged for what it used"


def test_an_attempt_that_was_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    wanted = spec(tmp_path / "a")
    killed = simulated().start(wanted)
    killed.poll()
    ran(simulated(), wanted)
    assert [row["step"] for row in StageDir(tmp_path / "a").metrics()] == list(range(1, STEPS + 1))
    assert [point.step for point in StageDir(tmp_path / "a").validation()] == [4, 8, 12, 16]


@pytest.mark.parametrize("polls", range(5))
def test_the_next_driver_goes_on_where_a_stage_stood(tmp_path: Path, polls: int) -> None:
    """Two stages, the second of which begins later: their files and ends are those of one driver."""
    results = {}
    for name in ("whole", "killed"):
        runner = simulated()
        wanted = [spec(tmp_path / name / "0001"), spec(tmp_path / name / "0002", learning_rate=3e-6)]
        handles: list[StageHandle] = [runner.start(wanted[0])]
        handles[0].poll()
        handles.append(runner.start(wanted[1]))
        for _ in range(polls):
            for handle in handles:
                handle.poll()
        if name == "killed":
            runner = simulated()
            before = [StageDir(each.directory).validation() for each in wanted]
            handles = [attached(runner, each) for each in wanted]
            assert [handle.poll().validation for handle in handles] == before, "time stands still for a round"
        left = handles
        while left:
            left = [handle for handle in left if not handle.poll().final]
        results[name] = [
            handle.result().to_dict(each.directory) for handle, each in zip(handles, wanted, strict=True)
        ]
    assert results["killed"] == results["whole"]
    for file in (tmp_path / "whole").rglob("*.json*"):
        assert (tmp_path / "killed" / file.relative_to(tmp_path / "whole")).read_text() == file.read_text()


def attached(runner: SimulatedRunner, wanted: StageSpec) -> StageHandle:
    handle = runner.attach(wanted)
    assert handle is not None
    return handle


def test_the_final_test_of_a_restarted_driver_begins_when_the_search_ended(tmp_path: Path) -> None:
    trained = ran(simulated(), spec(tmp_path / "nodes" / "0001"))
    measured = ran(simulated(), spec(tmp_path / "test" / "base", trained.checkpoint, split="test", steps=0))
    assert trained.ended_at is not None
    assert measured.ended_at == pytest.approx(trained.ended_at + measured.seconds)


def test_what_a_killed_driver_left_half_written_goes(tmp_path: Path) -> None:
    wanted = spec(tmp_path / "a")
    result = ran(simulated(), wanted)
    assert result.checkpoint is not None
    torn = [
        folder / f".{name}.1.tmp"
        for folder in (wanted.directory, result.checkpoint)
        for name in ("x.json", "COMPLETE")
    ]
    for file in torn:
        file.write_text("{")
    attached(simulated(), wanted)
    assert not any(file.exists() for file in torn)


def test_a_driver_may_die_between_a_stages_metrics_and_its_validation_and_before_it_began(
    tmp_path: Path,
) -> None:
    wanted, whole = spec(tmp_path / "killed" / "a"), spec(tmp_path / "whole" / "a")
    assert simulated().attach(wanted) is None
    simulated().start(wanted).poll()
    StageDir(wanted.directory).validation_file.unlink()
    handle = attached(simulated(), wanted)
    while not handle.poll().final:
        pass
    assert handle.result().to_dict(wanted.directory) == ran(simulated(), whole).to_dict(whole.directory)
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert (wanted.directory / name).read_text() == (whole.directory / name).read_text()
    StageDir(wanted.directory).result_file.unlink()
    (wanted.directory / "clock.json").write_text('{"began": "soon"}')
    with pytest.raises(
        DamagedFileError, match=r"clock\.json: cannot be read \(began=soon: must be of type int or float\)"
    ):
        simulated().attach(wanted)


def test_a_stage_can_be_continued_from_its_best_and_its_last_validation(tmp_path: Path) -> None:
    runner = simulated("kl_collapse", noise=0.0)
    result = ran(runner, spec(tmp_path / "a", learning_rate=2e-5, kl_coef=0.0))
    scores = [point.score for point in result.validation]
    assert max(scores) > scores[-1]
    checkpoints = [result.checkpoint, result.last_checkpoint]
    assert set(StageDir(tmp_path / "a").complete_checkpoints()) == set(checkpoints)
    measured = [
        ran(runner, spec(tmp_path / f"m{number}", checkpoint, steps=0)).best_score
        for number, checkpoint in enumerate(checkpoints)
    ]
    assert measured == [max(scores), scores[-1]]


# --- the clock ---


def test_a_stage_that_begins_has_its_turn_before_one_that_goes_on_later() -> None:
    clock = Clock()
    clock.add("long", 10.0)
    clock.add("short", 1.0)
    assert [clock.turn("long"), clock.turn("short")] == [False, True]
    clock.remove("short")
    clock.add("next", 5.0)
    assert [clock.turn("long"), clock.turn("next")] == [False, True]
    assert clock.now == 5.0


def test_stages_side_by_side_end_in_the_order_of_their_durations(tmp_path: Path) -> None:
    runner = simulated()
    handles = {
        name: runner.start(spec(tmp_path / name, prompts_per_step=prompts))
        for name, prompts in (("slow", 256), ("quick", 16), ("mid", 64))
    }
    ended: list[str] = []
    while len(ended) < 3:
        news = [len(handle.poll().validation) for name, handle in handles.items() if name not in ended]
        ended += [name for name, handle in handles.items() if name not in ended and handle.poll().final]
        assert news
    assert ended == ["quick", "mid", "slow"]
    moments = [handles[name].result().ended_at for name in ended]
    assert moments == [handles[name].result().seconds for name in ended]


def test_each_round_has_news_of_exactly_one_stage(tmp_path: Path) -> None:
    """So a driver never waits in vain, and can act before the next event."""
    runner = simulated()
    handles = [
        runner.start(spec(tmp_path / str(prompts), prompts_per_step=prompts)) for prompts in (256, 16, 64)
    ]
    points = [0, 0, 0]
    while handles:
        status = [handle.poll() for handle in handles]
        now = [len(each.validation) for each in status]
        assert sum(new > old for new, old in zip(now, points, strict=True)) == 1
        left = [i for i, each in enumerate(status) if not each.final]
        handles, points = [handles[i] for i in left], [now[i] for i in left]


def test_a_stage_starts_when_the_one_before_it_ends(tmp_path: Path) -> None:
    runner = simulated()
    first, second = ran(runner, spec(tmp_path / "a")), ran(runner, spec(tmp_path / "b"))
    assert second.ended_at == pytest.approx((first.ended_at or 0.0) + second.seconds)


@pytest.mark.parametrize("attached", [True, False])
def test_a_restarted_drivers_clock_goes_on(tmp_path: Path, attached: bool) -> None:
    wanted = spec(tmp_path / "a")
    first, runner = ran(simulated(), wanted), simulated()
    if attached:
        handle = runner.attach(wanted)
        assert handle is not None and handle.result() == first
    later = ran(runner, spec(tmp_path / "b"))
    assert later.ended_at == pytest.approx((first.ended_at or 0.0) + later.seconds)


def test_what_nobody_looks_at_holds_nobody_up(tmp_path: Path) -> None:
    runner = simulated()
    runner.start(spec(tmp_path / "quick", prompts_per_step=16))
    assert len(ran(runner, spec(tmp_path / "slow", prompts_per_step=256)).validation) == 4


def test_a_stage_that_is_stopped_ends_at_its_last_validation(tmp_path: Path) -> None:
    for polls, steps in ((0, 4), (1, 4), (2, 8)):
        handle: SimulatedHandle = simulated().start(spec(tmp_path / str(polls)))
        for _ in range(polls):
            handle.poll()
        handle.stop()
        while not handle.poll().final:
            pass
        result = handle.result()
        assert (result.state, result.validation[-1].step) == ("stopped", steps)
        assert result.last_checkpoint == tmp_path / str(polls) / f"checkpoints/step_{steps:05d}"


def test_a_result_that_cannot_be_written_whole_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a full disk: the file of a stage that has ended must not be one that nobody can read."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("llmzero.core.files.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        ran(simulated(), spec(tmp_path / "0001"))
    assert not list(tmp_path.rglob("result.json"))
