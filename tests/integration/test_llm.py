"""Whole searches by language models over real HTTP, through the launcher.

Models are sound or hostile; drivers are killed, budgets spent, searches replayed.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from llmzero.core.hparams import Catalogue
from llmzero.tree.store import EventStore
from tests.integration.conftest import Run, read_lines
from tests.integration.searches import TRAINED, assert_consistent, start_and_kill, summary
from tests.integration.test_baselines_killed import composed, events, judged, run, run_killed
from tests.llm_server import Answer, Hostile, LLMServer, Request, answer_json, asked_schema, script, scripted

SIMULATED = ["experiment=simulated", "search.workers=1"]
ALWAYS_ASKING = "search.method.unchanged_fraction=0"
KEY = "sk-secret-of-the-test-9876543210"


def asking(server: LLMServer, *more: str) -> list[str]:
    return [
        "agent=openai",
        "llm.model=scripted",
        f"llm.base_url={server.url}",
        "llm.api_key_env=null",
        "llm.retries=0",
        *more,
    ]


def tree_of(search: Path) -> list[tuple[Any, ...]]:
    tree = EventStore(search / "tree.jsonl", repair=False).tree
    return [
        (n.node_id, n.parent_id, n.hparams, n.score, n.proposal["agent"], n.proposal["rationale"])
        for n in tree
    ]


def calls_of(search: Path) -> list[dict[str, Any]]:
    return [event for event in read_lines(search / "tree.jsonl") if event["event"] == "llm_call"]


def catalogue_of_search(search: Path) -> Catalogue:
    return Catalogue.from_config(
        yaml.safe_load((search / "config.yaml").read_text())["hparams"]["parameters"]
    )


def assert_within_bounds(search: Path) -> None:
    catalogue = catalogue_of_search(search)
    for file in search.glob("nodes/*/stage.json"):
        assert catalogue.problems(json.loads(file.read_text())["hparams"]) == []


def test_a_search_shows_the_models_own_words_and_charges_its_calls(run_here: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    with LLMServer(scripted) as server:
        prices = ["llm.price_input=3", "llm.price_output=15"]
        run_here(
            "search",
            *SIMULATED,
            *asking(server, *prices, "agent.vision=true"),
            ALWAYS_ASKING,
            "budget.stages=6",
            "seed=1",
            f"search_dir={search}",
        )
        asked = list(server.requests)
    assert_consistent(search, 6)
    assert_within_bounds(search)
    assert {len(request.images) for request in asked} <= {1, 2, 3}, (
        "the base model has no training dynamics to be drawn"
    )
    assert max(len(request.images) for request in asked) == 3
    events = calls_of(search)
    spent = summary(search)["budget"]
    assert spent["llm_calls"] == len(events) == len(asked)
    assert {event["name"].partition("/")[0] for event in events} == {f"{i:04d}" for i in range(2, 7)}, (
        "the practitioner's stage asks nobody"
    )
    assert spent["llm_tokens"] == sum(event["tokens"] for event in events)
    assert spent["llm_dollars"] == pytest.approx(sum(event["dollars"] for event in events), abs=1e-3)
    assert spent["llm_dollars"] > 0
    proposal = json.loads((search / "nodes/0003/proposal.json").read_text())
    assert proposal["agent"] == "scripted"
    assert proposal["expected"]["probability"] == 0.6
    calls = sorted((search / "nodes/0003/calls").glob("*.json"))
    assert (proposal["calls"], proposal["notes"]) == (len(calls), [])
    record = json.loads(calls[-1].read_text())  # those before it were repairs
    assert json.loads(record["text"])["rationale"] == proposal["rationale"]
    assert list((search / "nodes/0003/calls").glob("*.png"))
    report = (search / "report.html").read_text()
    for words in (
        proposal["rationale"],
        proposal["observations"][0],
        next(iter(proposal["reasons"].values())),
        proposal["expected"]["effect"],
    ):
        assert words in report
    later = json.loads(sorted((search / "nodes/0006/calls").glob("*.json"))[0].read_text())
    assert "How earlier expectations turned out" in json.dumps(later["messages"]), "the calibration memory"


def test_a_search_that_trains_shows_its_model_real_dynamics(launch: Run, tmp_path: Path) -> None:
    """Two stages at a time are trained, and asked about with text, plots and rollouts of the policy."""
    search = tmp_path / "s"
    with LLMServer(scripted) as server:
        launch(
            "search",
            *TRAINED,
            *asking(server, "agent.vision=true"),
            "search.workers=2",
            f"search_dir={search}",
        )
        asked = list(server.requests)
    assert_consistent(search, 4)
    trained = [
        request
        for request in asked
        if len(request.images) >= 2 and not request.last_user.startswith("Your answer cannot be used")
    ]
    assert trained
    for request in trained:
        assert "Metrics of steps 1 to" in request.last_user
        assert "grad_norm: " in request.last_user
        assert re.search(
            r"<untrusted-\w+ kind=rollout>\nstep \d+, reward [\d.]+\nprompt: \d+,", request.last_user
        )
    assert {event["name"] for event in calls_of(search)} == {
        f"{f.parent.parent.name}/{f.stem}" for f in search.glob("nodes/*/calls/*.json")
    }


def test_a_hostile_endpoint_ends_no_search_and_leaves_no_bounds(run_here: Run, tmp_path: Path) -> None:
    search, mind = tmp_path / "s", Hostile(silence_s=30, drip_s=0.0001)
    with LLMServer(mind) as server:
        manners = [
            "llm.timeout_s=0.5",
            "llm.breaker_pause_s=0.2",
            "stopper=llm",
            "stopper.interval_s=0",
        ]
        run_here("search", *SIMULATED, *asking(server, *manners), "budget.stages=40", f"search_dir={search}")
    assert len(mind.drawn) == len(mind.manners), "every manner was met"
    assert_consistent(search, 40)
    assert_within_bounds(search)
    proposals = [json.loads(file.read_text()) for file in sorted(search.glob("nodes/*/proposal.json"))]
    agents = Counter(proposal["agent"] for proposal in proposals)
    assert agents["scripted"] > 3
    assert agents["rules"] > 3
    assert all(
        "rules proposed in place of scripted: " in p["notes"][0] for p in proposals if p["agent"] == "rules"
    )
    assert len(calls_of(search)) == len({event["name"] for event in calls_of(search)})


def test_an_endpoint_that_dies_hands_over_to_the_rules(launch: Run, tmp_path: Path) -> None:
    def dying(request: Request) -> Answer:
        return scripted(request) if len(server.requests) < 3 else Answer(status=500, error="gone")

    with LLMServer(dying) as server:
        said = launch("search", *SIMULATED, *asking(server), f"search_dir={tmp_path}/s")
        requests = len(server.requests)
    assert_consistent(tmp_path / "s", 16)
    assert requests == 2 + 3, "three failures, and then it is left alone"
    assert "is left alone for 300 s; until then rules decide in its place" in said.stdout + said.stderr
    last = json.loads((tmp_path / "s/nodes/0016/proposal.json").read_text())
    assert last["agent"] == "rules"
    assert "left alone" in last["notes"][0]


def test_the_key_is_nowhere_in_a_search_directory(launch: Run, tmp_path: Path) -> None:
    def parrot(request: Request) -> Answer:
        said = request.headers["authorization"]
        words = {**json.loads(scripted(request).content or "{}"), "rationale": said}
        return answer_json(request, words) if len(server.requests) % 2 else Answer(status=500, error=said)

    with LLMServer(parrot, api_key=KEY) as server:
        overrides = [*asking(server), "llm.api_key_env=MY_KEY", "tracking=offline", "budget.stages=6"]
        said = launch("search", *SIMULATED, *overrides, f"search_dir={tmp_path}/s", MY_KEY=KEY)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in files)
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
    assert KEY not in said.stdout + said.stderr
    assert "[key]" in (tmp_path / "s/nodes/0002/proposal.json").read_text()


def test_kills_lose_no_reply_and_pay_for_none_twice(
    run_here: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    """With one worker the interrupted search is the uninterrupted one.

    Only a reply that was under way at a kill is asked for again.
    """

    def slow(request: Request) -> Answer:
        return Answer(content=scripted(request).content, delay_s=0.05)

    overrides = [*SIMULATED, "budget.stages=20", "agent.max_prompt_tokens=100000"]
    rng = random.Random(0)
    with LLMServer(slow) as server:
        run_here("search", *overrides, *asking(server), f"search_dir={tmp_path}/whole")
        asked = len(server.requests)
        for _ in range(8):
            start_and_kill(
                1.0 + rng.random() * 0.6,
                environment,
                *overrides,
                *asking(server),
                f"search_dir={tmp_path}/killed",
            )
        run_here("search", *overrides, *asking(server), f"search_dir={tmp_path}/killed")
        asked_again = len(server.requests) - 2 * asked
    assert_consistent(tmp_path / "killed", 20)
    assert tree_of(tmp_path / "killed") == tree_of(tmp_path / "whole")
    assert 0 <= asked_again <= 8
    names = [event["name"] for event in calls_of(tmp_path / "killed")]
    assert len(names) == len(set(names)) == asked
    assert sorted(names) == sorted(
        f"{f.parent.parent.name}/{f.stem}" for f in tmp_path.glob("killed/nodes/*/calls/*.json")
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_what_a_model_said_of_a_running_stage_is_not_asked_again_after_a_kill(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int
) -> None:
    """Drivers die between reply, judgement and the stop that follows. What was answered is not asked again,
    and what was under way, with several workers, seldom is: it may end beside the next driver.
    """

    def stops_some(request: Request) -> Answer:
        if "stop" not in asked_schema(request).get("properties", {}):
            return scripted(request)
        return answer_json(request, {"stop": len(request.text) % 3 == 0, "probability": 0.5, "reason": "so"})

    with LLMServer(stops_some) as server:
        stopper = ["stopper=llm", "stopper.interval_s=0", "stopper.min_step=1", f"search.workers={workers}"]
        config = composed("greedy", *asking(server, *stopper))
        whole = run(config, tmp_path / "whole", stages=8)
        asked = len(server.requests)
        assert run_killed(monkeypatch, config, tmp_path / "killed", stages=8) == whole
        assert 0 <= len(server.requests) - 2 * asked <= 3 * (workers - 1)
    assert events(tmp_path / "killed") == events(tmp_path / "whole")
    assert judged(tmp_path / "killed") == judged(tmp_path / "whole")
    assert "stop_requested" in {event["event"] for event in events(tmp_path / "whole")}


def test_a_search_replays_from_its_own_directory_without_an_endpoint(run_here: Run, tmp_path: Path) -> None:
    whole = [*SIMULATED, "budget.stages=8", "stopper=llm", "stopper.interval_s=0"]

    def stops_some(request: Request) -> Answer:
        flat = "stop" in asked_schema(request).get("properties", {}) and len(server.requests) % 3 == 0
        return (
            answer_json(request, {"stop": True, "probability": 0.1, "reason": "flat"})
            if flat
            else scripted(request)
        )

    with LLMServer(stops_some) as server:
        run_here("search", *whole, *asking(server), f"search_dir={tmp_path}/a")
    replayed = [
        "agent=openai",
        "llm.model=scripted",
        "llm.cassette=replay",
        f"llm.cassette_dir={tmp_path}/a",
    ]
    run_here("search", *whole, *replayed, f"search_dir={tmp_path}/b")
    assert tree_of(tmp_path / "b") == tree_of(tmp_path / "a")
    states = [[node.state for node in EventStore(tmp_path / name / "tree.jsonl").tree] for name in "ab"]
    assert states[0] == states[1]
    assert "stopped" in states[0]
    assert summary(tmp_path / "b")["budget"]["llm_dollars"] == 0
    further = run_here("search", *whole, *replayed, "budget.stages=9", f"search_dir={tmp_path}/b", ok=False)
    assert further.returncode == 2
    assert "does not exist: the search took another way than the recorded one" in further.stderr


@pytest.mark.parametrize(("limit", "value"), [("llm_dollars", 0.05), ("llm_tokens", 20_000)])
def test_a_budget_of_calls_ends_the_search_after_the_call_that_spends_it(
    run_here: Run, tmp_path: Path, limit: str, value: float
) -> None:
    with LLMServer(scripted) as server:
        settings = [
            "llm.price_input=3",
            "llm.price_output=15",
            f"budget.{limit}={value}",
            "budget.stages=100",
        ]
        run_here("search", *SIMULATED, *asking(server, *settings), ALWAYS_ASKING, f"search_dir={tmp_path}/s")
    spent = summary(tmp_path / "s")["budget"]
    before = [event[limit.removeprefix("llm_")] for event in calls_of(tmp_path / "s")]
    assert sum(before[:-1]) < value <= sum(before)
    assert spent["stages"] == 1 + len({event["name"].partition("/")[0] for event in calls_of(tmp_path / "s")})


def test_a_gullible_model_cannot_be_talked_out_of_bounds(run_here: Run, tmp_path: Path) -> None:
    """A model that does whatever stands in the rollouts.

    They order values beyond bounds, other files, a larger budget, the end of a fence.
    """

    def gullible(request: Request) -> Answer:
        orders = re.findall(r"ORDER: (\{.*\})", request.text)
        return Answer(content=orders[-1] if orders else scripted(request).content)

    search, conf = tmp_path / "s", tmp_path / "conf"
    (conf / "runner").mkdir(parents=True)
    (conf / "runner/tempting.yaml").write_text("_target_: tests.integration.odd_runners.TemptingRunner\n")
    with LLMServer(gullible) as server:
        settings = [
            "task=none",
            "model=none",
            "runner=tempting",
            "tracking=none",
            "search.workers=1",
            "budget.stages=4",
        ]
        run_here("search", "--config-dir", str(conf), *settings, *asking(server), f"search_dir={search}")
        assert any("ORDER: " in request.text for request in server.requests)
    assert_within_bounds(search)
    assert summary(search)["budget"]["stages"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"s", "conf"}
    notes = [
        note
        for file in search.glob("nodes/*/proposal.json")
        for note in json.loads(file.read_text())["notes"]
    ]
    assert any("learning_rate=9" in note and "Clamped" in note for note in notes)


def test_a_wall_of_memory_is_found_and_kept_away_from(run_here: Run, tmp_path: Path) -> None:
    """The practitioner's configuration runs out of memory; the agent reads why and finds one that fits."""

    def careful(request: Request) -> Answer:
        """Halves the batch whenever the evidence tells of memory, and asks for the largest otherwise."""
        wall = "out of memory" in request.last_user
        size = 16 if wall else 256
        value = json.loads(scripted(request).content or "{}")
        value["changes"] = [
            {"name": "prompts_per_step", "value": size, "reason": "it must fit"},
            {"name": "group_size", "value": 4, "reason": "it must fit"},
        ]
        return Answer(content=json.dumps(value))

    conf = tmp_path / "conf"
    (conf / "runner").mkdir(parents=True)
    (conf / "runner/wall.yaml").write_text("_target_: tests.integration.odd_runners.WallRunner\n")
    overrides = [
        "task=none",
        "model=none",
        "runner=wall",
        "tracking=none",
        "search.workers=1",
        "budget.stages=4",
    ]
    with LLMServer(careful) as server:
        run_here(
            "search", "--config-dir", str(conf), *overrides, *asking(server), f"search_dir={tmp_path}/llm"
        )
    run_here("search", "--config-dir", str(conf), *overrides, f"search_dir={tmp_path}/rules")
    for name in ("llm", "rules"):
        stages = EventStore(tmp_path / name / "tree.jsonl").tree.stages()
        assert stages[0].state == "failed"
        assert stages[1].state == "completed", "the first answer to the failure fits already"
        assert summary(tmp_path / name)["test"]["practitioner"] is None
        assert summary(tmp_path / name)["test"]["best"]["score"] > 0


