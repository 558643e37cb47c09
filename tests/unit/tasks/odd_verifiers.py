"""Verifiers that take long, eat memory, die or fail, as the stated answer says."""

from __future__ import annotations

import os
import time
from typing import Any

held: list[bytes] = []


def odd(stated: str, answer: str) -> Any:
    """Do what a text like `sleep 3` says; score anything else."""
    verb, _, amount = stated.partition(" ")
    if verb == "sleep":
        time.sleep(float(amount))
    if verb == "power":
        return float(int(amount) ** int(amount) ** int(amount))
    if verb == "hold":
        held.append(bytes(int(float(amount) * 2**20)))
        return 1.0
    if verb == "swallow":  # as libraries do that catch every exception
        try:
            bytes(int(float(amount) * 2**20))
        except MemoryError:
            return 0.0
        return 1.0
    if verb == "die":
        os._exit(1)
    if verb == "leave":
        raise SystemExit(3)
    if verb == "long":
        return "x" * int(amount)
    if verb == "process":
        return os.getpid()
    return float(stated == answer)
