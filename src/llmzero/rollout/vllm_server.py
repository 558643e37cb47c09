"""vLLM in servers of their own, on other GPUs or machines: completions over HTTP, weights over a file system
that all can see.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist

from llmzero.core.errors import UserError
from llmzero.rollout.base import Rollouts, Sampling, Weights
from llmzero.rollout.settings import VllmServerSettings
from llmzero.rollout.vllm_calls import Call, demands_key, fetch
from llmzero.rollout.vllm_engine import Completion, reload, request_seeds, rollouts_of
from llmzero.rollout.vllm_key import RequireKey, key_of

CONNECTIONS = 64  # requests under way at one server at a time; each has a prompt and its n completions
SHARD_BYTES = 2**31  # weights in a file; what rank 0 holds in memory while it writes them


class VllmServerEngine:
    """Samples with servers that were started beforehand, each with the whole policy; docs/vllm.md has the
    command.

    Raises:
        UserError: no server was named.
    """

    def __init__(self, settings: VllmServerSettings) -> None:
        self.settings = settings
        self.urls = [url.rstrip("/") for url in settings.urls]
        if not self.urls:
            raise UserError(
                "rollout.urls=[]: name the servers to sample with, "
                "e.g. 'rollout.urls=[http://localhost:8000]'"
            )
        self.exchange_dir = Path(settings.exchange_dir).expanduser().absolute()
        self._key: str | None = None
        self._eos_ids: list[int] = []
        self.longest = 0  # tokens of a prompt and its completion that every server holds
        self._rank, self._distributed = (
            (dist.get_rank(), dist.get_world_size() > 1) if dist.is_initialized() else (0, False)
        )

    def start(self, weights: Weights) -> None:
        """Find the servers and hand them the current weights.

        Raises:
            UserError: one does not answer, or takes weights from anybody.
        """
        if self.settings.api_key_env is not None:
            self._key = key_of(self.settings.api_key_env, "rollout.api_key_env")
            self._check_doors()
        self._eos_ids = weights.eos_ids
        models = self._ask([Call(url, "/v1/models") for url in self.urls])
        self.longest = min(model["data"][0]["max_model_len"] for model in models)
        self.load_weights(weights)

    def _check_doors(self) -> None:
        if opened := [url for url in self.urls if not demands_key(url, self.settings.timeout_s)]:
            raise UserError(
                f"rollout.urls: {', '.join(opened)}: whoever reaches the port can give this server other "
                f"weights; start it with --middleware {RequireKey.__module__}.{RequireKey.__name__} "
                f"(docs/vllm.md), or set rollout.api_key_env=null where nobody else reaches it"
            )

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> Rollouts:
        """Return `sampling.n` completions for each prompt, from all servers at once.

        Raises:
            TimeoutError: no server answered anything for `rollout.timeout_s`.
            UserError: a prompt and the longest completion do not fit into what the servers hold.
        """
        longest = max(map(len, prompts), default=0)
        if longest + sampling.max_tokens > self.longest:
            raise UserError(
                f"rollout.urls: the servers hold {self.longest} tokens, but a prompt of {longest} and "
                f"a completion of {sampling.max_tokens} need {longest + sampling.max_tokens}; start them "
                "with a larger --max-model-len, or lower max_completion_length and "
                "trainer.validation_max_tokens"
            )
        seeds = request_seeds(sampling, prompts)
        calls = [
            Call(
                self.urls[(i + self._rank) % len(self.urls)],
                "/v1/completions",
                self._request(prompt, sampling, seed),
            )
            for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        choices = [
            choice
            for answer in self._ask(calls)
            for choice in sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        ]
        completions = [
            Completion(choice["token_ids"], choice["logprobs"]["token_logprobs"]) for choice in choices
        ]
        return rollouts_of(prompts, completions, self._eos_ids, sampling.n)

    def _request(self, prompt: list[int], sampling: Sampling, seed: int) -> dict[str, Any]:
        """Return the body of a request. It says everything that a server would else take from the model's
        generation config.
        """
        return {
            "prompt": prompt,
            "n": sampling.n,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": seed,
            "stop_token_ids": self._eos_ids,
            "ignore_eos": True,
            "logprobs": 0,
            "return_token_ids": True,
        }

    def release(self) -> None:
        """Do nothing: the servers' memory is not the trainer's."""

    def load_weights(self, weights: Weights) -> None:
        """Hand the policy's weights over: rank 0 writes them and tells the servers, the others wait."""
        if self._rank == 0:
            self.exchange_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="weights-", dir=self.exchange_dir) as directory:
                Path(directory).chmod(0o755)  # a server may run as another user
                _write(weights.tensors(), Path(directory))
                self._ask(
                    [
                        Call(url, "/collective_rpc", {"method": "take_weights", "args": [directory]})
                        for url in self.urls
                    ]
                )
            self._ask([Call(url, "/reset_prefix_cache", {}) for url in self.urls])
        else:
            for _ in weights.tensors():  # gathering them is everybody's work
                pass
        if self._distributed:
            dist.barrier()

    def close(self) -> None:
        """Do nothing: the servers live on."""

    def _ask(self, calls: Sequence[Call]) -> list[Any]:
        """Make all calls, those of different servers and up to `CONNECTIONS` of each side by side; return the
        answers in order.
        """
        answers: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        for url in dict.fromkeys(call.url for call in calls):
            mine: SimpleQueue[tuple[int, Call]] = SimpleQueue()
            for numbered in enumerate(calls):
                if numbered[1].url == url:
                    mine.put(numbered)
            for _ in range(min(CONNECTIONS, mine.qsize())):
                threading.Thread(target=_make_calls, args=(mine, answers, self._key), daemon=True).start()
        results: list[Any] = [None] * len(calls)
        for _ in calls:
            try:
                i, answer = answers.get(timeout=self.settings.timeout_s)
            except Empty:
                servers = ", ".join(dict.fromkeys(call.url for call in calls))
                message = (
                    f"rollout.timeout_s={self.settings.timeout_s}: no answer from {servers} for so long: "
                    "a hang, or not time enough"
                )
                raise TimeoutError(message) from None
            if isinstance(answer, BaseException):
                raise answer
            results[i] = answer
        return results


def _write(tensors: Iterator[tuple[str, Tensor]], directory: Path) -> None:
    """Write weights into files of `SHARD_BYTES` or little more, one after the other."""
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors:
        shard[name] = tensor.detach().cpu().clone().contiguous()
        if sum(value.nbytes for value in shard.values()) >= SHARD_BYTES:
            save_file(shard, directory / f"{name}.safetensors")
            shard = {}
    save_file(shard, directory / "rest.safetensors")


def _make_calls(
    calls: SimpleQueue[tuple[int, Call]], answers: SimpleQueue[tuple[int, Any]], key: str | None
) -> None:
    """Make calls until there are no more; put answers, or the exception that ended it."""
    while True:
        try:
            i, call = calls.get_nowait()
        except Empty:
            return
        try:
            answers.put((i, fetch(call, key)))
        except BaseException as error:
            answers.put((i, error))
            return


class WeightReceiver:
    """What a server's workers need to take weights: start it with `--worker-extension-cls
    llmzero.rollout.vllm_server.WeightReceiver`.
    """

    model_config: Any

    def take_weights(self, directory: str) -> None:
        """Load the weights that lie in a directory.

        Raises:
            ValueError: the server was started without `--logprobs-mode processed_logprobs`, or not all
                weights are there.
        """
        if self.model_config.logprobs_mode != "processed_logprobs":
            raise ValueError("start the server with --logprobs-mode processed_logprobs")
        reload(self, weights_path=directory)