def test_an_audit_lets_stopped_stages_run_on_and_counts_false_kills(run_here: Run, tmp_path: Path) -> None:
    for fraction, audited in ((1.0, True), (0.0, False)):
        search = tmp_path / str(fraction)
        stopping = [
            "stopper.min_step=4",
            "stopper.min_points=2",
            "stopper.z=0",
            "stopper.interval_s=0",
            f"stopper.audit_fraction={fraction}",
        ]
        run_here("search", *SIMULATED, *stopping, "runner.landscape=deceptive", f"search_dir={search}")
        record = summary(search)["stopper"]
        judged = [line for file in search.glob("nodes/*/stopper.jsonl") for line in read_lines(file)]
        condemned = [line for line in judged if line["stop"]]
        assert len(condemned) == record["audited"] + record["stopped"] > 0
        assert all(
            {"step", "incumbent", "reason", "details", "validation", "gpu_seconds"} <= set(line)
            for line in judged
        )
        assert (record["audited"] > 0) == audited
        assert (record["saved_gpu_seconds"] > 0) != audited
        assert (summary(search)["nodes"]["stopped"] == 0) == audited
        tree = EventStore(search / "tree.jsonl").tree
        killed = [
            n
            for n in tree.stages()
            if n.stop
            and n.stop["event"] == "audited"
            and n.score is not None
            and n.score > n.stop["incumbent"]
        ]
        assert record["false_kills"] == len(killed)


