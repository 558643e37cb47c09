"""vLLM inside the trainer's processes: every process, or every group of `tensor_parallel` of them, has an
engine of its own.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty
from typing import Any, TypeVar

import torch
from torch import distributed as dist

from llmzero.core.errors import UserError
from llmzero.rollout.base import FinishReason, Rollouts, Sampling, Weights, prompt_seeds
from llmzero.rollout.one_thread import OneThread
from llmzero.rollout.settings import VllmEngineSettings

# What vLLM reads while it is imported. Its engine runs in our process, where the weights are; it tells nobody
# of its use.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
GIB = 2**30
T = TypeVar("T")
AUTO = -1  # vLLM's word for the longest sequence that both model and memory allow


class VllmEngine:
    """Samples with vLLM in the trainer's own process; weights are handed over layer by layer, without a
    file.

    One thread makes all calls to vLLM from its start to its end, and no other. vLLM moves a thread that asks
    for its stream to one of its own, and keeps it: for NCCL, for CUDA graphs, for copies of what was sampled.
    The trainer's thread stays on the stream that it computes on. And a call that hangs can be told.

    Raises:
        UserError: vLLM is not installed.
    """

    def __init__(self, settings: VllmEngineSettings) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                "rollout=vllm: vLLM is not installed; pip install 'llmzero[gpu]', or choose rollout=torch"
            )
        self.settings = settings
        self._llm: Any = None
        self._eos_ids: list[int] = []
        self._asleep = False
        self._thread: OneThread | None = None

    def start(self, weights: Weights) -> None:
        """Build the engine around the architecture in `weights.directory` and hand the current weights over.

        Raises:
            UserError: the stage has not the processes that `rollout.tensor_parallel` asks for.
        """
        size = dist.get_world_size() if dist.is_initialized() else 1
        if size % self.settings.tensor_parallel:
            raise UserError(
                f"rollout.tensor_parallel={self.settings.tensor_parallel}: the stage has {size} process(es), "
                f"not a multiple of it; "
                f"start as many with torchrun --nproc-per-node, or set rollout.tensor_parallel=1"
            )
        self._eos_ids = weights.eos_ids
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with _process_kept():
            from vllm.platforms import current_platform

            if not torch.cuda.is_available():
                current_platform.simple_compile_backend = (
                    "eager"  # one small function is not worth half a minute of a C++ compiler
                )
            from vllm import LLM
        self._thread = OneThread()
        self._call(self._build, LLM, self._arguments(weights, size))
        self.load_weights(weights)

    def _call(self, function: Callable[..., T], *arguments: Any, timeout_s: float | None = None) -> T:
        """Call vLLM in its thread."""
        assert self._thread is not None
        return self._thread.call(function, *arguments, timeout_s=timeout_s)

    def _build(self, made: Callable[..., Any], arguments: dict[str, Any]) -> None:
        with _process_kept():
            self._llm = made(**arguments)
        self._llm.llm_engine.engine_core._finalizer.detach()  # it would destroy the trainer's process group

    def renew(self, weights: Weights) -> None:
        """Get ready to sample for another stage of the same architecture, which spares it a start."""
        self._eos_ids = weights.eos_ids
        self.load_weights(weights)

    def _arguments(self, weights: Weights, size: int) -> dict[str, Any]:
        cuda = torch.cuda.is_available()
        arguments: dict[str, Any] = {
            "model": weights.directory,
            "skip_tokenizer_init": True,
            "trust_remote_code": False,
            "load_format": "dummy",  # the current weights are handed over
            "dtype": str(weights.model.dtype).removeprefix("torch."),
            "logprobs_mode": "processed_logprobs",
            "tensor_parallel_size": self.settings.tensor_parallel,
            "gpu_memory_utilization": self.settings.gpu_memory_utilization,
            "kv_cache_memory_bytes": None if cuda else round(self.settings.cpu_kv_cache_gib * GIB),
            "max_model_len": self.settings.max_model_len or AUTO,
            "max_num_seqs": self.settings.max_num_seqs,
            "enforce_eager": self.settings.enforce_eager or not cuda,
            "enable_sleep_mode": cuda,
        }
        if size > 1:
            os.environ["RANK"] = str(dist.get_rank())
            arguments["distributed_executor_backend"] = "external_launcher"
        return arguments

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        """Return `sampling.n` completions for each prompt.

        The processes of a tensor parallel group sample their prompts together: all of them call this, each
        returns its own share.

        Raises:
            TimeoutError: a step of the engine took longer than `rollout.timeout_s`.
            UserError: a prompt and the longest completion do not fit into `rollout.max_model_len`.
        """
        own = list(zip(prompts, request_seeds(sampling, prompts), strict=True))
        shares, rank = self._shares(own)
        requests = [request for share in shares for request in share]
        self._check_lengths([prompt for prompt, _ in requests], sampling)
        answers = self._run(requests, sampling)
        first = sum(map(len, shares[:rank]))
        completions = [completion for answer in answers[first : first + len(own)] for completion in answer]
        return rollouts_of(prompts, completions, self._eos_ids, sampling.n)

    def _shares(self, own: list[Any]) -> tuple[list[list[Any]], int]:
        """Return what every process of the tensor parallel group wants sampled, and which of them we are."""
        if self.settings.tensor_parallel == 1:
            return [own], 0
        from vllm.distributed.parallel_state import get_tp_group

        group = get_tp_group()
        shares: list[Any] = [None] * self.settings.tensor_parallel
        dist.all_gather_object(shares, own, group=group.cpu_group)
        return shares, int(group.rank_in_group)

    @property
    def longest(self) -> int:
        """Tokens of a prompt and its completion that the engine holds; known once it was started."""
        return int(self._llm.llm_engine.vllm_config.model_config.max_model_len)

    def _check_lengths(self, prompts: Sequence[list[int]], sampling: Sampling) -> None:
        limit = self.longest
        longest = max(map(len, prompts), default=0)
        if longest + sampling.max_tokens > limit:
            raise UserError(
                f"rollout.max_model_len={self.settings.max_model_len}: the engine holds {limit} tokens, "
                f"but a prompt of {longest} and a completion of {sampling.max_tokens} need "
                f"{longest + sampling.max_tokens}; raise rollout.max_model_len as far as the model allows, "
                "give the cache more memory, or lower max_completion_length and trainer.validation_max_tokens"
            )

    def _run(self, requests: Sequence[tuple[list[int], int]], sampling: Sampling) -> list[list[Completion]]:
        """Return the completions of every request."""
        self._call(self._submit, requests, sampling)
        answers: list[list[Completion]] = [[] for _ in requests]
        while (finished := self._step()) is not None:
            for output in finished:
                answers[int(output.request_id)] = [
                    Completion(list(c.token_ids), list(c.logprobs.logprobs)) for c in output.outputs
                ]
        return answers

    def _submit(self, requests: Sequence[tuple[list[int], int]], sampling: Sampling) -> None:
        # What was generated before shall not matter, not even by a rounding error.
        self._llm.reset_prefix_cache()
        for i, (prompt, seed) in enumerate(requests):
            self._llm.llm_engine.add_request(
                str(i), {"prompt_token_ids": prompt}, self._parameters(sampling, seed)
            )

    def _step(self) -> list[Any] | None:
        """Return the requests that the engine's next step has finished; None where none was left."""
        engine = self._llm.llm_engine

        def step() -> list[Any] | None:
            return engine.step() if engine.has_unfinished_requests() else None

        try:
            return self._call(step, timeout_s=self.settings.timeout_s)
        except Empty:
            raise TimeoutError(
                f"rollout.timeout_s={self.settings.timeout_s}: a step of vLLM did not end for so long: "
                "a hang, or not time enough"
            ) from None

    def _parameters(self, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            seed=seed,
            max_tokens=sampling.max_tokens,
            stop_token_ids=self._eos_ids,
            ignore_eos=True,  # the policy says what ends a completion, not the files beside the weights
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def release(self) -> None:
        """Release the GPU memory, weights included: new ones follow. A CPU's vLLM cannot."""
        if torch.cuda.is_available() and not self._asleep:
            self._call(self._llm.sleep, 2)
            self._asleep = True

    def load_weights(self, weights: Weights) -> None:
        """Load the policy's weights, a layer at a time; the memory of the key-value cache comes back after
        that.
        """
        self._call(self._load, weights)

    def _load(self, weights: Weights) -> None:
        _await_the_gpu()  # the update that has made them, on another stream
        if self._asleep:
            self._llm.wake_up(["weights"])
        self._llm.collective_rpc(reload, kwargs={"weights_iterator": weights.tensors()})
        if self._asleep:
            self._llm.wake_up(["kv_cache"])
            self._asleep = False
        _await_the_gpu()  # before others write to what is read here

    def close(self) -> None:
        """Free the engine's memory; one that hangs is left alone."""
        if self._thread is None:
            return
        if self._llm is not None and not self._thread.busy:
            self._call(self._llm.llm_engine.model_executor.shutdown)
        self._thread.end()
        self._thread = self._llm = None


@dataclass(frozen=True)
class Completion:
    """The tokens of one completion and their log-probs."""

    tokens: list[int]
    logprobs: list[float]


def request_seeds(sampling: Sampling, prompts: Sequence[list[int]]) -> list[int]:
    """Return each prompt's own seed; vLLM counts up from it for the n completions."""
    return [seed >> 1 for seed in prompt_seeds(sampling, prompts)]


def rollouts_of(
    prompts: Sequence[list[int]], completions: Sequence[Completion], eos_ids: Sequence[int], n: int
) -> Rollouts:
    """Put completions into the form that the trainer takes.

    Raises:
        RuntimeError: there are fewer than were asked for, or empty ones, as where vLLM gave a request up.
    """
    if len(completions) != n * len(prompts) or any(
        not c.tokens or len(c.tokens) != len(c.logprobs) for c in completions
    ):
        raise RuntimeError(
            f"vLLM did not finish all {n * len(prompts)} completions of {len(prompts)} prompts"
        )
    reasons: list[FinishReason] = ["stop" if c.tokens[-1] in eos_ids else "length" for c in completions]
    return Rollouts(
        [list(p) for p in prompts],
        [c.tokens for c in completions],
        [c.logprobs for c in completions],
        reasons,
        n,
    )


def _await_the_gpu() -> None:
    """Wait until all streams of our GPU are done; a CPU has none."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def _process_kept() -> Iterator[None]:
    """Keep torch's number of threads, and the function that sets it: vLLM on a CPU takes both. Its imports
    warn of their own affairs.
    """
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.set_num_threads = setter
            torch.set_num_threads(threads)


def reload(worker: Any, **source: Any) -> None:
    """Give a vLLM worker new weights, from a `weights_iterator` or a `weights_path`.

    Raises:
        RuntimeError: some of the model's parameters are not among them. vLLM itself would leave those as they
            were.
    """
    model = worker.get_model()
    load, missing = model.load_weights, {name for name, _ in model.named_parameters()}

    def noted(weights: Any) -> set[str]:
        loaded: set[str] = load(weights)
        missing.difference_update(loaded)
        return loaded

    model.load_weights = noted
    try:
        worker.reload_weights(**source)
    finally:
        del model.load_weights
    if missing:
        raise RuntimeError(
            f"vLLM received no weights for {len(missing)} parameters of {type(model).__name__}, "
            f"{min(missing)} among them"
        )
    if not torch.cuda.is_available():
        _pack_shared(model)


def _pack_shared(model: Any) -> None:
    """Pack weights that two layers share for the second one too: on a CPU vLLM computes with packed copies,
    and renews the first one's alone.
    """
    seen: set[int] = set()
    for layer in model.modules():
        weight = layer._parameters.get("weight")
        if id(weight) in seen:
            layer.quant_method.process_weights_after_loading(layer)
        if weight is not None:
            seen.add(id(weight))
