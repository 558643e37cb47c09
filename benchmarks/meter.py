"""Seconds and memory of a turn of work, on a CPU or a GPU."""

from __future__ import annotations

import resource
import threading
import time

KIB, MIB = 2**10, 2**20
SAMPLING_S = 0.02  # between two samples of a GPU's memory


class Meter:
    """Measures the seconds and the memory of a turn; the first turn begins when the meter is made.

    On a GPU memory is that of all processes on the device, CUDA contexts included: `peak_mib` the most during
    the turn, `held_mib` at its end. On a CPU `peak_mib` is the peak of this process since its start,
    `held_mib` is 0.

    Args:
        shares_gpu: return torch's cached memory to the device at the end of each turn, for the other process.
    """

    def __init__(self, shares_gpu: bool) -> None:
        import torch

        self._cuda = torch.cuda if torch.cuda.is_available() else None
        self._shares_gpu = shares_gpu
        self.start()

    def start(self) -> None:
        """Begin a turn."""
        self._ended, self._peak = threading.Event(), 0.0
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        if self._cuda:
            self._sampler.start()
        self._started = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """End a turn and return its measurements."""
        if self._cuda:
            self._cuda.synchronize()
        spent = time.perf_counter() - self._started
        if not self._cuda:
            return {
                "seconds": spent,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB,
                "held_mib": 0.0,
            }
        self._ended.set()
        self._sampler.join()
        if self._shares_gpu:
            self._cuda.empty_cache()
        return {"seconds": spent, "peak_mib": self._peak, "held_mib": self._used()}

    def _sample(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(SAMPLING_S)
            self._peak = max(self._peak, self._used())

    def _used(self) -> float:
        assert self._cuda
        free, total = self._cuda.mem_get_info()
        return float(total - free) / MIB
