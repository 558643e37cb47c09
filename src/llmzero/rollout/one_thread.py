"""A thread that makes all calls to a library which keeps state by thread, as CUDA does with its streams."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class OneThread:
    """Makes one call after another in the same thread, which computes on the GPU that is ours now.

    Its caller waits for each, so that of the two threads one alone is at work.
    """

    def __init__(self) -> None:
        device = torch.cuda.current_device() if torch.cuda.is_available() else None
        self.busy = False
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, args=(device,), daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., T], *arguments: Any, timeout_s: float | None = None) -> T:
        """Return what the function returns in the thread, or raise what it raises.

        Raises:
            queue.Empty: it did not end in time. The thread is `busy` from then on.
        """
        answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._calls.put((function, arguments, answers))
        self.busy = True
        result, error = answers.get(timeout=timeout_s)
        self.busy = False
        if error is not None:
            raise error
        returned: T = result
        return returned

    def end(self) -> None:
        """Let the thread end when it has ended what it does."""
        self._calls.put(None)

    def _serve(self, device: int | None) -> None:
        if device is not None:
            torch.cuda.set_device(device)  # every thread has its own
        while (call := self._calls.get()) is not None:
            function, arguments, answers = call
            try:
                answers.put((function(*arguments), None))
            except BaseException as error:
                answers.put((None, error))
            del call, function, arguments, answers  # which hold weights while the next call is awaited
