"""All of vLLM's life is on one CUDA stream, which is not the trainer's.

There is no GPU here. torch.cuda is a stand-in that has streams as CUDA has them: each thread has a current
one, the default stream until it sets another. What asks for streams is vLLM's own code: `current_stream`, by
which NCCL and CUDA graphs get theirs, and the V2 runner's `main_stream`, on which copies of tokens wait.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from llmzero.rollout.base import Sampling
from llmzero.rollout.settings import VllmEngineSettings
from llmzero.rollout.vllm_engine import VllmEngine

DEFAULT = "the default stream"


class Cuda:
    """Streams as torch.cuda has them, and what was done in which order."""

    def __init__(self) -> None:
        self.local, self.done = threading.local(), []

    def stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.done.append(("waits for", other)))

    def current(self, _device: Any = None) -> Any:
        return getattr(self.local, "stream", DEFAULT)

    def set(self, stream: Any) -> None:
        self.local.stream = stream

    def note(self, what: str) -> None:
        self.done.append((what, threading.get_ident(), self.current(), getattr(self.local, "device", None)))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    from vllm import platforms
    from vllm.utils import torch_utils
    from vllm.v1.worker.gpu import model_runner  # noqa: F401 - whose imports ask for the real platform

    cuda = Cuda()
    stand_ins = {
        "is_available": lambda: True,
        "current_device": lambda: 3,
        "set_device": lambda device: setattr(cuda.local, "device", device),
        "synchronize": lambda: cuda.note("synchronize"),
        "Stream": cuda.stream,
        "current_stream": cuda.current,
        "set_stream": torch_utils._patched_set_stream,
    }
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch_utils, "prev_set_stream", cuda.set)
    monkeypatch.setattr(torch_utils, "_current_stream_tls", threading.local())
    platform = SimpleNamespace(is_cuda=lambda: True, is_rocm=lambda: False, is_cpu=lambda: False)
    monkeypatch.setattr(platforms, "current_platform", platform)
    return cuda


def stand_in_for_vllm(cuda: Cuda) -> type:
    """Return a class with the calls of vLLM's that we make, with vLLM's own arguments, which asks for streams
    where vLLM does.
    """
    from vllm import LLM
    from vllm.utils.torch_utils import current_stream
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    class Runner:
        device = "cuda:3"
        main_stream = GPUModelRunner.main_stream

    class Llm:
        def __init__(self, **arguments: Any) -> None:
            assert arguments["enable_sleep_mode"]
            self.runner, self.waiting = Runner(), []
            self.llm_engine = SimpleNamespace(
                engine_core=SimpleNamespace(_finalizer=SimpleNamespace(detach=lambda: None)),
                vllm_config=SimpleNamespace(model_config=SimpleNamespace(max_model_len=64)),
                model_executor=SimpleNamespace(shutdown=lambda: self.note("shutdown")),
                add_request=lambda name, *_: self.waiting.append(name),
                has_unfinished_requests=lambda: bool(self.waiting),
                step=self.step,
            )
            self.note("start")

        def note(self, what: str) -> None:
            cuda.note(what)
            assert current_stream() is self.runner.main_stream is cuda.current(), what

        def step(self) -> list[Any]:
            self.note("step")
            one = SimpleNamespace(token_ids=[5, 1], logprobs=SimpleNamespace(logprobs=[-0.1, -0.2]))
            return [SimpleNamespace(request_id=self.waiting.pop(0), outputs=[one])]

        def called(self, name: str, *given: Any, **named: Any) -> dict[str, Any]:
            return inspect.signature(getattr(LLM, name)).bind(self, *given, **named).arguments

        def reset_prefix_cache(self) -> None:
            self.called("reset_prefix_cache")
            self.note("reset")

        def sleep(self, *given: Any) -> None:
            self.note(f"sleep {self.called('sleep', *given)['level']}")

        def wake_up(self, *given: Any) -> None:
            self.note(f"wake {self.called('wake_up', *given)['tags']}")

        def collective_rpc(self, *given: Any, **named: Any) -> None:
            weights = self.called("collective_rpc", *given, **named)["kwargs"]["weights_iterator"]
            assert list(weights) == ["weights"]
            self.note("load")

    return Llm


class Weights:
    eos_ids = (1,)
    directory = "a model"
    model = SimpleNamespace(dtype=torch.bfloat16)

    def tensors(self) -> Iterator[str]:
        yield "weights"


def test_one_thread_and_one_stream_from_start_to_end(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm

    monkeypatch.setattr(vllm, "LLM", stand_in_for_vllm(cuda), raising=False)
    engine, weights = VllmEngine(VllmEngineSettings()), Weights()
    engine.start(weights)  # type: ignore[arg-type]
    for _ in range(2):
        rollouts = engine.generate([[2], [3]], Sampling(max_tokens=4, n=1))
        assert rollouts.completions == [[5, 1], [5, 1]]
        engine.release()
        engine.load_weights(weights)  # type: ignore[arg-type]
    engine.close()
    [order] = [[entry[0] for entry in cuda.done if entry[0] != "waits for"]]
    handed = ["synchronize", "wake ['weights']", "load", "wake ['kv_cache']", "synchronize"]
    turn = ["reset", "step", "step", "sleep 2", *handed]
    assert order == ["start", "synchronize", "load", "synchronize", *turn, *turn, "shutdown"]
    calls = [entry for entry in cuda.done if entry[0] not in ("waits for", "start")]
    assert len({thread for _, thread, _, _ in calls} | {threading.get_ident()}) == 2, "theirs, and ours"
    assert {device for _, _, _, device in calls} == {3}
    assert len({id(stream) for _, _, stream, _ in calls}) == 1
    assert cuda.current() == DEFAULT, "the trainer's thread computes where it did"
    assert ("waits for", DEFAULT) in cuda.done
