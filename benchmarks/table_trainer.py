"""A stage's trainer that also scores the test split at every validation, for tables."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.tree_growing import EXTRA, rounded
from llmzero.core.files import append_jsonl
from llmzero.grpo.trainer import Trainer


class TableTrainer(Trainer):
    """Trains as its base class does, to the same bits; notes test scores, and CPU seconds without them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._began = time.process_time()

    def _validate(self) -> None:
        super()._validate()
        seconds = time.process_time() - self._began
        test = self._evaluated("test")
        self._began += time.process_time() - self._began - seconds
        scores = {"test": round(test.score, 6), "test_stderr": rounded(test.stderr), "n": test.n}
        record = {"step": self.step, **scores, "seconds": round(seconds, 3)}
        append_jsonl(self.stage.path / EXTRA, [record])
