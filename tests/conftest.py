"""What all tests share: the tiers, which follow from what a test touches, and the catalogues."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from filelock import FileLock
from hypothesis import settings

from llmzero.core.hparams import Catalogue
from llmzero.core.metrics import Metric, metric_catalogue

REPOSITORY = Path(__file__).resolve().parents[1]
METRICS = metric_catalogue(yaml.safe_load((REPOSITORY / "conf/metrics.yaml").read_text())["metrics"])

# A test gets the mark of the first of these sets that holds a fixture of it, its file or its name.
# `make test` leaves out all marked tests.
TIERS = {
    "slurm": {"test_slurm.py", "test_slurm_pilot.py"},
    "slow": {
        "root",
        "run_stages",
        "by_processes",
        "test_bench_agent.py",
        "test_decision_point.py",
        "test_deepspeed.py",
        "test_dry_run.py",
        "test_interruption.py",
        "test_final_test.py",
        "test_flops.py",
        "test_make_table.py",
        "test_search_trained.py",
        "test_sharding.py",
        "test_stage.py",
        "test_stages_in_turn.py",
        "test_compare.py",
        "test_tracking.py",
        "test_trl_parity.py",
        "test_training.py",
        "test_warm_stages.py",
        "test_vllm_engine.py",
        "test_vllm_streams.py",
        "test_vllm_without_room_at_its_start_is_out_of_memory_in_vllms_own_words",
        "test_wandb_analysis.py",
        "test_a_killed_comparison_goes_on_to_the_same_numbers",
        "test_a_failing_cell_is_reported_and_leaves_the_others_alone",
        "test_every_pair_of_options_composes_and_is_checked",
        "test_every_stated_answer_earns_everything",
        "test_a_terminal_that_shows_ascii_alone_ends_no_search",
        "test_it_trains_for_real",
        "test_real_weights_in_bfloat16_may_be_trained_and_sampled_from",
        "test_arms_cost_the_same_and_a_rerun_does_what_is_missing",
        "test_one_rank_that_ends_badly_ends_the_others",
        "test_the_real_trainers_parent_has_one_thread_when_it_forks",
        "test_tensors_are_verdicts_though_pytorch_is_loaded_with_the_first",
        "test_killing_a_simulated_search_twenty_times_changes_nothing",
        "test_killing_it_fifteen_times_changes_nothing",
        "test_kills_lose_no_reply_and_pay_for_none_twice",
        "test_kills_while_models_think_change_nothing_and_pay_nothing_twice",
        "test_an_endpoint_that_hangs_holds_nothing_up",
        "test_a_killed_search_of_free_answers_is_the_uninterrupted_one",
        "test_a_model_that_closes_everything_ends_no_search",
        "test_every_damage_of_what_a_model_answered_beside_changes",
        "test_every_damage_of_a_bench",
        "test_a_log_without_a_withdrawn_stage_is_repaired",
        "test_several_workers_think_side_by_side",
        "test_replies_stay_plain_text_up_to_the_confirmation",
        "test_a_key_comes_back_in_no_form",
        "test_a_new_study_is_its_owners_alone",
        "test_analysis_shows_it_as_text",
        "test_errors_show_it_as_text",
        "test_a_search_that_trains_goes_on_elsewhere_with_the_same_bits",
        "test_disks_that_are_full_at_any_moment_lose_nothing",
        "test_keys_in_wrong_places_are_refused_without_being_printed",
        "test_a_skill_session_takes_odd_arguments_as_text",
        "test_a_session_of_a_killed_driver_goes_on_and_pays_for_no_reply_twice",
        "test_synced_offline_runs_are_what_online_runs_are",
        "test_the_smoke_run_reports_every_figure",
        "test_searches_that_are_killed_lose_nothing_and_pay_for_nothing_twice",
        "test_without_a_gpu_it_says_so",
        "test_one_command_makes_all_of_it",
        "test_master_weights_and_moments_are_those_of_real_engines",
        "test_a_search_that_trains_shows_its_model_real_dynamics",
        "test_a_batch_of_endless_answers_ends_and_honest_ones_in_it_are_judged",
        "test_a_batch_gives_what_each_call_alone_gives",
        "test_slow_calls_are_judged_as_long_as_few_take_their_whole_limit",
        "test_no_verifier_runs_code",
        "test_a_stage_that_is_found_imports_nothing_unless_it_is_trusted",
        "test_every_damage_of_a_finished_search",
        "test_every_damage_of_an_interrupted_search",
        "test_every_damage_of_a_session_with_a_model",
        "test_every_damage_of_a_table",
        "test_every_damage_of_a_file_of_points_is_told_or_does_no_harm",
        "test_a_log_that_is_damaged_or_lost_is_made_again",
        "test_nesting_beyond_all_bounds_ends_no_process",
        "test_the_default_sizes_exist_and_no_molecule_is_in_two_splits",
        "test_three_workers_for_a_reckless_model",
        "test_a_hostile_model_ends_no_session_and_leaves_no_bounds",
        "test_prompts_and_completions_of_the_nano_model_are_short_and_in_its_alphabet",
        "test_a_dry_run_checks_everything_and_starts_nothing",
    },
    "browser": {"browser"},
}
QUICK_S = 5.0  # what a test without a mark may take

settings.register_profile("busy", deadline=None)  # a machine with other work on it is slow at times
settings.load_profile("busy")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker has one core; the bits are the same every time


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they touch. The slowest files begin, so that all workers end at the same time.

    A worker takes a file as a whole, and all tests on SLURM, as these count the jobs of its one cluster.
    """
    order = [*TIERS, None]
    first: dict[Path, int] = defaultdict(lambda: len(TIERS))
    for item in items:
        touched = {*getattr(item, "fixturenames", ()), item.path.name, getattr(item, "originalname", None)}
        tier = next((name for name, of in TIERS.items() if of & touched), None)
        if tier:
            item.add_marker(tier)
        item.add_marker(pytest.mark.xdist_group("slurm" if tier == "slurm" else item.path.stem))
        first[item.path] = min(first[item.path], order.index(tier))
    items.sort(key=lambda item: first[item.path])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List the tests that take long and have no mark that says so."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and not TIERS.keys() & report.keywords.keys():
                seconds[report.nodeid] += report.duration
    long = {test: took for test, took in seconds.items() if took > QUICK_S}
    if long:
        terminalreporter.section(
            f"over {QUICK_S:.0f} s without a mark: make them quicker, or name them in TIERS"
        )
        for test, took in sorted(long.items(), key=lambda item: -item[1]):
            terminalreporter.line(f"{took:6.1f} s  {test}")


def made_once(directory: Path, make: Callable[[Path], object]) -> Path:
    """Have a directory made, unless a worker beside this one has made it, or is just making it."""
    done = directory.with_name(f"{directory.name}.made")
    with FileLock(f"{directory}.lock"):
        if not done.exists():
            make(directory)
            done.touch()
    return directory


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    """A test leaves its process' log and environment as they were.

    A command that it runs has the log redacted from then on; libraries set ranks, which processes inherit.
    """
    factory = logging.getLogRecordFactory()
    with patch.dict(os.environ):
        yield
    logging.setLogRecordFactory(factory)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for what all workers of a run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def entries() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPOSITORY / "conf/hparams/grpo.yaml").read_text())
    parameters: dict[str, Any] = document["parameters"]
    return parameters


@pytest.fixture(scope="session")
def catalogue(entries: dict[str, Any]) -> Catalogue:
    nano = yaml.safe_load((REPOSITORY / "conf/model/nano.yaml").read_text())["hparams"]
    return Catalogue.from_config(entries, {"model": nano})


@pytest.fixture(scope="session")
def metrics() -> dict[str, Metric]:
    return METRICS