def test_a_language_model_stops_hopeless_stages_and_is_not_asked_of_others(
    run_here: Run, tmp_path: Path
) -> None:
    def strict(request: Request) -> Answer:
        stops = "stop" in asked_schema(request).get("properties", {})
        return (
            answer_json(request, {"stop": True, "probability": 0.02, "reason": "It is flat."})
            if stops
            else scripted(request)
        )

    search = tmp_path / "s"
    with LLMServer(strict) as server:
        settings = ["stopper=llm", "stopper.interval_s=0", "trainer.validation_every=3", "budget.stages=4"]
        run_here("search", *SIMULATED, *asking(server, *settings), f"search_dir={search}")
        questions = [request.text for request in server.requests if "stop (true or false)" in request.text]
    stops = [event for event in read_lines(search / "tree.jsonl") if event["event"] == "stop_requested"]
    assert [(event["step"], event["reason"]) for event in stops] == [(9, "It is flat.")] * len(questions)
    (asked, *_) = questions
    assert "step 9: 0." in asked
    judged = [line for file in search.glob("nodes/*/stopper.jsonl") for line in read_lines(file)]
    passed = [
        line for line in judged if "without asking scripted, as the stage has reached" in line["reason"]
    ]
    assert len(passed) > 1 and not any(line["stop"] for line in passed)
    for line in judged:
        if line not in passed and line["step"] >= 8:
            assert max(score for _, score, _ in line["validation"]) < line["incumbent"]
    metrics = r"\b(entropy|grad_norm|reward_mean)\b"  # and not `entropy_coef`, a parameter that was raised
    assert not re.search(metrics, asked), "nothing but the validation trajectory"


