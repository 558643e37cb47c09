"""Settings of the engines that sample completions. Nothing here needs torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmzero.core.errors import UserError
from llmzero.core.settings import REQUIRED, setting
from llmzero.rollout.vllm_key import VARIABLE


@dataclass
class TorchEngineSettings:
    """`rollout=torch`."""

    max_rows: int = setting(
        1024, "completions generated side by side; bounds the memory of the key-value cache", low=1
    )


@dataclass
class VllmEngineSettings:
    """`rollout=vllm`."""

    tensor_parallel: int = setting(
        1, "processes that share one copy of the model; the stage's, in groups by rank", low=1
    )
    gpu_memory_utilization: float = setting(
        0.4, "share of a GPU that is vLLM's while it samples, weights included", low=0.01, high=1
    )
    cpu_kv_cache_gib: float = setting(1.0, "size of the key-value cache where there is no GPU", low=0.01)
    max_model_len: int | None = setting(
        None, "longest prompt and completion together; null is what model and memory allow", low=1
    )
    max_num_seqs: int = setting(256, "completions generated side by side", low=1)
    enforce_eager: bool = setting(
        False, "no CUDA graphs: a quicker start, less memory, slower sampling; a CPU never has them"
    )
    timeout_s: float = setting(
        600.0, "longest wait for one step of the engine: a token for each running completion", low=1
    )


@dataclass
class VllmServerSettings:
    """`rollout=vllm_server`."""

    urls: list[str] = setting(
        REQUIRED, "the servers, e.g. [http://node7:8000]; prompts are dealt out in turn"
    )
    exchange_dir: str = setting(
        "runs/exchange",
        "trainer and servers see it under the same path; weights lie there while they are handed over",
    )
    timeout_s: float = setting(1800.0, "longest wait for the next answer of any server", low=1)
    api_key_env: str | None = setting(
        VARIABLE, "the environment variable with the servers' key; null: servers that anybody may command"
    )

    def __post_init__(self) -> None:
        """Refuse keys where they would be written to files.

        Raises:
            UserError: an address holds more than scheme, host, port and path, or a key stands in place of its
                variable's name.
        """
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.api_key_env or VARIABLE) or re.search(
            r"[0-9a-f]{24}", self.api_key_env or ""
        ):
            raise UserError(
                "rollout.api_key_env: must be the name of an environment variable, such as "
                f"{VARIABLE}, and not the key itself"
            )
        for number, url in enumerate(self.urls if isinstance(self.urls, list) else []):
            if not re.fullmatch(r"https?://[A-Za-z0-9._\[\]:-]+(/[A-Za-z0-9._~/-]*)?", url, re.ASCII):
                raise UserError(
                    f"rollout.urls[{number}]: must be like http://HOST:PORT; a key belongs into an "
                    "environment variable, which rollout.api_key_env names"
                )