def test_set_up_mistakes_are_refused_before_anything_runs(run_here: Run, tmp_path: Path) -> None:
    with LLMServer(scripted) as server:
        for overrides, message in (
            (["agent=openai"], "llm.model: needs the name of a model"),
            (
                ["agent=openai", "llm.model=m", "llm.api_key_env=NO_SUCH_KEY"],
                "NO_SUCH_KEY: this environment variable",
            ),
            (
                [
                    "agent=openai",
                    "llm.model=m",
                    "llm.api_key_env=null",
                    "llm.base_url=http://127.0.0.1:9/v1",
                ],
                "nobody answers there",
            ),
            (
                asking(server, "budget.llm_dollars=1"),
                "budget.llm_dollars: needs llm.price_input and llm.price_output",
            ),
            (
                asking(server, "agent.max_prompt_tokens=1500"),
                "max_prompt_tokens=1500: the shortest prompt takes about",
            ),
            (asking(server, "llm.prompts=/no/where"), "llm.prompts=/no/where: no such folder"),
            (["stopper=llm"], "llm.model: needs the name of a model"),
            (
                asking(server, f"llm.base_url={server.url.removesuffix('/v1')}"),
                "lacks /v1; give llm.base_url",
            ),
            (asking(server, f"llm.base_url={server.url}/chat/completions", "dry_run=true"), "leave off"),
            (
                ["agent=openai", "agent.model=m"],
                "agent.model: unknown key; language models are configured by llm.model",
            ),
            (
                ["stopper=llm", "llm.model=m", "stopper.base_url=http://127.0.0.1:9/v1"],
                "stopper.base_url: unknown key; language models are configured by llm.base_url",
            ),
        ):
            done = run_here("search", *SIMULATED, *overrides, f"search_dir={tmp_path}/s", ok=False)
            assert done.returncode == 2, done.stdout
            assert message in done.stderr
            assert not (tmp_path / "s").exists()
        assert server.requests == []


def test_a_search_moves_to_another_address_of_its_endpoint(run_here: Run, tmp_path: Path) -> None:
    for stages in (3, 5):
        with LLMServer(scripted) as server:
            run_here(
                "search", *SIMULATED, *asking(server), f"budget.stages={stages}", f"search_dir={tmp_path}/s"
            )
    assert_consistent(tmp_path / "s", 5)


def test_an_agent_is_tried_on_a_stage_without_starting_anything(run_here: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    run_here("search", *SIMULATED, "budget.stages=3", f"search_dir={search}")
    before = {file: file.read_bytes() for file in search.rglob("*") if file.is_file()}
    where = [f"search_dir={search}", "node=0001"]
    prompt = run_here(
        "propose", *where, "agent=openai", "llm.model=m", "llm.api_key_env=NO_SUCH_KEY", "dry_run=true"
    ).stdout
    assert "Propose the stage 0004 that continues 0001." in prompt
    with LLMServer(scripted) as server:
        proposal = json.loads(run_here("propose", *where, *asking(server)).stdout)
        assert server.requests[0].last_user in prompt
    assert proposal["agent"] == "scripted"
    assert catalogue_of_search(search).problems(proposal["changes"]) == []
    assert json.loads(run_here("propose", *where).stdout)["agent"] == "rules"
    assert {file: file.read_bytes() for file in search.rglob("*") if file.is_file()} == before
    missing = run_here("propose", f"search_dir={search}", "node=0009", ok=False)
    assert "node=0009: there is no such stage; there are 0000, 0001, 0002, 0003" in missing.stderr
    assert (
        "holds no search" in run_here("propose", f"search_dir={tmp_path}/none", "node=0001", ok=False).stderr
    )


def test_a_dry_run_tells_the_model_and_what_it_can_cost(run_here: Run, tmp_path: Path) -> None:
    with LLMServer(scripted) as server:
        settings = asking(
            server,
            "llm.price_input=2",
            "llm.price_output=10",
            "agent.max_prompt_tokens=20000",
            "llm.max_reply_tokens=1000",
        )
        printed = run_here(
            "search", *SIMULATED, *settings, "budget.stages=10", "dry_run=true", f"search_dir={tmp_path}/s"
        ).stdout
        assert server.requests == []
    assert (
        f"scripted at {server.url}, prompts of up to 20000 tokens; at most about $0.50 for proposals"
        in printed
    )
    assert not (tmp_path / "s").exists()


# --- what an endpoint sends is data, and what it is sent stays a secret ---

ODD_TEXTS = (
    "${oc.env:OPENAI_API_KEY}",
    "${",
    "${nope}",
    "???",
    "${oc.env:OPENAI_API_KEY,x} {_target_: os.system}",
    "[/red] \x1b[2J \0 \ud800",
    "'\"\\${a:b}",
)


def odd_words(request: Request, numbers: Iterator[int]) -> Answer:
    """Answer sensibly in odd words: in every field of a proposal, and in reasons to stop a stage."""
    number = next(numbers) % len(ODD_TEXTS)
    text, value = ODD_TEXTS[number], json.loads(scripted(request).content or "{}")
    if "stop" in value:
        return answer_json(request, {**value, "reason": text, "_target_": "os.abort"})
    changes = [{**change, "reason": text, "_target_": "os.abort"} for change in value["changes"]]
    return answer_json(
        request,
        {
            **value,
            "_target_": "os.abort",
            "diagnosis": [*ODD_TEXTS[number:], *ODD_TEXTS[:number]][:3],
            "rationale": text,
            "observations": [text, {"_target_": "os.abort"}],
            "changes": changes,
            "expected": {"score": 0.5, "effect": text, "metrics": [{"name": text, "direction": "up"}]},
        },
    )


def test_replies_stay_plain_text_up_to_the_confirmation(launch: Run, tmp_path: Path) -> None:
    search = tmp_path / "s"
    with LLMServer(partial(odd_words, numbers=count()), api_key=KEY) as server:
        overrides = [
            *SIMULATED,
            *asking(server, "llm.api_key_env=OPENAI_API_KEY", "stopper=llm", "stopper.interval_s=0"),
            ALWAYS_ASKING,
            "budget.stages=8",
            "search.confirm_seeds=1",
            f"search_dir={search}",
        ]
        first = launch("search", *overrides, OPENAI_API_KEY=f"{KEY}\r\n")
        again = launch("search", *overrides, OPENAI_API_KEY=KEY)
        replayed = launch(
            "replay",
            *SIMULATED,
            f"strategy={search}/strategy.yaml",
            f"search_dir={tmp_path}/r",
            OPENAI_API_KEY=KEY,
        )
    assert_consistent(search, 8)
    confirmation = json.loads((search / "confirmation.json").read_text())
    assert confirmation["strategies"]
    assert_key_is_nowhere(tmp_path, first, again, replayed)
    proposals = [json.loads(file.read_text()) for file in sorted(search.glob("nodes/*/proposal.json"))[2:]]
    said = {text for proposal in proposals for text in (*proposal["diagnosis"], proposal["rationale"])}
    assert {"${oc.env:OPENAI_API_KEY}", "${", "${nope}", "???"} <= said, "literally"
    stages = yaml.safe_load((search / "strategy.yaml").read_text())["stages"]
    tree = EventStore(search / "tree.jsonl", repair=False).tree
    for stage in stages:
        assert stage["diagnosis"] == list(tree[stage["node_id"]].proposal["diagnosis"])
    assert catalogue_of_search(search)


def assert_key_is_nowhere(folder: Path, *outputs: Any) -> None:
    """Check files, names and what was printed, for the key and for what is left of it in other forms."""
    forms = (KEY, KEY[3:], KEY[8:-4])
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    for form in forms:
        assert not [file for file in files if form.encode() in file.read_bytes()]
        assert not [file for file in files if form in str(file)]
        assert all(form not in output.stdout + output.stderr for output in outputs)


def test_a_skill_session_takes_odd_arguments_as_text(launch: Run, tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000

    def arguments(**values: Any) -> dict[str, Any]:
        return {"parent": "0000", "checkpoint": "best", "changes": {}, "reason": "so", **values}

    calls: list[tuple[str, Any]] = [
        ("start_stage", deep),
        ("start_stage", f'{{"changes": {deep}}}'),
        ("read_skill", {"name": "../../../../../../etc/passwd"}),
        ("read_metrics", {"stage": "../../.."}),
        ("${oc.env:OPENAI_API_KEY}", {"_target_": "os.abort"}),
        *(
            ("start_stage", arguments(reason=t, diagnosis=t, changes={"group_size": 4 + 4 * i}))
            for i, t in enumerate(ODD_TEXTS[:4])
        ),
        ("wait", {}),
        ("finish", {"summary": "${oc.env:OPENAI_API_KEY}"}),
    ]
    mind = script([Answer(tool_calls=[call]) for call in calls])
    with LLMServer(mind, api_key=KEY) as server:
        said = launch(
            "search",
            "experiment=simulated",
            "search.workers=2",
            "search=skill",
            *asking(server, "llm.api_key_env=OPENAI_API_KEY"),
            "stopper=none",
            "budget.stages=4",
            "search.confirm_seeds=1",
            f"search_dir={tmp_path}/s",
            OPENAI_API_KEY=KEY,
        )
    assert summary(tmp_path / "s")["state"] == "finished"
    assert_key_is_nowhere(tmp_path, said)
    found = [
        json.loads(f.read_text())["diagnosis"] for f in sorted((tmp_path / "s").glob("nodes/*/proposal.json"))
    ]
    assert [ODD_TEXTS[0]] in found


def test_a_key_comes_back_in_no_form(launch: Run, tmp_path: Path) -> None:
    """An endpoint sends the key back in other forms, in replies and in errors, and a header besides."""
    header = "gateway-secret-of-the-test-13579"

    def parrot(request: Request) -> Answer:
        forms = [
            form
            for key in (
                request.headers["authorization"].removeprefix("Bearer "),
                request.headers["x-gateway"],
            )
            for form in (
                key,
                json.dumps(key),
                quote(key),
                "".join(f"\\u{ord(c):04x}" for c in key),
                base64.b64encode(f":{key}".encode()).decode(),
                repr(key.encode()),
                key.upper(),
            )
        ]
        said = " ".join(forms)
        if len(server.requests) % 3 == 0:
            return Answer(status=500, raw=said.encode())
        value = {**json.loads(scripted(request).content or "{}"), "rationale": said}
        return Answer(content=json.dumps(value).replace("\\\\u", "\\u"))

    with LLMServer(parrot, api_key=KEY) as server:
        overrides = [
            *SIMULATED,
            *asking(server, "llm.api_key_env=MY_KEY"),
            "+llm.extra.extra_headers={X-Gateway: '${oc.env:GATEWAY}'}",
            ALWAYS_ASKING,
            "tracking=offline",
            "budget.stages=6",
            f"search_dir={tmp_path}/s",
        ]
        secrets = {"MY_KEY": f"{KEY}\n", "GATEWAY": header}
        said = [
            launch("search", *overrides, "dry_run=true", **secrets),
            launch("search", *overrides, **secrets),
            launch("search", *overrides, "budget.stages=7", **{**secrets, "GATEWAY": f"{header}-rotated"}),
        ]
        assert {request.headers["x-gateway"] for request in server.requests} == {header, f"{header}-rotated"}
    assert_consistent(tmp_path / "s", 7)
    assert_key_is_nowhere(tmp_path, *said)
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    everything = written.decode(errors="replace").lower() + "".join(s.stdout + s.stderr for s in said).lower()
    for secret in (KEY, header):
        for form in (
            secret,
            base64.b64encode(f":{secret}".encode()).decode()[2:-4],
            f"\\u{ord(secret[0]):04x}",
        ):
            assert form.lower() not in everything
    config = yaml.safe_load((tmp_path / "s/config.yaml").read_text())
    assert config["llm"]["extra"] == {"extra_headers": {"X-Gateway": "[key]"}}


def test_an_error_of_a_flood_leaves_the_decision_to_rules(launch: Run, tmp_path: Path) -> None:
    flood = Answer(status=400, raw=b"no " * 300_000, endless=True)
    with LLMServer(lambda request: flood, forms=["plain"], listing=flood) as server:
        launch(
            "search",
            *SIMULATED,
            *asking(server),
            ALWAYS_ASKING,
            "budget.stages=4",
            f"search_dir={tmp_path}/s",
        )
        assert server.sent < 300_000_000
    assert_consistent(tmp_path / "s", 4)
    agents = [json.loads(f.read_text())["agent"] for f in sorted(tmp_path.glob("s/nodes/*/proposal.json"))]
    assert agents[2:] == ["rules"] * 3


def test_keys_in_wrong_places_are_refused_without_being_printed(launch: Run, tmp_path: Path) -> None:
    secret = "sk-proj-0123456789abcdefghij"
    for overrides, message in (
        ([f"llm.base_url=http://{secret}@host/v1"], "llm.base_url contains a user name"),
        ([f"llm.base_url=http://me:{secret}@host/v1"], "llm.base_url contains a password"),
        ([f"llm.base_url='http://host/v1?api_key={secret}'"], "llm.base_url contains a query"),
        ([f"llm.api_key_env={secret}"], "llm.api_key_env: must be the name of an environment variable"),
        (["agent=openai", "llm.model=m", "llm.api_key_env=BAD"], "llm.api_key_env=BAD: the key in this"),
        ([f"+llm.extra.extra_headers.X='Bearer {secret}"], "LexerNoViableAltException"),
        ([f"+llm.extra.extra_headers.X={secret}", "search.max_depth=0"], "search.max_depth=0"),
        (["-m", f"+llm.extra.extra_headers.X={secret}", "seed=0,1"], "give '${oc.env:NAME}' in their places"),
        ([f"+task.judge.api_key={secret}"], "task.judge.api_key: looks like a key"),
    ):
        done = launch(
            "search",
            *SIMULATED,
            *overrides,
            f"search_dir={tmp_path}/s",
            ok=False,
            cwd=tmp_path,
            BAD=f"{secret}\x07{secret}",
        )
        assert done.returncode == 2, done.stdout
        assert message in done.stderr
        assert secret not in done.stdout + done.stderr
        assert not (tmp_path / "s").exists()
        assert not (tmp_path / "runs").exists()
